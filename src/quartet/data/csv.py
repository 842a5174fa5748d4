"""Tables in csv and parquet files: some columns are targets, others inputs."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.utils.data import TensorDataset

from quartet.core.messages import format_value, join_or, shorten, suggest_name
from quartet.data.split import Fold, Hashes, IntArray, Parts, Rows, find_duplicates, split
from quartet.data.table import (
    BOOLEANS,
    MISSING,
    Chunk,
    Column,
    Floats,
    Format,
    Table,
    TableFile,
    Texts,
    find_kind,
    in_threads,
    is_one_of,
    spell,
    to_texts,
)
from quartet.data.task import TASKS, Task

# The last word of a column that names whom or what several rows are about.
GROUP = re.compile(
    r"(patient|subj|subject|user|person|participant|customer|client|household|family|animal|speaker|"
    r"student|individual)?(id)?",
    re.IGNORECASE,
)
CONSTANT = "constant in the training part"


def csv(
    *,
    path: str | None,
    test_path: str | None,
    task: str,
    target: str | Sequence[str] | None,
    features: Sequence[str] | None,
    drop: Sequence[str],
    categories: Sequence[str] | None,
    numbers: Sequence[str] | None,
    separator: str,
    decimal: str | None,
    thousands: str | None,
    encoding: str | None,
    comment: str | None,
    header: bool | None,
    missing_values: Sequence[Any] | None,
    missing: str,
    unseen: str | None,
    max_categories: int,
    standardize_targets: bool,
    order: str | None,
    group: str | None,
    division: str | None,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    fold: Fold | None = None,
    prepared: Mapping[str, Any] | None = None,
) -> Parts:
    """Reads a table: inputs float32 ``(rows, columns)``, targets as the task needs them.

    Columns of numbers, or of true and false, are standardized; all others are one-hot encoded. Both
    depend on the training part alone: a category that only other parts have becomes zeros, and a
    column that is constant in it is left out. In a column of categories a missing value is one of
    them. Classes are the sorted values of the target column; the second of a binary one is positive.

    Args:
        path: The file; its first line has the names of the columns.
        test_path: A second file, whose rows are the test part; None for a part of the first.
        task: Name of a task that reads tables: multiclass, binary, multilabel or regression.
        target: The target column; multilabel (columns of 0 and 1) and regression allow several.
        features: The input columns; None for all except the target and ``drop``.
        drop: Columns to leave out.
        categories: Columns whose values are categories, although they may look like numbers.
        numbers: Columns whose values are numbers, although they begin with zeros or end in a unit.
        separator: This and the next six are those of `quartet.data.table.Format`.
        decimal: Decimal sign.
        thousands: Sign between groups of three digits.
        encoding: Of the file.
        comment: Begins lines to leave out.
        header: Whether the first line names the columns.
        missing_values: What stands for a missing value.
        missing: ``error`` refuses missing numbers, ``mean`` replaces them by the mean of the
            training part.
        unseen: ``error`` refuses categories that the training did not have in files to score,
            ``zeros`` encodes them as zeros.
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
        prepared: Metadata of a run, by which the table is prepared; with ``whole`` all rows are the
            test part. None fits everything to this table.

    Raises:
        ValueError: The file or a column is missing or does not fit the task, can be read in two
            ways, or a value is out of range.
    """
    tasks = [name for name, each in TASKS.items() if each.reads_tables]
    if task not in tasks:
        raise ValueError(f"task must be one of {', '.join(tasks)}, got {task!r}; data/task=NAME.")
    kind = TASKS[task]()
    if missing not in ("error", "mean"):
        raise ValueError(f"missing must be error or mean, got {missing!r}.")
    if unseen not in ("error", "zeros", None):
        raise ValueError(f"unseen must be error or zeros, got {unseen!r}.")
    form = Format.of(locals())
    named = {"drop": drop, "categories": categories, "numbers": numbers}
    lists = {key: as_names(names) for key, names in named.items()}
    dividing = _name_division(order=order, group=group, division=division)
    notes: list[str] = []
    file = open_table("path", path, form, notes)
    given = file.names
    known = (prepared or {}).get("encoding") or {}
    known = known if "scale" in known else {}  # else the run is older than that
    whole = bool(known and prepared and prepared.get("whole"))
    if known:
        wanted, inputs = known["targets"], [*known["numeric"], *known["categories"]]
        require_fit(given, known, form, str(path), wanted)
        if sorted(as_names(target)) != sorted(wanted):
            raise ValueError(f"target must be {shorten(wanted)}, as in the training; leave it out.")
    else:
        wanted, inputs = _select_columns(given, target, features, lists, kind, dividing)
    divided = [] if whole else [*dividing.values()]
    for key, name in dividing.items() if divided else ():
        require_columns([name], given, None, key)
    files, columns = [file], list(dict.fromkeys([*wanted, *inputs, *divided]))
    if test_path is not None and not whole:
        if dividing and not group:
            raise ValueError("test_path is the test part, and a column divides too; choose one.")
        files.append(open_table("test_path", test_path, form, notes))
        require_columns(columns, files[1].names, test_path)
        test_fraction = 0
    texts = [*lists["categories"], *known.get("categories", ()), *divided]
    groups = (
        [] if known or dividing else _name_groups([name for name in given if name not in wanted])
    )
    groups = [name for name in groups if all(name in each.names for each in files)]
    columns += [name for name in groups if name not in columns]
    table = Table(files, columns, [*texts, *(wanted if kind.has_classes else ())])
    count = table.count
    by = {} if whole else _read_division(table, dividing, form)
    targets, names = _read_targets(
        {name: table[name] for name in wanted},
        kind,
        form,
        lists,
        prepared["class_names"] if known and prepared else None,
        is_new=not known,
    )
    if not by and kind.has_classes:
        by["stratify"] = np.array(names)[targets.astype(int).ravel()][:count]
    everything = np.arange(len(table))
    if whole:
        rows = Rows(everything, everything[:0], everything)
    elif "division" in by:
        rows = _divide(by["division"], dividing["division"], fold)
    else:
        shares: Any = {"val_fraction": val_fraction, "test_fraction": test_fraction}
        rows = split(count, **shares, split_seed=split_seed, fold=fold, **by)
    if len(targets) > count:
        rows = rows._replace(test=everything[count:])
    fitted = dict(known)
    if not known:
        fitted = _fit_encoding(table, inputs, rows.train, form, missing, max_categories, lists)
        others = [name for name in given if name not in [*inputs, *wanted]]
        reasons = dict.fromkeys(others, "left out")
        reasons |= dict.fromkeys(dividing.values(), "divides the rows")
        fitted["dropped"] |= {name: reasons[name] for name in others}
        fitted |= {"targets": wanted, "scale": None, "width": len(given)}
        if kind.has_scale and standardize_targets:
            scaler = StandardScaler().fit(targets[rows.train])
            fitted["scale"] = [scaler.mean_.tolist(), scaler.scale_.tolist()]
    cautions = list(_describe_groups(table, groups, form, rows))
    if not known:
        cautions += _find_answers(table, fitted, form, targets, rows.train, kind)
    final, scale = _scale_targets(targets, fitted["scale"], kind)
    refuses_unseen = whole and unseen != "zeros"
    inputs, every, strange, filled = _encode_parts(
        table, rows, final, names, fitted, form, refuses_unseen
    )
    notes += describe_unseen(strange, filled if whole else Counter())
    train, val, test = (
        TensorDataset(encoded, final[part]) if len(part) else None
        for encoded, part in zip(inputs, map(torch.from_numpy, rows), strict=True)
    )
    assert train is not None
    parts = Parts(train, val, test, names, scale, list_features(fitted))
    hashes = {part: every[getattr(rows, part)] for part in Rows._fields}
    if not known:
        notes += [*_describe_duplicates(hashes), *cautions]
    exact = {part: targets[getattr(rows, part)] for part in Rows._fields if kind.has_scale}
    return parts._replace(encoding=fitted, exact_targets=exact, notes=tuple(notes), hashes=hashes)


# Rows and columns


def open_table(key: str, path: str | None, form: Format, notes: list[str]) -> TableFile:
    """Returns the file that a setting names; `notes` get what was left out of it."""
    if path is None:
        raise ValueError(f"{key} is not set; data.{key}=table.csv names the table.")
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise ValueError(f"{key} {path} is not a file: looked for {file}; set data.{key}=FILE.")
    table = TableFile(file, form)
    notes += [f"{file}: {table.note}"] if table.note else []
    if form.header is None:
        _refuse_missing_header(table, form)
    return table


def as_names(names: Any) -> list[str]:
    """Returns names of columns as texts, one or several; YAML reads 2024 as a number."""
    if names is None or names == "":
        return []
    return [format_value(name) for name in ([names] if isinstance(names, str | int) else names)]


def require_columns(
    names: Iterable[str], given: Sequence[str], path: str | None, key: str = ""
) -> None:
    """Raises ValueError if a column is missing, of a file or of the table that a setting is about."""
    for name in names:
        if name not in given:
            hint = suggest_name(name, given, most=len(given))
            text = f"{path} has no column {name!r}" if path else f"{key} {name!r} is not a column"
            raise ValueError(f"{text}; {hint}")


def require_fit(
    given: Sequence[str],
    encoding: Mapping[str, Any],
    form: Format,
    path: str,
    others: Sequence[str] = (),
) -> None:
    """Raises ValueError if a file lacks columns of the training, or others that are needed."""
    width = encoding.get("width", len(given))
    if form.header is False and len(given) != width:
        raise ValueError(
            f"{path} has {len(given)} columns, and the table of the training {width}; without a header "
            "they are known by their places, so give it the same ones."
        )
    require_columns([*encoding["numeric"], *encoding["categories"], *others], given, path)


def _refuse_missing_header(table: TableFile, form: Format) -> None:
    """Raises ValueError if the columns that hold numbers have numbers as names, as without a header."""

    def are_numbers(column: Column) -> bool:
        return bool(np.isfinite(form.to_numbers(column)).all())

    if not any(are_numbers(to_texts([name])) for name in table.names):
        return
    first = next(table.chunks(table.names, size=100))
    numeric = [name for name, column in first.items() if are_numbers(column)]
    if numeric and are_numbers(to_texts(numeric)):
        raise ValueError(
            f"header: the first line holds numbers, {shorten(numeric, 3)}; data.header=false reads it "
            "as a row and names the columns c1, c2 and so on, data.header=true takes them for names."
        )


def _name_division(**named: str | None) -> dict[str, str]:
    """Returns the column that divides the rows, by its setting; empty if there is none."""
    dividing = {key: format_value(name) for key, name in named.items() if name is not None}
    if len(dividing) > 1:
        first, other = list(dividing.items())[:2]
        message = f"data.{first[0]}={first[1]} divides the rows already; choose one of them."
        raise ValueError(f"{other[0]}={other[1]}: {message}")
    return dividing


def _select_columns(
    given: Sequence[str],
    target: str | Sequence[str] | None,
    features: Sequence[str] | None,
    lists: Mapping[str, list[str]],
    kind: Task,
    dividing: Mapping[str, str],
) -> tuple[list[str], list[str]]:
    """Returns the names of the target columns and of the input columns."""
    if not as_names(target):
        raise ValueError(f"target is not set; data.target=COLUMN, one of {', '.join(given)}.")
    wanted, dropped, chosen = as_names(target), lists["drop"], as_names(features)
    divided = {key: [name] for key, name in dividing.items()}
    named = {"target": wanted, "features": chosen, **lists, **divided}
    for key, names in named.items():
        require_columns(names, given, None, key)
    if len(wanted) > 1 and kind.has_classes:
        raise ValueError(
            f"target must be one column for {kind.name}, got {len(wanted)}: {', '.join(wanted)}; "
            "several are for data/task=multilabel or data/task=regression."
        )
    if both := [name for name in wanted if name in chosen or name in dropped]:
        raise ValueError(
            f"target {both[0]!r} is in features or drop too; remove it there, a target is "
            "never an input."
        )
    if features is None:
        chosen = [name for name in given if name not in dividing.values()]
    inputs = [name for name in chosen if name not in wanted and name not in dropped]
    if not inputs:
        raise ValueError("features leaves no input column; name fewer in data.drop or more here.")
    unnamed = [name for name in inputs if re.fullmatch(r"Unnamed: \d+", name)]
    if unnamed and features is None:
        raise ValueError(
            f"column {unnamed[0]!r} has no name in the file, as numbers of the rows have none; "
            f"{spell('drop', *lists['drop'], *unnamed)} leaves it out, or give it a name."
        )
    return wanted, inputs


def _read_division(table: Table, dividing: Mapping[str, str], form: Format) -> dict[str, Any]:
    """Returns the values of the column by which rows are divided, as an argument of `split`."""
    for key, name in dividing.items():
        texts, others = np.split(table[name], [table.count])
        if gaps := form.is_missing(texts, key == "order").sum():
            raise ValueError(f"{key} column {name!r} has {gaps} missing values; fill them in.")
        if key == "group":
            if shared := {*texts} & {*others}:
                raise ValueError(
                    f"group {shorten(sorted(shared))} is in path and in test_path; remove it."
                )
            return {"groups": texts.astype(str)}
        if key == "division":
            return {key: texts}
        if all(re.fullmatch(r"[+-]?\d{1,18}", text) for text in texts):
            return {key: np.array([int(text) for text in texts])}
        numbers = form.to_numbers(texts)
        if np.isfinite(numbers).all():
            return {key: numbers}
        try:
            dates = pd.to_datetime(pd.Series(texts), format="ISO8601", utc=True)
            return {key: dates.to_numpy(dtype="datetime64[ns]")}
        except ValueError:
            raise ValueError(
                f"order column {name!r} holds {texts[0]!r}, and must hold numbers or dates such as "
                "2024-03-31 or 2024-03-31 16:00."
            ) from None
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


# Targets


def _read_targets(
    table: Mapping[str, Any],
    kind: Any,
    form: Format,
    lists: Mapping[str, list[str]],
    classes: Sequence[str] | None,
    is_new: bool,
) -> tuple[NDArray[Any], tuple[str, ...] | None]:
    """Returns the targets, and the names of the classes, which those of a training may be, or None."""
    columns: dict[str, Any] = dict(table)
    for name, texts in table.items():
        title = f"target column {name!r}"
        gaps = form.is_missing(texts, not kind.has_classes)
        words = [word for word in dict.fromkeys(texts) if word in MISSING - {""}]
        if not kind.has_classes:
            what, unit = find_kind(title, name, texts, form, lists, is_target=True)
            if unit:
                raise ValueError(f"{title} holds {texts[0]!r}; remove the sign {unit}.")
            if what != "category":
                columns[name] = form.to_numbers(texts)
                gaps = gaps | ~np.isfinite(columns[name])
        elif words and form.missing_values is None and is_new:
            raise ValueError(
                f"{title} has {np.isin(texts, words).sum()} rows with {shorten(words)}, a class or a "
                "missing value; data.missing_values=[] makes it a class, or remove these rows."
            )
        if gaps.any():
            places = shorten([str(row + 1) for row in np.flatnonzero(gaps)], 5)
            raise ValueError(
                f"{title} has {gaps.sum()} missing or infinite values, in rows {places}; remove these "
                "rows from the table."
            )
    return kind.read_targets(pd.DataFrame(columns), classes)  # type: ignore[no-any-return]


def _scale_targets(
    targets: NDArray[Any], scale: Any, kind: Any
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Returns targets as the model learns them, and the mean and standard deviation, if there are."""
    if scale:
        mean, std = np.array(scale)
        scaled = torch.from_numpy(((targets - mean) / std).astype(np.float32))
        return scaled, (torch.from_numpy(mean), torch.from_numpy(std))
    final = torch.tensor(targets).to(kind.target_dtype)
    if kind.has_scale and np.abs(final.numpy() - targets).max() > 0.001 * targets.std():
        raise ValueError(
            "standardize_targets=false: 32-bit floats do not tell these targets apart; set it to true."
        )
    return final, None


