"""Tables as people have them: each is read right or refused, and a run reads new ones as its own."""

import bz2
import csv
import functools
import gzip
import inspect
import io
import json
import lzma
import re
import shlex
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from made import composed, project_part
from omegaconf import DictConfig, OmegaConf
from sklearn.metrics import r2_score

from quartet.build import build
from quartet.checkpoints.storage import load as load_checkpoint
from quartet.config.compose import evaluation_config
from quartet.core.problems import ConfigError
from quartet.data.csv import csv as csv_source
from quartet.data.csv import encode
from quartet.data.split import Parts
from quartet.data.table import Format, Table, TableFile, find_kind, spell, survey
from quartet.data.task import Multiclass, Regression
from quartet.inference.evaluate import evaluate
from quartet.inference.predict import predict
from quartet.reports.figures import drawable_names
from quartet.reports.run import describe_run
from quartet.run import train

pytestmark = pytest.mark.usefixtures("no_pictures")

N = 30
random = np.random.default_rng(0)
X, Y = ([f"{value:.3f}" for value in column] for column in random.standard_normal((2, N)))
KINDS = ["cat", "dog", "owl"] * 10
NUMBERS = [str(row) for row in range(N)]
SHORT = ["trainer=cpu", "trainer.max_epochs=1", "callbacks.progress_bar=null", "logger=none"]


def table(header: str, *columns: Sequence[str], separator: str = ",", end: str = "\n") -> str:
    """The text of a file."""
    lines = [header, *(separator.join(row) for row in zip(*columns, strict=True))]
    return "".join(line + end for line in lines)


def config(path: Path, *words: str, target: str = "y", task: str = "regression") -> DictConfig:
    named = [f"data.path='{path}'", f"data.target={target}", f"data/task={task}"]
    return composed(["data=csv", *named, *SHORT, "model=linear", *words])


