"""What a search optimises: figures of each job's result.json."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from quartet.sweeps.grid import compose

if TYPE_CHECKING:
    from hydra_plugins.quartet import SearchSweeper
    from quartet.sweeps.space import Space


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
    from quartet.build import build
    from quartet.core.problems import ConfigError
    from quartet.validation.training import direction as of_metric

    drawn = space.draw_random(0, 0)
    try:
        run = build(compose(sweeper, drawn))
    except ConfigError as refusal:
        raise ValueError("\n  ".join([f"{' '.join(drawn)}:", *refusal.faults])) from None
    return of_metric(name, run.module.val_metrics.metrics)
