"""No default is a trap: every optimizer, scheduler, loss and model, with its defaults, learns.

    python scripts/defaults.py [--only optimizer scheduler loss model] [--seeds 3]

Takes 13 minutes on one core, nine of them for model=torchvision. Prints a table and exits with 1 if
an option fails its bar. Each option is trained for the default number of epochs, all else being
default, and scored on the test part:

- classification: an accuracy of at least 0.95 with every seed; for binary losses 0.93, as a standard
  error of the 114 test rows of breast_cancer is 0.02;
- regression: an R2 of at least 0.2 with every seed, and a mean absolute error of at most 0.9 times
  that of always predicting the mean, whose R2 is 0. The best linear fit reaches 0.34 on these test
  rows of diabetes, a random forest 0.28;
- ranking: an nDCG@10 of at least 0.2 above that of a random order with every seed.
"""

import argparse
import contextlib
import io
import math
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning import seed_everything
from omegaconf import OmegaConf
from torchmetrics.retrieval import RetrievalNormalizedDCG
from tqdm import tqdm

from quartet.build import build, compose
from quartet.core.files import CONF
from quartet.run import train

DATA = {"multiclass": "digits", "binary": "breast_cancer", "regression": "diabetes"}
DATA["ranking"] = "ranking"
GROUPS = ("optimizer", "scheduler", "loss", "model")


def cells(group: str) -> Iterator[tuple[str, str]]:
    """Every option of a group with the data to train it on; a loss with the data of each task."""
    for path in sorted((CONF / group).glob("*.yaml")):
        tasks = OmegaConf.select(OmegaConf.load(path), "tasks") or ["multiclass"]
        tasks = tasks[:1] if "multiclass" in tasks else tasks
        yield from ((path.stem, DATA[task]) for task in tasks if task in DATA)


def score(option: str, data: str, seed: int) -> dict[str, Any]:
    """The test figures of one training."""
    overrides = [option, f"data={data}", f"seed={seed}", "callbacks.progress_bar=null"]
    with tempfile.TemporaryDirectory() as directory, contextlib.redirect_stdout(io.StringIO()):
        figures: dict[str, Any] = train(compose(overrides), Path(directory) / "run")["metrics"]
    return figures


def blind(data: str) -> float:
    """Without the inputs: the absolute error of the mean, or the nDCG@10 of a random order."""
    parts = build(compose([f"data={data}"])).data.load()
    _, targets, *indexes = parts.test.tensors  # type: ignore[union-attr]
    if data == "diabetes":
        assert parts.target_scale is not None
        return float(targets.abs().mean() * parts.target_scale[1])
    seed_everything(0, verbose=False)
    ndcg = RetrievalNormalizedDCG(top_k=10)
    return statistics.fmean(
        float(ndcg(torch.rand(len(targets)), targets.squeeze(1), indexes=indexes[0]))
        for _ in range(20)
    )


def judge(data: str, runs: list[dict[str, Any]], floor: float) -> tuple[list[float], str, bool]:
    """The figure for each seed, a remark, and whether the seeds reach the bar."""
    if data == "diabetes":
        values = [run["test/r2"] for run in runs]
        ratio = statistics.fmean(run["test/mae"] for run in runs) / floor
        return values, f", MAE {short(ratio, 2)}", min(values) >= 0.2 and ratio <= 0.9
    if data == "ranking":
        values = [run["test/ndcg"] for run in runs]
        return values, "", min(values) >= floor + 0.2
    values = [run["test/accuracy"] for run in runs]
    return values, "", min(values) >= (0.93 if data == "breast_cancer" else 0.95)


def short(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}".lstrip("0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the models are small
    work = [(group, *cell) for group in arguments.only for cell in cells(group)]
    floors = {data: blind(data) for data in {data for *_, data in work} & {"diabetes", "ranking"}}
    figures = {
        "diabetes": "R2, at least .2; mean absolute error, at most .9 of the mean predictor's",
        "ranking": f"nDCG@10, at least .2 above a random order's {short(floors.get('ranking', 0), 2)}",
        "breast_cancer": "accuracy, at least .93",
        "digits": "accuracy, at least .95",
    }
    rows: dict[tuple[str, str], list[str]] = {}
    failed = 0
    for group, option, data in tqdm(work, unit="option"):
        runs = [score(f"{group}={option}", data, seed) for seed in range(arguments.seeds)]
        values, remark, holds = judge(data, runs, floors.get(data, math.nan))
        failed += not holds
        verdict = "" if holds else " **fails**"
        cell = f"{option} {short(statistics.fmean(values))} ({short(min(values))}{remark}){verdict}"
        rows.setdefault((group, data), []).append(cell)
        tqdm.write(f"{group}, {data}: {cell}", file=sys.stderr)
    print(f"| each | on, figure | mean over {arguments.seeds} seeds (the worst) |\n|---|---|---|")
    for (group, data), found in rows.items():
        print(f"| {group} | {data}: {figures[data]} | {', '.join(found)} |")
    print(f"\n{len(work) - failed} of {len(work)} options learn with their defaults.")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
