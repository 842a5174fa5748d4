"""Splits of the rows of a data set, and what is refused."""

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch

from quartet.data.split import Rows, assemble, split, standardize


def tensors(part: Any) -> tuple[torch.Tensor, ...]:
    result: tuple[torch.Tensor, ...] = part.tensors
    return result


def test_split_is_disjoint_covers_all_rows_and_has_the_sizes_asked_for() -> None:
    rows = split(50, val_fraction=0.1, test_fraction=0.2, split_seed=0)
    assert [len(part) for part in rows] == [35, 5, 10]
    assert sorted(np.concatenate(rows)) == list(range(50))
    assert all((np.diff(part) > 0).all() for part in rows)


def test_split_depends_on_its_seed_alone() -> None:
    def parts(seed: int) -> list[list[int]]:
        rows = split(50, val_fraction=0.1, test_fraction=0.2, split_seed=seed)
        return [part.tolist() for part in rows]

    np.random.seed(1)
    first = parts(0)
    np.random.seed(2)
    assert parts(0) == first
    assert parts(1) != first


def test_stratified_split_keeps_the_shares_of_the_classes() -> None:
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    rows = split(100, val_fraction=0.1, test_fraction=0.2, split_seed=3, stratify=labels)
    assert [np.bincount(labels[part]).tolist() for part in rows] == [
        [42, 21, 7],
        [6, 3, 1],
        [12, 6, 2],
    ]


def test_grouped_split_keeps_groups_whole() -> None:
    groups = np.repeat(np.arange(20), np.arange(1, 21))
    rows = split(len(groups), val_fraction=0.1, test_fraction=0.2, split_seed=0, groups=groups)
    owned = [set(groups[part]) for part in rows]
    assert [len(part) for part in owned] == [14, 2, 4]
    assert set.union(*owned) == set(range(20))
    assert sum(map(len, rows)) == len(groups)


@pytest.mark.parametrize("kind", ["plain", "stratify", "groups"])
def test_validation_part_never_changes_the_test_part(kind: str) -> None:
    labels = np.arange(60) % 5
    by: dict[str, Any] = {} if kind == "plain" else {kind: labels}
    one, other = (
        split(60, val_fraction=fraction, test_fraction=0.2, split_seed=0, **by)
        for fraction in (0, 0.4)
    )
    assert one.test.tolist() == other.test.tolist()
    assert not set(other.val) & set(other.test)
    assert len(one.val) == 0


def test_fraction_of_zero_is_an_absent_part() -> None:
    rows = split(10, val_fraction=0, test_fraction=0, split_seed=0)
    parts = assemble(rows, torch.arange(10.0), torch.arange(10))
    assert parts.val is None
    assert parts.test is None
    assert len(tensors(parts.train)[0]) == 10


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, math.nan])
def test_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(
        ValueError, match=f"val_fraction must be .* below 1, got {fraction}; 0 means"
    ):
        split(10, val_fraction=fraction, test_fraction=0.2, split_seed=0)
    with pytest.raises(ValueError, match="test_fraction must be"):
        split(10, val_fraction=0.2, test_fraction=fraction, split_seed=0)


def test_fractions_that_leave_nothing_to_train_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be below 1, got 0.5 \+ 0.5; the rest is"):
        split(10, val_fraction=0.5, test_fraction=0.5, split_seed=0)
    with pytest.raises(ValueError, match="of 2 rows leave no training part; it takes more of them"):
        split(2, val_fraction=0.4, test_fraction=0.59, split_seed=0)


def test_empty_part_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"val_fraction=0.01 makes .* of 20 rows; it takes more of them, or .* 0.05",
    ):
        split(20, val_fraction=0.01, test_fraction=0, split_seed=0)
    with pytest.raises(ValueError, match=r"test_fraction=0.1 makes an empty part of 3 groups"):
        split(6, val_fraction=0, test_fraction=0.1, split_seed=0, groups=np.arange(6) // 2)


def test_class_too_small_to_stratify_is_refused_by_name() -> None:
    labels = np.array(["cat"] * 30 + ["dog"])
    with pytest.raises(ValueError, match=r"class 'dog' has only 1 row .* test_fraction=0.2"):
        split(31, val_fraction=0, test_fraction=0.2, split_seed=0, stratify=labels)
    with pytest.raises(ValueError, match="into 28 and 2, fewer than the 3 classes"):
        split(30, val_fraction=0.07, test_fraction=0, split_seed=0, stratify=np.arange(30) % 3)


def test_keep_leaves_the_fraction_of_each_named_class_of_the_training_part() -> None:
    labels = np.repeat([0, 1, 2], 20)
    cut = functools.partial(split, 60, val_fraction=0.25, test_fraction=0, split_seed=0)
    whole, left = (cut(stratify=labels, keep=keep) for keep in (None, {0: 0.2, 2: 0.001}))
    assert np.bincount(labels[left.train]).tolist() == [3, 15, 1]
    assert set(left.train) <= set(whole.train)
    assert left.train.tolist() == cut(stratify=labels, keep={0: 0.2, 2: 0.001}).train.tolist()
    assert left.val.tolist() == whole.val.tolist()


def test_keep_of_an_unknown_class_or_an_impossible_fraction_is_refused() -> None:
    cut = functools.partial(split, 3, val_fraction=0, test_fraction=0, split_seed=0)
    with pytest.raises(ValueError, match=r"keep names class 7, .* the classes are 0, 1"):
        cut(stratify=np.array([0, 0, 1]), keep={7: 0.5})
    with pytest.raises(ValueError, match=r"keep must be above 0 .* got 0 for class 1"):
        cut(stratify=np.array([0, 0, 1]), keep={1: 0})
    with pytest.raises(ValueError, match="keep needs stratify"):
        cut(keep={1: 0.5})


def test_standardisation_knows_the_training_rows_alone() -> None:
    values = np.array([[1.0, 5.0], [3.0, 5.0], [100.0, 7.0]])
    scaled, (mean, std) = standardize(values, np.array([0, 1]))
    assert scaled.tolist() == [[-1.0, 0.0], [1.0, 0.0], [98.0, 2.0]]
    assert (mean.tolist(), std.tolist()) == ([2.0, 5.0], [1.0, 1.0])
    assert {t.dtype for t in (scaled, mean, std)} == {torch.float32}


def test_assembled_parts_hold_their_rows_of_every_tensor() -> None:
    rows = Rows(np.array([0, 3]), np.array([1]), np.array([2]))
    parts = assemble(rows, torch.tensor([10, 11, 12, 13]), torch.tensor([0, 1, 2, 3]))
    assert [tensors(part)[0].tolist() for part in parts[:3]] == [[10, 13], [11], [12]]
    assert tensors(parts.train)[1].tolist() == [0, 3]
