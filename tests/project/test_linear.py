"""The linear model."""

import torch

from project.model.linear import Linear


def test_linear_is_the_affine_map_of_the_flattened_input() -> None:
    model = Linear(input_shape=[2, 3], num_outputs=4)
    inputs = torch.randn(5, 2, 3)
    expected = inputs.reshape(5, 6) @ model.layer.weight.T + model.layer.bias
    assert torch.allclose(model(inputs), expected, atol=1e-6)
