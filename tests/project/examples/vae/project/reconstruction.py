"""Images without labels: a model gives them back."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor

import quartet


class Reconstruction(quartet.Task):
    """Inputs are their own targets; outputs are a dict with ``reconstructions``."""

    def predictions(self, outputs: Mapping[str, Tensor]) -> Tensor:
        return outputs["reconstructions"]

    def figures(
        self, collected: Any, names: Sequence[str], metrics: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {"reconstructions": partial(draw, collected.labels[:8], collected.predictions[:8])}


def draw(images: Any, reconstructions: Any) -> Figure:
    """Images above their reconstructions."""
    figure = Figure(figsize=(len(images), 2.2), layout="constrained")
    axes = figure.subplots(2, len(images), squeeze=False)
    for row, tiles in enumerate((images, reconstructions)):
        for column, tile in enumerate(tiles):
            axes[row, column].imshow(tile[0], cmap="gray", vmin=0, vmax=1)
            axes[row, column].set_axis_off()
    return figure


def unlabelled_digits(*, count: int) -> quartet.Parts:
    """The first of scikit-learn's digits, float32 ``(count, 1, 8, 8)`` in [0, 1].

    Args:
        count: Number of images; a fifth each is for validation and for the test.
    """
    images = torch.tensor(load_digits().images[:count], dtype=torch.float32).unsqueeze(1) / 16
    rows = quartet.split(count, val_fraction=0.2, test_fraction=0.2, split_seed=0)
    return quartet.Parts(*(quartet.Tensors(images[torch.from_numpy(part)]) for part in rows))
