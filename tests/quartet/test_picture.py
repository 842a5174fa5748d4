"""Pictures of a run: what they draw equals what references compute, and none costs the run."""

import csv
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import matplotlib
import numpy as np
import pytest
import torch
from made import composed, labelled_table, paint
from PIL import Image
from processes import Cli
from sklearn import metrics
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
)

from quartet.data.datamodule import DataModule
from quartet.data.task import Binary, Multiclass, Multilabel, Regression, Task
from quartet.inference.evaluate import evaluate
from quartet.inference.predict import predict
from quartet.reports import drawings
from quartet.reports import run as report
from quartet.reports.figures import PALE, STYLE
from quartet.run import train
from quartet.training.callbacks.predictions import PredictionCollector

pytestmark = pytest.mark.usefixtures("pictures")


def made_up(samples: int, count: int) -> tuple[Any, Any]:
    """Probabilities and classes that have to do with each other."""
    random = np.random.default_rng(0)
    labels = random.integers(0, count, samples)
    logits = random.standard_normal((samples, count)) + 1.5 * np.eye(count)[labels]
    return torch.tensor(logits).softmax(1).float().numpy(), labels


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with matplotlib.rc_context(STYLE):
        yield


def quality_of(task: type[Task], predictions: Any, labels: Any, names: list[str]) -> Any:
    """The canvas that a task has drawn of predictions."""
    collector = PredictionCollector()
    collector.predictions, collector.labels = predictions, labels
    function, *arguments = task().figures(collector, names, {})["predictions"]
    return getattr(drawings, function)(*arguments)


def line(panel: Any, start: str) -> Any:
    return next(each for each in panel.lines if str(each.get_label()).startswith(start))


# What is drawn


@pytest.mark.parametrize("count", [3, 100, 130])
def test_confusion_matrix_is_sklearns(count: int) -> None:
    probabilities, labels = made_up(500, count)
    names = [f"class {k}" for k in range(count)]
    predicted = probabilities.argmax(1)
    canvas = drawings.confusion(predicted, labels, names, "title")
    (panel,) = canvas.figure.axes
    expected = metrics.confusion_matrix(labels, predicted, labels=range(count))
    shares = expected / np.maximum(expected.sum(1, keepdims=True), 1)
    np.testing.assert_allclose(panel.images[0].get_array(), shares)
    shown = [label.get_text() for label in panel.get_yticklabels()]
    assert shown == (names if count <= 100 else names[::2])
    written = {tuple(map(int, text.get_position()[::-1])): text.get_text() for text in panel.texts}
    cells = {tuple(map(int, ij)): str(expected[tuple(ij)]) for ij in np.argwhere(expected)}
    assert written == (cells if count <= 30 else {})


def test_outcomes_of_labels_are_their_confusion_matrices() -> None:
    truth, said = np.random.default_rng(0).integers(0, 2, (2, 80, 3))
    (panel,) = drawings.outcomes(said, truth, ["a", "b", "c"], "title").figure.axes
    expected = metrics.multilabel_confusion_matrix(truth, said)
    cells = expected[:, [1, 1, 0, 0], [1, 0, 1, 0]]
    assert [text.get_text() for text in panel.texts] == [str(n) for n in cells.ravel()]


def test_curves_of_few_classes_are_sklearns() -> None:
    probabilities, labels = made_up(300, 3)
    canvas = quality_of(Multiclass, probabilities, labels, ["a", "b", "c"])
    roc, precision_recall, _ = canvas.figure.axes
    for k, name in enumerate("abc"):
        truth, scores = labels == k, probabilities[:, k]
        drawn = line(roc, f"{name}: AUC {metrics.roc_auc_score(truth, scores):.4f}")
        x, y, _ = metrics.roc_curve(truth, scores)
        np.testing.assert_array_equal(drawn.get_xydata(), np.column_stack([x, y]))
        area = metrics.average_precision_score(truth, scores)
        drawn = line(precision_recall, f"{name}: AP {area:.4f}").get_xydata()
        y, x, _ = metrics.precision_recall_curve(truth, scores, drop_intermediate=True)
        np.testing.assert_array_equal(drawn[1:], np.column_stack([x, y])[-2::-1])
        assert drawn[0, 1] == drawn[1, 1]
        assert (np.diff(drawn[:, 0]) * drawn[1:, 1]).sum() == pytest.approx(area)


