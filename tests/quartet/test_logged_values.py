"""Values that a module or a callback logs with self.log: as in Lightning, and exact after a resume."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning import Callback
from made import EACH_STEP, PROJECT, TINY, composed, project_part
from test_resume import assert_resumes
from torch.nn.utils import get_total_norm
from torchmetrics import MeanMetric
from torchmetrics.wrappers import MinMaxMetric

from quartet.run import train

pytestmark = pytest.mark.usefixtures("quiet")
LOGGING = (
    *(*TINY, EACH_STEP, "trainer.log_every_n_steps=3"),
    f"module._target_={PROJECT}.module.Logging",
)
REDUCTIONS = {"mean": "mean", "sum": torch.sum, "max": max, "min": "min"}


class GradientNorm(Callback):
    """As in the documentation."""

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        norm = get_total_norm([p.grad for p in module.model.parameters() if p.grad is not None])
        module.log("gradient", norm, on_step=False, on_epoch=True)


class Logging(project_part("module.Module")):  # type: ignore[misc]
    """Logs in every way that there is."""

    logs = ("val/score",)

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.mean = MeanMetric()
        self.extremes = MinMaxMetric(MeanMetric())  # of the whole training

    def configure_callbacks(self) -> list[Callback]:
        return [GradientNorm()]

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.log("started", float(self.trainer.current_epoch + 1))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        for name, reduction in REDUCTIONS.items():
            self.log(name, loss, on_step=False, on_epoch=True, reduce_fx=reduction)
        self.log("both", loss, on_step=True, on_epoch=True)
        self.log("each", loss)
        self.mean.update(loss)
        self.log("metric", self.mean, on_step=False, on_epoch=True)
        self.extremes.update(loss.detach())
        self.log("lowest", self.extremes.compute()["min"], on_step=False, on_epoch=True)
        if batch_idx == 1:
            self.log("once", loss, on_step=False, on_epoch=True, batch_size=3)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        outputs = super().validation_step(batch, batch_idx)
        self.log("val/score", -outputs.square().mean())
        return outputs


def install(patch: pytest.MonkeyPatch) -> None:
    """Makes it a module of the project."""
    patch.setattr(Logging, "__module__", f"{PROJECT}.module")
    patch.setattr(f"{PROJECT}.module.Logging", Logging, raising=False)


@pytest.fixture(autouse=True)
def _module(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        train(composed(LOGGING), directory)
    return directory


def test_every_value_is_a_column(whole: Path) -> None:
    history = pd.read_csv(whole / "metrics.csv").groupby("epoch").last()
    assert history["mean"].tolist() == pytest.approx(history["train/loss"].tolist())
    assert history["both_epoch"].tolist() == history["mean"].tolist()
    assert history["started"].tolist() == [1, 2, 3]
    assert (history["min"] < history["mean"]).all()
    assert (history["mean"] < history["max"]).all()
    assert (history["metric"] != history["mean"]).all()  # of batches of two sizes
    assert history["sum"].tolist() == pytest.approx((4 * history["metric"]).tolist())
    assert not history[["once", "gradient", "val/score", "both_step"]].isna().any(axis=None)


PLACES = [
    ("on_train_batch_end", 3),
    ("on_train_batch_start", 7),  # after a checkpoint of a batch whose values are logged
    ("on_train_batch_end", 8),  # the last of an epoch
    ("on_validation_batch_end", 2),
    ("on_train_epoch_end", 1),
    ("on_train_epoch_start", 2),
]


@pytest.mark.parametrize(("hook", "number"), PLACES)
def test_values_are_exact_after_resume(hook: str, number: int, whole: Path, tmp_path: Path) -> None:
    assert_resumes(LOGGING, tmp_path / "run", hook, number, whole)


def test_values_of_validations_within_an_epoch_are_exact_too(tmp_path: Path) -> None:
    names = [*LOGGING, "trainer.val_check_interval=0.5"]
    train(composed(names), tmp_path / "whole")
    for number, place in enumerate([("on_validation_batch_end", 3), ("on_train_batch_end", 7)]):
        assert_resumes(names, tmp_path / str(number), *place, tmp_path / "whole")
