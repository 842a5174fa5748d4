"""A run as a command: exit statuses, and messages instead of tracebacks."""

import atexit
import errno
import gc
import logging
import shlex
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from quartet.core import processes, redaction
from quartet.core.problems import abort
from quartet.core.signals import shutdown
from quartet.records import locks
from quartet.records import result as record
from quartet.records.run_directory import discard_record
from quartet.sweeps.directory import in_sweep

log = logging.getLogger(__name__)

# Numbers of the system's errors about folders that are full or cannot be written.
CLOSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def train_command(cfg: DictConfig) -> float | None:
    """Trains `cfg`. Exits with 2 when refused, 1 when failed, 130, 138 or 143 when interrupted.

    In a sweep's own process only an interruption exits; the other jobs go on, and result.json tells
    the status.

    Returns:
        The best monitored value; None for a job of a sweep that did not finish.
    """
    shutdown.install()  # before torch is imported, which takes seconds
    hydra: Any = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return attempt(cfg, hydra, sweeping=False)
    with suppress(locks.DirectoryLocked), locks.lock(Path(hydra.runtime.output_dir)):
        return attempt(cfg, hydra, sweeping=True)
    return None  # another start of the sweep trains it


def attempt(cfg: DictConfig, hydra: Any, sweeping: bool) -> float | None:
    """As `job`, in a directory that no other process works in."""
    directory = Path(hydra.runtime.output_dir)
    redaction.register(cfg)
    redaction.install_log_filter()
    try:
        with shutdown.deferred(imports=True), nothing_collected():
            import quartet.build  # noqa: F401 (all that takes seconds)
            from quartet.cli.check_only import describe_run
            from quartet.compat.lightning import quieten
            from quartet.core.problems import ConfigError
            from quartet.run import train
    except SystemExit:
        withdraw(cfg, directory)
        raise
    with open_dict(cfg):
        cfg.hydra = {
            "runtime": {"choices": hydra.runtime.choices},
            "overrides": {"task": hydra.overrides.task},
        }
    try:
        if cfg.check == "only":
            quieten()
            print(describe_run(cfg))
            withdraw(cfg, directory)
            return None
        if not (sweeping or cfg.resume or processes.process_rank() > 0):
            processes.save_slurm_run(sys.argv[1:], directory)
        if sweeping and (cfg.trainer.devices != 1 or cfg.trainer.num_nodes != 1):
            raise ConfigError(
                [
                    f"trainer.devices={cfg.trainer.devices}: the processes of a job would each run "
                    "the whole sweep again; add launcher=local, which gives each job its own."
                ]
            )
        with shutdown.as_exit():
            result = train(cfg, directory)
        best: float | None = result["monitor"]["best"]
        return best
    except ConfigError as refusal:
        log.error("\n  ".join(["Refused, before the first batch:", *refusal.faults]))
        if not in_sweep(hydra):
            withdraw(cfg, directory)
            raise SystemExit(2) from None
        record.write_result(
            directory, record.initial_result(cfg) | record.failure("refused", refusal, cfg)
        )
        if not sweeping:
            raise SystemExit(2) from None
    except Exception as error:
        known = expected(error)
        if isinstance(known, OSError):
            logging.raiseExceptions = False  # the log may lie where nothing can be written
        log.error(f"Failed: {known}" if known else traceback.format_exc())
        if not (directory / "result.json").exists():  # it failed before the training began
            with suppress(OSError):
                failure = record.failure("failed", error, cfg)
                record.write_result(directory, record.initial_result(cfg) | failure)
        if not sweeping:
            raise SystemExit(1) from None
    except SystemExit as error:
        if not shutdown.exit_code:  # the job's own code ended it, which must not end a sweep
            if sweeping:
                return None
            raise
        if processes.process_rank() > 0:
            raise
        if not holds_training(directory):
            log.error("Interrupted, before the first batch.")
            withdraw(cfg, directory)
            raise
        log.error(f"Interrupted; what was done lies in {directory}")
        if shutdown.requeues and not in_sweep(hydra):
            log.error(processes.requeue_slurm_job())
        if not in_sweep(hydra):
            log.error(f"python {sys.argv[0]} resume={shlex.quote(str(directory))}")
        raise SystemExit(shutdown.exit_code) from error
    return None


