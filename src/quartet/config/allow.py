"""What a configuration may call: the one place where a `_target_` becomes an object.

YAML can come from elsewhere: a colleague's run, a downloaded experiment. So a `_target_` may name a
part of a training and nothing else. Imported at every start, so without torch.
"""

import gc
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from quartet.config import composing, signatures
from quartet.core import redaction
from quartet.core.files import PROJECTS

OWN = __name__.partition(".")[0]

# (module, base): classes defined in the module or within it that descend from the base; without a
# base its functions. A fork allows more here, such as
#     ("timm.optim", "torch.optim.Optimizer"),
FAMILIES: list[tuple[str, str | None]] = [
    *(
        (package, base)
        for package in PROJECTS
        for base in (
            None,
            "torch.nn.Module",
            "torch.optim.Optimizer",
            "torch.optim.lr_scheduler.LRScheduler",
            "torchmetrics.Metric",
            "lightning.pytorch.Callback",
            "lightning.pytorch.loggers.Logger",
            "lightning.pytorch.strategies.Strategy",
        )
    ),
    (f"{OWN}.data.csv", None),
    (f"{OWN}.data.image_folder", None),
    (f"{OWN}.parts", None),
    (OWN, "torch.nn.Module"),
    (OWN, "torch.optim.Optimizer"),
    (OWN, "torch.optim.lr_scheduler.LRScheduler"),
    (OWN, "torchmetrics.Metric"),
    (OWN, "lightning.pytorch.Callback"),
    (OWN, "lightning.pytorch.loggers.Logger"),
    (OWN, "lightning.pytorch.strategies.Strategy"),
    ("torch.nn", "torch.nn.Module"),
    ("torch.optim", "torch.optim.Optimizer"),
    ("torch.optim", "torch.optim.lr_scheduler.LRScheduler"),
    ("torchmetrics", "torchmetrics.Metric"),
    ("torchmetrics", "torchmetrics.MetricCollection"),
    ("torchvision.transforms.v2", "torch.nn.Module"),
    ("lightning.pytorch", "lightning.pytorch.Trainer"),
    ("lightning.pytorch", "lightning.pytorch.Callback"),
    ("lightning.pytorch", "lightning.pytorch.loggers.Logger"),
    ("lightning.pytorch", "lightning.pytorch.profilers.Profiler"),
    ("lightning.pytorch", "lightning.pytorch.strategies.Strategy"),
    ("lightning", "lightning.fabric.plugins.Precision"),
    ("lightning", "lightning.fabric.plugins.CheckpointIO"),
    ("lightning", "lightning.fabric.plugins.ClusterEnvironment"),
    ("lightning", "lightning.pytorch.plugins.LayerSync"),
]
# Those of Hydra's own settings, and of `logging` within them.
HYDRA: list[tuple[str, str | None]] = [
    (OWN, "hydra.experimental.callback.Callback"),
    ("hydra_plugins", "hydra.plugins.plugin.Plugin"),
    ("hydra._internal.core_plugins", "hydra.plugins.plugin.Plugin"),
    ("hydra.experimental", "hydra.experimental.callback.Callback"),
]
LOGGING: list[tuple[str, str | None]] = [
    (OWN, "logging.Handler"),
    (OWN, "logging.Formatter"),
    (OWN, "logging.Filter"),
    ("logging", "logging.StreamHandler"),  # files too, but no sockets, mail or queues
    ("logging", "logging.NullHandler"),
    ("logging", "logging.Formatter"),
    ("logging", "logging.Filter"),
    ("colorlog", "logging.Formatter"),
]
# Where Hydra makes objects, or has `logging` make them.
MADE_BY_HYDRA = ("callbacks", "launcher", "sweeper", "hydra_logging", "job_logging")
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
# What log handlers may have by these names: the log of the run, and no attributes.
PLACES = {"filename": "${hydra.runtime.output_dir}/${hydra.job.name}.log", ".": None}


