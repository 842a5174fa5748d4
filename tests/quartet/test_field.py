"""Files and habits from the field: what is read as its owner means it, or refused in words.

Inputs are small and of our own; each test names the right value, which once came out wrong.
"""

import errno
import functools
import hashlib
import json
import os
import re
import shlex
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import hydra
import numpy as np
import pandas as pd
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from made import assert_refused, composed, options
from made_runs import made_run
from numpy.typing import NDArray
from PIL import Image
from processes import Cli
from sklearn.metrics import ndcg_score, recall_score
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from quartet.build import build, compose
from quartet.checkpoints import storage
from quartet.config.compose import evaluation_config
from quartet.config.overrides import quote_values, to_path
from quartet.core import files
from quartet.core.files import CONF
from quartet.core.problems import ConfigError, TrainingError
from quartet.data.pictures import PictureError, list_pictures, read_picture
from quartet.data.split import identify_files
from quartet.inference.evaluate import evaluate
from quartet.records import run_directory as record
from quartet.records.sweep import Job, Table, make_storage
from quartet.reports.results import cautions, rank
from quartet.reports.results import read as read_results
from quartet.run import train
from quartet.sweeps import grid

pytestmark = pytest.mark.usefixtures("quiet", "no_pictures")
SHORT = ["trainer=cpu", "trainer.max_epochs=1", "callbacks.progress_bar=null", "logger=none"]
# Grey values from left to right and from top to bottom, none twice.
RAMP: NDArray[Any] = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)

# Pictures: as a viewer shows them, or refused


def read(path: Path, mode: str = "RGB") -> NDArray[Any]:
    """A picture in [0, 1], ``(height, width, channels)``."""
    picture = read_picture(path, mode)
    if isinstance(picture, torch.Tensor):
        return picture.permute(1, 2, 0).numpy()
    return np.asarray(picture) / 255


def sixteen_bits(values: NDArray[Any], kind: str = "<u2") -> Image.Image:
    return Image.fromarray((values * 65535).round().astype(kind))


def grey(values: NDArray[Any]) -> Image.Image:
    return Image.fromarray((values * 255).round().astype(np.uint8))


def save_oriented(path: Path, values: NDArray[Any], orientation: int) -> None:
    """A picture that looks like `values` once it is turned as its note says."""
    undo: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].T,
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    grey(undo[orientation](values)).save(path, exif=exif)


def difference(path: Path, expected: NDArray[Any]) -> float:
    """The largest one of a picture from grey values."""
    return float(np.abs(read(path) - expected[:, :, None]).max())


