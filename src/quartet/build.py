"""From configuration to objects: the only file that knows Hydra and OmegaConf's containers."""

import functools
import itertools
import logging
import math
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import hydra
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import InstantiationException
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from torchmetrics import MetricCollection

from quartet import (
    allow,
    check,
    lean,
    optimizer,
    ranges,
    record,
    resume,
    scheduler,
    schema,
    task,
    weights,
)
from quartet.check import Refusal, collecting
from quartet.checkpoint import Continuation
from quartet.command import newest_record
from quartet.data import DataModule, Parts, rows
from quartet.data.check import check as check_parts
from quartet.data.mixing import Mixing
from quartet.logger import MetricsFile
from quartet.module import Module
from quartet.search import space
from quartet.storage import DurableCheckpoints

log = logging.getLogger(__name__)

CONF = Path(__file__).parents[2] / "conf"

TOP_LEVEL = [
    "loss",
    "metrics",
    "model",
    "module",
    "optimizer",
    "scheduler",
    "trainer",
    "callbacks",
    "logger",
    "data",
    "monitor",
    "seed",
    "check",
    "resume",
    "directory",
    "hydra",
]

# Keys of a group that say how its part is used; all others are arguments of its `_target_`.
DRIVING: dict[str, tuple[str, ...]] = {
    "data": (
        *("task", "input_shape", "num_classes", "num_outputs", "train_samples", "dir"),
        *("batch_size", "eval_batch_size", "shuffle", "balance", "drop_last", "num_workers"),
        *("mean", "std", "folds", "fold"),
        *("flip", "crop", "mixup", "cutmix"),
    ),
    "loss": ("tasks", "search"),
    "metrics": ("tasks",),
    "model": ("weights", "strict", "search"),
    "module": (),
    "optimizer": ("freeze", "lr_factors", "decay_bias_and_norm", "search"),
    "scheduler": ("interval", "frequency", "warmup_steps", "warmup_epochs", "monitor", "search"),
    "trainer": ("compile", "channels_last"),
}
# The groups but data, in the order of messages.
PARTS = (
    *("model", "loss", "metrics", "optimizer", "scheduler"),
    *("module", "trainer", "callbacks", "logger"),
)
# What fits them, where the parts that take them do not say it more closely.
HINTS: dict[str, dict[str, Any]] = {
    "": {"seed": int, "directory": str, "check": Literal[True, False, "only"]},
    "monitor": {"metric": str | None, "mode": Literal["min", "max"] | None},
    "data": schema.hints(DataModule)
    | {
        "task": Literal["multiclass", "binary", "multilabel", "regression", "ranking"],
        "input_shape": Sequence[int] | None,
        "num_classes": int | None,
        "num_outputs": int | None,
        "train_samples": int | None,
        "dir": str,
        "folds": int | None,
        "fold": int,
        "mixup": float,
        "cutmix": float,
        "batch_size": int | Literal["full"],
    },
    "loss": {"tasks": Sequence[str] | None},
    "metrics": {"tasks": Sequence[str] | None},
    "model": {"weights": str | None, "strict": bool},
    "optimizer": schema.hints(optimizer.create)
    | {"freeze": Sequence[str], "lr_factors": Mapping[str, float] | None},
    "scheduler": schema.hints(scheduler.create) | {"interval": Literal["step", "epoch"]},
    "trainer": {"compile": bool, "channels_last": bool},
}
# Keys that may be absent.
OPTIONAL = ("tasks", "monitor", "search")
# Keys of the trainer that are read before there is one.
READ = (
    *("max_epochs", "max_steps", "max_time", "accelerator", "devices", "precision", "profiler"),
    *("accumulate_grad_batches", "check_val_every_n_epoch", "val_check_interval"),
    *("limit_train_batches", "limit_val_batches", "limit_test_batches", "overfit_batches"),
)
# Arguments that come first when the part is called.
FIRST = {"optimizer": 1, "scheduler": 1}
# Arguments that are added when the part is called, and where to set them instead.
ADDED: dict[str, dict[str, str]] = {
    "data": dict.fromkeys(DRIVING["data"], ""),
    "module": {
        name: f"the {name} group holds it"
        for name in ("model", "loss", "metrics", "optimizer", "scheduler")
    }
    | {"task": "data.task names it", "mixing": "set data.mixup or data.cutmix"},
    "trainer": {
        "callbacks": "the callbacks group holds them",
        "logger": "the logger group holds them",
        "default_root_dir": "hydra.run.dir names the run's directory",
        "enable_checkpointing": "callbacks.best=null and callbacks.last=null switch it off",
        "enable_model_summary": "check=only counts the parameters",
        "enable_progress_bar": "callbacks.progress_bar=null switches it off",
        "fast_dev_run": "trainer=smoke tries two batches of everything",
        "num_sanity_val_steps": "a trial would move the random numbers",
        "use_distributed_sampler": "the data divides itself",
    },
}
# Arguments for which null means: fill it in.
FILLED = (
    *("T_max", "total_iters", "total_steps", "max_lr", "base_lr", "cycle_momentum"),
    *("monitor", "mode"),
)


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


