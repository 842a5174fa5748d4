"""Tables for the terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


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
