"""Configurations are what Hydra composes by itself, with and without references in defaults."""

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal import defaults_list
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from quartet.config import composing
from quartet.core.files import CONF

HYDRAS, PYYAMLS = defaults_list._create_interpolation_map, yaml.SafeLoader
FILES = {
    "plain": "{defaults: [data: a, model: mlp, _self_], lr: 1}",
    "named": "{defaults: [data: a, model: mlp, both: '${data}_${model}', _self_], lr: 1}",
    "path": "{defaults: [data: a, '${data}/mlp']}",
    "unknown": "{defaults: [data: a, model: '${nothing}']}",
    "data/a": "{defaults: [part: b], name: a}",
    "data/b": "{defaults: [part: '${data}'], name: b}",
    "data/part/b": "{kind: b}",
    "model/mlp": "{name: mlp}",
    "model/a": "{name: a}",
    "both/a_mlp": "{of: a}",
    "both/b_mlp": "{of: b}",
    "a/mlp": "{place: a}",
    "b/mlp": "{place: b}",
}


def composed(folder: Path, name: str, overrides: list[str]) -> str:
    with initialize_config_dir(str(folder), version_base="1.3"):
        try:
            return OmegaConf.to_yaml(compose(name, overrides))
        except ConfigCompositionException as error:
            return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize(
    ("name", "overrides", "part"),
    [
        ("plain", [], "lr: 1"),
        ("plain", ["model=${data}"], "name: a"),
        ("plain", ["data=b"], "kind: b"),
        ("plain", ["+both=${data}_${model}"], "of: a"),
        ("named", [], "of: a"),
        ("named", ["data=b"], "of: b"),
        ("named", ["~both"], "lr: 1"),
        ("path", ["data=b"], "place: b"),
        ("unknown", [], "Error resolving interpolation '${nothing}'"),
    ],
)
def test_references_mean_what_they_mean_to_hydra(
    name: str, overrides: list[str], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file, text in FILES.items():
        path = tmp_path / f"{file}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(defaults_list, "_create_interpolation_map", HYDRAS)
    expected = composed(tmp_path, name, overrides)
    assert part in expected
    composing.hasten()
    assert composed(tmp_path, name, overrides) == expected


def test_training_is_what_hydra_composes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults_list, "_create_interpolation_map", HYDRAS)
    monkeypatch.setattr(yaml, "SafeLoader", PYYAMLS)
    expected = composed(CONF, "train", ["data=diabetes", "optimizer=sgd"])
    composing.hasten()
    assert composed(CONF, "train", ["data=diabetes", "optimizer=sgd"]) == expected
