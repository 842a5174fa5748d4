"""The commands: train, evaluate, predict, export; their arguments, help, messages and exit statuses.

Hydra and torch are imported within functions: the handlers of signals come first.
"""

import atexit
import errno
import gc
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from quartet import compat
from quartet.config.overrides import find_places, key_of, quote_values, to_path, unquote
from quartet.core import processes
from quartet.core.files import CONF, remove_empty_directories, unlock
from quartet.core.messages import redact, redact_logs, register_secrets
from quartet.core.problems import ConfigError, Problem, TrainingError, abort
from quartet.core.processes import shutdown
from quartet.records import run_directory as record

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

FLAGS = {"-h", "--help"}
MORE = """
python train.py optimizer=adam --help      what an option sets
python train.py optimizer=adam --cfg job   the value of every setting
python train.py --hydra-help               flags
"""
# errno of full or read-only file systems.
CLOSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def train() -> None:
    """``python train.py``. Exits with 2 when refused, 1 when failed, 130, 138 or 143 when interrupted."""
    print_help()
    shutdown.install()
    shutdown.defer()  # until the run starts: Hydra would turn a signal into an error of its own
    from quartet.sweeps.directory import with_sweep

    arguments = with_sweep(sys.argv[1:])
    sweeping = not {"-m", "--multirun", "hydra.mode=MULTIRUN"}.isdisjoint(arguments)
    with refusals("Refused:"):
        from quartet.config.compose import check_words

        check_words(arguments)
        sys.argv[1:] = [
            each if each.startswith("resume=") else quote_values([each], sweeping=sweeping)[0]
            for each in arguments
        ]
    if resumed := find_resumed_run(sys.argv[1:]):
        run_and_exit(partial(resume, *resumed))
    else:
        run_and_exit(train_by_hydra)


def train_by_hydra() -> None:
    """Lets Hydra compose conf/train.yaml and the command line, and train or sweep."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from quartet.config.compose import explain, prepare_hydra

    compat.allow_lazy_help()
    prepare_hydra()
    if os.environ.get("HYDRA_FULL_ERROR") != "1":
        compat.raise_errors()
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(train_command)()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        overrides = [each for each in sys.argv[1:] if not each.startswith("-")]
        with refusals("Refused, before the first batch:"):
            raise explain(error, overrides) from None


def train_command(cfg: "DictConfig") -> float | None:
    """Trains the configuration that Hydra composed, in the directory that it made."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import open_dict

    from quartet.sweeps.directory import in_sweep

    shutdown.install()
    hydra: Any = HydraConfig.get()
    with open_dict(cfg):
        choices, task = hydra.runtime.choices, hydra.overrides.task
        cfg.hydra = {"runtime": {"choices": choices}, "overrides": {"task": task}}
    sweeping = hydra.mode == RunMode.MULTIRUN
    directory = Path(hydra.runtime.output_dir)
    return attempt(cfg, directory, in_sweep=in_sweep(hydra), sweeping=sweeping)


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
    attempt(cfg, directory, in_sweep=in_sweep)


