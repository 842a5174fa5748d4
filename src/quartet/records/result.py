"""The files of a run's directory that tell what it was and what came of it."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from quartet.config import allow, signatures
from quartet.core import files, processes, redaction
from quartet.records.run_directory import commit_record, holds_run, records

if TYPE_CHECKING:
    from quartet.build import Run

PACKAGES = ("torch", "torchvision", "torchmetrics", "lightning", "hydra-core", "numpy")
Setting = bool | int | float | str
# Of a configuration: what does not change what is trained, or is not yet what a run does.
EXCLUDED_FROM_HPARAMS = (
    "directory",
    "check",
    "resume",
    "metrics",
    "logger",
    "sweep",
    "launcher",
    "hydra",
)
UNTOLD_WITHIN = ("search", "tasks")
KEEPING = ("best", "last", "progress_bar")  # callbacks


def empty_result() -> dict[str, Any]:
    """result.json of a run of which not even the configuration is known."""
    return {
        "status": None,
        "monitor": {"metric": None, "mode": None, "best": None, "epoch": None},
        "metrics": {},
        "checkpoints": {"best": None, "last": None},
        "choices": {},
        "seed": None,
        "seconds": {"fit": None, "total": None},
        "samples_per_second": None,
        "error": None,
    }


def initial_result(cfg: DictConfig) -> dict[str, Any]:
    """result.json of a run that has nothing to tell yet."""
    result = empty_result() | {"seed": cfg.seed}
    result["monitor"] |= {"metric": cfg.monitor.metric, "mode": cfg.monitor.mode}
    if "hydra" in cfg:
        choices: Any = OmegaConf.to_container(cfg.hydra.runtime.choices)
        result["choices"] = group_choices(choices)
    return result


def group_choices(choices: Mapping[str, Any]) -> dict[str, Any]:
    """The choices that say what a run is, not how Hydra starts it."""
    return {
        key: value
        for key, value in choices.items()
        if key not in ("sweep", "launcher") and not key.startswith("hydra")
    }


def failure(status: str, error: BaseException, cfg: DictConfig | None) -> dict[str, Any]:
    """What result.json says of a run that did not finish."""
    message = redaction.redact(str(error))
    return {"status": status, "error": {"type": type(error).__name__, "message": message}}


def summary(run: "Run") -> dict[str, Any]:
    """What the epochs came to: the best of them, its figures and checkpoint."""
    from quartet.records.loggers import MetricsCSV

    history = next(logger for logger in run.trainer.loggers if isinstance(logger, MetricsCSV)).rows
    metric, mode = run.config["monitor"]["metric"], run.config["monitor"]["mode"]
    # Without a monitored value the last checkpoint is the one that counts.
    rows = [row for row in history if metric in row] or history[-1:]
    best = rows[-1]
    if metric:
        best = (min if mode == "min" else max)(rows, key=lambda row: row[metric])
    files = [(name, f"checkpoints/{name}.ckpt") for name in ("best", "last")]
    return {
        "monitor": {
            "metric": metric,
            "mode": mode,
            "best": best[metric] if metric else None,
            "epoch": best["epoch"],
        },
        "metrics": {k: v for k, v in best.items() if "/" in k},
        "checkpoints": {
            name: path if (run.directory / path).exists() else None for name, path in files
        },
    }


def write_result(directory: Path, result: Mapping[str, Any]) -> None:
    """Writes result.json whole or not at all, even if power fails."""
    directory.mkdir(parents=True, exist_ok=True)
    files.write_atomic(directory / "result.json", as_json(result))


def as_json(content: Mapping[str, Any]) -> bytes:
    return f"{json.dumps(content, indent=2)}\n".encode()


def write_new(directory: Path, name: str, content: Mapping[str, Any]) -> Path:
    """Writes a JSON file under this name, or with -1, -2, ... where there is one already."""
    for path in files.numbered_paths(directory / name):
        try:
            with naming(path), path.open("x") as file:
                json.dump(content, file, indent=2)
        except FileExistsError:
            continue
        return path
    raise AssertionError("there is always a next number")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Has an error of the system say which file it is about, which a full disk does not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def is_taken(directory: Path) -> bool:
    """Whether a directory holds a run, other than the job of Hydra's that is under way in it."""
    if by_hydra(directory) or processes.process_rank() > 0:
        return False  # `sweep.Directory` has seen to it
    return holds_run(directory)


def by_hydra(directory: Path) -> bool:
    """Whether a job of Hydra's is under way in a directory, and Hydra keeps its record."""
    # A notebook that swept before: Hydra leaves the last job's config behind.
    job: Any = HydraConfig.instance().cfg or OmegaConf.create()
    output = OmegaConf.select(job, "hydra.runtime.output_dir")
    return output is not None and Path(output).resolve() == directory.resolve()


