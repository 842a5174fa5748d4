"""Writes conf/.schema/, by which editors complete and check the YAML: python scripts/schema.py.

One JSON schema for each group: what the constructors of its parts take, what conf/train.yaml adds for
every option, and the comments of both as descriptions. tests/test_schema.py says when it is due.
"""

import collections.abc
import json
import re
import types
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from omegaconf import OmegaConf

from quartet.config import allow, signatures
from quartet.config.groups import (
    AUTO_FILLED,
    KEY_TYPES,
    N_POSITIONAL,
    POLICY_KEYS,
    RESERVED_ARGUMENTS,
    TOP_LEVEL,
)
from quartet.core.files import CONF

FOLDER = CONF / ".schema"
# Groups of several parts, each under a name of its own.
MANY = ("metrics", "callbacks", "logger")
ONE = ("data", "loss", "model", "module", "optimizer", "scheduler", "trainer")
JSON = {float: "number", int: "integer", bool: "boolean", str: "string", types.NoneType: "null"}
# A value that stands for another, or that is still to be given.
OPEN = {"type": "string", "pattern": r"\$\{|^\?\?\?$"}
DEFAULTS = {"type": "array", "description": "Options that this one starts from."}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for group, content in schemas().items():
        (FOLDER / f"{group}.json").write_text(content)
    for path in CONF.rglob("*.yaml"):
        text = re.sub(r"^# yaml-language-server: .*\n", "", path.read_text(), flags=re.MULTILINE)
        package = re.match(r"(# @package .*\n)?", text)[0]  # Hydra knows it on the first line alone
        path.write_text(package + modeline(path) + text.removeprefix(package))


def modeline(path: Path) -> str:
    """What names the schema of a file of conf/; nothing for a group without a schema."""
    parts = path.relative_to(CONF).parts
    group = "experiment" if parts == ("train.yaml",) else parts[0]
    if group not in (*ONE, *MANY, "experiment"):
        return ""
    return f"# yaml-language-server: $schema={'../' * (len(parts) - 1)}.schema/{group}.json\n"


def schemas() -> dict[str, str]:
    """The content of every file."""
    made = {group: of_part(group, named(group)) for group in ONE}
    made |= {group: of_many(group) for group in MANY}
    made["experiment"] = of_everything()
    told = {"$comment": f"Made by scripts/schema.py with {versions()}."}
    return {group: json.dumps(told | node, indent=1) + "\n" for group, node in made.items()}


def versions() -> str:
    """Of the libraries whose constructors they describe."""
    return ", ".join(f"{name} {version(name)}" for name in ("torch", "torchmetrics", "lightning"))


