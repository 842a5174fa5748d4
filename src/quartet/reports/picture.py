"""The pictures of one run: which are drawn, and where they are written."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from quartet.core.messages import cut
from quartet.data.task import find_task
from quartet.reports import classes, images, values
from quartet.reports.canvas import Canvas, forgiving, save
from quartet.reports.curves import curves
from quartet.training.callbacks.predictions import PredictionCollector

if TYPE_CHECKING:
    from quartet.build import Run

Draw = Callable[[], Canvas | None]


def draw_training(run: "Run", collector: PredictionCollector) -> list[Path]:
    """Draws the pictures of a finished run into its directory and its TensorBoard.

    Args:
        run: Trained.
        collector: Predictions of its best checkpoint.
    """
    directory = run.directory
    boards = [
        (logger.log_dir, run.trainer.global_step)
        for logger in run.trainer.loggers
        if isinstance(logger, TensorBoardLogger)
    ]
    drawn: dict[str, Draw | None] = {}
    with forgiving(directory / "samples.png"):
        drawn["samples"] = samples(run)
    drawn |= draw_predictions(run, collector)
    drawn["curves"] = partial(curves, directory)
    return write(drawn, directory, boards=boards)


def draw_evaluation(run: "Run", collector: PredictionCollector, file: Path) -> list[Path]:
    """Draws the predictions of an evaluation beside the file of its figures, named after it."""
    return write(draw_predictions(run, collector), file.parent, f"{file.stem}-")


def write(
    drawn: Mapping[str, Draw | None],
    directory: Path,
    prefix: str = "",
    boards: Sequence[tuple[str, int]] = (),
) -> list[Path]:
    """Draws each picture that can be drawn; an error costs the picture, never the run.

    Args:
        drawn: Drawing functions by the name of the picture.
        directory: Directory of the files.
        prefix: Prefix of their names.
        boards: Directories of TensorBoards that show them, too, and the step.

    Returns:
        The files.
    """
    made = {directory / f"{prefix}{name}.png": draw for name, draw in drawn.items() if draw}
    save(made, boards)
    return [path for path in made if path.exists()]


def draw_predictions(run: "Run", collector: PredictionCollector) -> dict[str, Draw | None]:
    """Drawing functions of the pictures that the task has of predictions, by name."""
    if collector.part is None:
        return {}
    task: Any = run.module.task
    names = task.names(run.data.metadata())
    drawn: dict[str, Draw | None] = {}
    with forgiving(run.directory / "predictions.png"):
        figures = task.figures(collector, names, run.config["metrics"])
        for name, (function, *arguments) in figures.items():
            room = classes if hasattr(classes, function) else values
            drawn[name] = partial(getattr(room, function), *arguments)
    if images.are_images(run.config["data"]["input_shape"]):
        with forgiving(run.directory / "worst.png"):
            drawn["worst"] = most_wrong(run, collector, names)
    return drawn


def most_wrong(run: "Run", collector: PredictionCollector, names: Sequence[str]) -> Draw | None:
    """The images with the largest errors; None if there are none."""
    assert collector.part
    task: Any = run.module.task
    found = task.most_wrong(collector.predictions, collector.labels, names, images.WORST)
    if not found:
        return None
    dataset: Any = getattr(run.data.parts, collector.part)
    tiles = images.read(dataset, [int(collector.rows[i]) for i, _ in found])
    title = f"Most wrong of the {collector.describe()}"
    if task.has_probabilities:
        title += ", probabilities in brackets"
    return partial(images.captioned, tiles, [caption for _, caption in found], title)


def samples(run: "Run") -> Draw | None:
    """Training images as they are stored: a row for each class, or one of each of many classes."""
    kind = find_task(run.config["data"]["task"])
    if not images.are_images(run.config["data"]["input_shape"]):
        return None
    dataset, names = run.data.parts.train, kind.names(run.data.metadata())
    count = len(dataset)  # type: ignore[arg-type]
    random = torch.Generator().manual_seed(0)
    rows = torch.randperm(count, generator=random).tolist() if count < 1 << 20 else range(4096)
    tensors = images.known_tensors(dataset)
    if not tensors or not kind.has_classes:
        tiles = images.read(dataset, rows[: 4 * images.ACROSS])
        return partial(images.captioned, tiles, [""] * len(tiles), "Training samples")
    labels = tensors[0].flatten().long().tolist()
    of_class: list[list[int]] = [[] for _ in names]
    each = 8 if len(names) <= images.CLASSES else 1
    for row in rows:
        if len(of_class[labels[row]]) < each:
            of_class[labels[row]].append(row)
    if each > 1:
        tiles = images.read(dataset, [row for some in of_class for row in some])
        parts = np.split(tiles, np.cumsum([len(some) for some in of_class])[:-1])
        return partial(images.by_class, parts, [cut(name) for name in names], "Training samples")
    shown = [(some[0], cut(name, 14)) for some, name in zip(of_class, names, strict=True) if some]
    shown = shown[: 8 * images.ACROSS]
    tiles = images.read(dataset, [row for row, _ in shown])
    return partial(images.captioned, tiles, [name for _, name in shown], "Training samples")
