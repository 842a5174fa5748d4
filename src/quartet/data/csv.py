"""Tables in csv files: some columns are targets, others inputs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from quartet.core.messages import shorten, suggest_name
from quartet.data.split import Fold, IntArray, Parts, Rows, assemble, split, standardize
from quartet.data.task import TASKS, Task


def csv(
    *,
    path: str | None,
    task: str,
    target: str | Sequence[str] | None,
    features: Sequence[str] | None,
    drop: Sequence[str],
    separator: str,
    missing: str,
    max_categories: int,
    standardize_targets: bool,
    order: str | None,
    group: str | None,
    division: str | None,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    fold: Fold | None = None,
) -> Parts:
    """Reads a table: inputs float32 ``(rows, columns)``, targets as the task needs them.

    Columns of numbers, or of true and false, are standardized; all others are one-hot encoded. Both
    depend on the training part alone: a category that only other parts have becomes zeros. A
    missing value is a category of its own. Classes are the sorted values of the target column; the
    second of a binary one is positive.

    Args:
        path: The file; its first line has the names of the columns.
        task: Name of a task that reads tables: multiclass, binary, multilabel or regression.
        target: The target column; multilabel (columns of 0 and 1) and regression allow several.
        features: The input columns; None for all except the target and ``drop``.
        drop: Columns to leave out.
        separator: Text that separates columns.
        missing: ``error`` refuses missing numbers, ``mean`` replaces them by the mean of the
            training part.
        max_categories: Largest number of values of a one-hot encoded column in the training part.
        standardize_targets: Whether regression targets get mean 0 and standard deviation 1 over the
            training part.
        order: A column of numbers or dates: the last rows are for testing, those before them for
            validation. This and the next two columns are inputs only if ``features`` names them.
        group: A column whose values stay whole, such as the patient; the fractions count them.
        division: A column that says train, val or test.
        val_fraction: Share of the rows for validation, in [0, 1).
        test_fraction: Share of the rows for testing, in [0, 1).
        split_seed: Seed of the split; without a group stratified for multiclass and binary.
        fold: Fold of the rest that is the validation part instead of a fraction, and their number.

    Raises:
        ValueError: The file or a column is missing or does not fit the task, or a value is out of
            range.
    """
    tasks = [name for name, kind in TASKS.items() if kind.reads_tables]
    if task not in tasks:
        raise ValueError(f"task must be one of {', '.join(tasks)}, got {task!r}; data/task=NAME.")
    kind = TASKS[task]()
    if missing not in ("error", "mean"):
        raise ValueError(f"missing must be error or mean, got {missing!r}; mean replaces numbers.")
    table = _read(path, separator)
    named = {"order": order, "group": group, "division": division}
    dividing = {key: name for key, name in named.items() if name is not None}
    wanted, inputs = _select_columns(table, target, features, drop, kind, dividing)
    _refuse_gaps(table[wanted])
    targets, names = kind.read_targets(table[wanted])
    by = _read_division(table, dividing)
    if not by and kind.has_classes:
        by["stratify"] = np.array(names)[targets.astype(int).ravel()]
    if "division" in by:
        rows = _divide(by["division"], str(division), fold)
    else:
        rows = split(
            len(table),
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            split_seed=split_seed,
            fold=fold,
            **by,
        )
    encoding, feature_names = _fit_encoding(table[inputs], rows.train, missing, max_categories)
    encoding |= {"separator": separator, "targets": wanted}
    scale: tuple[Tensor, Tensor] | None = None
    final = torch.tensor(targets).to(kind.target_dtype)
    if kind.has_scale and standardize_targets:
        final, scale = standardize(targets, rows.train)
    return assemble(
        rows,
        encode(table[inputs], encoding),
        final,
        class_names=names,
        target_scale=scale,
        feature_names=feature_names,
    )._replace(encoding=encoding)


def _read(path: str | None, separator: str) -> pd.DataFrame:
    if path is None:
        raise ValueError("path is not set; data.path=table.csv names the table.")
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise ValueError(f"path {path} is not a file: looked for {file}; set data.path=FILE.")
    try:
        table = pd.read_csv(file, sep=separator, low_memory=False)  # one type per column
    except ValueError as error:
        raise ValueError(f"{file} cannot be read as a csv table: {str(error).strip()}.") from error
    if table.empty:
        raise ValueError(f"{file} has no rows; it needs a line of column names and rows below it.")
    return table


def _select_columns(
    table: pd.DataFrame,
    target: str | Sequence[str] | None,
    features: Sequence[str] | None,
    drop: Sequence[str],
    kind: Task,
    dividing: Mapping[str, str],
) -> tuple[list[str], list[str]]:
    """Returns the names of the target columns and of the input columns."""
    if not target:
        raise ValueError(
            f"target is not set; data.target=COLUMN, one of {', '.join(table.columns)}."
        )
    wanted = [target] if isinstance(target, str) else list(target)
    for key, names in (
        *(("target", wanted), ("features", features or ()), ("drop", drop)),
        *((key, [name]) for key, name in dividing.items()),
    ):
        for name in names:
            if name not in table.columns:
                hint = suggest_name(str(name), table.columns, most=len(table.columns))
                raise ValueError(f"{key} {name!r} is not a column; {hint}")
    if len(wanted) > 1 and kind.has_classes:
        raise ValueError(
            f"target must be one column for {kind.name}, got {len(wanted)}: {', '.join(wanted)}; "
            "several are for data/task=multilabel or data/task=regression."
        )
    if len(dividing) > 1:
        first, other = list(dividing.items())[:2]
        message = f"data.{first[0]}={first[1]} divides the rows already; choose one of them."
        raise ValueError(f"{other[0]}={other[1]}: {message}")
    if both := [name for name in wanted if name in (features or ()) or name in drop]:
        raise ValueError(
            f"target {both[0]!r} is in features or drop too; remove it there, a target is "
            "never an input."
        )
    chosen = table.columns.drop(list(dividing.values())) if features is None else features
    inputs = [name for name in chosen if name not in wanted and name not in drop]
    if not inputs:
        raise ValueError("features leaves no input column; name fewer in data.drop or more here.")
    return wanted, inputs


def _read_division(table: pd.DataFrame, dividing: Mapping[str, str]) -> dict[str, Any]:
    """Returns the values of the column by which rows are divided, as an argument of `split`."""
    for key, name in dividing.items():
        column = table[name]
        if gaps := column.isna().sum():
            raise ValueError(f"{key} column {name!r} has {gaps} missing values; fill them in.")
        if key == "order" and not pd.api.types.is_numeric_dtype(column):
            try:
                dates = pd.to_datetime(column, format="ISO8601", utc=True)
                return {key: dates.to_numpy(dtype="datetime64[ns]")}
            except ValueError:
                message = (
                    f"order column {name!r} holds {column.iloc[0]!r}, and must hold numbers or "
                )
                raise ValueError(
                    f"{message}dates such as 2024-03-31 or 2024-03-31 16:00."
                ) from None
        if key == "group":
            return {"groups": column.astype(str).to_numpy()}
        return {key: column.to_numpy()}
    return {}


def _divide(division: NDArray[Any], name: str, fold: Fold | None) -> Rows:
    """Returns the rows of each part that a column names."""
    if fold is not None:
        raise ValueError(f"folds: data.division={name} names the parts; set data.folds=null.")
    rows = Rows(*(np.flatnonzero(division == part) for part in Rows._fields))
    if sum(map(len, rows)) < len(division):
        others = sorted({*map(str, division)} - {*Rows._fields})
        raise ValueError(
            f"division column {name!r} holds {shorten(others)}; its values must be train, val and test."
        )
    if not len(rows.train):
        raise ValueError(f"division column {name!r} says train in no row; name the training rows.")
    return rows


def _refuse_gaps(targets: pd.DataFrame) -> None:
    gaps = (targets.isna() | targets.isin((np.inf, -np.inf))).sum()
    for name, count in gaps[gaps > 0].items():
        raise ValueError(
            f"target column {name!r} has {count} missing or infinite values; remove these rows "
            "from the table."
        )


def _fit_encoding(
    columns: pd.DataFrame, train: IntArray, missing: str, max_categories: int
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Fits the encoding to the training rows; returns it and the names of its columns."""
    numeric = [name for name in columns if pd.api.types.is_numeric_dtype(columns[name])]
    categories = [name for name in columns if name not in numeric]
    for name in categories:
        if (count := columns[name].iloc[train].nunique()) > max_categories:
            raise ValueError(
                f"column {name!r} is text with {count} different values, more than max_categories="
                f"{max_categories}; data.drop=[{name}] leaves it out (an identifier?), "
                "data.max_categories=N allows it."
            )
    for name in numeric:
        _refuse_infinite(name, columns[name].to_numpy(dtype=np.float64))
        if missing == "error" and (count := columns[name].isna().sum()):
            raise ValueError(
                f"column {name!r} has {count} missing values; data.missing=mean replaces them by "
                f"the mean of the training part, data.drop=[{name}] leaves the column out."
            )
    encoding: dict[str, Any] = {"numeric": {}, "categories": {}}
    if numeric:
        imputer, scaler = SimpleImputer(keep_empty_features=True), StandardScaler()
        values = columns[numeric].astype(np.float64).iloc[train]
        scaler.fit(imputer.fit_transform(values))
        for name, fill, mean, std in zip(
            numeric, imputer.statistics_, scaler.mean_, scaler.scale_, strict=True
        ):
            numbers = {"fill": float(fill) if missing == "mean" else None}
            encoding["numeric"][name] = numbers | {"mean": float(mean), "std": float(std)}
    encoded = [str(name) for name in numeric]
    for name in categories:
        column = columns[name].iloc[train]
        known = sorted(map(str, column.dropna().unique()))
        gaps = [None] if column.isna().any() else []
        encoding["categories"][name] = [*known, *gaps]
        encoded += [f"{name}_{value}" for value in known] + [f"{name}_nan" for _ in gaps]
    return encoding, tuple(encoded)


