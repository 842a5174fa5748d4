"""A training run from start to end: build, fit, test, report."""

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from quartet.core.files import lock
from quartet.core.problems import ConfigError, Problem, TrainingError, refuse
from quartet.core.processes import process_rank, shutdown
from quartet.records import run_directory as record
from quartet.records.run_directory import finite_figures, holds_run, list_configs, read_result

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from quartet.build import Run
    from quartet.training.callbacks.predictions import PredictionCollector


def train(
    cfg: "DictConfig", directory: str | Path | None = None, *, pictures: bool = True
) -> dict[str, Any]:
    """Trains what `cfg` describes, tests the best checkpoint and writes the run's directory.

    Args:
        cfg: As `quartet.build.compose` gives it. With ``cfg.resume``, resumes that run.
        directory: Where to write; None for a new one under ``outputs/``, or that of ``cfg.resume``.
        pictures: Whether to draw them, if ``cfg.pictures`` does not say.

    Returns:
        The content of ``result.json``.

    Raises:
        quartet.core.problems.ConfigError: the configuration cannot train; nothing was written.
        quartet.core.problems.TrainingError: the loss became NaN or infinite, or a monitored value
            is not logged.
    """
    with ExitStack() as locks:
        asked = cfg.get("pictures")
        return train_locked(cfg, directory, locks, pictures if asked is None else asked)


def train_locked(
    cfg: "DictConfig", directory: str | Path | None, locks: ExitStack, pictures: bool
) -> dict[str, Any]:
    """Trains as `train` does; the lock of the directory is released with `locks`."""
    start = perf_counter()
    from quartet.build import build
    from quartet.checkpoints import storage
    from quartet.checkpoints.callbacks import ResumeState
    from quartet.compat import quieten
    from quartet.config import records
    from quartet.data.datamodule import DataModule
    from quartet.records.loggers import clear_loggers, log_best, shorten_float
    from quartet.reports.run import describe_captions, describe_stop, draw_training, table
    from quartet.training.callbacks.interruption import StopAtBatchEnd
    from quartet.training.callbacks.predictions import PredictionCollector
    from quartet.training.callbacks.progress import Timer
    from quartet.training.callbacks.pruning import make_pruning_callbacks
    from quartet.validation.data import check_identity, load_data

    quieten()
    place: records.Place | None = None
    if not cfg.get("resume") and directory:
        refuse_taken(Path(directory))
    elif cfg.get("resume"):
        directory = Path(cfg.resume)
        locks.enter_context(lock(directory))
        place = records.place_of(cfg)
        if place is None:
            print(f"{directory} has finished; trainer.max_epochs=N would train it for longer.")
            return read_result(directory)
    prepared = None
    if place and place.checkpoint:
        prepared = storage.load(place.checkpoint).get("metadata")
    run = build(cfg, directory, prepared)
    if place and run.steps_per_epoch:
        refuse(records.check_length(cfg, place.epoch, run.steps_per_epoch, run.total_steps))
    if place and place.checkpoint and run.is_known:
        weights = storage.load(place.checkpoint)["state_dict"]
        storage.load_state(run.module, weights, "resume", directory)
    load_data(run)
    if prepared:
        check_identity(run, prepared, cfg.resume)
    for caution in run.cautions if process_rank() == 0 else ():
        log.warning("data: %s.", caution)
    locks.enter_context(lock(run.directory))
    if not place:
        refuse_taken(run.directory)  # another run may have started and finished since
    trainer, main = run.trainer, run.trainer.is_global_zero
    timer = Timer()
    metric = run.config["monitor"]["metric"]
    pruners = [] if place else make_pruning_callbacks(run.directory, metric)
    trainer.callbacks += [timer, StopAtBatchEnd(shutdown), *pruners]  # type: ignore[attr-defined]
    result = record.initial_result(cfg)
    if main and isinstance(run.data, DataModule):
        same = place and prepared and read_result(run.directory).get("data_files")
        result["data_files"] = same or run.data.fingerprint()
    if place:
        result["choices"] = record.group_choices(records.read_choices(run.directory))
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ResumeState):
                callback.extended = place.extended
    result["choices"] = {k: v for k, v in result["choices"].items() if k not in run.unused}
    try:
        if main:
            save_record(cfg, run)
            (run.directory / "result.json").unlink(missing_ok=True)  # of the start before
        fit_start = perf_counter()
        with shutdown.deferred():
            start_logging(run, cfg, result["choices"], locks)
            path = place.checkpoint if place else None
            if place and not path:
                print(f"{run.directory} holds no checkpoint yet; it starts from the beginning.")
                clear_loggers(trainer.loggers)
            trainer.fit(run.module, run.data, ckpt_path=path, weights_only=True)
        stopped = list(describe_stop(trainer))  # before a checkpoint's state replaces it
        result["seconds"]["fit"] = perf_counter() - fit_start
        # Only the first process has the history.
        summary: Any = summarize_epochs(run) if main else {}
        result |= trainer.strategy.broadcast(summary)
        best = result["checkpoints"]["best"]
        path = run.directory / best if best else None  # None: the weights as they are now
        collector = PredictionCollector()
        trainer.callbacks += [collector] if pictures else []  # type: ignore[attr-defined]
        if run.has_part("test"):
            active, trainer.loggers = trainer.loggers, trainer.loggers[1:]  # without metrics.csv
            trainer.test(run.module, run.data, ckpt_path=path, weights_only=True, verbose=False)
            trainer.loggers = active
            for name, value in trainer.callback_metrics.items():
                result["metrics"][name] = shorten_float(float(value))
        result["metrics"] = finite_figures(result["metrics"])
        result |= {"status": "finished", "samples_per_second": timer.samples_per_second()}
        if pruners and pruners[0].epoch:
            result["pruned"] = pruners[0].epoch
        if pictures and run.is_known and not run.has_part("test") and run.has_part("val"):
            collect_validation(run, collector, path)
        caption = "\n".join([*describe_captions(run, collector), *stopped])
        if main:
            log_best(trainer.loggers, result, trainer.global_step)
            if pictures:
                draw_training(run, collector)
    except (KeyboardInterrupt, SystemExit) as error:
        result |= record.failure("interrupted", error)
        raise
    except BaseException as error:
        result |= record.failure("failed", error)
        raise
    finally:
        result["seconds"]["total"] = perf_counter() - start
        if main:
            with shutdown.masked():
                record.write_result(run.directory, result)
    if main:
        print(table(result, run.directory, caption))
    return result


