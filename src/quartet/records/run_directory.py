"""A run directory: its configurations, result.json, environment.json, and whether it holds a run."""

import json
import logging
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from quartet.core import files
from quartet.core.messages import redact

log = logging.getLogger(__name__)

RUN_FILES = ("result.json", ".hydra", "checkpoints", "metrics.csv")  # that show a run
LENGTH = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time")  # of a training
PACKAGES = ("torch", "torchvision", "torchmetrics", "lightning", "hydra-core", "numpy")


def list_configs(directory: str | Path) -> list[Path]:
    """Lists the configuration files of a run: of its start, then of each resume."""
    folder = Path(directory) / ".hydra"
    begun = ((re.fullmatch(r"resume-(\d+)", path.name), path) for path in folder.glob("resume-*"))
    resumes = [path for _, path in sorted((int(match[1]), path) for match, path in begun if match)]
    # A process that is killed at its start leaves an empty file.
    found = [file for path in (folder, *resumes) if is_filled(file := path / "config.yaml")]
    return found if found[:1] == [folder / "config.yaml"] else []


def is_filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def read_file(path: Path) -> Any:
    """Reads a YAML or JSON file of a run as plain data.

    Raises:
        ValueError: it cannot be read, or holds a part of itself several times. No record does, and
            the parts could stand for more data than fits into memory.
    """
    try:
        if not path.is_file():  # a pipe would hang
            raise ValueError("it is no file")
        text = path.read_text()
        if path.suffix == ".json":
            return json.loads(text)
        # The parser in C is faster; a PyYAML built without libyaml lacks it.
        loaded = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if has_alias(loaded):
            raise ValueError("it refers to parts of itself by aliases")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: cannot be read: {' '.join(str(error).split())}.") from None
    return loaded


def has_alias(loaded: Any) -> bool:
    """Whether a list or dictionary occurs several times in nested ones."""
    seen: set[int] = set()
    stack = [loaded]
    while stack:
        node = stack.pop()
        if isinstance(node, dict | list):
            if id(node) in seen:
                return True
            seen.add(id(node))
            stack += node.values() if isinstance(node, dict) else node
    return False


def load_result(directory: str | Path) -> dict[str, Any]:
    """Reads result.json of a run.

    Raises:
        ValueError: it is missing or damaged.
    """
    path, empty = Path(directory) / "result.json", initial_result()
    content = read_file(path)
    if not is_result(content):
        raise ValueError(f"{path}: is no result of a run, an entry is missing, or of a wrong type.")
    groups = [key for key, value in empty.items() if isinstance(value, dict)]
    return {**empty, **content, **{key: empty[key] | (content.get(key) or {}) for key in groups}}


def is_result(content: Any) -> bool:
    """Whether the entries have the types that `write_result` gives them, or are left out."""
    if not isinstance(content, dict) or not isinstance(content.get("status"), str):
        return False
    if not isinstance(content.get("data_files"), str | None):
        return False
    for group in ("monitor", "metrics", "seconds", "error", "checkpoints", "choices"):
        entries = content.get(group) or {}
        if not isinstance(entries, dict):
            return False
        for key, value in entries.items():
            kind: Any = str if key in ("metric", "mode", "type", "message") else int | float
            if group not in ("checkpoints", "choices") and not isinstance(value, kind | None):
                return False
    return True


def read_result(directory: str | Path) -> dict[str, Any]:
    """Reads result.json of a run; returns an empty dictionary if it is missing or damaged."""
    try:
        return load_result(directory)
    except ValueError:
        return {}


def holds_run(directory: Path) -> bool:
    """Whether a directory holds any file of a run."""
    return any((directory / name).exists() for name in RUN_FILES)


def find_outside_links(directory: str | Path) -> list[tuple[Path, Path]]:
    """Finds links in a run directory that lead out of it, and their targets.

    A write would follow such a link. W&B's own links are left out: nothing here writes to them.
    """
    directory, found = Path(directory), []
    for folder, folders, names in os.walk(directory):
        for name in sorted([*folders, *names]):
            path = Path(folder, name)
            if path.is_symlink() and not path.resolve().is_relative_to(directory.resolve()):
                found.append((path, path.readlink()))
        if "wandb" in folders:
            folders.remove("wandb")
    return found