WORDS_16: NDArray[Any] = (RAMP * 65535).round().astype(">u2")


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("a.png", sixteen_bits(RAMP).save),
        ("a.tif", sixteen_bits(RAMP).save),
        ("a.tif", sixteen_bits(RAMP, ">u2").save),
        ("a.tif", Image.fromarray(RAMP).save),
        ("a.tif", lambda path: sixteen_bits(1 - RAMP).save(path, tiffinfo={262: 0})),
        ("a.pgm", lambda path: path.write_bytes(b"P5 8 6 65535\n" + WORDS_16.tobytes())),
    ],
    ids=["png", "tiff", "tiff, big end first", "tiff of floats", "tiff, inverted", "pgm"],
)
def test_picture_of_more_than_8_bits_is_scaled(tmp_path: Path, name: str, save: Any) -> None:
    save(tmp_path / name)
    assert difference(tmp_path / name, RAMP) < 1e-4
    assert read(tmp_path / name).shape == (6, 8, 3)
    assert np.abs(read(tmp_path / name, "L")[..., 0] - RAMP).max() < 1e-4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_picture_is_upright_as_noted(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    values = np.kron(RAMP, np.ones((8, 8)))
    save_oriented(path, values, orientation)
    assert read(path).shape == (48, 64, 3)
    assert difference(path, values) < (0.2 if suffix == "webp" else 0.003)


def test_damaged_notes_of_the_camera_leave_the_pixels(tmp_path: Path) -> None:
    grey(RAMP).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert difference(tmp_path / "a.png", RAMP) < 0.01


def transparent(mode: str) -> Image.Image:
    """Black, with the values in the transparency: on white they are seen."""
    alpha = grey(1 - RAMP)
    if mode == "P":
        palette = Image.fromarray((RAMP > 0.5).astype(np.uint8), "P")
        palette.putpalette([0, 0, 0, 0, 0, 0])
        palette.info["transparency"] = b"\xff\x00"
        return palette
    black = Image.new(mode, alpha.size)
    black.putalpha(alpha)
    return black


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_picture_lies_on_white(tmp_path: Path, mode: str) -> None:
    made = transparent(mode)
    made.save(tmp_path / "a.png", **({"transparency": b"\xff\x00"} if mode == "P" else {}))
    assert difference(tmp_path / "a.png", RAMP > 0.5 if mode == "P" else RAMP) < 0.01


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_colours_are_those_of_the_picture(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (8, 8), (255, 0, 0)).convert(mode).save(tmp_path / "a.tif")
    right = {"1": 0.0, "L": 76 / 255}.get(mode, (1, 0, 0))
    found = read(tmp_path / "a.tif").mean((0, 1))
    assert np.abs(found - right).max() < (0.4 if mode == "1" else 0.02)


def save_large(path: Path) -> None:
    """The header of 30,000 pixels by 30,000."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b""))


PAGES = [Image.new("L", (8, 8), shade) for shade in (0, 128, 255)]
WHITE = Image.new("RGBA", (8, 6), "white")
WHITE.putalpha(grey(RAMP))


@pytest.mark.parametrize(
    ("name", "save", "message"),
    [
        (
            "a.tif",
            Image.fromarray(RAMP * 255).save,
            "values from 0 to 255, and nothing says which is white",
        ),
        ("a.tif", Image.fromarray(RAMP - 0.5).save, "values from -0.5 to 0.5"),
        ("a.tif", Image.fromarray(np.where(RAMP > 0.5, np.nan, RAMP)).save, "values from nan"),
        ("a.tif", Image.fromarray((RAMP * 70000).astype("i4")).save, "values from 0 to 70000"),
        ("a.png", WHITE.save, r"a\.png is blank on white; save it on the background"),
        (
            "a.tif",
            functools.partial(PAGES[0].save, save_all=True, append_images=PAGES[1:]),
            "holds 3 pictures; save each as a file of its own",
        ),
        ("a.png", save_large, r"a\.png has too many pixels; make it smaller"),
    ],
    ids=["of 255", "negative", "nan", "32 bits", "white on nothing", "pages", "large"],
)
def test_ambiguous_picture_is_refused(tmp_path: Path, name: str, save: Any, message: str) -> None:
    save(tmp_path / name)
    with pytest.raises(PictureError, match=message):
        read(tmp_path / name)


# Folders of pictures

COLOURS = {"cat": (200, 40, 40), "dog": (40, 40, 200), "elk": (40, 200, 40)}


def fill(folder: Path, count: int = 6, **names: Any) -> Path:
    """Pictures in class folders: of ``cat="red"`` so many in that colour, of a number so many."""
    for name, many in (names or {"cat": count, "dog": count}).items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(many):
            colour = COLOURS.get(name, (90, 90, 90))
            path = folder / name / f"{number}.png"
            picture = Image.new("RGB", (10, 8), colour)
            picture.putpixel((0, 0), tuple(zlib.crc32(bytes(path)).to_bytes(4)[:3]))  # no two alike
            picture.save(path)
    return folder


PICTURES = ["data=image_folder", "data.image_size=8", "model=linear", *SHORT]
QUERIES = ["data=ranking", "model=linear", *SHORT]
RUN = "hydra.run.dir=run"


def described(path: Path, *overrides: str) -> Any:
    return build(composed([*PICTURES, f"data.path='{path}'", *overrides]))


def sizes(run: Any) -> list[int]:
    return [0 if part is None else len(part) for part in run.data.parts[:3]]


@pytest.mark.parametrize("name", ["val", "valid", "Val", "validation", "VALID", "dev"])
def test_validation_part_has_many_names(tmp_path: Path, name: str) -> None:
    for part, count in (("Train", 6), (name, 2), ("Test", 3)):
        fill(tmp_path / part, count)
    run = described(tmp_path)
    assert sizes(run) == [12, 4, 6]
    assert run.data.parts.class_names == ("cat", "dog")
    fill(tmp_path / "classes", bus=10, train=10)  # a class of trains is no part
    assert described(tmp_path / "classes").data.parts.class_names == ("bus", "train")


@pytest.mark.parametrize("empty", [True, False])
def test_part_may_lack_a_class(tmp_path: Path, empty: bool) -> None:
    fill(tmp_path / "train", cat=4, dog=4, elk=4)
    fill(tmp_path / "val", cat=2, elk=2, **({"dog": 0} if empty else {}))
    fill(tmp_path / "test", dog=3)
    run = described(tmp_path)
    assert sizes(run) == [12, 4, 3]
    assert [target for _, target in run.data.parts.val] == [0, 0, 2, 2]
    assert [target for _, target in run.data.parts.test] == [1, 1, 1]
    assert run.cautions == [
        "the val part has all or nothing of dog; auroc is the mean over the others",
        "the test part has all or nothing of cat, dog, elk; it has no auroc",
    ]


def test_hidden_files_and_links_to_folders_above_are_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, 10)
    for name in (".DS_Store", "._3.png", ".hidden/1.png", "__MACOSX/2.png", "Thumbs.db"):
        (tmp_path / "cat" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "cat" / name).write_bytes(b"no picture")
    (tmp_path / ".git").mkdir()
    (tmp_path / "cat" / "again").symlink_to(tmp_path / "cat")
    fill(tmp_path / "elsewhere", bird=10)
    (tmp_path / "elsewhere").rename(tmp_path / ".elsewhere")
    (tmp_path / "bird").symlink_to(tmp_path / ".elsewhere" / "bird")
    run = described(tmp_path)
    assert run.data.parts.class_names == ("bird", "cat", "dog")
    assert sum(sizes(run)) == 30
    assert run.cautions == []


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    fill(tmp_path / "train", 8)
    for name in ("cat/a.gif", "cat/b.gif", "dog/notes.txt", "0.png"):
        (tmp_path / "train" / name).write_bytes(b"")
    fill(tmp_path / "masks", 1)
    fill(tmp_path, test=3)
    cautions = described(tmp_path).cautions
    assert f"files left out in {tmp_path}/train that are no pictures: 2 .gif, 1 .txt" in cautions
    assert f"1 pictures left out in {tmp_path}/train, beside the class folders" in cautions
    assert f"masks in {tmp_path} left out, beside the folders of parts" in cautions
    assert any("test/ is left out, as it has no class folders" in each for each in cautions)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ("val/cat valid/cat train/cat train/dog", "val/ and valid/, which both name the val"),
        ("test/cat valid/cat", "has test/ and valid/ and no train/"),
        ("cat dog test", "no train/; move cat, dog into train/, or rename them"),
        ("cat/train cat/test dog/train", r"has parts in its classes, cat/test; put .* test/cat"),
        ("train/cat train/dog test/cow", "test has cow, which is none of the classes cat, dog"),
        (
            "pets/cat pets/dog",
            "has one class only, pets; data.path=.*/pets holds a folder for each",
        ),
        ("cat", "has one class only, cat; add another"),
        ("", "has no folders; it must have a folder for each class"),
    ],
)
def test_ambiguous_folders_are_refused(tmp_path: Path, folders: str, message: str) -> None:
    for folder in folders.split():
        fill(tmp_path / Path(folder).parent, **{Path(folder).name: 6})
    with pytest.raises(ConfigError, match=message):
        described(tmp_path)


def test_class_without_pictures_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, cat=10, dog=10, elk=0)
    (tmp_path / "elk" / "a.gif").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"no picture of class elk in .*no pictures: 1 \.gif"):
        described(tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_pictures_are_all_named_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    fill(tmp_path / "train", 10)
    fill(tmp_path / "test", 2)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "train/cat" / "cut.jpg")
    whole = (tmp_path / "train/cat" / "cut.jpg").read_bytes()
    (tmp_path / "train/cat" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "test/dog" / "text.png").write_text("no picture")
    (tmp_path / "train/dog" / "empty.jpg").write_bytes(b"")
    (tmp_path / "train/dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ConfigError) as caught:
        described(tmp_path, f"data.num_workers={workers}")
    message = str(caught.value)
    assert message.startswith("data: 4 pictures cannot be used. Correct or remove them:")
    assert all(name in message for name in ("cut.jpg", "text.png", "empty.jpg", "gone.png"))
    assert sizes(described(tmp_path, "data.check_files=false")) == [21, 2, 5]
    monkeypatch.setattr("quartet.data.image_folder.FEW", 27)
    told = "28 pictures were not read beforehand; data.check_files=true does"
    assert told in described(tmp_path).cautions


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_ends_a_training_with_a_way_out(
    tmp_path: Path, command: Cli, workers: int
) -> None:
    fill(tmp_path / "pets/train", 8)
    fill(tmp_path / "pets/test", 2)
    damaged = tmp_path / "pets/test/dog/0.png"
    whole = damaged.read_bytes()
    damaged.write_bytes(b"cut")
    words = [*PICTURES, RUN, "data.path=pets", "data.check_files=false"]
    assert command("train.py", *words, f"data.num_workers={workers}") == 1
    printed = command.printed
    told = (
        f"{damaged} is no picture, or is damaged. Correct or remove it; data.check_files=true names"
    )
    assert f"Failed: {told}" in printed
    assert "Traceback" not in printed
    assert told in command.refuse("evaluate.py", "run=run")
    damaged.write_bytes(whole)
    assert "accuracy             1" in command.ask("evaluate.py", "run=run")


def test_run_of_pictures_matches_classes_by_name(tmp_path: Path, command: Cli) -> None:
    fill(tmp_path / "pets", 12)
    words = [*PICTURES, "trainer.max_epochs=40", "optimizer.lr=0.05", RUN]
    assert command("train.py", *words, "data.path=pets") == 0
    fill(tmp_path / "dogs", dog=6)
    assert command("evaluate.py", "run=run", "input=dogs") == 0
    assert " dogs\n" in command.out  # heads the figures
    figures = json.loads((tmp_path / "run/evaluation-dogs.json").read_text())["metrics"]
    assert (figures["test/accuracy"], figures["test/auroc"]) == (1, None)
    fill(tmp_path / "more", 12)
    assert command("evaluate.py", "run=run", "data.path=more", "data.test_fraction=0.5") == 0
    fill(tmp_path / "others", bee=6, elk=6)
    for script in ("evaluate.py", "predict.py"):
        assert "has bee, elk, which are none of the classes cat, dog" in command.refuse(
            script, "run=run", "data.path=others"
        )
    assert command("predict.py", "run=run", "input=dogs", "output=p.csv") == 0
    table = pd.read_csv(tmp_path / "p.csv")
    assert list(table["prediction"]) == ["dog"] * 6 == list(table["target"])


def change_pictures(folder: Path) -> None:
    Image.new("RGB", (30, 30), "blue").save(folder / "cat/0.png")


def change_queries(path: Path) -> None:
    text = path.read_text()
    path.write_text(("2" if text[0] == "0" else "0") + text[1:])  # one grade, and the same size


@pytest.mark.parametrize("kind", ["image_folder", "ranking"])
def test_run_notices_that_its_files_have_changed(kind: str, tmp_path: Path, command: Cli) -> None:
    own, words, change = tmp_path / "own", QUERIES, change_queries
    if kind == "image_folder":
        words, change = PICTURES, change_pictures
    fill(own, 12) if kind == "image_folder" else letor(own, [4] * 20)
    assert command("train.py", *words, "data.path=own", RUN) == 0
    if kind == "image_folder":
        (own / "cat/.hidden.png").touch()
    assert command("train.py", "resume=run", "trainer.max_epochs=2") == 0
    assert command("evaluate.py", "run=run") == 0
    assert "Caution" not in command.err
    change(own)
    said = command.refuse("train.py", "resume=run", "trainer.max_epochs=3")
    message = "own has changed since this training began; restore it, or start a run of its own"
    assert message in " ".join(said.split())
    for script in ("evaluate.py", "predict.py"):
        assert command(script, "run=run") == 0
        assert "Caution: the data or its division is not that of the training" in command.err


def test_pictures_that_were_trained_on_are_not_scored(tmp_path: Path, command: Cli) -> None:
    fill(tmp_path / "own", 12)
    assert command("train.py", *PICTURES, "data.path=own", RUN) == 0
    fill(tmp_path / "own", 30)
    said = command.refuse("evaluate.py", "run=run")
    assert "6 of the 12 samples to score were trained on" in said
    # At another place, pictures of the same names and sizes may be others.
    (tmp_path / "own").rename(tmp_path / "new")
    assert command("evaluate.py", "run=run", "data.path=new") == 0
    assert "12 samples to score were trained on" in command.err


def test_queries_are_prepared_by_those_of_the_training_alone(tmp_path: Path, command: Cli) -> None:
    letor(tmp_path / "own", [4] * 20)
    assert command("train.py", *QUERIES, "data.path=own", RUN) == 0
    letor(tmp_path / "new", [3] * 9)
    assert command("evaluate.py", "run=run", "input=new") == 0
    change_queries(tmp_path / "own")
    assert "by which it would be prepared" in command.refuse("evaluate.py", "run=run", "input=new")


def test_files_are_told_apart_by_content_or_size(tmp_path: Path) -> None:
    def identify() -> Any:
        return identify_files([str(tmp_path / "a"), str(tmp_path / "missing")])

    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/1.bin").write_bytes(b"one")
    before = identify()
    assert before["trained"] is None
    (tmp_path / "a/.hidden").touch()
    (tmp_path / "a/run/.hydra").mkdir(parents=True)
    (tmp_path / "a/run/metrics.csv").touch()
    (tmp_path / "a/gone").symlink_to(tmp_path / "nowhere")
    with_link = identify()
    assert with_link != before
    (tmp_path / "a/gone").unlink()
    assert identify() == before
    (tmp_path / "a/b/1.bin").write_bytes(b"two")
    os.utime(tmp_path / "a/b/1.bin", (0, 0))  # clocks of file systems are coarse
    assert identify() != before
    (tmp_path / "a/b/1.bin").write_bytes(b"one")
    assert identify() == before
    (tmp_path / "a/b/1.bin").rename(tmp_path / "a/b/2.bin")
    assert identify() != before
    before = identify()
    (tmp_path / "a/sweep/0/.hydra").mkdir(parents=True)
    (tmp_path / "a/sweep/sweep.json").touch()
    (tmp_path / "a/sweep/report.md").touch()
    assert identify() == before
    # The data may lie beside runs, or in the directory of one.
    (tmp_path / "a/.hydra").mkdir()
    assert identify() == before
    (tmp_path / "a/b/3.bin").touch()
    assert identify() != before
    assert identify_files([]) is None
    assert identify_files(["hf://owner/name", str(tmp_path / "missing")]) is None


def test_result_tells_a_changed_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opened = Mock(side_effect=hashlib.file_digest)
    monkeypatch.setattr(hashlib, "file_digest", opened)

    def files_of(*words: str, end: str = "") -> Any:
        rows = (f"{i % 7},{'no' if i % 3 else 'yes'}\n" for i in range(60))
        Path("t.csv").write_text("".join(["a,y\n", *rows, end]))
        os.utime("t.csv", (len(end), 0))
        names = ["data=csv", "data.path=t.csv", "data.target=y", "model=linear", *SHORT, *words]
        return train(composed(names))["data_files"]

    divisions = ["data.split_seed=1", "data.val_fraction=0.3", "seed=3", "data.folds=3 data.fold=1"]
    assert {files_of(*words.split()) for words in ["", *divisions]} == {files_of()}
    assert opened.call_count == 1
    assert files_of(end="3,no\n") not in (files_of(), None)
    assert train(composed(["data=digits", "model=linear", *SHORT]))["data_files"] is None


def test_result_tells_changed_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, 12)
    # The start has listed them; a folder of many files is not walked again.
    monkeypatch.setattr("quartet.data.datamodule.identify_files", Mock(side_effect=AssertionError))

    def files_of(*words: str) -> Any:
        return train(composed([*PICTURES, f"data.path={tmp_path}", *words]))["data_files"]

    before = files_of()
    assert before == files_of("data.split_seed=1") == files_of("data.folds=3", "data.fold=1")
    fill(tmp_path, 13)
    assert files_of() not in (before, None)


def test_pictures_that_are_in_two_parts_are_told(tmp_path: Path) -> None:
    for part in ("train", "test"):
        fill(tmp_path / part)
    assert not described(tmp_path, "data.val_fraction=0").cautions
    copied = (tmp_path / "train/dog/3.png").read_bytes()
    for number in (4, 5):  # in another class, even
        (tmp_path / f"test/cat/{number}.png").write_bytes(copied)
    (tmp_path / "test/dog/0.png").write_bytes(copied[:-1] + b"1")  # of the same size only
    (found,) = described(tmp_path, "data.val_fraction=0").cautions
    assert found.startswith("2 of the 12 pictures of the test part stand in the training part too")
    assert f"such as {tmp_path}/test/cat/4.png, which is {tmp_path}/train/dog/3.png" in found
    assert not described(tmp_path, "data.val_fraction=0", "data.check_files=false").cautions


def test_pictures_of_16_bits_are_predicted_as_those_of_8(tmp_path: Path, command: Cli) -> None:
    random = np.random.default_rng(0)
    for bits in ("eight", "sixteen", "floats"):
        fill(tmp_path / bits, cat=0, dog=0)
    for name, light in (("cat", 0.2), ("dog", 0.6)):
        for number in range(12):
            values = (light + random.random((8, 8)) * 0.1).astype(np.float32)
            path = f"{name}/{number}"
            grey(values).save(tmp_path / f"eight/{path}.png")
            sixteen_bits(values).save(tmp_path / f"sixteen/{path}.png")
            Image.fromarray(values).save(tmp_path / f"floats/{path}.tif")
    words = [*PICTURES, "trainer.max_epochs=30", "optimizer.lr=0.05", RUN]
    assert command("train.py", *words, "data.path=eight") == 0
    found = {}
    for bits in ("eight", "sixteen", "floats"):
        assert command("predict.py", "run=run", f"input={bits}", f"output={bits}.csv") == 0
        table = pd.read_csv(f"{bits}.csv").sort_values("sample")
        assert (table["prediction"] == table["target"]).all()
        found[bits] = table["probability_dog"].to_numpy()
    for bits in ("sixteen", "floats"):
        assert np.abs(found[bits] - found["eight"]).max() < 0.02


def test_predictions_of_pictures_name_every_damaged_one(tmp_path: Path, command: Cli) -> None:
    fill(tmp_path / "pets", 12)
    assert command("train.py", *PICTURES, "data.path=pets", RUN) == 0
    for name in ("a.png", "b.jpg"):
        (tmp_path / "pets/cat" / name).write_text("no picture")
    said = command.refuse("predict.py", "run=run", "input=pets", "output=p.csv")
    for words in ("2 pictures cannot be used", "a.png", "b.jpg"):
        assert words in said
    assert not (tmp_path / "p.csv").exists()


def test_pictures_are_listed_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b/2.png", "a/3.png", "1.PNG", "a.tar.jpeg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [str(Path(path).relative_to(tmp_path)) for path in list_pictures(tmp_path, {})]
    assert found == ["1.PNG", "a.tar.jpeg", "a/3.png", "b/2.png"]


def test_monitored_auroc_must_exist(tmp_path: Path) -> None:
    fill(tmp_path / "train", 4)
    fill(tmp_path / "val", cat=3)
    with pytest.raises(ConfigError, match="the part holds one class only, so it has no AUROC"):
        described(tmp_path, "monitor.metric=val/auroc")


# What best means: the columns of a table are of one model


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run whose best epoch is none of the ends, and its result."""
    path = tmp_path_factory.mktemp("usual")
    return path, trained(path)


def trained(path: Path, *overrides: str) -> dict[str, Any]:
    words = ["data=wine", "optimizer.lr=0.1", "model.hidden=[8]", "trainer.max_epochs=8"]
    words += ["callbacks.last.min_seconds=0", "metrics.auroc=null", *SHORT[2:]]
    return train(composed(["trainer=cpu", *words, *overrides]), path)


def scored(path: Path, result: dict[str, Any]) -> None:
    """The figures of the test, and those of the validation, are those of the best checkpoint."""
    for part in ("test", "val"):
        again = evaluate(composed_of(path), path, split=part)
        assert again == {k: v for k, v in result["metrics"].items() if k.startswith(part)}


def composed_of(path: Path) -> Any:
    return evaluation_config(path, [])


def test_best_epoch_of_the_usual_run_is_in_the_middle(usual: tuple[Path, dict[str, Any]]) -> None:
    path, result = usual
    assert 1 < result["monitor"]["epoch"] < 8
    assert result["checkpoints"]["best"] == "checkpoints/best.ckpt"
    scored(path, result)


@pytest.mark.parametrize(
    ("override", "files"),
    [
        ("callbacks.best.filename='{epoch}-{val/loss:.3f}'", 1),
        ("callbacks.best.filename='the best (é)'", 1),
        ("callbacks.best.dirpath='${directory}/kept'", 1),
        ("callbacks.best.save_top_k=3", 3),
        ("callbacks.best.save_top_k=-1", 8),
        ("callbacks.last.filename=newest", 1),
    ],
)
def test_best_checkpoint_is_tested_whatever_it_is_called(
    tmp_path: Path, usual: tuple[Path, dict[str, Any]], override: str, files: int
) -> None:
    result = trained(run := tmp_path / "run", override)
    for key in ("monitor", "metrics"):
        assert result[key] == usual[1][key]
    assert (run / result["checkpoints"]["best"]).is_file()
    kept = [each for each in run.rglob("*.ckpt") if each.stem not in ("last", "newest")]
    assert len(kept) == files
    run.rename(moved := tmp_path / "moved")
    scored(moved, result)
    model = composed(["data=wine", "model.hidden=[8]", f"model.weights='{moved}'"])
    weights = storage.load(moved / result["checkpoints"]["best"])["state_dict"]
    for name, value in build(model).module.state_dict().items():
        assert torch.equal(value, weights[name])


@pytest.mark.parametrize("override", ["callbacks.best=null", "callbacks.best.save_top_k=0"])
def test_without_a_best_checkpoint_the_last_epoch_counts(tmp_path: Path, override: str) -> None:
    result = trained(tmp_path, override)
    assert (result["monitor"]["epoch"], result["checkpoints"]["best"]) == (8, None)
    scored(tmp_path, result)


def test_best_among_every_second_epoch_is_told(tmp_path: Path) -> None:
    result = trained(tmp_path, "+callbacks.best.every_n_epochs=3")
    assert result["monitor"]["epoch"] in (3, 6)
    scored(tmp_path, result)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("callbacks.best.monitor=train/loss", "the best epoch is that of monitor.metric=val/loss"),
        ("callbacks.last.dirpath='${directory}/kept'", "resume= looks for it in .*/checkpoints"),
    ],
)
def test_best_of_another_value_is_refused(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        trained(tmp_path, override)


def test_named_checkpoints_continue(tmp_path: Path, usual: tuple[Path, dict[str, Any]]) -> None:
    name = "callbacks.best.filename='{epoch}-{val/loss:.3f}'"
    trained(tmp_path / "run", name, "trainer.max_epochs=5")
    (tmp_path / "run").rename(tmp_path / "moved")
    result = train(compose([f"resume={tmp_path}/moved", "trainer.max_epochs=8"]))
    for key in ("monitor", "metrics"):
        assert result[key] == usual[1][key]
    assert (tmp_path / "moved" / result["checkpoints"]["best"]).is_file()


# The positive class


@pytest.fixture
def fraud(tmp_path: Path) -> Path:
    """60 rows of which six are fraud, and two of these look like it."""
    row = np.arange(60)
    kind = np.where(row % 10 == 0, "fraud", "legit")
    frame = pd.DataFrame({"amount": row % 10 == 0, "hour": row % 24, "kind": kind, "odd": row % 2})
    frame["odd"] = frame["odd"].map({0: "yes, very", 1: "no"})
    frame.astype({"amount": float}).to_csv(tmp_path / "fraud.csv", index=False)
    return tmp_path / "fraud.csv"


@pytest.mark.parametrize(
    ("target", "positive", "shown"),
    [
        ("kind", None, "legit; data.positive=fraud makes it fraud"),
        ("kind", "fraud", "fraud; data.positive=legit makes it legit"),
        ("kind", "legit", "legit; data.positive=fraud makes it fraud"),
        ("odd", None, "yes, very; data.positive=no makes it no"),
        ("odd", "no", "no; 'data.positive=yes, very' makes it yes, very"),
        ("amount", "0.0", "0.0; data.positive=1.0 makes it 1.0"),
    ],
)
def test_positive_class_is_chosen_and_named(
    fraud: Path, command: Cli, target: str, positive: str | None, shown: str
) -> None:
    words = ["data=csv", "data.path=fraud.csv", f"data.target={target}", "data/task=binary"]
    words += [] if positive is None else [f"data.positive='{positive}'"]
    assert f"the positive class is {shown}\n" in command.ask(
        "train.py", *words, RUN, "model=linear", *SHORT
    )
    assert command("predict.py", "run=run", "split=train", "output=p.csv") == 0
    table = pd.read_csv("p.csv", dtype=str)
    name = shown.partition(";")[0]
    likely = table[f"probability_{name}"].astype(float) > 0.5
    assert ((table["prediction"] == name) == likely).all()
    told = command.ask("evaluate.py", "run=run", "split=val")
    assert f"the positive class is {shown}\n" in told
    figures = json.loads(Path("run/evaluation-val.json").read_text())["metrics"]
    assert command("predict.py", "run=run", "split=val", "output=q.csv") == 0
    table = pd.read_csv("q.csv", dtype=str)
    is_one = f"every prediction is the same class, {table['prediction'][0]}" in told
    assert is_one == (table["prediction"].nunique() == 1)
    expected = recall_score(table["target"], table["prediction"], pos_label=name, zero_division=0)
    assert figures["val/recall"] == pytest.approx(expected)


def test_positive_class_that_is_none_is_refused(fraud: Path) -> None:
    words = ["data=csv", f"data.path={fraud}", "data.target=kind"]
    two = r"^data.positive=fraud: is for two classes, and the task"
    assert_refused([*words, "data.positive=fraud"], two)
    words += ["data/task=binary", "data.positive=fruad"]
    assert_refused(words, r"^data.positive=fruad: is no class .* mean fraud\?")


# Sweeps and searches


@pytest.fixture
def sweep(train_py: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """A sweep whose jobs have a value instead of a training: best at lr=0.1, and luckiest at seed 2."""

    def train_job(sweeper: Any, job: Job, *further: str) -> None:
        given = dict(each.split("=", 1) for each in job.overrides)
        lucky = {"2": -10.0}.get(given.get("seed", given.get("data.fold", "0")), 1.0)
        value = abs(float(given.get("optimizer.lr", 1)) - 0.1) + lucky
        content = record.initial_result() | {"status": "finished", "seed": given.get("seed", 0)}
        content["monitor"] |= {"metric": "val/loss", "mode": "min", "best": value, "epoch": 1}
        (job.directory / ".hydra").mkdir(parents=True, exist_ok=True)
        (job.directory / ".hydra/overrides.yaml").write_text(json.dumps(job.overrides))
        record.write_result(job.directory, content)

    monkeypatch.setattr("quartet.sweeps.grid.train_job", train_job)
    return train_py.with_words("-m")


LR = "optimizer.lr=tag(log,interval(1e-3,1.0))"


@pytest.mark.parametrize(
    ("repeats", "count"),
    [
        (["seed=range(3)"], 3),
        (["data.folds=3", "data.fold=range(3)"], 3),
        (["seed=0,2", "data.folds=3", "data.fold=0,1,2"], 6),
        (["data.split_seed=choice(1,2,3,4)"], 4),
        (["seed=2"], 1),
    ],
)
def test_search_sees_means_over_seeds_and_folds(sweep: Cli, repeats: list[str], count: int) -> None:
    optuna = pytest.importorskip("optuna")
    assert sweep("sweep=optuna", "sweep.n_trials=4", LR, *repeats, "hydra.sweep.dir=s") == 0
    table = Table("s")
    assert len(table.jobs) == 4 * count
    study = optuna.load_study(study_name="search", storage=make_storage(None, Path("s")))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4
    for trial in study.trials:
        lr = trial.params["optimizer.lr"]
        jobs = [job for job in table.current if f"optimizer.lr={lr}" in job.overrides]
        assert len({job.key for job in jobs}) == count
        values = [job.result["monitor"]["best"] for job in jobs if job.result]
        assert trial.value == pytest.approx(np.mean(values))
    printed = sweep.out
    best = study.best_trial
    assert f"val/loss {best.value:.4g}\n  " in printed
    assert ("mean of jobs" in printed) == (count > 1)
    results = read_results(["s"])
    ranking = rank(results, "val/loss")
    assert list(ranking["n"]) == [count] * 4
    assert ranking["mean"].iloc[0] == pytest.approx(best.value)


def test_killed_search_keeps_jobs_that_ended(sweep: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["sweep=optuna", "sweep.n_trials=3", LR, "seed=range(3)", "hydra.sweep.dir=s"]
    whole = [*words[:-1], "hydra.sweep.dir=whole"]
    pytest.importorskip("optuna")
    assert sweep(*whole) == 0
    train_job = grid.train_job

    def killed(sweeper: Any, job: Job, *further: str) -> None:
        if job.number == 4:
            raise KeyboardInterrupt
        train_job(sweeper, job, *further)

    with monkeypatch.context() as patch:
        patch.setattr("quartet.sweeps.grid.train_job", killed)
        with pytest.raises(KeyboardInterrupt):
            sweep(*words)
    assert sweep(*words) == 0
    found = Table("s")
    assert sorted(job.key for job in found.current) == sorted(j.key for j in Table("whole").current)
    assert {n for n, job in found.jobs.items() if job.retried_as is not None} == {4, 5}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep.over=[seed]"], "seed is no setting to search, as the luckiest value would win"),
        (["sweep.space={data.fold: [0, 1]}"], "data.fold is no setting to search"),
        (["seed=interval(0,9)"], "seed=interval(0,9): a grid needs values, such as seed=1,2"),
        (["seed=0,1", LR, "sweep.pruner=median"], "of several seeds or folds is not pruned"),
        (["experiment=optimizers"], "experiment=optimizers names values to combine"),
        (["experiment=linear_regression,optimizers"], "=optimizers names values to combine"),
    ],
)
def test_search_for_luck_is_refused(sweep: Cli, words: list[str], message: str) -> None:
    pytest.importorskip("optuna")
    assert message in sweep.refuse("sweep=optuna", *words, "hydra.sweep.dir=s")
    assert not Path("s").exists()


GRID = ": a grid needs values, such as optimizer.lr=1,2; sweep=optuna"
NO_SETTING = "sweep.space: the chosen sweep has no such setting; sweep=NAME chooses another one."
NUMBERED = "hydra.sweep.subdir=${hydra.job.override_dirname}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.lr=interval(1e-4,1e-1)"], f"optimizer.lr=interval(1e-4,1e-1){GRID}"),
        (["optimizer.lr=tag(log,interval(0.1,1))"], f"optimizer.lr=tag(log,interval(0.1,1)){GRID}"),
        (["seed=1", "sweep.space={a: 1}"], f"  {NO_SETTING}"),
        (["seed=1,2", NUMBERED], "hydra.sweep.subdir: the jobs of a sweep are numbered"),
    ],
)
def test_setting_that_no_grid_has_is_refused(sweep: Cli, words: list[str], message: str) -> None:
    assert f"\n{message}" in "\n" + sweep.refuse(*words, "hydra.sweep.dir=s")
    assert not Path("s").exists()


