"""This process: its rank, the program that started it, signals, requeued Slurm jobs. Without torch.

A signal ends a training after the current step, and all else at once.

torchrun and Slurm start all processes of a run at once. On one machine, Lightning starts the other
processes from the first one, which passes them the run directory.

A run under Slurm resumes when its job is requeued:

    #SBATCH --requeue --signal=USR1@90
    srun python train.py optimizer=sgd

Slurm sends SIGUSR1 90 seconds before the time limit of the job; the run saves, requeues the job and
exits. The job then starts with the same command line, which must resume the run that it began. So
each run saves its directory under ``outputs/.slurm/``, by the job and the command line. This also
works after a node failure, which sends no signal.
"""

import hashlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

SLURM_RUNS = Path("outputs") / ".slurm"


def started_by_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def started_by_slurm() -> bool:
    """Whether Slurm started this process and others, by the same rules as Lightning."""
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return not interactive and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1


def started_externally() -> bool:
    """Whether torchrun or Slurm started the processes of the run."""
    return started_by_torchrun() or started_by_slurm()


def started_by_lightning() -> bool:
    """Whether Lightning started this process for a run that has its directory."""
    return "LOCAL_RANK" in os.environ and not started_externally()


def process_rank() -> int:
    """The rank of this process in its run, from 0."""
    launched = "SLURM_PROCID" if started_by_slurm() else "LOCAL_RANK"
    name = "RANK" if started_by_torchrun() else launched
    return int(os.environ.get(name, 0))


def slurm_job() -> str | None:
    """The name of this job for ``scontrol``; None outside Slurm."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    name = f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
    return name if name and re.fullmatch(r"[\w.-]+", name) else None


def slurm_run_file(arguments: Sequence[str]) -> Path:
    """The file that holds the run directory of a command line in this job."""
    digest = hashlib.sha256("\0".join(arguments).encode()).hexdigest()[:16]
    return SLURM_RUNS / f"{slurm_job()}-{digest}"


def save_slurm_run(arguments: Sequence[str], directory: Path) -> None:
    """Saves the directory of a run that starts; does nothing outside Slurm."""
    if slurm_job():
        path = slurm_run_file(arguments)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{directory.resolve()}\n")


def find_interrupted_run(arguments: Sequence[str]) -> Path | None:
    """Finds the run that this command line began before the requeue, if it has a checkpoint."""
    if not slurm_job() or os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        return None
    path = slurm_run_file(arguments)
    directory = Path(path.read_text().strip()) if path.exists() else None
    if directory and list((directory / "checkpoints").glob("*.ckpt")):
        return directory
    return None


def requeue_slurm_job() -> str:
    """Requeues this Slurm job; returns a message about the outcome."""
    command = ["scontrol", "requeue", str(slurm_job())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{' '.join(command)} failed: {error}"
    if done.returncode:
        return f"{' '.join(command)} failed: {done.stderr.strip() or done.returncode}"
    return f"Requeued job {slurm_job()}, which will resume it."


class ShutdownHandler:
    """Exits on a signal, or later while signals are deferred. A second signal exits at once.

    The exit status is 128 plus the number of the signal: 130 for Ctrl+C, 143 for SIGTERM, 138 for
    SIGUSR1, which is handled under Slurm only.
    """

    def __init__(self) -> None:
        self.exit_code = 0
        self.deferring = False
        self.installed = False
        self.interrupted = False
        self.imports = False
        self.pending: list[int] | None = None  # signals received within `masked`

    def install(self) -> None:
        """Installs the handlers."""
        self.installed = True
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle)
        if "SLURM_JOB_ID" in os.environ:
            # Before Lightning, whose own handler would exit in the middle of a step.
            signal.signal(signal.SIGUSR1, self.handle)

    def defer(self) -> None:
        """Defers signals until `stop_deferring`."""
        self.deferring = True

    def stop_deferring(self) -> None:
        """Exits if a signal was deferred; later signals exit at once."""
        self.deferring = False
        if self.exit_code:
            self.exit()

    def reinstall(self) -> None:
        """Installs the handlers again, if they were installed before."""
        if self.installed:
            self.install()

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.pending is not None:
            self.pending.append(number)
            return
        if self.exit_code and self.imports:
            os._exit(128 + number)  # SystemExit within an import of torch may abort
        self.interrupted = bool(self.exit_code) or not self.deferring
        self.exit_code = 128 + number
        if self.interrupted:
            self.exit()

    @property
    def requeues(self) -> bool:
        """Whether Slurm sent the signal, so that the job is requeued."""
        return "SLURM_JOB_ID" in os.environ and self.exit_code == 128 + signal.SIGUSR1

    @contextmanager
    def as_exit(self) -> Iterator[None]:
        """Turns an error that follows from a signal into an exit with the status of the signal."""
        try:
            yield
        except Exception:
            if self.interrupted:
                self.exit()
            raise

    @contextmanager
    def deferred(self, *, imports: bool = False) -> Iterator[None]:
        """Defers signals within the block, which may check `exit_code`; for training and imports."""
        self.defer()
        self.imports = imports
        try:
            yield
        finally:
            self.deferring = self.imports = False
        self.stop_deferring()

    @contextmanager
    def masked(self) -> Iterator[None]:
        """Defers even a second signal within the block, which must be short."""
        self.pending = []
        try:
            yield
        finally:
            late, self.pending = self.pending, None
        for number in late:
            self.handle(number, None)

    def exit(self) -> NoReturn:
        """Exits with the status of the signal."""
        raise SystemExit(self.exit_code)


shutdown = ShutdownHandler()
