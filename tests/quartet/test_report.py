"""Curves, tables, the description of check=only, and the record of the learning curves."""

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from made import composed, labelled_table, paint
from torch.utils.data import TensorDataset

from quartet.build import build
from quartet.data.split import Parts
from quartet.records.loggers import MetricsCSV, shorten_float
from quartet.reports import drawings
from quartet.reports import run as report
from quartet.reports.figures import STYLE, save_png
from quartet.run import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    directory = tmp_path_factory.mktemp("run")
    result = train(composed(["data=breast_cancer", "trainer.max_epochs=3"]), directory)
    return directory, result


def panels_of(directory: Path, metrics_csv: str = "") -> list[Any]:
    """The panels of a run's curves."""
    if metrics_csv:
        (directory / "metrics.csv").write_text(metrics_csv)
    with matplotlib.rc_context(STYLE):
        canvas = drawings.learning_curves(directory)
        save_png(canvas, directory / "curves.png")
    return canvas.figure.axes


# metrics.csv


def test_metrics_file_has_a_row_for_each_epoch(run: tuple[Path, dict[str, Any]]) -> None:
    directory, result = run
    history = pd.read_csv(directory / "metrics.csv")
    assert list(history["epoch"]) == [1, 2, 3]
    assert list(history["step"]) == [12, 25, 38]
    names = ("loss", "accuracy", "precision", "recall", "f1", "auroc")
    figures = [f"{part}/{name}" for part in ("train", "val") for name in names]
    assert set(history) == {"epoch", "step", "lr", *figures}
    assert all(history["lr"] == 0.002)
    best = history.loc[history["val/loss"].idxmin()]
    assert result["monitor"]["epoch"] == best["epoch"]
    assert result["monitor"]["best"] == best["val/loss"]
    assert {name: result["metrics"][name] for name in figures} == dict(best[figures])


def test_figures_that_come_later_get_a_column_and_those_of_the_test_none(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"epoch": 0, "test/loss": 0.5}, step=3)
    logger.finalize("success")
    assert not (tmp_path / "metrics.csv").exists()
    for epoch in range(3):
        logger.log_metrics({"epoch": epoch, "train/loss": 0.5 - epoch / 10}, step=epoch)
        if epoch:
            logger.log_metrics({"epoch": epoch, "val/loss": 0.25}, step=epoch)
        logger.save()
    logger.finalize("success")
    rows = "epoch,step,train/loss,val/loss\n1,0,0.5,\n2,1,0.4,0.25\n3,2,0.3,0.25\n"
    assert (tmp_path / "metrics.csv").read_text() == rows


@pytest.mark.parametrize("value", [0.001, 1 / 3, 1e-8, 3e38, 0.0])
def test_figures_are_written_as_short_as_32_bits_allow(value: float) -> None:
    assert np.float32(shorten_float(float(np.float32(value)))) == np.float32(value)
    assert shorten_float(float(np.float32(0.001))) == 0.001


# curves.png


