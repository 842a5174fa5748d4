"""Every source of data: what it reads, how it is divided, what it refuses."""

import functools
import gzip
import hashlib
import inspect
import math
import pickle
import re
import shutil
import warnings
from collections.abc import Callable
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from made import cifar_files, composed, idx_files, paint, rejections, write
from omegaconf import OmegaConf
from torchvision import datasets

from quartet.data.split import Parts, split

CONF = Path(__file__).parents[2] / "conf"
SHIPPED = (
    "breast_cancer cifar10 csv diabetes digits fashion_mnist image_folder linear mnist ranking wine"
)
OPTIONS = [name for name in SHIPPED.split() if (CONF / f"data/{name}.yaml").exists()]
SHARED = OmegaConf.load(CONF / "train.yaml").data  # what every data set has, popped by build


def config(*overrides: str) -> dict[str, Any]:
    data: dict[str, Any] = OmegaConf.to_container(composed(overrides).data, resolve=True)  # type: ignore[assignment]
    return data


def source_of(data: dict[str, Any]) -> Callable[..., Parts]:
    module, _, name = data["_target_"].rpartition(".")
    function: Callable[..., Parts] = getattr(import_module(module), name)
    return function


def build(data: dict[str, Any]) -> Parts:
    source = source_of(data)
    names = inspect.signature(source).parameters.keys() - {"fold", "prepared"}
    return source(**{name: data[name] for name in names})


def tensors(part: Any) -> tuple[torch.Tensor, ...]:
    result: tuple[torch.Tensor, ...] = part.tensors
    return result


# Configuration


@pytest.mark.parametrize("option", OPTIONS)
def test_data_file_holds_exactly_the_arguments_of_its_function(option: str) -> None:
    data = config(f"data={option}")
    parameters = inspect.signature(source_of(data)).parameters
    assert set(parameters) <= {*data, "prepared"}
    assert set(data) - set(parameters) <= {*SHARED, "task", "_target_"}
    for parameter in parameters.values():
        assert parameter.kind is parameter.KEYWORD_ONLY
        is_given = parameter.name in ("fold", "prepared")
        assert parameter.default is (None if is_given else parameter.empty)


@pytest.mark.parametrize("option", ["digits", "breast_cancer", "wine", "diabetes", "linear"])
def test_facts_in_the_file_are_those_of_the_data(option: str) -> None:
    data = config(f"data={option}")
    parts = build(data)
    sizes = []
    for part in parts[:3]:
        inputs, targets = tensors(part)
        sizes.append(len(inputs))
        assert list(inputs.shape[1:]) == data["input_shape"]
        assert inputs.dtype == torch.float32
        if data["task"] == "multiclass":
            assert (targets.ndim, targets.dtype) == (1, torch.int64)
            assert targets.unique().tolist() == list(range(data["num_classes"]))
        else:
            assert targets.shape == (len(inputs), data["num_outputs"])
            assert targets.dtype == torch.float32
    assert sizes[1:] == [round(0.1 * sum(sizes)), round(0.2 * sum(sizes))]
    if data["num_classes"]:
        assert parts.class_names is not None
        assert len(parts.class_names) == data["num_classes"]
    if parts.feature_names:
        assert [len(parts.feature_names)] == data["input_shape"]


# scikit-learn's sets


def test_digits_are_between_zero_and_one_and_keep_thins_the_training_part_alone() -> None:
    whole = build(config("data=digits"))
    inputs, _ = tensors(whole.train)
    assert (inputs.min().item(), inputs.max().item()) == (0.0, 1.0)
    thinned = build(config("data=digits", "data.keep={0:0.1,5:0.5}"))
    counts = tensors(whole.train)[1].bincount()
    expected = counts.clone()
    expected[0], expected[5] = round(0.1 * int(counts[0])), round(0.5 * int(counts[5]))
    assert tensors(thinned.train)[1].bincount().tolist() == expected.tolist()
    for before, after in ((whole.val, thinned.val), (whole.test, thinned.test)):
        assert torch.equal(tensors(before)[0], tensors(after)[0])


def test_tables_are_standardised_by_the_training_part() -> None:
    for option in ("breast_cancer", "wine", "diabetes"):
        parts = build(config(f"data={option}"))
        train, test = tensors(parts.train)[0], tensors(parts.test)[0]
        assert train.mean(dim=0).abs().max() < 1e-5
        assert (train.std(dim=0, correction=0) - 1).abs().max() < 1e-5
        assert test.mean(dim=0).abs().max() > 0.01


