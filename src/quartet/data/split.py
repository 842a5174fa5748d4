"""The parts of a data set, and functions that divide rows among them."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.model_selection import KFold, StratifiedKFold, train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from quartet.core.messages import suggest_name
from quartet.data.nest import leaves, map_tensors

IntArray = NDArray[np.int64]
Hashes = NDArray[np.uint64]
REMEMBERED = 1 << 17  # samples of the training part by which others are recognised


class Parts(NamedTuple):
    """What a data source returns.

    A part in memory is a ``TensorDataset(inputs, targets)``, for ranking ``TensorDataset(inputs,
    targets, indexes)``, or `Tensors` of any nest; a larger one is a `Stream`. Any other part is a map-style
    or an iterable data set of ``(inputs, target)`` or of what the `split` of the task takes; its method
    ``set_epoch(epoch)`` is called, if it has one. Images are uint8 ``(rows, channels, height, width)``, or
    float32 in [0, 1].

    Attributes:
        train: The training part.
        val: The validation part, or None.
        test: The test part, or None.
        class_names: Names of the classes (of the labels, if multilabel), in the order of the indices.
        target_scale: Mean and standard deviation, each ``(values,)``, of regression targets:
            ``target = (original - mean) / std``. None if they are not standardised.
        feature_names: Names of the input columns.
        encoding: How the columns of a table become inputs, for `quartet.data.csv.encode`.
        exact_targets: By part, targets in the units of the data with all their digits, where those of
            the data set are standardised.
        facts: Values for keys of the data group that are null, such as ``vocab_size``.
        augment: Changes a training batch at random, inputs and targets together: ``(batch, rows, epoch)
            -> batch``. `rows` are the numbers of its samples (of a stream their places in the epoch), for
            `quartet.draw`.
        collate: Makes a batch of a list of samples; None stacks their tensors.
        read: Makes a data set of the file or folder that ``input=`` of evaluate.py and predict.py
            names, prepared as the training part; None reads none.
        notes: What a user should know of the data, such as files that are left out: a line each.
        hashes: By part, a number for each sample, by which it is recognised when the data has changed.
    """

    train: Dataset[Any]
    val: Dataset[Any] | None
    test: Dataset[Any] | None
    class_names: tuple[str, ...] | None = None
    target_scale: tuple[Tensor, Tensor] | None = None
    feature_names: tuple[str, ...] | None = None
    encoding: dict[str, Any] | None = None
    exact_targets: Mapping[str, NDArray[np.float64]] = {}
    facts: Mapping[str, Any] = {}
    augment: Callable[[Any, Tensor, int], Any] | None = None
    collate: Callable[[list[Any]], Any] | None = None
    read: Callable[[Path], Dataset[Any]] | None = None
    notes: tuple[str, ...] = ()
    hashes: Mapping[str, Hashes] = {}


def choose_positive(source: Callable[[], Parts], name: str) -> Parts:
    """Returns the parts of a data set of two classes, with the one of this name as the positive one.

    Raises:
        ValueError: there is no such class, or targets are not in memory.
    """
    parts = source()
    names = parts.class_names or ("0", "1")
    if name not in names:
        raise ValueError(f"positive={name}: is no class of the data; {suggest_name(name, names)}")
    if name == names[1]:
        return parts

    def flip(dataset: Any) -> Any:
        if dataset is None:
            return None
        if not isinstance(dataset, TensorDataset):
            raise ValueError(f"positive={name}: needs targets in memory; set null.")
        inputs, targets, *rest = dataset.tensors
        return TensorDataset(inputs, 1 - targets, *rest)

    read = parts.read and (lambda path: flip(parts.read(path)))  # type: ignore[misc]
    flipped = {part: flip(getattr(parts, part)) for part in ("train", "val", "test")}
    return parts._replace(**flipped, read=read, class_names=(names[1], names[0]))


class Tensors(TensorDataset):
    """A data set in memory of any nest of tensors, each with the samples first.

    Example::

        Tensors({"inputs": (images, ages), "targets": {"sick": labels, "days": numbers}})

    Args:
        nest: Tuples and dicts of tensors.

    Raises:
        ValueError: the tensors differ in their number of samples.
    """

    def __init__(self, nest: Any) -> None:
        super().__init__()
        self.tensors = nest
        counts = {len(tensor) for tensor in leaves(nest)}
        if len(counts) != 1:
            raise ValueError(f"tensors must have one number of samples, got {sorted(counts)}.")
        self.count = counts.pop()

    def __getitem__(self, index: Any) -> Any:
        return map_tensors(lambda tensor: tensor[index], self.tensors)

    def __len__(self) -> int:
        return self.count


Fold = tuple[int, int]  # its number, from 0, and the number of folds


class Rows(NamedTuple):
    """Row numbers of the three parts, ascending and disjoint; an empty array is an absent part."""

    train: IntArray
    val: IntArray
    test: IntArray


def split(
    count: int,
    *,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    fold: Fold | None = None,
    stratify: NDArray[Any] | None = None,
    groups: NDArray[Any] | None = None,
    keep: Mapping[int, float] | None = None,
    order: NDArray[Any] | None = None,
) -> Rows:
    """Divides ``count`` rows into a training, a validation and a test part: at random, or by an order.

    The test rows depend on the seed and ``test_fraction`` alone, so that runs with other validation
    parts have the same test set.

    Args:
        count: Number of rows.
        val_fraction: Share of all rows, in [0, 1), for validation.
        test_fraction: Share of all rows, in [0, 1), for the test.
        split_seed: Seed of the division.
        fold: The validation part is this fold of all rows but the test rows; None if it is a
            fraction.
        stratify: ``(count,)`` class of each row; every part has the same shares of the classes.
        groups: ``(count,)`` group of each row; the fractions count groups, which stay whole.
        keep: Class of ``stratify`` -> fraction in (0, 1] of its training rows to keep, at least one
            row each: an imbalanced set. None keeps all.
        order: ``(count,)`` place of each row, such as its time: the last rows are the test part,
            those before them the validation part. Rows of one place stay together.

    Raises:
        ValueError: A fraction is out of range, a part is empty, a class has too few rows, ``keep``
            has an unknown class, or there are folds of an order.
    """
    if fold is not None:
        val_fraction = 0
    fractions = {"val_fraction": val_fraction, "test_fraction": test_fraction}
    for name, fraction in fractions.items():
        if not 0 <= fraction < 1:
            message = f"must be at least 0 and below 1, got {fraction}; 0 means none."
            raise ValueError(f"{name} {message}")
    if val_fraction + test_fraction >= 1:
        given = f"{val_fraction} + {test_fraction}; the rest is the training part."
        raise ValueError(f"val_fraction + test_fraction must be below 1, got {given}")
    units: NDArray[Any] = np.arange(count) if groups is None else np.unique(groups)
    unit = "rows" if groups is None else "groups"
    sizes = {name: round(fraction * len(units)) for name, fraction in fractions.items()}
    for name, size in sizes.items():
        if fractions[name] > 0 and size == 0:
            least = f"at least {1 / max(len(units), 1):.2g}, or 0 to go without"
            message = f"makes an empty part of {len(units)} {unit}; it takes more of them"
            raise ValueError(f"{name}={fractions[name]} {message}, or {least}.")
    if sum(sizes.values()) >= len(units):
        message = f"val_fraction={val_fraction} and test_fraction={test_fraction} of {len(units)}"
        way_out = "it takes more of them, or smaller fractions"
        raise ValueError(f"{message} {unit} leave no training part; {way_out}.")
    if order is not None:
        if fold is not None:
            raise ValueError("folds: rows in an order have no folds; set data.folds=null.")
        return _split_order(order, *sizes.values())
    chosen = dict.fromkeys(fractions, units[:0])
    classes, codes = None, None
    if stratify is not None:  # scikit-learn divides numbers as it divides names, but sooner
        classes, codes = np.unique(stratify, return_inverse=True)
    for name in ("test_fraction", "val_fraction"):
        if sizes[name]:
            labels = None if codes is None else codes[units]
            if labels is not None:
                _refuse_rare_classes(labels, classes, name, fractions[name], sizes[name])
            units, part = train_test_split(
                units, test_size=sizes[name], random_state=split_seed, stratify=labels
            )
            units, chosen[name] = np.sort(units), np.sort(part)
    if fold is not None:
        labels = None if codes is None else codes[units]
        folds = _split_fold(units, labels, classes, unit, fold, split_seed)
        units, chosen["val_fraction"] = folds
    if keep:
        if stratify is None:
            raise ValueError("keep needs stratify, the class of each row.")
        units = _keep_fractions(units, stratify, keep, split_seed)
    rows = Rows(units, chosen["val_fraction"], chosen["test_fraction"])
    if groups is None:
        return rows
    return Rows(*(np.flatnonzero(np.isin(groups, part)) for part in rows))


def _split_order(order: NDArray[Any], val: int, test: int) -> Rows:
    """Returns the first rows of an order, the last `test`, and the `val` before them."""
    by = order.argsort(kind="stable")
    values = order[by]

    def start(end: int, size: int) -> int:  # rows of one place stay together
        place = max(0, end - size)
        return int(np.searchsorted(values, values[place])) if size else end

    last = start(len(values), test)
    middle = start(last, val)
    if not middle:
        message = f"{len(values)} rows have {len(np.unique(values))} different places in their"
        raise ValueError(f"test_fraction: {message} order, too few for a training part; lower it.")
    return Rows(*(np.sort(part) for part in np.split(by, [middle, last])))


def _split_fold(
    units: NDArray[Any],
    labels: IntArray | None,
    classes: Any,
    unit: str,
    fold: Fold,
    split_seed: int,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns the other folds and this one, both in ascending order."""
    number, count = fold
    least, name = len(units), unit
    if labels is not None:
        found, counts = np.unique(labels, return_counts=True)
        least, name = counts.min(), f"rows of class {str(classes[found[counts.argmin()]])!r}"
    if least < count:
        message = f"there are {least} {name} beside the test part, fewer than folds; lower it."
        raise ValueError(f"folds={count}: {message}")
    kind = KFold if labels is None else StratifiedKFold
    folds = kind(count, shuffle=True, random_state=split_seed)
    others, this = list(folds.split(units, labels))[number]
    return units[others], units[this]


