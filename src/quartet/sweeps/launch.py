"""Trains the jobs of a sweep in processes of their own, here or on other machines. Without torch."""

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from omegaconf import DictConfig

from quartet.config.overrides import find_places, quote
from quartet.core.files import remove_empty_directories, try_lock, unlock
from quartet.core.problems import abort
from quartet.core.processes import shutdown
from quartet.records import run_directory as record
from quartet.records.sweep import Job, Table

if TYPE_CHECKING:
    from hydra_plugins.quartet import LocalLauncher

SWEEP_GROUPS = ("launcher", "sweep")  # groups that configure the sweep itself, not its jobs
EXIT_LOCKED = 75  # exit status of a job that another process trains


def resume_overrides(job: Job) -> list[str]:
    """Overrides that resume a job from its checkpoints; none if it has no checkpoint."""
    if not job.has_checkpoint:
        return []
    return [f"resume={quote(job.directory)}", "hydra.output_subdir=null"]


class Progress:
    """Prints a line to stderr for each job that ends: its status, and how far the sweep is.

    Args:
        total: Number of jobs that it will have; more may be to come.
    """

    def __init__(self, jobs: Sequence[Job], total: int = 0) -> None:
        self.total = max(total, len(jobs))
        self.results = {job.number: job.result for job in jobs}
        self.shared = set.intersection(*(set(job.overrides) for job in jobs)) if jobs else set()
        self.begun = time.monotonic()
        self.ended = 0

    def update(self, job: Job) -> None:
        """Reads the result of a job, which another process may have trained."""
        self.results[job.number] = job.result

    def end(self, job: Job, reason: str | None = None) -> None:
        """Prints the line of a job that has ended here; `reason` is why it did not finish."""
        self.ended += 1
        self.update(job)
        status = reason or job.status or "did not end"
        own = " ".join(each for each in job.overrides if each not in self.shared)
        print(f"job {job.number} ({own}) {status}; {self}", file=sys.stderr)

    def __str__(self) -> str:
        found = [(number, result) for number, result in self.results.items() if result]
        done = [(number, result) for number, result in found if result["status"] == "finished"]
        counts = Counter(result["status"] for _, result in found)
        parts = [f"{len(done)} of {self.total} done"]
        parts += [f"{counts[each]} {each}" for each in ("failed", "refused") if counts[each]]
        if best := find_best(done):
            parts.append(best)
        left = self.total - len(done) - counts["failed"] - counts["refused"]
        if left and self.ended:
            seconds = round((time.monotonic() - self.begun) / self.ended * left)
            parts.append(f"about {timedelta(seconds=seconds)} left")
        return "sweep: " + ", ".join(parts)


def find_best(done: Sequence[tuple[int, Any]]) -> str | None:
    """The best of the finished jobs by the figure that the first one monitors, in words."""
    scored = [(n, r["monitor"]) for n, r in done if r["monitor"]["best"] is not None]
    if not scored:
        return None
    first = scored[0][1]
    comparable = [each for each in scored if each[1]["metric"] == first["metric"]]
    choose = max if first["mode"] == "max" else min
    number, best = choose(comparable, key=lambda each: each[1]["best"])
    return f"best {best['metric']} {best['best']:.4g} (job {number})"


class Engine:
    """Where the jobs of a sweep are trained."""

    slots: float = math.inf  # jobs that run at once; the others wait here

    def known(self, todo: Sequence[Job]) -> Mapping[int, Any]:
        """Handles of the jobs, by number, that an earlier start submitted and that still run."""
        return {}

    def submit(self, todo: Sequence[Job]) -> Sequence[Any]:
        """Submits jobs. Returns a handle for each."""
        raise NotImplementedError

    def exit_status(self, handle: Any) -> int | str | None:
        """The exit status of a job, or in words why it has none; None while it waits or runs."""
        raise NotImplementedError

    def interrupt(self, handles: Sequence[Any]) -> bool:
        """Reacts to a signal that ends the sweep. Returns whether these jobs are about to end too."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends what would outlive the sweep."""


def launch(engine: Engine, todo: Sequence[Job], table: Table, progress: Progress) -> None:
    """Trains jobs by an engine until each has ended, here or in another process that locked it."""
    try:
        watch(engine, todo, table, progress)
    finally:
        engine.close()


