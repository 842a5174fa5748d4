"""Predictions of files: the preparation of the training, traceable rows, nothing half-written."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from made import composed, labelled_table, paint, project_part
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from quartet.config.compose import evaluation_config
from quartet.core.problems import ConfigError
from quartet.inference import predict as prediction
from quartet.inference.predict import predict
from quartet.run import train

ROOT = Path(__file__).parents[2]
SHORT = ["trainer=cpu", "trainer.max_epochs=2", "callbacks.progress_bar=null", "metrics=none"]
PETS = ["data=csv", "data.target=species", "data.drop=[name]", "data.missing=mean"]
PETS += ["data.categories=[code]"]


def pets(rows: int = 200) -> pd.DataFrame:
    """Numbers, one of them with gaps; texts that look like numbers for long; yes and no with gaps."""
    random = np.random.default_rng(0)
    weight = random.standard_normal(rows).round(3)
    table = pd.DataFrame({"name": [f"p{i:04}" for i in range(rows)], "weight": weight})
    table["age"] = random.integers(1, 12, rows)
    table.loc[::7, "weight"] = None
    table["code"] = [f"0{i % 3}" for i in range(rows - 20)] + [f"x{i % 3}" for i in range(20)]
    table["tame"] = [None if i % 5 == 0 else bool(i % 2) for i in range(rows)]
    table["species"] = np.where(table.age > 6, "dog", "cat")
    return table


def digits_to_test() -> Any:
    division = {"val_fraction": 0.1, "test_fraction": 0.2, "split_seed": 0, "keep": None}
    return project_part("data.digits.digits")(**division).test


def kept(directory: Path, *overrides: str) -> DictConfig:
    """The configuration of a run as its own record has it."""
    cfg = OmegaConf.load(directory / ".hydra" / "config.yaml")
    assert isinstance(cfg, DictConfig)
    return OmegaConf.merge(cfg, OmegaConf.from_dotlist(list(overrides)))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose table is gone; its predictions of it are those of `whole`."""
    folder = tmp_path_factory.mktemp("pets")
    pets().to_csv(folder / "pets.csv", index=False)
    train(composed([*SHORT, *PETS, f"data.path={folder}/pets.csv"]), folder / "run")
    for split in ("train", "val", "test"):
        predict(kept(folder / "run"), folder / "run", split=split)
    (folder / "pets.csv").rename(folder / "moved.csv")
    return folder / "run"


def predicted(run: Path, source: Path, **options: Any) -> pd.DataFrame:
    path = predict(kept(run), run, input=source, **options)
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    return pd.read_csv(path, dtype={"sample": str})


def assert_same_dogs(found: pd.DataFrame, parts: list[pd.DataFrame]) -> None:
    """A table has the probabilities of several, in any order."""
    one, other = (np.sort(table.probability_dog) for table in (found, pd.concat(parts)))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def table_of(tmp_path: Path, **columns: Any) -> Path:
    pets(40).assign(**columns).to_csv(tmp_path / "some.csv", index=False)
    return tmp_path / "some.csv"


@pytest.mark.parametrize("chunk", [8192, 16])
def test_a_table_is_prepared_as_the_training_was_though_that_is_gone(
    run: Path, tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction, "CHUNK", chunk)
    cfg = kept(run, "data.eval_batch_size=16")
    path = predict(cfg, run, input=run.parent / "moved.csv", id="name", output=tmp_path / "p.csv")
    found = pd.read_csv(path)
    assert list(found) == ["sample", "target", "prediction", "probability_cat", "probability_dog"]
    assert list(found["sample"]) == list(pets().name)
    assert list(found.target) == list(pets().species)
    assert (found.prediction == np.where(found.probability_dog > 0.5, "dog", "cat")).all()
    parts = [pd.read_csv(run / f"predictions-{each}.csv") for each in ("train", "val", "test")]
    assert_same_dogs(found, parts)


def test_a_table_without_targets_or_without_values_is_predicted(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    pets().head(3).drop(columns="species").to_csv(path, index=False)
    found = predicted(run, path)
    assert list(found)[:2] == ["sample", "prediction"]
    assert list(found["sample"]) == ["0", "1", "2"]
    # An empty column is filled as the gaps of the training were.
    found = predicted(run, table_of(tmp_path, age=None), output=tmp_path / "p.csv")
    assert len(found) == 40
    assert found.prediction.isin(["cat", "dog"]).all()


def test_parquet_holds_what_csv_holds(run: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    source = table_of(tmp_path)
    one = predicted(run, source, output=tmp_path / "p.csv", id="name")
    other = predicted(run, source, output=tmp_path / "p.parquet", id="name")
    assert one.astype(str).equals(other.astype(str))
    kinds = [str(field.type) for field in pq.read_schema(tmp_path / "p.parquet")]
    assert kinds == ["string", "string", "string", "double", "double"]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"code": "07"}, r"rows from 1: column 'code' has '07', .*its values are 00, 01, 02, x0"),
        ({"tame": "maybe"}, "column 'tame' has 'maybe', which is no number"),
        ({"age": "old"}, "column 'age' has 'old', which is no number"),
        ({"age": np.inf}, "column 'age' has infinite values"),
    ],
)
def test_a_column_that_does_not_fit_is_refused_by_name(
    run: Path, tmp_path: Path, columns: dict[str, Any], words: str
) -> None:
    source = table_of(tmp_path, **columns)
    with pytest.raises(ConfigError, match=words):
        predicted(run, source, output=tmp_path / "p.csv")
    assert listed(tmp_path) == ["some.csv"]


