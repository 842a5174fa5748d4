"""Handwritten digits, which ship inside scikit-learn: nothing to download."""

from collections.abc import Mapping

import numpy as np
import torch
from sklearn import datasets

from quartet import Fold, Parts, assemble, split


def digits(
    *,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    keep: Mapping[int, float] | None,
    fold: Fold | None = None,
) -> Parts:
    """Handwritten digits: inputs float32 ``(rows, 1, 8, 8)`` in [0, 1], targets int64 ``(rows,)``.

    Args:
        val_fraction: Share of the rows for validation, in [0, 1).
        test_fraction: Share of the rows for the test, in [0, 1).
        split_seed: Seed of the stratified split.
        fold: Which fold (from 0) is the validation part, and how many there are; None: a fraction.
        keep: Class index -> fraction of its training rows to keep. Validation and test parts stay
            whole, so that every class still counts there. None keeps all.

    Raises:
        ValueError: A fraction is out of range or leaves a part or class empty.
    """
    source = datasets.load_digits()
    labels = source.target.astype(np.int64)
    rows = split(
        len(labels),
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        split_seed=split_seed,
        fold=fold,
        stratify=labels,
        keep=keep,
    )
    images = torch.from_numpy((source.images / 16).astype(np.float32)).unsqueeze(1)
    return assemble(
        rows, images, torch.from_numpy(labels), class_names=tuple(map(str, source.target_names))
    )
