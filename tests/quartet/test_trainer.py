"""Options of the trainer: what each is for happens."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from made import composed, weights

import quartet
from quartet.build import build
from quartet.compat import get_trainer
from quartet.records.run_directory import summary
from quartet.run import train
from quartet.training.module import TrainingError

pytestmark = pytest.mark.usefixtures("quiet")


def fitted(*overrides: str, hook: Any = None) -> Any:
    run = build(composed(["trainer.max_epochs=2", "model.hidden=[16]", *overrides]))
    if hook:
        run.module.model.register_forward_hook(hook)
    run.trainer.loggers, run.trainer.callbacks = [], []  # type: ignore[attr-defined]
    run.trainer.fit(run.module, run.data)
    return run


def rows(directory: Path) -> list[dict[str, str]]:
    with (directory / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_overfit_learns_its_batch_by_heart(tmp_path: Path) -> None:
    train(composed(["trainer=overfit", "metrics=none", "optimizer.lr=0.01"]), tmp_path)
    history = rows(tmp_path)
    assert len(history) == 100
    assert float(history[-1]["train/loss"]) < 0.01 < 2 < float(history[0]["train/loss"])
    assert not any(name.startswith("val/") for name in history[0])  # nothing is validated


@pytest.mark.parametrize("limit", ["limit_train_batches=0.1", "overfit_batches=2"])
def test_limited_epoch_validates_at_its_end(limit: str, tmp_path: Path) -> None:
    options = ["trainer.val_check_interval=10", "trainer.max_epochs=2", f"trainer.{limit}"]
    for number, overrides in enumerate((["trainer=smoke", *options[:1]], options)):
        train(composed(["metrics=none", *overrides]), tmp_path / str(number))
        assert all(row["val/loss"] for row in rows(tmp_path / str(number)))


MONITORED = [
    ("val", [], "monitor.metric=val/loss"),
    ("val", ["callbacks=early_stopping", "callbacks.best=null"], "monitor.metric=val/loss"),
    (
        "val",
        ["monitor.metric=train/loss", "scheduler=plateau", "scheduler.monitor=val/loss"],
        "scheduler.monitor=val/loss",
    ),
    ("train", ["monitor.metric=train/loss", "callbacks=early_stopping"], "monitor.metric=train"),
    ("train", ["monitor.metric=train/loss", "scheduler=plateau"], "scheduler.monitor=train/loss"),
    ("train", ["monitor.metric=train/loss", "data.val_fraction=0"], "monitor.metric=train/loss"),
]


@pytest.mark.parametrize(("stage", "options", "key"), MONITORED)
def test_monitored_value_that_no_step_records_ends_the_training_with_its_name(
    stage: str, options: list[str], key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = quartet.Module.record

    def skip(self: Any, part: str, *args: Any) -> None:
        if part != stage or get_trainer(self) is None:  # the trial of the steps would refuse it
            record(self, part, *args)

    monkeypatch.setattr(quartet.Module, "record", skip)
    logged = {"val": "nothing so far", "train": "(val/loss and )?lr"}[stage]
    with pytest.raises(TrainingError, match=rf"^{key}.* end of epoch 1; logged is {logged}\. Set"):
        train(composed(["metrics=none", "trainer.max_epochs=2", *options]), tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["status"], result["error"]["type"]) == ("failed", "TrainingError")


@pytest.mark.parametrize("stage", ["train", "val", "test"])
def test_step_may_record_nothing_where_nothing_needs_it(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = quartet.Module.record

    def skip(self: Any, part: str, *args: Any) -> None:
        if part != stage:
            record(self, part, *args)

    monkeypatch.setattr(quartet.Module, "record", skip)
    monitored = "train/loss" if stage == "val" else "val/loss"
    result = train(composed(["trainer.max_epochs=1", f"monitor.metric={monitored}"]), tmp_path)
    parts = {name.partition("/")[0] for name in result["metrics"]}
    assert parts == {"train", "val", "test"} - {stage}


def test_training_without_a_step_fails_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"ended before its first step: trainer.max_time was"):
        train(composed(["trainer.max_time=00:00:00:00"]), tmp_path)


def test_best_epoch_has_a_value_that_is_a_number(tmp_path: Path) -> None:
    rows = [{"epoch": e, "val/f1": v} for e, v in ((1, math.nan), (2, 0.4), (3, 0.3))]
    saved = {"best": f"{tmp_path}/checkpoints/best.ckpt"}
    found = summary(tmp_path, [*rows, {"epoch": 4}], "val/f1", saved, 0.4)
    assert (found["monitor"]["best"], found["monitor"]["epoch"]) == (0.4, 2)
    assert found["checkpoints"] == {"best": "checkpoints/best.ckpt", "last": None}
    found = summary(tmp_path, [*rows, {"epoch": 4}], "val/f1", {}, 0.4)
    assert (found["monitor"]["best"], found["monitor"]["epoch"]) == (None, 4)


def test_profile_lies_in_the_directory_of_the_run(tmp_path: Path) -> None:
    train(composed(["trainer=profile", "trainer.max_epochs=1"]), tmp_path)
    for stage in ("fit", "test"):
        assert "Total" in (tmp_path / f"{stage}-profile.txt").read_text()
    assert "optimizer_step" in (tmp_path / "fit-profile.txt").read_text()


def test_bf16_computes_in_16_bits_and_learns_in_32() -> None:
    whole = fitted("trainer=cpu")
    seen: set[torch.dtype] = set()
    look = lambda model, args, out: seen.add(out.dtype)  # noqa: E731
    run = fitted("trainer=bf16", "trainer.accelerator=cpu", hook=look)
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in run.module.model.parameters()} == {torch.float32}
    torch.testing.assert_close(weights(run), weights(whole), rtol=0, atol=0.05)
    assert not torch.equal(weights(run), weights(whole))


@pytest.mark.slow
def test_compiled_model_learns_the_same(tmp_path: Path) -> None:
    options = ["trainer.accelerator=cpu", "trainer.max_epochs=2", "model.hidden=[16]"]
    states = []
    for name in ("compile", "default"):
        result = train(composed([f"trainer={name}", *options]), tmp_path / name)
        assert result["status"] == "finished"
        path = tmp_path / name / "checkpoints/last.ckpt"
        states.append(torch.load(path, weights_only=True)["state_dict"])
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=0, atol=1e-4)
