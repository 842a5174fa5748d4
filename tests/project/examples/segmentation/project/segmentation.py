"""Semantic segmentation: made images of shapes, a class for each pixel."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot
from torch.utils.data import TensorDataset

import quartet

CLASSES = ("background", "disc", "square")


class Segmentation(quartet.Task):
    """Outputs are logits ``(batch, classes, height, width)``, targets classes ``(batch, height, width)``."""

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(1)

    def figures(
        self, collected: Any, names: Sequence[str], metrics: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {"masks": partial(draw_masks, collected.predictions[:6], collected.labels[:6])}


def draw_masks(predictions: Any, labels: Any) -> Figure:
    """True masks above predicted ones."""
    figure = Figure(figsize=(len(labels), 2.2), layout="constrained")
    axes = figure.subplots(2, len(labels), squeeze=False)
    for row, (title, masks) in enumerate({"true": labels, "predicted": predictions}.items()):
        for column, mask in enumerate(masks):
            axes[row, column].imshow(mask, vmin=0, vmax=len(CLASSES) - 1)
            axes[row, column].set(xticks=[], yticks=[])
        axes[row, 0].set_ylabel(title)
    return figure


class CrossEntropyDice(nn.Module):
    """Cross-entropy plus the Dice loss (Milletari et al., 2016), the mean over the classes.

    Args:
        dice_weight: Of the Dice loss.
    """

    def __init__(self, *, dice_weight: float) -> None:
        super().__init__()
        self.dice_weight = dice_weight

    def forward(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        entropy = cross_entropy(outputs, targets)
        probabilities = outputs.softmax(1)
        truth = one_hot(targets, outputs.shape[1]).movedim(-1, 1)
        overlap = (probabilities * truth).sum((0, 2, 3))
        total = (probabilities + truth).sum((0, 2, 3))
        dice = 1 - ((2 * overlap + 1) / (total + 1)).mean()
        return {
            "loss": entropy + self.dice_weight * dice,
            "cross_entropy": entropy,
            "dice": dice,
        }


def shapes(*, count: int, size: int, mirror: bool, seed: int) -> quartet.Parts:
    """Discs and squares on noise: uint8 images ``(count, 1, size, size)``.

    Args:
        count: Number of images; a fifth each is for validation and for the test.
        size: Height and width.
        mirror: Whether to mirror half of the training images, others in each epoch, with their masks.
        seed: Of the flips.
    """
    random = torch.Generator().manual_seed(0)
    place = torch.rand(count, 2, 2, 1, 1, generator=random) * size  # of a disc and of a square
    down, across = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    disc = (down - place[:, 0, 0]) ** 2 + (across - place[:, 0, 1]) ** 2 < (size / 4) ** 2
    square = (
        torch.maximum((down - place[:, 1, 0]).abs(), (across - place[:, 1, 1]).abs()) < size / 5
    )
    masks = torch.where(square, 2, disc.long())
    noise = torch.rand(count, 1, size, size, generator=random) * 120
    images = (noise + 60 * masks[:, None]).to(torch.uint8)
    rows = quartet.split(count, val_fraction=0.2, test_fraction=0.2, split_seed=0)
    train, val, test = (
        TensorDataset(images[torch.from_numpy(part)], masks[torch.from_numpy(part)])
        for part in rows
    )
    augment = partial(flip_both, seed=seed) if mirror else None
    return quartet.Parts(train, val, test, class_names=CLASSES, augment=augment)


def flip_both(batch: Any, rows: Tensor, epoch: int, *, seed: int) -> Any:
    """Mirrors images and masks together."""
    images, masks = batch
    mirrored = (quartet.draw(rows, seed=seed, epoch=epoch, stream=0) & 1).bool()
    images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    return images, torch.where(mirrored[:, None, None], masks.flip(-1), masks)
