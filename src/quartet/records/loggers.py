"""The logger of metrics.csv, and the hyperparameters and results that all loggers get."""

import csv
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from quartet.compat import was_started
from quartet.core import files
from quartet.core.messages import find_secrets, replace_secrets
from quartet.records.run_directory import read_file, split_part

log = logging.getLogger(__name__)

Setting = bool | int | float | str


def shorten_float(value: float) -> float:
    """Returns the shortest number that is equal in 32 bits: 0.001, not 0.0010000000475."""
    return float(str(np.float32(value)))


def rewind(logger: TensorBoardLogger, rows: Sequence[Mapping[str, float]]) -> None:
    """Removes from TensorBoard the values that a run logged after the checkpoint it resumes from.

    Args:
        logger: Writes to the same directory as before.
        rows: Rows of metrics.csv at the checkpoint. The last one is logged again.
    """
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    step = int(rows[-1]["step"]) if rows else 0
    start = SessionLog(status=SessionLog.START)  # discards the events after this step
    logger.experiment.file_writer.add_event(Event(step=step, session_log=start))
    for row in rows:
        if row["step"] == step:
            metrics = {name: value for name, value in row.items() if name != "step"}
            logger.log_metrics({**metrics, "epoch": row["epoch"] - 1}, step)


def clear_loggers(loggers: Sequence[Logger]) -> None:
    """Removes the values that a run logged before its first checkpoint."""
    for logger in loggers:
        if isinstance(logger, MetricsCSV):
            logger.path.unlink(missing_ok=True)
        elif isinstance(logger, TensorBoardLogger):
            rewind(logger, [])


def start_loggers(loggers: Sequence[Logger], settings: Mapping[str, Any]) -> None:
    """Logs the settings of a run.

    MLflow's parameters never change: a setting that a resumed run has changed becomes a tag of the
    same name. TensorBoard keeps the settings of the first start, for its HParams tab.
    """
    from torch.utils.tensorboard.summary import hparams

    for logger in loggers:
        parameters = dict(settings)
        if isinstance(logger, TensorBoardLogger):
            # Lightning also writes a list of columns. TensorBoard would show those of the first run
            # for all runs, but each optimizer has settings of its own.
            logger.hparams.update(parameters)  # Lightning keeps them as hparams.yaml
            logger.experiment.file_writer.add_summary(hparams(parameters, {})[1])
            continue
        if isinstance(logger, MLFlowLogger):
            known = logger.experiment.get_run(logger.run_id).data.params
            for name in parameters.keys() & known:
                if known[name] != str(value := parameters.pop(name))[:250]:
                    logger.experiment.set_tag(logger.run_id, name, str(value))
        logger.log_hyperparams(parameters)


def log_best(loggers: Sequence[Logger], result: Mapping[str, Any], step: int) -> None:
    """Logs the metrics of the best epoch as the results of a run.

    W&B gets them as its summary, under the names of the curves. Other loggers, which show the last
    value of a curve, get them as ``best/NAME``.
    """
    best = {"epoch": result["monitor"]["epoch"]} | {
        name: value for name, value in result["metrics"].items() if split_part(name)[0] != "test"
    }
    for logger in loggers:
        try:
            if isinstance(logger, WandbLogger):
                logger.experiment.summary.update({**result["metrics"], "best/epoch": best["epoch"]})
            elif not isinstance(logger, MetricsCSV):
                logger.log_metrics({f"best/{name}": value for name, value in best.items()}, step)
                logger.save()
        except Exception as error:  # the run has finished
            log.warning(f"{type(logger).__name__} has not logged the best metrics: {error}")


def finish_loggers(loggers: Sequence[Logger], *, failed: bool) -> None:
    """Ends W&B's run, which would otherwise log the next run of a sweep too."""
    for logger in loggers:
        if isinstance(logger, WandbLogger) and was_started(logger):
            logger.experiment.finish(exit_code=int(failed))


