"""Cross-validation: every sample is held out once, and the report gathers the folds."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from made import composed, idx_files, labelled_table, paint, refusals, write
from torch.utils.data import TensorDataset

from quartet.build import build
from quartet.core.problems import ConfigError
from quartet.data.split import Parts
from quartet.reports.page import render, summary
from quartet.reports.results import rank, read
from quartet.run import train
from quartet.validation.data import load_data
from quartet.validation.length import count_rows

SOURCES: dict[str, list[str]] = {
    "digits": ["data=digits"],
    "breast_cancer": ["data=breast_cancer"],
    "wine": ["data=wine"],
    "diabetes": ["data=diabetes"],
    "linear": ["data=linear"],
    "ranking": ["data=ranking", "data.queries=60"],
    "csv": ["data=csv", "data/task=multilabel", "data.target=[red,round]", "data.path='{}/table.csv'"],
    "mnist": ["data=mnist", "data.dir='{}'"],
    "image_folder": ["data=image_folder", "data.path='{}/pictures'", "data.image_size=8"],
}  # fmt: skip


def parts(overrides: Sequence[str], fold: int, count: int) -> Parts:
    run = build(composed([*overrides, f"data.folds={count}", f"data.fold={fold}"]))
    load_data(run)
    return run.data.parts


@pytest.mark.parametrize("source", SOURCES)
def test_every_sample_is_held_out_once_and_the_test_part_stays(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quartet.validation.length.count_steps", lambda *args: (1, 1.0))
    if source == "mnist":
        write(tmp_path / "MNIST" / "raw", idx_files(100, seed=0))
    if source == "csv":
        labelled_table(tmp_path / "table.csv")
    if source == "image_folder":
        paint(tmp_path / "pictures", cat=20, dog=20)
    overrides = [each.format(tmp_path) for each in SOURCES[source]]
    folds = [parts(overrides, fold, 3) for fold in range(3)]
    sizes = [[len(part) for part in made[:3]] for made in folds]
    assert len({sum(size) for size in sizes}) == len({size[2] for size in sizes}) == 1
    assert sum(val for _, val, _ in sizes) == sizes[0][0] + sizes[0][1]
    if source in ("digits", "ranking", "linear"):  # the others standardise by each training part
        # Queries by their number, other rows by their values.
        def rows(*parts: TensorDataset) -> list[list[float]]:
            tensor = 2 if source == "ranking" else 0
            return sorted(x for p in parts for x in p.tensors[tensor].reshape(len(p), -1).tolist())

        held_out = [made.val for made in folds]
        assert rows(*held_out) == rows(folds[0].train, folds[0].val)
        if source == "ranking":
            queries = [set(part.tensors[2].tolist()) for part in held_out]
            assert len(set.union(*queries)) == sum(map(len, queries))


def test_folds_have_the_shares_of_the_classes() -> None:
    made = parts(["data=digits"], 2, 5)
    counts = [part.tensors[1].bincount() / len(part) for part in made[:2]]
    torch.testing.assert_close(*counts, atol=0.01, rtol=0)


def test_steps_are_counted_before_a_download_as_after_it(tmp_path: Path) -> None:
    names = ["data=mnist", "data.train_samples=100", "data.folds=3", "data.fold=0"]
    assert build(composed([*names, "data.batch_size=1"])).steps_per_epoch == 66
    settings = {"data": {"train_samples": 100, "folds": None}}  # of a set without data.val_fraction
    assert count_rows(settings, SimpleNamespace(loaded=False)) == {"train": 100, "val": 0}  # type: ignore[arg-type]


def test_report_gathers_folds(tmp_path: Path) -> None:
    names = ["data=wine", "data.test_fraction=0", "data.folds=3", "trainer.max_epochs=2"]
    values = []
    for fold in range(3):
        result = train(composed([*names, f"data.fold={fold}"]), tmp_path / str(fold))
        values.append(result["metrics"]["val/accuracy"])
    results = read([tmp_path])
    assert results.knobs == []
    (row,) = rank(results, "val/loss").to_dict("records")
    assert (row["n"], row["of"]) == (3, 3)
    assert row["val/accuracy"] == pytest.approx(sum(values) / 3)
    assert "folds" in summary(results)
    assert "Point: mean over seeds" not in render(results, "folds")
    assert "3 folds." in render(results, "folds")


test_folds_that_cannot_be_are_refused = refusals(
    ("data.fold=1", r"^data.fold=1: is one of data.folds; set that, such as data.folds=5\.$"),
    ("data.folds=5 data.fold=5", r"^data.fold=5: with data.folds=5 they are 0 to 4; in a sweep"),
    ("data.folds=1", r"^data.folds=1: must be at least 2; null"),
    ("data=wine data.folds=50", r"^data.folds=50: there are 38 rows of class '2' beside"),
    ("data=linear data.folds=90", r"^data.folds=90: there are 80 rows beside the test part"),
)


def test_pictures_with_a_validation_part_of_their_own_are_not_folded(tmp_path: Path) -> None:
    for part in ("train", "val"):
        paint(tmp_path / part, cat=20, dog=20)
    names = ["data=image_folder", f"data.path='{tmp_path}'", "data.folds=3"]
    with pytest.raises(
        ConfigError, match=r"val is the validation part already; set data.folds=null"
    ):
        load_data(build(composed(names)))
