"""A sweep: which jobs it has, which of them are to be trained, and that they are. Without torch."""

import atexit
import logging
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins import basic_launcher
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobStatus
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from quartet.config import foreign
from quartet.core.files import remove_empty_directories
from quartet.core.problems import abort
from quartet.core.signals import shutdown
from quartet.records import locks, result
from quartet.sweeps import jobs
from quartet.sweeps.directory import write_report
from quartet.sweeps.identity import fingerprint, refuse_changes
from quartet.sweeps.jobs import Job, Table

if TYPE_CHECKING:
    from hydra_plugins.quartet import GridSweeper

log = logging.getLogger(__name__)

NOT_RECORDED = ("hydra.sweep.dir", "hydra.sweeper.retry", "hydra.sweeper.resume", "hydra.mode")


def sweep(sweeper: "GridSweeper", arguments: Sequence[str]) -> None:
    """Trains every combination of values that has not been trained in the sweep's directory.

    Raises:
        SystemExit: the sweep is refused (2), or a signal came.
    """
    shutdown.install()
    if sweeper.retry not in (None, "failed"):
        abort(f"sweep.retry={sweeper.retry}: must be failed; without it those jobs are left.")
    assert sweeper.config is not None
    directory = Path(sweeper.config.hydra.sweep.dir)
    wanted = combinations(sweeper, arguments)
    if sweeper.config.get("check") == "only":
        try:
            check(sweeper, wanted)
        finally:
            remove_empty_directories(directory)
        return
    try:
        table = Table(directory)
        new = {job.key for job in table.jobs.values()}
        validate(sweeper, [each for each in wanted if tuple(sorted(each)) not in new])
        with table.changing():
            planned = plan(sweeper, table, wanted)
            table.command = command(sweeper.config)
        if not (directory / "multirun.yaml").exists():
            OmegaConf.save(sweeper.config, directory / "multirun.yaml")
    except BaseException as error:
        atexit.unregister(write_report)  # nothing is touched
        remove_empty_directories(directory)
        if isinstance(error, ValueError):
            abort(str(error))
        raise
    try:
        train(sweeper, table, [job for job in planned if job.open])
    except ValueError as error:  # of the launcher's settings
        abort(str(error))
    except SystemExit:
        if not shutdown.exit_code:
            raise
        print(
            f"Interrupted; go on with\npython {sys.argv[0]} sweep.resume={shlex.quote(str(directory))}",
            file=sys.stderr,
        )
        raise


def combinations(sweeper: "GridSweeper", arguments: Sequence[str]) -> list[list[str]]:
    """Overrides of each job, none twice."""
    assert sweeper.hydra_context
    parser = OverridesParser.create(config_loader=sweeper.hydra_context.config_loader)
    parsed = parser.parse_overrides([*sweeper._parse_config(), *arguments])
    sweeper.how = [
        each.input_line or "" for each in parsed if each.key_or_group in jobs.SWEEP_GROUPS
    ]
    kept = [each for each in parsed if each.key_or_group not in jobs.SWEEP_GROUPS]
    (product,) = sweeper.split_arguments(kept, None)
    return list({tuple(sorted(each)): each for each in product}.values())


def validate(sweeper: "GridSweeper", wanted: Sequence[Sequence[str]]) -> None:
    """Has Hydra compose enough jobs that it sees each option and each key; it refuses unknown ones."""
    assert sweeper.hydra_context
    options = sweeper.hydra_context.config_loader.get_group_options
    groups: dict[str, bool] = {}
    seen: set[str] = set()
    for overrides in wanted:
        new = set()
        for each in overrides:
            key = each.partition("=")[0]
            if key not in groups:
                groups[key] = bool(options(key.lstrip("+~").partition("@")[0]))
            new.add(each if groups[key] else key)  # of a value the key is enough
        if not seen.issuperset(new):
            seen |= new
            sweeper.validate_batch_is_legal([[*overrides, *sweeper.how]])