def test_same_training_counts_once(sweep: Cli) -> None:
    assert sweep("optimizer.lr=0.1,0.2", "seed=0,1", "hydra.sweep.dir=a") == 0
    assert sweep("optimizer.lr=0.1,0.2", "seed=1,2", "hydra.sweep.dir=b") == 0
    ranking = rank(read_results(["a", "b"]), "val/loss")
    assert list(ranking["n"]) == [3, 3]
    assert ranking["mean"].iloc[0] == pytest.approx((1 + 1 - 10) / 3)


def test_experiments_that_are_sweeps_are_expanded(sweep: Cli) -> None:
    count = {name: len(options(name)) for name in ("optimizer", "scheduler")}
    assert sweep("experiment=optimizers,schedulers", "hydra.sweep.dir=s") == 0
    assert len(Table("s").jobs) == 3 * sum(count.values())
    assert sweep("experiment=optimizers,schedulers", "seed=7", "hydra.sweep.dir=t") == 0
    assert len(Table("t").jobs) == sum(count.values())
    words = ["experiment=optimizers,linear_regression", "optimizer=sgd,adam", "seed=1,2"]
    assert sweep(*words, "hydra.sweep.dir=u") == 0
    assert len(Table("u").jobs) == 8
    assert sweep("experiment=batch_sizes", "data.batch_size=8", "hydra.sweep.dir=v") == 0
    assert len(Table("v").jobs) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["experiment=optimizers"],
            "experiment=optimizers is a sweep over optimizer and seed; start",
        ),
        (
            ["experiment=batch_sizes", "seed=1"],
            "over data.batch_size; start it with python train.py -m",
        ),
    ],
)
def test_experiment_of_a_sweep_needs_one(train_py: Cli, words: list[str], message: str) -> None:
    assert message in train_py.refuse(*words, *SHORT)
    assert not list(Path().iterdir())


