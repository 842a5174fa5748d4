"""A linear model."""

import math
from collections.abc import Sequence

from torch import Tensor, nn


class Linear(nn.Module):
    """One linear layer on flattened inputs: logistic or linear regression, as the loss has it.

    Args:
        input_shape: Shape of one input, without the batch.
        num_outputs: Raw outputs per input.

    Shape:
        inputs ``(batch, *input_shape)`` -> ``(batch, num_outputs)``.
    """

    def __init__(self, *, input_shape: Sequence[int], num_outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(math.prod(input_shape), num_outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layer(inputs.flatten(1))
        return outputs
