"""Object detection: made images of discs and squares, each with its box."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from torch.utils.data import Dataset

import quartet
from project.module import Module

CLASSES = ("disc", "square")
Boxes = dict[
    str, Tensor
]  # boxes (count, 4) as x1, y1, x2, y2; labels (count,); scores if predicted


class Detection(quartet.Task):
    """Inputs are a list of images, targets and predictions a list of `Boxes`, an item for each image."""

    def target_columns(self, labels: Sequence[Boxes], names: Sequence[str]) -> dict[str, Any]:
        return {"target": [spell(each, names) for each in labels]}

    def prediction_columns(self, predictions: Sequence[Boxes], names: Sequence[str]) -> Any:
        return {"prediction": [spell(each, names) for each in predictions]}

    def figures(
        self, collected: Any, names: Sequence[str], metrics: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {"boxes": partial(draw_boxes, collected.predictions[:6], collected.labels[:6])}


def spell(boxes: Boxes, names: Sequence[str]) -> str:
    """Boxes as text: ``disc 3 4 10 12; square 1 2 9 11``."""
    corners = boxes["boxes"].round().int().tolist()
    pairs = zip(boxes["labels"].tolist(), corners, strict=True)
    return "; ".join(f"{names[label]} {' '.join(map(str, box))}" for label, box in pairs)


def draw_boxes(predictions: Sequence[Any], labels: Sequence[Any]) -> Figure:
    """True boxes in black, predicted ones in red."""
    figure = Figure(figsize=(2 * len(labels), 2), layout="constrained")
    axes = figure.subplots(1, len(labels), squeeze=False)[0]
    for panel, predicted, true in zip(axes, predictions, labels, strict=True):
        for boxes, color in ((true, "black"), (predicted, "red")):
            for left, top, right, bottom in boxes["boxes"]:
                corner, size = (left, top), (right - left, bottom - top)
                panel.add_patch(Rectangle(corner, *size, fill=False, color=color))
        panel.set(xlim=(0, 32), ylim=(32, 0), aspect="equal", xticks=[], yticks=[])
    return figure


class DetectionModule(Module):
    """The model gives losses in training and boxes in evaluation, so that there is no ``val/loss``."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, targets, _ = self.task.split(batch)
        losses = self.model(images, targets)
        losses["loss"] = sum(losses.values())
        self.record("train", losses, size=len(images))
        return losses["loss"]

    def evaluate(self, stage: str, batch: Any) -> Any:
        images, targets, _ = self.task.split(batch)
        predictions = self.model(images)
        self.record(stage, None, predictions, targets)
        return predictions


class Shapes(Dataset[Any]):
    """Images ``(1, height, width)`` of several sizes in [0, 1], each with one or two shapes.

    Args:
        rows: Numbers of the images.
    """

    def __init__(self, rows: Sequence[int]) -> None:
        self.samples = [make_sample(int(row)) for row in rows]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Boxes]:
        return self.samples[index]


def make_sample(row: int) -> tuple[Tensor, Boxes]:
    random = torch.Generator().manual_seed(row)
    height, width = torch.randint(24, 33, (2,), generator=random).tolist()
    image = torch.rand(1, height, width, generator=random) * 0.3
    down, across = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    boxes, labels = [], []
    for _ in range(1 + row % 2):
        radius, label = (
            int(torch.randint(*ends, (), generator=random)) for ends in ((4, 6), (0, 2))
        )
        y, x = (int(torch.randint(6, side - 6, (), generator=random)) for side in (height, width))
        distances = (down - y).abs(), (across - x).abs()
        inside = torch.maximum(*distances) <= radius
        if label == 0:
            inside = distances[0] ** 2 + distances[1] ** 2 <= radius**2
        image[0, inside] += 0.6
        boxes.append([x - radius, y - radius, x + radius + 1, y + radius + 1])
        labels.append(label)
    return image.clamp(max=1), {
        "boxes": torch.tensor(boxes).float(),
        "labels": torch.tensor(labels),
    }


def shapes_and_boxes(*, count: int) -> quartet.Parts:
    """The made images.

    Args:
        count: Number of images; a fifth each is for validation and for the test.
    """
    rows = quartet.split(count, val_fraction=0.2, test_fraction=0.2, split_seed=0)
    return quartet.Parts(*map(Shapes, rows), class_names=CLASSES, collate=collate)


def collate(samples: list[tuple[Tensor, Boxes]]) -> tuple[list[Tensor], list[Boxes]]:
    """A list of images and a list of boxes: images of different sizes cannot be stacked."""
    images, boxes = zip(*samples, strict=True)
    return list(images), list(boxes)
