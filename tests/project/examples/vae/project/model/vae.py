"""A variational autoencoder (Kingma and Welling, 2014) with Gaussian pixels."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class VAE(nn.Module):
    """Images ``(batch, *input_shape)`` -> a dict of reconstructions, codes and losses.

    In training a code is drawn from its distribution, in evaluation it is the mean of that.

    Args:
        input_shape: Of one image.
        hidden: Units of the hidden layers.
        codes: Numbers of a code.
        beta: Weight of the divergence from the prior (Higgins et al., 2017).
    """

    def __init__(self, *, input_shape: Sequence[int], hidden: int, codes: int, beta: float) -> None:
        super().__init__()
        self.beta = beta
        pixels = math.prod(input_shape)
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 2 * codes)
        )
        self.decoder = nn.Sequential(
            nn.Linear(codes, hidden),
            nn.ReLU(),
            nn.Linear(hidden, pixels),
            nn.Unflatten(1, list(input_shape)),
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        mean, log_variance = self.encoder(images).chunk(2, 1)
        codes = mean
        if self.training:
            codes = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        reconstructions = self.decoder(codes)
        error = (reconstructions - images).square().flatten(1).sum(1).mean()
        divergence = (log_variance.exp() + mean.square() - 1 - log_variance).sum(1).mean() / 2
        return {
            "reconstructions": reconstructions,
            "codes": mean,
            "loss": error + self.beta * divergence,
            "error": error,
            "divergence": divergence,
        }
