"""The monitored value: whether it will be logged, and whether its mode is the right one."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torchmetrics import Metric, MetricCollection

from quartet.config import allow, signatures
from quartet.config.configuration import Configuration
from quartet.config.overrides import find_groups
from quartet.core.messages import closest_name, suggest_name
from quartet.core.problems import Problem


@dataclass(frozen=True)
class Logged:
    """What is known of the values that a training logs.

    Attributes:
        metrics: Metrics of each part of the data.
        losses: Names of losses, such as dice.
        names: Names of the values, such as val/accuracy.
        complete: Whether no other values are logged.
        validates: Whether there is a validation before the training ends.
        unchecked: Gets the settings of which only the training will show whether they are right.
    """

    metrics: MetricCollection
    losses: Collection[str]
    names: Sequence[str]
    complete: bool
    validates: bool
    unchecked: list[str]


def resolve_monitor(
    config: Configuration, logged: Logged, wrong: Collection[str]
) -> Iterator[Problem]:
    """Fills in the monitored metric and its mode; without a validation, nothing may be monitored.

    Args:
        config: The configuration; changed in place.
        logged: What is known of the values that a training logs.
        wrong: Keys that have problems already.
    """
    metric, mode = config["monitor"]["metric"], config["monitor"]["mode"]
    idle = not metric or (metric.startswith("val/") and not logged.validates)
    if not idle or metric not in (None, "val/loss"):  # the latter is the default
        yield from check_monitor("monitor", metric, mode, logged)
    if mode is None:
        mode = find_mode(metric, logged.metrics, logged.losses) or guess_mode(metric) or "min"
        config.fill({"monitor.mode": mode})
    for key, node, required in find_observers(config, wrong):
        own, own_mode = node.get("monitor"), node.get("mode")
        follows = own == metric and own_mode in (None, mode)
        if (idle and required) or not (follows or (own is None and not required)):
            yield from check_monitor(key, own, own_mode, logged)
    if idle:
        config.fill({"monitor.metric": None})  # the last checkpoint is then the one that is tested


def check_monitor(
    key: str, metric: str | None, mode: str | None, logged: Logged
) -> Iterator[Problem]:
    """A monitored value must be logged, and its mode be the right one.

    Args:
        key: The observer: monitor, scheduler or a callback.
        metric: Such as val/loss.
        mode: min, max or None for the metric's own.
        logged: What is known of the values that a training logs.
    """
    setting = "monitor.metric" if key == "monitor" else f"{key}.monitor"
    if metric is None:
        yield Problem(setting, f"{key} needs a value to monitor; set it, e.g. to val/loss.", None)
        return
    if metric.startswith("val/") and not logged.validates:
        yield Problem(
            key,
            f"monitors {metric}, and there is no validation; set monitor.metric=train/loss, or keep "
            "a validation part with data.val_fraction=0.1.",
        )
        return
    if metric not in logged.names:
        part, _, name = metric.partition("/")
        similar = closest_name(name, [each.partition("/")[2] for each in logged.names])
        if logged.complete or part == "test" or similar:
            near = suggest_name(f"val/{name}" if part == "test" else metric, logged.names)
            yield Problem(setting, f"will not be logged while training; {near}", metric)
            return
        logged.unchecked.append(f"{setting}={metric}: whether it is logged")
    right = find_mode(metric, logged.metrics, logged.losses)
    if right is not None and mode not in (None, right):
        better = "lower" if right == "min" else "higher"
        message = f"contradicts {metric}, which is better when {better}; leave it out."
        yield Problem(f"{key}.mode", message, mode)
    elif mode is None and right is None:
        own = find_metric(metric, logged.metrics)
        yield from check_guess(key, metric, "whose metric has no higher_is_better" if own else None)


def resolve_foreign_monitor(config: Configuration) -> Iterator[Problem]:
    """Fills in the mode of a value that a foreign module logs, as far as its name tells it.

    Args:
        config: The configuration; changed in place.
    """
    metric, mode = config["monitor"]["metric"], config["monitor"]["mode"]
    if mode is None:
        yield from check_guess("monitor", metric)
        config.fill({"monitor.mode": "min"})


def check_guess(key: str, metric: str | None, reason: str | None = None) -> Iterator[Problem]:
    """The mode of a value that tells none must be set, unless its name tells it."""
    if guess_mode(metric) is None:
        reason = reason or "which the module logs"
        message = f"is not known for {metric}, {reason}; set it to min or max."
        yield Problem(f"{key}.mode", message, None)


def guess_mode(metric: str | None) -> str | None:
    return "min" if metric is None or re.search("loss|error", metric) else None


def find_mode(metric: str | None, metrics: MetricCollection, losses: Collection[str]) -> str | None:
    """Whether the best value of a metric or loss is its min or max; None for other values."""
    own = find_metric(metric, metrics)
    if own is not None:
        return {None: None, True: "max", False: "min"}[own.higher_is_better]
    return "min" if str(metric).split("/")[-1] in losses else None


def find_metric(metric: str | None, metrics: MetricCollection) -> Metric | None:
    """Returns the metric that logs a value such as val/accuracy; None for a loss."""
    name = str(metric).split("/")[-1]
    # A metric that gives several values logs them as accuracy_cat, accuracy_dog.
    names = map(str, metrics.keys(keep_base=True))  # without a prefix such as val/
    owners = [each for each in names if name == each or name.startswith(f"{each}_")]
    owner = max(owners, key=len, default="")
    return metrics[owner] if owner else None


def find_observers(
    config: Configuration, wrong: Collection[str]
) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Yields what monitors a value: its key, its settings, and whether the value is required."""
    for group in find_groups(config, "scheduler"):
        if "monitor" in config[group] and group not in wrong:
            yield group, config[group], True
    for name, node in config["callbacks"].items():
        if node and f"callbacks.{name}" not in wrong and "monitor" in node:
            parameter = signatures.parameters(allow.locate(node["_target_"]))[0].get("monitor")
            required = bool(parameter and parameter.default is parameter.empty)
            yield f"callbacks.{name}", node, required
