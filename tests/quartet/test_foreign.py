"""LightningModules and LightningDataModules that know nothing of the engine train as they are."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from examples import installed
from lightning import LightningModule, Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from made import assert_refused, composed, refusals
from processes import Cli
from test_resume import assert_resumes, differences
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from quartet.build import build
from quartet.cli import expected
from quartet.config.compose import evaluation_config
from quartet.core.problems import ConfigError, TrainingError
from quartet.inference.evaluate import evaluate
from quartet.inference.export import export
from quartet.inference.predict import predict
from quartet.reports import results
from quartet.reports import run as text
from quartet.run import train
from quartet.training.callbacks.predictions import PredictionCollector

pytestmark = pytest.mark.filterwarnings("ignore:Attribute 'net' is an instance")
LIT = ["module=mnist_lit", "data=mnist_lit", "trainer=cpu", "logger=csv"]
# A scheduler that lowers the rate at the end of each epoch but the first.
LOWERS = ["module.scheduler.patience=0", "+module.scheduler.threshold=1"]
SHORT = [*LIT, "trainer.max_epochs=2", "callbacks.progress_bar=null"]
OFTEN = ["callbacks.last.every_n_steps=1", "callbacks.last.min_seconds=0"]
LONGER = [*SHORT, *LOWERS, *OFTEN, "trainer.max_epochs=3"]


@pytest.fixture(scope="module", autouse=True)
def _example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with installed("lightning_hydra_template", tmp_path_factory.mktemp("example")):
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(composed(LONGER), folder)
    return folder


def weights(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(folder / "checkpoints/last.ckpt")["state_dict"]
    return found


def test_trains_as_lightning_does_bit_for_bit(trained: Path, tmp_path: Path) -> None:
    from project.mnist_datamodule import MNISTDataModule  # type: ignore[import-not-found]
    from project.mnist_module import MNISTLitModule, SimpleDenseNet  # type: ignore

    seed_everything(0, workers=True)
    module = MNISTLitModule(
        SimpleDenseNet(784, 16, 10),
        optimizer=partial(torch.optim.Adam, lr=0.001),
        scheduler=partial(ReduceLROnPlateau, factor=0.1, patience=0, threshold=1),
        compile=False,
    )
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False}
    options |= {"num_sanity_val_steps": 0, "default_root_dir": tmp_path}
    trainer = Trainer(max_epochs=3, accelerator="cpu", **options)
    trainer.fit(module, MNISTDataModule(train_val_test_split=(200, 50, 50), batch_size=32))
    assert differences(dict(module.state_dict()), dict(weights(trained))) == []
    last = pd.read_csv(trained / "metrics.csv").iloc[-1]
    for name in ("val/loss", "val/acc", "val/acc_best", "train/loss", "train/acc"):
        assert last[name] == pytest.approx(float(trainer.callback_metrics[name]), rel=1e-6)


# 7 batches an epoch; a crash at the third, at the ninth, and after the first epoch.
@pytest.mark.parametrize(
    ("hook", "number"),
    [("on_train_batch_end", 3), ("on_train_batch_end", 9), ("on_train_epoch_start", 2)],
)
def test_resumes_exactly(hook: str, number: int, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert_resumes(LONGER, folder, hook, number, trained)


def test_plateau_of_steps_resumes_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from project.mnist_module import MNISTLitModule

    def configured(self: Any) -> dict[str, Any]:
        optimizer = self.hparams.optimizer(params=self.parameters())
        scheduler = ReduceLROnPlateau(optimizer, factor=0.9, patience=0, threshold=1)
        settings = {"scheduler": scheduler, "interval": "step", "monitor": "train/now"}
        return {"optimizer": optimizer, "lr_scheduler": settings}

    monkeypatch.setattr(MNISTLitModule, "configure_optimizers", configured)
    monkeypatch.setattr(
        MNISTLitModule, "on_before_zero_grad", lambda self, _: self.log("train/now", 1.0)
    )
    words = [*SHORT, *OFTEN]
    train(composed(words), tmp_path / "whole")
    for number in (3, 7):
        folder = tmp_path / f"run{number}"
        assert_resumes(words, folder, "on_train_batch_end", number, tmp_path / "whole")


def test_is_evaluated_as_the_training_did_and_not_exported(trained: Path) -> None:
    cfg = evaluation_config(trained, [])
    saved = json.loads((trained / "result.json").read_text())["metrics"]
    assert evaluate(cfg, trained) == {key: saved[key] for key in ("test/loss", "test/acc")}
    assert evaluate(cfg, trained, split="val")["val/acc"] == saved["val/acc"]
    with pytest.raises(ConfigError, match=r"no module of the model group.*its own to_onnx"):
        export(cfg, trained)


def test_predicts_by_its_predict_step(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = evaluation_config(trained, [])
    with pytest.raises(ConfigError, match=r"predict.py needs a predict_step, which takes a batch"):
        predict(cfg, trained)
    with pytest.raises(ConfigError, match=r"must end in \.pt(.|\n)* has no predict_step; predict"):
        predict(cfg, trained, output="p.csv")
    from project.mnist_module import MNISTLitModule

    monkeypatch.setattr(MNISTLitModule, "predict_step", lambda self, batch, i: self(batch[0]))
    file = predict(cfg, trained)
    assert file.name == "predictions-test.pt"
    assert [batch.shape for batch in torch.load(file)] == [(32, 10), (18, 10)]
    with pytest.raises(ConfigError, match=r"reads its data itself"):
        predict(cfg, trained, input="table.csv")


def test_check_lists_what_was_not_checked(tmp_path: Path) -> None:
    found = text.describe_run(composed(SHORT))
    assert "parameters  12,762 trained" in found
    unchecked = [line for line in found.splitlines() if line.startswith("not checked")]
    assert [line.split(None, 2)[2].partition(":")[0] for line in unchecked] == [
        *("module", "monitor.metric=val/loss", "data", "a resume within an epoch")
    ]
    assert "\nloss " not in found  # groups that are not built


test_refuses_what_it_does_not_take = refusals(
    ("loss=focal", "^loss=focal: module=mnist_lit has no argument loss; leave it out"),
    ("optimizer=sgd", "^optimizer=sgd: module=mnist_lit sets it in module.optimizer; change"),
    ("optimizer.lr=1", "^optimizer.lr=1: .* sets it in .*; use module.optimizer.lr=1"),
    ("data.flip=true", "^data.flip=true: .*MNISTDataModule has no such argument"),
    ("module.net.hidden=many", "^module.net.hidden=many: must be a whole number"),
    ("+module.net.hiden=3", "^module.net.hiden: SimpleDenseNet has no such argument; did you mean"),
    ("+data.batchsize=3", "^data.batchsize: MNISTDataModule has no such .*did you mean batch_size"),
    ("module.optimizer._target_=os.remove", "^module.optimizer._target_=os.remove: is no part"),
    ("monitor.metric=val/acc", "^monitor.mode=null: is not known for val/acc, which the module"),
    ("trainer.compile=true", "^trainer.compile=true: is for the model group"),
    given=SHORT,
)


def test_sweep_has_a_report(train_py: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quartet.sweeps import directory

    words = ["module.optimizer.lr=0.001,0.01", f"hydra.sweep.dir={tmp_path}/s"]
    assert train_py("-m", *SHORT, *words) == 0
    monkeypatch.undo()
    directory.write_report(tmp_path / "s")
    table = pd.read_csv(tmp_path / "s" / "results.csv")
    assert sorted(table["module.optimizer.lr"]) == [0.001, 0.01]


class Taking(LightningModule):
    """Takes model, loss and optimizer of the groups, and the engine's own data."""

    def __init__(self, model: nn.Module, loss: nn.Module, optimizer: Any) -> None:
        super().__init__()
        self.net, self.loss, self.make = model, loss, optimizer

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, targets = batch
        loss: Tensor = self.loss(self.net(inputs), targets)
        self.log("train/loss", loss, on_epoch=True, on_step=False)
        return loss

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters())


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`")
def test_takes_the_groups_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quartet.config import allow

    monkeypatch.setattr(allow, "FAMILIES", [*allow.FAMILIES, (__name__, "torch.nn.Module")])
    words = ["data=wine", f"module._target_={__name__}.Taking", "loss=focal", "optimizer=sgd"]
    words += ["monitor.metric=train/loss", "trainer=cpu", "trainer.max_epochs=1", "logger=csv"]
    cfg = composed(words)
    result = train(cfg, tmp_path / "run")
    assert result["status"] == "finished"
    run = build(cfg, tmp_path / "other")
    assert type(run.module.loss).__name__ == "FocalLoss"
    assert isinstance(run.module.configure_optimizers(), torch.optim.SGD)
    with pytest.raises(ConfigError, match=r"^scheduler=step: .* has no argument scheduler"):
        build(composed([*cfg.hydra.overrides.task, "scheduler=step"]), tmp_path / "other")


class Underscored(Taking):
    """Logs as Lightning's documentation does, and one value of the test without its part."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = self.loss(self.net(batch[0]), batch[1])
        self.log("train_loss", loss, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(self.net(batch[0]), batch[1]))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log_dict({"test_loss": self.loss(self.net(batch[0]), batch[1]), "score": 0.5})


def test_names_with_an_underscore_are_those_of_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from quartet.config import allow

    monkeypatch.setattr(allow, "FAMILIES", [*allow.FAMILIES, (__name__, "torch.nn.Module")])
    words = ["data=wine", f"module._target_={__name__}.Underscored", *SHORT[2:], "trainer=cpu"]
    words += ["callbacks=early_stopping"]
    with pytest.raises(TrainingError, match=r"Set monitor\.metric=val_loss, or log val/loss with"):
        train(composed(words), tmp_path / "run0")
    words += ["monitor.metric=val_loss"]
    stopping = build(composed(words), tmp_path / "run1").trainer.early_stopping_callback
    assert not stopping._check_on_train_epoch_end  # which would count old values
    result = train(composed(words), tmp_path / "run2")
    history = pd.read_csv(tmp_path / "run2/metrics.csv")
    assert list(history.epoch) == [1, 2]
    assert set(history) == {"epoch", "step", "train_loss", "val_loss"}
    assert result["metrics"].keys() == {"train_loss", "val_loss", "test_loss", "score"}
    found = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["train", "val", "test"] in found
    values = [f"{result['metrics'][f'{part}_loss']:.4g}" for part in ("train", "val", "test")]
    assert ["loss", *values] in found
    assert ["score", "0.5"] in found
    (job,) = results.read([tmp_path / "run2"]).jobs.to_dict("records")
    assert (job["epochs"], job["score"]) == (2, 0.5)
    assert job["val_loss"] == result["metrics"]["val_loss"]


def test_groups_train_on_foreign_data(tmp_path: Path) -> None:
    words = ["data=mnist_lit", "trainer=cpu", "logger=csv", "trainer.max_epochs=1"]
    result = train(composed(words), tmp_path / "run")
    assert result["metrics"].keys() >= {"test/accuracy", "val/f1", "train/loss"}
    with pytest.raises(ConfigError, match=r"^data.task=null: must be multiclass"):
        build(composed([*words, "data.task=null"]), tmp_path / "other")


def test_averages_early_stopping_and_exact_resume_go_together(tmp_path: Path) -> None:
    words = ["callbacks=[ema,early_stopping]", "callbacks.early_stopping.patience=1"]
    words += [*SHORT, *OFTEN, "callbacks.early_stopping.min_delta=1000", "trainer.max_epochs=9"]
    train(composed(words), tmp_path / "whole")
    assert len(pd.read_csv(tmp_path / "whole/metrics.csv")) == 2
    assert_resumes(words, tmp_path / "run", "on_train_batch_end", 10, tmp_path / "whole")


def test_weights_and_freezing_are_the_modules_own(trained: Path) -> None:
    for word in (f"model.weights='{trained}'", "optimizer.freeze=['net.*']"):
        group = word.partition(".")[0]
        assert_refused([*SHORT, word], rf"^{group}=\w+: module=mnist_lit (has no|sets it in)")


def test_batches_of_a_second_loader_are_not_collected() -> None:
    module, trainer = LightningModule(), Trainer(logger=False, barebones=True)
    trainer.datamodule = None  # type: ignore[attr-defined]
    collector = PredictionCollector()
    collector.on_validation_batch_end(trainer, module, torch.ones(1), [torch.ones(1)], 0, 1)
    assert not collector.kept


def test_a_misconfiguration_explains_itself() -> None:
    error = MisconfigurationException("No `training_step()` method defined.")
    assert expected(error) is error
    assert expected(KeyError("net")) is None
