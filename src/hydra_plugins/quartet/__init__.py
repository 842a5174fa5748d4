"""What Hydra calls for a sweep; it finds plugins in this package alone. Imported at every start."""

from collections.abc import Iterable, Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

# Their settings stand in conf/sweep/ and conf/launcher/. The package's name sets them apart from
# those of another fork of the template in the same environment.
PACKAGE = __name__.rpartition(".")[2]
for group, name, plugin in (
    ("sweeper", "grid", "GridSweeper"),
    ("sweeper", "search", "SearchSweeper"),
    ("launcher", "local", "LocalLauncher"),
    ("launcher", "ray", "RayLauncher"),
    ("launcher", "slurm", "SlurmLauncher"),
):
    ConfigStore.instance().store(
        group=f"hydra/{group}",
        name=f"{PACKAGE}_{name}",
        node={"_target_": f"{__name__}.{plugin}"},
    )
# There is one; Hydra would copy it for every group that --help lists, which takes 0.3 s.
ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]


class GridSweeper(BasicSweeper):
    """Every combination of values. Goes on with a sweep that its directory holds.

    Args:
        retry: ``failed`` to train failed and refused jobs anew; None to leave them.
        resume: The sweep's directory, to go on with all jobs that it ever had; None for those asked for.
        params: Values to combine.
        max_batch_size: Jobs that a launcher gets at once; None for all.
    """

    def __init__(
        self,
        *,
        retry: str | None,
        resume: str | None,
        params: dict[str, str] | None,
        max_batch_size: int | None,
    ) -> None:
        super().__init__(max_batch_size, params)
        self.retry, self.resume = retry, resume
        self.how: list[str] = []  # overrides that say how to sweep, not what

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from quartet.sweeps.identity import ReadOnce

        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.task_function = task_function
        loader: Any = hydra_context.config_loader
        loader.repository = ReadOnce(loader.config_search_path)

    def sweep(self, arguments: list[str]) -> Any:
        from quartet.sweeps.grid import sweep

        return sweep(self, arguments)


class SearchSweeper(GridSweeper):
    """Asks Optuna for the values of each job. Goes on with a search that its directory holds.

    What the arguments mean stands in ``conf/sweep/optuna.yaml``.
    """

    def __init__(
        self,
        *,
        n_trials: int,
        over: list[str] | None,
        space: dict[str, Any] | None,
        objectives: list[str] | None,
        mode: list[str] | None,
        sampler: str,
        seed: int,
        pruner: str,
        warmup_epochs: int,
        storage: str | None,
        resume: str | None,
    ) -> None:
        super().__init__(retry=None, resume=resume, params=None, max_batch_size=None)
        self.n_trials, self.over, self.space = n_trials, plain(over), plain(space)
        self.objectives, self.mode = plain(objectives), plain(mode)
        self.sampler, self.seed, self.storage = sampler, seed, storage
        self.pruner, self.warmup_epochs = pruner, warmup_epochs

    def sweep(self, arguments: list[str]) -> Any:
        from quartet.sweeps.search import search

        return search(self, arguments)


def plain(value: Any) -> Any:
    """Plain containers out of Hydra's."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


class LocalLauncher(Launcher):
    """A process of its own for each job.

    Args:
        n_jobs: At once.
        gpus_per_job: GPUs that each sees.
    """

    def __init__(self, *, n_jobs: int, gpus_per_job: int) -> None:
        self.n_jobs, self.gpus_per_job = n_jobs, gpus_per_job

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from quartet.sweeps.local import launch_processes

        return launch_processes(self, job_overrides, initial_job_idx)


def told_here(config: DictConfig, launcher: str, names: Iterable[str]) -> list[str]:
    """Settings by which other machines or programs run, and which are not this project's own.

    Args:
        config: Of everything.
        launcher: The usual option in conf/launcher/; another one may have been chosen.
        names: Of settings that must be as the option's file or the command line has them.
    """
    from quartet.config.foreign import key_of
    from quartet.core.files import CONF

    option = config.hydra.runtime.choices.get("launcher") or launcher
    file = CONF / "launcher" / f"{option}.yaml"
    own = OmegaConf.select(OmegaConf.load(file), "hydra.launcher") if file.is_file() else {}
    typed = set(map(key_of, config.hydra.overrides.hydra))
    return [
        f"launcher.{name}={config.hydra.launcher[name]}: must stand in conf/launcher/{option}.yaml "
        "or on the command line, since it may have other machines or programs run."
        for name in names
        if f"hydra.launcher.{name}" not in typed
        if name not in own or config.hydra.launcher[name] != own[name]
    ]


class RayLauncher(Launcher):
    """A process of its own for each job, on a Ray cluster.

    Args:
        address: Of the cluster; None for one of this machine alone.
        num_cpus: Of a job.
        num_gpus: Of a job, fractions too; None for 1 where the cluster has GPUs.
        env: Names of variables that jobs get from here.
    """

    def __init__(
        self, *, address: str | None, num_cpus: float, num_gpus: float | None, env: Sequence[str]
    ) -> None:
        self.address, self.num_cpus, self.num_gpus = address, num_cpus, num_gpus
        self.env = list(env)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from quartet.sweeps.cluster import ready, unset, whole_or_shared

        self.config = config
        faults = told_here(config, "ray", ("address", "env"))
        faults += whole_or_shared("num_cpus", self.num_cpus)
        faults += whole_or_shared("num_gpus", self.num_gpus or 0)
        ready(config, "ray", "ray", [*faults, *unset(self.env)])

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from quartet.sweeps.cluster import train
        from quartet.sweeps.ray import RayEngine

        return train(RayEngine(self), self.config, job_overrides, initial_job_idx)


class SlurmLauncher(Launcher):
    """A process of its own for each job, in Slurm's queue.

    Args:
        cluster: ``slurm``; ``local`` for this machine.
        settings: What Slurm is told of a job, as in conf/launcher/slurm.yaml.
    """

    def __init__(self, *, cluster: str, **settings: Any) -> None:
        self.cluster, self.settings = cluster, settings

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        from quartet.sweeps.cluster import ready, slurm_faults

        self.config = config
        faults = told_here(config, "slurm", self.settings)
        faults += slurm_faults(self.cluster, self.settings)
        ready(config, "submitit", "slurm", faults)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from quartet.sweeps.cluster import train
        from quartet.sweeps.slurm import SlurmEngine

        return train(SlurmEngine(self), self.config, job_overrides, initial_job_idx)