def flatten(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the dotted keys and the values of nested mappings; an empty one is a value."""
    if isinstance(node, dict) and node:
        for name, item in node.items():
            yield from flatten(item, f"{key}.{name}" if key else str(name))
    else:
        yield key, node


# result.json and environment.json


def initial_result(cfg: Any = None) -> dict[str, Any]:
    """Returns result.json of a run that starts; None stands for an unknown configuration."""
    result: dict[str, Any] = {
        "status": None,
        "monitor": {"metric": None, "mode": None, "best": None, "epoch": None},
        "metrics": {},
        "checkpoints": {"best": None, "last": None},
        "choices": {},
        "seed": None,
        "data_files": None,  # a fingerprint of those that the settings of the data name
        "seconds": {"fit": None, "total": None},
        "samples_per_second": None,
        "error": None,
    }
    if cfg is not None:
        result["seed"] = cfg.seed
        result["monitor"] |= {"metric": cfg.monitor.metric, "mode": cfg.monitor.mode}
        if "hydra" in cfg:
            result["choices"] = group_choices(cfg.hydra.runtime.choices)
    return result


def group_choices(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the chosen option of each config group, without those of Hydra and sweeps."""
    return {
        key: value
        for key, value in choices.items()
        if key not in ("sweep", "launcher") and not key.startswith("hydra")
    }


def write_failure(directory: Path, status: str, error: BaseException, cfg: Any = None) -> None:
    """Writes result.json of a run that failed before it wrote its own."""
    write_result(directory, initial_result(cfg) | failure(status, error))


def failure(status: str, error: BaseException) -> dict[str, Any]:
    """Returns the entries of result.json about the error of a run that did not finish."""
    message = redact(str(error))
    return {"status": status, "error": {"type": type(error).__name__, "message": message}}


def summary(
    directory: Path,
    history: Sequence[Mapping[str, float]],
    metric: str | None,
    checkpoints: Mapping[str, str],
    score: float | None = None,
) -> dict[str, Any]:
    """Returns the entries of result.json about the epochs: that of the best checkpoint, and its metrics.

    `history` has the rows of metrics.csv, at least one; `checkpoints` the paths of the best and the
    last one, as far as they were saved; `score` is the monitored value of the best.
    """
    # The weights are those of the last epoch, if none were saved for a value.
    best, name = history[-1], metric or ""
    if score is not None and "best" in checkpoints:
        best = next((row for row in history if row.get(name) == score), best)
    return {
        "monitor": {
            "best": None if math.isnan(value := best.get(name, math.nan)) else value,
            "epoch": best["epoch"],
        },
        "metrics": {k: v for k, v in best.items() if not re.match(r"(epoch|step|lr(/.*)?)$", k)},
        "checkpoints": {
            name: os.path.relpath(checkpoints[name], directory) if name in checkpoints else None
            for name in ("best", "last")
        },
    }


def checkpoint_path(directory: str | Path, name: str) -> Path:
    """Returns the path of a run's checkpoint, best or last: as result.json says, or its usual one.

    The best one of a run that saved none is the last. A record may not lead out of its directory.
    """
    root, result = Path(directory), read_result(directory)
    if result.get("status") == "finished" and not result["checkpoints"].get("best"):
        name = "last"
    named = result.get("checkpoints", {}).get(name)
    if isinstance(named, str) and (root / named).resolve().is_relative_to(root.resolve()):
        return root / named
    return root / f"checkpoints/{name}.ckpt"


def finite_figures(figures: Mapping[str, float]) -> dict[str, float | None]:
    """Returns figures with None for NaN and infinity, for which JSON has no number; tells the latter."""
    if large := [name for name, value in figures.items() if math.isinf(value)]:
        message = "too large for numbers of 32 bits and left out; give the targets in larger units."
        log.warning("%s: %s", ", ".join(large), message)
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def split_part(name: str) -> tuple[str, str]:
    """Splits the name of a value, val/loss or val_loss, into the part of the data and the rest."""
    found = re.fullmatch(r"(train|val|test)[/_](.+)", name)
    return (found[1], found[2]) if found else ("", name)


def write_result(directory: Path, result: Mapping[str, Any]) -> None:
    """Writes result.json atomically."""
    directory.mkdir(parents=True, exist_ok=True)
    files.write_json(directory / "result.json", result)


def write_new(path: Path, content: Mapping[str, Any]) -> Path:
    """Writes a JSON file under this name, or with -1, -2, ... before its suffix if it exists."""
    path = files.unique_path(path)
    files.write_json(path, content)
    return path


@cache
def describe_environment(folder: Path) -> dict[str, Any]:
    """Returns the commit of a folder, the machine and the package versions; cached."""

    def git(*arguments: str) -> str | None:
        try:
            # A repository may name a program that git would run.
            line = ["git", "-c", "core.fsmonitor=false", *arguments]
            done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=folder)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    changes = git("status", "--porcelain")
    return {
        "git": {
            "commit": git("rev-parse", "HEAD"),
            "dirty": None if changes is None else bool(changes),
        },
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def write_environment(directory: Path, device: str) -> None:
    """Writes environment.json, or environment-1.json and so on for a resumed run."""
    environment = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "device": device,
        **describe_environment(Path.cwd()),
    }
    directory.mkdir(parents=True, exist_ok=True)
    write_new(directory / "environment.json", environment)
