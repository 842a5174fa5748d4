"""Directories as runs leave them, made in no time."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml


def made_run(
    folder: Path,
    overrides: Sequence[str] = (),
    best: float | None = 0.5,
    *,
    status: str | None = "finished",
    metric: str | None = "val/loss",
    mode: str = "min",
    epochs: int = 3,
    error: dict[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
    **test: float,
) -> Path:
    """Writes a run that falls to `best` in its last epoch; without a status it has no result.

    `more` are further entries of the result.
    """
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)))
    if config:
        (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(dict(config)))
    seed = next((int(each[5:]) for each in overrides if each.startswith("seed=")), 0)
    if epochs:
        lines = ["epoch,step,val/loss,val/accuracy,lr,train/loss"]
        for epoch in range(1, epochs + 1):
            value = (best or 1.0) * (1 + 2 * math.exp(-4 * epoch / epochs))
            lines.append(
                f"{epoch},{40 * epoch - 1},{value:.6g},{1 - value / 9:.6g},0.1,{value:.6g}"
            )
        (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    if status is None:
        return folder
    done = status == "finished"
    result: dict[str, Any] = {
        "status": status,
        "monitor": {"metric": metric, "mode": mode if done else None, "best": best if done else None,
                    "epoch": epochs if done else None},
        "metrics": {metric: best, **{f"test/{k}": v for k, v in test.items()}} if done and metric else {},
        "checkpoints": {"best": "checkpoints/best.ckpt", "last": "checkpoints/last.ckpt"},
        "choices": {},
        "seed": seed,
        "seconds": {"fit": 1.0 if done else None, "total": 1.5},
        "samples_per_second": 1e4,
        "error": error,
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result | dict(more or {})))
    return folder


def made_sweep(folder: Path, jobs: int) -> Path:
    """A sweep over optimizer, learning rate, width and seed in which some jobs fail."""
    names = ("sgd", "momentum", "adagrad", "rmsprop", "adam")
    for number in range(jobs):
        name, seed = names[number % 5], number // 5 % 4
        rate, width = 10.0 ** (number // 20 % 5 - 4), (32, 64, 128, 256, 512)[number // 100 % 5]
        overrides = [
            f"optimizer={name}", f"optimizer.lr={rate:g}", f"model.hidden=[{width}]", f"seed={seed}",
            "trainer.max_epochs=20",
        ]  # fmt: skip
        best = 0.1 + 0.05 * (math.log10(rate) + 2 - names.index(name) / 4) ** 2 + 2 / width
        best += 0.02 * math.sin(7 * number)
        extra: dict[str, Any] = {}
        if number % 41 == 40:
            message = "the loss became nan in batch 2 of epoch 1, at learning rate 1; try a smaller optimizer.lr."
            extra = {"status": "failed", "epochs": 0,
                     "error": {"type": "NonFiniteLossError", "message": message}}  # fmt: skip
        if number % 97 == 96:
            extra = {"status": None}
        made_run(folder / str(number), overrides, best, accuracy=1 - best / 5, loss=best * 1.1,
                 **{"epochs": 20, **extra})  # fmt: skip
    return folder


def made_search(folder: Path, jobs: int) -> Path:
    """A random search of the learning rate, with a knob that matters less and one that does not."""
    for number in range(jobs):
        rate = 10 ** (-5 + 4 * (number * 0.618034 % 1))
        dropout, step = number * 0.414214 % 1 * 0.5, number * 0.732051 % 1
        name = ("sgd", "adam")[number % 2]
        best = 0.2 + 0.1 * (math.log10(rate) + 3) ** 2 + 0.3 * dropout
        made_run(
            folder / str(number),
            [f"optimizer={name}", f"optimizer.lr={rate}", f"model.dropout={dropout}", f"x={step}"],
            best,
            accuracy=1 - best / 5,
            epochs=20,
        )
    return folder
