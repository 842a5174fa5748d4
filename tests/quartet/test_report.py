"""Pictures, tables and the record of the learning curves."""

import csv
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from quartet.build import compose
from quartet.cli import check_only
from quartet.records.loggers import MetricsCSV, shorten_float
from quartet.reports import drawings, text
from quartet.run import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    directory = tmp_path_factory.mktemp("run")
    result = train(compose(["data=breast_cancer", "trainer.max_epochs=3"]), directory)
    return directory, result


@pytest.fixture
def panels(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The panels of the pictures that are saved."""
    saved: list[Any] = []
    save = Figure.savefig

    def spy(self: Figure, *args: Any, **kwargs: Any) -> None:
        saved.extend(self.axes)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", spy)
    return saved


# metrics.csv


def test_metrics_file_has_a_row_for_each_epoch(run: tuple[Path, dict[str, Any]]) -> None:
    directory, _ = run
    with (directory / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["step"] for row in rows] == [str(13 * epoch - 1) for epoch in (1, 2, 3)]
    names = ("loss", "accuracy", "precision", "recall", "f1", "auroc")
    assert set(rows[0]) == {
        *("epoch", "step", "lr"),
        *(f"{part}/{name}" for part in ("train", "val") for name in names),
    }
    assert all(row["lr"] == "0.002" for row in rows)
    assert all(0 <= float(row["val/accuracy"]) <= 1 for row in rows)


def test_result_holds_the_figures_of_the_best_row(run: tuple[Path, dict[str, Any]]) -> None:
    directory, result = run
    history = pd.read_csv(directory / "metrics.csv")
    best = history.loc[history["val/loss"].idxmin()]
    assert result["monitor"]["epoch"] == best["epoch"]
    assert result["monitor"]["best"] == best["val/loss"]
    for name in history.columns:
        if "/" in name:
            assert result["metrics"][name] == best[name]


def test_figures_that_come_later_get_a_column(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    for epoch in range(3):
        logger.log_metrics({"epoch": epoch, "train/loss": 0.5 - epoch / 10}, step=epoch)
        if epoch:
            logger.log_metrics({"epoch": epoch, "val/loss": 0.25}, step=epoch)
        logger.save()
    logger.finalize("success")
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [
        "epoch,step,train/loss,val/loss",
        "1,0,0.5,",
        "2,1,0.4,0.25",
        "3,2,0.3,0.25",
    ]


def test_test_figures_are_no_part_of_the_curves(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"epoch": 0, "test/loss": 0.5}, step=3)
    logger.finalize("success")
    assert not (tmp_path / "metrics.csv").exists()


@pytest.mark.parametrize("value", [0.001, 1 / 3, 1e-8, 3e38, 0.0])
def test_figures_are_written_as_short_as_32_bits_allow(value: float) -> None:
    import numpy as np

    assert np.float32(shorten_float(float(np.float32(value)))) == np.float32(value)
    assert shorten_float(float(np.float32(0.001))) == 0.001


# curves.png


def test_picture_has_a_panel_for_each_figure(
    run: tuple[Path, dict[str, Any]], panels: list[Any]
) -> None:
    path = drawings.learning_curves(run[0]).save(run[0] / "curves.png")
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert [panel.get_title("left") for panel in panels] == [
        *("loss", "accuracy", "auroc", "f1", "precision", "recall"),
        "learning rate",
    ]
    for panel in panels[:-1]:
        assert [line.get_label() for line in panel.lines] == ["train", "val"]
        assert all(len(line.get_xdata()) == 3 for line in panel.lines)
    assert list(panels[-1].lines[0].get_ydata()) == [0.002] * 3


def test_picture_of_one_epoch_without_validation(tmp_path: Path, panels: list[Any]) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,lr,train/loss\n1,4,0.1,0.7\n")
    drawings.learning_curves(tmp_path).save(tmp_path / "curves.png")
    assert [panel.get_title("left") for panel in panels] == ["loss", "learning rate"]
    assert [line.get_marker() for line in panels[0].lines] == ["o"]  # one point shows no line


def test_picture_of_several_validations_an_epoch_shows_the_last(
    tmp_path: Path, panels: list[Any]
) -> None:
    (tmp_path / "metrics.csv").write_text(
        "epoch,step,lr,train/loss,val/loss\n1,4,,,0.9\n1,9,0.1,0.7,0.8\n2,14,,,0.6\n2,19,0.1,0.5,0.5\n"
    )
    drawings.learning_curves(tmp_path).save(tmp_path / "curves.png")
    train_loss, val_loss = panels[0].lines
    assert list(train_loss.get_xdata()) == list(val_loss.get_xdata()) == [1, 2]
    assert list(val_loss.get_ydata()) == [0.8, 0.5]


# Text


def test_table(tmp_path: Path) -> None:
    result = {
        "choices": {"data": "digits", "trainer": "cpu", "model": "mlp", "optimizer": "adam"},
        "metrics": {"train/loss": 0.25, "val/loss": 1 / 3, "test/loss": 0.5, "val/f1": 0.987654},
        "monitor": {"metric": "val/loss", "best": 1 / 3, "epoch": 7},
        "seconds": {"total": 4.56},
    }
    assert text.table(result, Path("outputs/run")) == (
        "data=digits  model=mlp  optimizer=adam\n"
        "                 train       val      test\n"
        "loss              0.25    0.3333       0.5\n"
        "f1                        0.9877          \n"
        "best epoch 7, by val/loss = 0.3333\n"
        "4.6 s; everything lies in outputs/run"
    )


def test_table_without_validation() -> None:
    result = {
        "choices": {},
        "metrics": {"train/loss": 0.25},
        "monitor": {"metric": None, "best": None, "epoch": 3},
        "seconds": {"total": 1.0},
    }
    lines = text.table(result, Path("run")).splitlines()
    assert lines[3] == "last epoch 3; without validation there is no best"


def test_printed_table_is_that_of_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(compose(["data=linear", "trainer.max_epochs=1"]), tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert capsys.readouterr().out == text.table(result, tmp_path) + "\n"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["optimizer.lr=0.002"],
            "lr          0.002 at the start, 0.002 in the middle, 0.002 at the end",
        ),
        (["optimizer.freeze=['layers.0.*']"], "parameters  1,290 trained, 8,320 frozen"),
        (["data=fashion_mnist"], "samples     60,000, not read yet"),
        (["data.batch_size=full"], "steps       1 an epoch, 30 in all"),
        (["data.val_fraction=0"], "samples     1,438 train, 0 val, 359 test"),
        (["data.val_fraction=0"], "monitor     nothing: the last epoch counts"),
        (["monitor.metric=val/f1"], "monitor     val/f1 (max)"),
        (
            ["trainer.max_epochs=-1", "trainer.max_time=00:00:01:00"],
            "steps       40 an epoch, until trainer.max_time",
        ),
    ],
)
def test_plan(overrides: list[str], line: str, tmp_path: Path) -> None:
    assert (
        line
        in check_only.describe_run(compose([f"data.dir='{tmp_path}'", *overrides])).splitlines()
    )