def load(
    folder: Path, content: str | bytes, *words: str, name: str = "t.csv", **kind: str
) -> Parts:
    """The parts of a table that is written to a file."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    parts: Parts = build(config(path, *words, **kind), folder / "run").data.parts
    return parts


def inputs(parts: Parts) -> list[list[float]]:
    """Rows of all parts as inputs, sorted."""
    found = [part.tensors[0] for part in (parts.train, parts.val, parts.test) if part]  # type: ignore[union-attr, attr-defined]
    return sorted(torch.cat(found).tolist())


def original(parts: Parts, column: str) -> list[float]:
    """The numbers of a column as they stand in the table, sorted."""
    encoding: Any = parts.encoding
    place, numbers = list(encoding["numeric"]).index(column), encoding["numeric"][column]
    rows = sorted(row[place] * numbers["std"] + numbers["mean"] for row in inputs(parts))
    return [round(value, 3) for value in rows]


PLAIN = table("x,y", X, Y)
EXPECTED = sorted(map(float, X))


# Lines and columns


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(table("x,y", X, Y, [""] * N), id="a separator too many in every row"),
        pytest.param(table("x,y,", X, Y, [""] * N), id="and in the header"),
        pytest.param(table("x,y,", X, Y), id="in the header alone"),
        pytest.param(table('"x","y"', NUMBERS, X, Y), id="row numbers as R writes them"),
        pytest.param(table("x, y", X, Y, separator=", "), id="blanks after separators"),
        pytest.param(table("'x','y'", X, Y), id="names in single quotes"),
        pytest.param(table("x,y", X, Y, end="\r\n"), id="Windows"),
        pytest.param(table("x,y", X, Y, end="\r"), id="old Mac"),
        pytest.param(table("x,y", X, Y, end="\n\n"), id="empty lines"),
        pytest.param(f"\n{PLAIN}", id="an empty first line"),
        pytest.param(f"\r\n{PLAIN}", id="an empty first line of Windows"),
        pytest.param(PLAIN.encode("utf-8-sig"), id="UTF-8 with a mark"),
        pytest.param(PLAIN.encode("utf-16"), id="UTF-16 with a mark"),
    ],
)
def test_lines_are_read_as_they_are_meant(tmp_path: Path, content: str | bytes) -> None:
    parts = load(tmp_path, content)
    assert parts.feature_names == ("x",)
    assert original(parts, "x") == EXPECTED
    targets = [value for each in parts.exact_targets.values() for [value] in each.tolist()]
    assert sorted(targets) == sorted(map(float, Y))


AMBIGUOUS = [
    (f"{PLAIN}1,2,3\n", "line 32 has 3 values, and the header 2"),
    (f"{PLAIN}1,2,\n", "line 32 has 3 values, and the header 2"),
    (f"{PLAIN}1\n", "line 32 has 1 values, and the header 2"),
    (table("n,x", NUMBERS, X, [""] * N), "if they begin with names of rows, sed -i"),
    (table("x,y", KINDS, X, Y), r"sed -i '1s/\^/row,/' .* names those too"),
    (f"Results\n{PLAIN}", "if the first line is a title, remove it, sed -i 1d"),
    (f"30,2,cat,dog\n{PLAIN}", "if the first line is a title, remove it, sed -i 1d"),
    (f"% by hand\n{PLAIN}", "\"data.comment='%'\" skips them"),
    (f"# by hand\n{PLAIN}", "\"data.comment='#'\" leaves such lines out"),
    (table("# x,y", X, Y), "or remove the sign if the line names the columns"),
    (table("x,y,y", X, Y, Y), "the header names 'y' twice"),
    (table("x,x,y", X, X, Y), "the header names 'x' twice"),
    (table("x, x,y", X, X, Y), "the header names 'x' twice"),
    (table(",x,y", NUMBERS, X, Y), "'Unnamed: 0' has no name in the file, as numbers of the rows"),
    (table("x,,y", X, X, Y), "'Unnamed: 1' has no name in the file"),
    (table("0.1,2.5", X, Y), "header: the first line holds numbers, 0.1, 2.5"),
    (table("2019,2020,y", X, Y, KINDS), "data.header=true takes them for names"),
    (table("x;y", X, Y, separator=";"), "has one column, 'x;y'; \"data.separator=';'\""),
    (table("x\ty", X, Y, separator="\t"), r"\"data.separator='\\t'\" divides it"),
    (table("x y", X, Y, separator=" "), "has one column, 'x y'; \"data.separator=' '\" divides"),
    ('x,y\n"1,2\n3,4\n', "cannot be read as a csv table: unexpected end of data"),
    (PLAIN.replace("y", "größe").encode("latin-1"), r"is not text in utf-8 \(byte 0xf6\)"),
]


@pytest.mark.parametrize(("content", "words"), AMBIGUOUS)
def test_ambiguous_file_is_refused(tmp_path: Path, content: str | bytes, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"# by hand\n{PLAIN}# end\n", ["data.comment='#'"]),
        (
            table("a", [f"{x},{y}" for x, y in zip(X, Y, strict=True)]).removeprefix("a\n"),
            ["data.header=false", "data.target=c2"],
        ),
        (table("x;y", X, Y, separator=";"), ["data.separator=';'"]),
        (table("x\ty", X, Y, separator="\t"), ["data.separator='\\t'"]),
        (table(" x   y ", X, Y, separator="  "), ["data.separator=' '"]),
        (table("x,y", X, Y).encode("utf-16-le"), ["data.encoding=utf-16-le"]),
        (table(",x,,y", NUMBERS, X, KINDS, Y), ["data.drop=['Unnamed: 0','Unnamed: 2']"]),
    ],
)
def test_the_way_out_reads_it(tmp_path: Path, content: str | bytes, words: list[str]) -> None:
    parts = load(tmp_path, content, *words)
    name = "c1" if "data.header=false" in words else "x"
    assert original(parts, name) == EXPECTED


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("T.CSV.GZ", gzip.compress),
        ("t.bz2", bz2.compress),
        ("t.Xz", lzma.compress),
        ("t.data", gzip.compress),  # the content tells, and not the name
    ],
)
def test_compressed_files_are_read_whatever_their_names(
    tmp_path: Path, name: str, pack: Callable[[bytes], bytes]
) -> None:
    assert original(load(tmp_path, pack(PLAIN.encode()), name=name), "x") == EXPECTED


def test_an_archive_is_read_if_it_holds_one_file(tmp_path: Path) -> None:
    for count in (1, 2):
        with zipfile.ZipFile(packed := io.BytesIO(), "w") as archive:
            for number in range(count):
                archive.writestr(f"folder/{number}.csv", PLAIN)
        if count == 1:
            assert original(load(tmp_path, packed.getvalue(), name="T.ZIP"), "x") == EXPECTED
    with pytest.raises(ConfigError, match=r"holds 2 files \(folder/0.csv, folder/1.csv\)"):
        load(tmp_path, packed.getvalue(), name="t.xlsx")


def test_parquet_holds_what_csv_holds(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"x": map(float, X), "n": range(N), "kind": KINDS, "y": map(float, Y)})
    frame["yes"] = [True, False] * 15
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "T.PARQUET")
    one, other = (
        load(tmp_path, (tmp_path / name).read_bytes(), name=name) for name in ("t.csv", "T.PARQUET")
    )
    assert inputs(one) == inputs(other)
    assert one.feature_names == other.feature_names


@pytest.mark.parametrize("chunk", [1, 8192])
@pytest.mark.parametrize("name", [None, "row"])
@pytest.mark.parametrize("index", [range(N), range(5, N + 5), [f"r{row}" for row in range(N)]])
def test_an_index_of_parquet_shifts_no_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: Any, name: str | None, chunk: int
) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setattr("quartet.data.table.CHUNK", chunk)
    frame = pd.DataFrame({"x": map(float, X), "y": map(float, Y)})
    frame.index = pd.Index(index, name=name)
    frame.to_parquet(path := tmp_path / "t.parquet")
    file = TableFile(path, Format())
    # One of numbers alone is not stored, but described.
    assert file.names == ["x", "y", *(["row"] if name and isinstance(index, list) else [])]
    table = Table([file], file.names, ())
    assert table["x"].tolist() == frame["x"].tolist()
    assert table["y"].tolist() == frame["y"].tolist()


# What values mean


def spelled(*values: str, count: int = N) -> list[str]:
    return [values[row % len(values)] for row in range(count)]


@pytest.mark.parametrize(
    ("values", "words", "numbers"),
    [
        (spelled("1", "2.5", ".5", "+3", "1e3", "-2E-1"), [], [1, 2.5, 0.5, 3, 1000, -0.2]),
        (spelled("4,2", "1.876,5"), ["data.decimal=','", "data.thousands='.'"], [4.2, 1876.5]),
        (spelled("1'000", "20"), ["data.thousands='\\''"], [1000, 20]),
        (spelled("1\xa0000", "20"), ["data.thousands='\\xa0'"], [1000, 20]),
        (spelled("57%", "5 %"), [], [57, 5]),
        (spelled("4.5 kg", "12kg"), ["data.numbers=[v]"], [4.5, 12]),
        (spelled("True", "FALSE"), [], [1, 0]),
        (spelled("007", "010"), ["data.numbers=[v]"], [7, 10]),
        (spelled("1", "NA", "3"), ["data.missing=mean"], None),
        (spelled("1", "?", "3"), ["data.missing=mean", "data.missing_values=['?']"], None),
        (spelled("1", "-999", "3"), ["data.missing=mean", "data.missing_values=[-999]"], None),
    ],
)
def test_numbers_are_numbers(
    tmp_path: Path, values: list[str], words: list[str], numbers: list[float] | None
) -> None:
    parts = load(tmp_path, table("v;y", values, Y, separator=";"), "data.separator=';'", *words)
    assert parts.feature_names == ("v",)
    found = {*original(parts, "v")}
    if numbers is None:  # gaps are the mean of the training part
        encoding: Any = parts.encoding
        assert {1.0, 3.0} < found == {1.0, 3.0, round(encoding["numeric"]["v"]["fill"], 3)}
    else:
        assert found == {*numbers}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (spelled("4,2", "1,55"), "\"data.decimal=','\" reads them as numbers"),
        (spelled("1.876,50", "2,5"), "\"data.decimal=','\" \"data.thousands='.'\" reads"),
        (spelled("1,876", "2,500"), "\"data.thousands=','\" or \"data.decimal=','\" reads"),
        (spelled("1", "2", "3", "?"), "data.missing_values=['?']\" takes it for missing"),
        (spelled("1", "NA", "3", "-"), "data.missing_values=[NA,'-']\" takes it for missing"),
        (spelled("1", "2", "3+"), "data.categories=[v] takes its values for categories"),
        (spelled("57%", "0.5"), "is text, for it holds '57%'"),
        (spelled("$5", "$6.50"), "data.drop=[v] leaves the column out"),
        (spelled("4.5 kg", "12kg"), "data.numbers=[v] takes the numbers before it"),
        (spelled("00015", "20095"), "holds '00015', a code or a number; data.numbers=[v]"),
        (spelled("2024-01-05", "2024-02-01"), "data.order=v divides the rows by it"),
        (spelled("5.1.2024", "12.11.2024"), "holds dates or times, such as '5.1.2024'"),
        (spelled("16:30", "9:15"), "holds dates or times, such as '16:30'"),
        (spelled("3 May 2024", "14 June 2024"), "holds dates or times, such as '3 May 2024'"),
        (spelled("9007199254740993", "1"), "a whole number that a 64-bit float cannot hold"),
    ],
)
def test_perhaps_a_number_is_refused(tmp_path: Path, values: list[str], words: str) -> None:
    content = table("v;y", values, Y, separator=";")
    with pytest.raises(ConfigError, match=re.escape(words)):
        load(tmp_path, content, "data.separator=';'")
    # Both of these work for each of them.
    parts = load(tmp_path, content, "data.separator=';'", "data.categories=[v]")
    assert {name[:2] for name in parts.feature_names or ()} == {"v_"}
    with pytest.raises(ConfigError, match="leaves no input column"):
        load(tmp_path, content, "data.separator=';'", "data.drop=[v]")


def test_codes_keep_their_zeros(tmp_path: Path) -> None:
    parts = load(tmp_path, table("zip,y", spelled("00015", "20095"), Y), "data.categories=[zip]")
    assert parts.feature_names == ("zip_00015", "zip_20095")


def test_an_empty_cell_is_another_category_than_na(tmp_path: Path) -> None:
    land = spelled("DE", "NA", "", "FR")
    parts = load(tmp_path, table("land,y", land, Y))
    assert parts.feature_names == ("land_DE", "land_FR", "land_NA", "land_nan")
    parts = load(tmp_path, table("land,y", land, Y), "data.missing_values=[NA]")
    assert parts.feature_names == ("land_DE", "land_FR", "land_nan")


def test_columns_that_do_not_vary_in_the_training_are_left_out(tmp_path: Path) -> None:
    columns = [["5"] * N, ["a"] * N, [""] * N, X, Y]
    parts = load(tmp_path, table("five,a,empty,x,y", *columns))
    assert parts.feature_names == ("x",)
    assert parts.encoding is not None
    assert parts.encoding["dropped"] == {
        **{"five": "constant in the training part", "a": "constant in the training part"},
        "empty": "empty",
    }
    with pytest.raises(ConfigError, match="leaves no input column that varies"):
        load(tmp_path, table("five,y", ["5"] * N, Y))


# Targets


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["true", "false"], ("false", "true")),
        (["1.0", "10.0", "2.0"], ("1.0", "2.0", "10.0")),
        (["007", "010", "1"], ("1", "007", "010")),
        (["9007199254740992", "9007199254740993"], ("9007199254740992", "9007199254740993")),
        (["NA value", "no"], ("NA value", "no")),
    ],
)
def test_classes_are_written_as_they_stand_in_the_file(
    tmp_path: Path, values: list[str], classes: tuple[str, ...]
) -> None:
    parts = load(tmp_path, table("x,y", X, spelled(*values)), task="multiclass")
    assert parts.class_names == classes


@pytest.mark.parametrize("word", ["None", "NA", "null", "nan"])
def test_a_word_for_missing_values_may_be_a_class(tmp_path: Path, word: str) -> None:
    content = table("x,y", X, spelled(word, "Apnea", "Insomnia"))
    with pytest.raises(ConfigError, match=rf"10 rows with {word}, a class or a missing value"):
        load(tmp_path, content, task="multiclass")
    parts = load(tmp_path, content, "data.missing_values=[]", task="multiclass")
    assert {*(parts.class_names or ())} == {word, "Apnea", "Insomnia"}


@pytest.mark.parametrize(
    ("values", "task", "words"),
    [
        (["1", "1.0"], "multiclass", "writes one class in two ways"),
        (["a", "a "], "multiclass", "writes one class in two ways"),
        (["4,2", "1,7"], "regression", "\"data.decimal=','\" reads them as numbers"),
        (["57%", "3%"], "regression", "remove the sign %"),
        (["9007199254740993", "1"], "regression", "a 64-bit float cannot hold"),
    ],
)
def test_targets_that_can_mean_two_things_are_refused(
    tmp_path: Path, values: list[str], task: str, words: str
) -> None:
    content = table("x;y", X, spelled(*values), separator=";")
    with pytest.raises(ConfigError, match=re.escape(words)):
        load(tmp_path, content, "data.separator=';'", task=task)


def test_targets_that_32_bits_cannot_hold_keep_their_digits(tmp_path: Path) -> None:
    x = np.random.default_rng(0).uniform(0, 1, 200).round(4)
    when = 1_700_000_000 + (100 * x).round().astype(int)
    pd.DataFrame({"x": x, "when": when}).to_csv(tmp_path / "t.csv", index=False)
    cfg = config(tmp_path / "t.csv", "optimizer.lr=0.05", "trainer.max_epochs=40", target="when")
    figures = train(cfg, tmp_path / "run")["metrics"]
    cfg = evaluation_config(tmp_path / "run", [])
    found = pd.read_csv(predict(cfg, tmp_path / "run", split="test"))
    assert {*found.target} <= {*when}
    assert found.target.dtype == np.int64
    assert found.prediction.nunique() > 35
    error = (found.target - found.prediction).abs().mean()
    assert error < 5
    assert error == pytest.approx(figures["test/mae"], rel=1e-4)
    assert figures["test/r2"] == pytest.approx(r2_score(found.target, found.prediction), rel=1e-4)
    whole = pd.read_csv(predict(cfg, tmp_path / "run", input=tmp_path / "t.csv"))
    assert list(whole.target) == list(when)
    with pytest.raises(ConfigError, match="32-bit floats do not tell these targets apart"):
        build(config(tmp_path / "t.csv", "data.standardize_targets=false", target="when"))


def test_r2_of_several_processes_is_that_of_all_samples() -> None:
    metric = project_part("metrics.R2")
    rng = np.random.default_rng(0)
    targets = 1.7e9 + 30 * rng.standard_normal((90, 2))
    predictions = targets + 10 * rng.standard_normal((90, 2))
    each = []
    for part in np.split(np.arange(90), [10, 60]):
        one = metric()
        for rows in np.array_split(part, 3):
            one.update(torch.tensor(predictions[rows]), torch.tensor(targets[rows]))
        each.append(one)
    whole = metric()
    for name in ("count", "mean", "variation", "residuals"):  # as torchmetrics gathers them
        setattr(whole, name, torch.stack([getattr(one, name) for one in each]))
    whole._update_count = 1
    assert float(whole.compute()) == pytest.approx(r2_score(targets, predictions), rel=1e-7)


# Parts


def test_a_second_file_is_the_test_part(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text(table("y,x", Y[:7], X[:7]))
    parts = load(tmp_path, table("x,y", X[7:], Y[7:]), f"data.test_path={tmp_path}/test.csv")
    exact = parts.exact_targets
    assert exact["test"].ravel().tolist() == [*map(float, Y[:7])]
    assert (len(exact["train"]), len(exact["val"])) == (21, 2)
    (tmp_path / "test.csv").write_text(table("y,x,p", Y[:7], X[:7], KINDS[:7]))
    words = [f"data.test_path={tmp_path}/test.csv", "data.group=p"]
    both = r"data\.group: cat, dog, owl is in path and in test_path"
    with pytest.raises(ConfigError, match=both):
        load(tmp_path, table("x,y,p", X[7:], Y[7:], KINDS[7:]), *words)
    parts = load(tmp_path, table("x,y,p", X[7:], Y[7:], NUMBERS[7:]), *words)
    assert [len(parts.exact_targets[part]) for part in ("train", "val", "test")] == [21, 2, 7]
    with pytest.raises(ConfigError, match="test_path: is the test part, and a column divides too"):
        load(tmp_path, PLAIN, words[0], "data.order=x", "data.features=[x]")


def test_rows_that_stand_in_the_training_part_are_told(tmp_path: Path) -> None:
    repeated = [np.repeat(column[:6], 5).tolist() for column in (X, Y)]
    (note,) = load(tmp_path, table("x,y", *repeated), "data.val_fraction=0").notes
    assert note.startswith("6 of the 6 rows of the test part stand in the training part too")
    assert load(tmp_path, PLAIN).notes == ()


@pytest.mark.parametrize(
    ("column", "target", "task"),
    [
        ([str(2 * float(y) + 1) for y in Y], Y, "regression"),
        (NUMBERS, sorted(KINDS), "multiclass"),
        ([kind[0] for kind in KINDS], KINDS, "multiclass"),
    ],
)
def test_a_column_that_tells_the_target_is_told(
    tmp_path: Path, column: list[str], target: list[str], task: str
) -> None:
    notes = load(tmp_path, table("x,told,y", X, column, target), task=task).notes
    assert any("the target follows from told alone" in note for note in notes)
    assert "data.drop=[told]" in notes[-1]
    assert not any("x of" in note for note in notes)


@pytest.mark.parametrize("name", ["patient", "Subject", "userId", "family_id", "case.id", "ID"])
def test_rows_that_share_a_group_with_the_training_part_are_told(tmp_path: Path, name: str) -> None:
    groups = [f"{number // 3}" for number in range(N)]
    content = table(f"x,{name},y", X, groups, Y)
    way_out = f"data.group={name}" if "." not in name else f"\"data.group='{name}'\""
    for words in ([], [f"data.drop=['{name}']"]):
        (found,) = load(tmp_path, content, *words).notes
        assert re.match(rf"[56] of the 6 rows of the test part share their {name} with rows", found)
        assert f"if these belong together, {way_out} keeps them in one part" in found
    assert not load(tmp_path, content, f"data.group='{name}'").notes
    assert not load(tmp_path, content, f"data.order='{name}'").notes


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("paid", [n // 3 for n in range(N)]),  # the word is another one
        ("calls_of_user_today", [n // 3 for n in range(N)]),
        ("family", [n % 9 for n in range(N)]),  # few: its size, perhaps
        ("id", [min(n, 20) for n in range(N)]),  # most of them occur once
        ("id", [n // 3 + 0.5 for n in range(N)]),
    ],
)
def test_other_columns_are_not_told(tmp_path: Path, name: str, groups: list[float]) -> None:
    assert not load(tmp_path, table(f"x,{name},y", X, list(map(str, groups)), Y)).notes


def test_an_identifier_is_told(tmp_path: Path) -> None:
    names = [f"id{number}" for number in NUMBERS]
    notes = load(tmp_path, table("x,name,y", X, names, Y)).notes
    assert any("name has another value in every row" in note for note in notes)


def test_the_check_says_what_each_column_is(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(table("x,kind,id,five,y", X, KINDS, NUMBERS, ["5"] * N, Y))
    text = describe_run(config(tmp_path / "t.csv", "data.drop=[id]"))
    lines = [line.split(maxsplit=1)[1] for line in text.splitlines() if line[:6] == "column"]
    assert lines[0].startswith("x: number, mean ")
    assert lines[1:] == [
        "kind: category of 3 values: cat, dog, owl",
        "y: target",
        "five: dropped, constant in the training part",
        "id: dropped, left out",
    ]
    text = describe_run(config(tmp_path / "t.csv", "data.order=id", "data.features=[x,id]"))
    assert "id: number, mean" in text
    assert "kind: dropped, left out" in text
    text = describe_run(config(tmp_path / "t.csv", "data.order=id", "data.drop=[kind]"))
    assert "id: dropped, divides the rows" in text


# A run and other tables


def prices(seed: int, shift: float, rows: int = 120) -> pd.DataFrame:
    """Rows of a, b, c and a price that depends on them; `shift` moves all three."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.standard_normal((rows, 3)).round(3) + shift, columns=[*"abc"])
    frame["kind"] = np.array(["x", "y", "z"])[rng.integers(3, size=rows)]
    frame["price"] = (10 + 2 * frame.a - 3 * frame.b + frame.c + rng.normal(0, 0.1, rows)).round(3)
    return frame


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, no_pictures: None) -> Path:
    folder = tmp_path_factory.mktemp("prices")
    prices(0, 0).to_csv(folder / "old.csv", index=False)
    words = ["optimizer.lr=0.1", "trainer.max_epochs=30"]
    train(config(folder / "old.csv", *words, target="price"), folder / "run")
    return folder / "run"


