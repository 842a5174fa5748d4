"""The report of a sweep: results.csv and report.html, made from the files of its runs."""

import math
import os
import re
import shlex
from collections.abc import Sequence
from datetime import datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined

from quartet.core import files
from quartet.core.messages import cut, redact
from quartet.reports import figures
from quartet.reports.results import Results, cautions, gather, rank, read, read_history

GROUPS = 8  # of learning curves in one picture
SETTINGS = 20  # with their intervals in one picture
PAIRS = 6  # heat maps
MARK = "<!-- made from the files of the runs; made anew, it is replaced -->"


def report(directories: Sequence[str | Path], into: str | Path | None = None) -> Path:
    """Writes results.csv and report.html over runs, and prints the best and how to get it again.

    Args:
        directories: Sweeps or runs, finished or under way.
        into: The folder of the two files. By default the directory, or what several have in common.

    Returns:
        The path of report.html.

    Raises:
        FileNotFoundError: a directory is missing, or holds no run.
        FileExistsError: the folder holds a results.csv or report.html that is not a report's.
    """
    results = read(directories)
    if into is None:
        into = os.path.commonpath([Path(each).resolve() for each in directories])
    table, page = Path(into) / "results.csv", Path(into) / "report.html"
    for path, start in ((table, "job,status,reason,"), (page, MARK)):
        if path.exists() and not path.read_text(errors="replace")[:200].startswith(start):
            message = "is not a report's, and was not touched; move it, or name another folder"
            raise FileExistsError(f"{path} {message} with --into.")
    title = Path(directories[0]).resolve() if len(directories) == 1 else Path(into).resolve()
    page.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomic(table, results.jobs.to_csv(index=False).encode())
    files.write_atomic(page, render(results, str(title)).encode())
    print(redact(summary(results)))
    for path in (table, page):
        print(os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd()) else path)
    return page


def commands(job: "pd.Series[Any]") -> tuple[str, str]:
    """Commands that train a job again and evaluate its checkpoint."""
    return job["command"], f"python evaluate.py {shlex.quote('run=' + job['directory'])}"


def summary(results: Results, most: int = 5) -> str:
    """The head of each ranking and the commands of its winner, for the terminal."""
    lines = []
    for metric, mode, jobs in results.by_monitor():
        ranking = rank(results, metric)
        if not ranking["mean"].notna().any():
            continue
        rows = [row for _, row in ranking.head(most).iterrows()]
        head = pd.DataFrame(
            {
                "setting": [setting(row, results.knobs) for row in rows],
                metric: list(map(plus_minus, rows)),
                repeats(jobs): list(map(seeds, rows)),
            },
            index=pd.RangeIndex(1, len(rows) + 1),
        )
        order = "higher" if mode == "max" else "lower"
        lines += ["", f"The best of {len(ranking)} by {metric}, {order} is better:"]
        lines += [f"Caution: {caution}" for caution in cautions(jobs, metric, results.knobs)]
        lines += [head.to_string(), "", "The winner again, and its score:"]
        lines += [f"  {line}" for line in commands(results.jobs.loc[ranking["winner"].iloc[0]])]
    lines = lines or ["No job has finished with a value to rank by."]
    damaged = results.jobs.loc[results.jobs["status"] == "damaged", "reason"]
    return "\n".join([*lines, *(f"Left out: {reason}" for reason in damaged.head(most))])


def setting(row: "pd.Series[Any]", knobs: Sequence[str], length: int = 60) -> str:
    """The values of the knobs in words; a search leaves out those that an option does not have."""
    text = ", ".join(f"{k}={figures.label(row[k])}" for k in knobs if pd.notna(row[k]))
    return cut(text or "the only setting", length)


def short(row: "pd.Series[Any]", knobs: Sequence[str], named: bool) -> str:
    """The values alone, or those of single arguments with the last word of their names."""
    given = {knob: figures.label(row[knob]) for knob in knobs if pd.notna(row[knob])}
    return ", ".join(
        f"{knob.rpartition('.')[2]}={value}" if named and "." in knob else value
        for knob, value in given.items()
    )


def plus_minus(row: "pd.Series[Any]") -> str:
    return f"{row['mean']:.4g}" + (f" ± {row['sd']:.2g}" if row["sd"] == row["sd"] else "")


def seeds(row: "pd.Series[Any]") -> str:
    return f"{row['n']:.0f}" if row["n"] == row["of"] else f"{row['n']:.0f} of {row['of']:.0f}"


def repeats(jobs: pd.DataFrame) -> str:
    """What the jobs of a setting are: seeds or folds, or jobs if both vary."""
    if "data.fold" not in jobs:
        return "seeds"
    return "jobs" if "seed" in jobs and jobs["seed"].nunique() > 1 else "folds"


