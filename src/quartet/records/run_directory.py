"""A run directory: its saved configurations, its result, and whether it holds a run."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

STARTING = "starting"  # the folder of Hydra's record of a resumed run, until the run is loaded
RUN_FILES = ("result.json", ".hydra", "checkpoints", "metrics.csv")  # that show a run


def list_configs(directory: str | Path) -> list[Path]:
    """Lists the configuration files of a run: of its start, then of each resume."""
    folder = Path(directory) / ".hydra"
    later = [path / "config.yaml" for _, path in sorted(list_resumes(folder))]
    # A process that is killed at its start leaves an empty file.
    found = [path for path in (folder / "config.yaml", *later) if is_filled(path)]
    return found if found[:1] == [folder / "config.yaml"] else []


def list_resumes(folder: Path) -> list[tuple[int, Path]]:
    """Lists the records of a run's resumes, ``resume-1`` and so on, with their numbers."""
    found = ((re.fullmatch(r"resume-(\d+)", path.name), path) for path in folder.glob("resume-*"))
    return [(int(match[1]), path) for match, path in found if match]


def is_filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def newest_record(directory: str | Path) -> Path:
    """Returns the folder with the newest configuration of a run.

    Raises:
        FileNotFoundError: there is no run.
    """
    configs = list_configs(directory)
    if not configs:
        raise FileNotFoundError(f"resume={directory} holds no run: there is no .hydra/config.yaml.")
    return configs[-1].parent


def commit_record(record: Path) -> None:
    """Renames Hydra's record of a resume to the next number."""
    if record.name.startswith(STARTING):
        last = max((number for number, _ in list_resumes(record.parent)), default=0)
        record.rename(record.with_name(f"resume-{last + 1}"))


def discard_record(record: Path) -> None:
    """Removes Hydra's record of a resume that was refused."""
    if record.name.startswith(STARTING):
        shutil.rmtree(record, ignore_errors=True)


def read_result(directory: str | Path) -> dict[str, Any]:
    """Reads result.json of a run; returns an empty dictionary if it is missing or damaged."""
    file = Path(directory) / "result.json"
    try:
        # A pipe is no file, and reading it would hang.
        content = json.loads(file.read_text()) if file.is_file() else {}
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return content if isinstance(content, dict) and "status" in content else {}


def holds_run(directory: Path) -> bool:
    """Whether a directory holds any file of a run."""
    return any((directory / name).exists() for name in RUN_FILES)


def find_outside_links(directory: str | Path) -> list[tuple[Path, Path]]:
    """Finds links in a run directory that lead out of it, and their targets.

    A write would follow such a link. W&B's own links are left out: nothing here writes to them.
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
