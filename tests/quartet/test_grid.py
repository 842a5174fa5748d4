"""Every combination of options either trains or is refused with the reason; nothing else happens.

What fits together is told here from the data's task and the shape of its inputs alone, so that a
check that refuses too much turns red as one that refuses too little.
"""

import functools
import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from made import labelled_table, options
from omegaconf import DictConfig, OmegaConf
from sklearn import datasets

from quartet.build import compose
from quartet.core.files import CONF
from quartet.core.problems import ConfigError
from quartet.run import train

Cell = tuple[str, ...]

DATA = {
    "digits": ["data=digits"],
    "breast_cancer": ["data=breast_cancer"],
    "wine": ["data=wine"],
    "diabetes": ["data=diabetes"],
    "linear": ["data=linear"],
    "ranking": ["data=ranking"],
    "table": ["data=csv", "data/task=multilabel", "data.target=[red,round]", "data.path=table.csv"],
}
TRAINER = (
    "",
    "trainer.accumulate_grad_batches=2",
    "trainer.gradient_clip_val=0.5",
    "trainer.max_steps=3",
    "trainer.check_val_every_n_epoch=2",
    "trainer.precision=bf16-mixed",
    "scheduler.warmup_steps=3",
    "scheduler.interval=step",
    "data.val_fraction=0",
    "data.batch_size=full",
    "callbacks=early_stopping",
)
IMAGE_MODELS = ("cnn", "torchvision")


PARTS = list(itertools.product(*map(options, ("loss", "metrics", "model")), DATA))
DRIVES = list(itertools.product(*map(options, ("optimizer", "scheduler")), TRAINER))


