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
from quartet.sweeps import local
from quartet.sweeps.cluster import Work
from quartet.sweeps.jobs import Job

if TYPE_CHECKING:
    from hydra_plugins.quartet import SlurmLauncher

# Slurm's signals for the job as a whole reach each of its processes; submitit answers them.
DEAF = ["sh", "-c", 'trap "" USR1 USR2; exec "$@"', "sh"]
OVER = ("UNKNOWN", "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "BOOT_FAIL")


class SlurmWork(Work):
    """Trains a job within one of Slurm's, which submitit has requeued when its time is over."""

    told = False  # whether Slurm has sent SIGTERM, to the process too: a second one would end it at once

    def __call__(self) -> int:
        signal.signal(signal.SIGTERM, self.hear)
        status = super().__call__()
        if status == 143:
            time.sleep(60)  # whether Slurm wants the node back or ends the job, it tells now
        return status

    def hear(self, number: int, frame: FrameType | None) -> None:
        self.told = True

    def checkpoint(self) -> DelayedSubmission:
        """What submitit hands in again: the same, which goes on from what the job saves now."""
        if self.process:
            patience = time.monotonic() + 20 * self.told
            while not ended(self.process.pid):
                if patience and time.monotonic() >= patience:
                    patience = 0.0
                    os.kill(self.process.pid, signal.SIGTERM)
                time.sleep(0.1)
        return DelayedSubmission(SlurmWork(self.program, self.job, self.further, self.folder))


class SlurmEngine:
    """All jobs that are handed in at once are one array.

    Args:
        launcher: With the settings of conf/launcher/slurm.yaml.
    """

    def __init__(self, launcher: "SlurmLauncher") -> None:
        program = local.program(launcher.config)
        self.program = dataclasses.replace(program, command=[*DEAF, *program.command])
        self.local = launcher.cluster == "local"
        # Under a name that nobody can foresee: submitit unpickles what lies there.
        sweep = Path(launcher.config.hydra.sweep.dir).absolute()
        self.folder = sweep / ".submitit" / secrets.token_hex(8)
        self.executor = executor(launcher, self.folder)
        watcher = type(submitit.SlurmJob.watcher)
        submitit.SlurmJob.watcher = watcher(delay_s=60)  # asks for all jobs at once

    def known(self, todo: Sequence[Job]) -> dict[int, Any]:
        names = {job.number: noted(job).read_text().split() for job in todo if noted(job).exists()}
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
            abort(f"Slurm took no jobs: {str(error).strip()}")
        if not self.local:
            for job, handle in zip(todo, handles, strict=True):
                noted(job).write_text(f"{self.folder.name} {handle.job_id}")
        return handles

    def ended(self, handle: Any) -> int | str | None:
        if not handle.done():
            return None
        try:
            return int(handle.result())
        except submitit.core.utils.UncompletedJobError:
            return f"ended by Slurm: {handle.state}, job {handle.job_id}"
        except submitit.core.utils.FailedJobError as error:
            return f"ended in submitit: {str(error).strip().splitlines()[-1]}, job {handle.job_id}"

    def leave(self, handles: Sequence[Any]) -> bool:
        if self.local:
            for handle in handles:
                handle.cancel()
            return False
        if handles:
            arrays = dict.fromkeys(handle.job_id.partition("_")[0] for handle in handles)
            print(
                "The jobs go on in Slurm, and the next start of the sweep watches them; to end them: "
                f"scancel {' '.join(arrays)}",
                file=sys.stderr,
            )
        return False

    def close(self) -> None:
        pass


def ended(process: int) -> bool:
    """As Popen's poll, without the lock that code interrupted by a signal may hold."""
    try:
        return bool(os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT | os.WNOHANG))
    except ChildProcessError:
        return True


def noted(job: Job) -> Path:
    """The file that tells where submitit keeps a job, and under which name Slurm has it."""
    return job.directory / ".slurm"


def executor(launcher: "SlurmLauncher", folder: Path) -> submitit.AutoExecutor:
    """submitit's, with the settings of a launcher."""
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
        tasks_per_node=1,  # which starts the processes for further devices itself
        **settings,
        **{f"slurm_{name}": value for name, value in given.items()},
    )
    return made
