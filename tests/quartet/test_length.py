"""The length of a training: what its batches and steps reach, and what they do not."""

import re
from contextlib import nullcontext
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Timer
from made import assert_refused, composed

from quartet.build import build
from quartet.core.problems import ConfigError
from quartet.data.loader import Batches
from quartet.inference.evaluate import evaluate
from quartet.run import train
from quartet.validation import length

pytestmark = pytest.mark.usefixtures("quiet")

# 70 training rows: batches of 20, 20, 20 and 10.
TINY = (
    *("data=linear", "data.batch_size=20", "model.hidden=[16]", "trainer=cpu", "metrics=none"),
    *("trainer.max_epochs=3", "callbacks.progress_bar=null", "logger=csv"),
)


def validated_steps(directory: Path) -> list[int]:
    rows = pd.read_csv(directory / "metrics.csv")
    return rows[rows["val/loss"].notna()]["step"].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        ("", [3, 7, 11]),
        ("trainer.max_steps=2", [1]),
        ("trainer.max_steps=8", [3, 7]),
        ("trainer.max_steps=6", [3, 5]),
        ("trainer.max_steps=3 trainer.accumulate_grad_batches=2", [1, 2]),
        ("trainer.check_val_every_n_epoch=2", [7, 11]),
        ("trainer.check_val_every_n_epoch=9 trainer.max_steps=6", [5]),
        ("trainer.val_check_interval=3 trainer.max_epochs=2", [2, 6, 7]),
        ("trainer.val_check_interval=2 trainer.max_steps=6", [1, 3, 5]),
        ("trainer.max_steps=6 callbacks=ema", [3, 5]),
        ("trainer.max_steps=6 trainer.precision=bf16-mixed", [3, 5]),  # without the fast path
    ],
)
def test_last_weights_may_be_the_best(overrides: str, steps: list[int], tmp_path: Path) -> None:
    result = train(composed([*TINY, *overrides.split()]), tmp_path)
    assert validated_steps(tmp_path) == steps
    best, last = (
        torch.load(tmp_path / f"checkpoints/{name}.ckpt", weights_only=True)
        for name in ("best", "last")
    )
    assert best["global_step"] == last["global_step"]  # the loss falls all the way
    assert result["metrics"]["val/loss"] == result["monitor"]["best"]
    figures = evaluate(composed(TINY), tmp_path, split="val", checkpoint="last")
    assert result["monitor"]["best"] == pytest.approx(figures["val/loss"], rel=1e-4)


