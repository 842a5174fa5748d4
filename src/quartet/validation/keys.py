"""Keys, names and values of a configuration, before anything is made of them."""

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from quartet.config import allow, signatures
from quartet.config.groups import (
    AUTO_FILLED,
    DEFAULT_OPTION,
    KEY_TYPES,
    N_POSITIONAL,
    OPTIONAL_KEYS,
    POLICY_KEYS,
    RESERVED_ARGUMENTS,
    TOP_LEVEL,
    TRAINER_KEYS,
    split_node,
    to_container,
)
from quartet.core import problems
from quartet.core.problems import ConfigError
from quartet.validation import settings
from quartet.validation import values as ranges


def check_keys(cfg: DictConfig) -> list[str]:
    """Keys that nothing reads, that are absent, or whose value cannot be had; that becomes null.

    Raises:
        Refusal: a whole group is absent.
    """
    absent = [key for key in TOP_LEVEL if key != "hydra" and key not in list(cfg)]
    absent += [
        f"{group}.{key}"
        for group, keys in (
            *POLICY_KEYS.items(),
            ("trainer", TRAINER_KEYS),
            ("monitor", KEY_TYPES["monitor"]),
        )
        for key in keys
        if group in cfg and key not in list(cfg[group]) and key not in OPTIONAL_KEYS
    ]
    faults = [f"{key} is missing; conf/ sets it, leave it there." for key in absent]
    if faults:
        raise ConfigError(faults)
    text = str(OmegaConf.to_container(cfg, resolve=False))
    interpolated = re.findall(r"\$\{\.*([A-Za-z_]\w*)", text)
    faults += settings.top_level(cfg, {*TOP_LEVEL, *interpolated})
    others = [name for name in cfg.monitor if name not in KEY_TYPES["monitor"]]
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


def check_values(cfg: DictConfig, group: str, faults: Sequence[str]) -> list[str]:
    """Values of the keys that say how a part is used; "" is the top level."""
    hints, wrong = KEY_TYPES.get(group, {}), refused(cfg, faults)
    values = to_container(cfg[group]) if group else {name: cfg[name] for name in hints}
    keys = [
        key for key in POLICY_KEYS.get(group, hints) if f"{group}.{key}".strip(".") not in wrong
    ]
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
    node, wrong = split_node(cfg, group)[0], refused(cfg, faults)
    if group not in ("metrics", "callbacks", "logger"):
        if node.get("_target_"):
            return check_tree(group, node, wrong, known)
        if group == "scheduler":
            others = [key for key in node if key != "_target_"]
            return [f"scheduler.{key}: scheduler=none does not read it." for key in others]
        return [
            f"{group}._target_ is missing; choose an option, such as {group}={DEFAULT_OPTION[group]}."
        ]
    found = []
    for name, part in node.items():
        if isinstance(part, Mapping) and part.get("_target_"):
            found += check_tree(f"{group}.{name}", part, wrong, known)
        elif part is not None:
            found.append(
                f"{group}.{name}: has no _target_, the class to make it of; null leaves it out."
            )
    return found


HYDRA_KEYS = ("_target_", "_partial_", "_args_", "_convert_", "_recursive_")


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
        faults += signatures.arguments(
            key,
            target,
            given,
            first=N_POSITIONAL.get(key, len(node.get("_args_", ()))),
            added=RESERVED_ARGUMENTS.get(key),
            partial=node.get("_partial_", False),
        )
        unset = AUTO_FILLED if known else given
        given = {
            name: value
            for name, value in given.items()
            if f"{key}.{name}" not in wrong and not (value is None and name in unset)
        }
        title = getattr(target, "__name__", "")
        faults += ranges.check(key, given, signatures.hints(target), title)
    for name, child in node.items():
        faults += check_tree(f"{key}.{name}", child, wrong, known)
    return faults


def refused(cfg: DictConfig, faults: Sequence[str]) -> set[str]:
    """Keys with faults, and those whose values are taken from them."""
    if not (wrong := problems.keys(faults)):
        return wrong
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
