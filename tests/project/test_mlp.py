"""The multilayer perceptron: its formula, its layers, the arguments that it refuses."""

from typing import Any

import pytest
import torch
from made import rejections
from torch import nn
from torch.nn import functional

from project.model.mlp import MLP


def mlp(**overrides: Any) -> MLP:
    settings: dict[str, Any] = {
        "hidden": [5, 7],
        "activation": "relu",
        "dropout": 0,
        "norm": "none",
    }
    return MLP(input_shape=[2, 3], num_outputs=4, **(settings | overrides))


def test_mlp_equals_the_formula() -> None:
    model = mlp(hidden=[5], activation="tanh")
    inputs = torch.randn(8, 2, 3)
    first, last = model.layers[0], model.layers[2]
    hidden = torch.tanh(inputs.reshape(8, 6) @ first.weight.T + first.bias)
    assert torch.allclose(model(inputs), hidden @ last.weight.T + last.bias, atol=1e-6)


def test_mlp_names_its_layers_in_order() -> None:
    names = [f"layers.{number}.{kind}" for number in (0, 2, 4) for kind in ("weight", "bias")]
    assert [name for name, _ in mlp().named_parameters()] == names


def test_mlp_without_hidden_layers_is_linear() -> None:
    torch.manual_seed(0)
    model = mlp(hidden=[])
    torch.manual_seed(0)
    assert torch.equal(model.layers[0].weight, nn.Linear(6, 4).weight)
    assert len(model.layers) == 1


@pytest.mark.parametrize(("norm", "kind"), [("batch", nn.BatchNorm1d), ("layer", nn.LayerNorm)])
def test_mlp_norm_stands_before_the_activation(norm: str, kind: type[nn.Module]) -> None:
    kinds = [type(layer) for layer in mlp(hidden=[5], norm=norm, dropout=0.5).layers]
    assert kinds == [nn.Linear, kind, nn.ReLU, nn.Dropout, nn.Linear]


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("elu", functional.elu),
        ("gelu", functional.gelu),
        ("leaky_relu", functional.leaky_relu),
        ("mish", functional.mish),
        ("relu", functional.relu),
        ("selu", functional.selu),
        ("sigmoid", torch.sigmoid),
        ("silu", functional.silu),
        ("softplus", functional.softplus),
        ("tanh", torch.tanh),
    ],
)
def test_mlp_activation_is_torchs_function_of_that_name(activation: str, function: Any) -> None:
    values = torch.linspace(-3, 3, 13)
    assert torch.equal(mlp(activation=activation).layers[1](values), function(values))


test_mlp_refuses = rejections(
    lambda overrides: mlp(**overrides),
    ({"activation": "rely"}, r"activation must be one of elu, gelu, .*tanh, got rely"),
    ({"norm": "group"}, r"norm must be one of none, batch, layer, got group"),
    ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0; 0 is no dropout"),
    ({"hidden": [8, 0]}, r"hidden must hold widths of at least 1, got \[8, 0\]; \[\] is a linear"),
)
