"""Makes each part as its group describes it, of the classes that allow.py permits."""

import copy
import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from torch import nn
from torchmetrics import MetricCollection

from quartet.checkpoints import storage
from quartet.checkpoints.callbacks import ResumeState
from quartet.compat import lightning_loop, read_entry_points_once
from quartet.config import allow, records, signatures
from quartet.config.configuration import Configuration
from quartet.config.groups import (
    HYDRA_KEYS,
    RESERVED_ARGUMENTS,
    is_foreign,
    is_pretrained_name,
    split_node,
)
from quartet.config.overrides import find_groups
from quartet.core.messages import join_and, join_or, suggest_name
from quartet.core.problems import ConfigError, Problem, collect_problems
from quartet.data.augment import Mixing
from quartet.data.datamodule import DataModule
from quartet.data.split import Parts, choose_positive
from quartet.data.task import TASKS, Task, create_task
from quartet.records.loggers import MetricsCSV, logged_run
from quartet.records.run_directory import split_part
from quartet.training import parameters, schedule
from quartet.training.callbacks.interruption import MonitorCheck
from quartet.training.module import Module

log = logging.getLogger(__name__)


def make(node: Any, partial: bool = False) -> Any:
    """The object that `node` describes; with `partial`, a callable that still makes it.

    Raises:
        ConfigError: the node, or one within it, names what must not be called.
    """
    if problems := allow.find_problems(node):
        raise ConfigError(*problems)
    return instantiate({**node, "_partial_": True} if partial else node)


def instantiate(node: Any) -> Any:
    """What plain containers describe, by the keys of Hydra's ``instantiate``, which is slower."""
    if isinstance(node, list):
        return [instantiate(each) for each in node]
    if not isinstance(node, dict):
        return node
    read = instantiate if node.get("_recursive_", True) else copy.deepcopy
    if "_target_" not in node:
        return {key: read(value) for key, value in node.items()}
    target = node["_target_"] and allow.locate(node["_target_"])
    if not callable(target):
        name = "null" if target is None else node["_target_"]
        raise ValueError(f"a _target_ within it is {name}, and must name a class or a function.")
    arguments = {key: read(value) for key, value in node.items() if key not in HYDRA_KEYS}
    made = functools.partial(target, *read(node.get("_args_", [])), **arguments)
    return made if node.get("_partial_") else made()


def make_part(group: str, node: Any) -> Any:
    """The part of a group that `node` describes.

    Raises:
        ConfigError: as `make`.
        ValueError: a function made something else.
    """
    made, kinds = make(node), allow.KINDS[group]
    if not allow.descends(type(made), *kinds):
        raise ValueError(
            f"_target_ gives a {type(made).__name__}, and must give a {join_or(kinds)}."
        )
    return made


def build_data(config: Configuration, prepared: Mapping[str, Any] | None = None) -> DataModule:
    """The data; fills in the shape of inputs and the numbers of classes and outputs in `config`.

    Args:
        config: The configuration.
        prepared: Metadata of the data of a run, by which the data is prepared; None fits it anew.
    """
    node, shared = split_node(config, "data")
    source: Callable[..., Parts] = make(node, partial=True)
    named = signatures.parameters(source)[0]
    folds = shared.pop("folds")
    shared["fold"] = (shared["fold"], folds) if folds else None
    if folds and "fold" not in named:
        raise ValueError(
            f"folds={folds}: {node['_target_']} has no argument fold, and so cannot divide its "
            "samples; give it one and hand it to quartet.split, or set data.folds=null."
        )
    given = {**shared, "prepared": prepared}
    source = functools.partial(source, **{k: v for k, v in given.items() if k in named})
    if (positive := shared.pop("positive", None)) is not None:
        task = create_task(config["data"]["task"])
        if not task.has_positive:
            message = f"is for two classes, and the task is {task.name}; set null."
            raise ValueError(f"positive={positive}: {message}")
        source = functools.partial(choose_positive, source, str(positive))
    read_here = ("input_shape", "num_classes", "num_outputs", "train_samples", "dir")
    for key in (*read_here, "fold", "mixup", "cutmix"):
        shared.pop(key)
    facts = shared.pop("facts", [])
    data = DataModule(source, seed=config["seed"], **shared)
    data.is_rebuilt = prepared is not None
    data.is_prepared = data.is_rebuilt and "prepared" in named
    data.paths = [str(value) for key, value in node.items() if key.endswith("path") and value]
    if config["data"]["train_samples"] is None:
        found = read_facts(data.load(), config["data"]["task"])
        unset = {key: value for key, value in found.items() if config["data"].get(key, 0) is None}
        config.fill({f"data.{key}": value for key, value in unset.items()})
        for key in facts:
            if config["data"][key] is None:
                raise ValueError(
                    f"{key}: {node['_target_']} has no such argument, and the data tells no such "
                    f"fact; {suggest_name(key, [*named, *found])}"
                )
    keys = ("task", "input_shape", "num_classes", "num_outputs", *facts)
    data.config_metadata = {key: config["data"][key] for key in keys}
    return data