def error_of(run: Path, path: Path) -> float:
    found = pd.read_csv(predict(evaluation_config(run, []), run, input=path))
    return float((found.target - found.prediction).abs().mean())


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("1e39", "column 'a' has a number that 32 bits cannot hold; correct it"),
        ("true", "column 'a' has true or false, and the training had numbers alone"),
    ],
)
def test_a_value_that_the_training_could_not_have_is_refused(
    run: Path, tmp_path: Path, value: str, words: str
) -> None:
    frame = prices(0, 0).astype(str)
    frame.loc[3, "a"] = value
    frame.to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(ConfigError, match=words):
        predict(evaluation_config(run, []), run, input=tmp_path / "new.csv")
    with pytest.raises(ConfigError, match=words):
        evaluate(evaluation_config(run, []), run, input=tmp_path / "new.csv")


def test_a_number_where_the_training_had_true_or_false_is_refused(tmp_path: Path) -> None:
    encoding = load(tmp_path, table("x,y", ["true", "false", "1"] * 10, Y)).encoding
    assert encoding is not None
    for known, kind in ((["true", "0"], object), ([0, 1], float)):
        encode({"x": np.array(known, dtype=kind)}, encoding, Format())
    for others, kind in ((["false", "7"], object), ([0, 7], float)):
        with pytest.raises(
            ValueError, match="column 'x' has 7, and the training had true or false"
        ):
            encode({"x": np.array(others, dtype=kind)}, encoding, Format())


