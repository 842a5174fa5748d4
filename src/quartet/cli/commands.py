"""The commands: train, evaluate, predict, export. Exit statuses, and messages instead of tracebacks.

Hydra and torch are imported within functions: the handlers of signals come first.
"""

import atexit
import errno
import gc
import logging
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from quartet.cli.exit import run_and_exit
from quartet.cli.help import print_and_exit
from quartet.core import processes, redaction
from quartet.core.files import CONF
from quartet.core.problems import abort
from quartet.core.signals import shutdown
from quartet.records import locks
from quartet.records import result as record

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

# errno of full or read-only file systems.
CLOSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass(frozen=True)
class Start:
    """Where a training starts, and as what.

    Attributes:
        directory: Of the run.
        in_sweep: Whether it is a job of a sweep, in the sweep's process or in one of its own.
        sweeping: Whether this is the sweep's process, which goes on with other jobs.
    """

    directory: Path
    in_sweep: bool = False
    sweeping: bool = False


def train() -> None:
    """``python train.py``. Exits with 2 when refused, 1 when failed, 130, 138 or 143 when interrupted."""
    print_and_exit()
    shutdown.install()
    shutdown.defer()  # until the run starts: Hydra would turn a signal into an error of its own
    from quartet.cli.arguments import find_resumed_run
    from quartet.sweeps.directory import expand_sweep_arguments

    expand_sweep_arguments()
    if resumed := find_resumed_run(sys.argv[1:]):
        run_and_exit(partial(resume, *resumed))
    else:
        run_and_exit(train_by_hydra)


def train_by_hydra() -> None:
    """Has Hydra compose conf/train.yaml and the command line, and train that, or sweep."""
    import hydra

    from quartet.compat.hydra import allow_lazy_help

    allow_lazy_help()
    hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(train_command)()


