"""Ranking metrics over graded relevance, and AUROC in bounded memory."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torchmetrics import Metric
from torchmetrics.retrieval import RetrievalMAP, RetrievalMRR
from torchmetrics.utilities import dim_zero_cat


class MeanReciprocalRank(RetrievalMRR):
    """Mean over queries of 1 / rank of the first relevant document.

    A query without a relevant document counts as 0.

    Args:
        relevant_from: The lowest grade that counts as relevant.
        kwargs: Of `torchmetrics.retrieval.RetrievalMRR`.

    Shape:
        preds ``(documents,)`` scores of any sign, target ``(documents,)`` grades, indexes
        ``(documents,)`` the query of each -> scalar.
    """

    relevant_from: Tensor

    def __init__(self, *, relevant_from: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # A state, because a MetricCollection lets metrics share theirs once they were equal.
        self.add_state("relevant_from", torch.tensor(float(relevant_from)), "mean")

    def update(self, preds: Tensor, target: Tensor, indexes: Tensor) -> None:
        super().update(preds, target >= self.relevant_from, indexes)

    def _metric(self, preds: Tensor, target: Tensor) -> Tensor:
        return super()._metric(_ascending(preds), target)


class MeanAveragePrecision(RetrievalMAP):
    """Mean over queries of the precision at the rank of each relevant document.

    A query without a relevant document counts as 0.

    Args:
        relevant_from: The lowest grade that counts as relevant.
        kwargs: Of `torchmetrics.retrieval.RetrievalMAP`.

    Shape:
        preds ``(documents,)`` scores of any sign, target ``(documents,)`` grades, indexes
        ``(documents,)`` the query of each -> scalar.
    """

    relevant_from: Tensor

    def __init__(self, *, relevant_from: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # A state, because a MetricCollection lets metrics share theirs once they were equal.
        self.add_state("relevant_from", torch.tensor(float(relevant_from)), "mean")

    def update(self, preds: Tensor, target: Tensor, indexes: Tensor) -> None:
        super().update(preds, target >= self.relevant_from, indexes)

    def _metric(self, preds: Tensor, target: Tensor) -> Tensor:
        return super()._metric(_ascending(preds), target)


def _ascending(scores: Tensor) -> Tensor:
    """1, 2, ... in the order of the scores: torchmetrics ignores documents scored 0 or less."""
    return scores.argsort(stable=True).argsort() + 1.0


class AUROC(Metric):
    """Area under the receiver operating characteristic, in memory that does not grow without end.

    The share of pairs of a positive and a negative in which the positive has the higher score, ties
    counting half. Exact for the first `exact_values` scores; beyond, all of them are counted in
    `bins` equal intervals of their log-odds, which at 4096 bins was within 1e-5 of the exact value.

    torchmetrics' own keeps every score, or compares each with every threshold.

    Args:
        task: binary, multiclass (each class against the others) or multilabel.
        num_outputs: Classes or labels; 1 for binary.
        exact_values: Scores, samples times outputs, that are kept; each takes 5 bytes.
        bins: Intervals, 16 bytes each for every output.

    Shape:
        preds ``(samples, outputs)`` probabilities, target ``(samples,)`` classes for multiclass,
        else ``(samples, outputs)`` of 0 and 1; for binary, ``(samples,)`` both -> scalar, the mean
        over outputs that have positives and negatives; NaN if there are none.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    preds: list[Tensor]
    target: list[Tensor]
    counts: Tensor

    def __init__(self, *, task: str, num_outputs: int, exact_values: int, bins: int) -> None:
        super().__init__()
        if exact_values < 0 or bins < 2:
            raise ValueError(
                f"exact_values must be at least 0 and bins at least 2, got {exact_values} and {bins}."
            )
        self.task, self.exact_values, self.bins = task, exact_values, bins
        self.add_state("preds", [], dist_reduce_fx="cat")
        self.add_state("target", [], dist_reduce_fx="cat")
        counts = torch.zeros(num_outputs, 2, bins, dtype=torch.long)
        self.add_state("counts", counts, dist_reduce_fx="sum")
        self.kept = 0

    def update(self, preds: Tensor, target: Tensor) -> None:
        outputs = self.counts.shape[0]
        if self.task == "multiclass":
            target = one_hot(target.long(), outputs)
        self.preds.append(preds.reshape(-1, outputs).float())
        self.target.append(target.reshape(-1, outputs).bool())
        self.kept += preds.numel()
        if self.kept > self.exact_values:
            self.bin()

    def bin(self) -> None:
        """Counts in bins what was kept."""
        for scores, positive in zip(self.preds, self.target, strict=True):
            # Probabilities of 1e-9 and less, or as near to 1 as floats come, share the outer bins.
            odds = scores.double().clamp(1e-9, 1 - 1e-9).logit()
            place = ((odds / 42 + 0.5) * self.bins).long().clamp(0, self.bins - 1)
            output = torch.arange(scores.shape[1], device=scores.device)
            index = (output * 2 + positive) * self.bins + place
            counted = index.flatten().bincount(minlength=self.counts.numel())
            self.counts += counted.view_as(self.counts)
        self.preds.clear()
        self.target.clear()
        self.kept = 0

    def compute(self) -> Tensor:
        kept = [dim_zero_cat(self.preds)] if len(self.preds) else []
        if self.counts.any():
            self.preds, self.target = kept, [dim_zero_cat(self.target)] if kept else []
            self.bin()
            negatives, positives = self.counts.double().unbind(1)
            below = negatives.cumsum(1) - negatives / 2
            areas = (positives * below).sum(1) / (positives.sum(1) * negatives.sum(1))
        elif kept:
            areas = areas_of(kept[0], dim_zero_cat(self.target))
        else:
            areas = torch.full((1,), torch.nan)
        return areas.nanmean().float()

    def reset(self) -> None:
        super().reset()
        self.kept = 0


def areas_of(scores: Tensor, positive: Tensor) -> Tensor:
    """The exact area under the curve of each column; NaN without positives or negatives.

    Args:
        scores: ``(samples, columns)`` floats from 0 on.
        positive: ``(samples, columns)``, bool.
    """
    # The bits of floats from 0 on are in their order. One sort of whole numbers that end in the
    # class takes a third of the time of sorting floats and taking the classes along.
    keys = scores.t().contiguous().view(torch.int32).long() * 2 + positive.t()
    keys = torch.from_numpy(np.sort(keys.numpy())) if keys.is_cpu else keys.sort(dim=1).values
    hits = keys & 1
    misses_until = (1 - hits).cumsum(1)
    values = keys >> 1
    new = torch.ones_like(values, dtype=torch.bool)
    new[:, 1:] = values[:, 1:] != values[:, :-1]
    # Negatives before the first of equal scores: the largest such number so far.
    misses_below = ((misses_until - (1 - hits)) * new).cummax(1).values
    pairs = (hits * (misses_below + misses_until)).sum(1).double() / 2
    count = hits.sum(1).double()
    return pairs / (count * (keys.shape[1] - count))
