"""Jobs of a sweep, each in a process of its own. Without torch."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from hydra._internal.utils import get_args_parser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig

from quartet.config.overrides import quote
from quartet.core.signals import shutdown
from quartet.records import locks
from quartet.records import result as record
from quartet.sweeps import jobs
from quartet.sweeps.jobs import Job, Table
from quartet.sweeps.live import Live

if TYPE_CHECKING:
    from hydra_plugins.quartet import LocalLauncher

NOT_OWN = ("hydra.", "resume=", *(f"{key}=" for key in jobs.SWEEP_GROUPS))


def launch_processes(
    launcher: "LocalLauncher", job_overrides: Sequence[Sequence[str]], first: int
) -> list[JobReturn]:
    """Trains jobs in processes of their own. Each returns its best value, as a job in here does."""
    table = Table(launcher.config.hydra.sweep.dir)
    todo = jobs_in(table, job_overrides, first)
    processes = Processes(
        program(launcher.config), slots=launcher.n_jobs, gpus_per_job=launcher.gpus_per_job
    )
    total = launcher.config.hydra.sweeper.get("n_trials")
    with Live(table.current or todo, launcher.n_jobs, total).shown() as live:
        processes.run(todo, table, live)
    return returns(todo)


def jobs_in(table: Table, job_overrides: Sequence[Sequence[str]], first: int) -> list[Job]:
    """The jobs that a launcher was given; `first` is the number of the first where none is told."""
    found = []
    for number, overrides in enumerate(job_overrides, start=first):
        own = [each for each in overrides if not each.startswith(NOT_OWN)]
        numbers = [each for each in overrides if each.startswith("hydra.sweep.subdir=")]
        name = numbers[-1].partition("=")[2] if numbers else str(number)
        found.append(Job(table.directory / name, own, ""))
    return found


def returns(todo: Sequence[Job]) -> list[JobReturn]:
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
    """What a process for a job runs.

    Attributes:
        command: The program and its arguments, for every job.
        flags: What says where the configuration lies; a job that goes on has its own.
    """

    command: list[str]
    flags: list[str]

    def line(self, job: Job) -> list[str]:
        """The command line for a job as it stands now: begun or not."""
        # One that goes on has its overrides and its place in its record.
        anew = [*self.flags, *job.overrides, f"hydra.run.dir={quote(job.directory)}"]
        arguments = job.go_on()[:1] or anew
        number = [f"hydra.job.num={job.number}", f"hydra.job.id={job.number}"]
        return [*self.command, *arguments, *number]


def program(config: DictConfig) -> Program:
    """This program, for a job of the sweep that it was started for."""
    command = [sys.executable, sys.argv[0], *passed_on(config.hydra.overrides.hydra)]
    return Program(command, config_flags())


def config_flags() -> list[str]:
    """What the command line says of where the configuration lies."""
    given = get_args_parser().parse_args()
    named = {"--config-path": given.config_path, "--config-name": given.config_name}
    named["--config-dir"] = given.config_dir
    return [each for flag, value in named.items() if value for each in (flag, value)]


def passed_on(overrides: Sequence[str]) -> list[str]:
    """Settings of Hydra's that a job of its own takes over from the sweep."""
    sweeping = ("sweep.", "sweeper", "launcher", "mode", "run.", "job.num", "job.id")
    kept = [
        each
        for each in overrides
        if not each.lstrip("+~").removeprefix("hydra")[1:].startswith(sweeping)
    ]
    return [*kept, "hydra.mode=RUN"]