def plan(sweeper: "GridSweeper", table: Table, wanted: Sequence[list[str]]) -> list[Job]:
    """The jobs that are meant, with new ones put into the table.

    Raises:
        ValueError: the files of conf/ give a job another configuration than it was started with.
    """
    conf = fingerprint(sweeper)
    known = {job.key: job for job in table.current}
    if sweeper.resume:
        wanted = [*wanted, *(job.overrides for job in table.current)]
    keys = {tuple(sorted(each)): each for each in wanted}
    meant = [known[key] for key in keys if key in known]
    left = ("refused", "failed") if sweeper.retry else ("refused",)
    changed = [job for job in meant if job.conf != conf and job.status not in left]
    refuse_changes(sweeper, changed, table.directory)
    for job in meant:
        job.conf = conf
    planned = []
    for key, overrides in keys.items():
        job = known.get(key) or table.add(overrides, conf)
        if sweeper.retry and key in known and job.status in ("failed", "refused"):
            again = table.add(overrides, conf)
            job.retried_as, job = again.number, again
        planned.append(job)
    return planned


def command(config: DictConfig) -> list[str]:
    """The overrides with which ``sweep.resume`` starts again."""
    told: Any = OmegaConf.to_container(config.hydra.overrides)  # a reference stays one
    given = [*told["task"], *told["hydra"]]
    return [each for each in given if foreign.key_of(each) not in NOT_RECORDED]


# Training


def train(sweeper: "GridSweeper", table: Table, todo: Sequence[Job]) -> None:
    """Trains jobs by the launcher, one by one if that is Hydra's own."""
    if isinstance(sweeper.launcher, basic_launcher.BasicLauncher):
        one_by_one(sweeper, table, todo)
    elif todo:
        assert sweeper.launcher
        batch = [[*job.overrides, *placed(sweeper, job)] for job in todo]
        for part in sweeper.split_overrides_to_chunks(batch, sweeper.max_batch_size):
            sweeper.launcher.launch(part, initial_job_idx=0)


def one_by_one(sweeper: "GridSweeper", table: Table, todo: Sequence[Job]) -> None:
    """Trains jobs in this process until each has ended, here or in another one that took it."""
    from quartet.sweeps.live import Live

    waiting = list(todo)
    assert sweeper.config
    live = Live(table.current, total=sweeper.config.hydra.sweeper.get("n_trials"))
    with live.shown():
        while waiting:
            for job in list(waiting):
                if not locks.try_lock(job.directory):
                    continue
                waiting.remove(job)
                try:
                    if job.open:
                        live.start(job)
                        one(sweeper, job)
                        live.end(job)
                    else:
                        live.see(job)
                finally:
                    locks.unlock(job.directory)
            if waiting:
                time.sleep(0.2)


def placed(sweeper: "GridSweeper", job: Job) -> list[str]:
    """Overrides that say where and how a job is trained, not what."""
    return [*sweeper.how, f"hydra.sweep.subdir={job.number}", *job.go_on()]


def one(sweeper: "GridSweeper", job: Job, *further: str) -> None:
    """Trains a job in this process. What goes wrong stands in its result.json."""
    assert sweeper.launcher
    logging.getLogger(basic_launcher.__name__).setLevel(logging.WARNING)  # our line says more
    overrides = [*job.overrides, *placed(sweeper, job), *further]
    try:
        (returned,) = sweeper.launcher.launch([overrides], initial_job_idx=job.number)
        if returned.status == JobStatus.FAILED:
            raise returned._return_value
    except HydraException as error:
        log.error(f"Refused, before the first batch:\n  {error}")
        failure = result.failure("refused", error, sweeper.config)
        result.write_result(job.directory, result.empty_result() | failure)
    except Exception as error:  # the job could not even write its own
        log.error(f"Failed: {error}")
        with suppress(OSError):
            result.write_result(
                job.directory,
                result.empty_result() | result.failure("failed", error, sweeper.config),
            )


def check(sweeper: "GridSweeper", wanted: Sequence[list[str]]) -> None:
    """Says of each job what would run, and leaves nothing behind.

    Raises:
        SystemExit: a job is refused.
    """
    assert sweeper.config
    assert sweeper.hydra_context
    if not isinstance(sweeper.launcher, basic_launcher.BasicLauncher):
        assert sweeper.launcher
        sweeper.launcher = basic_launcher.BasicLauncher()
        sweeper.launcher.setup(
            config=sweeper.config,
            hydra_context=sweeper.hydra_context,
            task_function=sweeper.task_function,
        )
    with tempfile.TemporaryDirectory() as folder:
        done = [Job(Path(folder) / str(n), each, "") for n, each in enumerate(wanted)]
        for job in done:
            print(f"job {job.number}: {' '.join(job.overrides)}", flush=True)
            one(sweeper, job, f"hydra.sweep.dir={folder}")
        refused = [job.number for job in done if job.result]
    if refused:
        abort(f"{len(refused)} of {len(done)} jobs would be refused.")
