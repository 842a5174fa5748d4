"""The groups of a configuration: their keys, and the parts that are made as they describe them."""

import copy
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf
from torch import nn
from torchmetrics import MetricCollection

from quartet.checkpoints import storage
from quartet.checkpoints.callbacks import ResumeState
from quartet.compat import lightning_loop, read_entry_points_once
from quartet.config import allow, records, signatures
from quartet.config.configuration import Configuration
from quartet.config.overrides import NAMED_GROUPS, base_group, find_groups
from quartet.core.files import CONF
from quartet.core.messages import join_and, join_or, suggest_name
from quartet.core.problems import Problem, collect_problems, refuse
from quartet.data.augment import Mixing
from quartet.data.datamodule import DataModule
from quartet.data.split import Parts, choose_positive
from quartet.data.task import TASKS, Task, create_task
from quartet.records.loggers import MetricsCSV, logged_run
from quartet.records.run_directory import split_part
from quartet.training import parameters, schedule
from quartet.training.callbacks.interruption import MonitorCheck
from quartet.training.module import Module

TOP_LEVEL = [
    *("loss", "metrics", "model", "module", "optimizer", "scheduler", "trainer", "callbacks"),
    *("logger", "data", "monitor", "seed", "check", "pictures", "resume", "directory", "hydra"),
]
# Keys of a group that say how to use its part; all others are arguments of its `_target_`.
POLICY_KEYS: dict[str, tuple[str, ...]] = {
    "data": (
        *("task", "input_shape", "num_classes", "num_outputs", "train_samples", "dir"),
        *("batch_size", "eval_batch_size", "shuffle", "balance", "drop_last", "num_workers"),
        *("mean", "std", "folds", "fold", "positive"),
        *("flip", "crop", "mixup", "cutmix"),
    ),
    "loss": ("tasks", "search"),
    "metrics": ("tasks",),
    "model": ("weights", "weights_keys", "strict", "search"),
    "module": (),
    "optimizer": ("freeze", "lr_factors", "decay_bias_and_norm", "search"),
    "scheduler": ("interval", "frequency", "warmup_steps", "warmup_epochs", "monitor", "search"),
    "trainer": ("compile", "channels_last"),
}
# Any option may say with which options of other groups it goes: {data: shapes}.
POLICY_KEYS = {group: (*keys, "requires") for group, keys in POLICY_KEYS.items()}
# Groups whose parts a module takes.
MODULE_GROUPS = ("model", "loss", "metrics", "optimizer", "scheduler")
# Groups whose part may be none, which ``_target_: null`` says.
MAY_BE_NONE = ("loss", "scheduler")
# Types of these keys, where the annotation of the part that gets them is too loose.
KEY_TYPES: dict[str, dict[str, Any]] = {
    "": {
        **{"seed": int, "directory": str},
        **{"check": Literal["only"] | None, "pictures": bool | None},
    },
    "monitor": {"metric": str | None, "mode": Literal["min", "max"] | None},
    "data": signatures.type_hints(DataModule)
    | {
        "task": str | None,
        "input_shape": Sequence[int] | None,
        "num_classes": int | None,
        "num_outputs": int | None,
        "train_samples": int | None,
        "dir": str,
        "folds": int | None,
        "fold": int,
        "positive": str | int | float | bool | None,
        "mixup": float,
        "cutmix": float,
        "batch_size": int | Literal["full"],
    },
    "loss": {"tasks": Sequence[str] | None},
    "metrics": {"tasks": Sequence[str] | None},
    "model": {
        "weights": str | None,
        "weights_keys": Sequence[str] | Mapping[str, str] | None,
        "strict": bool,
    },
    "optimizer": signatures.type_hints(parameters.create)
    | {"freeze": Sequence[str], "lr_factors": Mapping[str, float] | None},
    "scheduler": signatures.type_hints(schedule.create) | {"interval": Literal["step", "epoch"]},
    "trainer": {"compile": bool, "channels_last": bool},
}
for group in POLICY_KEYS:
    KEY_TYPES.setdefault(group, {})["requires"] = Mapping[str, str | Sequence[str]] | None
