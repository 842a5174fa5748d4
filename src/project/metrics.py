"""Ranking metrics over graded relevance, and R2 of values far from zero."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.retrieval import RetrievalMAP, RetrievalMRR
from torchmetrics.retrieval.base import RetrievalMetric


class R2(Metric):
    """Coefficient of determination, 1 - residual variance / variance; the mean over several values.

    torchmetrics' R2Score subtracts sums of squares, which leaves no digits where the targets lie far
    from zero, as points in time do. This one sums squares about the mean.

    Shape:
        preds and target ``(samples,)`` or ``(samples, values)`` -> scalar.
    """

    higher_is_better = True
    full_state_update = False
    count: Tensor
    mean: Tensor
    variation: Tensor
    residuals: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Stacked, where there are several processes.
        self.add_state("count", torch.zeros(1), dist_reduce_fx=None)
        for name in ("mean", "variation", "residuals"):
            self.add_state(name, torch.zeros(1), dist_reduce_fx=None)

    def update(self, preds: Tensor, target: Tensor) -> None:
        preds, target = (each.reshape(len(each), -1) for each in (preds, target))
        mean, total = target.mean(0), self.count + len(target)
        shift = mean - self.mean
        between = shift**2 * self.count * len(target) / total
        self.variation = self.variation + ((target - mean) ** 2).sum(0) + between
        self.residuals = self.residuals + ((target - preds) ** 2).sum(0)
        self.mean, self.count = self.mean + shift * len(target) / total, total

    def compute(self) -> Tensor:
        variation, residuals = self.variation, self.residuals
        if self.mean.ndim > 1:
            centre = (self.mean * self.count).sum(0) / self.count.sum()
            within = (self.mean - centre) ** 2 * self.count
            variation, residuals = (variation + within).sum(0), residuals.sum(0)
        constant = torch.where(residuals == 0, 1.0, 0.0)
        return torch.where(variation > 0, 1 - residuals / variation, constant).mean()


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