def compose(overrides: Sequence[str] = (), config_name: str = "train") -> DictConfig:
    """The configuration that the command line would give for these overrides.

    Its `hydra` node tells the chosen options and the overrides. With ``resume=DIR`` the overrides
    apply to what that run was trained with.

    Raises:
        Refusal: the record of that run would direct Hydra.
    """
    if not CONF.is_dir():
        raise FileNotFoundError(f"{CONF} is missing: install from a checkout, pip install -e .")
    GlobalHydra.instance().clear()
    folder, overrides = CONF, list(overrides)
    resumed = [override for override in overrides if override.startswith("resume=")]
    if resumed and resumed[-1] != "resume=null":
        config_name, folder = "config", newest_record(resumed[-1].removeprefix("resume="))
        if faults := allow.in_record((folder / "config.yaml").read_text()):
            raise Refusal([f"{folder}/config.yaml: {fault}" for fault in faults])
        overrides = [f"++{each}" if each in resumed else each for each in overrides]
        overrides.append(f"hydra.searchpath=[file://{CONF}]")
    with hydra.initialize_config_dir(str(folder.resolve()), version_base="1.3"):
        cfg = hydra.compose(config_name, overrides, return_hydra_config=True)
    choices = OmegaConf.to_container(cfg.hydra.runtime.choices)
    overridden = OmegaConf.to_container(cfg.hydra.overrides.task)
    with open_dict(cfg):
        cfg.hydra = {"runtime": {"choices": choices}, "overrides": {"task": overridden}}
    return cfg