def _refuse_rare_classes(
    labels: IntArray, classes: Any, name: str, fraction: float, size: int
) -> None:
    found, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        rare = f"class {str(classes[found[counts.argmin()]])!r} has only {counts.min()} row left"
        way_out = f"add rows of that class, drop it, or set {name} to 0"
        raise ValueError(f"{rare} to share out by {name}={fraction}, 2 are needed; {way_out}.")
    if min(size, len(labels) - size) < len(found):
        parts = f"{len(labels)} rows into {len(labels) - size} and {size}"
        message = f"{name}={fraction} divides {parts}, fewer than the {len(found)} classes"
        raise ValueError(f"{message}; choose another fraction, or 0.")


def _keep_fractions(
    rows: IntArray, labels: NDArray[Any], keep: Mapping[int, float], split_seed: int
) -> IntArray:
    random = np.random.default_rng(split_seed)
    dropped: list[IntArray] = []
    for label, fraction in keep.items():
        of_class = rows[labels[rows] == label]
        if not len(of_class):
            known = ", ".join(map(str, np.unique(labels[rows])))
            message = f"class {label!r}, which has no training rows; the classes are {known}."
            raise ValueError(f"keep names {message}")
        if not 0 < fraction <= 1:
            given = f"got {fraction} for class {label}; 1 keeps all of its training rows"
            raise ValueError(f"keep must be above 0 and at most 1 for each class, {given}.")
        left = max(1, round(fraction * len(of_class)))
        dropped.append(random.permutation(of_class)[left:])
    return np.setdiff1d(rows, np.concatenate(dropped))