def write_logged_runs(run: "Run") -> None:
    """Notes in loggers.json under which names services like MLflow keep this run.

    A run that goes on is then logged to the same, by `logged_run`.
    """
    if not run.trainer.is_global_zero:
        return
    named = [name for name, node in run.config["logger"].items() if node]
    loggers = run.trainer.loggers[1:]  # the first is metrics.csv
    found = {}
    for name, logger in zip(named, loggers, strict=True):
        argument = run_argument(run.config["logger"][name])
        if argument:
            _ = logger.experiment  # type: ignore[attr-defined]  # begins it
            found[name] = {argument: logger.version}
    if found:
        files.write_atomic(run.directory / "loggers.json", as_json(found))


def logged_run(directory: Path, name: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with which a logger of a run that goes on finds what it has logged."""
    path, argument = directory / "loggers.json", run_argument(node)
    if argument is None or node.get(argument) is not None or not path.exists():
        return {}
    known = json.loads(path.read_text()).get(name, {})
    return {argument: str(known[argument])} if argument in known else {}


def hyperparameters(
    config: Mapping[str, Any], cfg: DictConfig, choices: Mapping[str, Any]
) -> dict[str, Setting]:
    """What a run is, as loggers list it: ``optimizer: adam``, ``optimizer.lr: 0.002`` and so on.

    Left out is what is not set. A value from the environment is the reference that stands for it.

    Args:
        config: With everything filled in.
        cfg: The same as it was written.
        choices: The options of the groups.
    """
    told: list[tuple[str, Setting]] = [
        (group, str(option)) for group, option in choices.items() if option
    ]
    told += leaves("", config)
    written = dict(leaves("", OmegaConf.to_container(cfg, resolve=False)))
    found = redaction.find_secrets()
    return {
        name: references(value, written.get(name), found)
        for name, value in told
        if name.split(".")[0] not in EXCLUDED_FROM_HPARAMS
    }


def leaves(name: str, value: Any) -> Iterator[tuple[str, Setting]]:
    """Names and values of a nested mapping, as far as its keys can be parts of a dotted name."""
    if isinstance(value, Mapping) and all(str(key).isidentifier() for key in value):
        for key, part in value.items():
            if key not in UNTOLD_WITHIN and not (name == "callbacks" and key in KEEPING):
                yield from leaves(f"{name}.{key}" if name else key, part)
    elif isinstance(value, bool | int | float | str):
        yield name, value
    elif value:
        yield name, str(value)


def references(
    value: Setting, written: Setting | None, found: Sequence[tuple[str, str]]
) -> Setting:
    """A value, or the reference to the environment by which it was written."""
    if "${oc.env:" in str(written):
        return str(written)
    return redaction.replace(value, found) if isinstance(value, str) else value


def run_argument(node: Mapping[str, Any]) -> str | None:
    """The argument of a logger that names what it goes on with: MLflow's run_id, id of W&B."""
    taken = signatures.hints(allow.locate(node["_target_"]))
    return next((argument for argument in ("run_id", "id") if argument in taken), None)


@cache
def describe_environment(folder: Path) -> dict[str, Any]:
    """The commit of a folder, the machine and the packages, asked for once (14 ms a job)."""

    def git(*arguments: str) -> str | None:
        try:
            # Some repositories have programs of their own called.
            line = ["git", "-c", "core.fsmonitor=false", *arguments]
            done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=folder)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    changes = git("status", "--porcelain")
    return {
        "git": {
            "commit": git("rev-parse", "HEAD"),
            "dirty": None if changes is None else bool(changes),
        },
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def write_environment(cfg: DictConfig, run: "Run") -> None:
    """Writes environment.json, and Hydra's record where Hydra did not (a run from Python).

    A run that goes on adds environment-1.json, and its own record.
    """
    if not by_hydra(run.directory):
        describe_environment.cache_clear()  # a notebook outlives many commits
    environment = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "device": str(run.trainer.strategy.root_device),
        **describe_environment(Path.cwd()),
    }
    run.directory.mkdir(parents=True, exist_ok=True)
    write_new(run.directory, "environment.json", environment)
    if by_hydra(run.directory):
        subdir = HydraConfig.get().output_subdir
        if subdir:
            commit_record(run.directory / subdir)
    else:
        told = records(run.directory)
        folder = run.directory / ".hydra" / (f"resume-{len(told)}" if told else "")
        folder.mkdir(parents=True, exist_ok=True)
        keys = [str(key) for key in cfg if key != "hydra"]
        OmegaConf.save(OmegaConf.masked_copy(cfg, keys), folder / "config.yaml")
        if "hydra" in cfg:
            OmegaConf.save(OmegaConf.masked_copy(cfg, ["hydra"]), folder / "hydra.yaml")
