"""From configuration to objects: `compose` reads one, `build` checks it and makes what it names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer, seed_everything
from omegaconf import DictConfig, open_dict
from torch import nn

from quartet.config import allow, search_ranges
from quartet.config.compose import compose
from quartet.config.groups import (
    KEY_TYPES,
    PART_GROUPS,
    POLICY_KEYS,
    argument_names,
    split_node,
    to_container,
)
from quartet.config.instantiate import (
    build_data,
    build_metrics,
    build_model,
    build_module,
    build_optimizer,
    build_scheduler,
    build_trainer,
    make,
)
from quartet.core import problems, redaction
from quartet.core.files import unique_path
from quartet.core.problems import ConfigError, collect_problems
from quartet.data.datamodule import DataModule
from quartet.data.task import Task, find_task
from quartet.training import parameters
from quartet.training.module import Module
from quartet.validation import settings, training
from quartet.validation.compatibility import check_fit, check_schedule, check_tasks, settle_monitor
from quartet.validation.data import check as check_parts
from quartet.validation.keys import check_arguments, check_keys, check_values
from quartet.validation.length import check_batches, count_steps

__all__ = ["Run", "build", "compose", "rebuild"]


@dataclass(frozen=True)
class Run:
    """What a configuration stands for, ready for ``trainer.fit(module, data)``.

    Attributes:
        config: The configuration, in plain containers, with everything filled in.
        steps_per_epoch: Optimizer steps.
        total_steps: Optimizer steps of the whole training; infinite if only time limits it.
    """

    module: Module
    data: DataModule
    trainer: Trainer
    directory: Path
    config: Mapping[str, Any]
    steps_per_epoch: int
    total_steps: float


def build(cfg: DictConfig, directory: str | Path | None = None) -> Run:
    """Checks and builds everything that `cfg` names. Nothing is downloaded, nothing written.

    Two builds of one configuration hold the same weights.

    Args:
        cfg: As `compose` gives it.
        directory: Where the run will write; None for a new one under ``outputs/``.

    Raises:
        Refusal: the configuration cannot train.
    """
    redaction.register(cfg)
    cfg = cfg.copy()
    with open_dict(cfg):
        choices = (cfg.pop("hydra", None) or {}).get("runtime", {}).get("choices", {})
        cfg.directory = str(directory or cfg.directory or new_directory())
    faults = check_keys(cfg)
    faults += map(str, allow.find_problems(to_container(cfg)))

    def sound(*keys: str) -> bool:
        return problems.keys(faults).isdisjoint(keys)

    faults += check_values(cfg, "data", faults)
    faults += settings.folds(to_container(cfg.data), problems.keys(faults))
    of_source = check_arguments(cfg, "data", faults)
    faults += of_source
    data: DataModule | None = None
    arguments = (f"data.{key}" for key in cfg.data if key not in POLICY_KEYS["data"])
    if not of_source and sound("data.task", "data.dir", "data.folds", "data.fold", *arguments):
        with collect_problems(faults, "data", [*cfg.data, *KEY_TYPES["data"]]):
            data = build_data(cfg)
    facts = [f"data.{key}" for key in ("task", "input_shape", "num_outputs", "num_classes")]
    if sound(*facts):
        faults += settings.facts(to_container(cfg.data))
    known = None not in (cfg.data.input_shape, cfg.data.num_outputs) and sound(*facts)
    if sound("data.task"):
        faults += check_tasks(cfg, choices)
    unsuited = problems.keys(faults)
    for group in ("", "monitor", *(group for group in PART_GROUPS if group not in unsuited)):
        faults += check_values(cfg, group, faults)
        if "search" in POLICY_KEYS.get(group, ()):
            faults += search_ranges.faults(group, to_container(cfg[group]))
        if group in PART_GROUPS:
            faults += check_arguments(cfg, group, faults, known)
    driven = {
        group: to_container(cfg[group]) for group in ("data", "trainer", "optimizer", "scheduler")
    }
    faults += settings.settings(driven, problems.keys(faults))

    if sound("seed"):
        seed_everything(cfg.seed, workers=True, verbose=False)
    counted = data if sound("data", "trainer") else None
    parts: dict[str, Any] = {}

    def add(group: str, create: Callable[[], Any]) -> None:
        if sound(group):
            with collect_problems(faults, group, argument_names(cfg, group)):
                parts[group] = create()

    if known:
        add("model", lambda: build_model(cfg))
        add("loss", lambda: make(split_node(cfg, "loss")[0]))
        add("metrics", lambda: build_metrics(cfg))
        faults += check_fit(cfg, parts)
    if "metrics" in parts and sound("monitor"):
        faults += settle_monitor(cfg, data, parts["metrics"], counted is not None, faults)
        add("scheduler", lambda: build_scheduler(cfg))  # may follow what is monitored
        if sound("trainer", "monitor", "scheduler", "callbacks", "logger"):
            parts["trainer"] = build_trainer(cfg, faults)
    add("optimizer", lambda: build_optimizer(cfg))
    if "model" in parts and sound("optimizer.freeze"):
        with collect_problems(faults, "optimizer", ["freeze"]):
            parameters.freeze(parts["model"], to_container(cfg.optimizer)["freeze"])
    if data is not None and data.loaded and known:
        with collect_problems(faults, "data"):
            faults += check_parts(data.load(), to_container(cfg.data), [*cfg.metrics])
    trainer: Trainer | None = parts.get("trainer")
    if "model" in parts and trainer:
        faults += training.unfreezing(trainer, parts["model"])
        if sound("optimizer._target_"):
            faults += training.divided(trainer, parts["model"], cfg.optimizer._target_)
    steps = count_steps(cfg, counted, trainer.world_size) if counted and trainer else None
    if "model" in parts and "optimizer" in parts and sound("model", "optimizer"):
        faults += check_schedule(cfg, parts, steps)
    if "model" in parts and counted and trainer:
        faults += check_batches(cfg, counted, parts)
    if not faults:
        add("module", lambda: build_module(cfg, parts))
    if faults:
        raise ConfigError(list(dict.fromkeys(faults)))
    assert data is not None
    assert steps is not None
    module: Module = parts["module"]
    if cfg.trainer.channels_last:
        module.model.to(memory_format=torch.channels_last)
    if cfg.trainer.compile:
        module.model.compile()
    return Run(
        module=module,
        data=data,
        trainer=parts["trainer"],
        directory=Path(cfg.directory),
        config=to_container(cfg),
        steps_per_epoch=steps[0],
        total_steps=steps[1],
    )


def rebuild(
    cfg: DictConfig, metadata: Mapping[str, Any], directory: Path
) -> tuple[nn.Module, Task, Trainer]:
    """Model, task and trainer of a run, without its data.

    Args:
        cfg: Of the run.
        metadata: Of the data, as `DataModule.metadata` gives it.
        directory: Of the run.

    Raises:
        Refusal: the configuration names what must not be called, or cannot be built.
    """
    cfg = cfg.copy()
    with open_dict(cfg):
        cfg.pop("hydra", None)
        cfg.directory, cfg.callbacks, cfg.logger = str(directory), {}, {}
        for key in ("task", "input_shape", "num_classes", "num_outputs"):
            cfg.data[key] = metadata[key]
    faults = [*map(str, allow.find_problems(to_container(cfg)))]
    if not faults:
        model: Any = None
        with collect_problems(faults, "model", argument_names(cfg, "model")):
            model = make(split_node(cfg, "model")[0])
        with collect_problems(faults, "data.task"):
            kind = find_task(metadata["task"])(metadata["num_outputs"])
        trainer = build_trainer(cfg, faults)
    if faults:
        raise ConfigError(faults)
    assert trainer is not None
    trainer.loggers = []  # metrics.csv is that of the training
    return model, kind, trainer


def new_directory() -> Path:
    """Named by the time, with -1, -2, ... where there is one already."""
    return unique_path(Path("outputs") / datetime.now().strftime("%Y-%m-%d/%H-%M-%S"))
