"""Directories of runs and sweeps. Imported at every start, so without torch."""

import atexit
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from quartet.config import foreign
from quartet.config.overrides import quote, unquote
from quartet.core import processes
from quartet.core.files import make_unique_directory
from quartet.core.problems import abort
from quartet.core.signals import shutdown
from quartet.records import locks
from quartet.records.run_directory import holds_run
from quartet.sweeps import jobs


class RunDirectory(Callback):
    """Gives each run a directory of its own and never one that holds a run already.

    At the end of a sweep, says which jobs did not finish, its exit status then being 1, and makes
    the report.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        shutdown.stop_deferring()
        shutdown.defer()  # until the job looks: what Hydra writes meanwhile, the job knows how to remove
        if processes.started_by_lightning():  # a further process of a run that has its directory
            return
        if processes.process_rank() > 0:
            follow(config)
            return
        self.begin(config)
        if processes.started_externally():
            processes.share(config.hydra.run.dir)

    def begin(self, config: DictConfig) -> None:
        """Chooses the directory of a run, and refuses one that holds another."""
        directory = Path(config.hydra.run.dir)
        if in_sweep(config.hydra):
            if faults := foreign.links(directory):
                abort("\n".join(faults))
            # Before Hydra writes there; the one that has the job goes on undisturbed.
            if not locks.try_lock(directory):
                raise SystemExit(jobs.EXIT_LOCKED)
            atexit.register(locks.unlock, directory)
            if config.hydra.mode != RunMode.MULTIRUN and not jobs.Job(directory, [], "").open:
                raise SystemExit(
                    jobs.EXIT_LOCKED
                )  # another process had it since this one was started
            return
        if config.get("resume"):  # goes on in the directory of that run
            return
        if not named("hydra.run.dir", config):
            change(config, "run", make_unique_directory(directory))
            return
        try:
            # The log goes away with a start that is refused.
            log = directory / f"{config.hydra.job.name}.log"
            mine = not (holds_run(directory) or log.exists()) and locks.try_lock(directory)
        except OSError as error:
            abort(f"hydra.run.dir={directory}: {error.strerror}; name a folder that can be made.")
        atexit.register(locks.unlock, directory)
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
        if not named("hydra.sweep.dir", config):
            change(config, "sweep", make_unique_directory(Path(config.hydra.sweep.dir)))
        elif faults := foreign.links(config.hydra.sweep.dir):
            abort("\n".join(faults))
        if config.get("check") != "only":
            atexit.register(write_report, config.hydra.sweep.dir)  # an interrupted sweep has no end

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if config.get("check") == "only":
            return
        found = jobs.jobs_of(config.hydra.sweep.dir)
        unfinished = [job for job in found if job.status != "finished"]
        for job in unfinished:
            print(f"job {job.number} {why(job)}", file=sys.stderr)
        done = len(found) - len(unfinished)
        print(f"{done} of {len(found)} jobs finished: {config.hydra.sweep.dir}")
        write_report(config.hydra.sweep.dir)
        if unfinished:
            raise SystemExit(1)


def write_report(directory: str) -> None:
    """Makes the report of a sweep in which any job began; that it cannot be made fails no sweep."""
    atexit.unregister(write_report)
    if not any(Path(directory).glob("*/.hydra")):
        return
    page = Path(directory) / "report.html"
    results = [path.stat().st_mtime for path in Path(directory).glob("*/result.json")]
    if results and page.exists() and page.stat().st_mtime >= max(results):
        print(page)  # it tells all this already
        return
    try:
        from quartet.reports.page import report

        report([directory])
    except Exception as error:
        print(
            f"No report, since {type(error).__name__}: {error}\n"
            f"Once that is mended: python scripts/report.py {directory}",
            file=sys.stderr,
        )


def why(job: jobs.Job) -> str:
    """Why a job did not finish."""
    result = job.result
    if result is None:
        return f"{job.ended or 'has no result'}; the next start of the sweep goes on with it"
    message = (result["error"] or {}).get("message", "").replace("\n", "\n  ")
    return f"{result['status']}: {message}"


def in_sweep(hydra: DictConfig) -> bool:
    """Whether a run is a job of a sweep, in the sweep's process or in one of its own."""
    return hydra.mode == RunMode.MULTIRUN or not OmegaConf.is_missing(hydra.job, "num")


def expand_sweep_arguments() -> None:
    """Rewrites the command line where it names settings of a sweep or one to go on with."""
    sys.argv[1:] = with_sweep(sys.argv[1:])


def with_sweep(arguments: Sequence[str]) -> list[str]:
    """Arguments in which ``sweep.resume=DIR`` is what that sweep was started with.

    ``sweep.`` and ``launcher.`` are short for where Hydra keeps settings of the two.
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
    directory = unquote(named[-1].removeprefix("sweep.resume="))
    try:
        table = jobs.Table(directory)
    except ValueError as error:
        abort(str(error))
    if not table.jobs:
        abort(
            f"sweep.resume={directory} holds no sweep: {table.path} is missing; name the directory "
            "that the sweep printed, such as multirun/DATE/TIME."
        )
    flags = [each for each in given if each.startswith("-")]
    if not {"-m", "--multirun"} & set(flags):
        given.insert(0, "-m")
    keys = set(map(foreign.key_of, given))
    kept = [each for each in table.command if foreign.key_of(each) not in keys]
    for group, prefix in (("launcher", "hydra.launcher."), ("sweep", "hydra.sweeper.")):
        if group in keys:  # another one has other settings
            kept = [each for each in kept if not each.startswith(prefix)]
    overrides = [each for job in table.jobs.values() for each in job.overrides]
    faults = [str(each) for each in kept if foreign.directs(each)]
    faults += [str(each) for each in overrides if not foreign.is_setting(each)]
    if faults:
        abort(
            f"{table.path} may be someone else's, and says what a sweep's record must not by itself: "
            f"{'; '.join(dict.fromkeys(faults))}. If it shall, repeat it on the command line."
        )
    kept = [each for each in kept if not each.startswith("-")]
    return [*given, *kept, f"hydra.sweep.dir={quote(directory)}"]


def named(key: str, config: DictConfig) -> bool:
    """Whether the user set `key` on the command line."""
    return any(
        override.lstrip("+").startswith(f"{key}=") for override in config.hydra.overrides.hydra
    )


def follow(config: DictConfig) -> None:
    """Gives a further process the directory of the first, and a log of its own there."""
    try:
        change(config, "run", processes.share(None))
    except TimeoutError as error:
        abort(str(error))
    with read_write(config), open_dict(config):
        config.hydra.output_subdir = None
        config.hydra.job.name = f"{config.hydra.job.name}_process_{processes.process_rank()}"


def change(config: DictConfig, kind: str, directory: Path) -> None:
    with read_write(config), open_dict(config):
        config.hydra[kind].dir = str(directory)
