"""The files of a sweep: sweep.json, the table of its jobs; the study of a search. Without torch."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quartet.core import files
from quartet.records.run_directory import read_result

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage

# Overrides whose values repeat one setting: no setting is better for them.
REPEATED = ("seed", "data.fold", "data.split_seed")

PRUNERS = ("none", "median", "hyperband")

# Environment variable with the directory of the search that started a process.
SEARCH = "QUARTET_SEARCH"


class SweepTableError(ValueError):
    """The table of a sweep's jobs cannot be read. The message has the path."""


@dataclass
class Job:
    """One configuration of a sweep.

    Attributes:
        directory: Directory of the job, named by its number, in the sweep's directory.
        overrides: Hydra overrides of the job.
        conf: Fingerprint of the files of conf/ when the job was added.
        retried_as: Number of the job that replaces this one; None if it was not retried.
        exit_reason: How the job's process ended, if the job could not record that itself.
    """

    directory: Path
    overrides: list[str]
    conf: str
    retried_as: int | None = None
    exit_reason: str | None = None

    @property
    def number(self) -> int:
        return int(self.directory.name)

    @property
    def key(self) -> tuple[str, ...]:
        """Identifies the job, whatever the order of its overrides."""
        return tuple(sorted(self.overrides))

    @property
    def result(self) -> dict[str, Any] | None:
        """Its result.json; None if it has not ended."""
        return read_result(self.directory) or None

    @property
    def status(self) -> str | None:
        return (self.result or {}).get("status")

    @property
    def is_pending(self) -> bool:
        """Whether it must still be trained: it was not started, was killed or was interrupted."""
        return self.status in (None, "interrupted")

    @property
    def has_checkpoint(self) -> bool:
        return any((self.directory / "checkpoints").glob("*.ckpt"))


class Table:
    """The jobs of a sweep, read from ``sweep.json`` in its directory.

    Attributes:
        command: Overrides of the newest start.
        jobs: The jobs by number.

    Raises:
        ValueError: ``sweep.json`` is damaged.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.command: list[str] = []
        self.jobs: dict[int, Job] = {}
        self.read()

    @property
    def path(self) -> Path:
        return self.directory / "sweep.json"

    @property
    def current(self) -> list[Job]:
        """The jobs without those that were retried under another number."""
        return [job for job in self.jobs.values() if job.retried_as is None]

    def read(self) -> None:
        if not self.path.exists():
            return
        try:
            content = json.loads(self.path.read_text())
            self.command = [str(each) for each in content["command"]]
            self.jobs = {}
            for number, job in content["jobs"].items():
                if "ended" in job:  # as version 0.1 called it
                    job["exit_reason"] = job.pop("ended")
                job["overrides"] = list(job["overrides"])
                self.jobs[int(number)] = Job(self.directory / number, **job)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise SweepTableError(
                f"{self.path} is no table of a sweep's jobs: {error}; name another directory."
            ) from None

    def write(self) -> None:
        """Writes ``sweep.json`` atomically, one line per job."""
        self.directory.mkdir(parents=True, exist_ok=True)
        lines = []
        for number, job in self.jobs.items():
            entry = {key: value for key, value in vars(job).items() if key != "directory"}
            lines.append(f'"{number}": {json.dumps(entry)}')
        content = ",\n".join(lines)
        text = f'{{"command": {json.dumps(self.command)},\n"jobs": {{\n{content}\n}}}}\n'
        files.write_atomic(self.path, text.encode())

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Locks and reads the table, and writes it at the end of the block."""
        with files.lock(self.directory, wait=True):
            self.read()
            yield
            self.write()

    def add(self, overrides: Sequence[str], conf: str) -> Job:
        """Adds a job under the next number without a directory."""
        number = max(self.jobs, default=-1) + 1
        while (self.directory / str(number)).exists():
            number += 1
        job = Job(self.directory / str(number), list(overrides), conf)
        self.jobs[number] = job
        return job

    def record_exit(self, job: Job, reason: str | None) -> None:
        """Records how the process of a job ended."""
        mine = self.jobs.get(job.number)
        if mine and mine.exit_reason != reason:
            with self.changing():
                self.jobs[job.number].exit_reason = reason


def list_jobs(directory: str | Path) -> list[Job]:
    """Lists the current jobs of a sweep by number, also of a sweep by Hydra's own sweepers."""
    table = Table(directory)
    if table.jobs:
        return table.current
    numbers = sorted(int(p.name) for p in table.directory.glob("*") if p.name.isdigit())
    return [Job(table.directory / str(number), [], "") for number in numbers]


# The study of an Optuna search


def make_storage(url: str | None, directory: Path) -> "BaseStorage":
    """Opens the database at `url`, or a journal in the sweep's directory; processes can share it.

    Raises:
        ValueError: reading the database could run code.
    """
    from optuna.storages import JournalStorage, get_storage
    from optuna.storages.journal import JournalFileBackend

    refuse_pickles(url)
    if url:
        return get_storage(url)
    return JournalStorage(JournalFileBackend(str(journal_path(directory))))


def journal_path(directory: Path) -> Path:
    """The journal of the search in a sweep's directory."""
    return directory / "optuna" / "study.journal"


def refuse_pickles(url: str | None) -> None:
    """Refuses a database whose content Optuna would unpickle."""
    if url and url.startswith("redis"):
        message = "Optuna unpickles what it reads there, which may run code; name another database"
        raise ValueError(f"sweep.storage={url}: {message}, such as sqlite:///searches.db.")


def make_pruner(name: str, warmup_epochs: int, max_epochs: int | None) -> "BasePruner":
    """Creates the pruner with a name in `PRUNERS`."""
    from optuna import pruners

    if name == "median":
        # Epochs count from 1, Optuna's steps from 0.
        return pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=warmup_epochs + 1)
    if name == "hyperband":
        longest = max_epochs if max_epochs and max_epochs > 0 else "auto"
        return pruners.HyperbandPruner(min_resource=max(1, warmup_epochs), max_resource=longest)
    return pruners.NopPruner()


def repair_journal(directory: Path) -> None:
    """Removes an unfinished last line of a sweep's journal, which Optuna cannot read."""
    path = journal_path(directory)
    content = path.read_bytes() if path.exists() else b""
    if not content.endswith(b"\n") and content:
        os.truncate(path, content.rfind(b"\n") + 1)
