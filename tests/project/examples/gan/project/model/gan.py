"""A generator of points and their discriminator (Goodfellow et al., 2014)."""

import torch
from torch import Tensor, nn


class GAN(nn.Module):
    """Points ``(batch, 2)`` -> logits ``(batch, 1)`` of whether they are real.

    Args:
        hidden: Units of the hidden layers.
        codes: Numbers of a code, of which a point is made.
    """

    def __init__(self, *, hidden: int, codes: int) -> None:
        super().__init__()
        self.codes = codes
        self.generator = nn.Sequential(nn.Linear(codes, hidden), nn.ReLU(), nn.Linear(hidden, 2))
        self.discriminator = nn.Sequential(
            nn.Linear(2, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1)
        )

    def forward(self, points: Tensor) -> Tensor:
        logits: Tensor = self.discriminator(points)
        return logits

    def generate(self, count: int, seed: int | None = None) -> Tensor:
        """Points of random codes, ``(count, 2)``; with a seed always the same codes."""
        device = next(self.parameters()).device
        random = None if seed is None else torch.Generator().manual_seed(seed)
        codes = torch.randn(count, self.codes, generator=random)
        points: Tensor = self.generator(codes.to(device))
        return points
