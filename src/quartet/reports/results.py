"""Many runs as one table: read from their directories, seeds gathered, knobs compared.

Needs nothing but the files that runs leave, so it works during a sweep and long after.
"""

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from quartet.config.overrides import NAMED_GROUPS
from quartet.core.files import CONF
from quartet.core.messages import join_and
from quartet.records import run_directory as record
from quartet.records.sweep import REPEATED, Table

# Columns of results.csv beside the overrides and the metrics.
FIRST = ["job", "status", "reason"]
LAST = ["monitor", "mode", "best", "epoch", "epochs", "fit_seconds", "seconds"]
FULL = ["command", "directory", "data_files"]
OWN = {*FIRST, *LAST, *FULL}
# Overrides that say which rows are in which part.
DIVISIONS = tuple(
    f"data.{key}"
    for key in ("val_fraction", "test_fraction", "folds", "group", "order", "division", "keep")
)
# Settings of how a module trains, which do not change what it logs.
TRAINING_SETTING = re.compile(rf"module\.(\w+_)?({'|'.join(NAMED_GROUPS)})\.")
# Overrides that say how a sweep is run, not what a job is.
SWEEP_KEYS = ("launcher", "sweep", "hydra")


@dataclass(frozen=True)
class Results:
    """Runs and what they differ in.

    Attributes:
        jobs: A row a run: `FIRST`, a column for each override, `LAST`, a column for each metric of
            the best epoch and of the test, `FULL`.
        overrides: The columns that are overrides.
        knobs: Those of them with more than one value, the seed and the fold apart.
    """

    jobs: pd.DataFrame
    overrides: list[str]
    knobs: list[str]

    @property
    def scores(self) -> list[str]:
        """The metrics that settings are compared by: those of the test, and of held-out folds."""
        parts = ("test", "val") if "data.fold" in self.jobs else ("test",)
        return [metric for metric in self.metrics if record.split_part(metric)[0] in parts]

    @property
    def metrics(self) -> list[str]:
        known = {*FIRST, *self.overrides, *LAST, *FULL}
        return [str(column) for column in self.jobs if column not in known]

    def by_monitor(self) -> Iterator[tuple[str, str, pd.DataFrame]]:
        """Metric, mode and jobs of those that can be ranked together; most jobs first.

        A metric of None stands for jobs that monitor nothing.
        """
        metrics = self.jobs["monitor"]
        if metrics.nunique() == 1:  # then a job without a result can only have the same
            unfinished = self.jobs["status"] == "unfinished"
            metrics = metrics.mask(unfinished, metrics.dropna().iloc[0])
        # The same training again is no further repeat.
        same = self.jobs.duplicated([*self.overrides, "best"])
        same &= self.jobs["status"] == "finished"
        for metric in metrics.dropna().value_counts(sort=True).index:
            jobs = self.jobs[(metrics == metric) & ~same]
            modes = jobs["mode"].dropna()  # a job that failed early does not know it
            yield metric, str(modes.iloc[0]) if len(modes) else "min", jobs


def find(directories: Sequence[str | Path]) -> list[Path]:
    """The runs below the directories, in the order of their numbers: 9 before 10.

    Jobs of a sweep that were tried again are left out.

    Raises:
        FileNotFoundError: a directory is missing, or holds no run.
    """
    found: dict[Path, None] = {}
    for directory in map(Path, directories):
        runs = []
        for folder, inner, _ in os.walk(directory.resolve()):
            if ".hydra" in inner:
                runs.append(Path(folder))
                inner.clear()
            inner[:] = [name for name in inner if not name.startswith(".")]
        if not runs:
            what = "holds no run" if directory.is_dir() else "is no directory"
            examples = "a sweep, such as multirun/DATE/TIME, or runs, such as outputs/DATE/TIME"
            raise FileNotFoundError(f"{directory} {what}; name {examples}.")
        tables = [Table(sweep) for sweep in {run.parent for run in runs}]
        jobs = [job for table in tables for job in table.jobs.values()]
        again = {job.directory for job in jobs if job.retried_as is not None}
        runs = [run for run in runs if run not in again or run == directory.resolve()]
        runs.sort(key=lambda run: [(len(part), part) for part in run.parts])
        found |= dict.fromkeys(runs)
    return list(found)


