"""Splits of the rows of a data set, and what is refused."""

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from made import rejections

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
    counts = [np.bincount(labels[part]).tolist() for part in rows]
    assert counts == [[42, 21, 7], [6, 3, 1], [12, 6, 2]]


def test_class_of_the_test_part_alone_counts_no_longer() -> None:
    classes = np.array(["a"] * 28 + ["c"] * 2 + ["b"] * 15)
    rows = split(45, val_fraction=0.05, test_fraction=0.7, split_seed=0, stratify=classes)
    assert [len(part) for part in rows] == [12, 2, 31]
    assert {*classes[rows.test]} == {*"abc"}
    assert {*classes[rows.val]} == {*classes[rows.train]} == {*"ab"}


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


def test_assembled_parts_hold_their_rows_of_every_tensor_or_are_absent() -> None:
    rows = split(10, val_fraction=0, test_fraction=0, split_seed=0)
    parts = assemble(rows, torch.arange(10.0), torch.arange(10))
    assert parts.val is None
    assert parts.test is None
    assert len(tensors(parts.train)[0]) == 10
    rows = Rows(np.array([0, 3]), np.array([1]), np.array([2]))
    parts = assemble(rows, torch.tensor([10, 11, 12, 13]), torch.tensor([0, 1, 2, 3]))
    assert [tensors(part)[0].tolist() for part in parts[:3]] == [[10, 13], [11], [12]]
    assert tensors(parts.train)[1].tolist() == [0, 3]


CUT: dict[str, Any] = {"val_fraction": 0, "test_fraction": 0, "split_seed": 0}
OUT_OF_RANGE = [-0.1, 1, 1.5, math.nan]
REFUSED = [
    *(
        (10, {"val_fraction": value}, f"val_fraction must be .* below 1, got {value}; 0 means")
        for value in OUT_OF_RANGE
    ),
    *((10, {"test_fraction": value}, "test_fraction must be") for value in OUT_OF_RANGE),
    (
        10,
        {"val_fraction": 0.5, "test_fraction": 0.5},
        r"must be below 1, got 0.5 \+ 0.5; the rest is",
    ),
    (
        2,
        {"val_fraction": 0.4, "test_fraction": 0.59},
        "of 2 rows leave no training part; it takes more of them",
    ),
    (
        20,
        {"val_fraction": 0.01},
        r"val_fraction=0.01 makes .* of 20 rows; it takes more of them, or .* 0.05",
    ),
    (
        6,
        {"test_fraction": 0.1, "groups": np.arange(6) // 2},
        r"test_fraction=0.1 makes an empty part of 3 groups",
    ),
    (
        31,
        {"test_fraction": 0.2, "stratify": np.array(["cat"] * 30 + ["dog"])},
        r"class 'dog' has only 1 row .* test_fraction=0.2",
    ),
    (
        30,
        {"val_fraction": 0.07, "stratify": np.arange(30) % 3},
        "into 28 and 2, fewer than the 3 classes",
    ),
    (
        3,
        {"stratify": np.array([0, 0, 1]), "keep": {7: 0.5}},
        "keep names class 7, .* the classes are 0, 1",
    ),
    (
        3,
        {"stratify": np.array([0, 0, 1]), "keep": {1: 0}},
        r"keep must be above 0 .* got 0 for class 1",
    ),
    (3, {"keep": {1: 0.5}}, "keep needs stratify"),
]


test_division_that_cannot_be_is_refused = rejections(
    lambda rows, settings: split(rows, **CUT | settings), *REFUSED
)


def test_keep_leaves_the_fraction_of_each_named_class_of_the_training_part() -> None:
    labels = np.repeat([0, 1, 2], 20)
    cut = functools.partial(split, 60, val_fraction=0.25, test_fraction=0, split_seed=0)
    whole, left = (cut(stratify=labels, keep=keep) for keep in (None, {0: 0.2, 2: 0.001}))
    assert np.bincount(labels[left.train]).tolist() == [3, 15, 1]
    assert set(left.train) <= set(whole.train)
    assert left.train.tolist() == cut(stratify=labels, keep={0: 0.2, 2: 0.001}).train.tolist()
    assert left.val.tolist() == whole.val.tolist()


def test_standardisation_knows_the_training_rows_alone() -> None:
    values = np.array([[1.0, 5.0], [3.0, 5.0], [100.0, 7.0]])
    scaled, (mean, std) = standardize(values, np.array([0, 1]))
    assert scaled.tolist() == [[-1.0, 0.0], [1.0, 0.0], [98.0, 2.0]]
    assert (mean.tolist(), std.tolist()) == ([2.0, 5.0], [1.0, 1.0])
    assert {t.dtype for t in (scaled, mean, std)} == {torch.float32}