@pytest.mark.parametrize("command", [predict, evaluate])
def test_missing_values_that_are_filled_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, command: Callable[..., Any]
) -> None:
    prices(0, 0).to_csv(tmp_path / "old.csv", index=False)
    cfg = config(tmp_path / "old.csv", "data.missing=mean", *SHORT, target="price")
    train(cfg, tmp_path / "run")
    prices(0, 0).assign(b=np.nan).to_csv(tmp_path / "new.csv", index=False)
    command(evaluation_config(tmp_path / "run", []), tmp_path / "run", input=tmp_path / "new.csv")
    assert f"the mean of the training: b of {len(prices(0, 0))} rows" in caplog.text


def test_categories_that_differ_in_blanks_or_capitals_are_told(tmp_path: Path) -> None:
    kinds = ["red", "red ", "Blue", "blue", "green"] * 6
    notes = load(tmp_path, table("x,c,y", X, kinds, Y)).notes
    (told,) = (note for note in notes if "differ in capitals" in note)
    assert "c has categories that differ in capitals or blanks alone: 'Blue' and 'blue'" in told
    assert not any("differ" in note for note in load(tmp_path, table("x,c,y", X, KINDS, Y)).notes)


def test_id_without_a_table_is_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"^id=a: names a column of a table; add input=FILE"):
        predict(evaluation_config(run, []), run, id="a")


