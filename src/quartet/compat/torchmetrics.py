"""torchmetrics: private names."""

from torchmetrics import Metric


def set_update_count(metric: Metric, count: int) -> None:
    """Sets how often a metric was updated: after a resume `compute` would warn that it never was."""
    metric._update_count = count
