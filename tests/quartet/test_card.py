"""What check=only says of the data: numbers by hand."""

from pathlib import Path

import torch
from made import labelled_table, paint
from torch.utils.data import TensorDataset

from quartet.build import compose
from quartet.cli import check_only
from quartet.data.split import Parts
from quartet.reports.card import card


def classes(*counts: int) -> Parts:
    targets = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    train = TensorDataset(torch.linspace(-1, 2, len(targets))[:, None], targets)
    test = TensorDataset(torch.zeros(len(counts), 1), torch.arange(len(counts)))
    return Parts(train, None, test, tuple(f"kind {k}" for k in range(len(counts))))


def test_classes_with_their_shares() -> None:
    facts = {"task": "multiclass", "num_outputs": 3}
    assert card(classes(6, 3, 1), facts) == [
        "inputs      1 float32, -1 to 2",
        "classes     3, the largest 6 times the smallest",
        "               train        test",
        "  kind 0   6 (60.0%)   1 (33.3%)",
        "  kind 1   3 (30.0%)   1 (33.3%)",
        "  kind 2   1 (10.0%)   1 (33.3%)",
    ]


def test_of_many_classes_the_largest_and_the_smallest() -> None:
    lines = card(classes(*range(1, 21)), {"task": "multiclass", "num_outputs": 20})
    assert [line.split("   ")[0].strip() for line in lines[3:]] == [
        *(f"kind {k}" for k in (19, 18, 17, 16)),
        "... 12 more ...",
        *(f"kind {k}" for k in (3, 2, 1, 0)),
    ]
    assert lines[1] == "classes     20, the largest 20 times the smallest"


def test_binary_classes_and_labels(tmp_path: Path) -> None:
    lines = check_only.describe_run(compose(["data=breast_cancer"])).splitlines()
    at = lines.index("classes     2, the largest 1.67 times the smallest")
    assert lines[at + 2].split() == [
        *("malignant", "149", "(37.4%)", "21", "(36.8%)", "42", "(36.8%)")
    ]
    labelled_table(tmp_path / "table.csv")
    table = ["data=csv", f"data.path={tmp_path}/table.csv", "data.target=[red,round]"]
    lines = check_only.describe_run(compose([*table, "data/task=multilabel"])).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("labels      2, "))
    assert [line.split()[0] for line in lines[at + 2 : at + 4]] == ["red", "round"]


def test_targets_of_regression_in_their_units() -> None:
    lines = check_only.describe_run(compose(["data=diabetes"])).splitlines()
    at = lines.index("targets     1, standardised in training")
    assert lines[at + 1].split() == ["mean", "sd", "least", "most"]
    train = lines[at + 2].split()
    from quartet.build import build

    whole = build(compose(["data=diabetes", "data.standardize_targets=false"])).data.parts.train
    values = whole.tensors[1].double()  # type: ignore[attr-defined]
    figures = (values.mean(), values.std(correction=0), values.min(), values.max())
    assert train == ["train", *(f"{float(figure):.4g}" for figure in figures)]


def test_queries_and_documents() -> None:
    def part(*sizes: int) -> TensorDataset:
        indexes = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        grades = torch.arange(len(indexes))[:, None] % 4.0
        return TensorDataset(torch.zeros(len(indexes), 2), grades, indexes)

    assert card(Parts(part(2, 3, 7), None, part(4, 4)), {"task": "ranking", "num_outputs": 1}) == [
        "inputs      2 float32, 0 to 0",
        "targets     grades 0 to 3",
        "          queries     documents each   relevant",
        "  train         3   2 to 7, median 3      75.0%",
        "  test          2                  4      75.0%",
    ]


def test_image_files_are_counted_without_being_read(tmp_path: Path) -> None:
    paint(tmp_path / "images", cat=30, dog=60)
    folder = ["data=image_folder", f"data.path={tmp_path}/images", "data.image_size=8"]
    lines = check_only.describe_run(compose(folder)).splitlines()
    assert "classes     2, the largest 2 times the smallest" in lines
    assert "inputs      3 x 8 x 8 float32, 0.003922 to 0.6235 in the first 63" in lines