def test_of_many_classes_the_mean_and_the_worst_stand_out() -> None:
    probabilities, labels = made_up(600, 20)
    names = [f"kind {k}" for k in range(20)]
    canvas = quality_of(Multiclass, probabilities, labels, names)
    roc, precision_recall, _ = canvas.figure.axes
    assert sum(drawn.get_color() == PALE for drawn in roc.lines) == 20
    truth = labels[:, None] == np.arange(20)
    scores = {"AUC": metrics.roc_auc_score, "AP": metrics.average_precision_score}
    for panel, (area, score) in zip((roc, precision_recall), scores.items(), strict=True):
        each = score(truth, probabilities, average=None)
        assert line(panel, f"mean of 20 classes: {area} {each.mean():.4f}")
        drawn = line(panel, "mean").get_xydata()
        assert np.trapezoid(drawn[:, 1], drawn[:, 0]) == pytest.approx(each.mean(), abs=4e-3)
        assert line(panel, f"worst class, kind {each.argmin()}: {area} {each.min():.4f}")


def test_calibration_error_is_torchmetrics_and_the_interval_wilsons() -> None:
    probabilities, labels = made_up(400, 4)
    right = probabilities.argmax(1) == labels
    error = drawings.calibration(probabilities.max(1), right)[3]
    expected = multiclass_calibration_error(torch.tensor(probabilities), torch.tensor(labels), 4)
    assert error == pytest.approx(float(expected), abs=1e-6)
    one, truth = probabilities[:, 0], labels == 0
    error = drawings.calibration(one, truth)[3]
    expected = binary_calibration_error(torch.tensor(one), torch.tensor(truth).int())
    assert error == pytest.approx(float(expected), abs=1e-6)
    # 8 of 10 at 95 %: 0.4902 to 0.9433 (Brown, Cai and DasGupta, 2001, their formula).
    low, high = drawings.interval(np.array([0.8]), np.array([10]))
    assert (low[0], high[0]) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_reliability_draws_the_bins_that_hold_samples() -> None:
    probabilities, labels = np.array([0.05, 0.06, 0.95, 1.0]), np.array([0, 1, 1, 1])
    canvas = quality_of(Binary, probabilities, labels, ["no", "yes"])
    panel = canvas.figure.axes[-1]
    assert panel.get_title(loc="left") == "Reliability (calibration error 0.2350)"
    np.testing.assert_allclose(line(panel, "observed").get_xydata(), [[0.055, 0.5], [0.975, 1]])
    assert [bar.get_height() for bar in panel.patches] == [0.5, *[0] * 13, 0.5]


def test_classes_without_positives_or_negatives_have_no_curve() -> None:
    probabilities, labels = made_up(50, 3)
    canvas = quality_of(Multiclass, probabilities, np.zeros_like(labels), ["a", "b", "c"])
    assert len(canvas.figure.axes) == 1  # reliability alone
    canvas = quality_of(Multiclass, probabilities, labels.clip(max=1), ["a", "b", "c"])
    assert len(canvas.figure.axes[0].lines) == 3  # a, b and chance


def test_scatter_draws_every_sample() -> None:
    random = np.random.default_rng(0)
    labels = random.standard_normal((90, 2))
    predictions = labels + 0.1 * random.standard_normal((90, 2))
    axes = drawings.scatter(predictions, labels, ["height", "weight"]).figure.axes
    first, residuals, side = axes[3:]
    assert first.get_title(loc="left") == "weight: Predicted against true"
    data = np.column_stack([labels[:, 1], predictions[:, 1]])
    np.testing.assert_array_equal(first.lines[-1].get_xydata(), data)
    data = np.column_stack([predictions[:, 1], (labels - predictions)[:, 1]])
    np.testing.assert_array_equal(residuals.lines[-1].get_xydata(), data)
    assert sum(bar.get_width() for bar in side.patches) == 90


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_scatter_of_a_constant_error(kind: type) -> None:
    predictions = np.array([[0.9], [1.9], [2.9]], dtype=kind)  # too low by .1, give or take a bit
    side = drawings.scatter(predictions, np.array([[1], [2], [3]], kind), ["y"]).figure.axes[2]
    assert sum(bar.get_width() for bar in side.patches) == 3


def test_relevance_by_rank_and_ndcg_by_query() -> None:
    # Query 7: the order of the scores is 1, 0, 2; query 9: the best one.
    scores = np.array([2.0, 3.0, 1.0, 5.0, 4.0])
    relevance = np.array([0.0, 1.0, 2.0, 3.0, 1.0])
    queries = np.array([7, 7, 7, 9, 9])
    by_hand = (1 + 2 / 2) / (2 + 1 / np.log2(3))
    found = drawings.by_query(scores, relevance, queries, None)
    np.testing.assert_allclose(found, [by_hand, 1], rtol=1e-6)
    mean = drawings.mean_at_ranks(relevance, -scores, queries, 20)
    np.testing.assert_array_equal(mean, [(1 + 3) / 2, (0 + 1) / 2, 2])
    mean = drawings.mean_at_ranks(relevance, -relevance, queries, 2)
    np.testing.assert_array_equal(mean, [(2 + 3) / 2, (1 + 1) / 2])


