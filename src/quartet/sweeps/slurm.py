"""Jobs of a sweep in Slurm's queue, by submitit."""

import dataclasses
import os
import secrets
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import submitit
from submitit.helpers import DelayedSubmission

from quartet.core.problems import abort
from quartet.records.sweep import Job
from quartet.sweeps.launch import Engine, Work, make_program

if TYPE_CHECKING:
    from hydra_plugins.quartet import SlurmLauncher

# Slurm sends the signals for a job to each of its processes; only submitit may react to them.
IGNORING_SIGNALS = ["sh", "-c", 'trap "" USR1 USR2; exec "$@"', "sh"]
OVER = ("UNKNOWN", "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "BOOT_FAIL")


class SlurmWork(Work):
    """Trains a job within a job of Slurm, which submitit requeues when its time is over."""

    terminated = False  # whether Slurm has sent SIGTERM, which the process has received, too

    def __call__(self) -> int:
        signal.signal(signal.SIGTERM, self.note_signal)
        status = super().__call__()
        if status == 143:
            time.sleep(60)  # in which Slurm says whether the job is requeued or cancelled
        return status

    def note_signal(self, number: int, frame: FrameType | None) -> None:
        self.terminated = True

    def checkpoint(self) -> DelayedSubmission:
        """Returns the work that submitit submits again: it resumes from the checkpoint saved now."""
        if self.process:
            # A second SIGTERM would end a process at once that has received one.
            deadline = time.monotonic() + 20 * self.terminated
            while not has_exited(self.process.pid):
                if deadline and time.monotonic() >= deadline:
                    deadline = 0.0
                    os.kill(self.process.pid, signal.SIGTERM)
                time.sleep(0.1)
        return DelayedSubmission(SlurmWork(self.program, self.job, self.further, self.folder))


class SlurmEngine(Engine):
    """Submits the jobs of one call as one array."""

    def __init__(self, launcher: "SlurmLauncher") -> None:
        program = make_program(launcher.config)
        self.program = dataclasses.replace(program, command=[*IGNORING_SIGNALS, *program.command])
        self.local = launcher.cluster == "local"
        # Under a name that nobody can foresee, since submitit unpickles the files in it.
        sweep = Path(launcher.config.hydra.sweep.dir).absolute()
        self.folder = sweep / ".submitit" / secrets.token_hex(8)
        self.executor = make_executor(launcher, self.folder)
        watcher = type(submitit.SlurmJob.watcher)
        submitit.SlurmJob.watcher = watcher(delay_s=60)  # one query for all jobs

    def known(self, todo: Sequence[Job]) -> dict[int, Any]:
        noted = [job for job in todo if note_of(job).exists()]
        names = {job.number: note_of(job).read_text().split() for job in noted}
        handles: dict[int, Any] = {
            number: submitit.SlurmJob(self.folder.with_name(folder), name)
            for number, (folder, name) in names.items()
        }
        if handles:
            submitit.SlurmJob.watcher.update()
        return {
            number: handle
            for number, handle in handles.items()
            if not handle.paths.result_pickle.exists()
            and handle.watcher.get_state(handle.job_id, mode="cache").split()[0] not in OVER
        }

    def submit(self, todo: Sequence[Job]) -> list[Any]:
        try:
            with self.executor.batch():
                handles = [self.executor.submit(SlurmWork(self.program, job)) for job in todo]
        except submitit.core.utils.FailedJobError as error:
            abort(f"Slurm refused the jobs: {str(error).strip()}")
        if not self.local:
            for job, handle in zip(todo, handles, strict=True):
                note_of(job).write_text(f"{self.folder.name} {handle.job_id}")
        return handles

    def exit_status(self, handle: Any) -> int | str | None:
        if not handle.done():
            return None
        try:
            return int(handle.result())
        except submitit.core.utils.UncompletedJobError:
            return f"ended by Slurm: {handle.state}, job {handle.job_id}"
        except submitit.core.utils.FailedJobError as error:
            return f"ended in submitit: {str(error).strip().splitlines()[-1]}, job {handle.job_id}"

    def interrupt(self, handles: Sequence[Any]) -> bool:
        if self.local:
            for handle in handles:
                handle.cancel()
            return False
        if handles:
            arrays = dict.fromkeys(handle.job_id.partition("_")[0] for handle in handles)
            message = "The jobs continue in Slurm, and the next start of the sweep watches them"
            print(f"{message}; to end them: scancel {' '.join(arrays)}", file=sys.stderr)
        return False


def has_exited(process: int) -> bool:
    """Popen.poll without its lock, which the interrupted code may have locked."""
    try:
        return bool(os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT | os.WNOHANG))
    except ChildProcessError:
        return True


def note_of(job: Job) -> Path:
    """The file with submitit's folder of a job and its name in Slurm."""
    return job.directory / ".slurm"


def make_executor(launcher: "SlurmLauncher", folder: Path) -> submitit.AutoExecutor:
    """An executor of submitit with the settings of a launcher."""
    given = dict(launcher.settings)
    shared = ("timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb")
    settings = {name: given.pop(name) for name in shared}
    kept = given.pop("max_num_timeout")
    made = submitit.AutoExecutor(
        folder, launcher.cluster, slurm_max_num_timeout=kept, local_max_num_timeout=kept
    )
    name = Path(launcher.config.hydra.sweep.dir).name
    made.update_parameters(
        name=f"sweep-{name}",
        tasks_per_node=1,  # the run starts the processes of further devices itself
        **settings,
        **{f"slurm_{name}": value for name, value in given.items()},
    )
    return made