def watch(engine: Engine, todo: Sequence[Job], table: Table, progress: Progress) -> None:
    """Submits jobs, and waits for them."""
    known = engine.known(todo)
    running = [(job, known[job.number]) for job in todo if job.number in known]
    waiting = [job for job in todo if job.number not in known]
    with shutdown.deferred():
        while (waiting or running) and not shutdown.exit_code:
            if free := pop_free_jobs(waiting, progress, engine.slots - len(running)):
                running += zip(free, engine.submit(free), strict=True)
            running = collect(engine, running, waiting, table, progress)
            time.sleep(0.1)
        if shutdown.exit_code and engine.interrupt([handle for _, handle in running]):
            while running:
                running = collect(engine, running, [], table, progress)
                time.sleep(0.1)


def pop_free_jobs(waiting: list[Job], progress: Progress, most: float) -> list[Job]:
    """Removes the next jobs from those that wait: pending ones that no other process trains."""
    free: list[Job] = []
    for job in list(waiting):
        if len(free) >= most:
            break
        if not try_lock(job.directory):
            continue
        unlock(job.directory)  # its own process locks it
        waiting.remove(job)
        if job.is_pending:
            free.append(job)
        else:
            progress.update(job)
    return free


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
            reason = exit_reason(status) if isinstance(status, int) else status
            table.record_exit(job, reason)
            progress.end(job, reason)
    return kept


def exit_reason(status: int) -> str | None:
    """Why the process of a job ended early; None if it did not."""
    if status < 0:
        return f"killed by signal {-status}"
    return "interrupted" if status in (130, 143) else None


def refuse_settings(
    config: DictConfig, package: str | None, extra: str, problems: Iterable[str]
) -> None:
    """Exits with 2, and leaves nothing behind, if a package is missing or a setting is wrong."""
    found = list(problems)
    if package and find_spec(package) is None:
        found = [f"launcher={extra} needs {package}: pip install -e '.[{extra}]'"]
    if found:
        remove_empty_directories(Path(config.hydra.sweep.dir))
        abort("\n".join(found))


# The process of a job


@dataclass(frozen=True)
class Program:
    """The command line that trains a job.

    Attributes:
        command: The program and its arguments, for every job.
        flags: Where the configuration is; a resumed job has its own.
    """

    command: list[str]
    flags: list[str]

    def line(self, job: Job) -> list[str]:
        """The command line that begins or resumes a job."""
        begin = [*self.flags, *job.overrides, f"hydra.run.dir={quote(job.directory)}"]
        if resumed := resume_overrides(job)[:1]:  # its record has its overrides, but for places
            begin = [*resumed, *find_places(job.overrides)]
        number = [f"hydra.job.num={job.number}", f"hydra.job.id={job.number}"]
        return [*self.command, *begin, *number]


def make_program(config: DictConfig) -> Program:
    """This program, for the jobs of the sweep that it was started for."""
    command = [sys.executable, sys.argv[0], *job_settings(config.hydra.overrides.hydra)]
    return Program(command, config_flags(sys.argv[1:]))


def config_flags(arguments: Sequence[str]) -> list[str]:
    """The flags of the command line that name the configuration's place."""
    parser = ArgumentParser(add_help=False)
    for name in ("path", "name", "dir"):
        parser.add_argument(f"--config-{name}", f"-c{name[0]}")
    given = vars(parser.parse_known_args(arguments)[0])
    flags = {f"--{name.replace('_', '-')}": value for name, value in given.items() if value}
    return [each for flag in flags.items() for each in flag]


def job_settings(overrides: Sequence[str]) -> list[str]:
    """Settings of Hydra that a job in a process of its own inherits from the sweep."""
    sweeping = ("sweep.", "sweeper", "launcher", "mode", "run.", "job.num", "job.id")
    kept = [
        each
        for each in overrides
        if not each.lstrip("+~").removeprefix("hydra")[1:].startswith(sweeping)
    ]
    return [*kept, "hydra.mode=RUN"]


