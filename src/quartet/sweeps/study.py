"""The settings of a search: samplers and objectives. Imports Optuna where it is used."""

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quartet.core.problems import abort
from quartet.sweeps.grid import compose
from quartet.training.callbacks.pruning import PRUNERS, journal_path, refuse_pickles

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from hydra_plugins.quartet import SearchSweeper
    from quartet.sweeps.space import Space

# Not CMA-ES: Optuna pickles its state in the study, and a study from elsewhere could run code.
SAMPLERS = ("tpe", "random", "qmc", "nsgaii", "gp")


def check_settings(sweeper: "SearchSweeper") -> None:
    """Checks the settings of a search, and that Optuna is installed.

    Raises:
        ValueError: a setting is wrong.
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
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # a line per job says more


def make_sampler(
    name: str, seed: int, number: int, fixed: dict[str, Any] | None = None
) -> "BaseSampler":
    """A sampler for one trial.

    Args:
        name: One of SAMPLERS.
        seed: Of the search.
        number: Of the trial; no two use the same random numbers.
        fixed: Values that the trial must have.
    """
    import numpy as np
    from optuna import samplers
    from optuna.exceptions import ExperimentalWarning

    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        made: BaseSampler = samplers.RandomSampler(own)
        if name == "tpe":
            # Settings that occur together are searched together; each optimizer has its own.
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


def repair_journal(directory: Path) -> None:
    """Removes a last line of a sweep's journal that a kill left unfinished; Optuna cannot read it."""
    path = journal_path(directory)
    content = path.read_bytes() if path.exists() else b""
    if not content.endswith(b"\n") and content:
        os.truncate(path, content.rfind(b"\n") + 1)


# Objectives


def read_objectives(
    result: Mapping[str, Any], names: Sequence[str]
) -> tuple[list[float], str | None]:
    """The values of a job's objectives in its result.json, or why it has none."""
    if result["status"] == "interrupted":
        return [], "killed or interrupted"
    if result["status"] != "finished":
        return [], f"{result['status']}: {(result['error'] or {}).get('message')}"
    figures = {
        result["monitor"]["metric"]: result["monitor"]["best"],
        "samples_per_second": result["samples_per_second"],
        **{f"seconds/{name}": value for name, value in result["seconds"].items()},
        **result["metrics"],
    }
    values = [figures.get(name) for name in names]
    for name, value in zip(names, values, strict=True):
        if value is None:
            return [], f"has no {name}; it has {', '.join(map(str, figures))}"
        if not math.isfinite(value):
            return [], f"{name} is {value}"
    return [float(value) for value in values if value is not None], None


def choose_objectives(sweeper: "SearchSweeper", space: "Space") -> dict[str, str]:
    """The names of what is optimised, and ``min`` or ``max`` for each.

    Raises:
        ValueError: nothing is monitored.
    """
    cfg = space.compose()
    metric = cfg.monitor.metric
    names = list(sweeper.objectives or [metric])
    if None in names:
        raise ValueError("monitor.metric=null: name what to optimise, in it or sweep.objectives.")
    if sweeper.mode:
        return dict(zip(names, sweeper.mode, strict=True))
    return {name: choose_direction(name, sweeper, space) for name in names}


def choose_direction(name: str, sweeper: "SearchSweeper", space: "Space") -> str:
    """Whether the best value of a figure is its ``min`` or ``max``."""
    cfg = space.compose()
    if name == cfg.monitor.metric and cfg.monitor.mode:
        return str(cfg.monitor.mode)
    if name.endswith("/loss") or name.startswith("seconds/"):
        return "min"
    if name == "samples_per_second":
        return "max"
    # The metric itself knows, which needs torch.
    import optuna

    from quartet.build import build
    from quartet.core.problems import ConfigError
    from quartet.validation.training import direction as of_metric

    drawn = space.draw(optuna.create_study(sampler=make_sampler("random", 0, 0)).ask())
    try:
        run = build(compose(sweeper, drawn))
    except ConfigError as refusal:
        raise ValueError("\n  ".join([f"{' '.join(drawn)}:", *refusal.faults])) from None
    return of_metric(name, run.module.val_metrics.metrics)
