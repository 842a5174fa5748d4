"""metrics.csv, the record of a run's learning curves."""

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only


def shortest(value: float) -> float:
    """The number with the fewest digits that is the same in 32 bits: 0.001, not 0.0010000000475."""
    return float(str(np.float32(value)))


class MetricsFile(Logger):
    """Writes ``metrics.csv``: a row for each epoch, counted from 1, or logged step.

    Training and validation share a row, which Lightning's CSVLogger would split in two.

    Args:
        directory: The run's directory.
    """

    def __init__(self, directory: str | Path) -> None:
        super().__init__()
        self.path = Path(directory) / "metrics.csv"
        self.rows: list[dict[str, float]] = []
        self.columns = ["epoch", "step"]
        self.written = 0

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @property
    def experiment(self) -> "MetricsFile":
        return self

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        pass  # they stand in .hydra/config.yaml

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        metrics = {k: shortest(v) for k, v in metrics.items() if not k.startswith("test/")}
        epoch = int(metrics.pop("epoch", 0)) + 1
        if not metrics:
            return
        if not self.rows or (self.rows[-1]["epoch"], self.rows[-1]["step"]) != (epoch, step):
            self.rows.append({"epoch": epoch, "step": step or 0})
        self.rows[-1].update(metrics)

    @rank_zero_only
    def save(self) -> None:
        """Writes what is new; Lightning calls it after each log, so an epoch's row may grow."""
        rows = self.rows[: len(self.rows) - 1]
        self.write(rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.write(self.rows)

    def write(self, rows: list[dict[str, float]]) -> None:
        new = rows[self.written :]
        if not new:
            return
        columns = list(dict.fromkeys([*self.columns, *(key for row in new for key in row)]))
        anew = columns != self.columns or not self.written
        if anew:
            self.columns = columns
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w" if anew else "a", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            if anew:
                writer.writeheader()
            writer.writerows(rows if anew else new)
        self.written = len(rows)
