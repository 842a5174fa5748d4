"""Keys, arguments and values of a configuration, before anything is made of them."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from quartet.config import allow, signatures
from quartet.config.configuration import Configuration
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
)
from quartet.core.messages import suggest_name
from quartet.core.problems import ConfigError, Problem
from quartet.validation.values import check_values

HYDRA_KEYS = ("_target_", "_partial_", "_args_", "_convert_", "_recursive_")
# Groups of any number of parts, each under a name of its own.
NAMED_PARTS = ("metrics", "callbacks", "logger")


def check_keys(config: Configuration) -> Iterator[Problem]:
    """Yields keys that nothing reads, and values that cannot be resolved, which become null.

    Raises:
        ConfigError: a key that the engine reads is absent.
    """
    if absent := list(find_absent(config)):
        message = "is missing; conf/ sets it, leave it there."
        raise ConfigError(*(Problem(key, message) for key in absent))
    interpolated = re.findall(r"\$\{\.*([A-Za-z_]\w*)", str(config.raw))
    known = sorted({*TOP_LEVEL, *interpolated})
    for key in config.raw:
        if key not in known:
            yield Problem(key, f"nothing reads this key; {suggest_name(key, known)}")
    for name in config.keys_of("monitor"):
        if name not in KEY_TYPES["monitor"]:
            yield Problem(f"monitor.{name}", "nothing reads this key; it has metric and mode.")
    yield from config.clear_unresolved()


def find_absent(config: Configuration) -> Iterator[str]:
    """Yields keys that the engine reads and that are not there."""
    yield from (key for key in TOP_LEVEL if key != "hydra" and key not in config.raw)
    read = {**POLICY_KEYS, "monitor": tuple(KEY_TYPES["monitor"])}
    read["trainer"] += TRAINER_KEYS
    for group, keys in read.items():
        present = config.keys_of(group) if group in config.raw else keys
        for key in keys:
            if key not in present and key not in OPTIONAL_KEYS:
                yield f"{group}.{key}"


def check_policy(config: Configuration, group: str, wrong: Collection[str]) -> Iterator[Problem]:
    """Yields wrong values of the keys that say how to use a part; "" is the top level."""
    hints = KEY_TYPES.get(group, {})
    values = config[group] if group else config
    keys = [
        key
        for key in POLICY_KEYS.get(group, hints)
        if key in values and f"{group}.{key}".strip(".") not in wrong
    ]
    yield from check_values(group, {key: values[key] for key in keys}, hints)


def check_parts(
    config: Configuration, group: str, wrong: Collection[str], shapes_known: bool = True
) -> Iterator[Problem]:
    """Yields wrong names and values of the arguments of a group's parts.

    Args:
        config: The configuration.
        group: The group.
        wrong: Keys that have problems already, or refer to such.
        shapes_known: Whether the shapes of the data are; else null may stand for them.
    """
    node = split_node(config, group)[0]
    if group in NAMED_PARTS:
        for name, part in node.items():
            if isinstance(part, Mapping) and part.get("_target_"):
                yield from check_tree(f"{group}.{name}", part, wrong, shapes_known)
            elif part is not None:
                message = "has no _target_, the class to make it of; null leaves it out."
                yield Problem(f"{group}.{name}", message)
    elif node.get("_target_"):
        yield from check_tree(group, node, wrong, shapes_known)
    elif group == "scheduler":
        for key in node:
            if key != "_target_":
                yield Problem(f"scheduler.{key}", "scheduler=none does not read it.")
    else:
        option = f"{group}={DEFAULT_OPTION[group]}"
        yield Problem(f"{group}._target_", f"is missing; choose an option, such as {option}.")


def check_tree(
    key: str, node: Any, wrong: Collection[str], shapes_known: bool
) -> Iterator[Problem]:
    """Checks the arguments of a node that has a ``_target_``, and of all such nodes within it."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    if not isinstance(node, dict):
        return
    if node.get("_target_"):
        try:
            target = allow.locate(node["_target_"])
        except ValueError as error:
            yield Problem(f"{key}._target_", str(error), node["_target_"])
            return
        given = {name: value for name, value in node.items() if name not in HYDRA_KEYS}
        yield from signatures.check_arguments(
            key,
            target,
            given,
            positional=N_POSITIONAL.get(key, len(node.get("_args_", ()))),
            reserved=RESERVED_ARGUMENTS.get(key),
            partial=node.get("_partial_", False),
        )
        filled = AUTO_FILLED if shapes_known else given
        given = {
            name: value
            for name, value in given.items()
            if f"{key}.{name}" not in wrong and not (value is None and name in filled)
        }
        title = getattr(target, "__name__", "")
        yield from check_values(key, given, signatures.type_hints(target), title)
    for name, child in node.items():
        yield from check_tree(f"{key}.{name}", child, wrong, shapes_known)
