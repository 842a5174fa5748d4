"""A grid sweep: plans its jobs, and trains those that are pending. Without torch."""

import atexit
import hashlib
import itertools
import logging
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobStatus, configure_log, run_job
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from quartet.compat import job_error
from quartet.config.overrides import key_of
from quartet.config.records import flat, list_changes, read_config
from quartet.core.files import remove_empty_directories, try_lock, unlock
from quartet.core.problems import ConfigError, abort
from quartet.core.processes import shutdown
from quartet.records import run_directory as record
from quartet.records.sweep import Job, Table
from quartet.sweeps.directory import write_report
from quartet.sweeps.launch import SWEEP_GROUPS, Progress, resume_overrides

if TYPE_CHECKING:
    from hydra_plugins.quartet import GridSweeper

log = logging.getLogger(__name__)

NOT_RECORDED = ("hydra.sweep.dir", "hydra.sweeper.retry", "hydra.sweeper.resume", "hydra.mode")


def sweep(sweeper: "GridSweeper", arguments: Sequence[str]) -> None:
    """Trains every combination of values that has not been trained in the sweep's directory.

    Raises:
        SystemExit: the sweep is refused (2), or a signal came.
    """
    directory = Path(sweeper.config.hydra.sweep.dir)
    with handled_errors(directory):
        if sweeper.retry not in (None, "failed"):
            raise ValueError(
                f"sweep.retry={sweeper.retry}: must be failed; without it those jobs are left."
            )
        wanted = combine(sweeper, arguments)
        if sweeper.config.get("check") == "only":
            check(sweeper, wanted)
            return
        table = Table(directory)
        known = {job.key for job in table.jobs.values()}
        validate(sweeper, [each for each in wanted if tuple(sorted(each)) not in known])
        with table.changing():
            planned = plan(sweeper, table, wanted)
            table.command = recorded_command(sweeper.config)
        if not (directory / "multirun.yaml").exists():
            OmegaConf.save(sweeper.config, directory / "multirun.yaml")
        train(sweeper, table, [job for job in planned if job.is_pending])


@contextmanager
def handled_errors(directory: Path) -> Iterator[None]:
    """Ends a sweep that is refused with 2, and prints how to resume one that is interrupted."""
    shutdown.install()
    try:
        yield
    except BaseException as error:
        remove_empty_directories(directory)
        if shutdown.exit_code and (directory / "sweep.json").exists():
            command = f"python {sys.argv[0]} sweep.resume={shlex.quote(str(directory))}"
            print(f"Interrupted; resume it with\n{command}", file=sys.stderr)
        else:
            atexit.unregister(write_report)  # nothing is touched
        if isinstance(error, ValueError | ConfigError):
            abort(str(error))
        raise


# Planning


def combine(sweeper: "GridSweeper", arguments: Sequence[str]) -> list[list[str]]:
    """Overrides of each job, none twice."""
    loader = sweeper.hydra_context.config_loader
    parse = OverridesParser.create(config_loader=loader).parse_overrides
    given = {each.get_key_element(): each for each in parse(list(arguments))}
    for key in [key for key, each in given.items() if each.key_or_group in SWEEP_GROUPS]:
        sweeper.sweep_overrides.append(given.pop(key).input_line or "")
    experiments = given.get("experiment")
    combinations: list[list[str]] = []
    for value in [None] if experiments is None else list_values(experiments):
        params = sweeper.params
        if value is not None:  # each experiment may be a sweep of its own
            own = loader.load_sweep_config(sweeper.config, [value, *sweeper.sweep_overrides])
            params = own.hydra.sweeper.get("params") or {}
        parsed = parse([f"{key}={text}" for key, text in params.items()])
        choices = {each.get_key_element(): list_values(each) for each in parsed}
        choices |= {key: list_values(each) for key, each in given.items()}
        choices |= {} if value is None else {"experiment": [value]}
        combinations += map(list, itertools.product(*choices.values()))
    return list({tuple(sorted(each)): each for each in combinations}.values())


def list_values(override: Override) -> list[str]:
    """The overrides that one stands for: several in Hydra's syntax for sweeps."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        raise ValueError(
            f"{override.input_line}: a grid needs values, such as {key}=1,2; sweep=optuna searches ranges."
        )
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def validate(sweeper: "GridSweeper", wanted: Sequence[Sequence[str]]) -> None:
    """Composes enough jobs that Hydra sees each option and each key; it refuses unknown ones."""
    options = sweeper.hydra_context.config_loader.get_group_options
    groups: dict[str, bool] = {}
    composed: set[str] = set()
    for overrides in wanted:
        new = set()
        for each in overrides:
            key = each.partition("=")[0]
            if key not in groups:
                groups[key] = bool(options(key.lstrip("+~").partition("@")[0]))
            new.add(each if groups[key] else key)  # of a value the key is enough
        if not composed.issuperset(new):
            composed |= new
            sweeper.validate_batch_is_legal([[*overrides, *sweeper.sweep_overrides]])


def plan(sweeper: "GridSweeper", table: Table, wanted: Sequence[list[str]]) -> list[Job]:
    """The jobs of these overrides; adds new ones to the table.

    Raises:
        ValueError: the files of conf/ give a job another configuration than it was started with.
    """
    conf = fingerprint(sweeper)
    known = {job.key: job for job in table.current}
    if sweeper.resume:
        wanted = [*wanted, *(job.overrides for job in table.current)]
    keys = {tuple(sorted(each)): each for each in wanted}
    existing = [known[key] for key in keys if key in known]
    left = ("refused", "failed") if sweeper.retry else ("refused",)
    changed = [job for job in existing if job.conf != conf and job.status not in left]
    refuse_changes(sweeper, changed, table.directory)
    for job in existing:
        job.conf = conf
    planned = []
    for key, overrides in keys.items():
        job = known.get(key) or table.add(overrides, conf)
        if sweeper.retry and key in known and job.status in ("failed", "refused"):
            again = table.add(overrides, conf)
            job.retried_as, job = again.number, again
        planned.append(job)
    return planned


def recorded_command(config: DictConfig) -> list[str]:
    """The overrides with which ``sweep.resume`` starts again."""
    overrides: Any = OmegaConf.to_container(config.hydra.overrides)  # references stay unresolved
    given = [*overrides["task"], *overrides["hydra"]]
    return [each for each in given if key_of(each) not in NOT_RECORDED]


# Changes of conf/


def fingerprint(sweeper: "GridSweeper") -> str:
    """A hash of every file that Hydra composes from."""
    digest = hashlib.sha256()
    for source in sweeper.hydra_context.config_loader.get_search_path().get_path():
        if source.path and not source.path.startswith(("pkg://", "structured://")):
            folder = Path(source.path.removeprefix("file://"))
            for path in sorted(folder.rglob("*.yaml")):
                digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def compose(sweeper: "GridSweeper", overrides: Sequence[str]) -> DictConfig:
    """The configuration of a job, without Hydra's own settings."""
    load = sweeper.hydra_context.config_loader.load_sweep_config
    cfg = load(sweeper.config, [*overrides, *sweeper.sweep_overrides])
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])