def test_one_job_of_an_experiment_is_trained_alone(train_py: Cli) -> None:
    words = ["experiment=batch_sizes", "data.batch_size=512", "seed=1", *SHORT]
    assert train_py(*words, "hydra.run.dir=run") == 0


def test_report_has_what_experiments_set_and_cautions_about_divisions(tmp_path: Path) -> None:
    experiments = {"linear_regression": (0.01, 0.2), "fashion_mnist_mlp": (0.001, 0.1)}
    for number, (name, (lr, part)) in enumerate(experiments.items()):
        given = [f"experiment={name}", f"data.val_fraction={part}"]
        config = {"optimizer": {"lr": lr}, "trainer": {"max_epochs": 9}}
        made_run(tmp_path / str(number), given, 1.0, config=config)
    results = read_results([tmp_path])
    assert list(results.jobs["optimizer.lr"]) == [0.01, 0.001]
    assert {"experiment", "optimizer.lr", "data.val_fraction"} <= set(results.knobs)
    told = "data.val_fraction differs between these jobs, so their parts have other rows"
    assert any(told in each for each in cautions(results.jobs, "val/loss"))


# The command line: what the shell passes as one word is one name

WORDS = [
    *("a b.csv", "a[1].csv", "a,b", "é.csv", "lr=0.1 (é)", "a;b", "a\tb", "007", "true", "1e5"),
    *("-1", "it's", "a'b\"c", "a#b", "a:b", "{x}", "a|b&c", "*", "back\\slash", "x ", " x"),
    *("a~b/x", "range(3)", "choice(1,2)", "[", "a]", "$HOME", "%20", "中文", "inf", "a\\"),
    *("12:30", "- -", "@x"),
]


