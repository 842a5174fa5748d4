"""Jobs of a sweep on a Ray cluster."""

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ray

from quartet.core.problems import abort
from quartet.core.processes import shutdown
from quartet.records.sweep import SEARCH, Job
from quartet.sweeps.launch import Engine, Work, make_program

if TYPE_CHECKING:
    from hydra_plugins.quartet import RayLauncher


class RayEngine(Engine):
    """Trains each job as a Ray task, which Ray never retries."""

    def __init__(self, launcher: "RayLauncher") -> None:
        self.program = make_program(launcher.config)
        names = [*launcher.env, *([SEARCH] if SEARCH in os.environ else ())]
        self.further = {name: os.environ[name] for name in names}
        try:
            ray.init(
                address=launcher.address or "local",
                include_dashboard=False if launcher.address is None else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            abort(f"launcher.address={launcher.address}: no Ray cluster there: {error}")
        shutdown.reinstall()  # Ray has replaced the handler of SIGTERM
        cpus, gpus = launcher.num_cpus, launcher.num_gpus
        if gpus is None:
            gpus = float(bool(ray.cluster_resources().get("GPU")))
        self.options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0}
        if not any(fits(node, cpus, gpus) for node in ray.nodes()):
            message = f"No node has {cpus:g} CPUs and {gpus:g} GPUs for a job"
            if launcher.address is None:
                ray.shutdown()
                abort(f"{message}; set launcher.num_cpus and launcher.num_gpus lower.")
            logging.getLogger(__name__).warning(f"{message}; waiting for one.")

    def submit(self, todo: Sequence[Job]) -> list[Any]:
        task = ray.remote(train_work).options(**self.options)
        return [task.remote(Work(self.program, job, self.further)) for job in todo]

    def exit_status(self, handle: Any) -> int | str | None:
        ready, _ = ray.wait([handle], timeout=0)
        if not ready:
            return None
        try:
            return int(ray.get(handle))
        except ray.exceptions.TaskCancelledError:
            return "interrupted"
        except ray.exceptions.RayError as error:  # its node or Ray's process there has ended
            return f"lost by Ray: {type(error).__name__}"

    def interrupt(self, handles: Sequence[Any]) -> bool:
        for handle in handles:
            ray.cancel(handle)
        return True

    def close(self) -> None:
        ray.shutdown()


def train_work(work: Work) -> int:
    return work()


def fits(node: dict[str, Any], cpus: float, gpus: float) -> bool:
    """Whether a node has the processors of a job."""
    has = node["Resources"]
    return bool(node["Alive"]) and has.get("CPU", 0) >= cpus and has.get("GPU", 0) >= gpus