def train_command(cfg: "DictConfig") -> float | None:
    """Trains what Hydra has composed, in the directory that it has made."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import open_dict

    from quartet.sweeps.directory import in_sweep

    shutdown.install()
    hydra: Any = HydraConfig.get()
    with open_dict(cfg):
        cfg.hydra = {
            "runtime": {"choices": hydra.runtime.choices},
            "overrides": {"task": hydra.overrides.task},
        }
    sweeping = hydra.mode == RunMode.MULTIRUN
    start = Start(Path(hydra.runtime.output_dir), in_sweep(hydra), sweeping)
    if not sweeping:
        return attempt(cfg, start)
    with suppress(locks.DirectoryLocked), locks.lock(start.directory):
        return attempt(cfg, start)
    return None  # another start of the sweep trains it


def resume(directory: Path, overrides: Sequence[str], in_sweep: bool) -> None:
    """``python train.py resume=DIR``: continues a run from its own record, without Hydra."""
    from quartet.config.compose import compose

    if in_sweep:
        from quartet.sweeps.directory import lock_job

        lock_job(directory)
    with refusals("Refused, before the first batch:"):
        cfg = compose([f"resume={directory}", *overrides])
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if processes.process_rank() == 0:
        handlers.append(logging.FileHandler(directory / "train.log", delay=True))
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=handlers, force=True)
    attempt(cfg, Start(directory, in_sweep))


def attempt(cfg: "DictConfig", start: Start) -> float | None:
    """Trains `cfg`; turns every end into an exit status or, within a sweep's process, a result.json.

    Returns:
        The best monitored value; None for a job of a sweep that did not finish.
    """
    directory, sweeping = start.directory, start.sweeping
    redaction.register(cfg)
    redaction.install_log_filter()
    try:
        with shutdown.deferred(imports=True), nothing_collected():
            import quartet.build  # noqa: F401 (all that takes seconds)
            from quartet.compat.lightning import quieten
            from quartet.core.problems import ConfigError, Problem
            from quartet.reports.text import describe_run
            from quartet.run import train
    except SystemExit:
        withdraw(cfg, directory)
        raise
    try:
        if cfg.check == "only":
            quieten()
            print(describe_run(cfg))
            withdraw(cfg, directory)
            return None
        if not (sweeping or cfg.resume or processes.process_rank() > 0):
            processes.save_slurm_run(sys.argv[1:], directory)
        if sweeping and (cfg.trainer.devices != 1 or cfg.trainer.num_nodes != 1):
            message = (
                "the processes of a job would each run the whole sweep again; add launcher=local, "
                "which gives each job its own."
            )
            raise ConfigError(Problem("trainer.devices", message, cfg.trainer.devices))
        with shutdown.as_exit():
            result = train(cfg, directory)
        best: float | None = result["monitor"]["best"]
        return best
    except ConfigError as refusal:
        log.error("\n  ".join(["Refused, before the first batch:", *map(str, refusal.problems)]))
        if not start.in_sweep:
            withdraw(cfg, directory)
            raise SystemExit(2) from None
        record.write_result(
            directory, record.initial_result(cfg) | record.failure("refused", refusal)
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
                failure = record.failure("failed", error)
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
        if shutdown.requeues and not start.in_sweep:
            log.error(processes.requeue_slurm_job())
        if not start.in_sweep:
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


def evaluate() -> None:
    """``python evaluate.py run=DIR``. Exits with 2 when refused."""

    def run(cfg: "DictConfig", directory: Path, options: dict[str, Any]) -> None:
        from quartet.inference.evaluate import evaluate

        evaluate(cfg, directory, **options)

    run_and_exit(partial(command_on_run, "evaluate", run))


def predict() -> None:
    """``python predict.py run=DIR``. Exits with 2 when refused."""

    def run(cfg: "DictConfig", directory: Path, options: dict[str, Any]) -> None:
        from quartet.inference.predict import predict

        predict(cfg, directory, **options)

    run_and_exit(partial(command_on_run, "predict", run))


def export() -> None:
    """``python scripts/export.py run=DIR``. Exits with 2 when refused, 1 when the export differs."""

    def run(cfg: "DictConfig", directory: Path, options: dict[str, Any]) -> None:
        from quartet.inference.export import PredictionsDiffer, export

        try:
            export(cfg, directory, **options)
        except PredictionsDiffer as error:
            print(f"Failed: {error}", file=sys.stderr)
            raise SystemExit(1) from None

    run_and_exit(partial(command_on_run, "export", run))


def command_on_run(name: str, run: Callable[["DictConfig", Path, dict[str, Any]], None]) -> None:
    """Calls `run` with the configuration of ``run=DIR``, read as plain data.

    Args:
        name: Of the command; conf/NAME.yaml holds its own keys and their defaults.
        run: Takes the configuration, the directory of the run and the command's own keys.
    """
    print_and_exit()
    options: dict[str, Any] = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    options["run"], overrides = None, []
    for argument in sys.argv[1:]:
        key, equals, value = argument.partition("=")
        if argument.startswith("-"):
            abort(f"{argument}: {Path(sys.argv[0]).name} has no such flag; --help shows its keys.")
        if equals and key in options:
            options[key] = parse_text(value)
        else:
            overrides.append(argument)
    if not (place := options.pop("run")):
        abort(f"Which run? python {sys.argv[0]} run=outputs/DATE/TIME")
    with refusals("Refused:"), nothing_collected():
        from quartet.config.compose import evaluation_config
        from quartet.sweeps.directory import find_run

        directory = find_run(Path(place))
        cfg = evaluation_config(directory, overrides)
        redaction.register(cfg)
        run(cfg, directory, options)


def parse_text(value: str) -> str | None:
    """A text as the command line writes it, with quotes or without; null is None."""
    from quartet.config.overrides import unquote

    return None if value == "null" else unquote(value)


@contextmanager
def refusals(first: str) -> Iterator[None]:
    """Turns a ConfigError into a message and exit status 2, any other error into a traceback and 1."""
    from quartet.core.problems import ConfigError

    try:
        yield
    except ConfigError as error:
        abort("\n  ".join([first, *map(str, error.problems)]))
    except Exception:
        print(redaction.redact(traceback.format_exc()), file=sys.stderr)
        raise SystemExit(1) from None


def withdraw(cfg: "DictConfig", directory: Path) -> None:
    """Removes what Hydra wrote for a start that came to nothing; a run that was there stays."""
    from quartet.config.compose import hydra_record
    from quartet.records.run_directory import discard_record

    record = hydra_record(directory)
    if record is None or processes.process_rank() > 0:
        return  # the first process of a run decides, and may have trained
    logging.shutdown()
    if cfg.get("resume"):
        discard_record(record)
    else:
        remove_empty(directory)


def remove_empty(directory: Path) -> None:
    """Removes what Hydra wrote for a run that never began; results of others cannot be lost."""
    locks.unlock(directory)
    for name in ("config", "hydra", "overrides"):
        (directory / ".hydra" / f"{name}.yaml").unlink(missing_ok=True)
    (directory / "train.log").unlink(missing_ok=True)
    here = Path.cwd()
    for path in (directory / ".hydra", directory, *list(directory.parents)[:2]):
        if path in (here, *here.parents):
            return
        try:
            path.rmdir()
        except OSError:
            return
