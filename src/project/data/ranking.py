"""Documents to be ordered within their query: made up, or from files in the SVMlight format."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_svmlight_files
from torch.utils.data import TensorDataset

from quartet import Fold, Parts, Rows, assemble, split, standardize

FILES = ("train.txt", "vali.txt", "test.txt")


def ranking(
    *,
    path: str | None,
    queries: int,
    documents: int,
    features: int,
    noise: float,
    seed: int,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    fold: Fold | None = None,
) -> Parts:
    """Graded documents of queries: ``TensorDataset(inputs, targets, indexes)``.

    Inputs are ``(rows, features)``, standardised by the training part; targets ``(rows, 1)``
    relevance, 0 for none; indexes int64 ``(rows,)``, the query of each row. Rows of a query follow
    one another, and no query is in two parts.

    Args:
        path: A file, split by query; or a folder with train.txt and, if wanted, vali.txt and
            test.txt (the layout of MSLR-WEB10K). Lines read ``relevance qid:7 1:0.5 2:3 ...``.
            None makes queries up.
        queries: Number of queries made up.
        documents: Documents of each query made up.
        features: Input columns made up.
        noise: Standard deviation of what the inputs do not explain in the hidden score, whose own
            is 1; at least 0.
        seed: Seed of what is made up.
        val_fraction: Share of the queries for validation, in [0, 1). Unused for a folder.
        test_fraction: Share of the queries for the test, in [0, 1). Unused for a folder.
        split_seed: Seed of the split. Unused for a folder.
        fold: Which fold (from 0) is the validation part, and how many there are; None: a fraction.

    Raises:
        ValueError: A number is out of range, path is missing or cannot be read as that format.
    """
    bounds: list[int] | None = None
    if path is None:
        values, relevance, indexes = _made_up(queries, documents, features, noise, seed)
    else:
        values, relevance, indexes, bounds = _read(Path(path).expanduser().resolve())
    if bounds is None:
        rows = split(
            len(indexes),
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            split_seed=split_seed,
            fold=fold,
            groups=indexes,
        )
    elif fold:
        raise ValueError(
            f"folds: the files of {path} are the parts already; leave data.folds=null, or give one "
            "file."
        )
    else:
        rows = Rows(*(np.arange(*bounds[part : part + 2]) for part in range(3)))
    inputs, (mean, std) = standardize(values, rows.train)

    def read(file: Path) -> TensorDataset:
        others, grades, queries, _ = _read(file)
        if (lacking := len(mean) - others.shape[1]) < 0:
            raise ValueError(f"{file} has {others.shape[1]} features; the run has {len(mean)}.")
        wide = torch.from_numpy(np.pad(others, ((0, 0), (0, lacking))))
        return TensorDataset((wide - mean) / std, *map(torch.from_numpy, (grades, queries)))

    parts = assemble(rows, inputs, *map(torch.from_numpy, (relevance, indexes)))
    single = int((np.bincount(indexes) == 1).sum())
    notes = (f"{single} queries have one document, and count as ordered",) * bool(single)
    return parts._replace(read=read, notes=notes)


def _made_up(
    queries: int, documents: int, features: int, noise: float, seed: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
    for name, count, least in (
        ("queries", queries, 1),
        ("documents", documents, 2),
        ("features", features, 1),
    ):
        if count < least:
            raise ValueError(f"{name} must be at least {least}, got {count}; raise data.{name}.")
    if not noise >= 0:
        raise ValueError(
            f"noise must be at least 0, got {noise}; 0 lets the inputs decide the order."
        )
    random = np.random.default_rng(seed)
    values = random.standard_normal((queries * documents, features))
    hidden = np.tanh(values @ random.standard_normal((features, 8)) * 2 / np.sqrt(features))
    score = hidden @ random.standard_normal(8)
    score = score / score.std() + noise * random.standard_normal(len(score))
    # Few documents matter, as in judged web search: half of them are graded 0, one in thirty 4.
    relevance = np.digitize(score, np.quantile(score, (0.5, 0.75, 0.9, 0.97)))
    return values, relevance.astype(np.float32)[:, None], np.repeat(np.arange(queries), documents)


def _read(path: Path) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64], list[int] | None]:
    """Features, relevance and query of all rows, and where each file of a folder begins and ends."""
    if not path.exists():
        raise ValueError(
            f"path {path} does not exist; data.path takes a file of lines 'relevance qid:7 1:0.5', "
            f"or a folder with {FILES[0]}; without it the queries are made up."
        )
    names = [path]
    if path.is_dir():
        names = [path / name for name in FILES if (path / name).exists()]
        if path / FILES[0] not in names:
            raise ValueError(
                f"path {path} has no {FILES[0]}; a folder holds {', '.join(FILES)} (the last two "
                "may be absent), a single file is split by query."
            )
    try:
        loaded = load_svmlight_files([str(name) for name in names], query_id=True, dtype=np.float32)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"path {path} cannot be read: {error}; its lines read 'relevance qid:7 1:0.5 2:3'."
        ) from error
    values, relevance, indexes, ends = [], [], [], {}
    total = 0
    for name, x, y, query in zip(names, loaded[0::3], loaded[1::3], loaded[2::3], strict=True):
        if len(y) == 0:
            raise ValueError(f"{name} has no rows; a line reads 'relevance qid:7 1:0.5 2:3'.")
        if len(query) != len(y):
            raise ValueError(
                f"{name} has a qid in {len(query)} of {len(y)} rows; each line needs the query it "
                "belongs to, after the relevance: '2 qid:7 1:0.5 2:3'."
            )
        if y.min() < 0:
            raise ValueError(
                f"{name} has relevance {y.min():g}; relevance is at least 0, 0 meaning none."
            )
        _, first, inverse = np.unique(query, return_index=True, return_inverse=True)
        begin = first[inverse]  # queries keep the order in which they first appear
        order = np.argsort(begin, kind="stable")
        values.append(x.toarray()[order])
        relevance.append(y[order].astype(np.float32)[:, None])
        indexes.append(total + begin[order])
        total += len(y)
        ends[name.name] = total
    bounds: list[int] | None = None
    if path.is_dir():
        train = ends[FILES[0]]
        val = ends.get(FILES[1], train)
        bounds = [0, train, val, ends.get(FILES[2], val)]
    _, dense = np.unique(np.concatenate(indexes), return_inverse=True)
    return np.concatenate(values), np.concatenate(relevance), dense.astype(np.int64), bounds
