"""Directories of runs and sweeps. Imported at every start, so without torch."""

import atexit
import json
import os
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write

from quartet.stop import stop


class Directory(Callback):
    """Gives each run a directory of its own and never one that holds a run already.

    At the end of a sweep, says which jobs did not finish, its exit status then being 1, and makes
    the report.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        stop.release()
        if "LOCAL_RANK" in os.environ:  # a further process of a run that has its directory
            return
        if config.get("resume"):  # goes on in the directory of that run
            return
        directory = Path(config.hydra.run.dir)
        if not named("hydra.run.dir", config):
            change(config, "run", fresh(directory))
        elif (directory / "result.json").exists() or (directory / ".hydra").exists():
            print(
                f"hydra.run.dir: {directory} already holds a run, and nothing in it was touched; "
                "name another directory, or leave the name out for a new one.",
                file=sys.stderr,
            )
            raise SystemExit(2)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        stop.release()
        if not named("hydra.sweep.dir", config):
            change(config, "sweep", fresh(Path(config.hydra.sweep.dir)))
        atexit.register(write_report, config.hydra.sweep.dir)  # an interrupted sweep has no end

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        results = list(Path(config.hydra.sweep.dir).glob("*/result.json"))
        results.sort(key=lambda path: (len(path.parent.name), path.parent.name))  # 9 before 10
        unfinished = 0
        for path in results:
            result = json.loads(path.read_text())
            if result["status"] != "finished":
                unfinished += 1
                reason = (result["error"] or {}).get("message", "").replace("\n", "\n  ")
                print(f"job {path.parent.name} {result['status']}: {reason}", file=sys.stderr)
        print(
            f"{len(results) - unfinished} of {len(results)} jobs finished: {config.hydra.sweep.dir}"
        )
        write_report(config.hydra.sweep.dir)
        if unfinished:
            raise SystemExit(1)


def write_report(directory: str) -> None:
    """Makes the report of a sweep in which any job began; that it cannot be made fails no sweep."""
    atexit.unregister(write_report)
    if not any(Path(directory).glob("*/.hydra")):
        return
    try:
        from quartet.page import report

        report([directory])
    except Exception as error:
        print(
            f"No report, since {type(error).__name__}: {error}\n"
            f"Once that is mended: python scripts/report.py {directory}",
            file=sys.stderr,
        )


def named(key: str, config: DictConfig) -> bool:
    """Whether the user set `key` on the command line."""
    return any(
        override.lstrip("+").startswith(f"{key}=") for override in config.hydra.overrides.hydra
    )


def fresh(directory: Path) -> Path:
    """A new directory: this one, or with -1, -2, ... where others came first."""
    number = 0
    while True:
        path = directory if not number else directory.with_name(f"{directory.name}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return path


def change(config: DictConfig, kind: str, directory: Path) -> None:
    with read_write(config), open_dict(config):
        config.hydra[kind].dir = str(directory)
