"""Losses that torch does not have. All take raw outputs and return the mean as a scalar."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NLLLoss(nn.Module):
    """Negative log-likelihood of the target class, from raw outputs.

    ``torch.nn.NLLLoss`` expects log-probabilities and does not check them; this one expects logits,
    which makes it equal to cross-entropy.

    Shape:
        outputs ``(batch, classes)`` logits, targets ``(batch,)`` class indices -> scalar.

    Raises:
        ValueError: the shapes or types are others.
    """

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        _check_multiclass("nll", outputs, targets)
        return F.nll_loss(F.log_softmax(outputs, dim=1), targets)


class WeightedCrossEntropy(nn.Module):
    """Cross-entropy in which each class has a weight, as in ``torch.nn.CrossEntropyLoss(weight=...)``.

    Checkpoints save and restore the buffer ``weight``, float32 ``(classes,)``.

    Args:
        weight: One positive number a class, or ``"balanced"``: every class has the same total weight
            in the training set. ``fit`` computes it and must run before the first ``forward``.
        num_classes: Number of classes, at least 2.
        label_smoothing: Share of each target that is spread evenly over all classes, in [0, 1].

    Shape:
        outputs ``(batch, classes)`` logits, targets ``(batch,)`` class indices -> scalar.

    Raises:
        ValueError: a weight is not positive, their number is not ``num_classes``, or the shapes or types
            are others.
        RuntimeError: ``weight`` is ``"balanced"`` and neither ``fit`` nor a checkpoint has set it.
    """

    weight: Tensor

    def __init__(
        self,
        *,
        weight: Sequence[float] | Literal["balanced"],
        num_classes: int | None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        if num_classes is None or num_classes < 2:
            raise ValueError(
                f"num_classes must be at least 2, got {num_classes}; weighted_cross_entropy is for "
                "multiclass tasks, a regression wants mse and a ranking ranknet."
            )
        self.num_classes = num_classes
        self.balanced = weight == "balanced"
        if self.balanced:
            self.register_buffer("weight", torch.zeros(num_classes))
        elif isinstance(weight, str) or len(weight) != num_classes:
            raise ValueError(
                f"weight must have one number for each of the {num_classes} classes, got {weight!r}; "
                "balanced computes them from the training targets."
            )
        else:
            self.register_buffer("weight", _class_weights("weight", weight))
        self._is_set = not self.balanced
        self.register_load_state_dict_post_hook(_mark_as_set)  # type: ignore[no-untyped-call]

    def fit(self, targets: Tensor) -> None:
        """Sets balanced weights, ``samples / (classes * count of the class)``; keeps given ones.

        This is scikit-learn's formula (King and Zeng, 2001).

        Args:
            targets: ``(samples,)`` class indices of the whole training set.

        Raises:
            ValueError: a target is no class index, or a class has no sample.
        """
        if not self.balanced:
            return
        are_indices = targets.ndim == 1 and targets.dtype == torch.int64 and targets.numel()
        if not are_indices or not 0 <= targets.min() <= targets.max() < self.num_classes:
            most = f" up to {targets.max()}" if are_indices else ""
            raise ValueError(
                f"targets must be int64 class indices (samples,) in 0 to {self.num_classes - 1}, got "
                f"{_describe(targets)}{most}; correct num_classes or the data."
            )
        counts = torch.bincount(targets, minlength=self.num_classes)
        absent = (counts == 0).nonzero().flatten().tolist()
        if absent:
            raise ValueError(
                f"the training targets have no sample of class {', '.join(map(str, absent))}, which "
                "leaves its balanced weight undefined; give weight as a list, or change the split."
            )
        self.weight.copy_(len(targets) / (self.num_classes * counts.double()))
        self._is_set = True

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        _check_multiclass("weighted_cross_entropy", outputs, targets)
        if outputs.shape[1] != self.num_classes:
            raise ValueError(
                f"outputs must have {self.num_classes} columns, as many as num_classes, got "
                f"{_describe(outputs)}; correct the model's outputs or num_classes."
            )
        if not self._is_set:
            raise RuntimeError("the balanced weights are not set; call fit(train_targets) first.")
        return F.cross_entropy(
            outputs, targets, weight=self.weight, label_smoothing=self.label_smoothing
        )

    def divisor(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns what the mean divides by: the sum of the weights."""
        return self.weight[targets].sum()


class WeightedBCE(nn.Module):
    """Binary cross-entropy in which the positives of each output have a weight.

    Args:
        pos_weight: A number for each output; of ``"balanced"`` `fit` makes negatives / positives.
        num_outputs: Number of labels; 1 for binary.

    Shape:
        outputs and targets (0.0 and 1.0) ``(batch, num_outputs)`` -> scalar.
    """

    pos_weight: Tensor

    def __init__(
        self, *, pos_weight: Sequence[float] | Literal["balanced"], num_outputs: int
    ) -> None:
        super().__init__()
        self.balanced = isinstance(pos_weight, str)
        weights = [1.0] * num_outputs if isinstance(pos_weight, str) else list(pos_weight)
        if len(weights) != num_outputs:
            raise ValueError(f"pos_weight must have {num_outputs} numbers, got {len(weights)}.")
        self.register_buffer("pos_weight", _class_weights("pos_weight", weights))

    def fit(self, targets: Tensor) -> None:
        """Sets balanced weights from the targets of the training set."""
        positives = targets.double().sum(0)
        ratio = (len(targets) - positives) / positives
        if self.balanced:  # a label that is always or never there has nothing to balance
            self.pos_weight.copy_(ratio.where((ratio > 0) & ratio.isfinite(), 1))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs, targets, pos_weight=self.pos_weight)


