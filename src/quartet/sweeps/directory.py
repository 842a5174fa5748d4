"""Directories of runs and sweeps. Imported at every start, so without torch."""

import atexit
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from quartet.config.overrides import is_job_override, is_plain, key_of, quote, to_path
from quartet.core import processes
from quartet.core.files import make_unique_directory, remove_empty_directories, try_lock, unlock
from quartet.core.messages import join_and, redact
from quartet.core.problems import abort
from quartet.core.processes import shutdown
from quartet.records.run_directory import find_outside_links, holds_run
from quartet.records.sweep import Job, Table, list_jobs
from quartet.sweeps.launch import EXIT_LOCKED


class RunDirectory(Callback):
    """Gives each run a directory of its own and never one that holds a run already.

    At the end of a sweep, prints the jobs that did not finish, which make its exit status 1, and
    writes the report.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        shutdown.stop_deferring()
        shutdown.defer()  # until the job starts, which can remove what Hydra writes meanwhile
        refuse_sweep(config)
        if processes.started_by_lightning():  # a further process of a run that has its directory
            return
        if processes.started_externally() and not is_named("hydra.run.dir", config):
            if processes.process_rank() > 0:
                raise SystemExit(2)  # the first process prints why
            abort(
                "torchrun and srun start several processes, which need one directory; name it on the "
                "command line: hydra.run.dir=outputs/NAME."
            )
        if processes.process_rank() > 0:
            use_own_log(config)
        else:
            self.choose_directory(config)

    def choose_directory(self, config: DictConfig) -> None:
        """Chooses the directory of a run, and refuses one that holds another."""
        directory = Path(config.hydra.run.dir)
        if in_sweep(config.hydra):
            lock_job(directory, sweeping=config.hydra.mode == RunMode.MULTIRUN)
            return
        if config.get("resume"):  # continues in the directory of that run
            return
        if not is_named("hydra.run.dir", config):
            with writable("hydra.run.dir", directory):
                set_directory(config, "run", make_unique_directory(directory))
            return
        with writable("hydra.run.dir", directory):
            # The log is removed with a start that is refused.
            log = directory / f"{config.hydra.job.name}.log"
            mine = not (holds_run(directory) or log.exists()) and try_lock(directory)
        atexit.register(unlock, directory)
        if not mine or holds_run(directory):  # another start may have begun and ended meanwhile
            abort(
                f"hydra.run.dir: {directory} already holds a run, and nothing in it was touched; "
                "name another directory, or leave the name out for a new one."
            )

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        shutdown.stop_deferring()
        if processes.started_externally():
            abort(
                "each process that torchrun or srun started would run the whole sweep; start it by "
                "python alone, with launcher=local, ray or slurm."
            )
        if is_named("hydra.sweep.subdir", config):
            abort(
                "hydra.sweep.subdir: the jobs of a sweep are numbered, so that it can be resumed; leave it out, "
                "results.csv says what each of them is. hydra.sweep.dir names the directory of all."
            )
        directory = Path(config.hydra.sweep.dir)
        with writable("hydra.sweep.dir", directory):
            if is_named("hydra.sweep.dir", config):
                directory.mkdir(parents=True, exist_ok=True)
                remove_empty_directories(directory)
            else:
                set_directory(config, "sweep", make_unique_directory(directory))
        if config.get("check") != "only":
            atexit.register(write_report, config.hydra.sweep.dir)  # an interrupted sweep has no end

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if config.get("check") == "only":
            return
        jobs = list_jobs(config.hydra.sweep.dir)
        unfinished = [job for job in jobs if job.status != "finished"]
        for job in unfinished:
            print(f"job {job.number} {explain(job)}", file=sys.stderr)
        done = len(jobs) - len(unfinished)
        print(f"{done} of {len(jobs)} jobs finished: {config.hydra.sweep.dir}")
        is_here = config.hydra.runtime.choices["hydra/launcher"] == "basic"
        if done and is_here and config.get("pictures") is None:
            draw_winner(Path(config.hydra.sweep.dir))
        write_report(config.hydra.sweep.dir)
        if unfinished:
            raise SystemExit(1)


@contextmanager
def writable(key: str, directory: Path) -> Iterator[None]:
    """Exits with 2 if a directory cannot be made or written."""
    try:
        yield
    except OSError as error:
        abort(
            f"{key}={directory}: {error.strerror}; name a folder that can be made, {key}=DIR. The working "
            f"directory is {Path.cwd()}."
        )


def lock_job(directory: Path, *, sweeping: bool = False) -> None:
    """Locks the directory of a sweep's job; exits with EXIT_LOCKED if another process has the job.

    Args:
        directory: The job's directory. No link may lead out of it: it may come from elsewhere.
        sweeping: Whether this is the sweep's process, which knows that the job is pending.
    """
    refuse_outside_links(directory)
    # Before anything is written there: another process that trains the job is not disturbed.
    if not try_lock(directory):
        raise SystemExit(EXIT_LOCKED)
    atexit.register(unlock, directory)
    if not sweeping and not Job(directory, [], "").is_pending:
        raise SystemExit(EXIT_LOCKED)  # another process has trained it meanwhile


def write_report(directory: str) -> None:
    """Writes the report of a sweep in which any job began. A failure of it fails no sweep."""
    atexit.unregister(write_report)
    if not any(Path(directory).glob("*/.hydra")):
        return
    try:
        from quartet.reports.page import report

        report([directory])
    except Exception as error:
        print(
            f"No report, since {type(error).__name__}: {error}\n"
            f"Once that is corrected: python scripts/report.py {shlex.quote(directory)}",
            file=sys.stderr,
        )


def draw_winner(directory: Path) -> None:
    """Draws the pictures of a sweep's best job. A failure of it fails no sweep."""
    try:
        winner, _ = find_winner(directory)
        if not (winner / "curves.png").exists():
            from quartet.inference.evaluate import draw

            draw(winner)
    except Exception as error:
        print(f"No pictures of the winner: {error}", file=sys.stderr)


