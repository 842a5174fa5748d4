"""A training run from start to end: build, fit, test, report."""

import logging
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from quartet import record
from quartet.command import result_of
from quartet.stop import stop
from quartet.sweep import jobs

if TYPE_CHECKING:
    from quartet.build import Run
    from quartet.report.seen import Seen


def train(cfg: DictConfig, directory: str | Path | None = None) -> dict[str, Any]:
    """Trains what `cfg` describes, tests the best checkpoint and writes the run's directory.

    Args:
        cfg: As `quartet.build.compose` gives it. With ``cfg.resume`` set, goes on with that run.
        directory: Where to write; None for a new one under ``outputs/``, or that of ``cfg.resume``.

    Returns:
        The content of ``result.json``.

    Raises:
        quartet.check.Refusal: the configuration cannot train; nothing was written.
        quartet.module.NonFiniteLossError: the loss became NaN or infinite.
    """
    with ExitStack() as locks:
        return play(cfg, directory, locks)


def play(cfg: DictConfig, directory: str | Path | None, locks: ExitStack) -> dict[str, Any]:
    """As `train`, with the lock of the directory that it takes."""
    start = perf_counter()
    from quartet import resume
    from quartet.build import build
    from quartet.check import Refusal
    from quartet.checkpoint import Continuation
    from quartet.logger import begin_anew, conclude, shortest
    from quartet.progress import StopAtBatchEnd, Timer
    from quartet.report import picture, text
    from quartet.report.seen import Seen
    from quartet.search import pruning

    quieten()
    place: resume.Place | None = None
    if not cfg.get("resume") and directory:
        refuse_taken(Path(directory))
    if cfg.get("resume"):
        directory = Path(cfg.resume)
        hold(directory, locks)
        place = resume.place_of(cfg)
        if place is None:
            print(f"{directory} has finished; trainer.max_epochs=N would train it for longer.")
            return result_of(directory)
    run = build(cfg, directory)
    if place and (faults := resume.check_length(run, cfg, place.epoch)):
        raise Refusal(faults)
    load_data(run)
    hold(run.directory, locks)
    if not place:
        refuse_taken(run.directory)  # another start may have begun and ended meanwhile
    trainer, main = run.trainer, run.trainer.is_global_zero
    timer = Timer()
    hopeless = [] if place else pruning.of(run)
    trainer.callbacks += [timer, StopAtBatchEnd(stop), *hopeless]  # type: ignore[attr-defined]
    result = record.blank(cfg)
    if place:
        result["choices"] = record.own(resume.choices(run.directory))
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Continuation):
                callback.extended = place.extended
    try:
        if main:
            record.write_environment(cfg, run)
            (run.directory / "result.json").unlink(missing_ok=True)  # of what went before
        fit_start = perf_counter()
        with stop.held():
            begin_logging(run, cfg, result["choices"], locks)
            path = place.checkpoint if place else None
            if place and not path:
                print(f"{run.directory} holds no checkpoint yet; it starts from the beginning.")
                begin_anew(trainer.loggers)
            trainer.fit(run.module, run.data, ckpt_path=path, weights_only=True)
        result["seconds"]["fit"] = perf_counter() - fit_start
        # The first process alone holds the history.
        summary: Any = record.summary(run) if main else {}
        result |= trainer.strategy.broadcast(summary)
        best = result["checkpoints"]["best"]
        path = run.directory / best if best else None  # None: the weights as they are now
        trainer.callbacks.append(seen := Seen())  # type: ignore[attr-defined]
        if run.data.parts.test is not None:
            trainer.test(run.module, run.data, ckpt_path=path, weights_only=True, verbose=False)
            for name, value in trainer.callback_metrics.items():
                if name.startswith("test/"):
                    result["metrics"][name] = shortest(float(value))
        result |= {"status": "finished", "samples_per_second": timer.samples_per_second()}
        if hopeless and hopeless[0].epoch:
            result["pruned"] = hopeless[0].epoch
        if run.data.parts.test is None and run.data.parts.val is not None:
            see_validation(run, seen, path)
        if main:
            conclude(trainer.loggers, result, trainer.global_step)
            picture.of_training(run, seen)
    except (KeyboardInterrupt, SystemExit) as error:
        result |= record.failure("interrupted", error, cfg)
        raise
    except BaseException as error:
        result |= record.failure("failed", error, cfg)
        raise
    finally:
        result["seconds"]["total"] = perf_counter() - start
        if main:
            with stop.shielded():
                record.write_result(run.directory, result)
    if main:
        print(text.table(result, run.directory))
    return result


def begin_logging(
    run: "Run", cfg: DictConfig, choices: Mapping[str, Any], ending: ExitStack
) -> None:
    """Tells the loggers what run they log, until `ending` is left."""
    from quartet import logger

    record.write_logged_runs(run)
    if run.trainer.is_global_zero:
        loggers = run.trainer.loggers
        ending.push(lambda error, *_: logger.end(loggers, failed=error is not None))
        logger.begin(loggers, record.hyperparameters(run.config, cfg, choices))


def see_validation(run: "Run", seen: "Seen", path: Path | None) -> None:
    """Has the best checkpoint predict the validation part, and nothing of it logged."""
    trainer: Any = run.trainer
    loggers, callbacks = trainer.loggers, trainer.callbacks
    trainer.loggers, trainer.callbacks = [], [seen]
    try:
        trainer.validate(run.module, run.data, ckpt_path=path, weights_only=True, verbose=False)
    except Exception as error:  # the run has finished, whatever becomes of its pictures
        logging.getLogger(__name__).warning(f"No predictions are drawn: {error}")
    finally:
        trainer.loggers, trainer.callbacks = loggers, callbacks


def refuse_taken(directory: Path) -> None:
    """Refuses a directory that holds another run."""
    from quartet.check import Refusal

    if record.is_taken(directory):
        raise Refusal(
            [
                f"{directory} already holds a run, and nothing in it was touched; name another "
                "directory, or go on with that run, resume=DIR."
            ]
        )


def hold(directory: Path, locks: ExitStack) -> None:
    """Keeps other processes from training in a directory as long as `locks` are open.

    Raises:
        quartet.check.Refusal: one does already.
    """
    from quartet.check import Refusal

    try:
        locks.enter_context(jobs.held(directory))
    except jobs.Taken as error:
        raise Refusal([str(error)]) from None


def load_data(run: "Run") -> None:
    """Reads, downloads if need be, and checks the data.

    Raises:
        quartet.check.Refusal: it cannot be had, or cannot train.
    """
    from quartet.check import Refusal, collecting
    from quartet.data.check import check

    faults: list[str] = []
    if not run.data.loaded:
        with collecting(faults, "data", run.config["data"]):
            faults += check(run.data.load(), run.config["data"], run.config["metrics"])
    if faults:
        raise Refusal(faults)


def quieten() -> None:
    """Silences what Lightning says of itself; its real warnings stay."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()  # or every message comes twice under Hydra
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*LeafSpec.*",  # torch 2.15 renamed what Lightning 2.6 uses
        "The number of training batches",  # nothing is logged by step
        ".*sync_dist=True",  # the meters have synchronised already
        "Total length of `list`",  # no validation part
        "You're resuming from a checkpoint that ended before the epoch ended",  # the data knows where
        "Checkpoint directory .* exists and is not empty",  # going on with a run
        "Be aware that when using `ckpt_path`",  # evaluating needs no checkpoint callbacks
        ".*does not have many workers",  # small files are read faster without
        "A `OneCycleLR` scheduler is using",  # its length is counted in epochs, too
    ):
        warnings.filterwarnings("ignore", message)
