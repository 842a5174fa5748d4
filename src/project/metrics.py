"""Ranking metrics over graded relevance."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics.retrieval import RetrievalMAP, RetrievalMRR
from torchmetrics.retrieval.base import RetrievalMetric


class _FromGrades(RetrievalMetric):
    """A metric in which documents count as relevant from a grade on, whatever their scores' signs."""

    relevant_from: Tensor

    def __init__(self, *, relevant_from: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # A state, because a MetricCollection lets metrics share theirs once they were equal.
        self.add_state("relevant_from", torch.tensor(float(relevant_from)), "mean")

    def update(self, preds: Tensor, target: Tensor, indexes: Tensor) -> None:
        super().update(preds, target >= self.relevant_from, indexes)

    def _metric(self, preds: Tensor, target: Tensor) -> Tensor:
        return super()._metric(_ascending(preds), target)  # type: ignore[safe-super]


class MeanReciprocalRank(_FromGrades, RetrievalMRR):
    """Mean over queries of 1 / rank of the first relevant document.

    A query without a relevant document counts as 0.

    Args:
        relevant_from: The lowest grade that counts as relevant.
        kwargs: Arguments of `torchmetrics.retrieval.RetrievalMRR`.

    Shape:
        preds ``(documents,)`` scores of any sign, target ``(documents,)`` grades, indexes
        ``(documents,)`` the query of each -> scalar.
    """


class MeanAveragePrecision(_FromGrades, RetrievalMAP):
    """Mean over queries of the precision at the rank of each relevant document.

    Arguments and shapes are those of `MeanReciprocalRank`.
    """


def _ascending(scores: Tensor) -> Tensor:
    """1, 2, ... in the order of the scores: torchmetrics ignores documents scored 0 or less."""
    return scores.argsort(stable=True).argsort() + 1.0