def known_targets(table: Chunk, task: Task, form: Format) -> pd.DataFrame:
    """Returns target columns as numbers or names of classes; missing ones are NaN or None."""
    made: dict[str, Any] = {}
    for name, texts in table.items():
        if task.has_classes:
            made[name] = texts.copy()
            made[name][form.is_missing(texts, False)] = None
        else:
            made[name] = read_numbers(name, texts, form)
    return pd.DataFrame(made)


# Inputs


def _fit_encoding(
    columns: Table,
    names: Sequence[str],
    train: IntArray,
    form: Format,
    missing: str,
    max_categories: int,
    lists: Mapping[str, list[str]],
) -> dict[str, Any]:
    """Fits the encoding to the training rows; an error has those of further columns as notes."""
    encoding: dict[str, Any] = {"numeric": {}, "categories": {}, "dropped": {}}
    refused: dict[str, ValueError] = {}

    def fit(name: str) -> dict[str, Any] | ValueError:
        try:
            return _fit_column(columns[name], name, train, form, missing, max_categories, lists)
        except ValueError as error:
            return error

    for name, found in zip(names, in_threads(fit, names), strict=True):
        if isinstance(found, ValueError):
            refused[name] = found
        else:
            for kind, value in found.items():
                encoding[kind][name] = value
    if refused:
        first, *others = refused.values()
        for other in others[:7]:
            first.add_note(str(other))  # a problem of its own
        if others:
            all_out = spell("drop", *lists["drop"], *refused)
            first.add_note(f"to leave these {len(refused)} columns out, {all_out}.")
        raise first
    if not encoding["numeric"] and not encoding["categories"]:
        raise ValueError(
            "features leaves no input column that varies in the training part; name others."
        )
    return encoding


