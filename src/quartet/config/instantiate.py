"""Each part as its group describes it, made by Hydra from what allow.py permits."""

import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import InstantiationException
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from torch import nn
from torchmetrics import MetricCollection

from quartet.checkpoints import weights
from quartet.checkpoints.resume_state import ResumeState
from quartet.checkpoints.storage import DurableCheckpoints
from quartet.compat import lightning_loop
from quartet.config import allow, resume, signatures
from quartet.config.groups import RESERVED_ARGUMENTS, is_own_name, split_node, to_container
from quartet.core.problems import ConfigError, collect_problems
from quartet.data.augment import Mixing
from quartet.data.datamodule import DataModule
from quartet.data.split import Parts
from quartet.data.task import find_task
from quartet.records.loggers import MetricsCSV, logged_run
from quartet.training import parameters, schedule
from quartet.training.module import Module
from quartet.validation import training

log = logging.getLogger(__name__)


def make(node: Any, partial: bool = False) -> Any:
    """The object that `node` describes; with `partial`, a callable that still makes it.

    Raises:
        Refusal: the node, or one within it, names what must not be called.
    """
    if faults := allow.find_problems(node):
        raise ConfigError(faults)
    try:
        # As keywords Hydra would merge these into a copy (6 ms a build).
        node = {**node, "_convert_": "all"}
        if not partial:
            return hydra.utils.instantiate(node)
        made = hydra.utils.instantiate({**node, "_partial_": True})
    except InstantiationException as error:
        raise error.__cause__ or error from None
    # Hydra's own partial checks a policy at every call, which is too slow for a step.
    return functools.partial(made.func, *made.args, **made.keywords)


def build_data(cfg: DictConfig) -> DataModule:
    """The data; fills in the shape of inputs and the numbers of classes and outputs in `cfg`."""
    node, shared = split_node(cfg, "data")
    source: Callable[..., Parts] = make(node, partial=True)
    named = signatures.parameters(source)[0]
    folds = shared.pop("folds")
    shared["fold"] = (shared["fold"], folds) if folds else None
    if folds and "fold" not in named:
        raise ValueError(
            f"folds={folds}: {node['_target_']} has no argument fold, and so cannot divide its "
            "samples; give it one and hand it to quartet.data.split.split, or set data.folds=null."
        )
    source = functools.partial(source, **{k: v for k, v in shared.items() if k in named})
    read_here = ("input_shape", "num_classes", "num_outputs", "train_samples", "dir")
    for key in (*read_here, "fold", "mixup", "cutmix"):
        shared.pop(key)
    data = DataModule(source, seed=cfg.seed, **shared)
    if cfg.data.train_samples is None:
        for key, value in read_shapes(data.load(), cfg.data.task).items():
            if cfg.data[key] is None:
                cfg.data[key] = value
    keys = ("task", "input_shape", "num_classes", "num_outputs")
    data.config_metadata = {key: to_container(cfg.data)[key] for key in keys}
    return data


def read_shapes(parts: Parts, task: str) -> dict[str, Any]:
    """The shape of inputs and the numbers of classes and outputs, as the training part has them."""
    inputs, targets, *_ = parts.train[0]
    classes, outputs = find_task(task).count_outputs(targets, parts.class_names)
    return {"input_shape": list(inputs.shape), "num_classes": classes, "num_outputs": outputs}


def build_model(cfg: DictConfig) -> nn.Module:
    """The model, with the weights it begins with."""
    model: nn.Module = make(split_node(cfg, "model")[0])
    place = cfg.model.weights
    # Afterwards a run has weights of its own, and those may be gone.
    begun = any(Path(cfg.directory, "checkpoints").glob("*.ckpt"))
    if place and not is_own_name(place, cfg.model._target_) and not begun:
        log.info("model.weights: %s", weights.load(model, place, strict=cfg.model.strict))
    return model


def build_mixing(cfg: DictConfig) -> Mixing | None:
    values = {key: cfg.data[key] for key in ("mixup", "cutmix")}
    if not any(values.values()):
        return None
    return Mixing(**values, num_outputs=cfg.data.num_outputs, seed=cfg.seed)


