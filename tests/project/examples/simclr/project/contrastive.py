"""Contrastive learning without labels (SimCLR; Chen et al., 2020): two views of each image."""

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

import quartet


class Contrastive(quartet.Task):
    """Inputs are two views of each image, outputs their points; there are no targets."""

    def split(self, batch: Any) -> tuple[Any, Any, dict[str, Any]]:
        return batch, batch, {}

    def metadata(self, parts: Any) -> dict[str, Any]:
        return {"input_shape": list(parts.train[0][0].shape)}


class NTXent(nn.Module):
    """The cross-entropy of finding the other view of an image among all views of the batch.

    Args:
        temperature: By which cosines are divided.
    """

    def __init__(self, *, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, outputs: Tensor, targets: Any) -> dict[str, Tensor]:
        count = len(outputs)
        points = torch.cat(outputs.unbind(1))
        cosines = points @ points.T / self.temperature
        itself = torch.eye(2 * count, dtype=torch.bool, device=points.device)
        others = torch.arange(2 * count, device=points.device).roll(count)
        loss = cross_entropy(cosines.masked_fill(itself, -torch.inf), others)
        distance = (outputs[:, 0] - outputs[:, 1]).square().sum(1).mean()
        return {"loss": loss, "alignment": distance.detach()}


class Views(Dataset[Any]):
    """Two views of each image, standardized as ``data=digits`` is; others in each epoch.

    Args:
        images: ``(count, 1, height, width)`` in [0, 1].
        shift: Largest shift in pixels.
        noise: Standard deviation of the noise.
    """

    def __init__(self, images: Tensor, shift: int, noise: float) -> None:
        self.images, self.shift, self.noise = images, shift, noise

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.draw_view(index), self.draw_view(index)

    def draw_view(self, index: int) -> Tensor:
        down, across = torch.randint(-self.shift, self.shift + 1, (2,)).tolist()
        image = self.images[index].roll((down, across), (1, 2))
        return (image + self.noise * torch.randn(image.shape) - 0.305) / 0.376


def views(*, count: int, shift: int, noise: float) -> quartet.Parts:
    """Views of the first of scikit-learn's digits.

    Args:
        count: Number of images; a fifth each is for validation and for the test.
        shift: Largest shift in pixels.
        noise: Standard deviation of the noise.
    """
    images = torch.tensor(load_digits().images[:count], dtype=torch.float32).unsqueeze(1) / 16
    rows = quartet.split(count, val_fraction=0.2, test_fraction=0.2, split_seed=0)
    return quartet.Parts(*(Views(images[torch.from_numpy(part)], shift, noise) for part in rows))