@pytest.mark.parametrize("word", WORDS)
def test_any_word_is_a_name(word: str) -> None:
    for key in ("data.path", "data.target", "data.group", "model.weights", "hydra.sweep.dir"):
        quoted = quote_values([f"{key}={word}"])
        assert parsed(quoted).value() == word
        assert quote_values(quoted) == quoted


def parsed(overrides: Sequence[str]) -> Override:
    (override,) = OverridesParser.create().parse_overrides(list(overrides))
    return override


def test_word_of_the_command_line_reaches_the_configuration() -> None:
    words = dict(zip(("path", "target", "group", "positive"), WORDS[4:8], strict=True))
    cfg = compose(["data=csv", *(f"data.{key}={word}" for key, word in words.items())])
    assert {key: cfg.data[key] for key in words} == words


def test_home_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert quote_values(["hydra.run.dir=~/my runs"]) == [f"hydra.run.dir='{tmp_path}/my runs'"]
    assert to_path("'~/my runs'") == tmp_path / "my runs"
    assert compose(["data=csv", "data.path=~/a.csv"]).data.path == "~/a.csv"  # read from there


@pytest.mark.parametrize(
    ("key", "typed", "value"),
    [
        ("data.target", "[a,b]", ["a", "b"]),
        ("data.target", "[1,2]", ["1", "2"]),
        ("data.features", "[a b,c (d),é]", ["a b", "c (d)", "é"]),
        ("data.features", "[true,007,x]", ["true", "007", "x"]),
        ("data.target", "'a,b'", "a,b"),
        ("data.target", "null", None),
        ("data.separator", "\\t", "\t"),
        ("data.separator", "\t", "\t"),
        ("data.separator", ";", ";"),
        ("data.separator", "', '", ", "),
        ("data.separator", "|", "|"),
        ("optimizer.lr", "1e-3", 0.001),
        ("data.batch_size", "full", "full"),
        ("optimizer.freeze", "[layers.0.*,x]", ["layers.0.*", "x"]),
        ("callbacks.best.filename", "{epoch}-{val/loss:.3f}", "{epoch}-{val/loss:.3f}"),
    ],
)
def test_values_are_what_was_typed(key: str, typed: str, value: Any) -> None:
    assert parsed(quote_values([f"{key}={typed}"])).value() == value


