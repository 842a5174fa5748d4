"""Training that begins with the weights of another run."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made import assert_refused, composed, refusals
from torch import nn

import quartet
from quartet.build import build
from quartet.checkpoints import storage
from quartet.core.problems import ConfigError
from quartet.inference.evaluate import evaluate
from quartet.run import train

FAST = ("trainer=cpu", "trainer.max_epochs=1", "trainer.limit_train_batches=2")


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("before") / "run"
    train(composed([*FAST, "data=wine", "callbacks=ema"]), directory)
    return directory


def test_model_begins_with_the_weights_of_the_run_that_were_tested(before: Path) -> None:
    saved = torch.load(before / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    for place in (before, before / "checkpoints" / "best.ckpt"):
        run = build(composed(["data=wine", f"model.weights='{place}'", "seed=5"]))
        for name, value in run.module.model.state_dict().items():
            assert torch.equal(value, saved[f"model.{name}"])


def test_what_fits_is_taken_the_rest_told(before: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["data=digits", "model.hidden=[128,64]", "seed=5"]
    with pytest.raises(ConfigError) as refused:
        build(composed([*names, f"model.weights='{before}'"]))
    assert str(refused.value) == (
        f"model.weights={before}: {before}/checkpoints/best.ckpt does not fit this model: "
        "layers.0.weight (128, 13) there, (128, 64) here, layers.2.weight (3, 128) there, (64, 128) "
        "here, layers.2.bias (3,) there, (64,) here, layers.4.weight only here, layers.4.bias only "
        "here; choose the model of that run, load a part with model.weights_keys, or the tensors that "
        "fit with model.strict=false."
    )
    fresh = build(composed(names)).module.model.state_dict()
    with caplog.at_level("INFO"):
        run = build(composed([*names, f"model.weights='{before}'", "model.strict=false"]))
    assert "1 of 6 tensors from" in caplog.text
    assert "left out: layers.0.weight (128, 13) there, (128, 64) here" in caplog.text
    changed = {k for k, v in run.module.model.state_dict().items() if not torch.equal(v, fresh[k])}
    assert changed == {"layers.0.bias"}
    names = ["data=digits", "model=cnn", "model.strict=false", f"model.weights='{before}'"]
    assert_refused(names, r"nothing in .*best.ckpt fits this model: layers.0.weight on")


def test_run_that_has_begun_needs_the_other_no_more(before: Path, tmp_path: Path) -> None:
    other, run = tmp_path / "other", tmp_path / "run"
    (other / "checkpoints").mkdir(parents=True)
    file = other / "checkpoints" / "best.ckpt"
    file.write_bytes((before / "checkpoints/best.ckpt").read_bytes())
    names = [*FAST, "data=wine", f"model.weights='{other}'"]
    result = train(composed(names), run)
    file.unlink()
    figures = evaluate(composed(names), run)
    assert figures == {k: v for k, v in result["metrics"].items() if k.startswith("test/")}
    assert train(composed([f"resume={run}", "trainer.max_epochs=2"]))["status"] == "finished"
    assert_refused(names, r"no best.ckpt or last.ckpt in .*; name the directory of a")


test_weights_that_are_not_there_are_refused = refusals(
    ("model.weights=foo", r"^model.weights=foo: no such file; name the directory"),
    ("model.weights=a/b.ckpt model=cnn", r"^model.weights=a/b.ckpt: no such file"),
    ("model=torchvision model.weights=IMAGENETX", r"^model.weights=IMAGENETX: is unknown; did"),
    ("model.weights=3", r"^model.weights=3: "),
    ("model.strict=maybe", r"^model.strict=maybe: "),
)


def test_part_of_the_weights_is_taken(before: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["data=wine", "model.hidden=[128,64]", "seed=5"]
    fresh = build(composed(names)).module.model.state_dict()
    saved = torch.load(before / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    for keys in ("['layers.0.*']", "{layers.0: layers.0}"):
        caplog.clear()
        with caplog.at_level("INFO"):
            part = [f"model.weights='{before}'", f"model.weights_keys={keys}"]
            run = build(composed([*names, *part]))
        for name, value in run.module.model.state_dict().items():
            expected = saved[f"model.{name}"] if name.startswith("layers.0.") else fresh[name]
            assert torch.equal(value, expected)
        words = "best.ckpt: layers.0.weight, layers.0.bias; as they were: layers.2.weight, layers.2"
        assert words in caplog.text


def test_modules_are_taken_under_other_names(before: Path) -> None:
    saved = storage.load(before / "checkpoints/best.ckpt")["state_dict"]
    layers = nn.Sequential(nn.Linear(13, 128), nn.ReLU(), nn.Linear(128, 3))
    both = nn.ModuleDict({"inner": copy.deepcopy(layers), "head": nn.Linear(3, 1)})
    told = storage.load_weights(layers, str(before), strict=True, keys={"layers": ""})
    assert told.startswith("4 of 4 tensors from")
    storage.load_weights(both, str(before), strict=True, keys={"layers": "inner"})
    for name, value in layers.state_dict().items():
        assert torch.equal(value, saved[f"model.layers.{name}"])
        assert torch.equal(value, both["inner"].state_dict()[name])


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("['encoder.*']", r"^model.weights_keys: 'encoder.\*' chooses nothing there, of layers.0"),
        ("['layers.4.*']", r"^model.weights_keys: 'layers.4.\*' chooses nothing there, of lay"),
        ("{encoder: layers}", r"^model.weights_keys: 'encoder' chooses nothing there, of layers.0"),
        ("{layers: net}", r"^model.weights_keys: 'layers' chooses nothing here, of layers.0"),
        ("['layers.2.*']", r"^model.weights=.*layers.2.weight \(3, 128\) there, \(64, 128\) here"),
        ("encoder", r"^model.weights_keys=encoder: must be a list .* such as \[encoder\]"),
    ],
)
def test_part_that_is_not_there_is_refused(keys: str, words: str, before: Path) -> None:
    names = ["data=wine", "model.hidden=[128,64]", f"model.weights='{before}'"]
    assert_refused([*names, f"model.weights_keys={keys}"], words)


@pytest.mark.parametrize("place", ["null", "DEFAULT"])
def test_part_of_no_run_is_refused(place: str) -> None:
    names = ["model=torchvision", f"model.weights={place}", "model.weights_keys=['layer1.*']"]
    assert_refused(names, r"^model.weights_keys=\['layer1.*model.weights must name")


# A trained model within another run


class Student(nn.Module):
    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher, self.own = teacher, nn.Linear(3, 3)


def test_loaded_model_is_that_of_the_run(before: Path) -> None:
    run = build(composed(["data=wine", f"model.weights='{before}'"]))
    inputs = run.data.first_batch(8)[0]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    files = sorted(path.name for path in before.rglob("*"))
    for place in (before, str(before)):
        model = quartet.load_model(place)
        assert torch.equal(model(inputs), run.module.model.eval()(inputs))
    assert torch.equal(torch.get_rng_state(), state)
    assert sorted(path.name for path in before.rglob("*")) == files
    last = storage.load(before / "checkpoints/last.ckpt")["state_dict"]["model.layers.0.weight"]
    loaded = quartet.load_model(before, checkpoint="last").model.layers[0].weight
    assert torch.equal(loaded, last)


def test_loaded_model_stays_as_it_is_within_another_one(before: Path) -> None:
    student = Student(quartet.load_model(before)).train()
    teacher: Any = student.teacher
    assert [name for name, _ in student.named_parameters()] == ["own.weight", "own.bias"]
    assert [*student.state_dict()] == ["own.weight", "own.bias"]
    student.load_state_dict(student.state_dict())
    assert not teacher.model.training
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    inputs = torch.randn(2, 13, requires_grad=True)
    teacher(inputs).sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.any()
    expected = teacher(inputs)
    for moved in (student, copy.deepcopy(student)):
        made = moved.double().teacher(inputs.double())
        torch.testing.assert_close(made.float(), expected)
        assert made.dtype == torch.float64
        assert moved.to("meta").teacher(inputs.double().to("meta")).is_meta


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: shutil.rmtree(run / ".hydra"), r"run holds no run: there is no .hydra/config"),
        (lambda run: (run / "checkpoints/best.ckpt").unlink(), r"best.ckpt is missing; name best"),
        (
            lambda run: (run / "checkpoints/best.ckpt").write_bytes(b"PK"),
            r"run: no model can be loaded of this run: .*best.ckpt \(2 bytes\) is cut short",
        ),
        (
            lambda run: rewrite(run, "_target_: project.model.mlp.MLP", "_target_: os.remove"),
            r"model._target_=os.remove: is no part of a training",
        ),
        (
            lambda run: rewrite(run, "- 128", "- 64"),
            r"checkpoint=.*: is of another model, .*layers.0",
        ),
    ],
)
def test_model_that_cannot_be_loaded_is_told(
    damage: Callable[[Path], None], words: str, before: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(before, tmp_path / "run")
    damage(run)
    with pytest.raises(ValueError, match=words):
        quartet.load_model(run)


def rewrite(run: Path, old: str, new: str) -> None:
    file = run / ".hydra/config.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