class MetricsCSV(Logger):
    """Writes ``metrics.csv``: a row for each epoch, counted from 1, or logged step.

    Training and validation share a row, which Lightning's CSVLogger would split in two.
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

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass  # .hydra/config.yaml has them

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        metrics = {k: shorten_float(v) for k, v in metrics.items() if split_part(k)[0] != "test"}
        epoch = int(metrics.pop("epoch", 0)) + 1
        if not metrics:
            return
        if not self.rows or (self.rows[-1]["epoch"], self.rows[-1]["step"]) != (epoch, step):
            self.rows.append({"epoch": epoch, "step": step or 0})
        self.rows[-1].update(metrics)

    @rank_zero_only
    def save(self) -> None:
        """Writes new rows except the last, which may grow. Lightning calls this after each log."""
        self.write(self.rows[:-1])

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.write(self.rows)

    def write(self, rows: list[dict[str, float]]) -> None:
        new = rows[self.written :]
        if not new:
            return
        columns = list(dict.fromkeys([*self.columns, *(key for row in new for key in row)]))
        append = bool(self.written) and columns == self.columns
        self.columns = columns
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a" if append else "w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            if not append:
                writer.writeheader()
            writer.writerows(new if append else rows)
        self.written = len(rows)


# Keys that do not change the training: at the top, in every group, in the callbacks.
EXCLUDED_TOP = {
    *("directory", "check", "pictures", "resume"),
    *("metrics", "logger", "sweep", "launcher", "hydra"),
}
EXCLUDED_KEYS = {"search", "tasks"}
EXCLUDED_CALLBACKS = {"best", "last", "progress_bar"}


def write_logged_runs(directory: Path, loggers: Mapping[str, Logger]) -> None:
    """Writes loggers.json: the identifiers of this run in services such as MLflow.

    With them, `logged_run` continues the same logs after a resume. `loggers` maps names in the
    configuration to loggers.
    """
    found = {}
    for name, logger in loggers.items():
        if argument := run_argument(type(logger)):
            _ = logger.experiment  # type: ignore[attr-defined]  # starts it
            found[name] = {argument: logger.version}
    if found:
        files.write_json(directory / "loggers.json", found)


def logged_run(
    directory: Path, name: str, node: Mapping[str, Any], logger: Callable[..., Any]
) -> dict[str, str]:
    """Returns the argument with which a logger of a resumed run continues its log."""
    path, argument = directory / "loggers.json", run_argument(logger)
    if argument is None or node.get(argument) is not None or not path.exists():
        return {}
    known = read_file(path)
    if not isinstance(known, dict) or not isinstance(known.get(name, {}), dict):
        raise ValueError(f"{path} names no logged runs; remove it to log a new one.")
    return {argument: str(known[name][argument])} if argument in known.get(name, {}) else {}


def run_argument(logger: Callable[..., Any]) -> str | None:
    """Returns the name of a logger's argument for its run: ``run_id`` of MLflow, ``id`` of W&B."""
    taken = inspect.signature(logger).parameters
    return next((argument for argument in ("run_id", "id") if argument in taken), None)


def hyperparameters(
    config: Mapping[str, Any], written: Mapping[str, Any], choices: Mapping[str, Any]
) -> dict[str, Setting]:
    """Returns the settings of a run for loggers: ``optimizer: adam``, ``optimizer.lr: 0.002``, ...

    None is left out. A value from an environment variable becomes a reference to the variable, as
    `written`, the configuration with its references, has it.
    """
    chosen = [(group, str(option)) for group, option in choices.items() if option]
    found: list[tuple[str, Setting]] = [*chosen, *leaves("", config)]
    references = dict(leaves("", written))
    secrets = find_secrets()
    return {
        name: without_secrets(value, references.get(name), secrets)
        for name, value in found
        if name.split(".")[0] not in EXCLUDED_TOP
    }


def leaves(name: str, value: Any) -> Iterator[tuple[str, Setting]]:
    """Yields dotted names and values of a nested mapping, as deep as its keys are identifiers."""
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
    """Returns a value, or the reference to an environment variable that stands in its place."""
    if "${oc.env:" in str(written):
        return str(written)
    return replace_secrets(value, secrets) if isinstance(value, str) else value