def test_names_with_commas_are_swept_one_by_one() -> None:
    def swept(word: str) -> list[str]:
        return list(parsed(quote_values([word], sweeping=True)).sweep_string_iterator())

    assert swept("data.path=~/a.csv,b c.csv,é.csv") == ["'~/a.csv'", r"b\ c.csv", "'é.csv'"]
    assert swept("data.path=a.csv,b.csv") == ["a.csv", "b.csv"]
    assert swept("seed=range(3)") == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "optimizer=sgd,adam",
            "several values are trained by a sweep, python train.py -m; one text",
        ),
        ("seed=range(3)", r"several values .*: seed='range\(3\)'"),
        ("optimizer.lr=interval(0,1)", "several values are trained by a sweep"),
        ("+metrics.x={a: b(c}", r"cannot be read; put quotes around texts within it"),
        ("model.hidden=[64,64", "cannot be read; put quotes"),
    ],
)
def test_words_that_are_no_value_are_refused(word: str, message: str, train_py: Cli) -> None:
    assert re.search(message, train_py.refuse(word))
    assert not list(Path().iterdir())


def test_run_of_any_name_is_evaluated_predicted_with_and_resumed(command: Cli) -> None:
    name = "it's lr=0.1 (é), [a];#~"
    words = ["data=wine", "model=linear", "metrics=none", "trainer.max_epochs=1", *SHORT]
    printed = command.ask("train.py", "-m", "seed=1,2", *words, f"hydra.sweep.dir={name}")
    lines = [shlex.split(line) for line in printed.splitlines() if line.startswith("  python ")]
    assert [line[1] for line in lines] == ["train.py", "evaluate.py"]
    for _, script, *arguments in lines:
        again = ["hydra.run.dir=again (1)"] if script == "train.py" else []
        assert command(script, *arguments, *again) == 0
    assert command("predict.py", f"run={name}/0", "output=p (1).csv") == 0
    assert Path("p (1).csv").exists()
    assert command("train.py", f"resume={name}/0", "trainer.max_epochs=2") == 0
    assert command("train.py", f"sweep.resume={name}", "seed=1,2,3") == 0
    assert len(Table(name).jobs) == 3


def test_files_and_columns_of_any_name(command: Cli, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(40, 3))
    frame = pd.DataFrame(values, columns=["1", "b c", "é (x)"])
    frame["true"] = np.arange(40) % 2
    (tmp_path / "my data, (1)").mkdir()
    frame.to_csv(path := tmp_path / "my data, (1)" / "a=b;é.csv", index=False)
    words = ["data=csv", f"data.path={path}", "data.target=true", "model=linear", *SHORT]
    assert command("train.py", *words, "data.features=[1,é (x)]", "hydra.run.dir=2024") == 0
    assert command("predict.py", "run=2024", f"input={path}", "id=b c", "output=p.csv") == 0
    assert len(pd.read_csv("p.csv")) == 40


# Processes and places


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_system_without_locks_is_told_once(
    error: int, train_py: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*arguments: Any) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("fcntl.flock", flock)
    files.warn_of_no_locks.cache_clear()
    words = ["data=wine", "model=linear", "metrics=none", "trainer.max_epochs=1", *SHORT]
    assert train_py("-m", "seed=1,2", *words, "hydra.sweep.dir=s") == 0
    assert train_py(*words, "hydra.run.dir=r") == 0
    assert train_py.err.count("This file system has no locks") == 1


