"""A run directory: its saved configurations, its result, and whether it holds a run."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

STARTING = "starting"  # the folder of Hydra's record of a resumed run, until the run is loaded


def records(directory: str | Path) -> list[Path]:
    """The configurations of a run: that of its start, then that of each resume."""
    folder = Path(directory) / ".hydra"
    later = [path / "config.yaml" for _, path in sorted(numbered(folder))]
    # A process that is killed at its start leaves an empty file.
    found = [path for path in (folder / "config.yaml", *later) if is_filled(path)]
    return found if found[:1] == [folder / "config.yaml"] else []


def numbered(folder: Path) -> list[tuple[int, Path]]:
    """The records of a run's later starts, ``resume-1`` and so on, with their numbers."""
    found = ((re.fullmatch(r"resume-(\d+)", path.name), path) for path in folder.glob("resume-*"))
    return [(int(match[1]), path) for match, path in found if match]


def is_filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def newest_record(directory: str | Path) -> Path:
    """The folder with the newest configuration of a run.

    Raises:
        FileNotFoundError: there is no run.
    """
    configs = records(directory)
    if not configs:
        raise FileNotFoundError(f"resume={directory} holds no run: there is no .hydra/config.yaml.")
    return configs[-1].parent


def commit_record(record: Path) -> None:
    """Keeps Hydra's record of a resume under the next number."""
    if record.name.startswith(STARTING):
        last = max((number for number, _ in numbered(record.parent)), default=0)
        record.rename(record.with_name(f"resume-{last + 1}"))


def discard_record(record: Path) -> None:
    """Removes Hydra's record of a resume that was refused."""
    if record.name.startswith(STARTING):
        shutil.rmtree(record, ignore_errors=True)


def read_result(directory: str | Path) -> dict[str, Any]:
    """A run's result.json; empty if it has none, or something has damaged it."""
    file = Path(directory) / "result.json"
    try:
        content = (
            json.loads(file.read_text()) if file.is_file() else {}
        )  # no pipe, which would hang
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return content if isinstance(content, dict) and "status" in content else {}


RUN = ("result.json", ".hydra", "checkpoints", "metrics.csv")  # what another run must not overwrite


def holds_run(directory: Path) -> bool:
    """Whether anything of a run lies in a directory."""
    return any((directory / name).exists() for name in RUN)


def find_outside_links(directory: str | Path) -> list[tuple[Path, Path]]:
    """Links in a run directory that lead out of it, and their targets: a write would follow them.

    W&B's own links are left out, through which nothing here writes.
    """
    directory, found = Path(directory), []
    for folder, folders, files in os.walk(directory):
        for name in sorted([*folders, *files]):
            path = Path(folder, name)
            if path.is_symlink() and not path.resolve().is_relative_to(directory.resolve()):
                found.append((path, path.readlink()))
        if "wandb" in folders:
            folders.remove("wandb")
    return found
