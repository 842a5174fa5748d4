"""The pictures of one run: which are drawn, and where they are written; sheets of images."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset, TensorDataset

from quartet.core.messages import cut
from quartet.data.task import StandardTask, create_task, known_targets
from quartet.reports import drawings
from quartet.reports.canvas import DPI, STYLE, Canvas, add_to_board, forgiving, text_width
from quartet.training.callbacks.predictions import PredictionCollector

if TYPE_CHECKING:
    from quartet.build import Run

Array = NDArray[Any]
Draw = Callable[[], Canvas | Figure]
TILE = 0.85  # inches
WORST, ACROSS, CLASSES = 14, 7, 12


def draw_training(run: "Run", collector: PredictionCollector) -> list[Path]:
    """Draws the pictures of a finished run into its directory and its TensorBoard.

    Args:
        run: Trained.
        collector: Predictions of its best checkpoint.
    """
    directory = run.directory
    loggers = run.trainer.loggers
    boards = [logger.log_dir for logger in loggers if isinstance(logger, TensorBoardLogger)]
    drawn: dict[str, Draw | None] = {}
    with forgiving(directory / "samples.png"):
        drawn["samples"] = samples(run)
    drawn |= draw_predictions(run, collector)
    drawn["curves"] = partial(drawings.learning_curves, directory)
    return save(drawn, directory, boards=boards, step=run.trainer.global_step)


def draw_evaluation(run: "Run", collector: PredictionCollector, file: Path) -> list[Path]:
    """Draws the predictions of an evaluation beside the file of its figures, named after it."""
    return save(draw_predictions(run, collector), file.parent, f"{file.stem}-")


def save(
    drawn: Mapping[str, Draw | None],
    directory: Path,
    prefix: str = "",
    boards: Sequence[str] = (),
    step: int = 0,
) -> list[Path]:
    """Draws each picture that can be drawn; an error costs the picture, never the run.

    Args:
        drawn: Drawing functions by the name of the picture.
        directory: Directory of the files.
        prefix: Prefix of their names.
        boards: Directories of TensorBoards that show them, too.
        step: Their step there.

    Returns:
        The files.
    """
    paths = {directory / f"{prefix}{name}.png": draw for name, draw in drawn.items() if draw}
    for path, draw in paths.items():
        with forgiving(path):
            made = draw()
            if isinstance(made, Canvas):
                made.save(path)
            else:
                made.savefig(path, dpi=DPI)
    saved = [path for path in paths if path.exists()]
    for board in boards:
        with forgiving(Path(board)):
            add_to_board(board, saved, step)
    return saved


def draw_predictions(run: "Run", collector: PredictionCollector) -> dict[str, Draw | None]:
    """Drawing functions of the pictures that the task has of predictions, by name."""
    if collector.part is None:
        return {}
    task: Any = run.module.task
    names = task.names(run.data.metadata())
    drawn: dict[str, Draw | None] = {}
    with forgiving(run.directory / "predictions.png"):
        figures = task.figures(collector, names, run.config["metrics"])
        for name, drawing in figures.items():
            if callable(drawing):  # of a project's own task
                drawn[name] = drawing
            else:
                function, *arguments = drawing
                drawn[name] = partial(getattr(drawings, function), *arguments)
    if are_images(run.config["data"]["input_shape"]) and isinstance(task, StandardTask):
        with forgiving(run.directory / "worst.png"):
            drawn["worst"] = most_wrong(run, collector, names)
    return drawn


def most_wrong(run: "Run", collector: PredictionCollector, names: Sequence[str]) -> Draw | None:
    """The images with the largest errors; None if there are none."""
    assert collector.part
    task: Any = run.module.task
    found = task.most_wrong(collector.predictions, collector.labels, names, WORST)
    if not found:
        return None
    dataset: Any = getattr(run.data.parts, collector.part)
    tiles = read_images(dataset, [int(collector.rows[i]) for i, _ in found])
    title = f"Most wrong of the {collector.describe()}"
    if task.has_probabilities:
        title += ", probabilities in brackets"
    return partial(captioned, tiles, [caption for _, caption in found], title)


def samples(run: "Run") -> Draw | None:
    """Training images as they are stored: a row for each class, or one of each of many classes."""
    kind = create_task(run.config["data"]["task"])
    if not are_images(run.config["data"]["input_shape"]) or not isinstance(kind, StandardTask):
        return None
    dataset, names = run.data.parts.train, kind.names(run.data.metadata())
    count = len(dataset)  # type: ignore[arg-type]
    random = torch.Generator().manual_seed(0)
    rows = torch.randperm(count, generator=random).tolist() if count < 1 << 20 else range(4096)
    tensors = known_targets(dataset)
    if not tensors or not kind.has_classes:
        tiles = read_images(dataset, rows[: 4 * ACROSS])
        return partial(captioned, tiles, [""] * len(tiles), "Training samples")
    labels = tensors[0].flatten().long().tolist()
    of_class: list[list[int]] = [[] for _ in names]
    each = 8 if len(names) <= CLASSES else 1
    for row in rows:
        if len(of_class[labels[row]]) < each:
            of_class[labels[row]].append(row)
    if each > 1:
        tiles = read_images(dataset, [row for some in of_class for row in some])
        parts = np.split(tiles, np.cumsum([len(some) for some in of_class])[:-1])
        return partial(by_class, parts, [cut(name) for name in names], "Training samples")
    shown = [(some[0], cut(name, 14)) for some, name in zip(of_class, names, strict=True) if some]
    shown = shown[: 8 * ACROSS]
    tiles = read_images(dataset, [row for row, _ in shown])
    return partial(captioned, tiles, [name for _, name in shown], "Training samples")


def are_images(shape: Sequence[int] | None) -> bool:
    """Whether inputs of a shape can be shown: ``(channels, height, width)``, grey or in colour."""
    return shape is not None and len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) > 1


def read_images(dataset: Dataset[Any], rows: Sequence[int]) -> Array:
    """Inputs as they are stored, ``(rows, height, width, 3)`` in [0, 1], at most a tile in size."""
    if isinstance(dataset, TensorDataset):
        inputs: Tensor = dataset.tensors[0][list(rows)]
    else:
        inputs = torch.stack([torch.as_tensor(dataset[row][0]) for row in rows])
    pixels = inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs.float()
    low, high = pixels.min(), pixels.max()
    if low < 0 or high > 1:  # a source that standardises by itself
        pixels = (pixels - low) / (high - low)
    height, width = pixels.shape[2:]
    size = TILE * DPI / max(height, width)
    if size < 1:
        shape = (max(1, round(height * size)), max(1, round(width * size)))
        pixels = interpolate(pixels, shape, mode="bilinear", antialias=True).clamp(0, 1)
    return pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


@mpl.rc_context(STYLE)
def captioned(tiles: Array, captions: Sequence[str], title: str) -> Canvas:
    """Pictures in rows, with up to two lines of text below each."""
    across = min(ACROSS, len(tiles))
    lines = [line for caption in captions for line in caption.split("\n")]
    below = 0.16 * max(caption.count("\n") + 1 for caption in captions) + 0.12
    wide, high = max(TILE, text_width(lines, 8)) + 0.1, TILE + below
    canvas, panel = sheet(across * wide, -(-len(tiles) // across) * high, title)
    for number, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        left, top = number % across * wide, number // across * high
        draw_tile(panel, tile, left, top)
        panel.text(left, top + TILE + 0.03, caption, va="top", fontsize=8, linespacing=1.1)
    return canvas


@mpl.rc_context(STYLE)
def by_class(tiles: Sequence[Array], names: Sequence[str], title: str) -> Canvas:
    """A row of pictures for each class, its name before it."""
    left, most = text_width(names) + 0.15, max(len(each) for each in tiles)
    canvas, panel = sheet(left + most * TILE, len(tiles) * TILE, title)
    height, width = tiles[0].shape[1:3]
    side = max(height, width) + max(1, round(0.04 * max(height, width)))
    whole = np.ones((len(tiles) * side, most * side, 3), np.float32)
    for i, (of_class, name) in enumerate(zip(tiles, names, strict=True)):
        panel.text(left - 0.1, (i + 0.5) * TILE, name, ha="right", va="center")
        for j, tile in enumerate(of_class):
            whole[i * side : i * side + height, j * side : j * side + width] = tile
    # One image of them all, which matplotlib draws faster.
    edges = (left, left + most * TILE, len(tiles) * TILE, 0)
    panel.imshow(whole, extent=edges, aspect="auto", interpolation="nearest")
    return canvas


@mpl.rc_context(STYLE)
def sheet(width: float, height: float, title: str) -> tuple[Canvas, Axes]:
    """A canvas with a title, and axes without a frame that count inches from the upper left."""
    canvas = Canvas(max(width, text_width([title], 10)) + 0.2, height + 0.45)
    panel = canvas.panel(0.1, 0.05, width, height)
    panel.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    panel.set_axis_off()
    panel.set_title(title)
    return canvas, panel


def draw_tile(panel: Axes, tile: Array, left: float, top: float) -> None:
    """Draws a picture, its longer side as long as a tile."""
    height, width = (TILE * side / max(tile.shape[:2]) for side in tile.shape[:2])
    edges = (left, left + width, top + height, top)
    panel.imshow(tile, extent=edges, aspect="auto", interpolation="nearest")
