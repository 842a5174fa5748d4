"""An encoder of images, with a projector for contrastive learning or a linear classifier on top."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def encoder(channels: int, width: int) -> nn.Sequential:
    """Images ``(batch, channels, height, width)`` -> features ``(batch, 2 * width)``."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


class Contrastive(nn.Module):
    """Two views of each image -> points on the unit sphere, ``(batch, 2, dimensions)``.

    Args:
        channels: Channels of an image.
        width: Channels of the first layer; the second has twice as many.
        dimensions: Numbers of a point.
    """

    def __init__(self, *, channels: int, width: int, dimensions: int) -> None:
        super().__init__()
        self.encoder = encoder(channels, width)
        self.projector = nn.Sequential(
            nn.Linear(2 * width, 2 * width), nn.ReLU(), nn.Linear(2 * width, dimensions)
        )

    def forward(self, views: Sequence[Tensor]) -> Tensor:
        points = self.projector(self.encoder(torch.cat(list(views))))
        return torch.stack(nn.functional.normalize(points, dim=1).chunk(2), dim=1)


class Probe(nn.Module):
    """Images -> logits ``(batch, num_outputs)``, linear in the features of the encoder.

    Args:
        input_shape: Of one image.
        num_outputs: Number of classes.
        width: Channels of the first layer of the encoder.
    """

    def __init__(self, *, input_shape: Sequence[int], num_outputs: int, width: int) -> None:
        super().__init__()
        self.encoder = encoder(input_shape[0], width)
        self.head = nn.Linear(2 * width, num_outputs)

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.encoder(images))
        return outputs