def _fit_column(
    texts: Column,
    name: str,
    train: IntArray,
    form: Format,
    missing: str,
    max_categories: int,
    lists: Mapping[str, list[str]],
) -> dict[str, Any]:
    """Fits one column; returns its entry in the encoding under ``numeric``, ``categories`` or ``dropped``.

    Raises:
        ValueError: it cannot be encoded, or can be in two ways.
    """
    kind, unit = find_kind(f"column {name!r}", name, texts, form, lists)
    if kind == "nothing":
        return {"dropped": "empty"}
    if kind == "category":
        gaps = form.is_missing(texts[train], False)
        known = sorted(set(texts[train][~gaps]))
        if len(known) > max_categories:
            raise ValueError(
                f"column {name!r} is text with {len(known)} different values in the training part, "
                f"more than max_categories={max_categories}; {spell('drop', *lists['drop'], name)} leaves it out (an "
                "identifier?), data.max_categories=N allows it."
            )
        known += [None] if gaps.any() else []
        return {"categories": known} if len(known) > 1 else {"dropped": CONSTANT}
    values = read_numbers(name, texts, form, unit)
    gaps = np.isnan(values)
    values, has_gaps = values[train], bool(gaps.any())
    if missing == "error" and has_gaps:
        raise ValueError(
            f"column {name!r} has {gaps.sum()} missing values; data.missing=mean replaces them by "
            f"the mean of the training part, {spell('drop', *lists['drop'], name)} leaves the column out."
        )
    if has_gaps:
        fill = 0.0 if gaps[train].all() else float(np.nanmean(values))
        values = np.where(gaps[train], fill, values)
    else:
        fill = float(values.mean())
    if np.ptp(values) == 0:
        return {"dropped": CONSTANT}
    numbers: dict[str, Any] = {"fill": fill if missing == "mean" else None}
    numbers |= {"mean": float(values.mean()), "std": float(values.std())}
    numbers["has_booleans"] = has_booleans(texts)
    return {"numeric": numbers | ({"unit": unit} if unit else {})}