# Keys that may be absent.
OPTIONAL_KEYS = ("tasks", "monitor", "search", "requires", "weights_keys", "positive")
# Keys of the trainer that are read before there is one.
TRAINER_KEYS = (
    *("max_epochs", "max_steps", "max_time", "accelerator", "devices", "num_nodes"),
    *("strategy", "precision", "profiler"),
    *("accumulate_grad_batches", "check_val_every_n_epoch", "val_check_interval"),
    *("limit_train_batches", "limit_val_batches", "limit_test_batches", "overfit_batches"),
)
# Keys of a node that are no arguments of its `_target_`, as Hydra defines them.
HYDRA_KEYS = ("_target_", "_partial_", "_args_", "_convert_", "_recursive_")
# Number of arguments that are passed by position when the part is called.
N_POSITIONAL = {"optimizer": 1, "scheduler": 1}
# Arguments that the engine passes, and where to set them instead.
RESERVED_ARGUMENTS: dict[str, dict[str, str]] = {
    "data": dict.fromkeys(POLICY_KEYS["data"], ""),
    "module": {name: f"the {name} group sets it" for name in ("model", "loss", "metrics")}
    | {f"{name}s": f"the {name} group sets it" for name in NAMED_GROUPS}
    | {"task": "data.task names it", "mixing": "set data.mixup or data.cutmix"}
    | {"heads": "of names the head of each metric, such as metrics.iou.of=mask"},
    "trainer": {
        "callbacks": "the callbacks group sets them",
        "logger": "the logger group sets them",
        "default_root_dir": "hydra.run.dir names the run's directory",
        "enable_checkpointing": "callbacks.best=null and callbacks.last=null switch it off",
        "enable_model_summary": "check=only counts the parameters",
        "enable_progress_bar": "callbacks.progress_bar=null switches it off",
        "fast_dev_run": "trainer=smoke tries two batches of everything",
        "num_sanity_val_steps": "a trial would move the random numbers",
        "use_distributed_sampler": "the data divides itself",
    },
}
# Arguments that are filled in where they are null.
AUTO_FILLED = (
    *("T_max", "total_iters", "total_steps", "max_lr", "base_lr", "cycle_momentum"),
    *("monitor", "mode"),
)
DEFAULT_OPTION = {
    **{"data": "digits", "model": "mlp", "loss": "mse", "optimizer": "adam"},
    **{"scheduler": "cosine", "module": "default", "trainer": "default"},
}