def attempt(
    cfg: "DictConfig", directory: Path, *, in_sweep: bool, sweeping: bool = False
) -> float | None:
    """Trains `cfg`; turns every end into an exit status or, within a sweep's process, a result.json.

    Args:
        cfg: What to train.
        directory: Of the run.
        in_sweep: Whether it is a job of a sweep, in the sweep's process or in one of its own.
        sweeping: Whether this is the sweep's process, which trains other jobs afterwards.

    Returns:
        The best monitored value; None for a job of a sweep that did not finish.
    """
    register_secrets(cfg)
    redact_logs()
    try:
        with shutdown.deferred(imports=True), paused_collector():
            import quartet.build  # noqa: F401 (all that takes seconds)
            from quartet.reports.run import describe_run
            from quartet.run import train
    except SystemExit:
        withdraw(cfg, directory)
        raise
    try:
        if cfg.check == "only":
            compat.quieten()
            print(describe_run(cfg))
            withdraw(cfg, directory)
            return None
        if not (sweeping or cfg.resume or processes.process_rank() > 0):
            processes.save_slurm_run(sys.argv[1:], directory)
        if sweeping and (cfg.trainer.devices != 1 or cfg.trainer.num_nodes != 1):
            message = "each process of a job would run the whole sweep again; add launcher=local."
            raise ConfigError(Problem("trainer.devices", message, cfg.trainer.devices))
        with shutdown.as_exit():
            result = train(cfg, directory, pictures=not sweeping)
        best: float | None = result["monitor"]["best"]
        return best
    except ConfigError as error:
        log.error("\n  ".join(["Refused, before the first batch:", *map(str, error.problems)]))
        if not in_sweep:
            withdraw(cfg, directory)
            raise SystemExit(2) from None
        record.write_failure(directory, "refused", error, cfg)
        if not sweeping:
            raise SystemExit(2) from None
    except Exception as error:
        known = expected(error)
        if isinstance(known, OSError):
            logging.raiseExceptions = False  # the log may lie where nothing can be written
        log.error(f"Failed: {known}" if known else traceback.format_exc())
        is_main = processes.process_rank() == 0
        if is_main and not (directory / "result.json").exists():  # before the training began
            with suppress(OSError):
                record.write_failure(directory, "failed", error, cfg)
        if not sweeping:
            raise SystemExit(1) from None
    except SystemExit as error:
        if not shutdown.exit_code:  # the job's own code ended it, which must not end a sweep
            if sweeping:
                return None
            raise
        if processes.process_rank() > 0:
            raise
        has_checkpoint = any(directory.glob("checkpoints/*.ckpt"))
        if not (has_checkpoint or (directory / "result.json").exists()):
            log.error("Interrupted, before the first batch.")
            withdraw(cfg, directory)
            raise
        log.error(f"Interrupted; the run is in {directory}")
        if shutdown.requeues and not in_sweep:
            log.error(processes.requeue_slurm_job())
        if not in_sweep:
            places = map(shlex.quote, find_places(sys.argv[1:]))
            command = f"python {sys.argv[0]} resume={shlex.quote(str(directory))}"
            log.error(" ".join([command, *places]))
        raise SystemExit(shutdown.exit_code) from error
    return None


@contextmanager
def paused_collector() -> Iterator[None]:
    """Pauses the garbage collector during imports, which make many objects and no garbage.

    From then on the collector ignores these objects.
    """
    if "torch" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # or libraries of compiled code report leaks
        gc.enable()


def expected(error: BaseException) -> BaseException | None:
    """The error, or the one that led to it, if it explains itself without a traceback."""
    from quartet.checkpoints.storage import CheckpointError
    from quartet.data.pictures import PictureError

    def explains_itself(error: BaseException | None) -> bool:
        closed = isinstance(error, OSError) and error.errno in CLOSED
        # Lightning's class, which is not imported for its name alone.
        misconfigured = type(error).__name__ == "MisconfigurationException"
        own = TrainingError | CheckpointError | PictureError
        return closed or misconfigured or isinstance(error, own)

    if not explains_itself(error):
        return None
    while not error.__suppress_context__ and explains_itself(error.__context__):
        assert error.__context__
        error = error.__context__
    return error


def command_on_run(name: str) -> None:
    """``python evaluate.py run=DIR``, predict.py or scripts/export.py, by its name.

    Exits with 2 when refused, 1 when an export differs. The configuration of the run is read as plain
    data; the command's own keys and their defaults are in conf/NAME.yaml.
    """
    run_and_exit(partial(call_on_run, name))


def call_on_run(name: str) -> None:
    """Calls evaluate, predict or export with the configuration of a run."""
    print_help()
    options: dict[str, Any] = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    options["run"], overrides = None, []
    for argument in sys.argv[1:]:
        key, equals, value = argument.partition("=")
        if argument.startswith("-"):
            abort(f"{argument}: {Path(sys.argv[0]).name} has no such flag; --help shows its keys.")
        if equals and key in options:
            options[key] = None if value == "null" else unquote(value)
        else:
            overrides.append(argument)
    if not (place := options.pop("run")):
        abort(f"Which run? python {sys.argv[0]} run=outputs/DATE/TIME")
    with refusals("Refused:"), paused_collector():
        from quartet.config.compose import evaluation_config
        from quartet.inference.evaluate import evaluate
        from quartet.inference.export import PredictionsDiffer, export
        from quartet.inference.predict import predict
        from quartet.sweeps.directory import find_run

        command: Any = {"evaluate": evaluate, "predict": predict, "export": export}[name]
        directory = find_run(to_path(place))
        cfg = evaluation_config(directory, overrides, name)
        register_secrets(cfg)
        try:
            command(cfg, directory, **options)
        except PredictionsDiffer as error:
            print(f"Failed: {error}", file=sys.stderr)
            raise SystemExit(1) from None