@pytest.fixture(autouse=True)
def _light(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out what is the same in every cell and takes longer than the training."""
    monkeypatch.chdir(tmp_path)
    labelled_table(tmp_path / "table.csv")
    monkeypatch.setattr("quartet.run.save_record", lambda cfg, run: None)
    for name in ("load_digits", "load_breast_cancer", "load_wine", "load_diabetes"):
        monkeypatch.setattr(datasets, name, functools.cache(getattr(datasets, name)))


@functools.cache
def composed(*overrides: str) -> DictConfig:
    return compose(["callbacks.progress_bar=null", "logger=none", *overrides])


def config_of_parts(cell: Cell) -> DictConfig:
    """As the command line would compose it, which takes longer than to put it together here."""
    loss, metrics, model, data = cell
    small = ["model.name=shufflenet_v2_x0_5"] if model == "torchvision" else []
    steps = ["trainer.max_epochs=1", "trainer.limit_train_batches=2", "data.batch_size=64"]
    cfg = composed(*DATA[data], *steps).copy()
    cfg.loss = composed(f"loss={loss}").loss
    cfg.metrics = composed(f"metrics={metrics}").metrics
    cfg.model = composed(f"model={model}", *small).model
    cfg.hydra.runtime.choices.update({"loss": loss, "metrics": metrics, "model": model})
    return cfg


def misfits_of_parts(cell: Cell) -> set[str]:
    loss, metrics, model, data = cell
    facts = composed(*DATA[data]).data
    tasks = {
        group: OmegaConf.select(OmegaConf.load(CONF / group / f"{option}.yaml"), "tasks")
        for group, option in (("loss", loss), ("metrics", metrics))
    }
    misfits = {group for group, suited in tasks.items() if suited and facts.task not in suited}
    if model in IMAGE_MODELS and data != "digits":
        misfits.add("model")
    if loss == "none" and not misfits:  # no model here has one; it is tried where all else fits
        misfits.add("loss")
    return misfits


def config_of_drive(cell: Cell) -> DictConfig:
    optimizer, scheduler, trainer = cell
    base = ["data=linear", "data.batch_size=16", "trainer.max_epochs=2"]
    cfg = composed(*base, *filter(None, [trainer])).copy()
    cfg.optimizer = composed(f"optimizer={optimizer}").optimizer
    drive = {key: cfg.scheduler[key] for key in ("warmup_steps", "interval")}
    cfg.scheduler = composed(f"scheduler={scheduler}").scheduler
    cfg.scheduler.warmup_steps = drive["warmup_steps"]
    if trainer == "scheduler.interval=step":
        cfg.scheduler.interval = drive["interval"]
    cfg.hydra.runtime.choices.update({"optimizer": optimizer, "scheduler": scheduler})
    return cfg


def misfits_of_drive(cell: Cell) -> set[str]:
    optimizer, scheduler, trainer = cell
    if optimizer == "lbfgs" and "accumulate" in trainer:
        return {"trainer"}
    unmonitored = ("data.val_fraction=0", "scheduler.interval=step")
    return {"scheduler"} if scheduler == "plateau" and trainer in unmonitored else set()


def try_all(
    cells: Sequence[Cell],
    config: Callable[[Cell], DictConfig],
    misfits: Callable[[Cell], set[str]],
    folder: Path,
) -> Counter[str]:
    """Trains every cell; counts those that trained, were refused, and did anything else."""
    counts: Counter[str] = Counter(cells=len(cells), trained=0, refused=0, other=0)
    wrong: list[str] = []
    for number, cell in enumerate(cells):
        directory = folder / str(number)
        outcome, said = try_one(config(cell), directory)
        counts[outcome] += 1
        blamed = (
            {re.split(r"[=:. ]", fault)[0] for fault in said} if outcome == "refused" else set()
        )
        if outcome == "other" or blamed != misfits(cell) or (blamed and directory.exists()):
            wrong.append(f"{' '.join(cell)}: {outcome}: {'; '.join(said)}")
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    assert not wrong, "\n".join([f"{len(wrong)} of {len(cells)} cells:", *wrong[:20]])
    return counts


def try_one(cfg: DictConfig, directory: Path) -> tuple[str, list[str]]:
    try:
        result: dict[str, Any] = train(cfg, directory)
    except ConfigError as refusal:
        return "refused", refusal.messages
    except Exception as error:
        return "other", [repr(error)]
    losses = [value for name, value in result["metrics"].items() if name.endswith("/loss")]
    finite = len(losses) >= 2 and all(map(math.isfinite, losses))
    return ("trained" if finite and result["status"] == "finished" else "other"), [str(result)]


@pytest.mark.slow
@pytest.mark.parametrize("data", DATA)
def test_every_loss_metric_model_and_data_set_together(tmp_path: Path, data: str) -> None:
    cells = [cell for cell in PARTS if cell[-1] == data]
    counts = try_all(cells, config_of_parts, misfits_of_parts, tmp_path)
    assert counts["other"] == 0
    assert min(counts["trained"], counts["refused"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("way", TRAINER)
def test_every_optimizer_scheduler_and_way_of_training_together(tmp_path: Path, way: str) -> None:
    cells = [cell for cell in DRIVES if cell[-1] == way]
    counts = try_all(cells, config_of_drive, misfits_of_drive, tmp_path)
    assert counts["other"] == 0
    assert counts["trained"] > 0
    assert bool(counts["refused"]) == any(map(misfits_of_drive, cells))


def test_sampled_losses_metrics_models_and_data_sets_together(tmp_path: Path) -> None:
    # Most cells do not fit: half of the sample is of those that do.
    fitting = [cell for cell in PARTS if not misfits_of_parts(cell)]
    cells = random.Random(0).sample(fitting, 8) + random.Random(0).sample(PARTS, 8)
    try_all(cells, config_of_parts, misfits_of_parts, tmp_path)


def test_sampled_optimizers_schedulers_and_ways_of_training_together(tmp_path: Path) -> None:
    misfits = [cell for cell in DRIVES if misfits_of_drive(cell)]
    cells = random.Random(0).sample(DRIVES, 12) + random.Random(0).sample(misfits, 3)
    try_all(cells, config_of_drive, misfits_of_drive, tmp_path)
