"""What check=only says of the data: numbers by hand."""

from pathlib import Path

import torch
from made import labelled_table, paint
from torch.utils.data import TensorDataset

from quartet.build import build, compose
from quartet.cli import check_only
from quartet.data.split import Parts
from quartet.reports.text import describe_data


def classes(*counts: int) -> Parts:
    targets = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    train = TensorDataset(torch.linspace(-1, 2, len(targets))[:, None], targets)
    test = TensorDataset(torch.zeros(len(counts), 1), torch.arange(len(counts)))
    return Parts(train, None, test, tuple(f"kind {k}" for k in range(len(counts))))


def described(parts: Parts, task: str) -> list[str]:
    return describe_data(parts, {"task": task, "num_outputs": 1, "class_names": parts.class_names})


def test_classes_with_their_shares() -> None:
    assert described(classes(6, 3, 1), "multiclass") == [
        "inputs      1 float32, -1 to 2 in the first 10",
        "train       kind 0 6 (60.0%), kind 1 3 (30.0%), kind 2 1 (10.0%)",
        "test        kind 0 1 (33.3%), kind 1 1 (33.3%), kind 2 1 (33.3%)",
    ]
    assert described(classes(*range(1, 21)), "multiclass")[1].endswith(" and 10 more")


def test_binary_classes_and_labels(tmp_path: Path) -> None:
    lines = check_only.describe_run(compose(["data=breast_cancer"])).splitlines()
    assert "train       malignant 149 (37.4%), benign 249 (62.6%)" in lines
    labelled_table(tmp_path / "table.csv")
    table = ["data=csv", f"data.path={tmp_path}/table.csv", "data.target=[red,round]"]
    lines = check_only.describe_run(compose([*table, "data/task=multilabel"])).splitlines()
    assert any(line.startswith("train       red ") and ", round " in line for line in lines)


def test_targets_of_regression_in_their_units() -> None:
    lines = check_only.describe_run(compose(["data=diabetes"])).splitlines()
    whole = build(compose(["data=diabetes", "data.standardize_targets=false"])).data.parts.train
    values = whole.tensors[1].double()  # type: ignore[attr-defined]
    mean, sd, least, most = values.mean(), values.std(correction=0), values.min(), values.max()
    expected = f"mean {mean:.4g} and sd {sd:.4g} within {least:.4g} to {most:.4g}"
    assert f"train       {expected}" in lines


def test_queries_and_documents() -> None:
    def part(*sizes: int) -> TensorDataset:
        indexes = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        grades = torch.arange(len(indexes))[:, None] % 4.0
        return TensorDataset(torch.zeros(len(indexes), 2), grades, indexes)

    assert described(Parts(part(2, 3, 7), None, part(4, 4)), "ranking") == [
        "inputs      2 float32, 0 to 0 in the first 12",
        "train       3 queries of 2 to 7 documents, 75.0% of them relevant",
        "test        2 queries of 4 to 4 documents, 75.0% of them relevant",
    ]


def test_image_files_are_counted_without_being_read(tmp_path: Path) -> None:
    paint(tmp_path / "images", cat=30, dog=60)
    folder = ["data=image_folder", f"data.path={tmp_path}/images", "data.image_size=8"]
    lines = check_only.describe_run(compose(folder)).splitlines()
    assert "train       cat 21 (33.3%), dog 42 (66.7%)" in lines
    assert "inputs      3 x 8 x 8 float32, 0.003922 to 0.6235 in the first 63" in lines
