"""The monitored value: whether it will be logged, and whether its mode is the right one."""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from torchmetrics import MetricCollection

from quartet.config import allow, signatures
from quartet.config.configuration import Configuration
from quartet.core.messages import suggest_name
from quartet.core.problems import Problem


def resolve_monitor(
    config: Configuration,
    metrics: MetricCollection,
    values: Sequence[str],
    validates: bool,
    wrong: Collection[str],
) -> Iterator[Problem]:
    """Fills in the monitored metric and its mode; without a validation, nothing may be monitored.

    Args:
        config: The configuration; changed in place.
        metrics: Those of each part of the data.
        values: Names of the values that loss and metrics log, such as accuracy.
        validates: Whether there is a validation before the training ends.
        wrong: Keys that have problems already.
    """
    metric, mode = config["monitor"]["metric"], config["monitor"]["mode"]
    idle = not metric or (metric.startswith("val/") and not validates)
    if not idle:
        yield from check_monitor("monitor", metric, mode, metrics, values, validates)
    if mode is None:
        mode = find_mode(metric or "loss", metrics)
        config.fill({"monitor.mode": mode})
    for key, node, required in find_observers(config, wrong):
        own, own_mode = node.get("monitor"), node.get("mode")
        follows = own == metric and own_mode in (None, mode)
        if (idle and required) or not (follows or (own is None and not required)):
            yield from check_monitor(key, own, own_mode, metrics, values, validates)
    if idle:
        config.fill({"monitor.metric": None})  # the last checkpoint is then the one that is tested


def check_monitor(
    key: str,
    metric: str | None,
    mode: str | None,
    metrics: MetricCollection,
    values: Sequence[str],
    validates: bool,
) -> Iterator[Problem]:
    """A monitored value must be logged, and its mode be the right one.

    Args:
        key: The observer: monitor, scheduler or a callback.
        metric: Such as val/loss.
        mode: min, max or None for the metric's own.
        metrics: Those of each part of the data.
        values: Names of the values that loss and metrics log, such as accuracy.
        validates: Whether there is a validation before the training ends.
    """
    setting = "monitor.metric" if key == "monitor" else f"{key}.monitor"
    if metric is None:
        yield Problem(setting, f"{key} needs a value to monitor; set it, e.g. to val/loss.", None)
        return
    if metric.startswith("val/") and not validates:
        yield Problem(
            key,
            f"monitors {metric}, and there is no validation; set monitor.metric=train/loss, keep a "
            "validation part with data.val_fraction=0.1, or train until the first validation.",
        )
        return
    logged = [f"{part}/{name}" for part in ("val", "train") for name in values]
    if metric not in logged:
        part, _, name = metric.partition("/")
        near = suggest_name(f"val/{name}" if part == "test" else metric, logged)
        yield Problem(setting, f"will not be logged while training; {near}", metric)
        return
    right = find_mode(metric, metrics)
    if mode not in (None, right):
        better = "lower" if right == "min" else "higher"
        message = f"contradicts {metric}, which is better when {better}; leave it out."
        yield Problem(f"{key}.mode", message, mode)


def resolve_foreign_monitor(config: Configuration) -> Iterator[Problem]:
    """Fills in the mode of a value that a foreign module logs, as far as its name tells it.

    Args:
        config: The configuration; changed in place.
    """
    metric, mode = config["monitor"]["metric"], config["monitor"]["mode"]
    if mode is None:
        mode = "min"
        if metric and not re.search("loss|error", metric):
            message = f"is not known for {metric}, which the module logs; set it to min or max."
            yield Problem("monitor.mode", message, None)
        config.fill({"monitor.mode": mode})


def find_mode(metric: str, metrics: MetricCollection) -> str:
    """Whether the best value of a metric (such as val/accuracy) is its min or max."""
    name = metric.split("/")[-1]
    # A metric that gives several values logs them as accuracy_cat, accuracy_dog.
    names = map(str, metrics.keys(keep_base=True))  # without a prefix such as val/
    owners = [each for each in names if name == each or name.startswith(f"{each}_")]
    owner = max(owners, key=len, default="")
    return "max" if owner and metrics[owner].higher_is_better else "min"


def find_observers(
    config: Configuration, wrong: Collection[str]
) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Yields what monitors a value: its key, its settings, and whether the value is required."""
    scheduler = config["scheduler"]
    if "monitor" in scheduler and "scheduler" not in wrong:
        yield "scheduler", scheduler, True
    for name, node in config["callbacks"].items():
        if node and f"callbacks.{name}" not in wrong and "monitor" in node:
            parameter = signatures.parameters(allow.locate(node["_target_"]))[0].get("monitor")
            required = bool(parameter and parameter.default is parameter.empty)
            yield f"callbacks.{name}", node, required