def test_the_most_wrong_is_the_least_probable_truth() -> None:
    probabilities = np.array([[0.9, 0.1], [0.3, 0.7], [0.01, 0.99], [0.6, 0.4]])
    labels, names = np.array([0, 0, 0, 1]), ["cat", "dog"]
    found = Multiclass().most_wrong(probabilities, labels, names, 14)
    assert found == [
        (2, "true cat (0.01)\npredicted dog (0.99)"),
        (1, "true cat (0.3)\npredicted dog (0.7)"),
        (3, "true dog (0.4)\npredicted cat (0.6)"),
    ]
    assert Binary().most_wrong(probabilities[:, 1], labels, names, 14) == found
    assert Multiclass().most_wrong(probabilities[:1], np.array([0]), names, 14) == []
    truth = np.array([[1, 1], [1, 0]])
    missed = Multilabel().most_wrong(probabilities[2:], truth, ["a", "b"], 14)
    assert missed == [(0, "missed: a\n(0.01)")]
    values = np.array([[0.9], [0], [3], [0]])
    far = Regression().most_wrong(probabilities[:, :1], values, ["x"], 14)
    assert [row for row, _ in far] == [2, 3, 1, 0]


# Whose pictures


def drawn_in(sweep: str) -> dict[Path, bytes]:
    return {path.relative_to(sweep): path.read_bytes() for path in Path(sweep).glob("*/*.png")}


@pytest.mark.parametrize("part", ["test", pytest.param("val", marks=pytest.mark.slow)])
def test_winner_of_a_sweep_is_drawn_as_if_alone(command: Cli, tmp_path: Path, part: str) -> None:
    words = ["-m", "data=wine", "seed=0,1", "trainer.max_epochs=1", "logger=none"]
    words += [] if part == "test" else ["data.test_fraction=0"]
    for name, more in (("own", []), ("all", ["pictures=true"]), ("none", ["pictures=false"])):
        assert command("train.py", *words, f"hydra.sweep.dir={name}", *more) == 0
    drawn, of_winner = drawn_in("all"), drawn_in("own")
    assert (len(drawn), len(of_winner), len(drawn_in("none"))) == (6, 3, 0)
    assert of_winner.items() <= drawn.items()
    figures = [json.loads(Path(f"own/{job}/result.json").read_text()) for job in (0, 1)]
    best = min((0, 1), key=lambda job: figures[job]["monitor"]["best"])
    assert {path.parts[0] for path in of_winner} == {str(best)}


@pytest.mark.parametrize(
    "more",
    [
        ["data.val_fraction=0", "data.test_fraction=0", "monitor.metric=train/loss"],
        ["callbacks.best=null"],
    ],
)
def test_winner_without_parts_or_a_best_checkpoint_is_drawn(command: Cli, more: list[str]) -> None:
    words = ["-m", "data=wine", "seed=0,1", "trainer.max_epochs=1", "logger=none", *more]
    for name, pictures in (("own", "null"), ("all", "true")):
        assert command("train.py", *words, f"pictures={pictures}", f"hydra.sweep.dir={name}") == 0
    own, every = drawn_in("own"), drawn_in("all")
    assert own
    assert own.items() <= every.items()
    assert len(every) == 2 * len(own)