def of_part(group: str, options: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """A part: its shared settings, and with a known `_target_` the arguments of that alone."""
    words = comments(CONF / "train.yaml", group)
    shared = {
        key: of_value(KEY_TYPES.get(group, {}).get(key, Any)) for key in POLICY_KEYS.get(group, ())
    }
    shared |= {
        "defaults": DEFAULTS,
        "_target_": {"type": ["string", "null"], "examples": [*options]},
    }
    branches = []
    for target, nodes in options.items():
        own = arguments(group, target, nodes)
        chosen: dict[str, Any] = {"properties": {"_target_": {"const": target}}}
        if len(options) > 1:  # else a file that starts from another option is meant too
            chosen["required"] = ["_target_"]
        then = {"properties": own, "propertyNames": {"enum": [*shared, *own]}}
        branches.append({"if": chosen, "then": then})
    return {"type": "object", "properties": described(shared, words), "allOf": branches}


def of_many(group: str) -> dict[str, Any]:
    """Parts under names of their own."""
    part = of_part("", named(group)) | {"type": ["object", "null"]}
    known = {"defaults": DEFAULTS} | {
        key: of_value(KEY_TYPES[group][key]) for key in POLICY_KEYS.get(group, ())
    }
    return {"type": "object", "properties": known, "additionalProperties": part}


def of_everything() -> dict[str, Any]:
    """What an experiment, or conf/train.yaml, may set."""
    top = {key: {"type": ["object", "null"]} for key in TOP_LEVEL}
    top |= {key: of_value(hint) for key, hint in KEY_TYPES[""].items()}
    top |= {"directory": {"type": ["string", "null"]}, "resume": {"type": ["string", "null"]}}
    monitor = {key: of_value(hint) for key, hint in KEY_TYPES["monitor"].items()}
    top["monitor"] = {"type": "object", "properties": monitor, "additionalProperties": False}
    for group in ONE:
        top[group] = {"type": "object", "properties": of_part(group, {})["properties"]}
    words = comments(CONF / "train.yaml", None)
    return {"type": "object", "properties": {"defaults": DEFAULTS} | described(top, words)}


def named(group: str) -> dict[str, list[dict[str, Any]]]:
    """The `_target_`s that the options of a group name, each with the nodes that do."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((CONF / group).glob("*.yaml")):
        loaded: Any = OmegaConf.to_container(OmegaConf.load(path)) or {}
        nodes = loaded.values() if group in MANY else [loaded]
        words = comments(path, None)
        for node in nodes:
            if isinstance(node, dict) and node.get("_target_"):
                found.setdefault(node["_target_"], []).append(node | {"": words})
    return found


def arguments(group: str, target: str, nodes: list[dict[str, Any]]) -> dict[str, Any]:
    """What the `_target_` takes; null where an option has it, which then means something."""
    hints = signatures.hints(allow.locate(target))
    values = {}
    for name in list(hints)[N_POSITIONAL.get(group, 0) :]:
        if name in RESERVED_ARGUMENTS.get(group, ()):
            continue
        null = name in AUTO_FILLED or any(node.get(name, 0) is None for node in nodes)
        values[name] = of_value(
            hints[name] | None if null and hints[name] is not Any else hints[name]
        )
    words = {key: word for node in reversed(nodes) for key, word in node[""].items()}
    return described(values, words)


def of_value(hint: Any) -> dict[str, Any]:
    made = of_hint(hint)
    return {"anyOf": [made, OPEN]} if made and made != {"type": "string"} else made


def of_hint(hint: Any) -> dict[str, Any]:
    """An annotation as JSON schema; {} takes everything."""
    origin, inner = get_origin(hint), get_args(hint)
    kind = origin or hint
    if origin in (Union, types.UnionType):
        # In an order of our own: Python 3.14 has that in which a union was met first.
        each = {str(found): found for found in map(of_hint, inner)}
        return {"anyOf": [each[name] for name in sorted(each)]} if all(each.values()) else {}
    if origin is Literal:
        return {"enum": list(inner)}
    if kind in JSON:
        return {"type": JSON[kind]}
    if not isinstance(kind, type) or kind in (object, Any):
        return {}
    if issubclass(kind, collections.abc.Mapping):
        return {"type": "object", "additionalProperties": of_value(inner[-1]) if inner else {}}
    if signatures.is_sequence(kind):
        fixed = kind is tuple and Ellipsis not in inner
        return {"type": "array", "items": of_value(inner[0]) if inner and not fixed else {}}
    return {"type": "object", "required": ["_target_"]}  # the description of an object


def described(values: Mapping[str, Any], words: Mapping[str, str]) -> dict[str, Any]:
    return {
        key: value | {"description": words[key]}
        if key in words and "description" not in value
        else value
        for key, value in values.items()
    }


def comments(path: Path, group: str | None) -> dict[str, str]:
    """The comment behind each key of a file, or of one group of it."""
    return dict(lines(path.read_text(), group))


def lines(text: str, group: str | None) -> Iterator[tuple[str, str]]:
    section = None
    for line in text.splitlines():
        if head := re.match(r"(\w+):", line):
            section = head[1]
        found = re.match(r"\s*(\w+):(?:\s.*?)?\s# (.+)", line)
        if found and (group is None or section == group):
            yield found[1], found[2]


if __name__ == "__main__":
    main()