def build_foreign_data(config: Configuration) -> LightningDataModule:
    """A LightningDataModule that knows nothing of this engine."""
    data: LightningDataModule = make(split_node(config, "data")[0])
    return data


def read_facts(parts: Parts, task: str) -> dict[str, Any]:
    """What the data tells of itself: shapes, numbers of classes and outputs, facts of its own."""
    if not isinstance(parts, Parts):
        raise ValueError(f"_target_ gives a {type(parts).__name__}, and must give quartet.Parts.")
    return {**create_task(task).metadata(parts), **parts.facts}


def import_task(name: str | None) -> None:
    """Imports the class of a project's own task, so that `create_task` finds it.

    Raises:
        ValueError: the name is of no task.
    """
    if name in TASKS:
        return
    if name is None or "." not in name:
        raise ValueError(
            f"must be {join_or(list(TASKS))}, or the path of a task of your own, such as "
            "project.segmentation.Segmentation."
        )
    kinds = ("quartet.Task",)
    found = allow.locate(name, kinds)
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise ValueError(allow.describe_kinds(kinds))


def build_model(config: Configuration, data: DataModule | None = None) -> nn.Module:
    """The model, with the weights it begins with, which must be of columns as `data` has them."""
    place, keys = config["model"]["weights"], config["model"].get("weights_keys")
    from_run = place and not is_pretrained_name(place, config["model"]["_target_"])
    if keys and not from_run:
        raise ValueError(f"weights_keys={keys}: chooses of a run, which model.weights must name.")
    model: nn.Module = make_part("model", split_node(config, "model")[0])
    # A run that is resumed or evaluated has weights of its own, and those may be gone.
    if from_run and not any(Path(config["directory"], "checkpoints").glob("*.ckpt")):
        metadata = data.metadata() if data is not None and data.loaded else None
        strict = config["model"]["strict"]
        told = storage.load_weights(model, place, strict=strict, keys=keys, metadata=metadata)
        log.info("model.weights: %s", told)
    return model


def build_loss(config: Configuration) -> nn.Module | None:
    node = split_node(config, "loss")[0]
    return make_part("loss", node) if node["_target_"] else None


def build_mixing(config: Configuration) -> Mixing | None:
    values = {key: config["data"][key] for key in ("mixup", "cutmix")}
    if not any(values.values()):
        return None
    return Mixing(**values, num_outputs=config["data"]["num_outputs"], seed=config["seed"])


def metric_heads(config: Configuration) -> dict[str, str]:
    """The heads whose predictions and labels metrics compare, by the names of the metrics."""
    nodes = split_node(config, "metrics")[0].items()
    return {name: node["of"] for name, node in nodes if node and node.get("of") is not None}


def build_metrics(config: Configuration) -> MetricCollection:
    nodes = split_node(config, "metrics")[0].items()
    own = {name: {k: v for k, v in node.items() if k != "of"} for name, node in nodes if node}
    metrics = build_each("metrics", own)
    # Groups of metrics that share states are found by their first values, which may agree by chance.
    return MetricCollection(metrics, compute_groups=False)


def build_each(group: str, nodes: Mapping[str, Any]) -> dict[str, Any]:
    """The named parts of a group; one that is null is left out.

    Raises:
        ConfigError: some of them cannot be made.
    """
    made: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, node in nodes.items():
        if node:
            names = signatures.type_hints(allow.locate(node["_target_"]))
            with collect_problems(problems, f"{group}.{name}", names):
                made[name] = make_part(group, node)
    if problems:
        raise ConfigError(*problems)
    return made


def build_optimizer(config: Configuration, group: str) -> Callable[..., Any]:
    node, policy = split_node(config, group)
    policy.pop("freeze")
    policy.pop("search", None)  # the ranges of sweep=optuna; one run has its values
    # null in the configuration: the command line adds no keys to a dictionary that has none.
    policy["lr_factors"] = policy["lr_factors"] or {}
    return functools.partial(parameters.create, make(node, partial=True), **policy)


def build_scheduler(config: Configuration, group: str) -> Callable[..., Any]:
    node, policy = split_node(config, group)
    policy.setdefault("monitor", None)
    policy.pop("search", None)
    factory = make(node, partial=True) if node["_target_"] else None
    return functools.partial(schedule.create, factory=factory, group=group, **policy)


def build_foreign_part(config: Configuration, group: str) -> Any:
    """What a foreign module gets of a group: an object, or a class with its arguments bound."""
    if group == "model":
        return build_model(config)
    if group == "metrics":
        return build_metrics(config)
    node = split_node(config, group)[0]
    return make(node, partial=group != "loss") if node["_target_"] else None


