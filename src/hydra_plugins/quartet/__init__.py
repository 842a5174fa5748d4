"""Where Hydra finds the sweepers and launchers: it looks for classes in this package alone."""

from hydra.core.config_store import ConfigStore

from quartet.sweeps import plugins


class GridSweeper(plugins.GridSweeper):
    """Settings: conf/sweep/grid.yaml."""


class SearchSweeper(plugins.SearchSweeper):
    """Settings: conf/sweep/optuna.yaml."""


class LocalLauncher(plugins.LocalLauncher):
    """Settings: conf/launcher/local.yaml."""


class RayLauncher(plugins.RayLauncher):
    """Settings: conf/launcher/ray.yaml."""


class SlurmLauncher(plugins.SlurmLauncher):
    """Settings: conf/launcher/slurm.yaml."""


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
