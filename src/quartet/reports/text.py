"""Texts for the terminal: the table of a run's figures, and the description of `check=only`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from quartet.build import build
from quartet.core.messages import shorten
from quartet.data.split import Parts
from quartet.data.task import StandardTask, create_task
from quartet.records.run_directory import group_choices
from quartet.training.callbacks.averaging import EMA
from quartet.training.schedule import preview

if TYPE_CHECKING:
    from omegaconf import DictConfig

PARTS = ("train", "val", "test")


def table(result: Mapping[str, Any], directory: Path) -> str:
    """A run's figures for the terminal: a row for each, a column for train, val and test."""
    monitor, choices = result["monitor"], result["choices"]
    groups = ("data", "model", "loss", "optimizer", "scheduler")
    lacking = f"a value of {monitor['metric']}" if monitor["metric"] else "validation"
    end = f"last epoch {monitor['epoch']}; without {lacking} there is no best"
    if monitor["best"] is not None:
        end = f"best epoch {monitor['epoch']}, by {monitor['metric']} = {monitor['best']:.4g}"
    return "\n".join(
        [
            "  ".join(f"{group}={choices[group]}" for group in groups if group in choices),
            columns(result["metrics"]),
            end,
            f"{result['seconds']['total']:.1f} s; everything lies in {directory}",
        ]
    )


def columns(figures: Mapping[str, float]) -> str:
    """Figures such as val/loss as text: a row for each, a column for train, val and test."""
    parts = [part for part in PARTS if any(key.startswith(f"{part}/") for key in figures)]
    names = dict.fromkeys(key.split("/", 1)[1] for key in figures if "/" in key)
    lines = [f"{'':12}" + "".join(f"{part:>10}" for part in parts)]
    for name in names:
        cells = (figures.get(f"{part}/{name}") for part in parts)
        row = "".join(f"{'' if cell is None else f'{cell:.4g}':>10}" for cell in cells)
        lines.append(f"{name:12}{row}")
    return "\n".join(lines)


def describe_run(cfg: "DictConfig") -> str:
    """Describes the run of a configuration: its options, data, sizes, the learning rate over time.

    Raises:
        quartet.core.problems.ConfigError: it cannot train.
    """
    run = build(cfg)
    lines = list(group_choices(cfg.hydra.runtime.choices).items())
    parameters = list(run.module.model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    frozen = sum(p.numel() for p in parameters) - trained
    lines.append(("parameters", f"{trained:,} trained, {frozen:,} frozen"))
    if still := list_evaluated_modules(run.module.model):
        lines.append(("frozen", f"{shorten(still, 8)}: in evaluation mode, so statistics stay"))
    if run.data.loaded:
        parts = run.data.parts._asdict()
        lines.append(("samples", ", ".join(f"{len(parts[name] or ()):,} {name}" for name in PARTS)))
        lines += describe_data(run.data.parts, run.data.metadata()).items()
    else:
        lines.append(("samples", f"{run.config['data']['train_samples']:,}, not read yet"))
    endless = run.total_steps == float("inf")
    end = "until trainer.max_time" if endless else f"{run.total_steps:,} in all"
    lines.append(("steps", f"{run.steps_per_epoch:,} an epoch, {end}"))
    averages = [each for each in run.trainer.callbacks if isinstance(each, EMA)]  # type: ignore[attr-defined]
    lines += [("caution", text) for each in averages if (text := each.caution(run.total_steps))]
    if run.total_steps < 1_000_000:
        optimizer = run.module.create_optimizer(run.module.model)
        schedule: Any = run.module.create_schedule(
            optimizer,
            total_steps=run.total_steps,
            steps_per_epoch=run.steps_per_epoch,
            validate_every=run.config["trainer"]["check_val_every_n_epoch"],
        )
        rates = preview(schedule, optimizer, int(run.total_steps), run.steps_per_epoch)
        start, middle, end = (f"{rate:.3g}" for rate in rates)
        lines.append(("lr", f"{start} at the start, {middle} in the middle, {end} at the end"))
    monitor = run.config["monitor"]
    watched = f"{monitor['metric']} ({monitor['mode']})"
    lines.append(("monitor", watched if monitor["metric"] else "nothing: the last epoch counts"))
    return "\n".join(
        ["Nothing is wrong with it. It would run:", *(f"{key:12}{text}" for key, text in lines)]
    )


def list_evaluated_modules(model: nn.Module) -> list[str]:
    """Lists the outermost modules that training leaves in evaluation mode."""
    names = [name for name, module in model.named_modules() if not module.training]
    return [name for name in names if name.rpartition(".")[0] not in names]


def describe_data(parts: Parts, metadata: Mapping[str, Any]) -> dict[str, str]:
    """Describes the inputs, and the targets of every part as far as they are known.

    Args:
        parts: Parts of the data.
        metadata: `DataModule.metadata`.
    """
    task = create_task(metadata["task"])
    count = min(64, len(parts.train))  # type: ignore[arg-type]
    inputs = [task.split(parts.train[row])[0] for row in range(count)]
    found = {"inputs": describe_nest(inputs[0])}
    if isinstance(inputs[0], Tensor) and len({each.shape for each in inputs}) == 1:
        first = torch.stack(inputs)
        found["inputs"] += f", {first.min():.4g} to {first.max():.4g} in the first {count}"
    if not isinstance(task, StandardTask):
        found["targets"] = describe_nest(task.split(parts.train[0])[1])
    for part in PARTS:
        dataset = getattr(parts, part)
        if dataset is not None:
            found[part] = task.summary(dataset, task.names(metadata), parts.target_scale)
    return {key: text for key, text in found.items() if text}


def describe_nest(nest: Any) -> str:
    """Describes the shapes and types of a sample: ``1 x 8 x 8 float32``."""
    if isinstance(nest, Tensor):
        shape = " x ".join(map(str, nest.shape)) or "scalar"
        return f"{shape} {str(nest.dtype).removeprefix('torch.')}"
    if isinstance(nest, Mapping):
        return ", ".join(f"{key}: {describe_nest(each)}" for key, each in nest.items())
    if isinstance(nest, tuple | list):
        return f"({', '.join(map(describe_nest, nest))})"
    return type(nest).__name__