def locate(
    path: str, families: Sequence[tuple[str, str | None]] | None = None
) -> Callable[..., Any]:
    """What a `_target_` names, if it may be called.

    The object counts, not the name that leads to it: through the module of a class, ``os`` is in
    reach under many names.

    Args:
        path: Its dotted name.
        families: As in FAMILIES, which they are by default.

    Raises:
        ValueError: it may not be called, or there is nothing of this name.
    """
    families = FAMILIES if families is None else families
    refusal = ValueError(
        "is no part of a training that a configuration may name, as those of "
        f"{', '.join(dict.fromkeys(module for module, _ in families))}; name one of them, or, if "
        f"you trust it, allow it in FAMILIES of {OWN}/allow.py."
    )
    names = path.split(".")
    roots = {module.partition(".")[0] for module, _ in families}
    if names[0] not in roots or any(name.startswith("__") for name in names):
        raise refusal  # before it is imported, which runs code too
    try:
        found = signatures.locate(path)
    except ValueError:
        raise
    except BaseException as error:  # an import may end in anything, SystemExit too
        raise ValueError(f"{path} cannot be imported: {error}.") from error
    if not any(belongs(found, module, base) for module, base in families):
        raise refusal
    return found


def belongs(found: Any, module: str, base: str | None) -> bool:
    """Whether an object is of a family."""
    home = getattr(found, "__module__", None)
    if not isinstance(home, str) or not f"{home}.".startswith(f"{module}."):
        return False
    if base is not None:
        return inspect.isclass(found) and issubclass(found, signatures.locate(base))  # type: ignore[arg-type]
    # No method, which would be given any object to work on; and an instance shows the module of its
    # class, so that what it calls is unknown.
    if not isinstance(found, types.FunctionType) or found.__name__ != found.__qualname__:
        return False
    return not found.__name__.startswith("_")


def faults(tree: Any, key: str = "") -> list[str]:
    """What in plain containers must not be called or cannot be judged, a sentence each."""
    return list(dict.fromkeys(found_in(tree, key)))


def found_in(tree: Any, key: str) -> Iterator[str]:
    if isinstance(tree, dict | list):
        for name, item in tree.items() if isinstance(tree, dict) else enumerate(tree):
            path = f"{key}.{name}" if key else str(name)
            if name == "_target_" and item is not None:
                yield from refused(path, item, FAMILIES)
            yield from found_in(item, path)
    elif isinstance(tree, str) and "${" in tree:
        yield f"{key}={tree}: {TWICE}"
    elif not isinstance(tree, str | int | float | None):
        yield f"{key}={tree}: is a {type(tree).__name__}; write a text or a number."


# Hydra resolves what it instantiates again, and an object could come out of a text.
TWICE = "stands for another value even after it was resolved; write it without the backslash."


def refused(key: str, target: Any, families: Sequence[tuple[str, str | None]]) -> Iterator[str]:
    try:
        if not isinstance(target, str):
            raise ValueError(f"is a {type(target).__name__}, and must be a dotted name.")
        locate(target, families)
    except ValueError as error:
        yield f"{key}={target}: {error}"