def build(cfg: DictConfig, directory: str | Path | None = None) -> Run:
    """Checks and builds everything that `cfg` names. Nothing is downloaded, nothing written.

    Two builds of one configuration hold the same weights.

    Args:
        cfg: As `compose` gives it.
        directory: Where the run will write; None for a new one under ``outputs/``.

    Raises:
        Refusal: the configuration cannot train.
    """
    cfg = cfg.copy()
    with open_dict(cfg):
        choices = (cfg.pop("hydra", None) or {}).get("runtime", {}).get("choices", {})
        cfg.directory = str(directory or cfg.directory or new_directory())
    faults = check_keys(cfg)
    faults += allow.faults(plain(cfg))

    def sound(*keys: str) -> bool:
        return check.keys(faults).isdisjoint(keys)

    faults += check_values(cfg, "data", faults)
    of_source = check_arguments(cfg, "data", faults)
    faults += of_source
    data: DataModule | None = None
    arguments = (f"data.{key}" for key in cfg.data if key not in DRIVING["data"])
    if not of_source and sound("data.task", "data.dir", *arguments):
        with collecting(faults, "data", [*cfg.data, *HINTS["data"]]):
            data = build_data(cfg)
    facts = [f"data.{key}" for key in ("task", "input_shape", "num_outputs", "num_classes")]
    if sound(*facts):
        faults += check.facts(plain(cfg.data))
    known = None not in (cfg.data.input_shape, cfg.data.num_outputs) and sound(*facts)
    if sound("data.task"):
        faults += check_tasks(cfg, choices)
    unsuited = check.keys(faults)
    for group in ("", "monitor", *(group for group in PARTS if group not in unsuited)):
        faults += check_values(cfg, group, faults)
        if "search" in DRIVING.get(group, ()):
            faults += space.faults(group, plain(cfg[group]))
        if group in PARTS:
            faults += check_arguments(cfg, group, faults, known)
    driven = {group: plain(cfg[group]) for group in ("data", "trainer", "optimizer", "scheduler")}
    faults += check.settings(driven, check.keys(faults))

    if sound("seed"):
        seed_everything(cfg.seed, workers=True, verbose=False)
    counted = data if sound("data", "trainer") else None
    parts: dict[str, Any] = {}

    def add(group: str, create: Callable[[], Any]) -> None:
        if sound(group):
            with collecting(faults, group, names(cfg, group)):
                parts[group] = create()

    if known:
        add("model", lambda: build_model(cfg))
        add("loss", lambda: make(divide(cfg, "loss")[0]))
        add("metrics", lambda: build_metrics(cfg))
        faults += check_fit(cfg, parts)
    if "metrics" in parts and sound("monitor"):
        faults += settle_monitor(cfg, data, parts["metrics"], counted is not None, faults)
        add("scheduler", lambda: build_scheduler(cfg))  # may follow what is monitored
        if sound("trainer", "monitor", "scheduler", "callbacks", "logger"):
            parts["trainer"] = build_trainer(cfg, faults)
    add("optimizer", lambda: build_optimizer(cfg))
    if "model" in parts and sound("optimizer.freeze"):
        with collecting(faults, "optimizer", ["freeze"]):
            optimizer.freeze(parts["model"], plain(cfg.optimizer)["freeze"])
    if data is not None and data.loaded and known:
        with collecting(faults, "data"):
            faults += check_parts(data.load(), plain(cfg.data), [*cfg.metrics])
    trainer: Trainer | None = parts.get("trainer")
    if "model" in parts and trainer:
        faults += check.unfreezing(trainer, parts["model"])
    steps = count_steps(cfg, counted, trainer.world_size) if counted and trainer else None
    if "model" in parts and "optimizer" in parts and sound("model", "optimizer"):
        faults += check_schedule(cfg, parts, steps)
    if "model" in parts and counted and trainer:
        faults += check_batches(cfg, counted, parts)
    if not faults:
        add("module", lambda: build_module(cfg, parts))
    if faults:
        raise Refusal(list(dict.fromkeys(faults)))
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
        config=plain(cfg),
        steps_per_epoch=steps[0],
        total_steps=steps[1],
    )


def rebuild(
    cfg: DictConfig, told: Mapping[str, Any], directory: Path
) -> tuple[nn.Module, nn.Module, Trainer]:
    """Model, task and trainer of a run, without its data.

    Args:
        cfg: Of the run.
        told: What is known of the data, `DataModule.told`.
        directory: Of the run.

    Raises:
        Refusal: the configuration names what must not be called, or cannot be built.
    """
    cfg = cfg.copy()
    with open_dict(cfg):
        cfg.pop("hydra", None)
        cfg.directory, cfg.callbacks, cfg.logger = str(directory), {}, {}
        for key in ("task", "input_shape", "num_classes", "num_outputs"):
            cfg.data[key] = told[key]
    faults = allow.faults(plain(cfg))
    if not faults:
        model: Any = None
        with collecting(faults, "model", names(cfg, "model")):
            model = make(divide(cfg, "model")[0])
        with collecting(faults, "data.task"):
            kind = task.create(told["task"], told["num_outputs"])
        trainer = build_trainer(cfg, faults)
    if faults:
        raise Refusal(faults)
    assert trainer is not None
    trainer.loggers = []  # metrics.csv is that of the training
    return model, kind, trainer


def new_directory() -> Path:
    """Named by the time, with -1, -2, ... where there is one already."""
    path = Path("outputs") / datetime.now().strftime("%Y-%m-%d/%H-%M-%S")
    numbered = (path.with_name(f"{path.name}-{n}") for n in itertools.count(1))
    return next(name for name in itertools.chain([path], numbered) if not name.exists())


