"""The five kinds of task: what targets look like, and what raw outputs predict.

Models end in raw outputs, losses take raw outputs, metrics take predictions. A task stands between.
"""

import torch
from torch import Tensor, nn


class Multiclass(nn.Module):
    """One of several classes: outputs ``(batch, classes)`` logits, targets ``(batch,)`` indices."""

    def forward(self, outputs: Tensor) -> Tensor:
        """Probabilities ``(batch, classes)``."""
        return outputs.softmax(dim=1)

    def labels(self, targets: Tensor) -> Tensor:
        """Targets in the form that metrics compare with predictions: class indices ``(batch,)``."""
        return targets


class Binary(nn.Module):
    """Yes or no: outputs ``(batch, 1)`` logits, targets ``(batch, 1)`` of 0.0 and 1.0."""

    def forward(self, outputs: Tensor) -> Tensor:
        """Probabilities of class 1, ``(batch,)``."""
        return outputs.sigmoid().squeeze(1)

    def labels(self, targets: Tensor) -> Tensor:
        """Integers 0 and 1, ``(batch,)``."""
        return targets.int().squeeze(1)


class Multilabel(nn.Module):
    """Several yes-or-no answers: outputs and targets (0.0 and 1.0) ``(batch, labels)``."""

    def forward(self, outputs: Tensor) -> Tensor:
        """Probabilities ``(batch, labels)``."""
        return outputs.sigmoid()

    def labels(self, targets: Tensor) -> Tensor:
        """Integers 0 and 1, ``(batch, labels)``."""
        return targets.int()


class Regression(nn.Module):
    """Real values: outputs and targets ``(batch, values)``, possibly standardised.

    Predictions are in the units of the data: the standardisation is undone, in 64 bits.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_outputs))
        self.register_buffer("std", torch.ones(num_outputs))

    def forward(self, outputs: Tensor) -> Tensor:
        """Values ``(batch, values)`` in the units of the data."""
        return _exact(outputs) * self.std + self.mean

    def labels(self, targets: Tensor) -> Tensor:
        """Values ``(batch, values)`` in the units of the data."""
        return _exact(targets) * self.std + self.mean


def _exact(values: Tensor) -> Tensor:
    # R2 is a difference of sums of squares: in 32 bits nothing is left of it far from zero.
    return values if values.device.type == "mps" else values.double()  # MPS has no 64 bits


class Ranking(nn.Module):
    """An order of documents within each query.

    Outputs ``(batch, 1)`` scores, targets ``(batch, 1)`` graded relevance; indexes ``(batch,)`` name
    the query of each row, and a batch holds whole queries.
    """

    def forward(self, outputs: Tensor) -> Tensor:
        """Scores ``(batch,)``; only their order within a query counts."""
        return outputs.squeeze(1)

    def labels(self, targets: Tensor) -> Tensor:
        """Graded relevance ``(batch,)``."""
        return targets.squeeze(1)


def create(name: str, num_outputs: int) -> nn.Module:
    """The task called `name`.

    Raises:
        ValueError: there is no such task.
    """
    tasks = {
        "multiclass": Multiclass,
        "binary": Binary,
        "multilabel": Multilabel,
        "ranking": Ranking,
    }
    if name == "regression":
        return Regression(num_outputs)
    if name not in tasks:
        raise ValueError(
            f"data.task must be one of {', '.join([*tasks, 'regression'])}; got {name!r}."
        )
    return tasks[name]()