def test_diabetes_targets_come_back_by_their_scale() -> None:
    scaled = build(config("data=diabetes"))
    plain = build(config("data=diabetes", "data.standardize_targets=false"))
    assert plain.target_scale is None
    assert scaled.target_scale is not None
    mean, std = scaled.target_scale
    assert mean.shape == std.shape == (1,)
    for one, other in zip(scaled[:3], plain[:3], strict=True):
        torch.testing.assert_close(tensors(one)[1] * std + mean, tensors(other)[1])


def test_breast_cancer_target_one_is_benign() -> None:
    parts = build(config("data=breast_cancer"))
    assert parts.class_names == ("malignant", "benign")
    assert tensors(parts.train)[1].mean() == pytest.approx(357 / 569, abs=0.01)


# Random numbers


def test_linear_is_noise_of_its_seed() -> None:
    one, same, other = (
        tensors(build(config("data=linear", f"data.seed={seed}", "data.rows=2000")).train)
        for seed in (0, 0, 1)
    )
    assert torch.equal(one[0], same[0])
    assert not torch.equal(one[0], other[0])
    correlation = (one[0] * one[1]).mean(dim=0)
    assert correlation.abs().max() < 0.1


# Ranking


def test_made_up_queries_are_whole_contiguous_and_in_one_part_only() -> None:
    parts = build(config("data=ranking", "data.queries=30", "data.documents=7"))
    seen: set[int] = set()
    for part, queries in zip(parts[:3], (21, 3, 6), strict=True):
        inputs, targets, indexes = tensors(part)
        assert inputs.shape == (queries * 7, 20)
        kinds = (inputs.dtype, targets.dtype, indexes.dtype)
        assert kinds == (torch.float32, torch.float32, torch.int64)
        assert targets.shape == (queries * 7, 1)
        names, counts = indexes.unique_consecutive(return_counts=True)
        assert counts.tolist() == [7] * queries
        assert not seen & set(names.tolist())
        seen |= set(names.tolist())
    assert seen == set(range(30))


def test_made_up_relevance_is_graded_and_a_linear_fit_beats_random_order() -> None:
    parts = build(config("data=ranking"))
    inputs, targets, _ = tensors(parts.train)
    assert targets.unique().tolist() == [0, 1, 2, 3, 4]
    assert (targets == 0).float().mean() == pytest.approx(0.5, abs=0.03)
    weights = torch.linalg.lstsq(inputs, targets - targets.mean()).solution
    inputs, targets, _ = tensors(parts.test)
    scores = (inputs @ weights).view(-1, 20)
    best = targets.view(-1, 20).gather(1, scores.argmax(dim=1, keepdim=True))
    assert best.mean() > 2.5
    assert targets.mean() < 1.2


test_impossible_queries_are_refused = rejections(
    lambda key, value: build(config("data=ranking", f"data.{key}={value}")),
    ("queries", 0, "queries must be at least 1, got 0"),
    ("documents", 1, "documents must be at least 2, got 1"),
    ("features", 0, "features must be at least 1, got 0"),
    ("noise", -1, "noise must be at least 0, got -1"),
)


def ranked(path: Path, *overrides: str) -> Parts:
    return build(config("data=ranking", f"data.path='{path}'", *overrides))


def test_ranking_file_is_split_by_query_and_scattered_queries_are_gathered(tmp_path: Path) -> None:
    file = tmp_path / "letor.txt"
    lines = [f"{row % 3} qid:{row % 10} 1:{row} 3:{row % 7} #doc{row}" for row in range(40)]
    file.write_text("\n".join(lines))
    parts = ranked(file)
    seen = []
    for part, queries in zip(parts[:3], (7, 1, 2), strict=True):
        inputs, _, indexes = tensors(part)
        names, counts = indexes.unique_consecutive(return_counts=True)
        assert counts.tolist() == [4] * queries
        assert inputs.shape == (4 * queries, 3)
        seen += names.tolist()
    assert sorted(seen) == list(range(10))
    inputs, targets, indexes = tensors(parts.train)
    assert inputs[:, 0].mean().abs() < 1e-6
    assert inputs[:, 1].abs().max() == 0  # feature 2 is never given: constant zero
    first = int(indexes[0])
    assert targets[:4, 0].tolist() == [row % 3 for row in range(40) if row % 10 == first]


