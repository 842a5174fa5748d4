"""The jobs of a sweep: their numbers, what came of them, and who works on which. Without torch."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quartet.config.overrides import quote
from quartet.core import files
from quartet.records.locks import lock
from quartet.records.run_directory import STARTING, read_result

# Of the overrides those that say how to sweep, not what.
SWEEP_GROUPS = ("launcher", "sweep")
EXIT_LOCKED = 75  # exit status of a job that another process has taken


@dataclass
class Job:
    """One configuration of a sweep.

    Attributes:
        directory: Its number, below the sweep's directory.
        overrides: What makes it differ from the files of conf/, as Hydra takes it.
        conf: Fingerprint of the files of conf/ with which it was planned.
        retried_as: Number of the job that was started in its place; None if it counts itself.
        ended: How its process ended, if not by itself.
    """

    directory: Path
    overrides: list[str]
    conf: str
    retried_as: int | None = None
    ended: str | None = None

    @property
    def number(self) -> int:
        return int(self.directory.name)

    @property
    def key(self) -> tuple[str, ...]:
        """What it is, whatever the order in which it was written."""
        return tuple(sorted(self.overrides))

    @property
    def result(self) -> dict[str, Any] | None:
        """Its result.json; None if it has not come to an end."""
        return read_result(self.directory) or None

    @property
    def status(self) -> str | None:
        return (self.result or {}).get("status")

    @property
    def open(self) -> bool:
        """Whether it is to be trained: not begun, killed or interrupted."""
        return self.status in (None, "interrupted")

    def go_on(self) -> list[str]:
        """Overrides with which it goes on from its checkpoints; none if it has not got that far."""
        if not any((self.directory / "checkpoints").glob("*.ckpt")):
            return []
        return [f"resume={quote(self.directory)}", f"hydra.output_subdir=.hydra/{STARTING}"]


class Table:
    """The jobs of a sweep by number, as ``sweep.json`` in its directory has them.

    Args:
        directory: Of the sweep.

    Attributes:
        command: Overrides of the newest start.
        jobs: By number.
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
        """The jobs that count: not those that were tried again as another one."""
        return [job for job in self.jobs.values() if job.retried_as is None]

    def read(self) -> None:
        if not self.path.exists():
            return
        try:
            told = json.loads(self.path.read_text())
            self.command = [str(each) for each in told["command"]]
            self.jobs = {
                int(number): Job(self.directory / number, **job)
                for number, job in told["jobs"].items()
            }
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.path} is no table of a sweep's jobs: {error}; name another directory."
            ) from None

    def write(self) -> None:
        """Writes ``sweep.json`` whole or not at all."""
        self.directory.mkdir(parents=True, exist_ok=True)
        lines = []
        for number, job in self.jobs.items():
            told = {key: value for key, value in vars(job).items() if key != "directory"}
            lines.append(f'"{number}": {json.dumps(told)}')
        content = ",\n".join(lines)
        text = f'{{"command": {json.dumps(self.command)},\n"jobs": {{\n{content}\n}}}}\n'
        files.write_atomic(self.path, text.encode())

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Within it, no other process changes the table; it is written at the end."""
        with lock(self.directory, wait=True):
            self.read()
            yield
            self.write()

    def add(self, overrides: Sequence[str], conf: str) -> Job:
        """A new job under the next number that no directory has."""
        taken = (int(path.name) for path in self.directory.glob("*") if path.name.isdigit())
        number = max([*self.jobs, *(taken if not self.jobs else ())], default=-1) + 1
        while (self.directory / str(number)).exists():
            number += 1
        job = Job(self.directory / str(number), list(overrides), conf)
        self.jobs[number] = job
        return job

    def note(self, job: Job, ended: str | None) -> None:
        """Remembers how the process of a job ended."""
        mine = self.jobs.get(job.number)
        if mine and mine.ended != ended:
            with self.changing():
                self.jobs[job.number].ended = ended


def jobs_of(directory: str | Path) -> list[Job]:
    """The jobs of a sweep that count, by number; of Hydra's own sweepers too."""
    table = Table(directory)
    if table.jobs:
        return table.current
    numbers = sorted(int(p.name) for p in table.directory.glob("*") if p.name.isdigit())
    return [Job(table.directory / str(number), [], "") for number in numbers]


# Locks: the system itself lets go of one when its process ends, however that ends.
