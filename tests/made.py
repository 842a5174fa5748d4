"""Small data sets on disk, in the formats that the options of conf/data/ read; configurations."""

import functools
import hashlib
import itertools
import pickle
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from PIL import Image
from torch import Tensor
from torchvision import datasets

from quartet.build import build, compose
from quartet.config.compose import explain
from quartet.config.overrides import quote_values
from quartet.core.files import CONF, PROJECTS
from quartet.core.problems import ConfigError

# Of conf/, those whose options a training takes.
GROUPS = {"data", "data/task", "loss", "metrics", "model", "module", "optimizer", "scheduler"}
GROUPS |= {"trainer", "callbacks", "logger", "experiment"}
PROJECT = PROJECTS[0]  # the package that a fork renames
# Schedules that move within a training of three epochs of four steps.
SHORT: dict[str, list[str]] = {
    "step": ["scheduler.step_size=1"],
    "multistep": ["scheduler.milestones=[1,2]"],
    "cosine_restarts": ["scheduler.T_0=2"],
    "cyclic": ["scheduler.step_size_up=3"],
    "plateau": ["scheduler.patience=0", "scheduler.threshold=0.5"],
}
# 70 training rows: batches of 20, 20, 20 and 10. All is saved that may be resumed.
TINY = (
    *("data=linear", "data.batch_size=20", "model.hidden=[16]", "model.dropout=0.3"),
    *("trainer=cpu", "trainer.max_epochs=3", "callbacks.progress_bar=null"),
    *("callbacks.last.min_seconds=0", "logger=csv"),
)
EACH_STEP = "callbacks.last.every_n_steps=1"


def options(group: str) -> list[str]:
    """The options of a group of conf/."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def pairs(first: str, second: str) -> list[tuple[str, str]]:
    """Options of two groups side by side: each of both is in one at least."""
    one, other = options(first), options(second)
    together = zip(itertools.cycle(one), itertools.cycle(other), strict=False)
    return list(itertools.islice(together, max(len(one), len(other))))


def project_part(name: str) -> Any:
    """A class or function of the project, such as ``model.mlp.MLP``; skips where a fork has none."""
    module, _, attribute = name.rpartition(".")
    found = pytest.importorskip(f"{PROJECT}.{module}", reason="a dropped example")
    return getattr(found, attribute)


def composed(words: Sequence[str] = ()) -> DictConfig:
    """What `compose` gives, in a tenth of the time: options are read once in a process."""
    words = quote_values(words)
    keys = [re.match(r"[+~]*([^=@]*)", word)[1] for word in words]  # optimizer of optimizer@other
    if any(key == "resume" or key.startswith("hydra") for key in keys):
        return compose(words)
    chosen = [word for key, word in zip(keys, words, strict=True) if key in GROUPS]
    cfg = pickle.loads(_base(*chosen))
    told = cfg.hydra
    with open_dict(cfg):
        cfg.pop("hydra")
    OmegaConf.set_struct(cfg, True)
    values = [word for key, word in zip(keys, words, strict=True) if key not in GROUPS]
    try:
        parsed = OverridesParser.create().parse_overrides(values)
        ConfigLoaderImpl._apply_overrides_to_config(parsed, cfg)
    except HydraException as error:
        raise explain(error, words) from None
    with open_dict(cfg):
        cfg.hydra = told
        cfg.hydra.overrides.task = [*words]
    return cfg


def assert_refused(words: Sequence[str], message: str) -> None:
    """Asserts that nothing is built of these words, for a reason that matches.

    One text is divided at its blanks.
    """
    with pytest.raises(ConfigError, match=message):
        build(composed(words.split() if isinstance(words, str) else words))


def refusals(*cases: tuple[Sequence[str], str], given: Sequence[str] = ()) -> Any:
    """A test that refuses each of the words, with those that are given before them."""

    @pytest.mark.parametrize(("words", "message"), cases)
    def test(words: Sequence[str], message: str) -> None:
        words = words.split() if isinstance(words, str) else words
        assert_refused([*given, *words], message)

    return test


def rejections(
    call: Any, *cases: tuple[Any, ...], error: type[Exception] = ValueError, words: str = "%s"
) -> Any:
    """A test that `call` rejects the arguments of each case with the message at its end.

    `words` stand around all messages.
    """

    @pytest.mark.parametrize("case", cases, ids=[case[-1] for case in cases])
    def test(case: tuple[Any, ...]) -> None:
        *arguments, message = case
        with pytest.raises(error, match=words % message):
            call(*arguments)

    return test


@functools.cache
def _base(*chosen: str) -> bytes:
    return pickle.dumps(compose(chosen))


def idx_files(rows: int, seed: int) -> dict[str, bytes]:
    """Raw files of `rows` training and ten test images in MNIST's format."""
    random = np.random.default_rng(seed)
    files = {}
    for part, count in (("train", rows), ("t10k", 10)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        files[f"{part}-images-idx3-ubyte"] = (
            struct.pack(">IIII", 2051, count, 28, 28) + images.tobytes()
        )
        files[f"{part}-labels-idx1-ubyte"] = struct.pack(">II", 2049, count) + labels.tobytes()
    return files


def cifar_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch, rows: int = 100
) -> tuple[list[str], dict[str, bytes]]:
    """Writes CIFAR-10's files, of `rows` training and 20 test images, below `folder`.

    Returns the names of the classes, and the files.
    """
    random = np.random.default_rng(0)

    def batch(count: int) -> bytes:
        pixels = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        return pickle.dumps({"data": pixels, "labels": [row % 10 for row in range(count)]})

    names = ["airplane", *"abcdefghi"]
    files = {"data_batch_1": batch(rows), "test_batch": batch(20)}
    files["batches.meta"] = pickle.dumps({"label_names": names})
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    # torchvision accepts only files with the original's checksums.
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", md5["data_batch_1"]]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    write(folder / "cifar-10-batches-py", files)
    return names, files


def write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def paint(folder: Path, **classes: int) -> None:
    """Grey pictures 12 pixels wide and 10 high; the brightness tells the class and the number."""
    for index, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("L", (12, 10), 100 * index + number).save(folder / name / f"{number}.png")


def labelled_table(path: Path, rows: int = 200) -> None:
    """A table of three numbers and two labels that follow from them, for data/task=multilabel."""
    random = np.random.default_rng(0)
    numbers = random.standard_normal((rows, 3))
    table = pd.DataFrame(numbers, columns=["a", "b", "c"])
    table["red"], table["round"] = (numbers[:, 0] > 0).astype(int), (numbers[:, 1] > 0).astype(int)
    table.to_csv(path, index=False)


def weights(run: Any) -> Tensor:
    """All weights of a run's model in one tensor."""
    return torch.cat([parameter.detach().flatten() for parameter in run.module.model.parameters()])
