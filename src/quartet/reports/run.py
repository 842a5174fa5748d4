"""The report of one run: its pictures, its table, and the description of `check=only`."""

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils.data import IterableDataset, TensorDataset

from quartet.build import Run, build
from quartet.core.messages import cut, shorten
from quartet.core.problems import ConfigError, Problem, collect_problems
from quartet.data import nest
from quartet.data.csv import describe_columns
from quartet.data.datamodule import DataModule
from quartet.data.split import Parts
from quartet.data.stream import count_samples
from quartet.data.task import StandardTask, create_task, first_samples, known_targets
from quartet.records.run_directory import group_choices, split_part
from quartet.reports import drawings
from quartet.reports.figures import DPI, STYLE, Canvas, drawable_names, save_png, text_width
from quartet.reports.results import nearest
from quartet.training.callbacks.averaging import EMA
from quartet.training.callbacks.predictions import PredictionCollector
from quartet.training.schedule import preview

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

Array = NDArray[Any]
Drawings = dict[str, Callable[[], Figure | None]]
TILE = 0.85  # inches
WORST, ACROSS, CLASSES = 14, 7, 12
PARTS = ("train", "val", "test")
USUAL = ("module", "default")  # the choice that a run's table leaves out


# Pictures


def draw_training(run: Run, collector: PredictionCollector) -> list[Path]:
    """Draws the pictures of a finished run into its directory and its TensorBoard."""
    drawn: Drawings = {}
    if run.is_known:
        drawn = {"samples": partial(samples, run), **draw_predictions(run, collector)}
    drawn["curves"] = partial(drawings.learning_curves, run.directory, **run.config["monitor"])
    saved = save(drawn, run.directory)
    for logger in run.trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            with forgiving("the pictures of TensorBoard are"):
                add_to_board(logger, saved, run.trainer.global_step)
    return saved


def draw_evaluation(run: Run, collector: PredictionCollector, file: Path) -> list[Path]:
    """Draws the predictions of an evaluation beside the file of its figures, named after it."""
    return save(draw_predictions(run, collector), file.parent, f"{file.stem}-")


def save(drawn: Drawings, directory: Path, prefix: str = "") -> list[Path]:
    """Draws each picture that can be drawn, and returns the files.

    An error costs the picture, never the run. A function gives None where there is nothing to draw.
    """
    saved = []
    for name, draw in drawn.items():
        path = directory / f"{prefix}{name}.png"
        with forgiving(f"{path.name} is"), mpl.rc_context(STYLE):
            if figure := draw():
                save_png(figure, path)
                saved.append(path)
    return saved