def check_keys(cfg: DictConfig) -> list[str]:
    """Keys that nothing reads, that are absent, or whose value cannot be had; that becomes null.

    Raises:
        Refusal: a whole group is absent.
    """
    absent = [key for key in TOP_LEVEL if key != "hydra" and key not in list(cfg)]
    absent += [
        f"{group}.{key}"
        for group, keys in (*DRIVING.items(), ("trainer", READ), ("monitor", HINTS["monitor"]))
        for key in keys
        if group in cfg and key not in list(cfg[group]) and key not in OPTIONAL
    ]
    faults = [f"{key} is missing; conf/ sets it, leave it there." for key in absent]
    if faults:
        raise Refusal(faults)
    text = OmegaConf.to_yaml(cfg, resolve=False)
    interpolated = re.findall(r"\$\{\.*([A-Za-z_]\w*)", text)
    faults += check.top_level(cfg, {*TOP_LEVEL, *interpolated})
    others = [name for name in cfg.monitor if name not in HINTS["monitor"]]
    faults += [
        f"monitor.{name}: nothing reads this key; it has metric and mode." for name in others
    ]
    return faults + check_references(cfg, "")


def check_references(
    node: DictConfig | ListConfig, prefix: str, above: tuple[Any, ...] = ()
) -> list[str]:
    """Values that must be set, and interpolations that lead nowhere or to what holds them.

    All of them become null.
    """
    faults: list[str] = []
    above = (*above, node)
    for key in list(node) if isinstance(node, DictConfig) else range(len(node)):
        path = f"{prefix}{key}"
        if OmegaConf.is_missing(node, key):
            faults.append(f"{path}=???: must be set.")
        else:
            try:
                child = node[key]
            except OmegaConfBaseException as error:
                raw = OmegaConf.to_container(node, resolve=False)[key]  # type: ignore[index]
                reason = str(error).partition("\n")[0]
                faults.append(f"{path}={raw}: {reason}; name a key that is there, or give a value.")
            else:
                if not any(child is each for each in above):
                    if isinstance(child, DictConfig | ListConfig):
                        faults += check_references(child, f"{path}.", above)
                    continue
                raw = OmegaConf.to_container(node, resolve=False)[key]  # type: ignore[index]
                faults.append(f"{path}={raw}: holds itself; give a value.")
        node[key] = None
    return faults


def refused(cfg: DictConfig, faults: Sequence[str]) -> set[str]:
    """Keys with faults, and those whose values are taken from them."""
    wrong = check.keys(faults)
    taken = dict(references(OmegaConf.to_container(cfg, resolve=False)))
    while more := {path for path, source in taken.items() if source in wrong} - wrong:
        wrong |= more
    return wrong


