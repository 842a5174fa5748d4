"""Every picture of one run: what is drawn for which task, and where it goes."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from quartet.reports import classes, images, values
from quartet.reports.canvas import Canvas, forgiving, save, short
from quartet.reports.card import known_targets
from quartet.reports.curves import curves
from quartet.training.callbacks.predictions import PredictionCollector

if TYPE_CHECKING:
    from quartet.build import Run

Draw = Callable[[], Canvas | None]


def of_training(run: "Run", seen: PredictionCollector) -> list[Path]:
    """Draws what a finished run is known by, into its directory and its TensorBoard.

    Args:
        run: Trained.
        seen: Predictions of its best checkpoint.
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
    drawn |= of_predictions(run, seen)
    drawn["curves"] = partial(curves, directory)
    return write(drawn, directory, boards=boards)


def of_evaluation(run: "Run", seen: PredictionCollector, file: Path) -> list[Path]:
    """Draws the predictions of an evaluation beside the file of its figures, whose name they bear."""
    return write(of_predictions(run, seen), file.parent, f"{file.stem}-")


def write(
    drawn: Mapping[str, Draw | None],
    directory: Path,
    prefix: str = "",
    boards: Sequence[tuple[str, int]] = (),
) -> list[Path]:
    """Draws each picture that can be drawn; a fault costs the picture, never the run.

    Args:
        drawn: By name.
        directory: Of the files.
        prefix: Of their names.
        boards: Directories of TensorBoards that show them, too, and the step.

    Returns:
        The files.
    """
    made = {directory / f"{prefix}{name}.png": draw for name, draw in drawn.items() if draw}
    save(made, boards)
    return [path for path in made if path.exists()]


def of_predictions(run: "Run", seen: PredictionCollector) -> dict[str, Draw | None]:
    """The pictures that suit the task, by name."""
    if seen.part is None:
        return {}
    task, names = run.config["data"]["task"], names_of(run)
    predictions, labels = seen.predictions, seen.labels
    drawn: dict[str, Draw | None] = {}
    if task == "ranking":
        top = (run.config["metrics"].get("ndcg") or {}).get("top_k")
        return {"predictions": partial(values.orders, predictions, labels, seen.queries, top)}
    if task == "regression":
        drawn["predictions"] = partial(values.scatter, predictions, labels, names)
    else:
        drawn["confusion"] = partial(
            classes.mistakes, task, predictions, labels, names, which(seen)
        )
        drawn["predictions"] = partial(classes.quality, task, predictions, labels, names)
    if images.are_images(run.config["data"]["input_shape"]):
        with forgiving(run.directory / "worst.png"):
            drawn["worst"] = worst(run, seen, names)
    return drawn


def names_of(run: "Run") -> list[str]:
    """Of the classes, labels or outputs."""
    data = run.config["data"]
    count = 2 if data["task"] == "binary" else data["num_outputs"]
    return list(run.data.parts.class_names or map(str, range(count)))


def which(seen: PredictionCollector) -> str:
    """The samples of a picture, for its title."""
    return f"{seen.part} samples" + (f", one in {seen.step} of all" if seen.step > 1 else "")


def worst(run: "Run", seen: PredictionCollector, names: Sequence[str]) -> Draw | None:
    """The images that were got most wrong; None if there are none."""
    assert seen.part
    found = images.worst(run.config["data"]["task"], seen.predictions, seen.labels, names)
    if not found:
        return None
    dataset: Any = getattr(run.data.parts, seen.part)
    tiles = images.read(dataset, [int(seen.rows[i]) for i, _ in found])
    title = f"Most wrong of the {which(seen)}"
    if run.config["data"]["task"] != "regression":
        title += ", probabilities in brackets"
    return partial(images.captioned, tiles, [caption for _, caption in found], title)


def samples(run: "Run") -> Draw | None:
    """Training images as they are stored: a row for each class, or one of each of many classes."""
    shape, task = run.config["data"]["input_shape"], run.config["data"]["task"]
    if not images.are_images(shape):
        return None
    dataset, names = run.data.parts.train, names_of(run)
    count = len(dataset)  # type: ignore[arg-type]
    random = torch.Generator().manual_seed(0)
    rows = torch.randperm(count, generator=random).tolist() if count < 1 << 20 else range(4096)
    targets = known_targets(dataset)
    if targets is None or task not in ("multiclass", "binary"):
        tiles = images.read(dataset, rows[: 4 * images.ACROSS])
        return partial(images.captioned, tiles, [""] * len(tiles), "Training samples")
    labels = targets.flatten().long().tolist()
    of_class: list[list[int]] = [[] for _ in names]
    each = 8 if len(names) <= images.CLASSES else 1
    for row in rows:
        if len(of_class[labels[row]]) < each:
            of_class[labels[row]].append(row)
    if each > 1:
        tiles = images.read(dataset, [row for some in of_class for row in some])
        parts = np.split(tiles, np.cumsum([len(some) for some in of_class])[:-1])
        return partial(images.by_class, parts, [short(name) for name in names], "Training samples")
    shown = [(some[0], short(name, 14)) for some, name in zip(of_class, names, strict=True) if some]
    shown = shown[: 8 * images.ACROSS]
    tiles = images.read(dataset, [row for row, _ in shown])
    return partial(images.captioned, tiles, [name for _, name in shown], "Training samples")
