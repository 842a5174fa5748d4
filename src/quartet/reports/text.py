"""Tables for the terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from quartet.data.split import Parts
from quartet.data.task import find_task
from quartet.reports.picture import targets_of


def table(result: Mapping[str, Any], directory: Path) -> str:
    """A run's figures for the terminal: a row for each, a column for train, val and test."""
    metrics, monitor, choices = result["metrics"], result["monitor"], result["choices"]
    groups = ("data", "model", "loss", "optimizer", "scheduler")
    lines = [
        "  ".join(f"{group}={choices[group]}" for group in groups if group in choices),
        columns(metrics),
    ]
    if monitor["metric"]:
        lines.append(
            f"best epoch {monitor['epoch']}, by {monitor['metric']} = {monitor['best']:.4g}"
        )
    else:
        lines.append(f"last epoch {monitor['epoch']}; without validation there is no best")
    lines.append(f"{result['seconds']['total']:.1f} s; everything lies in {directory}")
    return "\n".join(lines)


def columns(figures: Mapping[str, float]) -> str:
    """Figures such as val/loss as text: a row for each, a column for train, val and test."""
    parts = [p for p in ("train", "val", "test") if any(k.startswith(f"{p}/") for k in figures)]
    names = dict.fromkeys(key.split("/", 1)[1] for key in figures if "/" in key)
    lines = [f"{'':12}" + "".join(f"{part:>10}" for part in parts)]
    for name in names:
        cells = (figures.get(f"{part}/{name}") for part in parts)
        row = "".join(f"{'' if cell is None else f'{cell:.4g}':>10}" for cell in cells)
        lines.append(f"{name:12}{row}")
    return "\n".join(lines)


def describe_data(parts: Parts, metadata: Mapping[str, Any]) -> list[str]:
    """Lines on the inputs, and on the targets of every part as far as they are known.

    Args:
        parts: Parts of the data.
        metadata: `DataModule.metadata`.
    """
    count = min(64, len(parts.train))  # type: ignore[arg-type]
    first = torch.stack([torch.as_tensor(parts.train[row][0]) for row in range(count)])
    shape = " x ".join(map(str, first.shape[1:]))
    lines = [
        f"{'inputs':12}{shape} {str(first.dtype).removeprefix('torch.')}, "
        f"{first.min():.4g} to {first.max():.4g} in the first {count}"
    ]
    kind = find_task(metadata["task"])
    for part in ("train", "val", "test"):
        dataset = getattr(parts, part)
        tensors = () if dataset is None else targets_of(dataset)
        if tensors:
            summary = kind.summary(tensors, kind.names(metadata), parts.target_scale)
            lines.append(f"{part:12}{summary}")
    return lines