def test_picture_has_a_panel_for_each_figure(run: tuple[Path, dict[str, Any]]) -> None:
    panels = panels_of(run[0])
    assert (run[0] / "curves.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    figures = ["loss", "accuracy", "auroc", "f1", "precision", "recall"]
    assert [panel.get_title("left") for panel in panels] == [*figures, "learning rate"]
    for panel in panels[:-1]:
        assert [line.get_label() for line in panel.lines] == ["train", "val"]
        assert all(len(line.get_xdata()) == 3 for line in panel.lines)
    assert list(panels[-1].lines[0].get_ydata()) == [0.002] * 3


def test_picture_of_one_epoch_or_of_several_validations_an_epoch(tmp_path: Path) -> None:
    panels = panels_of(tmp_path, "epoch,step,lr,train/loss\n1,4,0.1,0.7\n")
    assert [panel.get_title("left") for panel in panels] == ["loss", "learning rate"]
    assert [line.get_marker() for line in panels[0].lines] == ["o"]  # one point shows no line
    rows = "1,4,,,0.9\n1,9,0.1,0.7,0.8\n2,14,,,0.6\n2,19,0.1,0.5,0.5\n"
    panels = panels_of(tmp_path, f"epoch,step,lr,train/loss,val/loss\n{rows}")
    train_loss, val_loss = panels[0].lines
    assert list(train_loss.get_xdata()) == list(val_loss.get_xdata()) == [1, 2]
    assert list(val_loss.get_ydata()) == [0.8, 0.5]


# The table of a run


def test_table() -> None:
    result = {
        "choices": {"data": "digits", "trainer": "cpu", "model": "mlp", "optimizer": "adam"},
        "metrics": {"train/loss": 0.25, "val/loss": 1 / 3, "test/loss": 0.5, "val/f1": 0.987654},
        "monitor": {"metric": "val/loss", "best": 1 / 3, "epoch": 7},
        "seconds": {"total": 4.56},
    }
    assert report.table(result, Path("outputs/run")) == (
        "data=digits  model=mlp  optimizer=adam\n"
        "                 train       val      test\n"
        "loss              0.25    0.3333       0.5\n"
        "f1                        0.9877\n"
        "best epoch 7, by val/loss = 0.3333\n"
        "4.6 s; everything lies in outputs/run"
    )
    result["monitor"] = {"metric": None, "best": None, "epoch": 3}
    lines = report.table(result, Path("run")).splitlines()
    assert lines[-2] == "last epoch 3; without validation there is no best"


def test_printed_table_is_the_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(composed(["data=linear", "trainer.max_epochs=1"]), tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert capsys.readouterr().out == report.table(result, tmp_path) + "\n"


# check=only


PLANS = {
    "optimizer.lr=0.002": ["lr          0.002 at the start, 0.002 in the middle, 0.002 at the end"],
    "optimizer.freeze=['layers.0.*']": ["parameters  1,290 trained, 8,320 frozen"],
    "data=fashion_mnist": ["samples     60,000, not read yet"],
    "data.batch_size=full": ["steps       1 an epoch, 30 in all"],
    "data.val_fraction=0": [
        "samples     1,438 train, 0 val, 359 test",
        "monitor     nothing: the last epoch counts",
    ],
    "monitor.metric=val/f1": ["monitor     val/f1 (max)"],
    "trainer.max_epochs=-1 trainer.max_time=00:00:01:00": [
        "steps       40 an epoch, until trainer.max_time"
    ],
    "data=breast_cancer": ["train       malignant: 149 (37.4%), benign: 249 (62.6%)"],
}


@pytest.mark.parametrize("overrides", PLANS)
def test_plan(overrides: str, tmp_path: Path) -> None:
    cfg = composed([f"data.dir='{tmp_path}'", *overrides.split()])
    assert {*PLANS[overrides]} <= {*report.describe_run(cfg).splitlines()}


def described(parts: Parts, task: str) -> dict[str, str]:
    metadata = {"task": task, "num_outputs": 1, "class_names": parts.class_names}
    return report.describe_data(parts, metadata)


def test_classes_with_their_shares() -> None:
    def classes(*counts: int) -> Parts:
        targets = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        train = TensorDataset(torch.linspace(-1, 2, len(targets))[:, None], targets)
        test = TensorDataset(torch.zeros(len(counts), 1), torch.arange(len(counts)))
        return Parts(train, None, test, tuple(f"kind {k}" for k in range(len(counts))))

    assert described(classes(6, 3, 1), "multiclass") == {
        "inputs": "1 float32, -1 to 2 in the first 10",
        "train": "kind 0: 6 (60.0%), kind 1: 3 (30.0%), kind 2: 1 (10.0%)",
        "test": "kind 0: 1 (33.3%), kind 1: 1 (33.3%), kind 2: 1 (33.3%)",
    }
    assert described(classes(*range(1, 21)), "multiclass")["train"].endswith(" and 10 more")


def test_labels_are_named(tmp_path: Path) -> None:
    labelled_table(tmp_path / "table.csv")
    table = ["data=csv", f"data.path={tmp_path}/table.csv", "data.target=[red,round]"]
    lines = report.describe_run(composed([*table, "data/task=multilabel"])).splitlines()
    assert any(line.startswith("train       red: ") and ", round: " in line for line in lines)


def test_targets_of_regression_in_their_units() -> None:
    lines = report.describe_run(composed(["data=diabetes"])).splitlines()
    raw = composed(["data=diabetes", "data.standardize_targets=false"])
    values: Any = build(raw).data.parts.train.tensors[1].double()  # type: ignore[attr-defined]
    mean, sd, least, most = values.mean(), values.std(correction=0), values.min(), values.max()
    expected = f"mean {mean:.4g} and sd {sd:.4g} within {least:.4g} to {most:.4g}"
    assert f"train       {expected}" in lines


def test_queries_and_documents() -> None:
    def part(*sizes: int) -> TensorDataset:
        indexes = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        grades = torch.arange(len(indexes))[:, None] % 4.0
        return TensorDataset(torch.zeros(len(indexes), 2), grades, indexes)

    assert described(Parts(part(2, 3, 7), None, part(4, 4)), "ranking") == {
        "inputs": "2 float32, 0 to 0 in the first 12",
        "train": "3 queries of 2 to 7 documents, 75.0% of them relevant",
        "test": "2 queries of 4 to 4 documents, 75.0% of them relevant",
    }


def test_image_files_are_counted_without_being_read(tmp_path: Path) -> None:
    paint(tmp_path / "images", cat=30, dog=60)
    folder = ["data=image_folder", f"data.path={tmp_path}/images", "data.image_size=8"]
    lines = report.describe_run(composed(folder)).splitlines()
    assert "train       cat: 21 (33.3%), dog: 42 (66.7%)" in lines
    assert "inputs      3 x 8 x 8 float32, 0.003922 to 0.6235 in the first 63" in lines