class LocalEngine(Engine):
    """Trains jobs in processes on this machine; one that is killed ends no other."""

    def __init__(self, launcher: "LocalLauncher") -> None:
        self.program = make_program(launcher.config)
        self.slots = launcher.n_jobs
        self.environments = environments(launcher.n_jobs, launcher.gpus_per_job, visible_gpus())
        self.running: dict[int, tuple[Job, subprocess.Popen[bytes], IO[str]]] = {}

    def submit(self, todo: Sequence[Job]) -> list[int]:
        """Starts a process for each job, in a free slot."""
        slots = [n for n in range(len(self.environments)) if n not in self.running]
        for slot, job in zip(slots, todo, strict=False):
            environment = {**os.environ, **self.environments[slot]}
            self.running[slot] = job, *start_process(self.program, job, environment)
        return slots[: len(todo)]

    def exit_status(self, handle: int) -> int | None:
        job, process, output = self.running[handle]
        status = process.poll()
        if status is not None:
            del self.running[handle]
            with output:
                write_missing_result(job, status, output)
        return status

    def interrupt(self, handles: Sequence[int]) -> bool:
        self.send_signal(shutdown.exit_code - 128)
        return True

    def close(self) -> None:
        self.send_signal(shutdown.exit_code - 128 if shutdown.exit_code else signal.SIGTERM)
        for _, process, _ in self.running.values():
            process.wait()

    def send_signal(self, number: int) -> None:
        for _, process, _ in self.running.values():
            process.send_signal(number)


def start_process(
    program: Program, job: Job, environment: Mapping[str, str]
) -> tuple["subprocess.Popen[bytes]", IO[str]]:
    """Starts the process of a job, and opens the file of its output."""
    job.directory.mkdir(parents=True, exist_ok=True)
    output = (job.directory / "output.log").open("a+")
    output.seek(0, os.SEEK_END)
    process = subprocess.Popen(
        program.line(job),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        start_new_session=True,  # Ctrl+C comes from here alone, once
    )
    return process, output


@dataclass
class Work:
    """Trains a job on another machine when called; it is pickled and sent there before.

    The machines share the file system and find the same Python and files under the same names.

    Whether the job is resumed, and from which checkpoint, is decided at the call, which may be days
    later, and again after each time that the job was requeued.

    Attributes:
        further: Environment variables that the machine lacks.
        folder: The working directory.
    """

    program: Program
    job: Job
    further: Mapping[str, str] = field(default_factory=dict)
    folder: str = field(default_factory=os.getcwd)
    process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Returns the exit status of its process."""
        os.chdir(self.folder)
        if not self.job.is_pending:
            return EXIT_LOCKED  # another process has trained it meanwhile
        # Neither Lightning nor the run may ask the cluster for anything.
        scheduler = ("SLURM_", "SUBMITIT_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(scheduler)}
        self.process, output = start_process(self.program, self.job, {**kept, **self.further})
        with output:
            while True:
                try:
                    if (status := self.process.poll()) is not None:
                        break
                    time.sleep(0.1)
                except KeyboardInterrupt:  # by which Ray cancels it
                    self.process.terminate()
            write_missing_result(self.job, status, output)
        return status


def write_missing_result(job: Job, status: int, output: IO[str]) -> None:
    """Writes the result of a job whose process failed without writing it itself."""
    if status <= 0 or exit_reason(status) or status == EXIT_LOCKED or job.result is not None:
        return
    output.seek(0)
    error = SystemExit(last_lines(output))
    record.write_failure(job.directory, "refused" if status == 2 else "failed", error)


def last_lines(output: IO[str]) -> str:
    """The last lines of a job's output."""
    lines = [line.strip() for line in output if line.strip()]
    return "\n".join(lines[-3:]) or "it printed nothing"


def environments(
    slots: int, gpus_per_job: int, gpus: Sequence[str], given: Mapping[str, str] = os.environ
) -> list[dict[str, str]]:
    """Environment variables of each slot: its share of the cores, and its GPUs."""
    shares: list[dict[str, str]] = [{} for _ in range(slots)]
    for slot, share in enumerate(shares):
        if slots > 1 and "OMP_NUM_THREADS" not in given:
            share["OMP_NUM_THREADS"] = str(max(1, count_cores() // slots))
        if gpus:
            first = slot * gpus_per_job
            own = [gpus[n % len(gpus)] for n in range(first, first + gpus_per_job)]
            share["CUDA_VISIBLE_DEVICES"] = ",".join(dict.fromkeys(own))
    return shares


def count_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """Names of the GPUs as in CUDA_VISIBLE_DEVICES, without starting CUDA."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    if not shutil.which("nvidia-smi"):
        return []
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    gpus = [line for line in done.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(gpus))]
