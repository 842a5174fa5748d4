"""Exported models predict what the original does, for someone who has no Quartet."""

import json
import math
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from made import composed, labelled_table
from PIL import Image
from test_prediction import SHORT, digits_to_test, kept, pets, predicted
from torch import nn

from quartet.core.problems import ConfigError
from quartet.data.task import Multiclass
from quartet.inference import export as exporting
from quartet.inference.export import PredictionsDiffer, describe, export
from quartet.inference.predict import predict
from quartet.inference.predictor import Predictor
from quartet.run import train

PAGE = Path(__file__).parents[2] / ".github/EXPORT.md"  # which a fork may not have
EXAMPLES = re.findall(
    r"^```python\n(import json, numpy, onnxruntime.*?)^```",
    PAGE.read_text() if PAGE.exists() else "",
    re.M | re.S,
)


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on digits."""
    directory = tmp_path_factory.mktemp("digits") / "run"
    train(composed([*SHORT, "model.hidden=[32]", "model.norm=batch"]), directory)
    return directory


@pytest.mark.skipif(not EXAMPLES, reason="a fork has documents of its own")
def test_the_example_names_the_digit_without_quartet(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    export(kept(run), run, format="onnx")
    description = read(run / "model.onnx.json")
    assert description["largest_difference"] < 1e-5
    assert description["checked_on"] == 64
    assert description["outputs"]["shape"] == ["batch", 10]
    with pytest.raises(ConfigError, match=r"model.onnx: exists; name another file"):
        export(kept(run), run, format="onnx")
    rows = pd.read_csv(predict(kept(run), run))
    part = digits_to_test()
    monkeypatch.chdir(run)
    capsys.readouterr()
    for row in range(8):
        pixels = (part[row][0][0] * 255).round().to(torch.uint8).numpy()
        Image.fromarray(pixels).save("digit.png")
        exec(EXAMPLES[0], {})
        assert capsys.readouterr().out.strip() == str(rows.prediction[row])


def test_weights_alone_fit_plain_layers(run: Path) -> None:
    load_file = pytest.importorskip("safetensors.torch").load_file
    export(kept(run), run, format="safetensors")
    assert read(run / "model.safetensors.json")["outputs"]["holds"].startswith("logits")
    layers = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    model = nn.Sequential(OrderedDict(layers=layers)).eval()
    model.load_state_dict(load_file(run / "model.safetensors"))
    inputs = (digits_to_test().tensors[0].flatten(1) - 0.305) / 0.376
    rows = pd.read_csv(predict(kept(run), run))
    own = [name for name in rows if name.startswith("probability")]
    with torch.no_grad():
        found = model(inputs).softmax(1)
    np.testing.assert_allclose(found, rows[own], rtol=0, atol=1e-6)


def test_a_program_of_a_table_gives_its_values(tmp_path: Path) -> None:
    table = pets()
    table["price"] = 1000 + 50 * table.age
    table.to_csv(tmp_path / "t.csv", index=False)
    data = ["data=csv", "data/task=regression", "data.target=price", "data.drop=[name,tame]"]
    path = [f"data.path={tmp_path}/t.csv", "data.missing=mean", "data.categories=[code]"]
    directory = tmp_path / "run"
    train(composed([*SHORT, *data, *path]), directory)
    export(kept(directory), directory, format="torch_export", output=tmp_path / "m.pt2")
    description = read(tmp_path / "m.pt2.json")["preprocessing"]
    columns = []
    for name, of in description["numeric"].items():
        columns.append((table[name].fillna(of["fill"]) - of["mean"]) / of["std"])
    for name, known in description["categories"].items():
        columns += [(table[name] == value).astype(float) for value in known]
    inputs = torch.tensor(np.stack(columns, axis=1), dtype=torch.float32)
    found = torch.export.load(tmp_path / "m.pt2").module()(inputs)
    rows = predicted(directory, tmp_path / "t.csv", output=tmp_path / "p.csv")
    np.testing.assert_allclose(found[:, 0].detach(), rows.prediction, rtol=1e-5)


@pytest.mark.parametrize("data", ["breast_cancer", "multilabel", "ranking"])
def test_every_task_is_exported(data: str, tmp_path: Path) -> None:
    labelled_table(tmp_path / "t.csv")
    named = {
        "multilabel": ["data=csv", "data/task=multilabel", "data.target=[red,round]"],
        "ranking": ["data=ranking", "data.queries=40"],
    }.get(data, [f"data={data}"])
    path = [f"data.path={tmp_path}/t.csv"] if data == "multilabel" else []
    train(composed([*SHORT, *named, *path]), tmp_path / "run")
    file = export(kept(tmp_path / "run"), tmp_path / "run", format="torch_export")
    assert read(exporting.description_path(file))["largest_difference"] < 1e-5


def test_predictions_that_are_a_dict_are_exported(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def several(self: Any, outputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"shares": outputs.softmax(1).double(), "best": outputs.argmax(1)}

    monkeypatch.setattr(Multiclass, "predictions", several)
    file = export(kept(run), run, format="torch_export", output=tmp_path / "m.pt2")
    shapes = read(exporting.description_path(file))["outputs"]["shape"]
    assert shapes == {"shares": ["batch", 10], "best": ["batch"]}
    found = torch.export.load(file).module()(torch.zeros(3, 1, 8, 8))
    assert found["shares"].dtype is torch.float32
    assert torch.equal(found["shares"].argmax(1), found["best"])


@pytest.mark.parametrize(("difference", "shown"), [(0.01, "0.01"), (math.nan, "nan")])
def test_an_export_that_differs_is_not_kept(
    difference: float, shown: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(run.iterdir())
    wrong = lambda model, inputs, file: (  # noqa: E731
        file.write_text(""),
        lambda inputs: model(inputs) + difference,
    )[1]
    monkeypatch.setitem(exporting.FORMS, "torch_export", wrong)
    words = rf"model.pt2 was not written: .* differ by {shown} .*0.0001"
    with pytest.raises(PredictionsDiffer, match=words):
        export(kept(run), run, format="torch_export")
    assert sorted(run.iterdir()) == before


def test_what_cannot_be_exported_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="format=tflite: must be one of onnx, torch_export, safe"):
        export(kept(run), run, format="tflite", output="m.tflite")
    with pytest.raises(ConfigError, match=r"output=m.pt: must end in .pt2 for format=torch_export"):
        export(kept(run), run, format="torch_export", output="m.pt")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs onnxruntime; pip install -e '.\[export\]'"):
        export(kept(run), run, format="onnx", output="m.onnx")


def test_the_description_says_how_pictures_are_prepared() -> None:
    config = {"image_size": 8, "mean": None, "std": None, "_target_": "project.data.own"}
    metadata = {"config": config, "class_names": ["a", "b"], "feature_names": None}
    metadata |= {"encoding": None}
    predictor = Predictor(nn.Identity(), Multiclass(2), Any, metadata)  # type: ignore[arg-type]
    description = describe(predictor, torch.zeros(2, 3, 8, 8), ["batch", 2], is_raw=False)
    assert description["preprocessing"]["center_crop"] == 8
    assert description["preprocessing"]["std"] == [1, 1, 1]
    assert description["inputs"]["shape"] == ["batch", 3, 8, 8]
    for inputs in (torch.zeros(2, 5), torch.full((2, 3, 8, 8), -1.5)):
        description = describe(predictor, inputs, ["batch", 2], is_raw=False)
        assert description["preprocessing"] == {
            "features": None,
            "order": "not known; project.data.own prepares the samples itself",
        }
