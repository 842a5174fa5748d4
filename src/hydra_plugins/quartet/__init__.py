"""The sweepers and launchers that Hydra finds here. Imported at every start, so without torch."""

import os
from collections.abc import Iterator, Sequence
from shutil import which
from typing import Any, ClassVar

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class GridSweeper(Sweeper):
    """Trains every combination of values. Settings: conf/sweep/grid.yaml."""

    hydra_context: HydraContext
    config: DictConfig
    launcher: Any
    total = 0  # number of jobs that there will be, if more are to come

    def __init__(
        self, *, retry: str | None, resume: str | None, params: dict[str, str] | None
    ) -> None:
        self.retry, self.resume, self.params = retry, resume, params or {}
        self.sweep_overrides: list[str] = []  # those that configure the sweep itself, not its jobs

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from hydra.core.plugins import Plugins

        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        chosen = config.hydra.runtime.choices["hydra/launcher"]
        if chosen != "basic" and not isinstance(self.launcher, JobLauncher):
            from quartet.core.problems import abort

            abort(
                f"hydra/launcher={chosen}: does not train the jobs of sweep=grid and sweep=optuna; use launcher=local, ray or slurm."
            )

    def sweep(self, arguments: list[str]) -> Any:
        from quartet.sweeps.grid import sweep

        return sweep(self, arguments)


class SearchSweeper(GridSweeper):
    """Asks Optuna for the values of each job. Settings: conf/sweep/optuna.yaml."""

    n_trials: int
    over: list[str] | None
    space: dict[str, Any] | None
    objectives: list[str] | None
    mode: list[str] | None
    sampler: str
    seed: int
    pruner: str
    warmup_epochs: int
    storage: str | None

    def __init__(self, *, resume: str | None, **settings: Any) -> None:
        super().__init__(retry=None, resume=resume, params=None)
        vars(self).update({name: to_container(value) for name, value in settings.items()})

    def sweep(self, arguments: list[str]) -> Any:
        from quartet.sweeps.search import search

        return search(self, arguments)


def to_container(value: Any) -> Any:
    """Plain containers of Hydra's."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


class JobLauncher(Launcher):
    """Trains each job of a sweep in a process of its own: what all launchers share."""

    extra = ""  # of pyproject.toml, with what the launcher needs
    package: str | None = None  # that the extra installs
    config: DictConfig

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from quartet.sweeps.launch import refuse_settings

        self.config = config
        refuse_settings(config, self.package, self.extra, self.problems())

    def problems(self) -> Iterator[str]:
        """Yields what is wrong with the settings."""
        raise NotImplementedError

    def engine(self) -> Any:
        """What trains the jobs, a `quartet.sweeps.launch.Engine`."""
        raise NotImplementedError

    def train(self, todo: Sequence[Any], table: Any, progress: Any) -> None:
        """Trains the jobs of one of our sweepers."""
        from quartet.sweeps.launch import launch

        launch(self.engine(), todo, table, progress)

    def launch(self, job_overrides: Any, initial_job_idx: int) -> Sequence[JobReturn]:
        from quartet.core.problems import abort

        abort("hydra/sweeper: this launcher trains for sweep=grid and sweep=optuna alone.")


class LocalLauncher(JobLauncher):
    """Trains each job in a process of its own here. Settings: conf/launcher/local.yaml."""

    def __init__(self, *, n_jobs: int, gpus_per_job: int) -> None:
        self.n_jobs, self.gpus_per_job = n_jobs, gpus_per_job

    def problems(self) -> Iterator[str]:
        for name in ("n_jobs", "gpus_per_job"):
            if (value := getattr(self, name)) < 1:
                yield f"launcher.{name} must be at least 1, got {value}."

    def engine(self) -> Any:
        from quartet.sweeps.launch import LocalEngine

        return LocalEngine(self)


class RayLauncher(JobLauncher):
    """Trains each job in a process of its own on a Ray cluster. Settings: conf/launcher/ray.yaml."""

    extra = package = "ray"

    def __init__(
        self, *, address: str | None, num_cpus: float, num_gpus: float | None, env: Sequence[str]
    ) -> None:
        self.address, self.num_cpus, self.num_gpus = address, num_cpus, num_gpus
        self.env = list(env)

    def problems(self) -> Iterator[str]:
        for name in ("num_cpus", "num_gpus"):
            value = getattr(self, name) or 0
            if value < 0 or (value > 1 and value % 1):
                yield f"launcher.{name} must be 0 or more, and a whole number above 1, got {value}."
        for name in self.env:
            if name not in os.environ:
                yield f"launcher.env: {name} is not set here."

    def engine(self) -> Any:
        from quartet.sweeps.ray import RayEngine

        return RayEngine(self)


class SlurmLauncher(JobLauncher):
    """Trains each job in a process of its own, in Slurm's queue. Settings: conf/launcher/slurm.yaml."""

    extra, package = "slurm", "submitit"
    LEAST: ClassVar = {  # of whole numbers
        **dict.fromkeys(("timeout_min", "cpus_per_task", "array_parallelism", "signal_delay_s"), 1),
        **dict.fromkeys(("max_num_timeout", "gpus_per_node"), 0),
    }

    def __init__(self, *, cluster: str, **settings: Any) -> None:
        self.cluster, self.settings = cluster, settings

    def problems(self) -> Iterator[str]:
        if self.cluster not in ("slurm", "local"):
            yield f"launcher.cluster={self.cluster}: must be slurm or local."
        elif self.cluster == "slurm" and not (which("sbatch") and which("srun")):
            yield (
                "launcher=slurm: there is no sbatch here; start it on a machine of the cluster, or "
                "try it with launcher.cluster=local."
            )
        for name, least in self.LEAST.items():
            value = self.settings[name]
            if value is not None and (not isinstance(value, int) or value < least):
                yield f"launcher.{name} must be a whole number of at least {least}, got {value}."
        for name, value in self.settings.items():
            if "\n" in str(value):  # would add a line to the script that Slurm runs
                yield f"launcher.{name} must be one line, got {value!r}."

    def engine(self) -> Any:
        from quartet.sweeps.slurm import SlurmEngine

        return SlurmEngine(self)


for group, name, plugin in (
    ("sweeper", "grid", GridSweeper),
    ("sweeper", "search", SearchSweeper),
    ("launcher", "local", LocalLauncher),
    ("launcher", "ray", RayLauncher),
    ("launcher", "slurm", SlurmLauncher),
):
    ConfigStore.instance().store(
        group=f"hydra/{group}",
        name=f"quartet_{name}",
        node={"_target_": f"{__name__}.{plugin.__name__}"},
    )