def build_foreign_module(config: Configuration, parts: Mapping[str, Any]) -> LightningModule:
    """A LightningModule that knows nothing of this engine, with the parts that it takes."""
    module: LightningModule = make(split_node(config, "module")[0], partial=True)(**parts)
    return module


def build_module(config: Configuration, parts: Mapping[str, Any]) -> Module:
    """The LightningModule of the other parts."""
    data, node = config["data"], split_node(config, "module")[0]
    given = {
        "task": create_task(data["task"], data["num_outputs"]),
        "mixing": build_mixing(config),
        "heads": metric_heads(config),
        "optimizers": {group: parts[group] for group in find_groups(config, "optimizer")},
        "schedulers": {group: parts[group] for group in find_groups(config, "scheduler")},
        **{name: parts[name] for name in RESERVED_ARGUMENTS["module"] if name in parts},
    }
    accepted, takes_any = signatures.parameters(allow.locate(node["_target_"]))
    if not takes_any and (missing := [name for name in given if name not in accepted]):
        raise ValueError(
            f"its constructor does not take {join_and(missing)}; end its arguments in **parts, and "
            "pass them on, super().__init__(**parts)."
        )
    module = make(node, partial=True)(**given)
    if not isinstance(module, Module):
        raise ValueError(
            f"_target_ makes a {type(module).__name__}, and must make a quartet.Module: a subclass "
            "of it with a training_step of its own."
        )
    return module


def build_trainer(config: Configuration) -> Trainer:
    """The trainer with its callbacks and loggers.

    Raises:
        ConfigError: some of them cannot be made.
    """
    directory = config["directory"]
    problems: list[Problem] = []
    callbacks: dict[str, Callback] = {}
    loggers: dict[str, Logger] = {}
    for group, made in (("callbacks", callbacks), ("logger", loggers)):
        with collect_problems(problems, group):
            made |= build_each(group, prepare_nodes(config, group))
    node = split_node(config, "trainer")[0]
    read_entry_points_once()
    with collect_problems(problems, "trainer", signatures.type_hints(Trainer)):
        create = make(node, partial=True)
        trainer: Trainer = create(
            plugins=[
                *(create.keywords.get("plugins") or ()),
                storage.DurableCheckpoints(directory),
            ],
            callbacks=[*callbacks.values(), ResumeState(records.end(config.node))],
            logger=[MetricsCSV(directory), *loggers.values()],
            profiler=create.keywords.get("profiler") or lightning_loop.NoProfiler(),
            default_root_dir=directory,
            enable_progress_bar=any(isinstance(each, ProgressBar) for each in callbacks.values()),
            enable_model_summary=False,
            num_sanity_val_steps=0,  # they would move the random numbers
            use_distributed_sampler=is_foreign(config, "data"),  # ours divides itself
        )
        finish_trainer(trainer, config["trainer"], directory)
        trainer.callbacks.insert(0, MonitorCheck(dict(find_monitored(config))))  # type: ignore[attr-defined]
    if problems:
        raise ConfigError(*problems)
    lightning_loop.install(trainer)
    return trainer


def find_monitored(config: Configuration) -> Iterator[tuple[str, str]]:
    """Yields each setting that names a monitored value, and the value."""
    if config["monitor"]["metric"]:
        yield "monitor.metric", config["monitor"]["metric"]
    nodes = {f"callbacks.{name}": node for name, node in config["callbacks"].items()}
    nodes |= {group: config[group] for group in find_groups(config, "scheduler")}
    for key, node in nodes.items():
        if node and node.get("monitor"):
            yield f"{key}.monitor", node["monitor"]


def prepare_nodes(config: Configuration, group: str) -> dict[str, Any]:
    """The callbacks or loggers, with the arguments that follow from other settings."""
    monitored = config["monitor"]["metric"]
    on_train = split_part(str(monitored or ""))[0] != "val"
    nodes = {name: dict(node) for name, node in config[group].items() if node}
    for name, node in nodes.items():
        for key in ("save_on_train_epoch_end", "check_on_train_epoch_end"):
            # Lightning would look after validation: a training metric is not there yet, and
            # without anything to monitor there may be no validation.
            if on_train and node.get("monitor") == monitored and key in node:
                node[key] = node[key] if node[key] is not None else True
        if group == "logger" and config["resume"]:
            target = allow.locate(node["_target_"])
            node |= logged_run(Path(config["directory"]), name, node, target)
    return nodes


def finish_trainer(trainer: Trainer, settings: Mapping[str, Any], directory: str) -> None:
    """Applies the settings that Lightning's constructor does not accept, or changes."""
    if settings["profiler"]:
        profiler: Any = trainer.profiler  # type: ignore[attr-defined]
        # One that is chosen by its name would print, where nobody looks.
        profiler.dirpath = profiler.dirpath or directory
        profiler.filename = profiler.filename or "profile"
    if settings["limit_val_batches"] == 0:
        trainer.limit_val_batches = 0  # the constructor replaces it by overfit_batches
