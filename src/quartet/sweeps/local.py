"""Jobs of a sweep in processes on this machine, and the process of a job on another. Without torch."""

import os
import shutil
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

from omegaconf import DictConfig

from quartet.config.overrides import quote
from quartet.core.processes import shutdown
from quartet.records import run_directory as record
from quartet.records.sweep import Job
from quartet.sweeps.launch import EXIT_LOCKED, Engine, exit_reason, resume_overrides

if TYPE_CHECKING:
    from quartet.sweeps.plugins import LocalLauncher


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
        arguments = resume_overrides(job)[:1] or begin  # its record has its overrides
        number = [f"hydra.job.num={job.number}", f"hydra.job.id={job.number}"]
        return [*self.command, *arguments, *number]


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
    """Trains jobs in processes on this machine; one that is killed ends no other.

    Args:
        launcher: With the settings of conf/launcher/local.yaml.
    """

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
        program: To run.
        job: To train.
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