def guard() -> None:
    """Has Hydra's own settings checked whenever it composes a configuration, before it uses them.

    Hydra makes its callbacks, launcher, sweeper and log handlers before a program's own code runs.
    What must not be called ends the program with status 2.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    load = ConfigLoaderImpl.load_configuration
    if getattr(load, "guarded", False):
        return
    composing.hasten()

    def load_configuration(*args: Any, **kwargs: Any) -> DictConfig:
        cfg: DictConfig = load(*args, **kwargs)
        if not gc.isenabled():  # train.py put it off; what there is by now is no garbage
            gc.freeze()
            gc.enable()
        typed = kwargs["overrides"] if "overrides" in kwargs else args[2]
        found = [*elsewhere(cfg.hydra, typed), *found_in_hydra(cfg.hydra, "hydra")]
        if found := list(dict.fromkeys(found)):
            print("Refused:", *map(redaction.redact, found), sep="\n  ", file=sys.stderr)
            raise SystemExit(2)
        return cfg

    load_configuration.guarded = True  # type: ignore[attr-defined]
    ConfigLoaderImpl.load_configuration = load_configuration  # type: ignore[method-assign]


def elsewhere(hydra: DictConfig, typed: Sequence[str]) -> Iterator[str]:
    """Settings of Hydra's by which a run would write to other files, or have programs do so.

    Args:
        hydra: All of them.
        typed: The overrides of the command line.
    """
    told: Any = OmegaConf.to_container(hydra.overrides, resolve=False)
    if invented := [each for each in (*told["hydra"], *told["task"]) if each not in typed]:
        yield f"hydra.overrides: {', '.join(map(str, invented))} is not on the command line; leave it out."
    if names := list(hydra.job.env_set):
        yield (
            f"hydra.job.env_set: sets {', '.join(map(str, names))}, and programs that are called "
            "would follow; set variables in the shell, before the command."
        )
    raw: Any = OmegaConf.to_container(hydra.job, resolve=False)
    if not re.fullmatch(r"[\w.-]+|\?\?\?|None", str(raw["name"])):
        yield f"hydra.job.name={raw['name']}: must be of letters, digits, _, . and -."
    if not re.fullmatch(r"None|\.hydra(/starting(-\d+)?)?", str(hydra.output_subdir)):
        yield f"hydra.output_subdir={hydra.output_subdir}: must be .hydra, or null for none."


def found_in_hydra(node: DictConfig | ListConfig, key: str, depth: int = 0) -> Iterator[str]:
    """As `faults`, of settings some of which get their values later."""
    strict = key.startswith(tuple(f"hydra.{name}" for name in MADE_BY_HYDRA))
    raw: Any = OmegaConf.to_container(node, resolve=False)
    for name in list(node) if isinstance(node, DictConfig) else range(len(node)):
        path = f"{key}.{name}"
        if "_logging." in path and name in PLACES and raw[name] != PLACES[name]:
            yield f"{path}={raw[name]}: must be {PLACES[name]}."
            continue
        try:
            value = None if OmegaConf.is_missing(node, name) else node[name]
        except (OmegaConfBaseException, ValueError) as error:
            # A reference to a value of Hydra's leads into this tree, and so to what is seen here.
            simple = re.sub(r"\$\{(hydra[:.])?[\w.]+\}", "", str(raw[name]))
            if name in ("_target_", "()", "class") or (strict and "${" in simple):
                reason = str(error).partition("\n")[0]
                yield f"{path}={raw[name]}: {reason}; write what it stands for."
            continue
        if isinstance(value, dict | list):  # what a resolver made
            value = OmegaConf.create(value, parent=node)
        if name == "_target_" and value is not None:
            yield from refused(path, value, HYDRA)
        elif name in ("()", "class") and value is not None:
            yield from refused(path, value, LOGGING)
        elif isinstance(value, DictConfig | ListConfig):
            if depth > 30:
                yield f"{path}={raw[name]}: holds itself."
                return
            if not value._is_none():
                yield from found_in_hydra(value, path, depth + 1)
        elif isinstance(value, str):
            if value.startswith("ext://") and value not in STREAMS:
                yield f"{path}={value}: must be one of {', '.join(STREAMS)}."
            if strict and "${" in value:
                yield f"{path}={value}: {TWICE}"


def in_record(text: str) -> list[str]:
    """What a run's own ``config.yaml`` must not hold: what would direct Hydra, which writes none."""
    # As Hydra reads it: a line feed is not all that ends a line.
    if any(re.match(r"\s*#[#\s]*@", line) for line in text.splitlines()):
        return ["@package: a run's record says no such thing."]
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            return ["*: a run's record repeats nothing by a reference."]
        loaded = OmegaConf.create(text)
    except Exception:  # Hydra says better what is wrong with it
        return []
    keys = [
        key for key in ("hydra", "defaults") if isinstance(loaded, DictConfig) and key in loaded
    ]
    return [f"{key}: a run's record holds no such key." for key in keys]