def explain(job: Job) -> str:
    """Why a job did not finish."""
    result = job.result
    if result is None:
        return f"{job.exit_reason or 'has no result'}; the next start of the sweep resumes it"
    message = (result["error"] or {}).get("message", "").replace("\n", "\n  ")
    return f"{result['status']}: {message}"


def in_sweep(hydra: DictConfig) -> bool:
    """Whether a run is a job of a sweep, in the sweep's process or in one of its own."""
    return hydra.mode == RunMode.MULTIRUN or not OmegaConf.is_missing(hydra.job, "num")


def is_named(key: str, config: DictConfig) -> bool:
    """Whether `key` was set on the command line."""
    return any(
        override.lstrip("+").startswith(f"{key}=") for override in config.hydra.overrides.hydra
    )


def refuse_sweep(config: DictConfig) -> None:
    """Exits with 2 if an experiment names values to combine, and no sweep combines them."""
    given = set(map(key_of, config.hydra.overrides.task))
    params = config.hydra.sweeper.get("params") or {}
    named = next((e for e in config.hydra.overrides.task if key_of(e) == "experiment"), "this")
    if not in_sweep(config.hydra) and (left := [key for key in params if key not in given]):
        abort(
            f"{named} is a sweep over {join_and(left)}; start it with python train.py -m, or set {'it' if len(left) == 1 else 'them'} to "
            "one value each."
        )


def use_own_log(config: DictConfig) -> None:
    """Gives a further process of a run a log of its own, and leaves Hydra's record to the first."""
    with read_write(config), open_dict(config):
        config.hydra.output_subdir = None
        config.hydra.job.name = f"{config.hydra.job.name}_process_{processes.process_rank()}"


def set_directory(config: DictConfig, kind: str, directory: Path) -> None:
    with read_write(config), open_dict(config):
        config.hydra[kind].dir = str(directory)


# The command line