def test_ranking_folder_keeps_its_own_parts(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("2 qid:1 1:0 2:1\n0 qid:1 1:2\n1 qid:4 1:4\n")
    (tmp_path / "vali.txt").write_text("1 qid:1 1:10\n")
    (tmp_path / "test.txt").write_text("0 qid:9 1:2\n3 qid:9 1:2 5:1\n")
    parts = ranked(tmp_path)
    inputs, targets, indexes = tensors(parts.train)
    assert inputs.shape == (3, 5)
    assert inputs[:, 0].tolist() == pytest.approx([-math.sqrt(1.5), 0, math.sqrt(1.5)])
    assert targets.squeeze(1).tolist() == [2, 0, 1]
    assert indexes[0] == indexes[1] != indexes[2]
    every = [set(tensors(part)[2].tolist()) for part in parts[:3]]
    assert sum(map(len, every)) == len(set.union(*every)) == 4
    assert tensors(parts.val)[0][0, 0] == pytest.approx(8 / np.std([0, 2, 4]))
    (tmp_path / "vali.txt").unlink()
    parts = ranked(tmp_path)
    assert parts.val is None
    assert tensors(parts.test)[1].squeeze(1).tolist() == [0, 3]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no rows"),
        ("1 1:2\n0 1:1\n", "has a qid in 0 of 2 rows"),
        ("1 qid:1 1:2\n0 1:1\n", "has a qid in 1 of 2 rows"),
        ("-1 qid:1 1:2\n", "has relevance -1; relevance is at least 0"),
        ("a,b\n1,2\n", "cannot be read: .*its lines read 'relevance qid:7"),
    ],
)
def test_ranking_file_of_another_format_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "letor.txt").write_text(text)
    with pytest.raises(ValueError, match=words):
        ranked(tmp_path / "letor.txt")


def test_ranking_path_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"path {tmp_path}/none does not exist; data.path takes"):
        ranked(tmp_path / "none")
    with pytest.raises(ValueError, match=r"has no train.txt; a folder holds train.txt, vali.txt"):
        ranked(tmp_path)


# torchvision's sets


