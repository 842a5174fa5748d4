"""A U-Net of two levels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class UNet(nn.Module):
    """Images ``(batch, channels, height, width)`` -> logits ``(batch, classes, height, width)``.

    Args:
        input_shape: (channels, height, width) of an image.
        num_classes: Classes of a pixel.
        width: Channels of the first level; the second has twice as many.
        dropout: Probability to zero a channel of the second level in training, in [0, 1).
    """

    def __init__(
        self, *, input_shape: Sequence[int], num_classes: int, width: int, dropout: float
    ) -> None:
        super().__init__()
        self.encoder = block(input_shape[0], width)
        self.bottom = nn.Sequential(block(width, 2 * width), nn.Dropout2d(dropout))
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.decoder = block(2 * width, width)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        skipped = self.encoder(images)
        below = self.bottom(nn.functional.max_pool2d(skipped, 2))
        outputs: Tensor = self.head(self.decoder(torch.cat([skipped, self.up(below)], 1)))
        return outputs
