"""Runs under Slurm: a job that is requeued goes on with its run, whatever it was requeued for.

    #SBATCH --requeue --signal=USR1@90
    srun python train.py optimizer=sgd

Slurm sends SIGUSR1 90 seconds before the time of the job is over; the run saves, asks to be requeued
and ends. The job then starts with the same command line, which must mean the run it began. So each
run notes its directory under ``outputs/.slurm/``, by the job and the command line; also if a node
fails, which gives no signal.
"""

import hashlib
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

NOTES = Path("outputs") / ".slurm"


def job() -> str | None:
    """What ``scontrol`` calls the job that this process is of; None outside Slurm."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    name = f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
    return name if name and re.fullmatch(r"[\w.-]+", name) else None


def step() -> str:
    """A name for the processes that one srun started, other ones after a requeue."""
    restart = os.environ.get("SLURM_RESTART_COUNT", "0")
    return f"{job()}-{os.environ.get('SLURM_STEP_ID', 0)}-{restart}"


def note(arguments: Sequence[str]) -> Path:
    """The file that tells the directory of this job's run of a command line."""
    digest = hashlib.sha256("\0".join(arguments).encode()).hexdigest()[:16]
    return NOTES / f"{job()}-{digest}"


def remember(arguments: Sequence[str], directory: Path) -> None:
    """Notes the directory of a run that starts; does nothing outside Slurm."""
    if job():
        path = note(arguments)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{directory.resolve()}\n")


def interrupted_run(arguments: Sequence[str]) -> Path | None:
    """The run that this command line began before the job was requeued, if it can go on."""
    if not job() or os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        return None
    path = note(arguments)
    directory = Path(path.read_text().strip()) if path.exists() else None
    if directory and list((directory / "checkpoints").glob("*.ckpt")):
        return directory
    return None  # it came to no checkpoint, and starts anew


def requeue() -> str:
    """Asks Slurm to start this job again; returns what came of it."""
    command = ["scontrol", "requeue", str(job())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{' '.join(command)} failed: {error}"
    if done.returncode:
        return f"{' '.join(command)} failed: {done.stderr.strip() or done.returncode}"
    return f"Requeued job {job()}, which will go on with it."
