"""A small convolutional network."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class CNN(nn.Module):
    """Blocks of 3x3 convolution, ReLU and 2x2 max-pooling, and a linear layer on what is left.

    Every block halves the height and the width, rounding down.

    Args:
        input_shape: (channels, height, width) of one image.
        num_outputs: Raw outputs per image.
        channels: Output channels of each block.
        dropout: Probability to zero an input of the linear layer in training, in [0, 1).

    Shape:
        inputs ``(batch, *input_shape)`` -> ``(batch, num_outputs)``.

    Raises:
        ValueError: The inputs are no images, or too small to be halved in every block, or
            ``channels`` or ``dropout`` is out of range.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_outputs: int,
        channels: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise ValueError(
                "input_shape must be (channels, height, width) for convolutions, got "
                f"{tuple(input_shape)}; model=mlp takes any shape."
            )
        if any(width < 1 for width in channels):
            raise ValueError(
                f"channels must hold numbers of at least 1, got {list(channels)}; "
                "[16, 32] makes two blocks."
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}; 0 is no dropout.")
        inputs, height, width = input_shape
        rest = (height >> len(channels)) * (width >> len(channels))
        if rest == 0:
            raise ValueError(
                f"channels={list(channels)} halves images of {height}x{width} until nothing is "
                "left; take fewer blocks."
            )
        widths = [inputs, *channels]
        blocks: list[nn.Module] = []
        for inner, outer in pairwise(widths):
            blocks += [nn.Conv2d(inner, outer, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1] * rest, num_outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.dropout(self.features(inputs).flatten(1)))
        return outputs
