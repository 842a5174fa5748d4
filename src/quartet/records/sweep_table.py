"""The table of a sweep's jobs, ``sweep.json``: their numbers, overrides and results. Without torch."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quartet.core import files
from quartet.records.locks import lock
from quartet.records.run_directory import read_result


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

    Args:
        directory: Directory of the sweep.

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
                self.jobs[int(number)] = Job(self.directory / number, **job)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
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
        with lock(self.directory, wait=True):
            self.read()
            yield
            self.write()

    def add(self, overrides: Sequence[str], conf: str) -> Job:
        """Adds a job under the next number without a directory."""
        existing = (int(path.name) for path in self.directory.glob("*") if path.name.isdigit())
        number = max([*self.jobs, *(existing if not self.jobs else ())], default=-1) + 1
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