def references(node: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The path of every value that stands for another, and the path of that."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        if isinstance(value, dict | list):
            yield from references(value, f"{prefix}{key}.")
        elif isinstance(value, str) and (match := re.fullmatch(r"\$\{([\w.]+)\}", value)):
            yield f"{prefix}{key}", match[1]


def check_values(cfg: DictConfig, group: str, faults: Sequence[str]) -> list[str]:
    """Values of the keys that say how a part is used; "" is the top level."""
    hints, wrong = HINTS.get(group, {}), refused(cfg, faults)
    values = plain(cfg[group]) if group else {name: cfg[name] for name in hints}
    keys = [key for key in DRIVING.get(group, hints) if f"{group}.{key}".strip(".") not in wrong]
    return ranges.check(group, {key: values[key] for key in keys if key in values}, hints)


def check_arguments(
    cfg: DictConfig, group: str, faults: Sequence[str], known: bool = True
) -> list[str]:
    """Names and values of all arguments of a group's parts.

    Args:
        cfg: Of everything.
        group: Its name.
        faults: Those found before.
        known: Whether the facts of the data are; else null may stand for them.
    """
    node, wrong = divide(cfg, group)[0], refused(cfg, faults)
    if group not in ("metrics", "callbacks", "logger"):
        if node.get("_target_"):
            return check_tree(group, node, wrong, known)
        if group == "scheduler":
            others = [key for key in node if key != "_target_"]
            return [f"scheduler.{key}: scheduler=none does not read it." for key in others]
        return [f"{group}._target_ is missing; choose an option, such as {group}={USUAL[group]}."]
    found = []
    for name, part in node.items():
        if isinstance(part, Mapping) and part.get("_target_"):
            found += check_tree(f"{group}.{name}", part, wrong, known)
        elif part is not None:
            found.append(
                f"{group}.{name}: has no _target_, the class to make it of; null leaves it out."
            )
    return found


def check_tree(key: str, node: Any, wrong: Container[str], known: bool) -> list[str]:
    """Arguments of a node that has a ``_target_``, and of all such nodes within it."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    if not isinstance(node, dict):
        return []
    faults: list[str] = []
    if node.get("_target_"):
        try:
            target = allow.locate(node["_target_"])
        except ValueError as error:
            return [f"{key}._target_={node['_target_']}: {error}"]
        given = {name: value for name, value in node.items() if name not in HYDRA_KEYS}
        faults += schema.arguments(
            key,
            target,
            given,
            first=FIRST.get(key, len(node.get("_args_", ()))),
            added=ADDED.get(key),
            partial=node.get("_partial_", False),
        )
        unset = FILLED if known else given
        given = {
            name: value
            for name, value in given.items()
            if f"{key}.{name}" not in wrong and not (value is None and name in unset)
        }
        title = getattr(target, "__name__", "")
        faults += ranges.check(key, given, schema.hints(target), title)
    for name, child in node.items():
        faults += check_tree(f"{key}.{name}", child, wrong, known)
    return faults


HYDRA_KEYS = ("_target_", "_partial_", "_args_", "_convert_", "_recursive_")
USUAL = {
    **{"data": "digits", "model": "mlp", "loss": "mse", "optimizer": "adam"},
    **{"module": "default", "trainer": "default"},
}


def names(cfg: DictConfig, group: str) -> list[str]:
    """Names of what a group takes."""
    target = cfg[group].get("_target_")
    taken = list(schema.hints(allow.locate(target))) if target else []
    return [*DRIVING[group], *taken[FIRST.get(group, 0) :]]


def build_data(cfg: DictConfig) -> DataModule:
    """The data, whose facts (shape of the inputs, number of outputs) are filled in in `cfg`."""
    node, shared = divide(cfg, "data")
    source: Callable[..., Parts] = make(node, partial=True)
    named = schema.parameters(source)[0]
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
        for key, value in facts(data.load(), cfg.data.task).items():
            if cfg.data[key] is None:
                cfg.data[key] = value
    told = ("task", "input_shape", "num_classes", "num_outputs")
    data.facts = {key: plain(cfg.data)[key] for key in told}
    return data


def facts(parts: Parts, task: str) -> dict[str, Any]:
    """What the training part tells of the shape of inputs and outputs."""
    inputs, targets, *_ = parts.train[0]
    outputs = len(parts.class_names or ()) if task == "multiclass" else targets.numel()
    classes = {"multiclass": outputs, "binary": 2, "multilabel": outputs}.get(task)
    return {"input_shape": list(inputs.shape), "num_classes": classes, "num_outputs": outputs}


def check_tasks(cfg: DictConfig, choices: Mapping[str, str]) -> list[str]:
    """Whether loss and metrics are for the task of the data."""
    faults: list[str] = []
    for group in ("loss", "metrics"):
        tasks = plain(cfg[group]).get("tasks")
        if tasks is None or cfg.data.task in tasks:
            continue
        choice = choices.get(group) or cfg[group].get("_target_", group)
        others = options_for(group, cfg.data.task)
        faults += check.suits(group, choice, tasks, cfg.data.task, others)
    return faults


def check_fit(cfg: DictConfig, parts: Mapping[str, Any]) -> list[str]:
    """Whether model, loss and metrics take what the data gives: tried on made-up samples."""
    kind, count = cfg.data.task, cfg.data.num_outputs
    faults: list[str] = []
    if "loss" in parts:
        refusal = check.loss(parts["loss"], kind, count, names(cfg, "loss"))
        faults += refusal or check.mixing(plain(cfg.data), parts["loss"])
    for name, metric in parts.get("metrics", {}).items():
        faults += check.metric(f"metrics.{name}", metric, task.create(kind, count), kind, count)
    if "model" in parts:
        faults += check.outputs(parts["model"], cfg.data.input_shape, count)
        if cfg.trainer.channels_last is True:
            faults += check.convolutions(parts["model"])
    return faults


def check_schedule(
    cfg: DictConfig, parts: Mapping[str, Any], steps: tuple[int, float] | None
) -> list[str]:
    """Makes an optimizer and, if the steps of the training are known, its schedule on trial."""
    faults: list[str] = []
    with collecting(faults, "optimizer", names(cfg, "optimizer")):
        trial = parts["optimizer"](parts["model"])
        if steps is None or "scheduler" not in parts:
            return faults
        with collecting(faults, "scheduler", names(cfg, "scheduler")):
            schedule = parts["scheduler"](
                trial,
                total_steps=steps[1],
                steps_per_epoch=steps[0],
                validate_every=cfg.trainer.check_val_every_n_epoch,
            )
            for main in schedule.configs[:1]:
                faults += check.horizon(main["scheduler"], schedule.ticks)
    return faults


def options_for(group: str, task: str) -> list[str]:
    """Options of a group that are for `task`, from the listing of conf/."""
    files = (CONF / group).glob("*.yaml")
    tasks = {path.stem: OmegaConf.select(OmegaConf.load(path), "tasks") for path in files}
    return sorted(name for name, suited in tasks.items() if suited and task in suited)


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
    wrong = check.keys(before)
    validates = cfg.data.get("val_fraction") != 0 or bool(cfg.data.folds)
    if data is not None and data.loaded:
        validates = data.parts.val is not None
    validates = validates and cfg.trainer.limit_val_batches != 0
    validates = validates and not (countable and data and not reaches_validation(cfg, data))
    watched = cfg.monitor
    idle = not watched.metric or (watched.metric.startswith("val/") and not validates)
    faults: list[str] = []
    if not idle:
        faults = check.monitor("monitor", watched.metric, watched.mode, metrics, validates)
    if watched.mode is None:
        watched.mode = check.direction(watched.metric or "loss", metrics)
    for key, node, needs in watchers(cfg, wrong):
        metric, mode = node.get("monitor"), node.get("mode")
        follows = metric == watched.metric and mode in (None, watched.mode)
        if (idle and needs) or not (follows or (metric is None and not needs)):
            faults += check.monitor(key, metric, mode, metrics, validates)
    if idle:
        watched.metric = None  # the last checkpoint is then the one that is tested
    return faults


def watchers(cfg: DictConfig, wrong: Container[str]) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """What looks at a monitored value: its key, its settings, and whether it cannot do without."""
    scheduler = plain(cfg.scheduler)
    if "monitor" in scheduler and "scheduler" not in wrong:
        yield "scheduler", scheduler, True
    for name, node in plain(cfg.callbacks).items():
        if node and f"callbacks.{name}" not in wrong and "monitor" in node:
            parameter = schema.parameters(allow.locate(node["_target_"]))[0].get("monitor")
            yield (
                f"callbacks.{name}",
                node,
                bool(parameter and parameter.default is parameter.empty),
            )


def reaches_validation(cfg: DictConfig, data: DataModule) -> bool:
    """Whether the training is long enough for its first validation."""
    trainer = cfg.trainer
    devices = trainer.devices if isinstance(trainer.devices, int) else 1
    per_epoch, total = count_steps(cfg, data, max(1, devices))
    first: float = per_epoch
    if isinstance(trainer.val_check_interval, int):  # batches
        first = min(first, trainer.val_check_interval / trainer.accumulate_grad_batches)
    elif isinstance(trainer.val_check_interval, float):
        first = per_epoch * trainer.val_check_interval
    before: int = (trainer.check_val_every_n_epoch - 1) * per_epoch
    return total >= before + math.ceil(first)


def build_model(cfg: DictConfig) -> nn.Module:
    """The model, with the weights it begins with."""
    model: nn.Module = make(divide(cfg, "model")[0])
    place = cfg.model.weights
    # Afterwards a run has weights of its own, and those may be gone.
    begun = any(Path(cfg.directory, "checkpoints").glob("*.ckpt"))
    if place and not is_own_name(place, cfg.model._target_) and not begun:
        log.info("model.weights: %s", weights.load(model, place, strict=cfg.model.strict))
    return model


def is_own_name(name: str, target: str) -> bool:
    """Whether ``model.weights`` is a name that the model itself knows, and no path."""
    path = "/" in name or name.endswith(".ckpt") or Path(name).exists()
    return not path and "weights" in schema.parameters(allow.locate(target))[0]


def build_mixing(cfg: DictConfig) -> Mixing | None:
    values = {key: cfg.data[key] for key in ("mixup", "cutmix")}
    if not any(values.values()):
        return None
    return Mixing(**values, num_outputs=cfg.data.num_outputs, seed=cfg.seed)


def build_metrics(cfg: DictConfig) -> MetricCollection:
    faults: list[str] = []
    metrics: dict[str, Any] = {}
    for name, node in divide(cfg, "metrics")[0].items():
        if node:
            with collecting(
                faults, f"metrics.{name}", schema.hints(allow.locate(node["_target_"]))
            ):
                metrics[name] = make(node)
    if faults:
        raise Refusal(faults)
    return MetricCollection(metrics)


def build_optimizer(cfg: DictConfig) -> Callable[[nn.Module], Any]:
    node, policy = divide(cfg, "optimizer")
    policy.pop("freeze")
    policy.pop("search", None)  # what sweep=optuna may try; one run has its values
    # null in the configuration: the command line adds no keys to a dictionary that has none.
    policy["lr_factors"] = policy["lr_factors"] or {}
    return functools.partial(optimizer.create, make(node, partial=True), **policy)


def build_scheduler(cfg: DictConfig) -> Callable[..., Any]:
    node, drive = divide(cfg, "scheduler")
    drive.setdefault("monitor", None)
    drive.pop("search", None)
    factory = make(node, partial=True) if node["_target_"] else None
    return functools.partial(scheduler.create, factory=factory, **drive)


def build_module(cfg: DictConfig, parts: Mapping[str, Any]) -> Module:
    """The LightningModule of the other parts."""
    module = make(divide(cfg, "module")[0], partial=True)(
        task=task.create(cfg.data.task, cfg.data.num_outputs),
        mixing=build_mixing(cfg),
        **{name: parts[name] for name in ADDED["module"] if name in parts},
    )
    if not isinstance(module, Module):
        raise ValueError(
            f"_target_ makes a {type(module).__name__}, and must make a quartet.module.Module: a "
            "subclass of it with a training_step of its own."
        )
    return module


def build_trainer(cfg: DictConfig, faults: list[str]) -> Trainer | None:
    """The trainer with its callbacks and loggers; None if one of them adds to `faults`."""
    on_train = not (cfg.monitor.metric or "").startswith("val/")
    before = len(faults)
    made: dict[str, list[Any]] = {"callbacks": [], "logger": [MetricsFile(cfg.directory)]}
    for group, objects in made.items():
        for name, node in plain(cfg[group]).items():
            if not node:
                continue
            for key in ("save_on_train_epoch_end", "check_on_train_epoch_end"):
                # Lightning would look after validation: a training metric is not there yet, and
                # without anything to monitor there may be no validation.
                if on_train and node.get("monitor") == cfg.monitor.metric and key in node:
                    node[key] = node[key] if node[key] is not None else True
            if group == "logger" and cfg.resume:
                node |= record.logged_run(Path(cfg.directory), name, node)
            with collecting(
                faults, f"{group}.{name}", schema.hints(allow.locate(node["_target_"]))
            ):
                objects.append(make(node))
    callbacks: list[Callback] = made["callbacks"]
    loggers: list[Logger] = made["logger"]
    node = divide(cfg, "trainer")[0]
    node["profiler"] = node["profiler"] or lean.NoProfiler()
    with collecting(faults, "trainer", schema.hints(Trainer)):
        create = make(node, partial=True)
        trainer: Trainer = create(
            plugins=[*(create.keywords.get("plugins") or ()), DurableCheckpoints()],
            callbacks=[*callbacks, Continuation(resume.end(cfg))],
            logger=loggers,
            default_root_dir=cfg.directory,
            enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
            enable_model_summary=False,
            num_sanity_val_steps=0,  # they would move the random numbers
            use_distributed_sampler=False,  # the data divides itself
        )
        faults += check.averages(trainer)
    if len(faults) > before:
        return None
    lean.lighten(trainer)
    return trainer


def count_steps(cfg: DictConfig, data: DataModule, world_size: int) -> tuple[int, float]:
    """Optimizer steps of an epoch and of the whole training."""
    batches = data.count_batches(world_size, count_rows(cfg, data)["train"])
    limit = cfg.trainer.overfit_batches or cfg.trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    per_epoch = max(1, math.ceil(batches / cfg.trainer.accumulate_grad_batches))
    epochs, steps = cfg.trainer.max_epochs, cfg.trainer.max_steps
    total = math.inf if epochs in (None, -1) else epochs * per_epoch
    return per_epoch, total if steps == -1 else min(total, steps)


def count_rows(cfg: DictConfig, data: DataModule) -> dict[str, int]:
    """Samples (or queries) of each part that is known before a download."""
    if not data.loaded:
        count, folds = cfg.data.train_samples, cfg.data.folds
        val = round(count * cfg.data.val_fraction)
        if folds:
            val = len(range(cfg.data.fold, count, folds))  # the first ones are larger by one
        return {"train": count - val, "val": val}
    parts = {name: getattr(data.parts, name) for name in ("train", "val", "test")}
    return {name: rows(part) for name, part in parts.items() if part is not None}


def check_batches(cfg: DictConfig, data: DataModule, parts: Mapping[str, Any]) -> list[str]:
    """Whether there are batches to train on, and whether the model takes the smallest of them."""
    processes = parts["trainer"].world_size
    counts = count_rows(cfg, data)
    batches = {"train": data.count_batches(processes, counts["train"])}
    for part in counts.keys() - {"train"}:
        batches[part] = math.ceil(counts[part] / (cfg.data.eval_batch_size * processes))
    faults = check.limits(plain(cfg.trainer), batches)
    size = cfg.data.batch_size
    whole = counts["train"] if size == "full" else size * processes
    rest = 0 if cfg.data.drop_last else counts["train"] % whole
    reached = (cfg.trainer.overfit_batches or cfg.trainer.limit_train_batches) == 1.0
    smallest = math.ceil((rest if rest and reached else whole) / processes)
    if smallest == 1 and cfg.data.task != "ranking":
        faults += check.single(parts["model"], cfg.data.input_shape, size)
    return faults


def divide(cfg: DictConfig, group: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A group's arguments of ``_target_``, and its keys that say how the part is used."""
    values = plain(cfg[group])
    driving = {key: values.pop(key) for key in DRIVING.get(group, ()) if key in values}
    name = driving.get("weights") if group == "model" else None
    if isinstance(name, str) and is_own_name(name, values["_target_"]):
        values["weights"] = name  # torchvision's models have names for theirs
    return values, driving


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Plain containers with interpolations resolved."""
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def make(node: Any, partial: bool = False) -> Any:
    """The object that `node` describes; with `partial`, a callable that still makes it.

    Raises:
        Refusal: the node, or one within it, names what must not be called.
    """
    if faults := allow.faults(node):
        raise Refusal(faults)
    try:
        if not partial:
            return hydra.utils.instantiate(node, _convert_="all")
        made = hydra.utils.instantiate(node, _convert_="all", _partial_=True)
    except InstantiationException as error:
        raise error.__cause__ or error from None
    # Hydra's own partial checks a policy at every call, which is too slow for a step.
    return functools.partial(made.func, *made.args, **made.keywords)
