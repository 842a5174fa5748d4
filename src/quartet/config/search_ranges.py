"""The form of the ranges that a search may try: a list of values, or the ends of an interval."""

from collections.abc import Iterator, Mapping
from typing import Any

from quartet.core.problems import Problem

# A list of values to choose from, or the ends of a range: whole numbers if both ends are.
Range = list[Any] | dict[str, Any]

FORM = "{low: 0.001, high: 0.1, log: true}, or a list of values"


def check_search_ranges(group: str, node: Mapping[str, Any]) -> Iterator[Problem]:
    """Yields what is wrong with the ranges that a group's option names for its own settings.

    Args:
        group: Its name.
        node: The group's part of the configuration, in plain containers.
    """
    ranges = node.get("search") or {}
    if not isinstance(ranges, Mapping):
        message = f"must be a range for each setting, such as lr: {FORM}."
        yield Problem(f"{group}.search", message, ranges)
        return
    for name, range_ in ranges.items():
        if reason := check_range(range_):
            yield Problem(f"{group}.search.{name}", reason, range_)


def check_range(range_: Any) -> str | None:
    """The reason why something is no range; None if it is one."""
    if isinstance(range_, list):
        return None if range_ else "has no value to choose from."
    if not isinstance(range_, Mapping) or not {"low", "high"} <= set(range_):
        return f"must be {FORM}."
    if others := set(range_) - {"low", "high", "log", "step"}:
        return f"{', '.join(sorted(others))}: a range has low, high, log and step."
    low, high, step = range_["low"], range_["high"], range_.get("step")
    for end in (low, high, *([] if step is None else [step])):
        if isinstance(end, bool) or not isinstance(end, int | float):
            return f"{end!r} is no number; write such as 1.0e-4."
    if low > high:
        return "low is above high; exchange them."
    if range_.get("log") and low <= 0:
        return "the logarithm needs a low above 0."
    if step is not None and (range_.get("log") or step <= 0):
        return "step must be above 0, and does not go with log."
    return None