def test_bad_files_are_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = table_of(tmp_path)
    pets().rename(columns={"weight": "wieght"}).to_csv(tmp_path / "other.csv", index=False)
    pets().head(0).to_csv(tmp_path / "empty.csv", index=False)
    (tmp_path / "taken.csv").write_text("mine")
    for given, words in (
        ({"source": tmp_path / "other.csv"}, "no column 'weight'; did you mean wieght"),
        ({"source": tmp_path / "empty.csv"}, "has no rows"),
        ({"source": tmp_path / "absent.csv"}, "absent.csv is missing"),
        ({"source": tmp_path}, "is a folder; the run was trained on a table"),
        ({"source": source, "id": "nmae"}, "no column 'nmae'; did you mean name"),
        ({"source": source, "output": tmp_path / "taken.csv"}, "exists"),
        ({"source": source, "output": tmp_path / "p.json"}, "must end in .csv or .parquet"),
        ({"source": source, "checkpoint": "lost"}, "checkpoint=lost: lost is missing"),
    ):
        with pytest.raises(ConfigError, match=words):
            predicted(run, **({"output": tmp_path / "p.csv"} | given))  # type: ignore[arg-type]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'needs pyarrow, pip install -e ".\[parquet\]"; .*p.csv'):
        predicted(run, source, output=tmp_path / "p.parquet")
    assert (tmp_path / "taken.csv").read_text() == "mine"
    assert listed(tmp_path) == ["empty.csv", "other.csv", "some.csv", "taken.csv"]


def test_fault_leaves_no_file(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "CHUNK", 8)
    source = table_of(tmp_path, code=["00"] * 39 + ["zz"])
    with pytest.raises(ConfigError, match="rows from 33: column 'code' has 'zz'"):
        predict(kept(run, "data.eval_batch_size=8"), run, input=source, output=tmp_path / "p.csv")
    assert listed(tmp_path) == ["some.csv"]


def test_predictions_of_a_run_go_to_a_new_file_each_time(run: Path, tmp_path: Path) -> None:
    source = table_of(tmp_path).rename(tmp_path / "twice.csv")
    names = [predict(kept(run), run, input=source).name for _ in range(2)]
    assert names == ["predictions-twice.csv", "predictions-twice-1.csv"]


def test_checkpoint_without_a_description_of_its_data_is_refused(run: Path, tmp_path: Path) -> None:
    from quartet.checkpoints import storage

    content = storage.load(run / "checkpoints/best.ckpt")
    old, none = str(tmp_path / "old.ckpt"), str(tmp_path / "none.ckpt")
    content["data"] = content.pop("metadata")  # as version 0.1 called it
    storage.save(content, Path(old))
    source = table_of(tmp_path)
    assert predicted(run, source, checkpoint=old).equals(predicted(run, source))
    del content["data"]
    storage.save(content, Path(none))
    with pytest.raises(ConfigError, match=r"none.ckpt does not describe the data .* resume=DIR"):
        predicted(run, source, checkpoint=none)


def test_a_record_of_version_0_1_lacks_settings(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "old")
    record = tmp_path / "old/.hydra/config.yaml"
    text = re.sub(r"\n  (order|group|division): null", "", record.read_text())
    record.write_text(text.replace("project.module.Module", "quartet.module.Module"))
    cfg = evaluation_config(tmp_path / "old", [f"data.path={run.parent / 'moved.csv'}"])
    assert (cfg.data.order, cfg.data.group, cfg.data.division) == (None, None, None)
    assert predict(cfg, tmp_path / "old").exists()