class FocalLoss(nn.Module):
    """Cross-entropy with less weight for samples that the model classifies well.

    With ``p`` the probability of the true class, the mean over all targets of
    ``-alpha * (1 - p) ** gamma * log(p)``. Lin et al., "Focal Loss for Dense Object Detection", 2017,
    equation 5. The shape and type of the targets decide between multiclass and the other tasks.

    Args:
        gamma: Strength of the focus, at least 0. At 0 it is cross-entropy.
        alpha: Binary and multilabel: the weight of the positives, in (0, 1); the negatives get
            ``1 - alpha``. Multiclass: one positive weight a class. None: every weight is 1.

    Shape:
        - multiclass: outputs ``(batch, classes)`` logits, targets ``(batch,)`` class indices -> scalar.
        - binary, multilabel: outputs and targets ``(batch, labels)``, logits and floats of 0 and 1
          -> scalar.

    Raises:
        ValueError: gamma or alpha is out of range, alpha is of the other kind of task, or the shapes or
            types are others.
    """

    alpha: Tensor | None

    def __init__(self, *, gamma: float, alpha: float | Sequence[float] | None) -> None:
        super().__init__()
        if not gamma >= 0:
            raise ValueError(f"gamma must be at least 0, got {gamma}; 0 gives cross-entropy.")
        self.gamma, weights = gamma, None
        if isinstance(alpha, Sequence):
            weights = _class_weights("alpha", alpha)
        elif alpha is not None:
            if not 0 < alpha < 1:
                raise ValueError(
                    f"alpha must lie between 0 and 1, got {alpha}; null weighs both alike."
                )
            weights = torch.tensor(float(alpha))
        self.register_buffer("alpha", weights, persistent=False)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if targets.is_floating_point() and outputs.shape == targets.shape:
            weights = self._binary_weights(targets)
            log_odds = outputs * (2 * targets - 1)
        elif _is_multiclass(outputs, targets):
            weights = self._multiclass_weights(outputs, targets)
            true = targets.unsqueeze(1)
            others = outputs.scatter(1, true, -torch.inf)
            log_odds = outputs.gather(1, true).squeeze(1) - others.logsumexp(dim=1)
        else:
            raise ValueError(
                "focal takes outputs (batch, classes) with targets (batch,) of int64 class indices, or both "
                "(batch, labels) with float targets of 0 and 1, got outputs "
                f"{_describe(outputs)}, targets {_describe(targets)}."
            )
        # From the log-odds of the true class both logarithms stay finite where p rounds to 0 or 1;
        # a power of 1 - p has an infinite slope there for gamma below 1.
        faded = torch.exp(self.gamma * F.logsigmoid(-log_odds))
        return (-weights * faded * F.logsigmoid(log_odds)).mean()

    def _binary_weights(self, targets: Tensor) -> Tensor:
        if self.alpha is None:
            return torch.ones_like(targets)
        if self.alpha.ndim != 0:
            raise ValueError(
                f"alpha must be one number for binary and multilabel targets, got {len(self.alpha)} "
                "class weights; give the weight of the positives, such as 0.25, or null."
            )
        return torch.where(targets > 0.5, self.alpha, 1 - self.alpha)

    def _multiclass_weights(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.alpha is None:
            return outputs.new_ones(())
        if self.alpha.shape != outputs.shape[1:]:
            given = "one number" if self.alpha.ndim == 0 else f"{len(self.alpha)} numbers"
            raise ValueError(
                f"alpha must be a list of one weight for each of the {outputs.shape[1]} classes, got "
                f"{given}; null weighs all alike."
            )
        return self.alpha[targets]


class RankNetLoss(nn.Module):
    """Logistic loss of the differences between the scores of documents that answer one query.

    The mean of ``log(1 + exp(-sigma * (s_i - s_j)))`` over all pairs of the batch in which document i
    is more relevant than document j to their query; 0 if the batch has no such pair. Burges et al.,
    "Learning to Rank using Gradient Descent", 2005, equation 3.

    Args:
        sigma: Steepness of the logistic function, above 0.

    Shape:
        outputs ``(batch, 1)`` scores, targets ``(batch, 1)`` float relevances, indexes ``(batch,)``
        int64, the query of each row -> scalar. Memory grows with queries * documents squared, for
        the most documents that a query has.

    Raises:
        ValueError: sigma is not positive, or the shapes or types are others.
    """

    def __init__(self, *, sigma: float) -> None:
        super().__init__()
        if not sigma > 0:
            raise ValueError(
                f"sigma must be above 0, got {sigma}; 1 is the plain logistic function."
            )
        self.sigma = sigma

    def forward(self, outputs: Tensor, targets: Tensor, indexes: Tensor) -> Tensor:
        _check_ranking("ranknet", outputs, targets, indexes)
        scores, relevances, is_document = _pad_queries(outputs, targets, indexes)
        is_pair = _find_pairs(relevances, is_document)
        losses = F.softplus(-self.sigma * (scores.unsqueeze(2) - scores.unsqueeze(1))[is_pair])
        return losses.sum() / max(losses.numel(), 1)

    def divisor(self, outputs: Tensor, targets: Tensor, indexes: Tensor) -> Tensor:
        """Returns what the mean divides by: the number of pairs."""
        return _find_pairs(*_pad_queries(outputs, targets, indexes)[1:]).sum()


class ListNetLoss(nn.Module):
    """Cross-entropy between the top-one probabilities that relevances and scores give the documents.

    They are the softmax over the documents of a query; the mean is over queries. Cao et al.,
    "Learning to Rank: From Pairwise Approach to Listwise Approach", 2007.

    Shape:
        outputs ``(batch, 1)`` scores, targets ``(batch, 1)`` float relevances, indexes ``(batch,)``
        int64, the query of each row -> scalar.

    Raises:
        ValueError: the shapes or types are others.
    """

    def forward(self, outputs: Tensor, targets: Tensor, indexes: Tensor) -> Tensor:
        _check_ranking("listnet", outputs, targets, indexes)
        scores, relevances, is_document = _pad_queries(outputs, targets, indexes)
        wanted = relevances.masked_fill(~is_document, -torch.inf).softmax(dim=1)
        given = scores.masked_fill(~is_document, -torch.inf).log_softmax(dim=1)
        # The padding is 0 * -inf, which is not a number.
        return -(wanted * given.masked_fill(~is_document, 0)).sum(dim=1).mean()

    def divisor(self, outputs: Tensor, targets: Tensor, indexes: Tensor) -> Tensor:
        """Returns what the mean divides by: the number of queries."""
        return torch.ones_like(indexes.unique()).sum()


def _pad_queries(
    outputs: Tensor, targets: Tensor, indexes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, relevances and whether there is a document, each ``(queries, documents)``."""
    order = torch.argsort(indexes, stable=True)
    counts = torch.unique(indexes, return_counts=True)[1]
    documents = torch.arange(int(counts.max()), device=indexes.device)
    is_document = documents < counts.unsqueeze(1)

    def pad(values: Tensor) -> Tensor:
        empty = values.new_zeros(is_document.shape)
        return empty.masked_scatter(is_document, values.flatten()[order])

    return pad(outputs), pad(targets), is_document


def _find_pairs(relevances: Tensor, is_document: Tensor) -> Tensor:
    """Whether document i is more relevant than document j, ``(queries, documents, documents)``."""
    is_pair = relevances.unsqueeze(2) > relevances.unsqueeze(1)
    return is_pair & is_document.unsqueeze(2) & is_document.unsqueeze(1)


def _class_weights(argument: str, weights: Sequence[float]) -> Tensor:
    if not weights or not all(weight > 0 for weight in weights):
        raise ValueError(f"{argument} must hold positive numbers, got {list(weights)}.")
    return torch.tensor(weights, dtype=torch.float32)


def _mark_as_set(loss: Any, _: Any) -> None:
    loss._is_set = bool((loss.weight > 0).all())


def _is_multiclass(outputs: Tensor, targets: Tensor) -> bool:
    return (
        outputs.ndim == 2
        and outputs.shape[1] > 1
        and targets.shape == outputs.shape[:1]
        and targets.dtype == torch.int64
    )


def _check_multiclass(name: str, outputs: Tensor, targets: Tensor) -> None:
    if not _is_multiclass(outputs, targets):
        raise ValueError(
            f"{name} takes outputs (batch, classes) with targets (batch,) of int64 class indices, got outputs "
            f"{_describe(outputs)}, targets {_describe(targets)}; use bce for binary and multilabel "
            "targets, mse for regression."
        )


def _check_ranking(name: str, outputs: Tensor, targets: Tensor, indexes: Tensor) -> None:
    rows = indexes.shape
    if (
        len(rows) != 1
        or rows[0] == 0
        or outputs.shape != (*rows, 1)
        or targets.shape != (*rows, 1)
        or not targets.is_floating_point()
        or indexes.dtype != torch.int64
    ):
        raise ValueError(
            f"{name} takes outputs (batch, 1), float targets (batch, 1) and int64 indexes (batch,), "
            f"the query of each row, got outputs {_describe(outputs)}, targets {_describe(targets)}, "
            f"indexes {_describe(indexes)}; it is for ranking tasks."
        )


def _describe(values: Tensor) -> str:
    return f"{tuple(values.shape)} {str(values.dtype).removeprefix('torch.')}"