@pytest.mark.parametrize("header", ["a;b;y", "a\tb\ty", "a|b|y"])
def test_a_separator_is_found_before_a_title(tmp_path: Path, header: str) -> None:
    sign = header[1]
    rows = [sign.join(["1,5", "2,5", "3,5"])] * 5  # commas that are decimal
    with pytest.raises(ConfigError, match=r"has one column, .*data.separator=.* divides it"):
        load(tmp_path, "\n".join([header, *rows]))


@pytest.mark.parametrize("order", ["abc", "cba", "whole"])
def test_another_table_is_prepared_as_that_of_the_run(
    run: Path, tmp_path: Path, order: str, caplog: pytest.LogCaptureFixture
) -> None:
    new = prices(1, 2)
    if order == "cba":
        new = new[["price", "kind", *"cba"]]
    new.to_csv(tmp_path / "new.csv", index=False)
    if order == "whole":
        figures = evaluate(evaluation_config(run, []), run, input=tmp_path / "new.csv")
        assert figures["test/mae"] == pytest.approx(error_of(run, tmp_path / "new.csv"), rel=1e-5)
        assert caplog.text == ""
        return
    words = [f"data.path={tmp_path}/new.csv", "data.test_fraction=0.99", "data.val_fraction=0"]
    figures = evaluate(evaluation_config(run, words), run)
    assert figures["test/mae"] == pytest.approx(error_of(run, tmp_path / "new.csv"), rel=0.05)
    assert "is not that of the training; it is prepared alike" in caplog.text


def test_rows_that_were_trained_on_are_not_scored(run: Path, tmp_path: Path) -> None:
    words = r"of the 24 samples to score were trained on.*input=FILE"
    with pytest.raises(ConfigError, match=words):
        evaluate(evaluation_config(run, ["data.split_seed=1"]), run)
    grown = pd.concat([prices(0, 0), prices(2, 0, 30)])
    grown.to_csv(tmp_path / "grown.csv", index=False)
    with pytest.raises(ConfigError, match=r"of the 30 samples to score were trained on"):
        evaluate(evaluation_config(run, [f"data.path={tmp_path}/grown.csv"]), run)


