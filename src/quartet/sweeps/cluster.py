"""Jobs of a sweep on other machines, each in a process of its own there. Without torch.

Ray or Slurm say where and when; what runs is what ``launcher=local`` runs. The machines share the
file system and find the same Python and the same files under the same names.
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any, Protocol

from quartet.core.files import remove_empty_directories
from quartet.core.problems import abort
from quartet.core.signals import shutdown
from quartet.sweeps import jobs, local
from quartet.sweeps.jobs import Job, Table
from quartet.sweeps.live import Live

if TYPE_CHECKING:
    import subprocess

    from hydra.core.utils import JobReturn
    from omegaconf import DictConfig


@dataclass
class Work:
    """Trains a job when called; pickled before that, and brought to the machine.

    Whether the job goes on, and from which checkpoint, is seen then, which may be days later and
    again after each time that the machine was taken away.

    Attributes:
        program: That it runs.
        job: That it trains.
        further: Variables that the machine does not have by itself.
        folder: The working directory.
    """

    program: local.Program
    job: Job
    further: Mapping[str, str] = field(default_factory=dict)
    folder: str = field(default_factory=os.getcwd)
    process: "subprocess.Popen[bytes] | None" = None

    def __call__(self) -> int:
        """Returns the exit status of its process."""
        os.chdir(self.folder)
        if not self.job.open:
            return jobs.EXIT_LOCKED  # another process had it meanwhile
        # Of a cluster the job knows nothing: neither Lightning nor the run shall ask it for anything.
        scheduler = ("SLURM_", "SUBMITIT_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(scheduler)}
        self.process, output = local.start(self.program, self.job, {**kept, **self.further})
        with output:
            while True:
                try:
                    if (status := self.process.poll()) is not None:
                        break
                    time.sleep(0.1)
                except KeyboardInterrupt:  # Ray's way to say that it shall end
                    self.process.terminate()
            local.settle(self.job, status, output)
        return status


class Engine(Protocol):
    """Where jobs are trained."""

    def known(self, todo: Sequence[Job]) -> Mapping[int, Any]:
        """Handles of those jobs, by number, that an earlier start handed in and that go on."""

    def submit(self, todo: Sequence[Job]) -> Sequence[Any]:
        """Hands jobs in. Returns a handle for each."""

    def ended(self, handle: Any) -> int | str | None:
        """The exit status of a job, or in words why it has none; None while it waits or runs."""

    def leave(self, handles: Sequence[Any]) -> bool:
        """A signal ends the sweep. Returns whether these jobs are about to end too."""

    def close(self) -> None:
        """Lets go of the machines."""


def train(
    engine: Engine, config: "DictConfig", job_overrides: Sequence[Sequence[str]], first: int
) -> "list[JobReturn]":
    """Trains jobs by an engine. Each returns its best value, as a job in here does."""
    table = Table(config.hydra.sweep.dir)
    todo = local.jobs_in(table, job_overrides, first)
    try:
        total = config.hydra.sweeper.get("n_trials")
        with Live(table.current or todo, total=total).shown() as live:
            follow(engine, todo, table, live)
    finally:
        engine.close()
    return local.returns(todo)


def follow(engine: Engine, todo: Sequence[Job], table: Table, live: Live) -> None:
    """Hands jobs in and waits until each has ended, here or through another process that took it."""
    known = engine.known(todo)
    running = [(job, known[job.number]) for job in todo if job.number in known]
    waiting = [job for job in todo if job.number not in known]
    with shutdown.deferred():
        while (waiting or running) and not shutdown.exit_code:
            if free := list(iter(partial(local.next_free, waiting, live), None)):
                running += zip(free, engine.submit(free), strict=True)
            running = collect(engine, running, waiting, table, live)
            time.sleep(0.2)
        if shutdown.exit_code and engine.leave([handle for _, handle in running]):
            while running:
                running = collect(engine, running, [], table, live)
                time.sleep(0.1)


def collect(
    engine: Engine,
    running: Sequence[tuple[Job, Any]],
    waiting: list[Job],
    table: Table,
    live: Live,
) -> list[tuple[Job, Any]]:
    """Takes up those that have ended. Returns those that have not."""
    kept = []
    for job, handle in running:
        ended = engine.ended(handle)
        if ended is None:
            kept.append((job, handle))
            if job.number not in live.running and (job.directory / ".lock").exists():
                live.start(job)
        elif ended == jobs.EXIT_LOCKED:
            live.running.discard(job.number)
            waiting.append(job)
        else:
            reason = local.cut_short(ended) if isinstance(ended, int) else ended
            table.note(job, reason)
            live.end(job, reason)
    return kept


def ready(config: "DictConfig", package: str, extra: str, faults: Iterable[str]) -> None:
    """Exits with 2, and leaves nothing behind, if an engine is not installed or a setting is wrong."""
    faults = list(faults)
    if find_spec(package) is None:
        faults = [f"launcher={extra} needs {package}: pip install 'quartet[{extra}]'"]
    if faults:
        remove_empty_directories(Path(config.hydra.sweep.dir))
        abort("\n".join(faults))


def whole_or_shared(name: str, value: float) -> list[str]:
    """What is wrong with a number of processors: Ray has whole ones and parts of one."""
    if value < 0 or (value > 1 and value % 1):
        return [f"launcher.{name} must be 0 or more, and a whole number above 1, got {value}."]
    return []


def unset(names: Iterable[str]) -> list[str]:
    """What is wrong with names of variables that jobs shall have."""
    return [f"launcher.env: {each} is not set here." for each in names if each not in os.environ]


NUMBERS = ("timeout_min", "cpus_per_task", "array_parallelism", "signal_delay_s")
COUNTS = ("max_num_timeout", "gpus_per_node")


def slurm_faults(cluster: str, settings: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the settings of conf/launcher/slurm.yaml."""
    if cluster not in ("slurm", "local"):
        yield f"launcher.cluster={cluster}: must be slurm or local."
    elif cluster == "slurm" and not (which("sbatch") and which("srun")):
        yield (
            "launcher=slurm: there is no sbatch here; start it on a machine of the cluster, or try "
            "it with launcher.cluster=local."
        )
    for names, least in ((NUMBERS, 1), (COUNTS, 0)):
        for name in names:
            value = settings[name]
            if value is not None and (not isinstance(value, int) or value < least):
                yield f"launcher.{name} must be a whole number of at least {least}, got {value}."
    for name, value in settings.items():
        if "\n" in str(value):  # would be a line of its own in the script that Slurm runs
            yield f"launcher.{name} must be one line, got {value!r}."
