"""What a training looks at, how long it is, and what changes its weights on the way."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import (
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import nn
from torchmetrics import MetricCollection

from quartet.core.messages import join_and, suggest_name
from quartet.core.problems import Config, collect_problems
from quartet.parts.fsdp import FSDP2
from quartet.training.callbacks.averaging import SWA, WeightAverage
from quartet.training.callbacks.unfreeze import Unfreeze

# Optimizers that torch cannot run on divided weights, or not to the same end.
WHOLE = ("Adafactor", "LBFGS")


def monitor(
    key: str, metric: str | None, mode: str | None, metrics: MetricCollection, validates: bool
) -> list[str]:
    """Whether what `key` looks at will be logged, and whether its mode is the right one.

    Args:
        key: What looks at it: monitor, scheduler or a callback.
        metric: Such as val/loss.
        mode: min, max or None for the metric's own.
        metrics: Those of each part.
        validates: Whether there is a validation before the training ends.
    """
    setting = "monitor.metric" if key == "monitor" else f"{key}.monitor"
    if metric is None:
        return [f"{setting}=null: {key} needs a value to look at; set it, e.g. to val/loss."]
    if metric.startswith("val/") and not validates:
        return [
            f"{key} looks at {metric}, and there is no validation; set monitor.metric=train/loss, "
            "keep a validation part with data.val_fraction=0.1, or train until the first validation."
        ]
    logged = [f"{part}/{name}" for part in ("val", "train") for name in ("loss", *metrics)]
    if metric not in logged:
        part, _, name = metric.partition("/")
        near = suggest_name(f"val/{name}" if part == "test" else metric, logged)
        return [f"{setting}={metric} will not be logged while training; {near}"]
    right = direction(metric, metrics)
    if mode in (None, right):
        return []
    return [
        f"{key}.mode={mode} contradicts {metric}, which is better when "
        f"{'lower' if right == 'min' else 'higher'}; leave it out."
    ]


def direction(metric: str, metrics: MetricCollection) -> str:
    """Whether the best value of a metric (such as val/accuracy) is its min or max."""
    name = metric.split("/")[-1]
    return "max" if name in metrics and metrics[name].higher_is_better else "min"


def folders(trainer: Trainer, directory: str) -> list[str]:
    """Whether checkpoints go into the run's own directory, where none of another run lies."""
    return [
        f"callbacks: {type(each).__name__}.dirpath={each.dirpath} is outside the run's directory, "
        f"{directory}; leave it out, and name that one by hydra.run.dir."
        for each in trainer.callbacks  # type: ignore[attr-defined]
        if isinstance(each, ModelCheckpoint) and each.dirpath
        if not Path(each.dirpath).resolve().is_relative_to(Path(directory).resolve())
    ]


def averages(trainer: Trainer) -> list[str]:
    """Whether there is one average of the weights at most, of a kind that is validated and saved."""
    kinds = (WeightAveraging, StochasticWeightAveraging)
    found = [each for each in trainer.callbacks if isinstance(each, kinds)]  # type: ignore[attr-defined]
    names = [type(each).__name__ for each in found]
    faults = [
        f"callbacks: {name} leaves the average out of validation, checkpoints or test; use "
        "callbacks=ema or callbacks=swa."
        for each, name in zip(found, names, strict=True)
        if not isinstance(each, WeightAverage)
    ]
    faults += [
        f"callbacks.swa.start={each.start}: a share of a training limited by time alone is not "
        "known; set trainer.max_epochs or trainer.max_steps, or take callbacks=ema."
        for each in found
        if isinstance(each, SWA) and trainer.max_epochs == -1 and trainer.max_steps == -1
    ]
    if len(found) > 1:
        faults.append(f"callbacks: {join_and(names)} each average the weights; choose one of them.")
    if found and isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
        faults.append(
            f"callbacks: {names[0]} needs the whole model on every device, and trainer.strategy "
            "divides it; leave it out, or set trainer.strategy=ddp."
        )
    return faults


def unfreezing(trainer: Trainer, model: nn.Module) -> list[str]:
    """Whether parameters that are held at first are there, and can be trained later."""
    faults: list[str] = []
    for each in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(each, Unfreeze):
            with collect_problems(faults, "callbacks.unfreeze", ["epochs"]):
                each.find_first_epochs(model)
            if trainer.world_size > 1:
                faults.append(
                    "callbacks.unfreeze: several processes agree on what is trained before they "
                    "begin; set trainer.devices=1, or optimizer.freeze for the whole training."
                )
    return faults


def divided(trainer: Trainer, model: nn.Module, optimizer: str) -> list[str]:
    """Whether weights that are to be divided among the processes can be."""
    strategy = trainer.strategy
    if not isinstance(strategy, FSDPStrategy | ModelParallelStrategy):
        return []
    if not isinstance(strategy, FSDP2):
        return [
            f"trainer.strategy: {type(strategy).__name__} needs a module that divides itself, and "
            "writes checkpoints that are not verified; use trainer=fsdp."
        ]
    faults = [
        f"model: {name} is a single number, which cannot be divided; give it shape (1,), or use "
        "trainer=ddp."
        for name, parameter in model.named_parameters()
        if parameter.ndim == 0
    ]
    if (title := optimizer.rpartition(".")[2]) in WHOLE:
        faults.append(
            f"optimizer: {title} computes with whole weights, and trainer.strategy divides them; "
            "use optimizer=adamw, or trainer=ddp."
        )
    return faults


def horizon(scheduler: Any, ticks: int | None) -> list[str]:
    """Whether a cosine ends before the training, after which torch lets the rate rise again."""
    length = getattr(scheduler, "T_max", None)
    if length is None or ticks is None or length >= ticks:
        return []
    return [
        f"scheduler.T_max={length} ends before the training, whose schedule has {ticks} ticks, and "
        "the rate would rise again; null is the whole training, scheduler=cosine_restarts rises on "
        "purpose."
    ]


def limits(trainer: Config, batches: Mapping[str, int]) -> list[str]:
    """Whether the limits of the trainer leave something to do.

    Args:
        trainer: The trainer group.
        batches: Of an epoch, for each part that is known.
    """
    faults = []
    for part, count in batches.items():
        overfits = trainer["overfit_batches"] and part != "test"
        key = "overfit_batches" if overfits else f"limit_{part}_batches"
        limit = trainer[key]
        left = int(count * limit) if isinstance(limit, float) else min(count, limit)
        if count and not left and (limit or part == "train"):
            faults.append(
                f"trainer.{key}={limit}: leaves none of the {count} {part} batches; a whole number "
                f"counts batches, a share of them is at least {1 / count:.2g}."
            )
        interval = trainer["val_check_interval"]
        if part == "train" and isinstance(interval, int) and interval > left > 0:
            faults.append(
                f"trainer.val_check_interval={interval}: an epoch has {left} batches only; 1.0 "
                "validates at its end, trainer.check_val_every_n_epoch less often."
            )
    return faults