def _encode_parts(
    table: Table,
    rows: Rows,
    targets: Tensor,
    class_names: Sequence[str] | None,
    encoding: Mapping[str, Any],
    form: Format,
    refuses_unseen: bool,
) -> tuple[list[Tensor], Hashes, Counter[str], Counter[str]]:
    """Encodes a table, whose memory it frees.

    Returns:
        The inputs of each part, a number for each row, and the counts of `encode`.
    """
    width = len(list_features(encoding))
    parts = [torch.empty(len(part), width) for part in rows]
    hashes = np.empty(len(targets), dtype=np.uint64)

    def prepare(block: tuple[int, Chunk]) -> tuple[Counter[str], Counter[str]]:
        start, chunk = block
        unseen, filled = Counter[str](), Counter[str]()
        encoded = encode(chunk, encoding, form, None if refuses_unseen else unseen, filled)
        stop = start + len(encoded)
        hashes[start:stop] = hash_rows(encoded, targets[start:stop], class_names)
        for part, own in zip(parts, rows, strict=True):  # the rows of a part are in ascending order
            first, last = np.searchsorted(own, (start, stop))
            part[first:last] = encoded[own[first:last] - start]
        return unseen, filled

    unseen, filled = Counter[str](), Counter[str]()
    for counts in in_threads(prepare, table.take_chunks()):
        unseen.update(counts[0])
        filled.update(counts[1])
    return parts, hashes, unseen, filled