@pytest.mark.parametrize("every", [1, 2])
def test_weights_at_a_time_limit_are_validated(
    every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check_time(self: Timer, trainer: Trainer) -> None:
        trainer.should_stop |= trainer.fit_loop.total_batch_idx + 1 >= 6

    monkeypatch.setattr(Timer, "_check_time_remaining", check_time)
    names = [*TINY, "trainer.max_time=00:01:00:00", f"trainer.check_val_every_n_epoch={every}"]
    train(composed(names), tmp_path)
    assert validated_steps(tmp_path) == ([3, 5] if every == 1 else [5])


def test_training_without_validation_ends_as_before(tmp_path: Path) -> None:
    for number, more in enumerate((["data.val_fraction=0"], ["trainer.limit_val_batches=0"])):
        result = train(composed([*TINY, "trainer.max_steps=6", *more]), tmp_path / str(number))
        assert result["monitor"] == {"metric": None, "mode": "min", "best": None, "epoch": 2}
        assert not any(name.startswith("val/") for name in result["metrics"])
        words = "monitors val/loss, and there is no validation"
        assert_refused([*TINY, *more, "scheduler=plateau"], words)


def test_early_end_leaves_no_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["callbacks=early_stopping", "callbacks.early_stopping.monitor=train/loss"]
    names += ["callbacks.early_stopping.patience=1", "callbacks.early_stopping.min_delta=9"]
    names += ["callbacks.early_stopping.check_on_train_epoch_end=true"]
    result = train(composed([*TINY, *names, "trainer.check_val_every_n_epoch=3"]), tmp_path)
    assert result["monitor"] == {"metric": "val/loss", "mode": "min", "best": None, "epoch": 2}
    assert "test/loss" in result["metrics"]
    words = "\nstopped after epoch 2: train/loss had not improved in the last check\n"
    assert words in capsys.readouterr().out


# 70 training rows: three batches of 23 and one of 1, or two steps of two batches.
@pytest.mark.parametrize(
    ("overrides", "reached"),
    [
        ("", True),
        ("trainer.limit_train_batches=4", True),
        ("trainer.limit_train_batches=9", True),
        ("trainer.limit_train_batches=3", False),
        ("trainer.limit_train_batches=1", False),
        ("trainer.limit_train_batches=0.99", False),
        ("trainer=overfit", False),
        ("trainer.overfit_batches=4", True),
        ("trainer.overfit_batches=0.75 trainer.limit_val_batches=0", False),
        ("trainer.max_steps=3", False),
        ("trainer.max_steps=4", True),
        ("trainer.max_steps=1 trainer.accumulate_grad_batches=2", False),
        ("trainer.max_steps=2 trainer.accumulate_grad_batches=2", True),
        ("data.drop_last=true", False),
        ("data.batch_size=24", False),
        ("data.batch_size=full", False),
        ("data.batch_size=69 trainer.limit_train_batches=1", False),
        ("data.batch_size=1 trainer.limit_train_batches=1", True),
    ],
)
def test_batch_of_one_sample_is_refused_exactly_where_training_meets_it(
    overrides: str, reached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["data=linear", "data.batch_size=23", "model.hidden=[4]", "model.norm=batch"]
    cfg = composed([*names, "trainer=cpu", *overrides.split(), "trainer.max_epochs=1"])
    with pytest.raises(ConfigError, match=r"leaves a batch of one") if reached else nullcontext():
        build(cfg)
    monkeypatch.setattr(length, "check_smallest_batch", lambda *arguments: ())
    run = build(cfg, tmp_path)
    with pytest.raises(ValueError, match="more than 1 value") if reached else nullcontext():
        run.trainer.fit(run.module, run.data)


def test_smallest_batch_is_that_of_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    """For all sizes up to 40, on up to 4 processes: the last line of advice fits too."""
    monkeypatch.setattr(length, "pass_through", lambda *a, **k: torch.ones(1).view(2))
    run = build(composed(["data=linear", "data.rows=50", "metrics=none"]))
    count = len(run.data.load().train)  # type: ignore[arg-type]

    def smallest(size: int, world_size: int) -> int:
        options = {"seed": 0, "world_size": world_size}
        return min(
            len(batch)
            for rank in range(world_size)
            for batch in Batches(count, size, rank=rank, **options)  # type: ignore[arg-type]
        )

    for size, world_size in product(range(1, count + 2), range(1, 5)):
        run.data.batch_size = size
        config = {**run.config, "data": {**run.config["data"], "batch_size": size}}
        found = list(length.check_smallest_batch(config, run.data, run.module.model, world_size))
        assert bool(found) == (smallest(size, world_size) == 1), (size, world_size)
        for problem in found:
            (better,) = re.findall(r"; data.batch_size=(\d+)", problem.message)
            assert smallest(int(better), world_size) > 1
            assert ("drop_last" in problem.message) == (size > 1)


def test_batch_of_one_sample_is_fine_for_other_models_and_frozen_statistics() -> None:
    base = ["data=wine", "data.batch_size=3", "model.norm=batch"]
    for more in (["model.norm=layer"], ["optimizer.freeze=['layers.[01].*']"]):
        build(composed([*base, *more]))
    assert_refused(base, r"data.batch_size=4 or data.drop_last=true leaves none")
