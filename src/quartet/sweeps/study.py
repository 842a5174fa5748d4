"""The parts of Optuna that the settings of a search name. Imports Optuna where it is used."""

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quartet.core.problems import abort

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage

    from hydra_plugins.quartet import SearchSweeper

# Not CMA-ES: Optuna keeps it pickled in the study, and a study from elsewhere would run code.
SAMPLERS = ("tpe", "random", "qmc", "nsgaii", "gp")
PRUNERS = ("none", "median", "hyperband")


def require(sweeper: "SearchSweeper") -> None:
    """Checks the settings, and that Optuna is there.

    Raises:
        ValueError: a setting cannot be.
        SystemExit: Optuna is not installed.
    """
    for name, known in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
        if getattr(sweeper, name) not in known:
            way_out = "; sweep=grid tries every combination" if sweeper.sampler == "grid" else ""
            raise ValueError(
                f"sweep.{name}={getattr(sweeper, name)}: must be one of {', '.join(known)}{way_out}."
            )
    for name, least in (("n_trials", 1), ("seed", 0), ("warmup_epochs", 0)):
        value = getattr(sweeper, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"sweep.{name}={value}: must be a whole number of at least {least}.")
    if sweeper.pruner != "none" and len(sweeper.objectives or ()) > 1:
        raise ValueError(
            f"sweep.pruner={sweeper.pruner}: Optuna prunes with one objective only; leave it out."
        )
    if sweeper.mode and len(sweeper.mode) != len(sweeper.objectives or ("monitor",)):
        raise ValueError(f"sweep.mode={sweeper.mode}: must name min or max for each objective.")
    if sweeper.mode and not {"min", "max"}.issuperset(sweeper.mode):
        raise ValueError(f"sweep.mode={sweeper.mode}: each must be min or max.")
    refuse_pickles(sweeper.storage)
    try:
        import optuna
    except ImportError:
        abort("sweep=optuna needs optuna: pip install -e '.[optuna]'")
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # our line says more


def make_sampler(
    name: str, seed: int, number: int, fixed: dict[str, Any] | None = None
) -> "BaseSampler":
    """A sampler for one trial.

    Args:
        name: One of SAMPLERS.
        seed: Of the search.
        number: Of the trial; no two draw from the same random numbers.
        fixed: Values that the trial is to have.
    """
    import numpy as np
    from optuna import samplers
    from optuna.exceptions import ExperimentalWarning

    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        made: BaseSampler = samplers.RandomSampler(own)
        if name == "tpe":
            # What is used together is searched together, each optimizer's settings for themselves.
            made = samplers.TPESampler(seed=own, multivariate=True, group=True)
        elif name == "gp":
            made = samplers.GPSampler(seed=own, warn_independent_sampling=False)
        elif name == "nsgaii":
            made = samplers.NSGAIISampler(seed=own)
        elif name == "qmc":  # the study counts its points
            made = samplers.QMCSampler(
                seed=seed, scramble=True, independent_sampler=made, warn_independent_sampling=False
            )
        return samplers.PartialFixedSampler(fixed, made) if fixed else made


def make_storage(url: str | None, directory: Path) -> "BaseStorage":
    """The database, or a journal in a sweep's directory, which many processes may write.

    Raises:
        ValueError: reading it could run code.
    """
    from optuna.storages import JournalStorage, get_storage
    from optuna.storages.journal import JournalFileBackend

    refuse_pickles(url)
    if url:
        return get_storage(url)
    return JournalStorage(JournalFileBackend(str(directory / "optuna" / "study.journal")))


def refuse_pickles(url: str | None) -> None:
    """Refuses a database whose content Optuna would unpickle."""
    if url and url.startswith("redis"):
        raise ValueError(
            f"sweep.storage={url}: Optuna unpickles what stands there, which may run code; name "
            "another database, such as sqlite:///searches.db."
        )


def mend(directory: Path) -> None:
    """Takes off a line of a sweep's journal that a full disk left unfinished; Optuna reads no such."""
    path = directory / "optuna" / "study.journal"
    content = path.read_bytes() if path.exists() else b""
    if not content.endswith(b"\n") and content:
        os.truncate(path, content.rfind(b"\n") + 1)


def make_pruner(name: str, warmup_epochs: int, max_epochs: int | None) -> "BasePruner":
    from optuna import pruners

    if name == "median":
        # Epochs count from 1, its steps from 0.
        return pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=warmup_epochs + 1)
    if name == "hyperband":
        longest = max_epochs if max_epochs and max_epochs > 0 else "auto"
        return pruners.HyperbandPruner(min_resource=max(1, warmup_epochs), max_resource=longest)
    return pruners.NopPruner()
