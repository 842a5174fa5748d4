"""The small real tables that ship inside scikit-learn: nothing to download."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn import datasets

from quartet import Fold, Parts, assemble, split, standardize


def breast_cancer(
    *,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    keep: Mapping[int, float] | None,
    fold: Fold | None = None,
) -> Parts:
    """Breast tumours: standardised inputs ``(rows, 30)``, targets float32 ``(rows, 1)``, 1 = benign.

    Arguments and errors are those of `project.data.digits.digits`.
    """
    source = datasets.load_breast_cancer()
    return _table(source, True, val_fraction, test_fraction, split_seed, keep, fold)


def wine(
    *,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    keep: Mapping[int, float] | None,
    fold: Fold | None = None,
) -> Parts:
    """Wines of three growers: standardised inputs ``(rows, 13)``, targets int64 ``(rows,)``.

    Arguments and errors are those of `project.data.digits.digits`.
    """
    return _table(datasets.load_wine(), False, val_fraction, test_fraction, split_seed, keep, fold)


def diabetes(
    *,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    fold: Fold | None = None,
    standardize_targets: bool,
) -> Parts:
    """Progression of diabetes: standardised inputs ``(rows, 10)``, targets float32 ``(rows, 1)``.

    Args:
        val_fraction: Share of the rows for validation, in [0, 1).
        test_fraction: Share of the rows for the test, in [0, 1).
        split_seed: Seed of the split.
        standardize_targets: Whether targets get mean 0 and standard deviation 1 over the training
            part; otherwise they stay in 25 to 346.
        fold: Which fold (from 0) is the validation part, and how many there are; None: a fraction.

    Raises:
        ValueError: A fraction is out of range or leaves a part empty.
    """
    # The default scaled=True was fitted to all 442 rows, the test part's among them.
    source = datasets.load_diabetes(scaled=False)
    values = source.target.reshape(-1, 1)
    rows = split(
        len(values),
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        split_seed=split_seed,
        fold=fold,
    )
    inputs, _ = standardize(source.data, rows.train)
    targets, scale = torch.from_numpy(values.astype(np.float32)), None
    if standardize_targets:
        targets, scale = standardize(values, rows.train)
    return assemble(
        rows, inputs, targets, target_scale=scale, feature_names=_names(source.feature_names)
    )


def _table(
    source: Any,
    binary: bool,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    keep: Mapping[int, float] | None,
    fold: Fold | None,
) -> Parts:
    labels: NDArray[np.int64] = source.target.astype(np.int64)
    rows = split(
        len(labels),
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        split_seed=split_seed,
        fold=fold,
        stratify=labels,
        keep=keep,
    )
    inputs, _ = standardize(source.data, rows.train)
    targets = torch.from_numpy(labels)
    return assemble(
        rows,
        inputs,
        targets.float().unsqueeze(1) if binary else targets,
        class_names=_names(source.target_names),
        feature_names=_names(source.feature_names),
    )


def _names(values: Any) -> tuple[str, ...]:
    return tuple(str(value) for value in values)