def test_values_have_the_units_of_the_table_and_the_names_of_its_columns(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    a = random.standard_normal(100)
    table = pd.DataFrame({"a": a, "price": 1000 + 50 * a, "area": 7 - a})
    table.to_csv(tmp_path / "t.csv", index=False)
    data = ["data=csv", "data/task=regression", "data.target=[price,area]"]
    fit = ["model=linear", "optimizer.lr=0.1", "trainer.max_epochs=60"]
    train(composed([*SHORT, *data, *fit, f"data.path={tmp_path}/t.csv"]), tmp_path / "run")
    found = predicted(tmp_path / "run", tmp_path / "t.csv")
    names = ["sample", "target_price", "target_area", "prediction_price", "prediction_area"]
    assert list(found) == names
    np.testing.assert_allclose(found.target_price, table.price, rtol=1e-6)
    assert (found.prediction_price - found.target_price).abs().max() < 5
    split = pd.read_csv(predict(kept(tmp_path / "run"), tmp_path / "run"))
    assert list(split) == list(found)


def test_labels_have_a_probability_each(tmp_path: Path) -> None:
    labelled_table(tmp_path / "t.csv")
    data = ["data=csv", "data/task=multilabel", "data.target=[red,round]"]
    train(composed([*SHORT, *data, f"data.path={tmp_path}/t.csv"]), tmp_path / "run")
    found = predicted(tmp_path / "run", tmp_path / "t.csv")
    assert list(found)[1:] == [
        f"{kind}_{name}"
        for kind in ("target", "prediction", "probability")
        for name in ("red", "round")
    ]
    assert found.target_red.equals(pd.read_csv(tmp_path / "t.csv").red)
    assert ((found.probability_red > 0.5) == found.prediction_red).all()


def test_pictures_are_predicted_as_those_of_the_run_are(tmp_path: Path) -> None:
    paint(tmp_path / "pictures", cat=20, dog=20)
    data = ["data=image_folder", f"data.path={tmp_path}/pictures", "data.image_size=8"]
    norm = ["data.mean=[0.3,0.3,0.3]", "data.std=[0.2,0.2,0.2]", "data.num_workers=2"]
    directory = tmp_path / "run"
    train(composed([*SHORT, *data, *norm]), directory)
    found = predicted(directory, tmp_path / "pictures")
    assert list(found["sample"])[:1] == [str(tmp_path / "pictures/cat/0.png")]
    assert list(found.target) == ["cat"] * 20 + ["dog"] * 20
    splits = ("train", "val", "test")
    parts = [pd.read_csv(predict(kept(directory), directory, split=each)) for each in splits]
    assert_same_dogs(found, parts)
    Image.new("RGB", (40, 30)).save(tmp_path / "alone.jpg")
    alone = predicted(directory, tmp_path / "alone.jpg")
    assert list(alone) == ["sample", "prediction", "probability_cat", "probability_dog"]
    (tmp_path / "pictures/cat/broken.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError, match=r"^input=.*cat/broken.png is no picture, or is damaged"):
        predicted(directory, tmp_path / "pictures")
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigError, match=r"none holds no picture, which end in .jpg"):
        predicted(directory, tmp_path / "none")


def test_pictures_of_a_built_in_set_must_have_its_shape(tmp_path: Path) -> None:
    train(composed(SHORT), tmp_path / "run")
    part = digits_to_test()
    images = [part[i][0] for i in range(5)]
    (tmp_path / "deep/down").mkdir(parents=True)
    for number, image in enumerate(images):
        grey = Image.fromarray((image[0] * 255).round().to(torch.uint8).numpy())
        grey.convert("RGB").save(tmp_path / f"deep/down/{number}.png")
    found = predicted(tmp_path / "run", tmp_path / "deep")
    same = pd.read_csv(predict(kept(tmp_path / "run"), tmp_path / "run"))
    own = [name for name in found if name.startswith("probability")]
    assert len(own) == 10
    # A byte knows a sixteenth to a 500th.
    np.testing.assert_allclose(found[own], same[own][:5], atol=0.02)
    assert (found.prediction == same.prediction[:5]).all()
    Image.new("L", (8, 9)).save(tmp_path / "tall.png")
    tall = r"tall.png is 8 pixels wide and 9 high, and the model takes the shape 8 by 8. Cut or remove it.$"
    with pytest.raises(ConfigError, match=tall):
        predicted(tmp_path / "run", tmp_path / "tall.png")
    words = "id names a column of a table; leave it out for pictures"
    with pytest.raises(ConfigError, match=words):
        predicted(tmp_path / "run", tmp_path / "tall.png", id="name")


def test_data_that_has_no_files_is_predicted_by_its_parts_alone(tmp_path: Path) -> None:
    train(composed([*SHORT, "data=wine"]), tmp_path / "run")
    (tmp_path / "wine.csv").write_text("a\n1\n")
    words = r"reads a file, which Parts\(read=...\) does; split=test"
    with pytest.raises(ConfigError, match=words):
        predicted(tmp_path / "run", tmp_path / "wine.csv")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_table(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    block = pets(20_000).dropna()

    def peak(blocks: int, suffix: str) -> float:
        """Megabytes that a process of its own takes at most."""
        source = tmp_path / f"{blocks}.csv"
        with source.open("w") as file:
            for number in range(blocks):
                block.to_csv(file, index=False, header=number == 0)
        program = (
            "import sys; sys.argv = ['predict.py', *sys.argv[1:]]; import runpy\n"
            f"runpy.run_path({str(ROOT / 'predict.py')!r}, run_name='__main__')\n"
            "print(*(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
        )
        options = [f"run={run}", f"input={source}", f"output={tmp_path}/p{blocks}{suffix}"]
        done = subprocess.run(
            [sys.executable, "-c", program, *options], capture_output=True, text=True, check=True
        )
        print(blocks, suffix, done.stdout)
        return float(done.stdout.split()[-2]) / 1024

    for suffix in (".csv", ".parquet"):
        small, large = peak(1, suffix), peak(60, suffix)
        assert large < small + 40
    assert (tmp_path / "60.csv").stat().st_size > 20e6
