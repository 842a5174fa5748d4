"""Checks a configuration and builds its objects: model, data, trainer."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from torch import nn

from quartet.config import allow
from quartet.config.compose import compose
from quartet.config.configuration import Configuration, DictConfig
from quartet.config.instantiate import argument_names, build_trainer, make, split_node
from quartet.core.files import unique_path
from quartet.core.messages import register_secrets
from quartet.core.problems import as_problems, refuse
from quartet.data.datamodule import DataModule
from quartet.data.task import Task, create_task
from quartet.training.module import Module
from quartet.validation.builder import Builder
from quartet.validation.settings import check_task

__all__ = ["Run", "build", "compose", "rebuild", "rebuild_model", "recorded_config"]


@dataclass(frozen=True)
class Run:
    """The objects of a configuration, ready for ``trainer.fit(module, data)``.

    Attributes:
        config: The configuration, in plain containers, with everything filled in.
        steps_per_epoch: Optimizer steps; 0 or infinite if only the training will show it.
        total_steps: Optimizer steps of the whole training; infinite if only time limits it, or if
            only the training will show it.
        unchecked: What could not be checked, and why.
        cautions: What a user should know of the data.
        unused: Groups whose parts the module does not take.
    """

    module: Any
    data: Any
    trainer: Trainer
    directory: Path
    config: Mapping[str, Any]
    steps_per_epoch: float
    total_steps: float
    unchecked: list[str]
    cautions: list[str]
    unused: list[str]

    @property
    def is_known(self) -> bool:
        """Whether module and data are the engine's, and not any Lightning classes."""
        return isinstance(self.module, Module) and isinstance(self.data, DataModule)

    def has_part(self, part: str) -> bool:
        """Whether there is a part train, val or test, and the module has a step for it."""
        step = f"{ {'train': 'training', 'val': 'validation'}.get(part, part) }_step"
        if getattr(type(self.module), step) is getattr(LightningModule, step):
            return False
        if isinstance(self.data, DataModule):
            return getattr(self.data.load(), part) is not None
        hook = f"{part}_dataloader"
        return getattr(type(self.data), hook) is not getattr(LightningDataModule, hook)


def build(
    cfg: DictConfig,
    directory: str | Path | None = None,
    prepared: Mapping[str, Any] | None = None,
) -> Run:
    """Checks a configuration and builds its objects. Downloads nothing and writes nothing.

    Two builds of one configuration have the same weights.

    Args:
        cfg: A configuration, as `compose` returns it.
        directory: The run directory; None for a new one under ``outputs/``.
        prepared: Metadata of the data that the run was trained on, by which data is prepared again;
            None for a new run.

    Raises:
        ConfigError: the configuration cannot train.
    """
    register_secrets(cfg)
    if not (place := directory or cfg.directory):
        place = unique_path(Path("outputs") / datetime.now().strftime("%Y-%m-%d/%H-%M-%S"))
    config = Configuration(cfg, str(place))
    builder = Builder(config, prepared)
    builder.run()
    refuse(builder.problems)
    parts = builder.parts
    module = parts["module"]
    if config["trainer"]["channels_last"]:
        module.model.to(memory_format=torch.channels_last)
    if config["trainer"]["compile"]:
        module.model.compile()
    steps_per_epoch, total_steps = parts.get("steps", (0, math.inf))
    return Run(
        module=module,
        data=parts.get("data", parts.get("foreign_data")),
        trainer=parts["trainer"],
        directory=Path(config["directory"]),
        config=config.to_dict(),
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        unchecked=builder.unchecked,
        cautions=builder.cautions,
        unused=builder.unused,
    )


def rebuild(
    cfg: DictConfig, metadata: Mapping[str, Any], directory: Path
) -> tuple[nn.Module, Task, Trainer]:
    """Builds the model, task and trainer of a run by the metadata of its data, without the data.

    Raises:
        ConfigError: the configuration names a function that is not allowed, or cannot be built.
    """
    config = recorded_config(cfg, metadata, directory)
    refuse([*allow.find_problems(config.to_dict()), *check_task(metadata["task"])])
    model = rebuild_model(config)
    with as_problems("data.task"):
        task = create_task(metadata["task"], metadata["num_outputs"])
    with as_problems("trainer"):
        trainer = build_trainer(config)
    trainer.loggers = []  # metrics.csv belongs to the training
    return model, task, trainer


def recorded_config(cfg: DictConfig, metadata: Mapping[str, Any], directory: Path) -> Configuration:
    """Returns the configuration of a run with the metadata of its data, and nothing that writes."""
    config = Configuration(cfg, str(directory))
    described = ("class_names", "feature_names", "encoding", "identity")
    facts = {f"data.{key}": value for key, value in metadata.items() if key not in described}
    config.fill({"callbacks": {}, "logger": {}, **facts})
    return config


def rebuild_model(config: Configuration) -> nn.Module:
    """Builds the model of a run, without its weights.

    Raises:
        ConfigError: the configuration names what is not allowed, or cannot be built.
    """
    refuse(allow.find_problems({"model": config["model"]}))
    with as_problems("model", argument_names(config, "model")):
        model: nn.Module = make(split_node(config, "model")[0])
    return model