def encode(columns: pd.DataFrame, encoding: Mapping[str, Any], strict: bool = False) -> Tensor:
    """Encodes a table: float32 ``(rows, encoded columns)``, first the numbers, then the categories.

    Args:
        columns: Has the columns that `encoding` names.
        encoding: In plain containers: ``numeric`` gives each column its ``mean``, its ``std`` and
            the value to ``fill`` in for missing ones; ``categories`` gives each column its values as
            strings, None for a missing one.
        strict: Whether to refuse a category that the training did not have; else it becomes zeros.

    Raises:
        ValueError: a value does not fit its column.
    """
    blocks: list[NDArray[Any]] = []
    for name, numbers in encoding["numeric"].items():
        values = _to_numbers(columns[name])
        _refuse_infinite(name, values)
        if (gaps := np.isnan(values)).any():
            if numbers["fill"] is None:
                raise ValueError(
                    f"column {name!r} has {gaps.sum()} missing values, and the training had none; "
                    "fill them in, or train with data.missing=mean."
                )
            values = np.where(gaps, numbers["fill"], values)
        blocks.append(((values - numbers["mean"]) / numbers["std"])[:, None])
    for name, known in encoding["categories"].items():
        places = {value: place for place, value in enumerate(known)}
        found = [_to_text(value) for value in columns[name].tolist()]
        codes = np.array([places.get(value, -1) for value in found], dtype=np.int64)
        if strict and (codes < 0).any():
            unknown = found[int((codes < 0).argmax())]
            texts = ["(missing)" if each is None else each for each in known]
            raise ValueError(
                f"column {name!r} has {unknown or 'a missing value'!r}, which the training did not "
                f"have; its values are {shorten(texts, 10)}. Correct these rows, or leave them out."
            )
        blocks.append(codes[:, None] == np.arange(len(known)))
    return torch.from_numpy(np.concatenate(blocks, axis=1, dtype=np.float32, casting="unsafe"))


def _to_numbers(column: "pd.Series[Any]") -> NDArray[np.float64]:
    try:
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        wrong = column[pd.to_numeric(column, errors="coerce").isna() & column.notna()]
        raise ValueError(
            f"column {column.name!r} has {wrong.iloc[0]!r}, which is no number, and the training "
            "had numbers there; correct it."
        ) from None


def _to_text(value: Any) -> str | None:
    return None if pd.isna(value) else str(value)


def _refuse_infinite(name: Any, values: NDArray[np.float64]) -> None:
    if np.isinf(values).any():
        raise ValueError(
            f"column {name!r} has infinite values; correct them or leave the column out with "
            f"data.drop=[{name}]."
        )
