"""torch and torchmetrics: private names."""

from torch import nn
from torchmetrics import Metric

# The base of batch and instance normalization in every dimension has no public name.
BatchOrInstanceNorm = nn.modules.batchnorm._NormBase


def set_update_count(metric: Metric, count: int) -> None:
    """Sets the number of updates of a metric; at 0, as after a resume, `compute` would warn."""
    metric._update_count = count