@contextmanager
def refusals(first: str) -> Iterator[None]:
    """Turns an error that explains itself into a message and exit status 2, others into a traceback and 1."""
    try:
        yield
    except ConfigError as error:
        abort("\n  ".join([first, *map(str, error.problems)]))
    except Exception as error:
        if isinstance(error, OSError) and error.filename:
            abort(
                f"{first}\n  {error.filename}: {error.strerror}; use a place that can be written."
            )
        if known := expected(error):
            abort(f"{first}\n  {known}")
        print(redact(traceback.format_exc()), file=sys.stderr)
        raise SystemExit(1) from None


def withdraw(cfg: "DictConfig", directory: Path) -> None:
    """Removes the files that Hydra wrote for a start that is refused; an earlier run stays."""
    from quartet.config.compose import hydra_record

    if hydra_record(directory) is None or cfg.get("resume") or processes.process_rank() > 0:
        return  # the first process of a run decides, and may have trained
    logging.shutdown()
    unlock(directory)
    for name in ("config.yaml", "hydra.yaml", "overrides.yaml"):
        (directory / ".hydra" / name).unlink(missing_ok=True)
    (directory / "train.log").unlink(missing_ok=True)
    remove_empty_directories(directory / ".hydra", parents=3)


def run_and_exit(main: Callable[[], object]) -> None:
    """Calls `main` and ends the process with its status.

    Waits for threads, runs exit handlers and flushes the output, but does not destroy modules, which
    takes a second or two once torch is imported. A process that was not started for this program
    alone (by a debugger, a profiler, a test) continues.
    """
    status = 0
    try:
        main()
    except SystemExit as end:
        if not isinstance(end.code, int | None) or not started_alone():
            raise
        status = end.code or 0
    if started_alone():
        compat.run_exit_handlers()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def started_alone() -> bool:
    """Whether the command line was ``python PROGRAM.py ...``."""
    return sys.orig_argv[1:2] == sys.argv[:1]


# The command line


def find_resumed_run(arguments: Sequence[str]) -> tuple[Path, list[str], bool] | None:
    """The run that a command line continues, further overrides, and whether a sweep started it.

    That is the run of ``resume=DIR``, or the one that the same line began before Slurm started this
    job again. None if it starts a new run. Exits with 2 if a run cannot have all that the line sets.
    """
    named = [each for each in arguments if each.startswith("resume=")]
    if not named and (begun := processes.find_interrupted_run(arguments)):
        return begun, find_places(arguments), False
    given = named[-1].removeprefix("resume=") if named else ""
    if given in ("", "null"):
        return None
    place = to_path(given)
    rest = [each for each in arguments if not each.startswith("resume=")]
    flags = [each for each in rest if each.startswith("-")]
    settings = [each for each in rest if key_of(each).startswith("hydra")]
    in_sweep = any(each.startswith("hydra.job.num=") for each in settings)
    if flags or (settings and not in_sweep):
        wrong = " ".join(flags or settings)
        abort(f"resume={place} continues that run in its directory; leave out {wrong}.")
    return place, [each for each in rest if each not in settings], in_sweep


def print_help() -> None:
    """Prints the help that the command line asks for, if it does, and exits with 0.

    The help is the files of conf/, which describe each setting; of options that are named beside
    ``--help``, the files of those options. Anything else beside it is left to Hydra, whose own help
    takes a second and leaves the comments out.
    """
    rest = [each for each in sys.argv[1:] if each not in FLAGS]
    own = CONF / f"{Path(sys.argv[0]).stem}.yaml"
    if len(rest) == len(sys.argv) - 1 or not own.is_file():
        return
    if own.stem != "train":
        print(without_modeline(own), end="")
    elif rest:
        files = [CONF / f"{each.replace('=', '/', 1)}.yaml" for each in rest]
        if not all(file.is_file() for file in files):
            return
        texts = [f"# {file.relative_to(CONF.parent)}\n{without_modeline(file)}" for file in files]
        print("\n".join(texts), end="")
    else:
        print("Groups and their options, as in python train.py optimizer=rmsprop scheduler=step:\n")
        groups = {file.parent for file in CONF.glob("[!.]*/**/*.yaml")} - {CONF / "hydra"}
        for group in sorted(groups):
            options = sorted(file.stem for file in group.glob("*.yaml"))
            print(f"{group.relative_to(CONF)}: {', '.join(options)}")
        print(f"\n{without_modeline(own)}{MORE}", end="")
    raise SystemExit(0)


def without_modeline(file: Path) -> str:
    """The text of a file without the line for editors."""
    lines = file.read_text().splitlines(keepends=True)
    return "".join(line for line in lines if "yaml-language-server" not in line)