def split_node(config: Mapping[str, Any], group: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits a group into the arguments of its ``_target_`` and the keys that say how to use it."""
    arguments = dict(config[group])
    keys = POLICY_KEYS.get(base_group(group), ())
    policy = {key: arguments.pop(key) for key in keys if key in arguments}
    policy.pop("requires", None)
    if group == "data" and is_foreign(config, "data"):
        accepted = signatures.parameters(allow.locate(arguments["_target_"]))[0]
        arguments |= {k: policy[k] for k in policy if k in accepted and k not in arguments}
    elif group == "data":
        policy["facts"] = [key for key in find_facts(arguments) if arguments.pop(key) is None]
    name = policy.get("weights") if group == "model" else None
    if isinstance(name, str) and is_pretrained_name(name, arguments["_target_"]):
        arguments["weights"] = name  # torchvision's models have names for their weights
    return arguments, policy


def is_foreign(config: Mapping[str, Any], group: str) -> bool:
    """Whether the module or the data is any Lightning class, which knows nothing of this engine."""
    own = Module if group == "module" else DataModule
    base = LightningModule if group == "module" else LightningDataModule
    try:
        found = allow.locate(config[group]["_target_"])
    except (KeyError, TypeError, ValueError):
        return False
    return isinstance(found, type) and issubclass(found, base) and not issubclass(found, own)


def unused_groups(config: Mapping[str, Any]) -> list[str]:
    """The groups of parts that a foreign module does not take, or brings along itself."""
    if not is_foreign(config, "module"):
        return []
    accepted, _ = signatures.parameters(allow.locate(config["module"]["_target_"]))
    return [g for g in module_groups(config) if g not in accepted or g in config["module"]]


def module_groups(config: Mapping[str, Any]) -> list[str]:
    """The groups whose parts a module takes."""
    return [group for base in MODULE_GROUPS for group in find_groups(config, base)]


def find_facts(arguments: Mapping[str, Any]) -> list[str]:
    """Keys of the data group without a value that its source does not take: the data tells them."""
    unset = [key for key, value in arguments.items() if value is None]
    try:
        accepted, takes_all = signatures.parameters(allow.locate(arguments["_target_"]))
    except (KeyError, ValueError):
        return []
    return [] if takes_all else [key for key in unset if key not in accepted]


def argument_names(config: Mapping[str, Any], group: str) -> list[str]:
    """Names of what a group accepts."""
    target = config[group].get("_target_")
    accepted = list(signatures.type_hints(allow.locate(target))) if target else []
    base = base_group(group)
    return [*POLICY_KEYS[base], *accepted[N_POSITIONAL.get(base, 0) :]]


def is_pretrained_name(name: str, target: str) -> bool:
    """Whether ``model.weights`` is a name that the model itself knows, and no path."""
    path = "/" in name or name.endswith(".ckpt") or Path(name).exists()
    return not path and "weights" in signatures.parameters(allow.locate(target))[0]


def find_options(group: str, task: str) -> list[str]:
    """Options of a group that are for `task`, from the listing of conf/."""
    files = (CONF / group).glob("*.yaml")
    tasks = {path.stem: OmegaConf.select(OmegaConf.load(path), "tasks") for path in files}
    return sorted(name for name, suited in tasks.items() if suited and task in suited)


log = logging.getLogger(__name__)


def make(node: Any, partial: bool = False) -> Any:
    """The object that `node` describes; with `partial`, a callable that still makes it.

    Raises:
        ConfigError: the node, or one within it, names what must not be called.
    """
    refuse(allow.find_problems(node))
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
        raise ValueError(f"_target_ gives a {type(made).__name__}, and must give {join_or(kinds)}.")
    return made


def build_data(config: Configuration, prepared: Mapping[str, Any] | None = None) -> DataModule:
    """The data; fills in the shape of inputs and the numbers of classes and outputs in `config`.

    It is prepared by the metadata of the data of a run, `prepared`; None fits it anew.
    """
    node, shared = split_node(config, "data")
    source: Callable[..., Parts] = make(node, partial=True)
    named = signatures.parameters(source)[0]
    folds = shared.pop("folds")
    shared["fold"] = (shared["fold"], folds) if folds else None
    if folds and "fold" not in named:
        message = f"{node['_target_']} has no argument fold, to hand to quartet.split; set null."
        raise ValueError(f"folds={folds}: {message}")
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
        parts = data.load()
        if not isinstance(parts, Parts):
            kind = type(parts).__name__
            raise ValueError(f"_target_ gives a {kind}, and must give quartet.Parts.")
        found = {**create_task(config["data"]["task"]).metadata(parts), **parts.facts}
        unset = {key: value for key, value in found.items() if config["data"].get(key, 0) is None}
        config.fill({f"data.{key}": value for key, value in unset.items()})
        for key in facts:
            if config["data"][key] is None:
                message = f"{node['_target_']} has no such argument, and the data no such fact"
                raise ValueError(f"{key}: {message}; {suggest_name(key, [*named, *found])}")
    keys = ("task", "input_shape", "num_classes", "num_outputs", *facts)
    data.config_metadata = {key: config["data"][key] for key in keys}
    return data


def import_task(name: str | None) -> None:
    """Imports the class of a project's own task, so that `create_task` finds it.

    Raises:
        ValueError: the name is of no task.
    """
    if name in TASKS:
        return
    if name is None or "." not in name:
        own = "the path of a task of your own, such as project.segmentation.Segmentation"
        raise ValueError(f"must be {join_or(list(TASKS))}, or {own}.")
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
    refuse(problems)
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


def build_module(config: Configuration, parts: Mapping[str, Any]) -> Module:
    """The LightningModule of the other parts."""
    data, node = config["data"], split_node(config, "module")[0]
    shares = {key: data[key] for key in ("mixup", "cutmix")}
    mixing = functools.partial(Mixing, num_outputs=data["num_outputs"], seed=config["seed"])
    given = {
        "task": create_task(data["task"], data["num_outputs"]),
        "mixing": mixing(**shares) if any(shares.values()) else None,
        "heads": metric_heads(config),
        "optimizers": {group: parts[group] for group in find_groups(config, "optimizer")},
        "schedulers": {group: parts[group] for group in find_groups(config, "scheduler")},
        **{name: parts[name] for name in RESERVED_ARGUMENTS["module"] if name in parts},
    }
    accepted, takes_any = signatures.parameters(allow.locate(node["_target_"]))
    if not takes_any and (missing := [name for name in given if name not in accepted]):
        way_out = "end its arguments in **parts, and pass them on, super().__init__(**parts)."
        raise ValueError(f"its constructor does not take {join_and(missing)}; {way_out}")
    module = make(node, partial=True)(**given)
    if not isinstance(module, Module):
        kind = f"a {type(module).__name__}, and must make a quartet.Module: a subclass of it"
        raise ValueError(f"_target_ makes {kind} with a training_step of its own.")
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
        create, checkpoints = make(node, partial=True), storage.DurableCheckpoints(directory)
        trainer: Trainer = create(
            plugins=[*(create.keywords.get("plugins") or ()), checkpoints],
            callbacks=[*callbacks.values(), ResumeState(records.end(config.node))],
            logger=[MetricsCSV(directory), *loggers.values()],
            profiler=create.keywords.get("profiler") or lightning_loop.NoProfiler(),
            default_root_dir=directory,
            enable_progress_bar=any(isinstance(each, ProgressBar) for each in callbacks.values()),
            enable_model_summary=False,
            num_sanity_val_steps=0,  # they would move the random numbers
            use_distributed_sampler=is_foreign(config, "data"),  # ours divides itself
        )
        if config["trainer"]["profiler"]:
            profiler: Any = trainer.profiler  # type: ignore[attr-defined]
            # One that is chosen by its name would print, where nobody looks.
            profiler.dirpath = profiler.dirpath or directory
            profiler.filename = profiler.filename or "profile"
        if config["trainer"]["limit_val_batches"] == 0:
            trainer.limit_val_batches = 0  # the constructor replaces it by overfit_batches
        monitored = {"monitor.metric": config["monitor"]["metric"]}
        monitored |= {f"{k}.monitor": node["monitor"] for k, node in list_observers(config).items()}
        check = MonitorCheck({key: value for key, value in monitored.items() if value})
        trainer.callbacks.insert(0, check)  # type: ignore[attr-defined]
    refuse(problems)
    lightning_loop.install(trainer)
    return trainer


def list_observers(config: Configuration) -> dict[str, Any]:
    """The settings of schedulers and callbacks that may monitor a value, by their keys."""
    nodes = {group: config[group] for group in find_groups(config, "scheduler")}
    nodes |= {f"callbacks.{name}": node for name, node in config["callbacks"].items()}
    return {key: node for key, node in nodes.items() if node and "monitor" in node}


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