def test_file_with_rows_of_training_is_told(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    evaluate(evaluation_config(run, []), run, input=run.parent / "old.csv")
    assert "Caution: 84 of the 120 samples to score were trained on" in caplog.text


def test_a_run_is_not_continued_on_a_table_that_changed(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    prices(0, 0).to_csv(path, index=False)
    train(config(path, target="price"), tmp_path / "run")
    longer = [f"resume={tmp_path}/run", "trainer.max_epochs=2"]
    prices(0, 0)[["price", "kind", *"cab"]].to_csv(path, index=False)  # the same rows
    assert train(composed(longer))["status"] == "finished"
    changed = prices(0, 0)
    changed.loc[3, "a"] += 1
    changed.to_csv(path, index=False)
    with pytest.raises(ConfigError, match=r"t.csv has changed since this training began"):
        train(composed([longer[0], "trainer.max_epochs=3"]))


def test_run_goes_on_with_a_moved_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prices(0, 0).to_csv(path := tmp_path / "t.csv", index=False)
    for name, length in (("whole", 2), ("run", 1)):
        words = ["trainer=cpu", "logger=none", f"trainer.max_epochs={length}"]
        train(config(path, *words, target="price"), tmp_path / name)
    prices(0, 0).to_csv(tmp_path / "moved.csv.gz", index=False)
    path.unlink()
    longer = [f"resume={tmp_path}/run", "trainer.max_epochs=2"]
    with pytest.raises(ConfigError, match=r"is not a file.*; set data.path=FILE"):
        train(composed(longer))
    moved = f"data.path={tmp_path}/moved.csv.gz"
    files = json.loads((tmp_path / "whole/result.json").read_text())["data_files"]
    assert train(composed([*longer, moved]))["data_files"] == files is not None
    one, other = ((tmp_path / name / "metrics.csv").read_text() for name in ("whole", "run"))
    assert one == other
    # Without the numbers of its samples nobody knows whether the table is the same.
    content = load_checkpoint(tmp_path / "run/checkpoints/last.ckpt")
    del content["metadata"]["identity"]
    monkeypatch.setattr("quartet.checkpoints.storage.load", lambda *a, **k: content)
    with pytest.raises(ConfigError, match=r"^data.path=.*: must be where it was"):
        train(composed([longer[0], "trainer.max_epochs=3", moved]))


def test_weights_of_columns_in_another_order_are_refused(run: Path, tmp_path: Path) -> None:
    prices(1, 0)[["c", "b", "a", "kind", "price"]].to_csv(tmp_path / "t.csv", index=False)
    words = [f"model.weights={run}"]
    with pytest.raises(ConfigError, match=r"has them in the order c, b, a, kind_x"):
        build(config(tmp_path / "t.csv", *words, target="price"))
    build(config(tmp_path / "t.csv", *words, "data.features=[a,b,c,kind]", target="price"))


def test_unseen_categories_are_refused_or_zeros_in_number(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    new = prices(1, 0)
    new.loc[:4, "kind"] = "paris"
    new.to_csv(tmp_path / "new.csv", index=False)
    for command in (evaluate, predict):
        with pytest.raises(ConfigError, match=r"'paris', which .* data.unseen=zeros"):
            command(evaluation_config(run, []), run, input=tmp_path / "new.csv")  # type: ignore[operator]
        caplog.clear()
        cfg = evaluation_config(run, ["data.unseen=zeros"])
        command(cfg, run, input=tmp_path / "new.csv")  # type: ignore[operator]
        assert "did not have became zeros: kind of 5 rows" in caplog.text


def test_columns_without_names_are_known_by_their_places(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(table("h", Y, X, NUMBERS, separator=",").removeprefix("h\n"))
    words = ["data.header=false", "data.target=c1"]
    train(config(tmp_path / "t.csv", *words), tmp_path / "run")
    (tmp_path / "less.csv").write_text(table("h", X, NUMBERS).removeprefix("h\n"))
    cfg = evaluation_config(tmp_path / "run", [])
    with pytest.raises(ConfigError, match="has 2 columns, and the table of the training 3"):
        predict(cfg, tmp_path / "run", input=tmp_path / "less.csv")
    found = pd.read_csv(predict(cfg, tmp_path / "run", input=tmp_path / "t.csv"))
    assert list(found.target) == [*map(float, Y)]


def test_a_checkpoint_of_32_bits_is_loaded() -> None:
    task = Regression(2)
    state = {"mean": torch.tensor([1.0, 2.0]), "std": torch.tensor([3.0, 4.0])}
    task.load_state_dict(state)
    assert task.predictions(torch.ones(1, 2)).tolist() == [[4, 6]]
    mean = torch.tensor([1.7e9 + 33, 5], dtype=torch.float64)
    task.set_scale(mean, torch.tensor([3, 4]).double())
    assert task.predictions(torch.ones(1, 2)).tolist() == [[1.7e9 + 36, 9]]


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(table("x,y", X, spelled("banana", "cherry", "apple")))
    train(config(tmp_path / "t.csv", task="multiclass"), tmp_path / "run")
    cfg = evaluation_config(tmp_path / "run", [])
    (tmp_path / "some.csv").write_text(table("x,y", X, spelled("cherry", "banana")))
    figures = evaluate(cfg, tmp_path / "run", input=tmp_path / "some.csv")
    found = pd.read_csv(predict(cfg, tmp_path / "run", input=tmp_path / "some.csv"))
    assert list(found.target) == spelled("cherry", "banana")
    right = (found.target == found.prediction).groupby(found.target).mean()
    assert figures["test/recall"] == pytest.approx(right.mean())
    (tmp_path / "other.csv").write_text(table("x,y", X, spelled("plum", "banana")))
    with pytest.raises(ConfigError, match="holds plum, and the classes of the training are apple"):
        evaluate(cfg, tmp_path / "run", input=tmp_path / "other.csv")
    assert predict(cfg, tmp_path / "run", input=tmp_path / "other.csv").exists()


@pytest.mark.parametrize(("own", "other"), [("true", "TRUE"), ("1", "1.0"), ("0", "0.0")])
def test_a_class_is_known_in_the_spelling_of_another_program(own: str, other: str) -> None:
    names = [own, "2", "false"]
    assert Multiclass().parse_target(other, names) == own
    columns = pd.DataFrame({"y": [other, "2", "false"]}, dtype=object)
    assert Multiclass(3).read_targets(columns, names)[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "content",
    [
        table('"x","y"', [str(row + 1) for row in range(N)], X, spelled("up", "down")),
        table("x,y", X, spelled("true", "false"), [""] * N),
        table("x,y", X, spelled("1", "2"), end="\r\n").encode("utf-16"),
        gzip.compress(table("x,y", X, spelled("b", "a")).encode()),
    ],
)
def test_the_file_of_the_training_is_predicted_as_it_was_trained_on(
    tmp_path: Path, content: str | bytes
) -> None:
    path = tmp_path / "T.CSV.GZ"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    words = ["data.val_fraction=0", "data.test_fraction=0"]
    train(config(path, *words, task="binary"), tmp_path / "run")
    cfg = evaluation_config(tmp_path / "run", [])
    whole = pd.read_csv(predict(cfg, tmp_path / "run", input=path), dtype=str)
    own = pd.read_csv(predict(cfg, tmp_path / "run", split="train"), dtype=str)
    pd.testing.assert_frame_equal(whole, own)
    assert {*whole.prediction} <= {*whole.target}


# A fuzz


class Made:
    """A table with random values, gaps, names and format, perhaps damaged, in a file.

    Attributes:
        path: The file.
        settings: Those of the data group; they may not be the right ones.
        reference: Reads it by pandas with the right settings, each column as texts.
    """

    KINDS = (*("float", "int", "text") * 2, *("bool", "percent", "code", "date", "big", "mixed"))
    TEXTS = ("cat", "größer", "a b", "x;y", "NA", "1a", "l,r", 'say "hi"', "two\nlines")
    DAMAGES = (*("",) * 12, "trail", "trails", "rows", "short", "comment", "title", "no header")

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        count, pick = int(self.random.integers(4, 40)), self.pick
        separator, self.decimal, self.thousands = pick(*",;\t|"), pick(".", ".", ","), None
        if pick(0, 0, 1):
            self.thousands = pick(*({*".,'"} - {self.decimal}))
        names = [f"{pick('x', 'größe', 'a b', 'c,d', 'y;z')}{number}" for number in range(3)]
        columns = [self.column(pick(*self.KINDS), count) for _ in names]
        order = self.random.permutation(4)
        header = [[*names, "y"][place] for place in order]
        columns = [[*columns, self.column("float", count)][place] for place in order]
        rows, damage, end = list(map(list, zip(*columns, strict=True))), pick(*self.DAMAGES), "\n"
        if damage in ("trail", "short"):
            row = rows[int(self.random.integers(count))]
            row.append("") if damage == "trail" else row.pop()
        for number, row in enumerate(rows):
            row += [""] if damage == "trails" else []
            row[:0] = [str(number + 1)] if damage == "rows" else []
        quoting, lines = pick(csv.QUOTE_MINIMAL, csv.QUOTE_ALL), io.StringIO()
        writer = csv.writer(lines, delimiter=separator, quoting=quoting, lineterminator=end)
        writer.writerows(rows if damage == "no header" else [header, *rows])
        above = {"comment": "# made" + end, "title": "Title" + end}.get(damage, "")
        encoding, pack = pick("utf-8", "utf-8-sig", "utf-16", "cp1252"), pick(bytes, gzip.compress)
        self.path = folder / pick("t.csv", "T.CSV.GZ", "t.data")
        self.path.write_bytes(pack((above + lines.getvalue()).encode(encoding)))
        self.settings: dict[str, Any] = {"separator": separator, "path": str(self.path)}
        if pick(0, 1, 1, 1):
            self.settings |= {"decimal": self.decimal, "thousands": self.thousands}
        self.settings |= {"encoding": "cp1252"} if encoding == "cp1252" else {}
        self.settings |= {"comment": "#"} if damage == "comment" and pick(0, 1) else {}
        self.settings |= {"missing": "mean"} if pick(0, 1) else {}
        self.settings |= {"missing_values": ["?"]} if pick(0, 0, 1) else {}
        self.settings |= {"categories": pick([], [], names)}
        text = lines.getvalue().partition(end)[2] if damage != "no header" else lines.getvalue()
        labels = [*(["row"] if damage == "rows" else []), *header]
        labels += ["tail"] if damage == "trails" else []
        options: Any = {"names": labels, "dtype": str, "na_filter": False, "index_col": False}
        self.reference = functools.partial(pd.read_csv, io.StringIO(text), sep=separator, **options)

    def pick(self, *options: Any) -> Any:
        return options[int(self.random.integers(len(options)))]

    def column(self, kind: str, count: int) -> list[str]:
        digits, scale = int(self.random.integers(0, 4)), self.pick(1, 1000, 1e6)

        def number(value: float) -> str:
            text = f"{value:,.{digits}f}".replace(",", "\0").replace(".", self.decimal)
            return text.replace("\0", self.thousands or "")

        small = self.random.integers(0, 30, count)
        values = {
            "float": lambda: map(number, self.random.standard_normal(count) * scale),
            "int": lambda: map(str, small - 9),
            "text": lambda: (self.pick(*self.TEXTS) for _ in small),
            "bool": lambda: (self.pick("True", "False") for _ in small),
            "percent": lambda: (f"{value}%" for value in small),
            "code": lambda: (f"{value:03}" for value in small),
            "date": lambda: (f"2024-05-{value + 1:02}" for value in small),
            "big": lambda: (str(2**53 + value) for value in small),
            "mixed": lambda: (self.pick("1", "2", "3", "?", "-") for _ in small),
        }[kind]()
        word = self.pick("", "NA", "?") if kind != "float" and self.pick(0, 0, 1) else None
        return [word if word is not None and not self.pick(0, 1, 1, 1) else text for text in values]


@pytest.mark.slow
def test_what_is_read_of_random_tables_is_what_pandas_reads(tmp_path: Path) -> None:
    cfg = composed(["data=csv", "data/task=regression"])
    data: Any = OmegaConf.to_container(cfg.data, resolve=True)
    known = inspect.signature(csv_source).parameters.keys() & data
    fixed = {"target": "y", "val_fraction": 0, "test_fraction": 0, "fold": None}
    counts = {"read": 0, "refused": 0}
    for seed in range(2000):
        made = Made(tmp_path, seed)
        settings = {key: data[key] for key in known} | fixed | made.settings
        try:
            parts = csv_source(**settings)
        except ValueError:
            counts["refused"] += 1
            continue
        counts["read"] += 1
        reference = made.reference()
        encoding: Any = parts.encoding
        found, form = parts.train.tensors[0], Format.of(settings)  # type: ignore[attr-defined]
        size = int(made.random.integers(1, 20))
        names = [*encoding["numeric"], *encoding["categories"]]
        parts_of = TableFile(made.path, form).chunks(names, encoding["categories"], size)
        chunks = [encode(chunk, encoding, form) for chunk in parts_of]
        assert torch.equal(torch.cat(chunks), found), seed
        words = {"", *settings["missing_values"]} if settings["missing_values"] else {"", "NA"}
        columns = iter(found.double().T.numpy())
        for name, numbers in encoding["numeric"].items():
            texts = reference[name].str.rstrip("%").replace({"True": "1", "False": "0"})
            texts = texts.str.replace(made.thousands or "\0", "").str.replace(made.decimal, ".")
            right = pd.to_numeric(texts.where(~texts.isin(words))).fillna(numbers["fill"])
            values = next(columns) * numbers["std"] + numbers["mean"]
            np.testing.assert_allclose(
                values, right, 1e-4, 1e-4 * numbers["std"], err_msg=str(seed)
            )
        for name, values in encoding["categories"].items():
            block = np.stack([next(columns) for _ in values])
            gaps = {""} | (words if settings["missing_values"] else set())
            right = [None if text in gaps else text for text in reference[name]]
            assert (block.sum(0) == 1).all(), seed
            assert [values[place] for place in block.argmax(0)] == right, seed
    assert min(counts.values()) > 500, counts


# Speed and memory


def test_numbers_of_blocks_are_one_array_and_so_leave_no_holes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.csv").write_text("a,b,c\n1.00000,2,x\n3.00000,4,y\n")
    monkeypatch.setattr("quartet.data.table.BLOCK", 8)  # less than a line
    file = TableFile(tmp_path / "t.csv", Format())
    (chunk,) = Table([file], ["a", "c", "b"], ()).chunks
    assert next(file.chunks(["a"]))["a"].dtype == np.float64
    assert chunk["a"].base is chunk["b"].base
    assert repr([chunk[name].tolist() for name in "abc"]) == "[[1.0, 3.0], [2.0, 4.0], ['x', 'y']]"


def test_a_text_after_many_numbers_makes_its_column_one_of_texts(tmp_path: Path) -> None:
    # Far enough behind that pandas has taken what stands before it for numbers.
    numbers = [f"{value:.6f}" for value in np.random.default_rng(0).standard_normal(60_000)]
    texts = [*map(str, range(59_999)), "x"]
    (tmp_path / "t.csv").write_text(table("a,b", numbers, texts))
    found = Table([TableFile(tmp_path / "t.csv", Format())], ["a", "b"], ())
    assert len(found.chunks) == 1
    assert found["a"].tolist() == [float(text) for text in numbers]
    assert found["b"].tolist() == texts


AWKWARD = {
    "plain": ("1", "-2.5", "+3e2", ".5", "7."),
    "with gaps": ("1", "", "2.25", "", "4"),
    "empty": ("", "", "", "", ""),
    "empty first": ("", "", "", "1", "2"),
    "words": ("1", "NA", "nan", "None", "2"),
    "signed words": ("-1", "-nan", "+NaN", "2", "3"),
    "codes": ("007", "1", "2", "3", "4"),
    "zeros": ("0", "0.5", "-0", "00.5", "2"),
    "underscores": ("1_000", "1", "2", "3", "4"),
    "true": ("true", "True", "1", "0", "FALSE"),
    "infinite": ("1", "inf", "2", "1e999", "3"),
    "large": ("9007199254740993", "1", "2", "3", "4"),
    "digits": ("0.1234567890123456789", "1e-320", "123456789.123456789", "2", "3"),
    "dates": ("2024-01-05", "2024-01-06", "2024-02-05", "2024-03-05", "2024-04-05"),
    "texts": ("a", "b c", "größe", "x", "nothing"),
    "late text": ("1", "2", "3", "4", "five"),
    "tabs": ("1", "\t2", "3 ", "4", "5"),
    "other blanks": ("1", "\xa02", "3", "4", "5"),
    "other digits": ("1", "\u0662", "\uff13", "4", "5"),
}


def columns_of(path: Path, form: Format, texts: Sequence[str] = ()) -> dict[str, Any]:
    """What is known of each column, whether it is read as numbers or as texts."""
    file, found = TableFile(path, form), {}
    table = Table([file], file.names, texts)
    lists: Any = {"categories": (), "numbers": (), "drop": ()}
    for name in file.names:
        column = table[name]
        try:
            kind = find_kind(name, name, column, form, lists)
        except ValueError as error:
            kind = (str(error), "")
        gaps = form.is_missing(column, True).tolist()
        found[name] = (kind, gaps, form.to_numbers(column).tolist(), name in texts and column)
        assert (column.dtype == object) >= (name in texts)
    return found


@pytest.mark.parametrize("block", [1 << 26, 16 * 20], ids=["whole", "in blocks"])
@pytest.mark.parametrize(("separator", "end"), [(",", "\n"), ("\t", "\r\n")])
def test_a_quick_reading_of_a_table_is_the_slow_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, separator: str, end: str
) -> None:
    path, form = tmp_path / "t.csv", Format(separator=separator, decimal=".")
    columns = {name: values for name, values in AWKWARD.items() if separator not in "".join(values)}
    lines = [separator.join(row) for row in zip(*columns.values(), strict=True)]
    path.write_text(end.join([separator.join(columns), *lines]), newline="")
    monkeypatch.setattr("quartet.data.table.BLOCK", block)
    assert TableFile(path, form).plain
    quick = [columns_of(path, form, texts) for texts in ((), ("plain", "with gaps"))]
    monkeypatch.setattr("quartet.data.table.survey", lambda path, form: None)
    slow = [columns_of(path, form, texts) for texts in ((), ("plain", "with gaps"))]
    assert repr(quick) == repr(slow)  # in which NaN is itself


@pytest.mark.parametrize(
    "content",
    [
        'a,b\n"1",2\n',
        "a,b\n1,2\n\n3,4\n",
        "\na,b\n1,2\n",
        "a,b\n1, 2\n",
        "a,b\n1,2\n3\n",
        "a,b\r1,2\r",
        "a\n1\n",
        "a,b\n1,2,3\n4,5\n",
    ],
)
def test_a_table_that_is_not_plain_is_read_slowly(tmp_path: Path, content: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(content, newline="")
    assert survey(path, Format()) is None
    assert survey(path, Format(decimal=",")) is None


# Words


@pytest.mark.parametrize("value", [";", ",", "\t", " ", "'", '"', "$", "plain", "customer id", "5"])
def test_a_setting_that_a_message_spells_can_be_typed(value: str) -> None:
    (word,) = shlex.split(spell("separator", value))
    (override,) = OverridesParser.create().parse_overrides([word])
    assert str(override.value()).replace("\\t", "\t") == value
    (word,) = shlex.split(spell("drop", value, "x"))
    (override,) = OverridesParser.create().parse_overrides([word])
    assert [str(each).replace("\\t", "\t") for each in override.value()] == [value, "x"]  # type: ignore[union-attr]


def test_names_without_a_font_are_numbers_with_a_legend(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("quartet.reports.figures.log.warning", said.append)
    assert drawable_names(["Größe", "chat"]) == ["Größe", "chat"]
    assert drawable_names(["cat", "\U000f0000", "\U000f0001"]) == ["cat", "#2", "#3"]
    assert "#2 \U000f0000, #3 \U000f0001" in said[0]