def read(directories: Sequence[str | Path]) -> Results:
    """Reads the runs in the directories, finished or not.

    A value that only some runs were given is looked up in the configuration of the others.

    Raises:
        FileNotFoundError: a directory is missing, or holds no run.
    """
    runs = find(directories)
    base = Path(os.path.commonpath([run.parent for run in runs]))
    rows, all_given = [], []
    for run in runs:
        row, given = one(run)
        rows.append({"job": str(run.relative_to(base)), **row})
        all_given.append(given)
    keys = list(dict.fromkeys(key for given in all_given for key in given))
    experiments = {given["experiment"] for given in all_given if "experiment" in given}
    if len(experiments) > 1:  # what they set tells them apart
        keys += [k for k in map_experiments(experiments) if k not in keys]
    for row, given, run in zip(rows, all_given, runs, strict=True):
        row["given"] = given
        with marked_as_damaged(row):
            row["given"] = given | look_up(run, [key for key in keys if key not in given])
    # A fork may have a setting called epochs, and a module log a value called optimizer.
    names = {key: f"override {key}" if key in OWN else key for key in keys}
    table = pd.DataFrame([row.pop("given") for row in rows], columns=keys).rename(columns=names)
    table = table.apply(numbers).rename_axis(columns=None)
    overrides = [str(key) for key in table]
    knobs = [k for k in overrides if k not in REPEATED and table[k].nunique(dropna=False) > 1]
    frame = pd.DataFrame(rows)
    metrics = [c for c in frame if c not in OWN and c not in keys]
    jobs = pd.concat([frame[FIRST], table, frame[LAST], frame[metrics], frame[FULL]], axis=1)
    return Results(jobs, overrides, knobs)


@contextmanager
def marked_as_damaged(row: dict[str, Any]) -> Iterator[None]:
    """Gives a run the status damaged, which no ranking counts, if a file of it cannot be read."""
    try:
        yield
    except ValueError as error:
        row |= {"status": "damaged", "reason": str(error)}


