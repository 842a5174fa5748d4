"""What a data set holds, for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from quartet.data.split import Parts

MANY = 12  # classes; of more only the largest and the smallest are told
ENDS = 4
READ = 64  # samples of files that are looked into


def card(parts: Parts, config: Mapping[str, Any]) -> list[str]:
    """Lines on the inputs and the targets of every part.

    Args:
        parts: Of the data.
        config: The data group, with its facts.
    """
    sets = {name: getattr(parts, name) for name in ("train", "val", "test")}
    sets = {name: dataset for name, dataset in sets.items() if dataset is not None}
    lines = [f"{'inputs':12}{inputs(parts.train)}"]
    targets = {name: known_targets(dataset) for name, dataset in sets.items()}
    known = {name: values for name, values in targets.items() if values is not None}
    if not known:
        return lines
    task = config["task"]
    count = 2 if task == "binary" else config["num_outputs"]
    names = list(parts.class_names or map(str, range(count)))
    if task == "regression":
        return lines + numbers(known, names, parts.target_scale)
    if task == "ranking":
        return lines + queries({name: dataset.tensors for name, dataset in sets.items()})
    if task == "multilabel":
        return lines + shares("labels", known, names, {k: v.sum(0) for k, v in known.items()})
    counts = {k: torch.bincount(v.flatten().long(), minlength=count) for k, v in known.items()}
    return lines + shares("classes", known, names, counts)


def inputs(dataset: Dataset[Any]) -> str:
    """Type, shape and range."""
    if isinstance(dataset, TensorDataset):
        values, of = dataset.tensors[0], ""
    else:
        count = min(READ, len(dataset))  # type: ignore[arg-type]
        values = torch.stack([torch.as_tensor(dataset[row][0]) for row in range(count)])
        of = f" in the first {count}"
    shape = " x ".join(map(str, values.shape[1:]))
    kind = str(values.dtype).removeprefix("torch.")
    return f"{shape} {kind}, {values.min():.4g} to {values.max():.4g}{of}"


def known_targets(dataset: Dataset[Any]) -> Tensor | None:
    """The targets, if they are known without reading every sample."""
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[1]
    return torch.as_tensor(dataset.targets) if hasattr(dataset, "targets") else None


def shares(
    what: str,
    targets: Mapping[str, Tensor],
    names: Sequence[str],
    counts: Mapping[str, Tensor],
) -> list[str]:
    """Numbers of samples of each class (or with each label) and their shares, part by part."""
    numbers = [int(count) for count in next(iter(counts.values()))]
    rows, left = list(range(len(names))), 0
    if len(names) > MANY:
        order = sorted(rows, key=lambda k: -numbers[k])
        rows, left = order[:ENDS] + order[-ENDS:], len(names) - 2 * ENDS
    ratio = f"{max(numbers) / min(numbers):.3g}" if min(numbers) else "infinitely"
    lines = [f"{what:12}{len(names):,}, the largest {ratio} times the smallest"]
    cells = []
    for k in rows:
        told = [
            f"{int(counts[part][k]):,} ({counts[part][k] / len(targets[part]):.1%})"
            for part in counts
        ]
        cells.append([names[k], *told])
    lines += columns([["", *counts], *cells])
    if left:
        lines.insert(2 + ENDS, f"  ... {left:,} more ...")
    return lines


def numbers(
    targets: Mapping[str, Tensor], names: Sequence[str], scale: tuple[Tensor, Tensor] | None
) -> list[str]:
    """Range, mean and standard deviation of each output in the units of the data."""
    rows = [["", "mean", "sd", "least", "most"]]
    for part, values in targets.items():
        values = values.double()
        if scale is not None:
            values = values * scale[1] + scale[0]
        for k, name in enumerate(names[: values.shape[1]]):
            one = values[:, k]
            of = f"{part} {name}" if len(names) > 1 else part
            spread = one.std(correction=0)
            figures = (one.mean(), spread, one.min(), one.max())
            rows.append([of, *(f"{float(figure):.4g}" for figure in figures)])
    how = ", standardised in training" if scale is not None else ""
    return [f"{'targets':12}{len(names):,}{how}", *columns(rows)]


def queries(tensors: Mapping[str, Sequence[Tensor]]) -> list[str]:
    """Queries, documents of each and grades of relevance."""
    rows = [["", "queries", "documents each", "relevant"]]
    for part, (_, targets, indexes) in tensors.items():
        sizes = indexes.unique_consecutive(return_counts=True)[1]
        least, middle, most = int(sizes.min()), int(sizes.median()), int(sizes.max())
        span = f"{least} to {most}, median {middle}" if least < most else str(least)
        rows.append([part, f"{len(sizes):,}", span, f"{(targets > 0).float().mean():.1%}"])
    grades = torch.cat([targets for _, targets, _ in tensors.values()]).unique().tolist()
    told = f"grades {grades[0]:g} to {grades[-1]:g}"
    return [f"{'targets':12}{told}", *columns(rows)]


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines: the first cell to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + f"{row[0]:{widths[0]}}"
        + "".join(f"{cell:>{width + 3}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