def list_features(encoding: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of the encoded columns."""
    names = list(encoding["numeric"])
    for name, known in encoding["categories"].items():
        names += [f"{name}_{'nan' if value is None else value}" for value in known]
    return tuple(names)


def encode(
    columns: Chunk,
    encoding: Mapping[str, Any],
    form: Format,
    unseen: Counter[str] | None = None,
    filled: Counter[str] | None = None,
) -> Tensor:
    """Encodes rows of a table: float32 ``(rows, encoded columns)``, first the numbers, then the categories.

    Args:
        columns: Those that `encoding` names; categories are texts.
        encoding: In plain containers: ``numeric`` gives each column its ``mean``, its ``std``, the
            value to ``fill`` in for missing ones, whether it ``has_booleans``, and a ``unit`` if
            there is one; ``categories`` gives each column its values as
            strings, None for a missing one.
        form: How values are written.
        unseen: Counts, by column, categories that the training did not have, which become zeros;
            None refuses them.
        filled: Counts, by column, missing values, which become the mean of the training.

    Raises:
        ValueError: a value does not fit its column.
    """
    blocks: list[NDArray[Any]] = []
    for name, numbers in encoding["numeric"].items():
        values = read_numbers(name, columns[name], form, numbers.get("unit", ""))
        gaps, of_booleans = np.isnan(values), numbers.get("has_booleans")  # None: of an older run
        if of_booleans is False and has_booleans(columns[name]):
            raise ValueError(
                f"column {name!r} has true or false, and the training had numbers alone; write numbers."
            )
        if of_booleans and len(wrong := values[~gaps & ~np.isin(values, (0, 1))]):
            raise ValueError(
                f"column {name!r} has {wrong[0]:g}, and the training had true or false alone; correct it."
            )
        if gaps.any():
            if filled is not None:
                filled[name] += int(gaps.sum())
            if numbers["fill"] is None:
                raise ValueError(
                    f"column {name!r} has {gaps.sum()} missing values, and the training had none; "
                    "fill them in, or train with data.missing=mean."
                )
            values = np.where(gaps, numbers["fill"], values)
        values = values - numbers["mean"]
        values /= numbers["std"]
        if np.abs(values).max(initial=0) > np.finfo(np.float32).max:
            raise ValueError(f"column {name!r} has a number that 32 bits cannot hold; correct it.")
        blocks.append(values[:, None])
    for name, known in encoding["categories"].items():
        places = {value: place for place, value in enumerate(known)}
        texts = columns[name]
        gaps = form.is_missing(texts, False)
        found = [None if gap else text for text, gap in zip(texts, gaps, strict=True)]
        codes = np.array([places.get(value, -1) for value in found], dtype=np.int64)
        if (codes < 0).any():
            if unseen is None:
                unknown = found[int((codes < 0).argmax())]
                others = ["(missing)" if each is None else each for each in known]
                raise ValueError(
                    f"column {name!r} has {unknown or 'a missing value'!r}, which the training did "
                    f"not have; its values are {shorten(others, 10)}. Correct these rows, leave them "
                    "out, or set data.unseen=zeros, which encodes it as none of these."
                )
            unseen[name] += int((codes < 0).sum())
        blocks.append(codes[:, None] == np.arange(len(known)))
    return torch.from_numpy(np.concatenate(blocks, axis=1, dtype=np.float32, casting="unsafe"))


def describe_unseen(unseen: Counter[str] | None, filled: Counter[str]) -> Iterator[str]:
    """Describes the values that the training did not have, if `encode` found some."""
    for name, count in (unseen or {}).items():
        yield f"categories that the training did not have became zeros: {name} of {count} rows"
    for name, count in filled.items():
        yield f"missing values became the mean of the training: {name} of {count} rows"


def has_booleans(texts: Column) -> bool:
    """Whether a column of numbers has true or false for some."""
    return texts.dtype == object and bool(is_one_of(texts, BOOLEANS).any())


def read_numbers(name: str, texts: Column, form: Format, unit: str = "") -> Floats:
    """Returns the numbers of a column, NaN for missing ones.

    Raises:
        ValueError: a text is neither, or a number infinite.
    """
    values = form.to_numbers(texts, unit)
    if texts.dtype != object:
        return values
    gaps = form.is_missing(texts, True)
    wrong = np.isnan(values) & ~gaps
    if wrong.any():
        signs = f" with the sign {unit}" if unit else ""
        raise ValueError(
            f"column {name!r} has {texts[wrong][0]!r}, which is no number, and the training "
            f"had numbers{signs} there; correct it, or name it in data.missing_values."
        )
    if np.isinf(values).any():
        raise ValueError(
            f"column {name!r} has infinite values; correct them or leave the column out with "
            f"{spell('drop', name)}."
        )
    return np.where(gaps, np.nan, values)


def describe_columns(encoding: Mapping[str, Any]) -> dict[str, str]:
    """Describes what became of each column of a table."""
    found = {}
    for name, numbers in encoding["numeric"].items():
        unit = numbers.get("unit", "")
        found[name] = f"number, mean {numbers['mean']:.4g}{unit} and sd {numbers['std']:.4g}{unit}"
    for name, known in encoding["categories"].items():
        values = ("(missing)" if value is None else value for value in known)
        found[name] = f"category of {len(known)} values: {shorten(values, 5)}"
    found |= dict.fromkeys(encoding["targets"], "target")
    return found | {name: f"dropped, {why}" for name, why in encoding.get("dropped", {}).items()}


# Rows of one part in another


def hash_rows(inputs: Tensor, targets: Tensor, class_names: Sequence[str] | None) -> Hashes:
    """Returns a number for each row, by which rows are recognised, whatever the order of the classes."""
    values = targets.reshape(len(targets), -1).float()
    if class_names and len(class_names) > 1 and values.shape[1] == 1:
        values = torch.from_numpy(np.argsort(np.argsort(class_names)))[values.long()].float()
    blocks = [each.numpy().view(np.uint32) for each in (inputs, values)]
    width = sum(block.shape[1] for block in blocks)
    weights = np.random.default_rng(0).integers(1, 2**64 - 1, width, dtype=np.uint64)
    hashes = np.zeros(len(inputs), dtype=np.uint64)
    for start in range(0, len(hashes), 4096):  # rows that stay in the cache of a processor
        total = hashes[start : start + 4096]
        columns = (column for block in blocks for column in block[start : start + 4096].T)
        for column, weight in zip(columns, weights, strict=True):
            total += column * weight + np.uint64(1)
            total ^= total >> np.uint64(29)
    return hashes


def _describe_duplicates(hashes: Mapping[str, Hashes]) -> Iterator[str]:
    for part, twins in find_duplicates(hashes):
        yield (
            f"{len(twins)} of the {len(hashes[part])} rows of the {part} part stand in the training part "
            "too, with the same inputs and target; if that is no coincidence, remove repeated rows, or "
            "keep them together, data.group=COLUMN"
        )


def _name_groups(names: Sequence[str]) -> list[str]:
    """Returns the columns whose name says that several rows may be about one patient, or the like."""
    last = {name: re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)[-1:] for name in names}
    return [name for name, words in last.items() if words and GROUP.fullmatch(words[0])]


def _describe_groups(
    columns: Table, names: Sequence[str], form: Format, rows: Rows
) -> Iterator[str]:
    """Yields a caution about rows of one patient, or the like, that are in two parts."""
    part = "test" if len(rows.test) else "val"
    for name in names:
        values = pd.Series(columns[name])
        counts = values.value_counts()
        if len(counts) < 10 or counts.median() < 2:
            continue
        if (form.to_numbers(counts.index.to_numpy()) % 1 > 0).any():
            continue
        own = values[getattr(rows, part)]
        if count := int(own.isin(values[rows.train]).sum()):
            yield (
                f"{count} of the {len(own)} rows of the {part} part share their {name} with rows of the "
                f"training part; if these belong together, {spell('group', name)} keeps them in one part"
            )


def _find_answers(
    columns: Table,
    encoding: Mapping[str, Any],
    form: Format,
    targets: NDArray[Any],
    train: IntArray,
    kind: Task,
) -> list[str]:
    """Returns cautions about identifiers, and columns that tell the target by themselves."""
    cautions = []
    for name, known in encoding["categories"].items():
        if len(known) == len(train):
            way_out = f"leave it out if it is an identifier, {spell('drop', name)}"
            cautions.append(
                f"{name} has another value in every row of the training part; {way_out}"
            )
        alike: dict[str, list[str]] = {}
        for each in known:
            alike.setdefault(" ".join((each or "").split()).casefold(), []).append(each)
        if twice := [group for group in alike.values() if len(group) > 1]:
            shown = " and ".join(map(repr, twice[0]))
            cautions.append(
                f"{name} has categories that differ in capitals or blanks alone: {shown}"
            )
    if len(train) < 20 or targets.reshape(len(targets), -1).shape[1] > 1:
        return cautions
    train = train[:10_000]  # enough to see it
    truth, telling = targets[train].ravel(), []
    for name in [*encoding["numeric"], *encoding["categories"]]:
        texts = columns[name][train]
        unit = encoding["numeric"].get(name, {}).get("unit", "")
        values = form.to_numbers(texts, unit) if name in encoding["numeric"] else None
        if tells(values, texts, truth, kind.has_classes):
            telling.append(name)
    if telling:
        way_out = f"if it would not be known beforehand, leave it out, {spell('drop', *telling)}"
        cautions.append(f"the target follows from {join_or(telling)} alone; {way_out}")
    return cautions


def tells(values: Floats | None, texts: Texts, truth: NDArray[Any], of_classes: bool) -> bool:
    """Whether a column alone gives the target: classes in ranges of it, or a line through it."""
    if values is None:
        groups = pd.Series(truth).groupby(texts).nunique()
        return len(groups) <= len(truth) / 4 and bool((groups == 1).all())
    known = np.isfinite(values)
    values, truth = values[known], truth[known]
    if len(values) < 20 or 0 in (np.ptp(values), np.ptp(truth)):
        return False
    if not of_classes:
        return abs(float(np.corrcoef(values, truth)[0, 1])) > 0.99999
    return all(has_ranges(values[:count], truth[:count]) for count in (100, len(values)))


def has_ranges(values: Floats, truth: NDArray[Any]) -> bool:
    """Whether each class has a range of the values of its own."""
    order = np.argsort(values, kind="stable")
    changes = truth[order][1:] != truth[order][:-1]
    ties = values[order][1:] == values[order][:-1]
    return changes.sum() == len(set(truth)) - 1 and not (changes & ties).any()