def one(run: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """A run's row, and its overrides."""
    row: dict[str, Any] = {"status": "unfinished", "reason": None}
    task: list[str] = []
    result, history = record.initial_result(), read_history(run)
    with marked_as_damaged(row):
        task = overrides_of(run)
        if (run / "result.json").exists():
            result = record.load_result(run)
            row["status"] = result["status"]
    monitor, seconds, error = result["monitor"], result["seconds"], result["error"]
    given = dict(split(each) for each in task)
    if error:
        row["reason"] = f"{error.get('type')}: {error.get('message')}"
    row |= {
        "monitor": monitor["metric"],
        "mode": monitor["mode"],
        "best": monitor["best"],
        "epoch": monitor["epoch"],
        "epochs": int(history.index.max()) if len(history) else 0,
        "fit_seconds": seconds["fit"],
        "seconds": seconds["total"],
        **{key: value for key, value in result["metrics"].items() if key not in OWN},
        "command": shlex.join(["python", "train.py", *task]),
        "directory": nearest(run),
        "data_files": result["data_files"],
    }
    if "seed" not in given and result["status"]:
        given["seed"] = str(result["seed"])
    return row, given


def overrides_of(run: Path) -> list[str]:
    """Overrides of the run's command line, without those of the sweep alone.

    The length is that of the last resume, if it has changed.
    """
    overrides: Any = []
    if (path := run / ".hydra" / "overrides.yaml").exists():
        overrides = record.read_file(path) or []
    elif (path := run / ".hydra" / "hydra.yaml").exists():  # a run from Python
        overrides = select(record.read_file(path), "hydra.overrides.task") or []
    if not isinstance(overrides, list) or not all(isinstance(each, str) for each in overrides):
        raise ValueError(f"{path}: holds no list of overrides.")
    given = [each for each in overrides if split(each)[0].split(".")[0] not in SWEEP_KEYS]
    if len(starts := record.list_configs(run)) > 1:
        first, last = record.read_file(starts[0]), record.read_file(starts[-1])
        changed = {k: select(last, k) for k in record.LENGTH if select(last, k) != select(first, k)}
        given = [each for each in given if split(each)[0] not in changed]
        for key, value in changed.items():
            given.append(f"{key}=" + ("null" if value is None else str(value).replace("'", "")))
    return given


def map_experiments(names: Iterable[str]) -> dict[str, None]:
    """The groups and dotted keys that experiments of conf/ set."""
    found: dict[str, None] = {}
    for name in sorted(names):
        if not (file := CONF / "experiment" / f"{name}.yaml").is_file() or "/" in name:
            continue
        content = record.read_file(file) or {}
        for default in content.pop("defaults", []):
            if isinstance(default, dict):
                found |= {key.removeprefix("override /"): None for key in default}
        content.pop("hydra", None)
        found |= dict.fromkeys(key for key, _ in record.flatten(content))
    return found


def split(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key.lstrip("+"), value


def select(config: Any, key: str) -> Any:
    """The value of a dotted key in nested mappings, or None."""
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config


def look_up(run: Path, keys: Sequence[str]) -> dict[str, str]:
    """Values of keys that were not given, from the configuration that Hydra recorded."""
    folder, found = run / ".hydra", {}
    if not keys or not (folder / "config.yaml").exists():
        return {}
    config, choices = record.read_file(folder / "config.yaml"), {}
    if (folder / "hydra.yaml").exists():
        choices = select(record.read_file(folder / "hydra.yaml"), "hydra.runtime.choices")
    for key in keys:
        value = (choices if isinstance(choices, dict) else {}).get(key, select(config, key))
        if value is not None and not isinstance(value, dict):
            found[key] = str(value)
    return found


def read_history(run: str | Path) -> pd.DataFrame:
    """Reads metrics.csv, by epoch; the last line is left out while it is half written.

    What is no number is NaN; rows without a whole number of an epoch are left out.
    """
    path = Path(run) / "metrics.csv"
    lines = path.read_text(errors="replace").rpartition("\n")[0] if path.is_file() else ""
    return parse_history(lines).copy()


@lru_cache(1000)  # a report reads the history of each job three times
def parse_history(lines: str) -> pd.DataFrame:
    """Parses the lines of metrics.csv; a table without rows if they are none."""
    try:
        table: Any = pd.read_csv(StringIO(lines)).apply(pd.to_numeric, errors="coerce")
        rows = table[table["epoch"] % 1 == 0].astype({"epoch": int})
        history: pd.DataFrame = rows.groupby("epoch").last()
    except (ValueError, KeyError):  # it is empty, no table, or has no epochs
        return pd.DataFrame()
    return history


def nearest(run: Path) -> str:
    """The path for the commands, relative to the working directory if that is the project's."""
    run, here = run.resolve(), Path.cwd()
    at_home = (here / "evaluate.py").is_file() and run.is_relative_to(here)
    return str(run.relative_to(here) if at_home else run)


def numbers(column: pd.Series) -> pd.Series:
    """The column as numbers, if all of it is."""
    try:
        return pd.to_numeric(column)
    except (ValueError, TypeError):
        return column


def gather(jobs: pd.DataFrame, by: Sequence[str], value: str = "best") -> pd.DataFrame:
    """Mean, sd (of a sample), 95 % interval (Student's t) and n of each setting, over its seeds and folds.

    Only finished jobs count; `of` is the number of all.

    Returns:
        A row a setting, with columns mean, sd, low, high, n, of; an interval needs two values.
    """
    done = jobs[jobs["status"] == "finished"]
    keys: Any = list(by) if by else (lambda _: 0)
    groups = done.groupby(keys, dropna=False, sort=True)[value].agg(["mean", "std", "count"])
    groups = groups.set_axis(["mean", "sd", "n"], axis=1)
    half = stdtrit((groups["n"] - 1).clip(lower=1), 0.975) * groups["sd"] / np.sqrt(groups["n"])
    groups = groups.assign(low=groups["mean"] - half, high=groups["mean"] + half)
    groups["of"] = jobs.groupby(keys, dropna=False).size()
    return groups[["mean", "sd", "low", "high", "n", "of"]]


def rank(results: Results, metric: str) -> pd.DataFrame:
    """Settings, the best mean first, each with its seeds and folds gathered.

    Returns:
        The knobs as columns, then those of `gather`, the means of the scores and of the
        seconds, `runs`: the directories, and `winner`: the index of the best job. Settings without
        a value come last.
    """
    _, mode, jobs = next(each for each in results.by_monitor() if each[0] == metric)
    knobs = results.knobs
    table = gather(jobs, knobs)
    done = jobs[jobs["status"] == "finished"]
    keys: Any = knobs or (lambda _: 0)
    groups = done.groupby(keys, dropna=False, sort=True)
    for column in [*results.scores, "seconds"]:
        table[column] = groups[column].mean()
    table["runs"] = groups["directory"].agg(list)
    ordered = done.dropna(subset="best").sort_values("best", ascending=mode != "max", kind="stable")
    winners = ordered.reset_index(names="winner").groupby(keys, dropna=False, sort=True)["winner"]
    table["winner"] = winners.first()
    table = table.sort_values("mean", ascending=mode != "max", kind="stable", na_position="last")
    return table.reset_index(drop=not knobs)


def cautions(jobs: pd.DataFrame, metric: str, knobs: Sequence[str] = ()) -> list[str]:
    """Reasons why values of the metric may not be comparable over the finished jobs that monitor it.

    Knobs are the columns that tell the settings apart.
    """
    jobs = jobs[jobs["status"] == "finished"]
    varied = [str(key) for key in jobs if jobs[key].map(str).nunique() > 1]
    config: Any = {}
    with suppress(ValueError, IndexError):
        config = record.read_file(Path(jobs["directory"].iloc[0]) / ".hydra" / "config.yaml")
    metrics = list(select(config, "metrics") or {})
    data = [key for key in varied if key in ("data", "data/task", "data.path")]
    divided = [key for key in varied if key in DIVISIONS]
    owner = find_owner(metric, metrics)
    if owner or not (config or record.split_part(metric)[1] == "loss"):
        groups = ["metrics", f"metrics.{owner}"]
        changing = [key for key in varied if key in groups or key.startswith(f"{groups[1]}.")]
    else:  # a loss, or a value that the module logs
        groups = ["loss", "module"]
        if select(config, "loss") and not select(config, "loss._target_"):
            groups.append("model")  # which computes its own loss
        own = [key for key in varied if key.split(".")[0] in groups]
        changing = [key for key in own if not TRAINING_SETTING.match(key)]
        changing += [key for key in varied if key.startswith("data.") and "target" in key]
    found = []
    if missing := int(jobs["best"].isna().sum()):
        message = f"{missing} of the {len(jobs)} finished jobs never had a number as {metric}, and"
        found.append(f"{message} no mean counts them; metrics.csv shows since when.")
    if changing:
        message = f"{differ(changing)}, so {metric} may not mean the same in all of them"
        found.append(f"{message}; {suggest_others(jobs, metric, metrics)}")
    if data:
        message = f"{metric} on one data set says little about another; compare within each"
        found.append(f"{differ(data)}: {message}.")
    places: Any = [key for key in jobs if re.fullmatch(r"data(\..*path|\.keep)?", str(key))]
    files = jobs.groupby(places or (lambda _: 0), dropna=False)["data_files"]
    if (files.nunique() > 1).any():
        message = f"the files of the data have changed between these jobs, so {metric} is not of"
        way_out = "compare within each value of data_files in results.csv"
        found.append(f"{message} the same data in all of them; train all anew, or {way_out}.")
    if divided:
        message = "so their parts have other rows: the difference may be that of the rows"
        found.append(f"{differ(divided)}, {message}.")
    settings = jobs.groupby(list(knobs) or (lambda _: 0), dropna=False)
    counts = settings[[key for key in REPEATED if key in jobs]].nunique().max()
    counts = counts[counts > 1]
    if len(counts) > 1 and settings.size().max() > counts.max():  # each with each
        repeats = join_and([f"{n} values of {key}" for key, n in counts.items()])
        message = f"a setting has {repeats}: jobs that share one are not independent, and the"
        way_out = f"compare the means, or vary {counts.index[-1]} alone"
        found.append(f"{message} interval, which takes them so, is too narrow; {way_out}.")
    return found


def differ(keys: Sequence[str]) -> str:
    return f"{join_and(keys)} {'differs' if len(keys) == 1 else 'differ'} between these jobs"


def find_owner(value: str, metrics: Sequence[str]) -> str | None:
    """The metric that logs a value such as val/accuracy or val/accuracy_cat; None for a loss."""
    name = record.split_part(value)[1]
    return next((each for each in metrics if name == each or name.startswith(f"{each}_")), None)


def suggest_others(jobs: pd.DataFrame, metric: str, metrics: Sequence[str]) -> str:
    """Names values that these jobs have logged beside a metric; the metrics' before the losses'."""
    logged = [str(key) for key in jobs if jobs[key].notna().any()]
    parts = {"val", record.split_part(metric)[0]} - {""}
    others = [key for key in logged if record.split_part(key)[0] in parts and key != metric]
    others = [key for key in others if find_owner(key, metrics)] or [
        key for key in others if record.split_part(key)[1] != "loss"
    ]
    if not others:
        return "they log no other value to compare; log one that means the same in all."
    return f"compare one that does, such as monitor.metric={others[0]}."
