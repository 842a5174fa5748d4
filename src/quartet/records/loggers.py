"""metrics.csv, the record of a run's learning curves, and the settings that other loggers get."""

import csv
import inspect
import json
import logging
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from quartet.compat.lightning import was_started
from quartet.core import files, redaction
from quartet.core.files import as_json

log = logging.getLogger(__name__)

Setting = bool | int | float | str


def shorten_float(value: float) -> float:
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


def clear_loggers(loggers: Sequence[Logger]) -> None:
    """Has the loggers of a run forget what it logged before its first checkpoint."""
    for logger in loggers:
        if isinstance(logger, MetricsCSV):
            logger.path.unlink(missing_ok=True)
        elif isinstance(logger, TensorBoardLogger):
            rewind(logger, [])


def start_loggers(loggers: Sequence[Logger], settings: Mapping[str, Any]) -> None:
    """Tells the loggers what run they log.

    Of a run that goes on, TensorBoard keeps the settings it began with. MLflow, whose parameters
    never change, shows one that did as a tag of the same name.
    """
    for logger in loggers:
        told = dict(settings)
        if isinstance(logger, TensorBoardLogger):
            write_hparams(logger, told)
            continue
        if isinstance(logger, MLFlowLogger):
            known = logger.experiment.get_run(logger.run_id).data.params
            for name in told.keys() & known:
                if known[name] != str(value := told.pop(name))[:250]:
                    logger.experiment.set_tag(logger.run_id, name, str(value))
        logger.log_hyperparams(told)


def write_hparams(logger: TensorBoardLogger, settings: Mapping[str, Any]) -> None:
    """Begins a session of TensorBoard's HParams tab.

    Without a list of columns, which Lightning writes besides: TensorBoard would show those of the
    first run for all, whatever optimizer the others have.
    """
    from torch.utils.tensorboard.summary import hparams

    logger.hparams.update(settings)  # Lightning keeps them as hparams.yaml
    _, start, _ = hparams(dict(settings), {})
    logger.experiment.file_writer.add_summary(start)


def log_best(loggers: Sequence[Logger], result: Mapping[str, Any], step: int) -> None:
    """Has the loggers show the figures of the best epoch as what came of the run.

    W&B keeps them apart from the curves, under the same names. Elsewhere they are ``best/...``:
    the last value of a curve is what counts there, and stays what it is.

    Args:
        loggers: Of a run.
        result: Of the finished run, as result.json has it.
        step: At which it ended.
    """
    best = {"epoch": result["monitor"]["epoch"]} | {
        name: value for name, value in result["metrics"].items() if not name.startswith("test/")
    }
    for logger in loggers:
        try:
            if isinstance(logger, WandbLogger):
                logger.experiment.summary.update({**result["metrics"], "best/epoch": best["epoch"]})
            elif not isinstance(logger, MetricsCSV):
                logger.log_metrics({f"best/{name}": value for name, value in best.items()}, step)
                logger.save()
        except Exception as error:  # the run has finished, whatever a service makes of it
            log.warning(f"{type(logger).__name__} did not take the best figures: {error}")


def finish_loggers(loggers: Sequence[Logger], *, failed: bool) -> None:
    """Ends what would go on until the process ends, and take in the next run of a sweep."""
    for logger in loggers:
        if isinstance(logger, WandbLogger) and was_started(logger):
            logger.experiment.finish(exit_code=int(failed))


class MetricsCSV(Logger):
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
    def experiment(self) -> "MetricsCSV":
        return self

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        pass  # they stand in .hydra/config.yaml

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        metrics = {k: shorten_float(v) for k, v in metrics.items() if not k.startswith("test/")}
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


# What does not change what is trained, or is not yet what a run does.
EXCLUDED_FROM_HPARAMS = {
    *("directory", "check", "resume", "metrics", "logger", "sweep", "launcher", "hydra"),
}
EXCLUDED_KEYS = {"search", "tasks"}  # of every group
EXCLUDED_CALLBACKS = {"best", "last", "progress_bar"}


def write_logged_runs(directory: Path, loggers: Mapping[str, Logger]) -> None:
    """Writes to loggers.json under which names services like MLflow keep this run.

    A run that continues is then logged to the same, by `logged_run`.

    Args:
        directory: Of the run.
        loggers: By their names in the configuration.
    """
    found = {}
    for name, logger in loggers.items():
        if argument := run_argument(type(logger)):
            _ = logger.experiment  # type: ignore[attr-defined]  # starts it
            found[name] = {argument: logger.version}
    if found:
        files.write_atomic(directory / "loggers.json", as_json(found))


def logged_run(
    directory: Path, name: str, node: Mapping[str, Any], logger: Callable[..., Any]
) -> dict[str, str]:
    """Arguments with which a logger of a run that continues finds what it has logged.

    Args:
        directory: Of the run.
        name: Of the logger in the configuration.
        node: Its arguments there.
        logger: Its class.
    """
    path, argument = directory / "loggers.json", run_argument(logger)
    if argument is None or node.get(argument) is not None or not path.exists():
        return {}
    known = json.loads(path.read_text()).get(name, {})
    return {argument: str(known[argument])} if argument in known else {}


def run_argument(logger: Callable[..., Any]) -> str | None:
    """The argument of a logger that names the run it continues: MLflow's run_id, id of W&B."""
    taken = inspect.signature(logger).parameters
    return next((argument for argument in ("run_id", "id") if argument in taken), None)


def hyperparameters(
    config: Mapping[str, Any], written: Mapping[str, Any], choices: Mapping[str, Any]
) -> dict[str, Setting]:
    """What a run is, as loggers list it: ``optimizer: adam``, ``optimizer.lr: 0.002`` and so on.

    Values that are not set are left out. A value from the environment is the reference to it.

    Args:
        config: With everything filled in and resolved.
        written: The same with its references.
        choices: The options of the groups.
    """
    found: list[tuple[str, Setting]] = [
        (group, str(option)) for group, option in choices.items() if option
    ]
    found += leaves("", config)
    references = dict(leaves("", written))
    secrets = redaction.find_secrets()
    return {
        name: without_secrets(value, references.get(name), secrets)
        for name, value in found
        if name.split(".")[0] not in EXCLUDED_FROM_HPARAMS
    }


def leaves(name: str, value: Any) -> Iterator[tuple[str, Setting]]:
    """Names and values of a nested mapping, as far as its keys can be parts of a dotted name."""
    if isinstance(value, Mapping) and all(str(key).isidentifier() for key in value):
        for key, part in value.items():
            excluded = key in EXCLUDED_KEYS or (name == "callbacks" and key in EXCLUDED_CALLBACKS)
            if not excluded:
                yield from leaves(f"{name}.{key}" if name else key, part)
    elif isinstance(value, bool | int | float | str):
        yield name, value
    elif value:
        yield name, str(value)


def without_secrets(
    value: Setting, written: Setting | None, secrets: Sequence[tuple[str, str]]
) -> Setting:
    """A value, or the reference to the environment by which it was written."""
    if "${oc.env:" in str(written):
        return str(written)
    return redaction.replace(value, secrets) if isinstance(value, str) else value
