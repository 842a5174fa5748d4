"""metrics.csv, the record of a run's learning curves."""

import csv
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only


def shortest(value: float) -> float:
    """The number with the fewest digits that is the same in 32 bits: 0.001, not 0.0010000000475."""
    return float(str(np.float32(value)))


def rewind(logger: TensorBoardLogger, rows: Sequence[Mapping[str, float]]) -> None:
    """Has TensorBoard forget what a run logged after a checkpoint that it goes on from.

    Args:
        logger: Writes to the same directory as before.
        rows: Of metrics.csv at the checkpoint. The last of them may have grown since; it is told
            anew.
    """
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    step = int(rows[-1]["step"]) if rows else 0
    start = SessionLog(status=SessionLog.START)  # of a session, which replaces what comes after
    logger.experiment.file_writer.add_event(Event(step=step, session_log=start))
    for row in rows:
        if row["step"] == step:
            figures = {name: value for name, value in row.items() if name != "step"}
            logger.log_metrics({**figures, "epoch": row["epoch"] - 1}, step)


def begin_anew(loggers: Sequence[Logger]) -> None:
    """Has the loggers of a run forget what it logged before its first checkpoint."""
    for logger in loggers:
        if isinstance(logger, MetricsFile):
            logger.path.unlink(missing_ok=True)
        elif isinstance(logger, TensorBoardLogger):
            rewind(logger, [])


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