def test_undrawn_winner_costs_nothing(command: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quartet.inference.evaluate.draw", Mock(side_effect=ValueError("why")))
    words = ["trainer.max_epochs=1", "logger=none", "hydra.sweep.dir=s"]
    assert command("train.py", "-m", "seed=0,1", *words) == 0
    assert "No pictures of the winner: why" in command.err


# Predictions kept


@pytest.mark.parametrize("step", [1, 3])
def test_predictions_are_those_of_predict(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[PredictionCollector] = []
    monkeypatch.setattr(report, "draw_training", lambda run, collector: kept.append(collector))
    monkeypatch.setattr(PredictionCollector, "max_values", -(-359 * 10 // step))
    cfg = composed(["trainer.max_epochs=1", "data.eval_batch_size=100"])
    train(cfg, tmp_path)
    (seen,) = kept
    with predict(cfg, tmp_path).open() as file:
        rows = list(csv.DictReader(file))[::step]
    assert (seen.part, seen.step) == ("test", step)
    assert seen.rows.tolist() == list(range(0, 359, step))
    assert seen.labels.tolist() == [int(row["target"]) for row in rows]
    assert seen.labels.tolist() == [int(seen.dataset[int(row)][1]) for row in seen.rows]
    table = [[float(row[f"probability_{k}"]) for k in range(10)] for row in rows]
    np.testing.assert_allclose(seen.predictions, table, atol=1e-7)


def test_processes_put_their_shares_together(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.arange(7.0)
    shares = []
    for rank in range(2):
        seen = PredictionCollector()
        for i, batch in enumerate(whole.split(4)):
            rows = batch[rank::2]
            trainer = type("", (), {"global_rank": rank, "world_size": 2})()
            trainer.datamodule = DataModule.__new__(DataModule)
            parts = type("", (), {"test": whole})()
            vars(trainer.datamodule).update(parts=parts, eval_batch_size=2)
            task = Regression(1)
            module = type("", (), {"task": task, "device": whole.device})()
            seen.on_test_batch_end(trainer, module, rows, [rows, -rows], i)  # type: ignore[arg-type]
        shares.append(seen.kept)
    monkeypatch.setattr(
        "quartet.training.callbacks.predictions.all_gather_object", lambda trainer, kept: shares
    )
    seen.on_test_end(trainer, module)  # type: ignore[arg-type]
    assert seen.predictions.tolist() == seen.rows.tolist() == whole.tolist()
    assert seen.labels.tolist() == (-whole).tolist()


# The files


def files(directory: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in directory.glob("*.png"):
        with Image.open(path) as image:
            found[path.name] = image.size
    return found


CASES = {
    "data=digits": {"confusion.png", "predictions.png", "worst.png", "samples.png"},
    "data=breast_cancer": {"confusion.png", "predictions.png"},
    "data=diabetes": {"predictions.png"},
    "data=ranking": {"predictions.png"},
    "data=linear data.val_fraction=0 data.test_fraction=0": set(),
    "data=wine metrics=none data.test_fraction=0": {"confusion.png", "predictions.png"},
}


@pytest.mark.parametrize("overrides", CASES)
def test_a_run_leaves_the_pictures_of_its_task(
    overrides: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(composed(["trainer=smoke", *overrides.split()]), tmp_path)
    assert set(files(tmp_path)) == {"curves.png", *CASES[overrides]}
    assert not caplog.records
    assert all(min(size) > 100 for size in files(tmp_path).values())


def test_pictures_of_labels_and_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labelled_table(tmp_path / "table.csv")
    table = ["data=csv", "data/task=multilabel", "data.target=[red,round]"]
    train(composed(["trainer=smoke", *table, f"data.path={tmp_path}/table.csv"]), tmp_path / "a")
    assert set(files(tmp_path / "a")) == {"curves.png", "confusion.png", "predictions.png"}
    paint(tmp_path / "images", **dict.fromkeys(["$a", "b_{", "c", *map(str, range(20))], 20))
    folder = ["data=image_folder", f"data.path={tmp_path}/images", "data.image_size=8"]
    train(composed(["trainer=smoke", *folder]), tmp_path / "b")
    assert "samples.png" in files(tmp_path / "b")
    assert not [each for each in caplog.records if each.name.startswith("quartet.reports")]


def test_evaluation_draws_beside_its_figures_and_over_nothing(tmp_path: Path) -> None:
    cfg = composed(["trainer=smoke"])
    train(cfg, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.png")}
    for number in ("", "-1"):
        evaluate(cfg, tmp_path, split="val")
        names = {path.name for path in tmp_path.glob(f"evaluation-val{number}*")}
        stem = f"evaluation-val{number}"
        kinds = (".json", "-confusion.png", "-predictions.png", "-worst.png")
        assert {f"{stem}{kind}" for kind in kinds} <= names
    assert {path: path.read_bytes() for path in before} == before


def test_a_picture_that_cannot_be_drawn_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*args: Any) -> None:
        raise ZeroDivisionError("no samples")

    monkeypatch.setattr(drawings, "quality", fails)
    result = train(composed(["trainer=smoke", "data=wine"]), tmp_path)
    assert result["status"] == "finished"
    assert "predictions.png" not in files(tmp_path)
    assert "confusion.png" in files(tmp_path)
    assert caplog.messages == ["predictions.png is left out: ZeroDivisionError: no samples"]
    monkeypatch.setattr(Multiclass, "figures", fails)
    train(composed(["trainer=smoke", "data=wine"]), tmp_path / "again")
    words = "the pictures of the task multiclass are left out: ZeroDivisionError: no samples"
    assert caplog.messages[1:] == [words]


def test_tensorboard_shows_the_same_pictures(tmp_path: Path) -> None:
    train(composed(["trainer=smoke", "logger=tensorboard", "data=wine"]), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the reader's own parts
        events = EventAccumulator(str(tmp_path / "tensorboard"), {"images": 0})
        events.Reload()
    pictures = files(tmp_path)
    assert set(events.Tags()["images"]) == {name.removesuffix(".png") for name in pictures}
    for name, size in pictures.items():
        (event,) = events.Images(name.removesuffix(".png"))
        assert event.encoded_image_string == (tmp_path / name).read_bytes()
        assert (event.width, event.height) == size
        assert event.step == 2