def render(results: Results, title: str) -> str:
    """The page over these runs."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["cell"] = cell
    jobs = results.jobs
    with mpl.rc_context(figures.PAGE_STYLE):
        parts = [part(results, *group) for group in results.by_monitor()]
    template = environment.from_string(Path(__file__).with_name("page.html").read_text())
    return template.render(
        mark=MARK,
        title=title,
        time=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        statuses=jobs["status"].value_counts().to_dict(),
        parts=parts,
        knobs=results.knobs,
        numeric=[k for k in results.knobs if pd.api.types.is_numeric_dtype(jobs[k])],
        constants=[
            f"{key}={figures.label(jobs[key].iloc[0], 60)}"
            for key in results.overrides
            if key not in results.knobs and jobs[key].nunique(dropna=False) == 1
        ],
        silent=int((jobs["monitor"].isna() & (jobs["status"] == "finished")).sum()),
        jobs=jobs.to_dict("records"),
        tests=results.scores,
        runs=repeats(jobs),
        failures=failures(jobs),
    )


def failures(jobs: pd.DataFrame) -> list[dict[str, Any]]:
    """Reasons why jobs did not finish, the most frequent first, with the jobs."""
    bad = jobs[jobs["status"] != "finished"].fillna({"reason": ""}).astype({"job": str})
    groups = bad.groupby(["status", "reason"], sort=False)["job"].agg(list)
    found: list[Any] = groups.rename("jobs").reset_index().to_dict("records")
    return sorted(found, key=lambda each: -len(each["jobs"]))


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if value is None or value != value:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if value == int(value) and abs(value) < 1e6 else f"{value:.4g}"
    return str(value)


def part(results: Results, metric: str, mode: str, jobs: pd.DataFrame) -> dict[str, Any]:
    """Values of the template for the jobs that monitor one metric."""
    done = jobs[(jobs["status"] == "finished") & np.isfinite(jobs["best"].astype(float))]
    content: dict[str, Any] = {"metric": metric, "mode": mode, "ranked": [], "winner": None}
    content |= {"cautions": cautions(jobs, metric, results.knobs), "finished": len(done)}
    if done.empty:
        return content
    ranking = rank(results, metric)
    winner = jobs.loc[ranking["winner"].iloc[0]]
    knobs = [knob for knob in results.knobs if done[knob].nunique(dropna=False) > 1]
    named = bool(ranking[knobs].isna().any(axis=None))  # else the legend says which
    names = [
        f"{place}. " + (short(row, knobs, named) or "the only one")
        for place, (_, row) in enumerate(ranking.iterrows(), start=1)
    ]
    ranked = ranking.assign(name=names, seeds=[seeds(row) for _, row in ranking.iterrows()])
    comparable = ranked[np.isfinite(ranked["mean"])].head(SETTINGS)
    content |= {
        "ranked": ranked.to_dict("records"),
        "lacking": bool((ranked["n"] < ranked["of"]).any()),
        "legend": "" if named else ", ".join(knobs),
        "name": setting(ranking.iloc[0], results.knobs, 400),
        "plus_minus": plus_minus(ranking.iloc[0]),
        "winner": winner.to_dict(),
        "train": commands(winner)[0],
        "evaluate": commands(winner)[1],
        "intervals": figures.intervals(comparable, metric) if len(comparable) > 1 else None,
        "curves": learning_curves(ranking, names, metric),
        "effects": effects(done, knobs, metric),
        "pairs": pairs(done, knobs, metric, mode),
        "search": search_history(done, knobs, metric, mode),
    }
    return content


def learning_curves(ranking: pd.DataFrame, names: Sequence[str], metric: str) -> list[str]:
    """A picture of the monitored metric, and one of its counterpart in training where logged."""
    drawn = []
    drawn_runs = list(zip(ranking["runs"], names, strict=True))[:GROUPS]
    histories = {run: read_history(run) for runs, _ in drawn_runs for run in runs}
    for column in dict.fromkeys([metric, re.sub(r"^val(?=[/_])", "train", metric)]):
        groups = {}
        for runs, name in drawn_runs:
            there = [run for run in runs if column in histories[run]]
            table = pd.DataFrame({run: histories[run][column] for run in there})
            if table.notna().any(axis=None):
                groups[name] = table
        if groups:
            drawn.append(figures.curves(groups, column))
    return drawn


def effects(jobs: pd.DataFrame, knobs: Sequence[str], metric: str) -> list[str]:
    """A picture for each knob; of many options the most used are drawn."""
    drawn = []
    for knob in knobs:
        with_it = jobs.dropna(subset=knob)  # a search gives some options settings of their own
        if with_it[knob].nunique() < 2:
            continue
        means = gather(with_it, [knob])
        if not figures.is_scattered(means.index):
            means = means.loc[means["n"].nlargest(figures.MANY).index]
            means = means.sort_index(key=figures.natural)
        drawn.append(figures.effect(with_it, knob, means, metric))
    return drawn


def pairs(jobs: pd.DataFrame, knobs: Sequence[str], metric: str, mode: str) -> dict[str, Any]:
    """Heat maps of pairs of knobs with few values each."""
    few = [knob for knob in knobs if jobs[knob].nunique() <= figures.MANY]
    drawn: list[str] = []
    count = 0
    for down, across in combinations(few, 2):
        with_both = jobs.dropna(subset=[down, across])
        if min(with_both[down].nunique(), with_both[across].nunique()) < 2:
            continue
        count += 1
        if len(drawn) < PAIRS:
            table = gather(with_both, [down, across])["mean"].unstack()
            table = table.sort_index(key=figures.natural).sort_index(axis=1, key=figures.natural)
            drawn.append(figures.heat(table, metric, lower_is_better=mode != "max"))
    return {"drawn": drawn, "all": count}


def search_history(jobs: pd.DataFrame, knobs: Sequence[str], metric: str, mode: str) -> str | None:
    """The history, where many numbers or few combinations show that the jobs are of a search."""
    values = [jobs[knob].unique() for knob in knobs]
    settings = len(jobs.drop_duplicates(list(knobs))) if knobs else 1
    sparse = 2 * settings < math.prod(map(len, values))
    if len(jobs) < 10 or not (sparse or any(figures.is_scattered(pd.Index(v)) for v in values)):
        return None
    return figures.progress(list(jobs["best"]), metric, mode)