@contextmanager
def forgiving(pictures: str) -> Iterator[None]:
    """Logs an error in the block, which leaves out these pictures and nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a font without some letter of a class's name
        try:
            yield
        except Exception as error:
            log.warning(f"{pictures} left out: {type(error).__name__}: {error}")


def add_to_board(logger: TensorBoardLogger, paths: Sequence[Path], step: int) -> None:
    """Adds picture files to a TensorBoard, unchanged."""
    from PIL import Image
    from tensorboard.compat.proto.summary_pb2 import Summary

    for path in paths:
        with Image.open(path) as image:
            width, height = image.size
        shown = Summary.Image(
            height=height, width=width, colorspace=4, encoded_image_string=path.read_bytes()
        )
        summary = Summary(value=[Summary.Value(tag=path.stem, image=shown)])
        logger.experiment.file_writer.add_summary(summary, step)
    logger.experiment.flush()


def draw_predictions(run: Run, collector: PredictionCollector) -> Drawings:
    """Drawing functions of the pictures that the task has of predictions, by name."""
    if collector.part is None:
        return {}
    task: Any = run.module.task
    names = drawable_names(task.names(run.data.metadata()))
    drawn: Drawings = {}
    with forgiving(f"the pictures of the task {task.name} are"):
        figures = task.figures(collector, names, run.config["metrics"])
        for name, drawing in figures.items():
            if callable(drawing):  # of a project's own task
                drawn[name] = drawing
            else:
                function, *arguments = drawing
                drawn[name] = partial(getattr(drawings, function), *arguments)
    drawn["worst"] = partial(most_wrong, run, collector, names)
    return drawn


def most_wrong(run: Run, collector: PredictionCollector, names: Sequence[str]) -> Canvas | None:
    """The images with the largest errors; None if there are none."""
    task: Any = run.module.task
    dataset: Any = getattr(run.data.parts, str(collector.part))
    if not are_images(run.config["data"]["input_shape"]) or not isinstance(task, StandardTask):
        return None
    if isinstance(dataset, IterableDataset):
        return None  # it has no rows that could be read again
    found = task.most_wrong(collector.predictions, collector.labels, names, WORST)
    if not found:
        return None
    tiles = read_images(dataset, [int(collector.rows[i]) for i, _ in found])
    title = f"Most wrong of the {collector.describe()}"
    if task.has_probabilities:
        title += ", probabilities in brackets"
    return captioned(tiles, [caption for _, caption in found], title)


def samples(run: Run) -> Canvas | None:
    """Training images as they are stored: a row for each class, or one of each of many classes."""
    kind = create_task(run.config["data"]["task"])
    if not are_images(run.config["data"]["input_shape"]) or not isinstance(kind, StandardTask):
        return None
    dataset = run.data.parts.train
    names = drawable_names(kind.names(run.data.metadata()))
    if isinstance(dataset, IterableDataset):
        dataset = first_samples(dataset, 4 * ACROSS)
    count = len(dataset)
    random = torch.Generator().manual_seed(0)
    rows = torch.randperm(count, generator=random).tolist() if count < 1 << 20 else range(4096)
    tensors = known_targets(dataset)
    if not tensors or not kind.has_classes:
        tiles = read_images(dataset, rows[: 4 * ACROSS])
        return captioned(tiles, [""] * len(tiles), "Training samples")
    labels = tensors[0].flatten().long().tolist()
    of_class: list[list[int]] = [[] for _ in names]
    each = 8 if len(names) <= CLASSES else 1
    for row in rows:
        if len(of_class[labels[row]]) < each:
            of_class[labels[row]].append(row)
    if each > 1:
        tiles = read_images(dataset, [row for some in of_class for row in some])
        parts = np.split(tiles, np.cumsum([len(some) for some in of_class])[:-1])
        return by_class(parts, [cut(name) for name in names], "Training samples")
    shown = [(some[0], cut(name, 14)) for some, name in zip(of_class, names, strict=True) if some]
    shown = shown[: 8 * ACROSS]
    tiles = read_images(dataset, [row for row, _ in shown])
    return captioned(tiles, [name for _, name in shown], "Training samples")


def are_images(shape: Sequence[int] | None) -> bool:
    """Whether inputs of a shape can be shown: ``(channels, height, width)``, grey or in colour."""
    return shape is not None and len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) > 1


def read_images(dataset: Any, rows: Sequence[int]) -> Array:
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


def captioned(tiles: Array, captions: Sequence[str], title: str) -> Canvas:
    """Pictures in rows, with up to two lines of text below each."""
    across = min(ACROSS, len(tiles))
    lines = [line for caption in captions for line in caption.split("\n")]
    below = 0.16 * max(caption.count("\n") + 1 for caption in captions) + 0.12
    wide, high = max(TILE, text_width(lines, 8)) + 0.1, TILE + below
    canvas, panel = sheet(across * wide, -(-len(tiles) // across) * high, title)
    for number, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        left, top = number % across * wide, number // across * high
        high_tile, wide_tile = (TILE * side / max(tile.shape[:2]) for side in tile.shape[:2])
        edges = (left, left + wide_tile, top + high_tile, top)
        panel.imshow(tile, extent=edges, aspect="auto", interpolation="nearest")
        panel.text(left, top + TILE + 0.03, caption, va="top", fontsize=8, linespacing=1.1)
    return canvas


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


def sheet(width: float, height: float, title: str) -> tuple[Canvas, Axes]:
    """A canvas with a title, and axes without a frame that count inches from the upper left."""
    canvas = Canvas(max(width, text_width([title], 10)) + 0.2, height + 0.45)
    panel = canvas.panel(0.1, 0.05, width, height)
    panel.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    panel.set_axis_off()
    panel.set_title(title)
    return canvas, panel


# Texts


def describe_captions(run: Run, collector: PredictionCollector) -> list[str]:
    """The lines that the task of a run adds below its figures."""
    if not run.is_known or not isinstance(task := run.module.task, StandardTask):
        return []
    return list(task.captions(task.names(run.data.metadata()), collector.predictions))


def describe_stop(trainer: Trainer) -> Iterator[str]:
    """Yields why a callback ended the training before its last epoch."""
    for each in trainer.callbacks if trainer.should_stop else ():  # type: ignore[attr-defined]
        if isinstance(each, Timer) and (each.time_remaining() or 0) <= 0:
            yield "stopped as trainer.max_time was over"
        elif isinstance(each, EarlyStopping) and each.stopping_reason_message:
            reason = each.stopping_reason_message.partition(" Signaling")[0]
            if each.stopping_reason is EarlyStoppingReason.PATIENCE_EXHAUSTED:
                count = "the last check" if each.patience < 2 else f"{each.patience} checks"
                reason = f"{each.monitor} had not improved in {count}"
            yield f"stopped after epoch {each.stopped_epoch + 1}: {reason}"


def table(result: Mapping[str, Any], directory: Path, caption: str = "") -> str:
    """A run's figures for the terminal: a row for each, a column for train, val and test."""
    monitor, choices = result["monitor"], result["choices"]
    groups = ("data", "module", "model", "loss", "optimizer", "scheduler")
    shown = {k: choices[k] for k in groups if k in choices and (k, choices[k]) != USUAL}
    lacking = f"a value of {monitor['metric']}" if monitor["metric"] else "validation"
    end = f"last epoch {monitor['epoch']}; without {lacking} there is no best"
    if monitor["best"] is not None:
        end = f"best epoch {monitor['epoch']}, by {monitor['metric']} = {monitor['best']:.4g}"
    return "\n".join(
        [
            "  ".join(f"{group}={option}" for group, option in shown.items()),
            columns(result["metrics"]),
            *([caption] if caption else []),
            end,
            f"{result['seconds']['total']:.1f} s; everything lies in {nearest(directory)}",
        ]
    )


