"""Jobs of a sweep on other machines, each in a process of its own there. Without torch.

Ray or Slurm decide where and when; the process is that of ``launcher=local``. The machines share the
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
from quartet.records.sweep_table import Job, Table
from quartet.sweeps import local
from quartet.sweeps.jobs import EXIT_LOCKED, Progress

if TYPE_CHECKING:
    import subprocess

    from hydra.core.utils import JobReturn
    from omegaconf import DictConfig


@dataclass
class Work:
    """Trains a job when called; it is pickled and sent to the machine before.

    Whether the job is resumed, and from which checkpoint, is decided at the call, which may be days
    later, and again after each time that the job was requeued.

    Attributes:
        program: To run.
        job: To train.
        further: Environment variables that the machine lacks.
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
        if not self.job.is_pending:
            return EXIT_LOCKED  # another process has trained it meanwhile
        # Neither Lightning nor the run may ask the cluster for anything.
        scheduler = ("SLURM_", "SUBMITIT_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(scheduler)}
        self.process, output = local.start_process(self.program, self.job, {**kept, **self.further})
        with output:
            while True:
                try:
                    if (status := self.process.poll()) is not None:
                        break
                    time.sleep(0.1)
                except KeyboardInterrupt:  # by which Ray cancels it
                    self.process.terminate()
            local.write_missing_result(self.job, status, output)
        return status


class Engine(Protocol):
    """Where jobs are trained."""

    def known(self, todo: Sequence[Job]) -> Mapping[int, Any]:
        """Handles of the jobs, by number, that an earlier start submitted and that still run."""

    def submit(self, todo: Sequence[Job]) -> Sequence[Any]:
        """Submits jobs. Returns a handle for each."""

    def exit_status(self, handle: Any) -> int | str | None:
        """The exit status of a job, or in words why it has none; None while it waits or runs."""

    def interrupt(self, handles: Sequence[Any]) -> bool:
        """Reacts to a signal that ends the sweep. Returns whether these jobs are about to end too."""

    def close(self) -> None:
        """Disconnects from the machines."""


def train(
    engine: Engine, config: "DictConfig", job_overrides: Sequence[Sequence[str]], first: int
) -> "list[JobReturn]":
    """Trains jobs by an engine. Each returns its best value, as a job in this process does."""
    table = Table(config.hydra.sweep.dir)
    todo = local.list_todo(table, job_overrides, first)
    try:
        total = config.hydra.sweeper.get("n_trials")
        watch(engine, todo, table, Progress(table.current or todo, total))
    finally:
        engine.close()
    return local.make_returns(todo)


def watch(engine: Engine, todo: Sequence[Job], table: Table, progress: Progress) -> None:
    """Submits jobs and waits until each has ended, here or in another process that locked it."""
    known = engine.known(todo)
    running = [(job, known[job.number]) for job in todo if job.number in known]
    waiting = [job for job in todo if job.number not in known]
    with shutdown.deferred():
        while (waiting or running) and not shutdown.exit_code:
            if free := list(iter(partial(local.pop_free_job, waiting, progress), None)):
                running += zip(free, engine.submit(free), strict=True)
            running = collect(engine, running, waiting, table, progress)
            time.sleep(0.2)
        if shutdown.exit_code and engine.interrupt([handle for _, handle in running]):
            while running:
                running = collect(engine, running, [], table, progress)
                time.sleep(0.1)


def collect(
    engine: Engine,
    running: Sequence[tuple[Job, Any]],
    waiting: list[Job],
    table: Table,
    progress: Progress,
) -> list[tuple[Job, Any]]:
    """Records the jobs that have ended. Returns those that have not."""
    kept = []
    for job, handle in running:
        status = engine.exit_status(handle)
        if status is None:
            kept.append((job, handle))
        elif status == EXIT_LOCKED:
            waiting.append(job)
        else:
            reason = local.exit_reason(status) if isinstance(status, int) else status
            table.record_exit(job, reason)
            progress.end(job, reason)
    return kept


def require_engine(config: "DictConfig", package: str, extra: str, problems: Iterable[str]) -> None:
    """Exits with 2, and leaves nothing behind, if an engine is not installed or a setting is wrong."""
    problems = list(problems)
    if find_spec(package) is None:
        problems = [f"launcher={extra} needs {package}: pip install 'quartet[{extra}]'"]
    if problems:
        remove_empty_directories(Path(config.hydra.sweep.dir))
        abort("\n".join(problems))


def check_ray(num_cpus: float, num_gpus: float | None, env: Iterable[str]) -> Iterator[str]:
    """Problems with the settings of conf/launcher/ray.yaml."""
    for name, value in (("num_cpus", num_cpus), ("num_gpus", num_gpus or 0)):
        if value < 0 or (value > 1 and value % 1):
            yield f"launcher.{name} must be 0 or more, and a whole number above 1, got {value}."
    for name in env:
        if name not in os.environ:
            yield f"launcher.env: {name} is not set here."


NUMBERS = ("timeout_min", "cpus_per_task", "array_parallelism", "signal_delay_s")
COUNTS = ("max_num_timeout", "gpus_per_node")


def check_slurm(cluster: str, settings: Mapping[str, Any]) -> Iterator[str]:
    """Problems with the settings of conf/launcher/slurm.yaml."""
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
        if "\n" in str(value):  # would add a line to the script that Slurm runs
            yield f"launcher.{name} must be one line, got {value!r}."
