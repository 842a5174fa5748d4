"""Jobs of a sweep, each in a process of its own on this machine. Without torch."""

import os
import shutil
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from quartet.config.overrides import quote
from quartet.core.signals import shutdown
from quartet.records import locks
from quartet.records import result as record
from quartet.records.sweep_table import Job, Table
from quartet.sweeps.jobs import EXIT_LOCKED, SWEEP_GROUPS, Progress, resume_overrides

if TYPE_CHECKING:
    from hydra_plugins.quartet import LocalLauncher

NOT_OWN = ("hydra.", "resume=", *(f"{key}=" for key in SWEEP_GROUPS))


def launch_processes(
    launcher: "LocalLauncher", job_overrides: Sequence[Sequence[str]], first: int
) -> list[JobReturn]:
    """Trains jobs in processes of their own. Each returns its best value, as a job in this process does."""
    table = Table(launcher.config.hydra.sweep.dir)
    todo = list_todo(table, job_overrides, first)
    processes = Processes(
        make_program(launcher.config), slots=launcher.n_jobs, gpus_per_job=launcher.gpus_per_job
    )
    total = launcher.config.hydra.sweeper.get("n_trials")
    processes.run(todo, table, Progress(table.current or todo, total))
    return make_returns(todo)


def list_todo(table: Table, job_overrides: Sequence[Sequence[str]], first: int) -> list[Job]:
    """The jobs that a launcher was given; `first` is the number of the first if they name none."""
    found = []
    for number, overrides in enumerate(job_overrides, start=first):
        own = [each for each in overrides if not each.startswith(NOT_OWN)]
        numbers = [each for each in overrides if each.startswith("hydra.sweep.subdir=")]
        name = numbers[-1].partition("=")[2] if numbers else str(number)
        found.append(Job(table.directory / name, own, ""))
    return found


def make_returns(todo: Sequence[Job]) -> list[JobReturn]:
    """What a launcher returns for jobs that have been trained: their best values."""
    returns = []
    for job in todo:
        result = job.result or record.empty_result()
        finished = result["status"] == "finished"
        best = result["monitor"]["best"] if finished else None
        returns.append(JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED))
        returns[-1].return_value = best
    return returns


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
        arguments = resume_overrides(job)[:1] or begin  # its record holds its overrides
        number = [f"hydra.job.num={job.number}", f"hydra.job.id={job.number}"]
        return [*self.command, *arguments, *number]


def make_program(config: DictConfig) -> Program:
    """This program, for the jobs of the sweep that it was started for."""
    command = [sys.executable, sys.argv[0], *job_settings(config.hydra.overrides.hydra)]
    return Program(command, config_flags(sys.argv[1:]))


def config_flags(arguments: Sequence[str]) -> list[str]:
    """The flags of the command line that tell Hydra where the configuration is."""
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


class Processes:
    """Trains jobs in processes, several at once; one that is killed ends no other.

    The output of a job is written to ``output.log`` in its directory.

    Args:
        program: For every job.
        slots: Jobs at once.
        gpus_per_job: GPUs that each job sees.
    """

    def __init__(self, program: Program, *, slots: int, gpus_per_job: int) -> None:
        for name, value in (("n_jobs", slots), ("gpus_per_job", gpus_per_job)):
            if value < 1:
                raise ValueError(f"launcher.{name} must be at least 1, got {value}.")
        self.program = program
        self.environments = environments(slots, gpus_per_job, visible_gpus())
        self.running: dict[int, tuple[Job, subprocess.Popen[bytes], IO[str]]] = {}
        self.forwarded = 0

    def run(self, todo: Sequence[Job], table: Table, progress: Progress) -> None:
        """Trains jobs until each has ended, here or in another process that locked it.

        A signal is passed on to the running jobs, and no other job is started.
        """
        waiting = list(todo)
        try:
            with shutdown.deferred():
                while self.running or (waiting and not shutdown.exit_code):
                    self.forward_signal(shutdown.exit_code)
                    while not shutdown.exit_code and len(self.running) < len(self.environments):
                        if (job := pop_free_job(waiting, progress)) is None:
                            break
                        self.start(job)
                    waiting += self.collect(table, progress)
                    time.sleep(0.1)
        finally:
            self.forward_signal(shutdown.exit_code or 128 + signal.SIGTERM, again=True)
            for _, process, _ in self.running.values():
                process.wait()

    def start(self, job: Job) -> None:
        slot = next(n for n in range(len(self.environments)) if n not in self.running)
        process, output = start_process(
            self.program, job, {**os.environ, **self.environments[slot]}
        )
        self.running[slot] = job, process, output

    def collect(self, table: Table, progress: Progress) -> list[Job]:
        """Records the jobs that have ended. Returns those that another process locked first."""
        locked = []
        for slot, (job, process, output) in list(self.running.items()):
            status = process.poll()
            if status is None:
                continue
            del self.running[slot]
            with output:
                if status == EXIT_LOCKED:
                    locked.append(job)
                    continue
                write_missing_result(job, status, output)
                reason = exit_reason(status)
                table.record_exit(job, reason)
                progress.end(job, reason)
        return locked

    def forward_signal(self, exit_code: int, again: bool = False) -> None:
        """Sends the signal of an exit code to the running jobs, once unless `again`."""
        if not exit_code or (self.forwarded and not again):
            return
        self.forwarded = exit_code
        for _, process, _ in self.running.values():
            process.send_signal(exit_code - 128)


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


def exit_reason(status: int) -> str | None:
    """Why the process of a job ended early; None if it did not."""
    if status < 0:
        return f"killed by signal {-status}"
    return "interrupted" if status in (130, 143) else None


def write_missing_result(job: Job, status: int, output: IO[str]) -> None:
    """Writes the result of a job whose process failed without writing it itself."""
    if status <= 0 or exit_reason(status) or status == EXIT_LOCKED or job.result is not None:
        return
    output.seek(0)
    failure = {
        "status": "refused" if status == 2 else "failed",
        "error": {"type": "SystemExit", "message": last_lines(output)},
    }
    record.write_result(job.directory, record.empty_result() | failure)


def pop_free_job(waiting: list[Job], progress: Progress) -> Job | None:
    """Removes the next job from those that wait that is pending and that no other process trains."""
    for job in list(waiting):
        if not locks.try_lock(job.directory):
            continue
        locks.unlock(job.directory)  # its own process locks it
        waiting.remove(job)
        if job.is_pending:
            return job
        progress.update(job)
    return None


def last_lines(output: IO[str]) -> str:
    """The end of what a job printed."""
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
