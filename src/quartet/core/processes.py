"""The rank of this process, the program that started it, and requeued Slurm jobs. Without torch.

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
import subprocess
from collections.abc import Sequence
from pathlib import Path

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
    name = (
        "RANK" if started_by_torchrun() else "SLURM_PROCID" if started_by_slurm() else "LOCAL_RANK"
    )
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