def refuse_changes(sweeper: "GridSweeper", suspects: Sequence[Job], directory: Path) -> None:
    """Composes jobs whose files have changed, and compares with what they were started with.

    Raises:
        ValueError: they differ; the message lists the keys.
    """
    changes: list[str] = []
    for job in suspects:
        before = job.directory / ".hydra" / "config.yaml"
        if not before.exists() or not (job.result or job.has_checkpoint):
            continue  # nothing was trained
        cfg = compose(sweeper, job.overrides)
        if OmegaConf.to_yaml(cfg) == before.read_text():
            continue
        found = list_changes(flat(OmegaConf.create(read_config(before))), flat(cfg))
        if lines := [f"    {key}: {change}" for key, change in found.items()]:
            changes.append("\n".join([f"  job {job.number}: {' '.join(job.overrides)}", *lines]))
    if changes:
        others = [f"  and {len(changes) - 3} others"] if len(changes) > 3 else []
        raise ValueError(
            "\n".join(
                [
                    f"conf/ has changed since jobs in {directory} were trained, and nothing in it was touched:",
                    *changes[:3],
                    *others,
                    "Undo the change, or start another sweep in another hydra.sweep.dir.",
                ]
            )
        )


# Training


def train(sweeper: "GridSweeper", table: Table, todo: Sequence[Job]) -> None:
    """Trains jobs by the launcher; one by one in this process with ``launcher=basic``."""
    progress = Progress(table.current, sweeper.total)
    if sweeper.config.hydra.runtime.choices["hydra/launcher"] == "basic":
        train_here(sweeper, todo, progress)
    elif todo:
        sweeper.launcher.train(todo, table, progress)


def train_here(sweeper: "GridSweeper", todo: Sequence[Job], progress: Progress) -> None:
    """Trains jobs in this process until each has ended, here or in another one that locked it."""
    waiting = list(todo)
    while waiting:
        for job in list(waiting):
            if not try_lock(job.directory):
                continue
            waiting.remove(job)
            try:
                if job.is_pending:
                    train_job(sweeper, job)
                    progress.end(job)
                else:
                    progress.update(job)
            finally:
                unlock(job.directory)
        if waiting:
            time.sleep(0.2)


def train_job(sweeper: "GridSweeper", job: Job, *further: str) -> None:
    """Trains a job in this process. What goes wrong is written to its result.json."""
    own = [f"hydra.sweep.subdir={job.number}", *resume_overrides(job), *further]
    try:
        run_hydra_job(sweeper, [*job.overrides, *sweeper.sweep_overrides, *own], job.number)
    except HydraException as error:
        from quartet.config.compose import explain

        why = explain(error, job.overrides)
        log.error("\n  ".join(["Refused, before the first batch:", *map(str, why.problems)]))
        record.write_failure(job.directory, "refused", why)
    except Exception as error:  # the job could not even write its own
        log.error(f"Failed: {error}")
        with suppress(OSError):
            record.write_failure(job.directory, "failed", error)


def run_hydra_job(sweeper: "GridSweeper", overrides: Sequence[str], number: int) -> None:
    """Composes and runs a job as Hydra's basic launcher does; raises what ended it."""
    context = sweeper.hydra_context
    config = context.config_loader.load_sweep_config(sweeper.config, list(overrides))
    with open_dict(config):
        config.hydra.job.id = config.hydra.job.num = number
    returned = run_job(
        hydra_context=context,
        task_function=sweeper.task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    configure_log(sweeper.config.hydra.hydra_logging, sweeper.config.hydra.verbose)
    if returned.status == JobStatus.FAILED:
        raise job_error(returned)


def check(sweeper: "GridSweeper", wanted: Sequence[list[str]]) -> None:
    """Describes each job, and leaves no file behind.

    Raises:
        SystemExit: a job is refused.
    """
    with tempfile.TemporaryDirectory() as folder:
        jobs = [Job(Path(folder) / str(n), each, "") for n, each in enumerate(wanted)]
        for job in jobs:
            print(f"job {job.number}: {' '.join(job.overrides)}", flush=True)
            train_job(sweeper, job, f"hydra.sweep.dir={folder}")
        refused = [job.number for job in jobs if job.result]
    remove_empty_directories(Path(sweeper.config.hydra.sweep.dir))
    if refused:
        abort(f"{len(refused)} of {len(jobs)} jobs would be refused.")
