"""A network with two inputs and two outputs."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class TwoHeads(nn.Module):
    """A dict of ``image`` and ``profile`` -> a dict of ``digit`` (logits) and ``ink`` (values).

    Args:
        hidden: Units of each hidden layer.
        dropout: Probability to zero a hidden unit in training, in [0, 1).
    """

    def __init__(self, *, hidden: int, dropout: float) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden))
        self.profile = nn.Linear(8, hidden)
        self.shared = nn.Sequential(
            nn.ReLU(), nn.Dropout(dropout), nn.Linear(2 * hidden, hidden), nn.ReLU()
        )
        self.digit = nn.Linear(hidden, 10)
        self.ink = nn.Linear(hidden, 1)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        parts = [self.image(inputs["image"]), self.profile(inputs["profile"])]
        shared = self.shared(torch.cat(parts, 1))
        return {"digit": self.digit(shared), "ink": self.ink(shared).squeeze(1)}
