"""The allow-list: the one place where a `_target_` becomes an object. Without torch.

YAML can come from elsewhere: a colleague's run, a downloaded experiment. So a `_target_` may name a
part of a training and nothing else: a class by what it descends from, or a function of the project.
"""

import inspect
import types
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import yaml

from quartet.config import signatures
from quartet.config.overrides import NAMED_PARTS, base_group
from quartet.core.files import CONF, PROJECTS
from quartet.core.messages import join_or
from quartet.core.problems import Problem, Problems

# (module, base): classes defined in the module or within it that descend from the base; without a
# base its functions.
Family = tuple[str, str | None]

DATA = "lightning.pytorch.LightningDataModule"
BASES = (
    "torch.nn.Module",
    "torch.optim.Optimizer",
    "torch.optim.lr_scheduler.LRScheduler",
    "torchmetrics.Metric",
    "lightning.pytorch.Callback",
    DATA,
    "lightning.pytorch.loggers.Logger",
    "lightning.pytorch.strategies.Strategy",
)
FAMILIES: list[Family] = [
    *((package, base) for package in PROJECTS for base in (None, *BASES)),
    ("quartet.data.csv", None),
    ("quartet.data.image_folder", None),
    ("quartet.parts", None),
    *(("quartet", base) for base in BASES if base != DATA),
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

# Classes that write or send something, and the group that makes them.
PLACES = {
    "lightning.pytorch.Callback": "callbacks",
    "lightning.pytorch.loggers.Logger": "logger",
    "lightning.pytorch.profilers.Profiler": "trainer",
    DATA: "data",
}
# What the classes of a group descend from, those of parts within them apart.
KINDS = {
    "data": (DATA,),
    "model": ("torch.nn.Module",),
    "loss": ("torch.nn.Module",),
    "metrics": ("torchmetrics.Metric", "torchmetrics.MetricCollection"),
    "optimizer": ("torch.optim.Optimizer",),
    "scheduler": ("torch.optim.lr_scheduler.LRScheduler",),
    "module": ("lightning.pytorch.LightningModule",),
    "trainer": ("lightning.pytorch.Trainer",),
    "callbacks": ("lightning.pytorch.Callback",),
    "logger": ("lightning.pytorch.loggers.Logger",),
}
# The groups of parts, in the order of messages.
PART_GROUPS = tuple(KINDS)


@cache
def extra_families() -> list[Family]:
    """The families of the packages in ``conf/allow.yaml``: of this checkout, never of a record."""
    file = CONF / "allow.yaml"
    listed = yaml.safe_load(file.read_text()) if file.is_file() else None
    return [(package, base) for package in (listed or {}).get("packages") or () for base in BASES]


def locate(path: str, kinds: Sequence[str] = ()) -> Callable[..., Any]:
    """The class or function that a `_target_` names, if it may be called.

    The object counts, not the name that leads to it: through the module of a class, ``os`` is in
    reach under many names. `kinds` are what its classes descend from, for messages.

    Raises:
        ValueError: it may not be called, or there is nothing of this name.
    """
    families = [*FAMILIES, *extra_families()]
    roots = list(dict.fromkeys(module.partition(".")[0] for module, _ in families))
    known = f"{', '.join(roots)}, or"
    message = "is no part of a training that a configuration may name. Name one of"
    error = ValueError(f"{message} {known}, if you trust its package, add that to conf/allow.yaml.")
    names = path.split(".")
    if names[0] not in roots or any(name.startswith("__") for name in names):
        raise error  # before it is imported, which runs code too
    try:
        found = signatures.locate(path)
    except ValueError:
        raise
    except BaseException as cause:  # an import may end in anything, SystemExit too
        raise ValueError(f"{path} cannot be imported: {cause}.") from cause
    is_part = any(is_member(found, module, base) for module, base in families)
    home = f"{getattr(found, '__module__', None)}."
    trusted = (*PROJECTS, *(package for package, _ in extra_families()))
    is_trusted = any(home.startswith(f"{package}.") for package in trusted)
    if is_trusted and not is_part and inspect.isclass(found):
        raise ValueError(describe_kinds(kinds or BASES))
    if not is_part:
        raise error
    return found


def describe_kinds(kinds: Sequence[str]) -> str:
    function = ", or a function that returns quartet.Parts" if kinds == (DATA,) else ""
    return f"must be a subclass of {join_or(kinds)}{function}."


def is_member(found: Any, module: str, base: str | None) -> bool:
    """Whether an object belongs to a family."""
    home = getattr(found, "__module__", None)
    if not isinstance(home, str) or not f"{home}.".startswith(f"{module}."):
        return False
    if base is not None:
        return descends(found, base)
    # No method, which would be given any object to work on; and an instance shows the module of its
    # class, so that what it calls is unknown.
    if not isinstance(found, types.FunctionType) or found.__name__ != found.__qualname__:
        return False
    return not found.__name__.startswith("_")


def descends(found: Any, *bases: str) -> bool:
    """Whether an object is a subclass of one of these classes."""
    return inspect.isclass(found) and issubclass(found, locate_bases(bases))


@cache
def locate_bases(bases: tuple[str, ...]) -> Any:
    """Returns the classes of these names."""
    return tuple(map(signatures.locate, bases))


def walk(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the dotted key and the value of each item of plain containers, those within too."""
    if isinstance(tree, dict | list):
        for name, item in tree.items() if isinstance(tree, dict) else enumerate(tree):
            path = f"{key}.{name}" if key else str(name)
            yield path, item
            yield from walk(item, path)


def find_targets(tree: Any) -> list[tuple[str, Any]]:
    """The keys and the values of all `_target_`s that are set."""
    named = ((key, item) for key, item in walk(tree) if key.rpartition(".")[2] == "_target_")
    return [(key, item) for key, item in named if item is not None]


def find_problems(tree: Any) -> list[Problem]:
    """Problems of plain containers: targets that must not be called, and objects."""
    found = [each for key, target in find_targets(tree) for each in check_target(key, target)]
    for key, item in walk({"": tree}):
        if isinstance(item, str) and "${" in item:
            # Hydra resolves what it instantiates again, and an object could come out of a text.
            message = "refers to another value even after it was resolved. Remove the backslash."
            found.append(Problem(key, message, item))
        elif not isinstance(item, dict | list | str | int | float | None):
            message = f"is a {type(item).__name__}. Write a text or a number."
            found.append(Problem(key, message, str(item)))
    return found


def check_target(key: str, target: Any) -> Problems:
    if not isinstance(target, str):
        message = f"is a {type(target).__name__}. Write a dotted name."
        yield Problem(key, message, str(target))
        return
    names = key.split(".")
    group = base_group(names[0])
    kinds = KINDS.get(group, ()) if len(names) == (3 if group in NAMED_PARTS else 2) else ()
    try:
        found = locate(target, kinds)
    except ValueError as error:
        yield Problem(key, str(error), target)
        return
    for base, own in PLACES.items() if group in PART_GROUPS else ():
        if group != own and descends(found, base):
            yield Problem(key, f"is a class for the group {own}. Name it there.", target)
            return
    if kinds and inspect.isclass(found) and not descends(found, *kinds):
        yield Problem(key, describe_kinds(kinds), target)
