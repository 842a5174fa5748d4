"""The JSON schemas with which editors check the YAML: up to date, neither too strict nor too lax."""

import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from made import PROJECT
from omegaconf import OmegaConf

from quartet.core.files import CONF

SCRIPT = runpy.run_path(str(CONF.parent / "scripts/schema.py"))
BEST = "quartet.checkpoints.callbacks.BestCheckpoint"
SCHEMAS: dict[str, str] = SCRIPT["schemas"]()
YAMLS = [path for path in sorted(CONF.rglob("*.yaml")) if SCRIPT["modeline"](path)]
NAMING = [path for path in YAMLS if "$schema=" in path.read_text()]


def test_schemas_are_those_of_the_code() -> None:
    written = {path.stem: path.read_text() for path in (CONF / ".schema").glob("*.json")}
    if not all(f"with {SCRIPT['versions']()}." in content for content in written.values()):
        pytest.skip("the committed schemas describe other versions of the libraries")
    if NAMING != YAMLS:
        pytest.skip("python scripts/schema.py describes the options of this fork")
    assert written == SCHEMAS, "python scripts/schema.py writes them anew"
    for content in SCHEMAS.values():
        Draft202012Validator.check_schema(json.loads(content))


@pytest.mark.parametrize("path", NAMING, ids=lambda path: str(path.relative_to(CONF))[:-5])
def test_shipped_file_is_valid_and_names_its_schema(path: Path) -> None:
    head = next(line for line in path.read_text().splitlines()[:2] if "@package" not in line)
    assert f"{head}\n" == SCRIPT["modeline"](path), "python scripts/schema.py writes it"
    file = (path.parent / head.partition("$schema=")[2]).resolve()
    assert not problems(file.stem, OmegaConf.to_container(OmegaConf.load(path)))


def problems(group: str, content: Any) -> list[str]:
    return [
        error.message
        for error in Draft202012Validator(json.loads(SCHEMAS[group])).iter_errors(content)
    ]


@pytest.mark.parametrize(
    ("group", "content"),
    [
        ("optimizer", {"_target_": "torch.optim.Adam", "lr": "fast"}),
        ("optimizer", {"_target_": "torch.optim.Adam", "learning_rate": 0.1}),
        ("optimizer", {"freeze": "layers.0.*"}),
        ("scheduler", {"_target_": "torch.optim.lr_scheduler.StepLR", "interval": "batch"}),
        ("model", {"_target_": f"{PROJECT}.model.mlp.MLP", "hiden": [64]}),
        ("data", {"task": "clustering"}),
        ("loss", {"tasks": "binary"}),
        ("callbacks", {"best": {"_target_": BEST, "file_name": "x"}}),
        ("metrics", {"accuracy": 3}),
        ("trainer", {"max_epochs": "many"}),
        ("module", {"_target_": f"{PROJECT}.module.Module", "model": None}),
        ("experiment", {"monitor": {"metrik": "val/loss"}}),
        ("experiment", {"seed": "zero"}),
    ],
)
def test_mistake_is_found(group: str, content: Any) -> None:
    assert problems(group, content)


@pytest.mark.parametrize(
    ("group", "content"),
    [
        ("optimizer", {"_target_": "lion_pytorch.Lion", "lr": 0.1, "use_triton": False}),
        ("optimizer", {"_target_": "torch.optim.Adam", "lr": "${oc.env:LR}"}),
        ("data", {"_target_": f"{PROJECT}.data.moons.moons", "samples": 3, "task": "multiclass"}),
    ],
)
def test_option_of_a_fork_is_valid(group: str, content: Any) -> None:
    assert not problems(group, content)


def test_new_option_and_group_get_a_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = shutil.copytree(CONF, tmp_path / "conf")
    (conf / "encoder").mkdir()
    (conf / "encoder/dense.yaml").write_text("_target_: torch.nn.Linear\nbias: true # adds one\n")
    (conf / "loss/poisson.yaml").write_text("_target_: torch.nn.PoissonNLLLoss\nlog_input: true\n")
    monkeypatch.setattr("quartet.core.files.CONF", conf)
    runpy.run_path(str(CONF.parent / "scripts/schema.py"))["main"]()
    encoder = json.loads((conf / ".schema/encoder.json").read_text())
    (branch,) = encoder["allOf"]
    assert branch["then"]["properties"]["bias"]["description"] == "adds one"
    assert "PoissonNLLLoss" in (conf / ".schema/loss.json").read_text()
    head = (conf / "encoder/dense.yaml").read_text().splitlines()[0]
    assert head == "# yaml-language-server: $schema=../.schema/encoder.json"