def test_other_lock_errors_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*arguments: Any) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(OSError, match="broken"):
        files.try_lock(tmp_path / "x")


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ([], "hydra.run.dir"),
        (["hydra.run.dir=/proc/here/run"], "hydra.run.dir"),
        (["-m", "seed=1,2"], "hydra.sweep.dir"),
        (["-m", "seed=1,2", "hydra.sweep.dir=/proc/here"], "hydra.sweep.dir"),
    ],
)
def test_place_that_cannot_be_written_is_refused(
    words: list[str], key: str, command: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/proc")
    (message,) = command.refuse("train.py", *words).splitlines()
    assert re.match(
        rf"{key}=.*: No such file .*; name a folder that can be made, {key}=DIR", message
    )


def test_read_only_run_is_scored(command: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["data=wine", "model=linear", "trainer.max_epochs=1", *SHORT, "hydra.run.dir=run"]
    assert command("train.py", *words) == 0

    def write(path: Path, content: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("quartet.core.files.write_json", write)
        assert command.out
        assert command("evaluate.py", "run=run") == 2
    out, err = command.capsys.readouterr()
    assert "accuracy" in out
    assert err.startswith("Refused:\n  run/evaluation-test.json: Read-only file system; use")
    assert command("predict.py", "run=run", "output=p.csv") == 0


def test_more_processes_than_cores_are_refused() -> None:
    cores = os.cpu_count() or 1
    message = rf"trainer.devices=64: .* has {cores} CPU cores; set"
    assert_refused("trainer=cpu trainer.devices=64 trainer.strategy=ddp", message)
    build(composed(["trainer=cpu", "trainer.devices=2", "trainer.strategy=ddp"]))


def test_another_application_of_hydra_goes_on(tmp_path: Path) -> None:
    (tmp_path / "theirs.yaml").write_text("a: 1\n")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert compose(["seed=3"]).seed == 3
        assert hydra.compose("theirs").a == 1
    assert not GlobalHydra.instance().is_initialized()


def test_works_elsewhere(command: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "pets", 12)
    train(composed([*PICTURES, "data.path=pets"]), "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    assert command("predict.py", "run=../moved", "input=../pets", "output=p.csv") == 0
    assert command("evaluate.py", "run=../moved", "data.path=../pets") == 0
    assert command("train.py", "resume=../moved", "data.path=../pets", "trainer.max_epochs=2") == 0
    monkeypatch.chdir(tmp_path)
    assert command("train.py", "resume=moved", "data.path=pets", "trainer.max_epochs=3") == 0


# Rankings


def letor(path: Path, sizes: Sequence[int], features: int = 3) -> Path:
    """Queries of so many documents."""
    random = np.random.default_rng(0)
    lines = [
        f"{random.integers(0, 3)} qid:{query} "
        + " ".join(f"{n}:{random.random():.3f}" for n in range(1, features + 1))
        for query, size in enumerate(sizes)
        for _ in range(size)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("loss", ["ranknet", "listnet", "mse"])
def test_query_of_one_document_counts(loss: str, tmp_path: Path, command: Cli) -> None:
    letor(tmp_path / "clicks.txt", [*[4] * 20, 1, 1, 1])
    assert command("train.py", *QUERIES, "data.path=clicks.txt", f"loss={loss}", RUN) == 0
    assert "data: 3 queries have one document, and count as ordered." in command.err
    letor(tmp_path / "new.txt", [1, 5, 2], features=2)  # the last feature is 0 in every row
    assert command("predict.py", "run=run", "input=new.txt", "output=p.csv") == 0
    table = pd.read_csv("p.csv")
    assert list(table["query"]) == [0, *[1] * 5, 2, 2]
    assert command("evaluate.py", "run=run", "input=new.txt") == 0
    letor(tmp_path / "wide.txt", [2, 2], features=4)
    assert "wide.txt has 4 features; the run has 3" in command.refuse(
        "predict.py", "run=run", "input=wide.txt", "output=q.csv"
    )


def test_new_queries_are_prepared_as_those_of_the_training(tmp_path: Path, command: Cli) -> None:
    letor(tmp_path / "clicks.txt", [4] * 20)
    words = [*QUERIES, "data.path=clicks.txt", "data.test_fraction=0", RUN]
    assert command("train.py", *words) == 0
    assert command("predict.py", "run=run", "input=clicks.txt", "output=p.csv") == 0
    assert command("predict.py", "run=run", "split=train", "output=q.csv") == 0
    every, train_part = pd.read_csv("p.csv"), pd.read_csv("q.csv")
    assert set(train_part["prediction"].round(4)) <= set(every["prediction"].round(4))


def test_gain_of_ndcg_is_the_grade() -> None:
    metric = build(composed(["data=ranking"])).module.val_metrics.metrics["ndcg"]
    scores, grades = torch.tensor([3.0, 2.0, 1.0]), torch.tensor([0, 2, 1])
    metric.update(scores, grades, torch.zeros(3, dtype=torch.long))
    expected = ndcg_score(grades[None].numpy(), scores[None].numpy())
    assert float(metric.compute()) == pytest.approx(expected)
    assert "grade itself" in (CONF / "metrics/ranking.yaml").read_text()


# Help for rare classes


@pytest.mark.parametrize(
    ("words", "weights"),
    [
        (["data/task=binary", "data.target=kind"], [6 / 54]),
        (["data/task=multilabel", "data.target=[amount,odd]"], [54 / 6, 1.0]),
        (["data/task=binary", "data.target=kind", "data.positive=fraud"], [54 / 6]),
        (["data/task=binary", "data.target=kind", "loss.pos_weight=[3]"], [3]),
    ],
)
def test_positives_have_a_weight(fraud: Path, words: list[str], weights: list[float]) -> None:
    table = pd.read_csv(fraud).replace({"odd": {"yes, very": 0, "no": 1}})
    table.astype({"amount": int}).to_csv(fraud, index=False)
    data = ["data=csv", f"data.path={fraud}", "data.val_fraction=0", "data.test_fraction=0"]
    run = build(composed([*data, *words, "loss=weighted_bce", "monitor.metric=train/loss", *SHORT]))
    loss = run.module.loss
    loss.fit(run.data.targets())
    assert loss.pos_weight.tolist() == pytest.approx(weights)
    outputs, targets = torch.randn(8, len(weights)), torch.ones(8, len(weights))
    unweighted = nn.BCEWithLogitsLoss(reduction="none")(outputs, targets)
    expected = (unweighted * torch.tensor(weights)).mean()
    assert float(loss(outputs, targets)) == pytest.approx(float(expected), rel=1e-5)


def test_class_weights_go_with_smoothing() -> None:
    words = ["data=wine", "loss=weighted_cross_entropy", "loss.label_smoothing=0.1"]
    loss = build(composed([*words, "loss.weight=[1,2,3]", *SHORT])).module.loss
    outputs, targets = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    weight = torch.tensor([1.0, 2.0, 3.0])
    expected = torch.nn.CrossEntropyLoss(weight=weight, label_smoothing=0.1)(outputs, targets)
    assert torch.equal(loss(outputs, targets), expected)
    two = "data=breast_cancer loss=weighted_cross_entropy"
    assert_refused(two, r"is for multiclass tasks.* use loss=bce")


# Metrics and batches


TASK_DATA = {
    "multiclass": ["data=wine"],
    "binary": ["data=breast_cancer"],
    "regression": ["data=diabetes"],
    "ranking": ["data=ranking", "data.path=ragged", "data.test_fraction=0.6"],
}
LOSSES = [
    *([f"loss={option}"] for option in options("loss") if option != "none"),
    ["loss=weighted_cross_entropy", "loss.label_smoothing=0.2"],
    ["loss=cross_entropy", "loss.ignore_index=1"],
]


@pytest.mark.parametrize("words", LOSSES, ids=" ".join)
def test_the_loss_of_a_part_does_not_depend_on_its_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    letor(tmp_path / "ragged", [2, 9, 1, 5, 3, 7, 2, 12, 4, 3, 2, 6, 5, 2, 8] * 4)
    tasks = composed(words).loss.tasks
    found = []
    for size in (1, 7, 1024):
        more = [*TASK_DATA[tasks[0]], "model=linear", f"data.eval_batch_size={size}"]
        run = build(composed([*words, *more, "trainer=cpu"]))
        if hasattr(run.module.loss, "fit"):
            run.module.loss.fit(run.data.parts.train.tensors[1])
        (figures,) = run.trainer.test(run.module, run.data, verbose=False)
        found.append(figures["test/loss"])
    assert found == pytest.approx([found[-1]] * 3, rel=1e-5)


class OwnLoss(nn.Module):
    """Cross-entropy with weights; `kind` says how it gives the loss and its divisor."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.weight = kind, torch.tensor([1.0, 1.0, 50.0])
        if kind == "attribute":
            self.divisor: Any = 2.0

    def forward(self, outputs: Tensor, targets: Tensor) -> Any:
        if self.kind == "attribute":
            return cross_entropy(outputs, targets)
        loss = cross_entropy(outputs, targets, weight=self.weight)
        return {"loss": loss, "half": loss / 2} if self.kind == "dict" else loss


class WithDivisor(OwnLoss):
    def divisor(self, outputs: Tensor, targets: Tensor) -> Any:
        found = self.weight[targets].sum()
        return float(found) if self.kind == "number" else found


@pytest.mark.parametrize("kind", ["attribute", "dict", "number", "recorded alone", "another"])
def test_only_the_computed_loss_is_weighed(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    def step(self: Any, batch: Any, batch_idx: int) -> None:
        inputs, targets, _ = self.task.split(batch)
        outputs = self.model(inputs)
        loss = self.compute_loss(outputs, targets)
        if kind == "recorded alone":
            self.record("test", loss, size=len(targets))
        else:  # a mean over the samples
            self.record("test", cross_entropy(outputs, targets), targets=targets)

    found = []
    for size in (1, 7, 1024):
        words = ["data=wine", "model=linear", f"data.eval_batch_size={size}", "metrics=none"]
        run = build(composed([*words, "data.test_fraction=0.6", "trainer=cpu"]))
        run.module.loss = OwnLoss(kind) if kind == "attribute" else WithDivisor(kind)
        if kind in ("recorded alone", "another"):
            monkeypatch.setattr(type(run.module), "test_step", step)
        (figures,) = run.trainer.test(run.module, run.data, verbose=False)
        found.append(figures["test/loss"])
        assert figures.get("test/half", found[-1] / 2) == pytest.approx(found[-1] / 2)
    assert found == pytest.approx([found[-1]] * 3, rel=1e-5)


def test_a_part_of_which_no_target_counts_ends_the_training_with_the_reason(tmp_path: Path) -> None:
    words = ["data=wine", "model=linear", "loss.ignore_index=0", *SHORT]
    run = build(composed(words), tmp_path)
    run.data.load().val.tensors[1].fill_(0)
    with pytest.raises(TrainingError, match="no target of the val part counts for the loss"):
        run.trainer.fit(run.module, run.data)


def test_metrics_that_agree_once_are_not_merged(tmp_path: Path) -> None:
    """Two thresholds give the same recall in the first epoch, and later another."""
    node = "{_target_: torchmetrics.Recall, task: binary, threshold: %s}"
    metrics = {"low": node % 0.5, "high": node % 0.75}
    words = ["data=breast_cancer", "metrics=none", "model=linear", *SHORT]
    words += [f"+metrics.{name}={text}" for name, text in metrics.items()]
    module = build(composed(words), tmp_path).module
    for scale in (100.0, 0.5):
        module.val_metrics.reset()
        module.val_metrics.append(torch.zeros(()), torch.full((4, 1), scale), torch.ones(4, 1))
        found = {name: float(value) for name, value in module.val_metrics.compute().items()}
        assert found == {"val/low": 1.0, "val/high": float(scale > 1)}


@pytest.mark.parametrize(
    ("words", "reached"),
    [
        (["trainer.limit_train_batches=1000"], True),
        (["trainer.limit_train_batches=1"], False),
        (["trainer.limit_train_batches=1.0"], True),
        (["trainer.limit_train_batches=0.5"], False),
        (["trainer=overfit"], False),
        (["trainer.max_steps=419"], False),
        (["trainer.max_steps=420"], True),
        (["data.drop_last=true"], False),
        (["data.batch_size=1"], True),
        (["data.batch_size=4"], False),
        (["trainer.accumulate_grad_batches=420"], True),
    ],
)
def test_last_batch_of_one_is_refused_when_it_is_reached(words: list[str], reached: bool) -> None:
    """1,258 rows are 419 batches of three, and one of a single row."""
    cfg = composed(["model.norm=batch", "data.batch_size=3", *SHORT, *words])
    if not reached:
        build(cfg)
        return
    with pytest.raises(ConfigError, match="leaves a batch of one sample, and the model refuses it"):
        build(cfg)


def test_threshold_is_a_setting(tmp_path: Path) -> None:
    words = ["data=breast_cancer", "model=linear", *SHORT, "metrics.recall.threshold=0.9"]
    buffer = build(composed(words), tmp_path).module.val_metrics
    logits = torch.tensor([[3.0], [1.0], [-1.0], [4.0]])  # probabilities 0.95, 0.73, 0.27, 0.98
    buffer.append(torch.zeros(()), logits, torch.ones(4, 1))
    found = {name: float(value) for name, value in buffer.compute().items()}
    assert (found["val/recall"], found["val/accuracy"]) == (0.5, 0.75)
    message = "metrics.recall.threshold=0.9: the largest probability decides in a multiclass task"
    assert_refused("data=wine metrics.recall.threshold=0.9", message)


def test_figure_that_overflows_is_told(tmp_path: Path, command: Cli) -> None:
    frame = pd.DataFrame({"x": np.arange(60.0), "y": np.arange(60.0) * 1e30})
    frame.to_csv(tmp_path / "far.csv", index=False)
    words = ["data=csv", "data.path=far.csv", "data.target=y", "data/task=regression"]
    assert command("train.py", *words, "model=linear", *SHORT, "hydra.run.dir=run") == 0
    figures = json.loads((tmp_path / "run/result.json").read_text())["metrics"]
    assert figures["test/mse"] is None
    assert np.isfinite(figures["test/r2"])
    told = (tmp_path / "run/train.log").read_text()
    assert re.search(r"test/mse.*: too large for numbers of 32 bits and left out", told)


# Folders of any kind

SAVED = (
    *("L.png", "RGB.png", "RGB.bmp", "RGB.webp", "P.png", "CMYK.tif", "RGBA.png"),
    *("I;16.png", "F.tif"),
)


def save_randomly(random: np.random.Generator, path: Path) -> tuple[Path, NDArray[Any]]:
    """A grey picture of random size, kind and orientation; its file, and what a viewer shows."""
    height, width = random.integers(4, 12, 2)
    values = random.random((height, width)).astype(np.float32)
    mode, _, suffix = random.choice(SAVED).rpartition(".")
    path = path.with_suffix(f".{suffix.upper() if random.random() < 0.2 else suffix}")
    shown = grey(values)
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    if mode == "I;16":
        picture = sixteen_bits(values)
    elif mode == "F":
        picture = Image.fromarray(values)
    elif mode == "RGBA":
        picture = Image.new("LA", shown.size)
        picture.putalpha(grey(1 - values))
    else:
        picture = (shown if mode in "LP" else shown.convert("RGB")).convert(mode)
    if suffix in ("png", "webp") and mode in ("L", "RGB") and random.random() < 0.5:
        exif = Image.Exif()
        exif[0x0112] = 3
        picture, options["exif"] = picture.transpose(Image.Transpose.ROTATE_180), exif
    picture.save(path, **options)
    return path, values


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(300))
def test_random_folder_is_read_as_a_viewer_shows_it_or_refused(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    names = list(random.choice(["cat", "dog é", "a b", "1", "true", "x.y"], 3, replace=False))
    parts = [str(random.choice(["train", "Train"]))] if random.random() < 0.5 else []
    parts += [str(random.choice(["val", "valid", "Test"]))] if parts else []
    shown: dict[tuple[str, str], NDArray[Any]] = {}
    damaged = []
    for part in parts or [""]:
        lacks = random.random() < 0.3 and part in parts[1:]
        for name in names[: 2 if lacks else 3]:
            (folder := tmp_path / part / name).mkdir(parents=True)
            for number in range(12):
                path, values = save_randomly(random, folder / str(number))
                shown[part, str(path)] = values
                if random.random() < 0.005:
                    path.write_bytes(path.read_bytes()[: int(random.integers(0, 20))])
                    damaged.append(path)
            for noise in random.choice([".DS_Store", "._1.png", "a.gif", "b.txt"], 2):
                (folder / noise).write_bytes(b"noise")
    try:
        run = described(tmp_path, "data.val_fraction=0.2")
    except ConfigError as error:
        left = [path for path in damaged if path.name not in str(error)]
        if not damaged or left:
            raise
        return
    assert not damaged
    found = [pictures.samples for pictures in run.data.parts[:3] if pictures]
    assert {path for samples in found for path, _ in samples} == {path for _, path in shown}
    assert run.data.parts.class_names == tuple(sorted(map(str, names)))
    for path, target in (pair for samples in found for pair in samples):
        assert Path(path).relative_to(tmp_path).parts[-2] == run.data.parts.class_names[target]
        values = next(each for (_, name), each in shown.items() if name == path)
        assert difference(Path(path), values) < 0.03