def columns(figures: Mapping[str, float | None], test: str = "test") -> str:
    """Figures such as val/loss as text: a row for each, a column for each part; `test` heads one."""
    rows: dict[str, dict[str, float | None]] = {}
    for key, value in figures.items():
        part, name = split_part(key)
        rows.setdefault(name, {})[part] = value
    parts = [part for part in (*PARTS, "") if any(part in row for row in rows.values())]
    width = max(12, *(len(name) + 1 for name in rows), 0)
    heads = [test if part == "test" else part for part in parts]
    wide = max(10, *(len(head) + 2 for head in heads), 0)
    lines = [f"{'':{width}}" + "".join(f"{head:>{wide}}" for head in heads)]
    for name, row in rows.items():
        values = (row.get(part) for part in parts)
        cells = ("" if value is None else f"{value:.4g}" for value in values)
        lines.append(f"{name:{width}}" + "".join(f"{cell:>{wide}}" for cell in cells))
    return "\n".join(line.rstrip() for line in lines)


def describe_run(cfg: "DictConfig") -> str:
    """Describes the run of a configuration: its options, data, sizes, the learning rate over time.

    Raises:
        quartet.core.problems.ConfigError: it cannot train.
    """
    run = build(cfg)
    choices = group_choices(cfg.hydra.runtime.choices)
    lines = [
        (group, option) for group, option in choices.items() if option and group not in run.unused
    ]
    parameters = list(run.module.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    frozen = sum(p.numel() for p in parameters) - trained
    lines.append(("parameters", f"{trained:,} trained, {frozen:,} frozen"))
    model = getattr(run.module, "model", run.module)
    if still := list_evaluated_modules(model):
        lines.append(("frozen", f"{shorten(still, 8)}: in evaluation mode, so statistics stay"))
    if not isinstance(run.data, DataModule):
        pass
    elif run.data.loaded:
        lines.append(("samples", ", ".join(describe_size(run.data, name) for name in PARTS)))
        lines += describe_data(run.data.parts, run.data.metadata()).items()
        if run.data.parts.encoding:
            columns = describe_columns(run.data.parts.encoding).items()
            lines += [("column", f"{name}: {text}") for name, text in columns]
        lines += [("caution", text) for text in run.cautions]
    else:
        lines.append(("samples", f"{run.config['data']['train_samples']:,}, not read yet"))
    if run.steps_per_epoch:
        per_epoch, epochs = run.steps_per_epoch, run.config["trainer"]["max_epochs"]
        end = f"{run.total_steps:,} in all"
        if math.isinf(run.total_steps):
            end = "until trainer.max_time" if epochs in (None, -1) else f"{epochs} epochs"
        each = "an unknown number" if math.isinf(per_epoch) else f"{per_epoch:,}"
        lines.append(("steps", f"{each} an epoch, {end}"))
        averages = [each for each in run.trainer.callbacks if isinstance(each, EMA)]  # type: ignore[attr-defined]
        lines += [("caution", text) for each in averages if (text := each.caution(run.total_steps))]
    if run.is_known and run.total_steps < 1_000_000:
        lines += describe_rates(run)
    monitor = run.config["monitor"]
    watched = f"{monitor['metric']} ({monitor['mode']})"
    lines.append(("monitor", watched if monitor["metric"] else "nothing: the last epoch counts"))
    lines += [("not checked", each) for each in run.unchecked]
    width = max(12, *(len(key) + 1 for key, _ in lines))
    return "\n".join(
        [
            "Nothing is wrong with it. It would run:",
            *(f"{key:{width}}{text}" for key, text in lines),
        ]
    )


def describe_size(data: DataModule, part: str) -> str:
    """Describes the number of samples of a part."""
    dataset = getattr(data.parts, part)
    count = 0 if dataset is None else count_samples(dataset)
    return f"{part} of unknown length" if math.isinf(count) else f"{count:,} {part}"


def describe_rates(run: Run) -> Iterator[tuple[str, str]]:
    """Describes the learning rate of each optimizer over the training."""
    module = run.module
    try:
        module.try_optimizers(run.steps_per_epoch, run.total_steps, run.config["trainer"])
    except RuntimeError:  # it needs the trainer
        return
    for optimizer, name in module.made_optimizers.items():
        own = [each for each in module.schedules if each.is_of(optimizer)]
        rates = preview(own, optimizer, int(run.total_steps), run.steps_per_epoch)
        start, middle, end = (f"{rate:.3g}" for rate in rates)
        text = f"{start} at the start, {middle} in the middle, {end} at the end"
        if len(module.made_optimizers) > 1:
            each_group = (group["params"] for group in optimizer.param_groups)
            count = sum(parameter.numel() for group in each_group for parameter in group)
            text += f", of {count:,} parameters"
        yield ("lr" if name == "optimizer" else f"lr/{name}"), text


def list_evaluated_modules(model: nn.Module) -> list[str]:
    """Lists the outermost modules that training leaves in evaluation mode."""
    names = [name for name, module in model.named_modules() if not module.training]
    return [name for name in names if name.rpartition(".")[0] not in names]


def describe_data(parts: Parts, metadata: Mapping[str, Any]) -> dict[str, str]:
    """Describes the inputs, and the targets of every part as far as they are known."""
    task = create_task(metadata["task"])
    samples = first_samples(parts.train, 64)
    inputs = [task.split(sample)[0] for sample in samples]
    found = {"inputs": nest.describe(inputs[0])}
    if isinstance(inputs[0], Tensor) and len({each.shape for each in inputs}) == 1:
        first = torch.stack(inputs)
        found["inputs"] += f", {first.min():.4g} to {first.max():.4g} in the first {len(inputs)}"
    if not isinstance(task, StandardTask):
        found["targets"] = nest.describe(task.split(samples[0])[1])
    for part in PARTS:
        dataset = getattr(parts, part)
        if dataset is not None:
            problems: list[Problem] = []
            with collect_problems(problems, "data.task"):
                found[part] = task.summary(dataset, task.names(metadata), parts.target_scale)
            if problems:
                raise ConfigError(*problems)
    return {key: text for key, text in found.items() if text}