def build_metrics(cfg: DictConfig) -> MetricCollection:
    faults: list[str] = []
    metrics: dict[str, Any] = {}
    for name, node in split_node(cfg, "metrics")[0].items():
        if node:
            with collect_problems(
                faults, f"metrics.{name}", signatures.hints(allow.locate(node["_target_"]))
            ):
                metrics[name] = make(node)
    if faults:
        raise ConfigError(faults)
    # Groups of metrics that share states are found by their first values, which may agree by chance.
    return MetricCollection(metrics, compute_groups=False)


def build_optimizer(cfg: DictConfig) -> Callable[[nn.Module], Any]:
    node, policy = split_node(cfg, "optimizer")
    policy.pop("freeze")
    policy.pop("search", None)  # what sweep=optuna may try; one run has its values
    # null in the configuration: the command line adds no keys to a dictionary that has none.
    policy["lr_factors"] = policy["lr_factors"] or {}
    return functools.partial(parameters.create, make(node, partial=True), **policy)


def build_scheduler(cfg: DictConfig) -> Callable[..., Any]:
    node, drive = split_node(cfg, "scheduler")
    drive.setdefault("monitor", None)
    drive.pop("search", None)
    factory = make(node, partial=True) if node["_target_"] else None
    return functools.partial(schedule.create, factory=factory, **drive)


def build_module(cfg: DictConfig, parts: Mapping[str, Any]) -> Module:
    """The LightningModule of the other parts."""
    module = make(split_node(cfg, "module")[0], partial=True)(
        task=find_task(cfg.data.task)(cfg.data.num_outputs),
        mixing=build_mixing(cfg),
        **{name: parts[name] for name in RESERVED_ARGUMENTS["module"] if name in parts},
    )
    if not isinstance(module, Module):
        raise ValueError(
            f"_target_ makes a {type(module).__name__}, and must make a quartet.training.module.Module: a "
            "subclass of it with a training_step of its own."
        )
    return module


def build_trainer(cfg: DictConfig, faults: list[str]) -> Trainer | None:
    """The trainer with its callbacks and loggers; None if one of them adds to `faults`."""
    on_train = not (cfg.monitor.metric or "").startswith("val/")
    before = len(faults)
    made: dict[str, list[Any]] = {"callbacks": [], "logger": [MetricsCSV(cfg.directory)]}
    for group, objects in made.items():
        for name, node in to_container(cfg[group]).items():
            if not node:
                continue
            for key in ("save_on_train_epoch_end", "check_on_train_epoch_end"):
                # Lightning would look after validation: a training metric is not there yet, and
                # without anything to monitor there may be no validation.
                if on_train and node.get("monitor") == cfg.monitor.metric and key in node:
                    node[key] = node[key] if node[key] is not None else True
            if group == "logger" and cfg.resume:
                target = allow.locate(node["_target_"])
                node |= logged_run(Path(cfg.directory), name, node, target)
            with collect_problems(
                faults, f"{group}.{name}", signatures.hints(allow.locate(node["_target_"]))
            ):
                objects.append(make(node))
    callbacks: list[Callback] = made["callbacks"]
    loggers: list[Logger] = made["logger"]
    node = split_node(cfg, "trainer")[0]
    with collect_problems(faults, "trainer", signatures.hints(Trainer)):
        create = make(node, partial=True)
        trainer: Trainer = create(
            plugins=[*(create.keywords.get("plugins") or ()), DurableCheckpoints(cfg.directory)],
            callbacks=[*callbacks, ResumeState(resume.end(cfg))],
            logger=loggers,
            profiler=create.keywords.get("profiler") or lightning_loop.NoProfiler(),
            default_root_dir=cfg.directory,
            enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
            enable_model_summary=False,
            num_sanity_val_steps=0,  # they would move the random numbers
            use_distributed_sampler=False,  # the data divides itself
        )
        faults += [*training.averages(trainer), *training.folders(trainer, cfg.directory)]
        settle(trainer, cfg)
    if len(faults) > before:
        return None
    lightning_loop.install(trainer)
    return trainer


def settle(trainer: Trainer, cfg: DictConfig) -> None:
    """What Lightning's constructor does not take, or takes otherwise."""
    if cfg.trainer.profiler:
        profiler: Any = trainer.profiler  # type: ignore[attr-defined]
        # One that is named would print, where nobody looks.
        profiler.dirpath = profiler.dirpath or cfg.directory
        profiler.filename = profiler.filename or "profile"
    if cfg.trainer.limit_val_batches == 0:
        trainer.limit_val_batches = 0  # the batches to overfit take its place otherwise
