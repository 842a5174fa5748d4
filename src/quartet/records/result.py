"""result.json and environment.json of a run directory."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from quartet.core import files
from quartet.core.messages import redact

PACKAGES = ("torch", "torchvision", "torchmetrics", "lightning", "hydra-core", "numpy")


def empty_result() -> dict[str, Any]:
    """Returns result.json of a run whose configuration is unknown."""
    return {
        "status": None,
        "monitor": {"metric": None, "mode": None, "best": None, "epoch": None},
        "metrics": {},
        "checkpoints": {"best": None, "last": None},
        "choices": {},
        "seed": None,
        "seconds": {"fit": None, "total": None},
        "samples_per_second": None,
        "error": None,
    }


def initial_result(cfg: Any) -> dict[str, Any]:
    """Returns result.json of a run that starts, given its configuration."""
    result = empty_result() | {"seed": cfg.seed}
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


def write_failure(
    directory: Path, status: str, error: BaseException, cfg: Any | None = None
) -> None:
    """Writes result.json of a run that failed before it wrote its own."""
    result = empty_result() if cfg is None else initial_result(cfg)
    write_result(directory, result | failure(status, error))


def failure(status: str, error: BaseException) -> dict[str, Any]:
    """Returns the entries of result.json about the error of a run that did not finish."""
    message = redact(str(error))
    return {"status": status, "error": {"type": type(error).__name__, "message": message}}


def summary(
    directory: Path, history: Sequence[Mapping[str, float]], metric: str | None, mode: str
) -> dict[str, Any]:
    """Returns the entries of result.json about the epochs: the best one, its metrics and checkpoint.

    Args:
        directory: Of the run.
        history: Rows of metrics.csv.
        metric: Name of the monitored metric; None if nothing is monitored.
        mode: min or max.
    """
    # Without a monitored metric the last epoch is the best one.
    rows = [row for row in history if metric in row] or history[-1:]
    best = rows[-1]
    if metric:
        best = (min if mode == "min" else max)(rows, key=lambda row: row[metric])
    checkpoints = [(name, f"checkpoints/{name}.ckpt") for name in ("best", "last")]
    return {
        "monitor": {
            "metric": metric,
            "mode": mode,
            "best": best[metric] if metric else None,
            "epoch": best["epoch"],
        },
        "metrics": {k: v for k, v in best.items() if "/" in k},
        "checkpoints": {
            name: path if (directory / path).exists() else None for name, path in checkpoints
        },
    }


def write_result(directory: Path, result: Mapping[str, Any]) -> None:
    """Writes result.json atomically."""
    directory.mkdir(parents=True, exist_ok=True)
    files.write_atomic(directory / "result.json", files.encode_json(result))


def write_new(directory: Path, name: str, content: Mapping[str, Any]) -> Path:
    """Writes a JSON file under this name, or with -1, -2, ... before its suffix if it exists."""
    for path in files.numbered_paths(directory / name, ".json"):
        try:
            with path.open("x") as file:
                json.dump(content, file, indent=2)
        except FileExistsError:
            continue
        except OSError as error:
            error.filename = error.filename or str(path)  # a full disk does not say which
            raise
        return path
    raise AssertionError("there is always a next number")


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
    write_new(directory, "environment.json", environment)
