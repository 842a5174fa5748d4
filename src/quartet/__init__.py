"""Quartet: loss, optimizer, scheduler and metrics composed into one LightningModule.

The public names, and nothing else; `quartet.build.build` is the one whose module has its name. They
are imported when they are first used: the commands start before torch is imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quartet.build import Run, compose
    from quartet.core.problems import ConfigError, Problem
    from quartet.data.augment import draw
    from quartet.data.datamodule import DataModule
    from quartet.data.split import Fold, Parts, Rows, Tensors, assemble, split, standardize
    from quartet.data.stream import Stream
    from quartet.data.task import Task
    from quartet.inference.predictor import load_model
    from quartet.run import train
    from quartet.training.module import Module

_HOMES = {
    "build": ("Run", "compose"),
    "core.problems": ("ConfigError", "Problem"),
    "data.augment": ("draw",),
    "data.datamodule": ("DataModule",),
    "data.split": ("Fold", "Parts", "Rows", "Tensors", "assemble", "split", "standardize"),
    "data.stream": ("Stream",),
    "data.task": ("Task",),
    "inference.predictor": ("load_model",),
    "run": ("train",),
    "training.module": ("Module",),
}
__all__ = [
    "ConfigError",
    "DataModule",
    "Fold",
    "Module",
    "Parts",
    "Problem",
    "Rows",
    "Run",
    "Stream",
    "Task",
    "Tensors",
    "assemble",
    "compose",
    "draw",
    "load_model",
    "split",
    "standardize",
    "train",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"quartet.{home}"), name)
    raise AttributeError(f"quartet has no public name {name}; it has {', '.join(__all__)}.")
