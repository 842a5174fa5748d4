"""A multilayer perceptron."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "mish": nn.Mish,
    "relu": nn.ReLU,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}
_NORMS: dict[str, type[nn.Module]] = {
    "none": nn.Identity,
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
}


class MLP(nn.Module):
    """Fully connected layers on flattened inputs.

    A hidden layer is linear, norm, activation, dropout, in this order; what is switched off leaves
    no layer behind. The last layer is linear.

    Args:
        input_shape: Shape of one input, without the batch.
        num_outputs: Raw outputs per input.
        hidden: Widths of the hidden layers; none makes a linear model.
        activation: Name of torch's activation in lower case, e.g. ``relu`` or ``leaky_relu``.
        dropout: Probability to zero a hidden value in training, in [0, 1).
        norm: ``batch``, ``layer`` or ``none``.

    Shape:
        inputs ``(batch, *input_shape)`` -> ``(batch, num_outputs)``.

    Raises:
        ValueError: ``hidden``, ``activation``, ``dropout`` or ``norm`` is out of range.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_outputs: int,
        hidden: Sequence[int],
        activation: str,
        dropout: float,
        norm: str,
    ) -> None:
        super().__init__()
        for name, value, table in (
            ("activation", activation, _ACTIVATIONS),
            ("norm", norm, _NORMS),
        ):
            if value not in table:
                raise ValueError(f"{name} must be one of {', '.join(table)}, got {value}.")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}; 0 is no dropout.")
        if any(width < 1 for width in hidden):
            raise ValueError(
                f"hidden must hold widths of at least 1, got {list(hidden)}; [] is a linear model."
            )
        widths = [math.prod(input_shape), *hidden]
        layers: list[nn.Module] = []
        for inner, outer in pairwise(widths):
            layers.append(nn.Linear(inner, outer))
            if norm != "none":
                layers.append(_NORMS[norm](outer))
            layers.append(_ACTIVATIONS[activation]())
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
        layers.append(nn.Linear(widths[-1], num_outputs))
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layers(inputs.flatten(1))
        return outputs