@pytest.mark.parametrize(
    ("option", "folder", "name"),
    [("mnist", "MNIST", "0 - zero"), ("fashion_mnist", "FashionMNIST", "T-shirt/top")],
)
def test_grey_images_come_from_disk(tmp_path: Path, option: str, folder: str, name: str) -> None:
    files = idx_files(100, seed=0)
    write(tmp_path / folder / "raw", files)
    data = config(f"data={option}", f"data.dir='{tmp_path}'")
    parts = build(data)
    for part, count in zip(parts[:3], (90, 10, 10), strict=True):
        inputs, targets = tensors(part)
        assert list(inputs.shape) == [count, *data["input_shape"]]
        assert (inputs.dtype, targets.dtype) == (torch.uint8, torch.int64)
        assert set(targets.bincount(minlength=10).tolist()) == {count // 10}
    raw = np.frombuffer(files["t10k-images-idx3-ubyte"][16:], np.uint8).reshape(10, 1, 28, 28)
    assert np.array_equal(tensors(parts.test)[0].numpy(), raw)
    assert parts.class_names is not None
    assert parts.class_names[0] == name
    whole = build(config(f"data={option}", f"data.dir='{tmp_path}'", "data.val_fraction=0"))
    assert whole.val is None
    assert len(tensors(whole.train)[0]) == 100


def test_cifar10_is_read_channels_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, files = cifar_files(tmp_path, monkeypatch)
    parts = build(config("data=cifar10", f"data.dir='{tmp_path}'"))
    shapes = [tuple(tensors(part)[0].shape) for part in parts[:3]]
    assert shapes == [(count, 3, 32, 32) for count in (90, 10, 20)]
    expected = pickle.loads(files["test_batch"])["data"].reshape(-1, 3, 32, 32)
    inputs, targets = tensors(parts.test)
    assert np.array_equal(inputs.numpy(), expected)
    assert (inputs.dtype, targets.dtype) == (torch.uint8, torch.int64)
    assert parts.class_names == tuple(names)


@pytest.fixture
def mirror(served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that MNIST is downloaded from."""
    folder, address = served
    resources = []
    for name, content in idx_files(100, seed=1).items():
        packed = gzip.compress(content, mtime=0)
        (folder / f"{name}.gz").write_bytes(packed)
        resources.append((f"{name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{address}/"])
    return folder


def test_download_is_whole_or_leaves_nothing(tmp_path: Path, mirror: Path) -> None:
    files = idx_files(100, seed=1)
    files["t10k-images-idx3-ubyte"] = files["t10k-images-idx3-ubyte"][:1000]  # a broken one
    write(tmp_path / "data/MNIST/raw", files)
    parts = build(config("data=mnist", f"data.dir='{tmp_path}/data'"))
    assert len(tensors(parts.test)[0]) == 10
    home = tmp_path / "new" / "data"
    data = config("data=mnist", f"data.dir='{home}'")
    first = build(data)
    assert [path.name for path in home.iterdir()] == ["MNIST"]
    assert {path.name for path in (home / "MNIST/raw").iterdir()} == set(idx_files(10, seed=0))
    (mirror / "t10k-labels-idx1-ubyte.gz").write_bytes(b"<html>no such page</html>")
    with pytest.raises(ValueError, match="failed: File not found or corrupted"):
        build(config("data=mnist", f"data.dir='{tmp_path}/none'"))
    assert not (tmp_path / "none").exists()
    shutil.rmtree(mirror)
    assert torch.equal(tensors(first.train)[0], tensors(build(data).train)[0])


@pytest.mark.parametrize("option", ["mnist", "fashion_mnist", "cifar10"])
def test_download_without_network_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    nowhere = "http://127.0.0.1:9/"
    for source in (datasets.MNIST, datasets.FashionMNIST):
        monkeypatch.setattr(source, "mirrors", [nowhere])
    monkeypatch.setattr(datasets.CIFAR10, "url", f"{nowhere}cifar-10-python.tar.gz")
    (tmp_path / "data").mkdir()
    for home in (tmp_path / "data", tmp_path / "new" / "data"):
        with pytest.raises(ValueError, match="downloading it from") as caught:
            build(config(f"data={option}", f"data.dir='{home}'"))
        message = str(caught.value)
        assert re.search(rf"not whole\) in {home}.* from {nowhere}.* failed: .*refused", message)
        assert re.search(rf"\nPut its files into {home}/.*, or set data.dir to", message)
        assert len(message.splitlines()) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert not list((tmp_path / "data").iterdir())


# Folders of pictures


def pictures(path: Path, *overrides: str) -> Parts:
    arguments = [f"data.path='{path}'", "data.image_size=8", *overrides]
    return build(config("data=image_folder", *arguments))


def contents(part: Any) -> list[tuple[int, int]]:
    return [(round(float(image[0, 0, 0]) * 255), target) for image, target in iter(part)]


def test_folder_of_class_folders_is_split_by_class(tmp_path: Path) -> None:
    paint(tmp_path, cat=20, dog=10)
    parts = pictures(tmp_path)
    image, target = parts.train[0]
    assert (image.shape, image.dtype, target) == ((3, 8, 8), torch.float32, 0)
    assert parts.class_names == ("cat", "dog")
    every = [contents(part) for part in parts[:3]]
    counts = [np.bincount([target for _, target in part]).tolist() for part in every]
    assert counts == [[14, 7], [2, 1], [4, 2]]
    painted = [(n, 0) for n in range(20)] + [(100 + n, 1) for n in range(10)]
    assert sorted(chain(*every)) == painted
    assert parts.train.targets == [target for _, target in every[0]]  # type: ignore[attr-defined]


def test_parts_with_a_folder_of_their_own_are_taken_whole(tmp_path: Path) -> None:
    paint(tmp_path / "train", cat=10, dog=10)
    paint(tmp_path / "test", cat=3, dog=2)
    parts = pictures(tmp_path)
    assert [len(contents(part)) for part in parts[:3]] == [18, 2, 5]
    paint(tmp_path / "val", cat=1, dog=1)
    parts = pictures(tmp_path)
    assert [len(contents(part)) for part in parts[:3]] == [20, 2, 5]


def test_picture_folder_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"path is not set; data.path=FOLDER"):
        build(config("data=image_folder"))
    with pytest.raises(ValueError, match=f"path {tmp_path}/none is not a folder"):
        pictures(tmp_path / "none")
    with pytest.raises(ValueError, match="image_size must be at least 1, got 0"):
        pictures(tmp_path, "data.image_size=0")


# Tables


def table(path: Path, target: str, task: str, *overrides: str) -> Parts:
    arguments = [f"data/task={task}", f"data.path='{path}'", f"data.target={target}"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return build(config("data=csv", *arguments, *overrides))


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """60 rows: a number, two categories (one rare value, gaps), a class, an answer, three labels."""
    row = np.arange(60)
    frame = pd.DataFrame(
        {
            "weight": row * 0.5,
            "fur": np.where(row % 2, "long", "short"),
            "home": np.where(row % 3 == 0, None, np.where(row == 7, "zoo", "flat")),
            "wild": row % 4 == 0,
            "kind": np.array(["dog", "cat", "ant"])[row % 3],
            "loud": np.where(row % 2, "yes", "no"),
            "age": row * 2 + 1,
            "height": row * -1.5,
            "swims": row % 2,
            "flies": row % 5 == 0,
        }
    )
    frame.to_csv(tmp_path / "pets.csv", index=False)
    return tmp_path / "pets.csv"


FEATURES = "data.features=[weight,fur,home,wild]"


def test_table_of_numbers_and_categories_becomes_columns(pets: Path) -> None:
    parts = table(pets, "kind", "multiclass", FEATURES)
    names = ("weight", "wild", "fur_long", "fur_short", "home_flat", "home_zoo", "home_nan")
    known = parts.feature_names
    assert known is not None
    assert set(names) - set(known) <= {"home_zoo"}
    assert parts.class_names == ("ant", "cat", "dog")
    assert parts.target_scale is None
    inputs, targets = tensors(parts.train)
    assert inputs.shape == (42, len(known))
    assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
    assert inputs[:, :2].mean(dim=0).abs().max() < 1e-6
    assert (inputs[:, :2].std(dim=0, correction=0) - 1).abs().max() < 1e-5
    assert (inputs[:, 2:4].sum(dim=1) == 1).all()
    # A dog stands in every third row, the rows without a home.
    assert torch.equal(inputs[:, known.index("home_nan")] == 1, targets == 2)
    counts = [targets.bincount().tolist() for _, targets in map(tensors, parts[:3])]
    assert counts == [[14] * 3, [2] * 3, [4] * 3]


def test_table_is_encoded_by_the_training_part_alone(tmp_path: Path) -> None:
    count = 20
    rows = split(count, val_fraction=0.1, test_fraction=0.2, split_seed=0)
    size = np.zeros(count)
    size[rows.train[::2]], size[rows.test] = 2.0, 9.0
    colour = np.full(count, "red", dtype=object)
    colour[rows.train[0]], colour[rows.test] = "blue", "green"
    frame = pd.DataFrame({"size": size, "colour": colour, "y": np.arange(count) * 1.0})
    frame.to_csv(tmp_path / "t.csv", index=False)
    parts = table(tmp_path / "t.csv", "y", "regression")
    assert parts.feature_names == ("size", "colour_blue", "colour_red")
    assert tensors(parts.train)[0][:2].tolist() == [[1, 1, 0], [-1, 0, 1]]
    assert tensors(parts.test)[0].tolist() == [[8, 0, 0]] * 4
    mean, std = parts.target_scale or (torch.zeros(1), torch.zeros(1))
    assert mean.item() == pytest.approx(rows.train.mean())
    assert std.item() == pytest.approx(rows.train.std())
    back = tensors(parts.test)[1] * std + mean
    assert back.squeeze(1).tolist() == pytest.approx(rows.test.tolist(), abs=1e-4)


def test_binary_and_multilabel_targets_are_columns_of_zeros_and_ones(pets: Path) -> None:
    parts = table(pets, "loud", "binary", "data.features=[fur]")
    inputs, targets = tensors(parts.train)
    assert parts.class_names == ("no", "yes")
    assert (targets.shape, targets.dtype) == ((42, 1), torch.float32)
    assert torch.equal(targets[:, 0], inputs[:, 0])  # fur_long exactly where loud
    parts = table(pets, "[swims,flies]", "multilabel", FEATURES)
    targets = tensors(parts.train)[1]
    assert parts.class_names == ("swims", "flies")
    assert (targets.shape, targets.dtype) == ((42, 2), torch.float32)
    assert set(targets.unique().tolist()) == {0.0, 1.0}


def test_regression_may_have_several_targets_and_plain_ones(pets: Path) -> None:
    parts = table(pets, "[age,height]", "regression", FEATURES)
    assert tensors(parts.train)[1].shape == (42, 2)
    assert parts.target_scale is not None
    assert parts.target_scale[0].shape == (2,)
    assert parts.class_names is None
    plain = table(pets, "age", "regression", FEATURES, "data.standardize_targets=false")
    assert plain.target_scale is None
    assert sum(part[1].sum().item() for part in map(tensors, plain[:3])) == 60 * 60


def test_all_other_columns_are_inputs_unless_dropped(pets: Path) -> None:
    parts = table(pets, "kind", "multiclass", "data.drop=[fur,home,loud]")
    assert parts.feature_names == ("weight", "wild", "age", "height", "swims", "flies")


def test_missing_numbers_are_refused_or_filled_with_the_training_mean(tmp_path: Path) -> None:
    rows = split(20, val_fraction=0.1, test_fraction=0.2, split_seed=0)
    x = np.full(20, 100.0)
    x[rows.train] = np.arange(14)
    x[rows.train[3]] = x[rows.test[0]] = np.nan
    pd.DataFrame({"x": x, "y": np.arange(20)}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match=r"column 'x' has 2 missing values; data.missing=mean"):
        table(tmp_path / "t.csv", "y", "regression")
    parts = table(tmp_path / "t.csv", "y", "regression", "data.missing=mean")
    assert tensors(parts.train)[0][3] == tensors(parts.test)[0][0] == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="missing must be error or mean, got 'drop'"):
        table(tmp_path / "t.csv", "y", "regression", "data.missing=drop")


@pytest.fixture
def visits(tmp_path: Path) -> Path:
    """40 rows, the newest first, four a day: a patient of eight, the part that a column names, y."""
    days = pd.date_range("2024-03-01", periods=10).repeat(4)[::-1]
    frame = pd.DataFrame({"day": days.strftime("%Y-%m-%d"), "noon": days.strftime("%d.%m.%Y")})
    frame["patient"] = [f"p{row % 8}" for row in range(40)]
    frame["part"] = np.repeat(["test", "val", "train"], [8, 4, 28])
    frame["x"], frame["y"] = np.arange(40.0), np.arange(40.0)
    frame.to_csv(tmp_path / "visits.csv", index=False)
    return tmp_path / "visits.csv"


def rows_of(parts: Parts) -> list[list[int]]:
    """The rows of each part, by their targets."""
    assert parts.feature_names == ("x",)  # columns that divide are no inputs
    return [tensors(part)[1].flatten().int().tolist() for part in parts[:3]]


PLAIN = ("data.standardize_targets=false", "data.drop=[noon]")


@pytest.mark.parametrize(
    ("words", "bounds"),
    [
        # 4 rows are a tenth, 8 a fifth: whole days.
        ("data.order=day data.drop=[noon,patient,part]", (12, 8)),
        # Days are not torn apart: 2 rows would be half of one.
        (
            "data.order=day data.drop=[noon,patient,part] data.val_fraction=0.05 "
            "data.test_fraction=0.05",
            (8, 4),
        ),
        ("data.division=part data.drop=[noon,day,patient]", (12, 8)),
    ],
    ids=["time", "whole days", "a column"],
)
def test_table_is_divided_by(visits: Path, words: str, bounds: tuple[int, int]) -> None:
    parts = rows_of(table(visits, "y", "regression", *PLAIN, *words.split()))
    train, val = bounds
    assert parts == [list(range(train, 40)), list(range(val, train)), list(range(val))]


def test_table_is_divided_by_numbers_and_by_group(visits: Path) -> None:
    words = [*PLAIN, "data.drop=[noon,patient,part]", "data.order=x", "data.features=[x]"]
    assert rows_of(table(visits, "y", "regression", *words))[2] == list(range(32, 40))
    words = [*PLAIN, "data.drop=[noon,day,part]", "data.group=patient", "data.test_fraction=0.25"]
    parts = rows_of(table(visits, "y", "regression", *words))
    patients = [{row % 8 for row in part} for part in parts]
    assert [len(each) for each in patients] == [5, 1, 2]
    assert sorted(row for part in parts for row in part) == list(range(40))


def test_folds_are_of_groups_and_of_no_order() -> None:
    groups = np.arange(20) // 2
    cut = functools.partial(split, 20, val_fraction=0, test_fraction=0.2, split_seed=0)
    rows = cut(fold=(1, 4), groups=groups)
    assert not {*groups[rows.train]} & {*groups[rows.val]}
    assert [len(part) for part in rows] == [12, 4, 4]
    with pytest.raises(ValueError, match=r"^folds: rows in an order have no folds"):
        cut(fold=(0, 4), order=groups)


DIVISIONS = [
    ("data.order=noon", r"order column 'noon' holds '10.03.2024', and must hold numbers or dates"),
    ("data.order=dya", "order 'dya' is not a column; did you mean day"),
    ("data.order=day data.group=patient", "group=patient: data.order=day divides the rows already"),
    (
        "data.order=day data.val_fraction=0 data.test_fraction=0.95",
        "test_fraction: 40 rows have 10",
    ),
    (
        "data.division=patient",
        "column 'patient' holds p0, .*; its values must be train, val and test",
    ),
]


@pytest.mark.parametrize(("override", "words"), DIVISIONS)
def test_division_that_does_not_fit_is_refused(visits: Path, override: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}|{words}"):
        table(visits, "y", "regression", *PLAIN, *override.split())


@pytest.mark.parametrize(
    ("target", "task", "override", "words"),
    [
        ("kinds", "multiclass", "", "target 'kinds' is not a column; did you mean kind"),
        ("zzz", "multiclass", "", "target 'zzz' is not a column; there are weight, fur"),
        ("null", "multiclass", "", "target is not set; data.target=COLUMN, one of weight, fur"),
        ("kind", "multiclass", "data.drop=[fru]", "drop 'fru' is not .* did you mean fur"),
        ("kind", "multiclass", "data.features=[kind]", "target 'kind' is in features"),
        ("kind", "multiclass", "data.features=[]", "features leaves no input column"),
        ("[kind,loud]", "multiclass", "", "must be one column for multiclass, got 2: kind, loud"),
        ("kind", "binary", "", "column 'kind' has 3 classes, binary needs exactly 2"),
        ("kind", "regression", "", r"column 'kind' is not numeric \(it holds 'dog'\)"),
        ("height", "multiclass", "", "60 different numbers in 60 rows.*data/task=regression"),
        ("age", "multilabel", "", "'age' holds values other than 0 and 1"),
        ("home", "multiclass", "", "target column 'home' has 20 missing or infinite"),
        ("kind", "multiclass", "data.task=ranking", "task must be one of multiclass, binary"),
        (
            "kind",
            "multiclass",
            "data.max_categories=1",
            r"column 'fur' is text with 2 .* max_categories=1; data.drop=\[fur\]",
        ),
    ],
)
def test_table_that_does_not_fit_is_refused(
    pets: Path, target: str, task: str, override: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        table(pets, target, task, *filter(None, [override]))


UNREADABLE = [
    ("", "has no rows; it needs a line of column names"),
    ("a,y\n", "has no rows; it needs a line of column names"),
    ("a,y\n1,2\n1,2,3,4\n", "cannot be read as a csv table: .*line 3"),
    ("a,y\n1,2\n3,inf\n", "target column 'y' has 1 missing or infinite values, in rows 2; remove"),
    ("a,y\n1,cat\n2,cat\n", "holds 'cat' only; multiclass needs at least 2"),
]


@pytest.mark.parametrize(("text", "words"), UNREADABLE)
def test_unreadable_table_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    task = "multiclass" if "cat" in text else "regression"
    overrides = ("data.val_fraction=0", "data.test_fraction=0")
    with pytest.raises(ValueError, match=words):
        table(tmp_path / "t.csv", "y", task, *overrides)


def test_missing_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"path a.csv is not a file: looked for {tmp_path}/a.csv"):
        table(Path("a.csv"), "y", "regression")
    with pytest.raises(ValueError, match=r"path is not set; data.path=table.csv"):
        build(config("data=csv"))