@contextmanager
def nothing_collected() -> Iterator[None]:
    """For imports: they make half a million objects and no garbage, and looking for it takes seconds.

    The collector passes these over from then on, as it would look through them all thrice more.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # or libraries of compiled code tell of leaks
        gc.enable()


def holds_training(directory: Path) -> bool:
    """Whether a run got as far as to leave something to go on with."""
    return (directory / "result.json").exists() or any(directory.glob("checkpoints/*.ckpt"))


def expected(error: BaseException) -> BaseException | None:
    """The error, or the one that led to it, if it explains itself without a traceback."""
    from quartet.checkpoints.storage import CheckpointError
    from quartet.training.module import NonFiniteLossError

    def explains_itself(error: BaseException | None) -> bool:
        closed = isinstance(error, OSError) and error.errno in CLOSED
        return closed or isinstance(error, NonFiniteLossError | CheckpointError)

    if not explains_itself(error):
        return None
    while not isinstance(error, CheckpointError) and explains_itself(error.__context__):
        assert error.__context__
        error = error.__context__
    return error


def evaluate_command(cfg: DictConfig) -> None:
    """Evaluates ``cfg.run``. Exits with 2 when refused."""
    with nothing_collected():
        from quartet.inference.evaluate import evaluate

    options = take(cfg, "split", "checkpoint")
    with refusals(cfg):
        evaluate(cfg, HydraConfig.get().runtime.output_dir, **options)


def predict_command(cfg: DictConfig) -> None:
    """Writes predictions of ``cfg.run``. Exits with 2 when refused."""
    with nothing_collected():
        from quartet.inference.evaluate import predict

    options = take(cfg, "split", "checkpoint", "input", "id", "output")
    with refusals(cfg):
        predict(cfg, HydraConfig.get().runtime.output_dir, **options)


def export_command(cfg: DictConfig) -> None:
    """Exports the model of ``cfg.run``. Exits with 2 when refused, 1 when the export differs."""
    with nothing_collected():
        from quartet.inference.evaluate import export
        from quartet.inference.export import Different

    options = take(cfg, "format", "checkpoint", "output", "tolerance")
    with refusals(cfg):
        try:
            export(cfg, HydraConfig.get().runtime.output_dir, **options)
        except Different as error:
            print(f"Failed: {error}", file=sys.stderr)
            raise SystemExit(1) from None


def take(cfg: DictConfig, *keys: str) -> dict[str, Any]:
    """Takes the command's own keys out of a run's configuration."""
    with open_dict(cfg):
        cfg.pop("run")
        return {key: cfg.pop(key) for key in keys if key in cfg}


@contextmanager
def refusals(cfg: DictConfig) -> Iterator[None]:
    """Turns a refusal into a message and exit status 2."""
    from quartet.core.problems import ConfigError

    redaction.register(cfg)
    try:
        yield
    except ConfigError as refusal:
        abort("\n  ".join(["Refused:", *refusal.faults]))
    except Exception:
        print(redaction.redact(traceback.format_exc()), file=sys.stderr)
        raise SystemExit(1) from None


def withdraw(cfg: DictConfig, directory: Path) -> None:
    """Removes what Hydra wrote for a start that came to nothing; a run that was there stays."""
    if processes.process_rank() > 0:
        return  # the first process of a run decides, and may have trained
    if cfg.get("resume"):
        logging.shutdown()
        discard_record(directory / str(HydraConfig.get().output_subdir))
    else:
        remove_empty(directory)


def remove_empty(directory: Path) -> None:
    """Removes what Hydra wrote for a run that never began; results of others cannot be lost."""
    logging.shutdown()
    locks.unlock(directory)
    for name in ("config", "hydra", "overrides"):
        (directory / ".hydra" / f"{name}.yaml").unlink(missing_ok=True)
    (directory / f"{HydraConfig.get().job.name}.log").unlink(missing_ok=True)
    here = Path.cwd()
    for path in (directory / ".hydra", directory, *list(directory.parents)[:2]):
        if path in (here, *here.parents):
            return
        try:
            path.rmdir()
        except OSError:
            return
