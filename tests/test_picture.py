"""The pictures of a run: which there are for which task, and what TensorBoard has of them."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from quartet.build import compose
from quartet.report import picture
from quartet.report.seen import Seen
from quartet.run import evaluate, train

QUICK = ["trainer.max_epochs=1", "callbacks.progress_bar=null", "trainer.accelerator=cpu"]
EXPECTED = {
    "digits": {"confusion", "curves", "predictions", "samples", "worst"},
    "breast_cancer": {"confusion", "curves", "predictions"},
    "diabetes": {"curves", "predictions"},
    "ranking": {"curves", "predictions"},
}


@pytest.mark.parametrize("data", EXPECTED)
def test_run_has_the_pictures_of_its_task_and_so_has_an_evaluation(
    data: str, tmp_path: Path
) -> None:
    cfg = compose([f"data={data}", *QUICK, "logger=tensorboard"])
    train(cfg, tmp_path)
    assert {path.stem for path in tmp_path.glob("*.png")} == EXPECTED[data]
    events = EventAccumulator(str(next(tmp_path.rglob("events.out.tfevents.*")).parent))
    events.Reload()
    assert len(events.Tags()["images"]) == len(EXPECTED[data])

    evaluate(cfg, tmp_path)
    drawn = {path.stem for path in tmp_path.glob("evaluation-test-*.png")}
    assert drawn == {f"evaluation-test-{name}" for name in EXPECTED[data] - {"curves", "samples"}}


def test_predictions_drawn_are_those_of_the_best_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Seen] = []
    monkeypatch.setattr(picture, "of_training", lambda run, seen: kept.append(seen))
    result = train(compose(["data=wine", *QUICK]), tmp_path)
    (seen,) = kept
    matrix = confusion_matrix(seen.labels, seen.predictions.argmax(1), labels=[0, 1, 2])
    accuracy = np.trace(matrix) / matrix.sum()
    assert accuracy == pytest.approx(result["metrics"]["test/accuracy"], abs=1e-6)


def test_picture_that_cannot_be_drawn_costs_nothing_else(tmp_path: Path) -> None:
    def fails() -> None:
        raise ValueError("one class only")

    made = picture.write({"worst": fails, "fine": lambda: tmp_path / "fine.png"}, tmp_path)
    assert made == [tmp_path / "fine.png"]
