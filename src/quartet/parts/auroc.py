"""AUROC in bounded memory."""

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class AUROC(Metric):
    """Area under the receiver operating characteristic, in bounded memory.

    This is the share of pairs of a positive and a negative in which the positive has the higher
    score; ties count half. It is exact for up to `exact_values` scores. More scores are counted in
    `bins` equal intervals of their log-odds.

    torchmetrics' AUROC keeps every score, or compares every score with every threshold.

    Args:
        task: binary, multiclass (each class against the others) or multilabel.
        num_outputs: Classes or labels; 1 for binary.
        exact_values: Number of scores (samples times outputs) to keep, of 4 bytes each; 5 if multilabel.
        bins: Number of intervals, of 8 bytes each for every output.

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
            given = f"got {exact_values} and {bins}"
            raise ValueError(f"exact_values must be at least 0 and bins at least 2, {given}.")
        self.task, self.exact_values, self.bins = task, exact_values, bins
        self.add_state("preds", [], dist_reduce_fx="cat")
        self.add_state("target", [], dist_reduce_fx="cat")
        counts = torch.zeros(num_outputs, 2, bins, dtype=torch.int32)
        self.add_state("counts", counts, dist_reduce_fx="sum")
        self.kept = 0

    def update(self, preds: Tensor, target: Tensor) -> None:
        outputs = self.counts.shape[0]
        self.preds.append(preds.reshape(-1, outputs).float())
        if preds.shape == target.shape:  # otherwise target has class indices
            target = target.reshape(-1, outputs).bool()
        self.target.append(target)
        self.kept += preds.numel()
        if self.kept > self.exact_values:
            self.bin()

    def bin(self) -> None:
        """Moves the kept scores into the bins."""
        # Each output has its bins of negatives, then its bins of positives.
        counts = self.counts.view(len(self.counts), -1)
        one = torch.ones((), dtype=counts.dtype, device=counts.device)
        for scores, target in zip(self.preds, self.target, strict=True):
            # Probabilities up to 1e-9, and those closest to 1, share the outer bins.
            odds = scores.t().contiguous().logit().clamp_(-20.7, 20.7)
            places = odds.mul_(self.bins / 42).add_(self.bins / 2).long()
            if target.dim() == 2:
                places += target.t() * self.bins
            else:
                places[target.long(), torch.arange(len(target), device=target.device)] += self.bins
            # One output at a time: the bins of all outputs would not fit into the cache.
            counts.scatter_add_(1, places, one.expand(places.shape))
        self.preds.clear()
        self.target.clear()
        self.kept = 0

    def compute(self) -> Tensor:
        if self.counts.any():
            self.preds, self.target = as_list(self.preds), as_list(self.target)
            self.bin()
            # A few outputs at a time: allocating memory costs more than the sums.
            areas = torch.cat([areas_of_bins(few) for few in self.counts.split(64)])
        elif len(self.preds):
            scores, target = torch.cat(as_list(self.preds)), dim_zero_cat(self.target)
            pairs = [
                count_wins(scores[:, k], target == k if target.dim() == 1 else target[:, k])
                for k in range(scores.shape[1])
            ]
            won, counts = torch.stack(pairs).double().unbind(1)
            areas = won / 2 / (counts * (len(scores) - counts))
        else:
            areas = torch.full((1,), torch.nan)
        return areas.nanmean().float()

    def reset(self) -> None:
        super().reset()
        self.kept = 0


def areas_of_bins(counts: Tensor) -> Tensor:
    """Returns the area of each output, given counts of its negatives and positives ``(outputs, 2, bins)``."""
    negatives, positives = counts.double().unbind(1)
    below = negatives.cumsum(1) - negatives / 2
    return (positives * below).sum(1) / (positives.sum(1) * negatives.sum(1))


def as_list(kept: list[Tensor] | Tensor) -> list[Tensor]:
    """Returns the parts of a state, which is one tensor after a reduction over processes."""
    parts = [kept] if isinstance(kept, Tensor) else kept
    return [part for part in parts if len(part)]  # processes without scores add an empty one


def count_wins(scores: Tensor, positive: Tensor) -> Tensor:
    """Returns twice the pairs of ``(samples,)`` scores that a positive wins, and the positives."""
    scores, won = scores.contiguous(), scores[positive]
    # numpy sorts faster.
    ordered = torch.from_numpy(np.sort(scores.numpy())) if scores.is_cpu else scores.sort().values
    # Twice the rank of each positive; equal scores share their mean rank.
    ranks = torch.searchsorted(ordered, won) + torch.searchsorted(ordered, won, right=True)
    # The sum of its ranks minus its ranks among the positives (Mann and Whitney, 1947).
    count = positive.sum()
    return torch.stack([ranks.sum() - count**2, count])