def with_sweep(arguments: Sequence[str]) -> list[str]:
    """Arguments in which ``sweep.resume=DIR`` is replaced by the overrides of that sweep.

    ``sweep.`` and ``launcher.`` are short for the places where Hydra keeps these settings.
    """
    short = {"sweep.": "hydra.sweeper.", "launcher.": "hydra.launcher."}
    named = [each for each in arguments if each.startswith("sweep.resume=")]
    given = []
    for each in arguments:
        for prefix, full in short.items():
            if each.startswith(prefix):
                each = full + each.removeprefix(prefix)
        given.append(each)
    if not named or named[-1] == "sweep.resume=null":
        return given
    directory = to_path(named[-1].removeprefix("sweep.resume="))
    try:
        table = Table(directory)
    except ValueError as error:
        abort(str(error))
    if not table.jobs:
        abort(
            f"sweep.resume={directory} holds no sweep: {table.path} is missing; name the directory "
            "that the sweep printed, such as multirun/DATE/TIME."
        )
    if not {"-m", "--multirun"} & set(given):
        given.insert(0, "-m")
    keys = set(map(key_of, given))
    kept = [each for each in table.command if key_of(each) not in keys]
    for group, prefix in (("launcher", "hydra.launcher."), ("sweep", "hydra.sweeper.")):
        if group in keys:  # another one has other settings
            kept = [each for each in kept if not each.startswith(prefix)]
    refuse_outside_links(directory)
    refuse_unsafe_overrides(table, kept, set(given))
    return [*given, *kept, f"hydra.sweep.dir={quote(directory)}"]


def refuse_unsafe_overrides(table: Table, command: Sequence[str], given: set[str]) -> None:
    """Exits with 2 if ``sweep.json``, which may be a stranger's, sets more than jobs and launchers.

    `command` would start the sweep again; what is `given` on the command line is trusted.
    """
    launching = ("launcher=", "sweep=", "hydra.launcher.", "hydra.sweeper.")
    elsewhere = ("hydra.launcher.address=", "hydra.launcher.env=", "hydra.sweeper.storage=")
    jobs = [each for job in table.jobs.values() for each in job.overrides]
    refused = [each for each in jobs if not is_job_override(each)]
    refused += [
        each
        for each in command
        if not is_job_override(each)
        and not (each.startswith(launching) and is_plain(each) and not each.startswith(elsewhere))
    ]
    if refused := [each for each in dict.fromkeys(map(str, refused)) if each not in given]:
        abort(
            f"{table.path} may come from elsewhere, and sets more than trainings: "
            f"{'; '.join(refused)}. If you want that, repeat it on the command line."
        )


def refuse_outside_links(directory: Path) -> None:
    """Exits with 2 if a link leads out of a directory that may be a stranger's."""
    if links := find_outside_links(directory):
        abort(
            "\n".join(f"{link} is a link to {to}; put the file itself there." for link, to in links)
        )


def find_run(directory: Path) -> Path:
    """The directory of a run; of a sweep that of its winner, which is printed."""
    if not (directory / "sweep.json").is_file():
        return directory
    refuse_outside_links(directory)
    try:
        winner, message = find_winner(directory)
    except ValueError as error:
        abort(f"run={error}")
    print(redact(message))
    return winner


def find_winner(directory: Path) -> tuple[Path, str]:
    """The best job of the setting that the report ranks first, and a line about it.

    Raises:
        ValueError: there is none.
    """
    from quartet.reports.results import rank, read

    try:
        jobs = {str(job.number): job for job in Table(directory).current}
        results = read([directory])
        metric, mode, _ = next(results.by_monitor(), (None, "", None))
        ranking = None if metric is None else rank(results, metric)
    # The files may be another program's, or half written.
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"is a sweep that cannot be ranked: {error}; name one of its jobs"
        raise ValueError(f"{directory} {message}.") from None
    if ranking is None or ranking["winner"].isna().all():
        message = "is a sweep without a finished job that has a value to rank by"
        raise ValueError(f"{directory} {message}.")
    winner = results.jobs.loc[ranking["winner"].iloc[0]]
    name = Path(str(winner["directory"])).name
    same = (directory / name).resolve() == Path(str(winner["directory"])).resolve()
    if name not in jobs or not same or not (directory / name / ".hydra").is_dir():
        raise ValueError(f"{directory}: its winner {name} is none of its jobs; name one of them.")
    knobs = ", ".join(f"{knob}={winner[knob]}" for knob in [*results.knobs, "seed"])
    return directory / name, (
        f"The winner of {directory} by {metric} ({mode}) is job {name}, {winner['best']:.4g}: {knobs}"
    )