class Processes:
    """Trains jobs in processes, several at once; one that is killed ends no other.

    What a job prints stands in ``output.log`` of its directory.

    Args:
        program: For every job.
        slots: Jobs at once.
        gpus_per_job: GPUs that each sees.
    """

    def __init__(self, program: Program, *, slots: int, gpus_per_job: int) -> None:
        for name, value in (("n_jobs", slots), ("gpus_per_job", gpus_per_job)):
            if value < 1:
                raise ValueError(f"launcher.{name} must be at least 1, got {value}.")
        self.program = program
        self.environments = environments(slots, gpus_per_job, visible_gpus())
        self.running: dict[int, tuple[Job, subprocess.Popen[bytes], IO[str]]] = {}
        self.forwarded = 0

    def run(self, todo: Sequence[Job], table: Table, live: Live) -> None:
        """Trains jobs until each has ended, here or in another process that took it.

        A signal is passed on to those that run, and no other is started.
        """
        waiting = list(todo)
        try:
            with shutdown.deferred():
                while self.running or (waiting and not shutdown.exit_code):
                    self.pass_on(shutdown.exit_code)
                    while not shutdown.exit_code and len(self.running) < len(self.environments):
                        if (job := next_free(waiting, live)) is None:
                            break
                        live.start(job)
                        self.start(job)
                    waiting += self.collect(table, live)
                    time.sleep(0.1)
        finally:
            self.pass_on(shutdown.exit_code or 128 + signal.SIGTERM, again=True)
            for _, process, _ in self.running.values():
                process.wait()

    def start(self, job: Job) -> None:
        slot = next(n for n in range(len(self.environments)) if n not in self.running)
        process, output = start(self.program, job, {**os.environ, **self.environments[slot]})
        self.running[slot] = job, process, output

    def collect(self, table: Table, live: Live) -> list[Job]:
        """Takes up those that have ended. Returns those that another process took first."""
        taken = []
        for slot, (job, process, output) in list(self.running.items()):
            status = process.poll()
            if status is None:
                continue
            del self.running[slot]
            with output:
                if status == jobs.EXIT_LOCKED:
                    live.running.discard(job.number)
                    taken.append(job)
                    continue
                settle(job, status, output)
                reason = cut_short(status)
                table.note(job, reason)
                live.end(job, reason)
        return taken

    def pass_on(self, asked: int, again: bool = False) -> None:
        """Passes a signal on, once unless `again`."""
        if not asked or (self.forwarded and not again):
            return
        self.forwarded = asked
        for _, process, _ in self.running.values():
            process.send_signal(asked - 128)


def start(
    program: Program, job: Job, environment: Mapping[str, str]
) -> tuple["subprocess.Popen[bytes]", IO[str]]:
    """Starts the process of a job, and opens what it prints."""
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


def cut_short(status: int) -> str | None:
    """Why the process of a job did not come to its end; None if it did."""
    if status < 0:
        return f"killed by signal {-status}"
    return "interrupted" if status in (130, 143) else None


def settle(job: Job, status: int, output: IO[str]) -> None:
    """Writes the result of a job whose process ended without writing it itself."""
    if status <= 0 or cut_short(status) or status == jobs.EXIT_LOCKED or job.result is not None:
        return
    output.seek(0)
    failure = {
        "status": "refused" if status == 2 else "failed",
        "error": {"type": "SystemExit", "message": last_words(output)},
    }
    record.write_result(job.directory, record.empty_result() | failure)


def next_free(waiting: list[Job], live: Live) -> Job | None:
    """Takes the next job out of those that wait, one that no other process has."""
    for job in list(waiting):
        if not locks.try_lock(job.directory):
            continue
        locks.unlock(job.directory)  # its own process claims it
        waiting.remove(job)
        if job.open:
            return job
        live.see(job)
    return None


def last_words(output: IO[str]) -> str:
    """The end of what a job printed."""
    lines = [line.strip() for line in output if line.strip()]
    return "\n".join(lines[-3:]) or "it printed nothing"


def environments(
    slots: int, gpus_per_job: int, gpus: Sequence[str], given: Mapping[str, str] = os.environ
) -> list[dict[str, str]]:
    """Variables for each slot: its share of the cores, and its GPUs."""
    shares: list[dict[str, str]] = [{} for _ in range(slots)]
    for slot, share in enumerate(shares):
        if slots > 1 and "OMP_NUM_THREADS" not in given:
            share["OMP_NUM_THREADS"] = str(max(1, cores() // slots))
        if gpus:
            first = slot * gpus_per_job
            own = [gpus[n % len(gpus)] for n in range(first, first + gpus_per_job)]
            share["CUDA_VISIBLE_DEVICES"] = ",".join(dict.fromkeys(own))
    return shares


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """Names by which CUDA_VISIBLE_DEVICES knows the GPUs, without starting CUDA."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    if not shutil.which("nvidia-smi"):
        return []
    told = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    gpus = [line for line in told.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(gpus))]