def standardize(values: NDArray[Any], train: IntArray) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Shifts and scales columns to mean 0 and standard deviation 1 over the training rows.

    A column that is constant over the training rows is only shifted.

    Args:
        values: ``(rows, columns)``.
        train: Numbers of the training rows.

    Returns:
        float32 ``(rows, columns)``, and the mean and standard deviation, each float32 ``(columns,)``.
    """
    scaler = StandardScaler().fit(values[train])
    mean, std = (torch.from_numpy(v.astype(np.float32)) for v in (scaler.mean_, scaler.scale_))
    return torch.from_numpy(scaler.transform(values).astype(np.float32)), (mean, std)


def assemble(
    rows: Rows,
    *columns: Tensor,
    class_names: tuple[str, ...] | None = None,
    target_scale: tuple[Tensor, Tensor] | None = None,
    feature_names: tuple[str, ...] | None = None,
) -> Parts:
    """Makes parts in memory: the ``rows`` of tensors with all rows."""
    train, val, test = (
        TensorDataset(*(column[part] for column in columns)) if len(part) else None
        for part in map(torch.from_numpy, rows)
    )
    assert train is not None
    return Parts(train, val, test, class_names, target_scale, feature_names)


# Samples that are recognised: in another part, or in data that has changed since a training


def identify(hashes: Mapping[str, Hashes]) -> dict[str, Any]:
    """Describes samples for the checkpoints of a run, by their `Parts.hashes`.

    Returns:
        ``fingerprint`` of all, and ``trained``: how many training samples there are for each that is
        remembered, and the numbers of these.
    """
    digest = hashlib.sha256()
    for part in Rows._fields:
        own = hashes.get(part, np.zeros(0, dtype=np.uint64))
        digest.update(len(own).to_bytes(8, "little") + own.tobytes())
    trained = np.sort(pd.unique(hashes["train"]))
    kept = [max(1.0, len(trained) / REMEMBERED), trained[:REMEMBERED].tobytes()]
    return {"fingerprint": digest.hexdigest(), "trained": kept}


def identify_files(places: Iterable[str]) -> dict[str, Any] | None:
    """Describes the files of data whose samples have no hashes, or returns None if there are none.

    Hidden files, and the directories of runs and sweeps in a folder, are passed over. Up to 1,000
    files of 1 GiB in all are told apart by their contents, others by their sizes.
    """
    hashes: list[Hashes] = []
    for place in (Path(each).expanduser() for each in places):
        files = [place] if place.is_file() else []
        for folder, folders, names in os.walk(place, followlinks=True):
            is_sweep = "sweep.json" in names and Path(folder) != place
            folders[:] = [
                name
                for name in folders
                if not (is_sweep or name[0] == "." or Path(folder, name, ".hydra").is_dir())
            ]
            files += [Path(folder, name) for name in names if name[0] != "." and not is_sweep]
        if not files:  # such as hf://...
            continue
        is_small = len(files) <= 1000 and sum(map(file_size, files)) <= 1 << 30
        hashes.append(hash_files(sorted(files), place, is_small))
    return identify({"train": np.concatenate(hashes)}) | {"trained": None} if hashes else None


def count_trained(hashes: Hashes, trained: Sequence[Any]) -> int:
    """Counts about how many samples stood in the training part that `identify` described."""
    factor, content = trained
    found = int(pd.Series(hashes).isin(np.frombuffer(content, dtype=np.uint64)).sum())
    return min(len(hashes), round(found * float(factor)))


def find_duplicates(hashes: Mapping[str, Hashes]) -> Iterator[tuple[str, IntArray]]:
    """Yields the parts with samples that stand in the training part too, and their places."""
    for part in ("test", "val"):
        twins = pd.Series(hashes[part]).isin(hashes["train"])  # sooner than np.isin
        if len(places := np.flatnonzero(twins)):
            yield part, places


def hash_files(files: Iterable[Path | str], root: Path | None, with_content: bool) -> Hashes:
    """Returns a number for each file, by its path below the root, if there is one, and its size.

    `with_content` counts what they hold, too.
    """
    start, numbers = len(str(root)), []
    for file in files:
        digest = hashlib.blake2b(digest_size=8)
        name, size = str(file)[start:] if root else "", file_size(file)
        digest.update(f"{name}/{size}".encode(errors="replace"))
        if with_content:
            with suppress(OSError):
                changed = Path(file).stat().st_mtime_ns
                digest.update(hash_content(Path(file).absolute(), size, changed))
        numbers.append(int.from_bytes(digest.digest(), "little"))
    return np.array(numbers, dtype=np.uint64)


@lru_cache(4096)
def hash_content(file: Path, size: int, changed: int) -> bytes:
    """Returns a digest of what a file holds, which is cached for its size and its time of change."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "blake2b").digest()


def file_size(file: Path | str) -> int:
    """Returns the size of a file in bytes, or -1 of a broken link."""
    try:
        return os.stat(file).st_size  # noqa: PTH116 (a Path takes five times as long)
    except OSError:
        return -1
