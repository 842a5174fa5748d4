"""Random numbers in, random numbers out: the smallest thing that can be trained."""

import torch

from quartet import Fold, Parts, assemble, split


def linear(
    *,
    rows: int,
    features: int,
    outputs: int,
    seed: int,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    fold: Fold | None = None,
) -> Parts:
    """Independent standard normal inputs ``(rows, features)`` and targets ``(rows, outputs)``.

    Targets do not depend on inputs: a fit below a mean squared error of about 1 is overfitting.

    Args:
        rows: Number of rows, at least 1.
        features: Number of input columns, at least 1.
        outputs: Number of target columns, at least 1.
        seed: Seed of the numbers.
        val_fraction: Share of the rows for validation, in [0, 1).
        test_fraction: Share of the rows for the test, in [0, 1).
        split_seed: Seed of the split.
        fold: Which fold (from 0) is the validation part, and how many there are; None: a fraction.

    Raises:
        ValueError: A count is below 1, or a fraction is out of range or leaves a part empty.
    """
    for name, count in (("rows", rows), ("features", features), ("outputs", outputs)):
        if count < 1:
            raise ValueError(
                f"{name} must be at least 1, got {count}; the example has 100 x 10 -> 1."
            )
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, features, generator=generator)
    targets = torch.randn(rows, outputs, generator=generator)
    parts = split(
        rows,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        split_seed=split_seed,
        fold=fold,
    )
    return assemble(parts, inputs, targets)