def summarize_epochs(run: "Run") -> dict[str, Any]:
    """Returns the entries of result.json about the epochs, from the rows of metrics.csv."""
    from quartet.checkpoints.callbacks import saved_checkpoints
    from quartet.records.loggers import MetricsCSV, shorten_float

    history = next(logger for logger in run.trainer.loggers if isinstance(logger, MetricsCSV))
    if not history.rows:
        reason = "trainer.max_time was over, a callback stopped it, or the data gave no batch."
        raise TrainingError(f"The training ended before its first step: {reason}")
    paths, score = saved_checkpoints(run.trainer)
    score = None if score is None else shorten_float(score)
    metric = run.config["monitor"]["metric"]
    found = record.summary(run.directory, history.rows, metric, paths, score)
    monitor = {key: run.config["monitor"][key] for key in ("metric", "mode")}
    found["monitor"] = monitor | found["monitor"]
    return found


def save_record(cfg: "DictConfig", run: "Run") -> None:
    """Writes environment.json and, unless Hydra has, the configuration."""
    from quartet.config.compose import hydra_record, save_config

    kept = hydra_record(run.directory)
    if kept is None:
        record.describe_environment.cache_clear()  # a notebook outlives many commits
    record.write_environment(run.directory, str(run.trainer.strategy.root_device))
    if kept is None or cfg.get("resume"):
        begun = list_configs(run.directory)
        save_config(cfg, run.directory / ".hydra" / (f"resume-{len(begun)}" if begun else ""))


def start_logging(
    run: "Run", cfg: "DictConfig", choices: Mapping[str, Any], stack: ExitStack
) -> None:
    """Logs the settings of a run, and closes the loggers with `stack`."""
    from quartet.config.configuration import to_container
    from quartet.records import loggers

    if not run.trainer.is_global_zero:
        return
    active = run.trainer.loggers
    named = [name for name, node in run.config["logger"].items() if node]
    # The first is metrics.csv.
    loggers.write_logged_runs(run.directory, dict(zip(named, active[1:], strict=True)))
    stack.push(lambda error, *_: loggers.finish_loggers(active, failed=error is not None))
    written = to_container(cfg, resolve=False)
    loggers.start_loggers(active, loggers.hyperparameters(run.config, written, choices))


def collect_validation(run: "Run", collector: "PredictionCollector", path: Path | None) -> None:
    """Collects the predictions of the best checkpoint on the validation part, without logging."""
    trainer: Any = run.trainer
    loggers, callbacks = trainer.loggers, trainer.callbacks
    trainer.loggers, trainer.callbacks = [], [collector]
    try:
        trainer.validate(run.module, run.data, ckpt_path=path, weights_only=True, verbose=False)
    except Exception as error:  # the run has finished without the pictures
        logging.getLogger(__name__).warning(f"No predictions are drawn: {error}")
    finally:
        trainer.loggers, trainer.callbacks = loggers, callbacks


def refuse_taken(directory: Path) -> None:
    """Refuses a directory that holds a run, unless Hydra has just started this one in it."""
    from quartet.config.compose import hydra_record

    ours = hydra_record(directory) is not None or process_rank() > 0
    if not ours and holds_run(directory):
        message = f"{directory} already holds a run, and nothing in it was touched; name another"
        raise ConfigError(Problem("", f"{message} directory, or continue that run, resume=DIR."))
