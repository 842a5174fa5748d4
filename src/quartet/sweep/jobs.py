"""The jobs of a sweep: their numbers, what came of them, and who works on which. Without torch."""

import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quartet import files, rank
from quartet.command import STARTING, quoted, result_of

# Of the overrides those that say how to sweep, not what.
HOW = ("launcher", "sweep")
BUSY = 75  # exit status of a job that another process has taken

held_here: dict[Path, int] = {}


class Taken(RuntimeError):
    """Another process works in a directory. Tells which, and the way out."""


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
        return result_of(self.directory) or None

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
        return [f"resume={quoted(self.directory)}", f"hydra.output_subdir=.hydra/{STARTING}"]


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
        files.write(self.path, text.encode())

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Within it, no other process changes the table; it is written at the end."""
        with held(self.directory, wait=True):
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


def claim(directory: Path) -> bool:
    """Takes a directory for this process. False if another one has it."""
    directory = directory.resolve()
    if directory in held_here or rank.number() > 0:
        return True  # further processes of a run go with the first
    if sys.platform == "win32":
        return True  # no such locks there: start one process at a time
    import fcntl

    directory.mkdir(parents=True, exist_ok=True)
    path = directory / ".lock"
    while True:
        # Open for writing, without which network file systems lock nothing.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                os.truncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
                held_here[directory] = descriptor
                return True
        os.close(descriptor)  # the one that had it has just removed the file


def release(directory: Path) -> None:
    """Gives a directory back, if this process has it."""
    descriptor = held_here.pop(directory.resolve(), None)
    if descriptor is not None:
        with suppress(OSError):
            (directory / ".lock").unlink()
        os.close(descriptor)


@contextmanager
def held(directory: Path, *, wait: bool = False) -> Iterator[None]:
    """Within it, no other process works in a directory.

    Raises:
        Taken: another one does, and this one shall not wait.
    """
    if directory.resolve() in held_here:
        yield
        return
    while not claim(directory):
        if not wait:
            who = ""
            with suppress(OSError):  # the other process may have just ended
                who = (directory / ".lock").read_text()
            raise Taken(
                f"another process trains in {directory}: {who or 'unknown'}; wait until it ends."
            )
        time.sleep(0.01)
    try:
        yield
    finally:
        release(directory)
