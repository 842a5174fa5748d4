"""Whether the parts suit the data and each other, tried on made-up samples."""

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig
from torchmetrics import MetricCollection

from quartet.config import allow, signatures
from quartet.config.groups import argument_names, options_for, to_container
from quartet.core import problems
from quartet.core.problems import collect_problems
from quartet.data.datamodule import DataModule
from quartet.data.task import find_task
from quartet.validation import dry_run as trial
from quartet.validation import settings, training
from quartet.validation.length import reaches_validation


def check_tasks(cfg: DictConfig, choices: Mapping[str, str]) -> list[str]:
    """Whether loss and metrics are for the task of the data."""
    faults: list[str] = []
    for group in ("loss", "metrics"):
        tasks = to_container(cfg[group]).get("tasks")
        if tasks is None or cfg.data.task in tasks:
            continue
        choice = choices.get(group) or cfg[group].get("_target_", group)
        others = options_for(group, cfg.data.task)
        faults += settings.suits(group, choice, tasks, cfg.data.task, others)
    return faults


def check_fit(cfg: DictConfig, parts: Mapping[str, Any]) -> list[str]:
    """Whether model, loss and metrics take what the data gives: tried on made-up samples."""
    count = cfg.data.num_outputs
    task = find_task(cfg.data.task)(count)
    faults: list[str] = []
    if "loss" in parts:
        refusal = trial.loss(parts["loss"], task, argument_names(cfg, "loss"))
        faults += refusal or trial.mixing(to_container(cfg.data), parts["loss"], task)
    for name, metric in parts.get("metrics", {}).items():
        faults += trial.metric(f"metrics.{name}", metric, task)
    if "model" in parts:
        faults += trial.outputs(parts["model"], cfg.data.input_shape, count)
        if cfg.trainer.channels_last is True:
            faults += trial.convolutions(parts["model"])
    return faults


def check_schedule(
    cfg: DictConfig, parts: Mapping[str, Any], steps: tuple[int, float] | None
) -> list[str]:
    """Makes an optimizer and, if the steps of the training are known, its schedule on trial."""
    faults: list[str] = []
    with collect_problems(faults, "optimizer", argument_names(cfg, "optimizer")):
        trial = parts["optimizer"](parts["model"])
        if steps is None or "scheduler" not in parts:
            return faults
        with collect_problems(faults, "scheduler", argument_names(cfg, "scheduler")):
            schedule = parts["scheduler"](
                trial,
                total_steps=steps[1],
                steps_per_epoch=steps[0],
                validate_every=cfg.trainer.check_val_every_n_epoch,
            )
            for main in schedule.configs[:1]:
                faults += training.horizon(main["scheduler"], schedule.ticks)
    return faults


def settle_monitor(
    cfg: DictConfig,
    data: DataModule | None,
    metrics: MetricCollection,
    countable: bool,
    before: Sequence[str],
) -> list[str]:
    """Fills in what is monitored and its mode; without validation, nothing may be.

    Args:
        cfg: Changed in place.
        data: Tells whether there is a validation part.
        metrics: Those of each part.
        countable: Whether the settings let the steps of the training be counted.
        before: Faults found before.

    Returns:
        Faults.
    """
    wrong = problems.keys(before)
    validates = cfg.data.get("val_fraction") != 0 or bool(cfg.data.folds)
    if data is not None and data.loaded:
        validates = data.parts.val is not None
    validates = validates and cfg.trainer.limit_val_batches != 0
    validates = validates and not (countable and data and not reaches_validation(cfg, data))
    watched = cfg.monitor
    idle = not watched.metric or (watched.metric.startswith("val/") and not validates)
    faults: list[str] = []
    if not idle:
        faults = training.monitor("monitor", watched.metric, watched.mode, metrics, validates)
    if watched.mode is None:
        watched.mode = training.direction(watched.metric or "loss", metrics)
    for key, node, needs in watchers(cfg, wrong):
        metric, mode = node.get("monitor"), node.get("mode")
        follows = metric == watched.metric and mode in (None, watched.mode)
        if (idle and needs) or not (follows or (metric is None and not needs)):
            faults += training.monitor(key, metric, mode, metrics, validates)
    if idle:
        watched.metric = None  # the last checkpoint is then the one that is tested
    return faults


def watchers(cfg: DictConfig, wrong: Container[str]) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """What looks at a monitored value: its key, its settings, and whether it cannot do without."""
    scheduler = to_container(cfg.scheduler)
    if "monitor" in scheduler and "scheduler" not in wrong:
        yield "scheduler", scheduler, True
    for name, node in to_container(cfg.callbacks).items():
        if node and f"callbacks.{name}" not in wrong and "monitor" in node:
            parameter = signatures.parameters(allow.locate(node["_target_"]))[0].get("monitor")
            yield (
                f"callbacks.{name}",
                node,
                bool(parameter and parameter.default is parameter.empty),
            )
