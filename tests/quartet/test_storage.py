"""Checkpoints: whole or not there, verified when read, plain data and nothing else."""

import errno
import hashlib
import io
import logging
import os
import pickle
import random
import re
import stat
import subprocess
import sys
import zipfile
from collections import Counter, OrderedDict
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made import composed
from omegaconf import OmegaConf
from processes import SMOKE
from torch import nn

from quartet.build import build
from quartet.checkpoints import storage
from quartet.checkpoints.storage import CheckpointError, find_newest, load, save, seal
from quartet.cli import expected
from quartet.core.problems import ConfigError
from quartet.inference.evaluate import evaluate
from quartet.inference.predict import predict
from quartet.run import train


def checkpoint(step: int = 0, width: int = 4) -> dict[str, Any]:
    model = nn.Linear(width, width)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, width)).sum().backward()
    optimizer.step()
    return {
        **{key: {name: {} for name in names} for key, names in storage.NESTED.items()},
        **{"pytorch-lightning_version": "2.6.6", "epoch": 0},
        "global_step": step,
        "state_dict": model.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [{"milestones": Counter([3, 5])}],
        "callbacks": {"Best": {"best_k_models": {"best.ckpt": torch.tensor(0.5)}, "dirpath": "x"}},
        "rows": [{"epoch": 0, "val/loss": float("nan")}, None, (1, True, b"bytes", 2j)],
    }


def same(first: Any, second: Any) -> bool:
    """Whether the tensors and containers of two checkpoints are equal; NaN equals NaN."""
    return seal(first) == seal(second)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_raw(path: Path, content: bytes) -> Path:
    """Gives bytes of a zip archive the checksum that `save` would."""
    archive = content[:-2] + storage.SEAL_SIZE.to_bytes(2, "little") + storage.LABEL
    path.write_bytes(archive + hashlib.sha256(archive).hexdigest().encode())
    return path


def write_archive(path: Path, value: Any, **options: Any) -> Path:
    """Whatever torch can save, with a good checksum."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return write_raw(path, buffer.getvalue())


# Saving


def test_a_checkpoint_comes_back_as_it_was_from_plain_torch_too(tmp_path: Path) -> None:
    path = tmp_path / "new" / "last.ckpt"
    save(checkpoint(), path)
    (tmp_path / "new" / ".last.ckpt.part").write_bytes(b"half")  # of a save that was killed
    save(saved := checkpoint(7), path)
    assert names(tmp_path / "new") == ["last.ckpt"]
    loaded = load(path)
    assert same(saved, loaded)
    assert loaded["lr_schedulers"][0]["milestones"] == Counter([3, 5])
    for mmap in (False, True):
        assert same(torch.load(path, weights_only=True, mmap=mmap), saved)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def test_temporary_file_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    synced: list[bool] = []
    fsync = os.fsync

    def look(descriptor: int) -> None:
        seen.append(names(tmp_path / "run"))
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "elsewhere"))
    save(checkpoint(), tmp_path / "run" / "last.ckpt")
    # The file under its temporary name first, then the folder with its last name.
    assert seen == [[".last.ckpt.part"], ["last.ckpt"]]
    assert synced == [False, True]


class Colour(IntEnum):
    RED = 1


MORE = (
    (nn.Linear, "type"),
    (nn.Linear(1, 1), "Linear"),
    (partial(print, 1), "partial"),
    (print, "builtin_function_or_method"),
    (np.float64(1.0), "numpy.float64"),  # a float, too
    (np.zeros(1), "numpy.ndarray"),
    (OmegaConf.create({"a": 1}), "DictConfig"),
    (Path("x"), "Path"),
    (Colour.RED, "Colour"),  # an int, too
    (object(), "builtins.object"),
)


@pytest.mark.parametrize(
    ("place", "value", "kind"),
    [
        pytest.param(place, value, kind, id=f"{place}-{kind}")
        for place in ("nested", "attribute", "key")
        for value, kind in MORE
        if place != "key" or type(value).__hash__
    ],
)
def test_only_plain_data_is_saved(tmp_path: Path, value: Any, kind: str, place: str) -> None:
    path = tmp_path / "last.ckpt"
    save(saved := checkpoint(), path)
    content: dict[str, Any] = {"state_dict": OrderedDict()}
    if place == "nested":
        content["mine"], key = {"a": [1, {"b": value}]}, "mine.a.1.b"
    elif place == "attribute":
        content["state_dict"].mine, key = value, "state_dict.mine"
    else:
        content["mine"], key = {value: 1}, "mine."
    with pytest.raises(CheckpointError, match=rf"was not written: {key}.*{kind}; a checkpoint has"):
        save(content, path)
    assert same(load(path), saved)
    assert names(tmp_path) == ["last.ckpt"]


# Failures of the disk


OPEN = Path.open


class Full(io.BytesIO):
    """A file on a disk that is full, or broken, after a thousand bytes."""

    def __init__(self, path: Path, number: int) -> None:
        super().__init__()
        self.file, self.number = OPEN(path, "wb"), number

    def write(self, content: Any) -> int:
        self.file.write(content[:1000])
        raise OSError(self.number, os.strerror(self.number))

    def close(self) -> None:
        self.file.close()
        super().close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("before", [True, False])
def test_a_full_disk_leaves_the_checkpoint_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, before: bool
) -> None:
    path = tmp_path / "last.ckpt"
    saved = checkpoint(1)
    if before:
        save(saved, path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, mode: Full(self, number))
        with pytest.raises(CheckpointError) as raised:
            save(checkpoint(2), path)
    text = str(raised.value)
    for words in (str(path), os.strerror(number), f"{len(seal(checkpoint(2))):,} bytes"):
        assert words in text
    assert ("The one before it is intact." in text) == before
    assert names(tmp_path) == ["last.ckpt"] * before
    if before:
        assert same(load(path), saved)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_of_a_later_step_leaves_the_checkpoint_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "last.ckpt"
    save(saved := checkpoint(1), path)

    def fail(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os if call == "fsync" else Path, call, fail)
        with pytest.raises(CheckpointError, match=r"No space left .*; make room or write elsewhe"):
            save(checkpoint(2), path)
    assert same(load(path), saved)
    assert names(tmp_path) == ["last.ckpt"]


def test_interruption_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise SystemExit(143)

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(SystemExit):
        save(checkpoint(), tmp_path / "last.ckpt")
    assert names(tmp_path) == []


# Kills

KILLS = """
import os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from quartet.checkpoints.storage import NESTED, find_newest, load, save
folder, kills, moments = Path(sys.argv[1]), int(sys.argv[2]), random.Random(0)
path, part = folder / "last.ckpt", folder / ".last.ckpt.part"
leftovers = 0
entries = {key: {name: {} for name in names} for key, names in NESTED.items()} | {
    **{"pytorch-lightning_version": "2.6.6", "epoch": 0, "state_dict": {}, "callbacks": {}},
    **{"optimizer_states": [], "lr_schedulers": []},
}
for kill in range(kills):
    content = entries | {"global_step": 1000 * kill, "weight": torch.full((200_000,), 1000.0 * kill)}
    before = path.stat().st_mtime_ns if path.exists() else 0
    child = os.fork()
    if child == 0:
        while True:
            content["global_step"] += 1
            content["weight"] += 1
            save(content, path)
    while not path.exists() or path.stat().st_mtime_ns == before:
        time.sleep(0.001)
    time.sleep(moments.uniform(0, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    leftovers += part.exists()
    assert find_newest(folder) == path
    loaded = load(path)
    assert loaded["global_step"] > 1000 * kill
    assert (loaded["weight"] == loaded["global_step"]).all()
print(leftovers)
"""


@pytest.mark.slow
def test_a_kill_never_leaves_a_broken_checkpoint(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLS, str(tmp_path), "100"]
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=variables)
    assert not done.returncode, done.stderr
    assert int(done.stdout) > 10  # kills do hit the middle of a save


# Damage


def damages(content: bytes, count: int) -> list[bytes]:
    """Truncations, flipped bits and zeroed ranges of a file, a third each."""
    moments, found = random.Random(0), []
    while len(found) < count:
        damaged = bytearray(content)
        place = moments.randrange(len(content))
        if len(found) % 3 == 0:
            del damaged[place:]
        elif len(found) % 3 == 1:
            damaged[place] ^= 1 << moments.randrange(8)
        else:
            length = min(moments.choice([1, 16, 512, 4096]), len(content) - place)
            damaged[place : place + length] = bytes(length)
        if damaged != content:  # a range may have been zero before
            found.append(bytes(damaged))
    return found


def test_every_damage_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save(checkpoint(), path)
    content = path.read_bytes()
    ends = [content[:place] + b"!" + content[place + 1 :] for place in range(-110, -1)]
    for damaged in [*damages(content, 300), *ends, content + b"\0"]:
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"is damaged|is cut short") as raised:
            load(path)
        assert f"{path} ({len(damaged):,} bytes)" in str(raised.value)
        assert "use another one" in str(raised.value)


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    torch.save(checkpoint(), tmp_path / "plain.ckpt")
    (tmp_path / "empty.ckpt").touch()
    for name in ("plain", "empty"):
        with pytest.raises(CheckpointError, match="or not written by this program; use another"):
            load(tmp_path / f"{name}.ckpt")


# Hostile files, all with a good checksum


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["top", "hyper_parameters", "state_dict"])
def test_a_pickled_payload_never_runs(tmp_path: Path, legacy: bool, place: str) -> None:
    payload, path = Payload(tmp_path / "canary"), tmp_path / "last.ckpt"
    content: Any = payload if place == "top" else {"state_dict": {}, place: {"a": payload}}
    write_archive(path, content, _use_new_zipfile_serialization=not legacy)
    for source in (path, f"file://{path}"):
        with pytest.raises(CheckpointError, match=r"is refused, it has more .* Nothing in it was"):
            load(source)
    assert not (tmp_path / "canary").exists()
    pickle.loads(pickle.dumps(payload))
    assert (tmp_path / "canary").exists()  # it would have


def test_a_class_is_refused_even_if_torch_was_told_to_trust_it(tmp_path: Path) -> None:
    write_archive(tmp_path / "last.ckpt", {"hparams_type": Colour})
    with torch.serialization.safe_globals([Colour]), pytest.raises(CheckpointError, match="enum"):
        load(tmp_path / "last.ckpt")


@pytest.mark.parametrize("name", ["_target_", "_instantiator", "_class_path"])
@pytest.mark.parametrize("hide", [lambda d: d, lambda d: {"a": [OrderedDict(b=(d,))]}])
def test_name_to_call_is_neither_saved_nor_loaded(tmp_path: Path, name: str, hide: Any) -> None:
    path = tmp_path / "last.ckpt"
    content = {"hyper_parameters": hide({name: "os.system", "command": "true"})}
    words = rf"hyper_parameters.*{name} names something to call"
    with pytest.raises(CheckpointError, match=f"was not written: {words}"):
        save(content, path)
    write_archive(path, content)
    with pytest.raises(CheckpointError, match=f"is refused: {words}"):
        load(path)


CYCLE: dict[str, Any] = {}
CYCLE["a"] = CYCLE


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1], "no dictionary"),
        (torch.zeros(1), "no dictionary"),
        (None, "no dictionary"),
        (CYCLE, "contains itself"),
    ],
    ids=["list", "tensor", "None", "itself"],
)
def test_what_is_no_plain_dictionary_is_refused(tmp_path: Path, value: Any, words: str) -> None:
    write_archive(tmp_path / "last.ckpt", value)
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path / "last.ckpt")


@pytest.mark.parametrize("place", ["reference://a::/b.json", "memory://a", "simplecache::http://a"])
def test_an_address_of_another_kind_is_refused(place: str) -> None:
    with pytest.raises(CheckpointError, match="must begin with file, http, https"):
        load(place)


def test_lightning_cannot_ask_for_more_than_weights(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "last.ckpt", {"a": Payload(tmp_path / "canary")})
    for asked in (None, False, True):
        with pytest.raises(CheckpointError, match="is refused"):
            storage.DurableCheckpoints(path.parent).load_checkpoint(path, weights_only=asked)
    assert not (tmp_path / "canary").exists()


def test_run_is_evaluated_with_checkpoint_by_url(tmp_path: Path, served: tuple[Path, str]) -> None:
    folder, address = served
    cfg = composed([*SMOKE, "callbacks.progress_bar=null"])
    run = tmp_path / "run"
    train(cfg, run)
    good = (run / "checkpoints/last.ckpt").read_bytes()
    (folder / "good.ckpt").write_bytes(good)
    (folder / "cut.ckpt").write_bytes(good[:-1])
    write_archive(folder / "evil.ckpt", {"state_dict": {}, "a": Payload(tmp_path / "canary")})
    problems = {"cut": "is cut short", "evil": "is refused, it has more than plain data"}
    problems["missing"] = "cannot be read"
    last = evaluate(cfg, run, checkpoint="last")
    by_name = predict(cfg, run, checkpoint="last", output=tmp_path / "by-name.csv")
    for number, start in enumerate((address, f"file://{folder}")):
        assert evaluate(cfg, run, checkpoint=f"{start}/good.ckpt") == last
        output = tmp_path / f"{number}.csv"
        rows = predict(cfg, run, checkpoint=f"{start}/good.ckpt", output=output)
        assert rows.read_text() == by_name.read_text()
        for name, problem in problems.items():
            place = f"{start}/{name}.ckpt"
            for command in (evaluate, predict):
                with pytest.raises(ConfigError, match=rf"checkpoint={place}.*{problem}"):
                    command(cfg, run, checkpoint=place)
    assert not (tmp_path / "canary").exists()


def test_nothing_outside_the_run_is_written_or_removed(tmp_path: Path) -> None:
    mine, folder = tmp_path / "mine.ckpt", tmp_path / "folder"
    mine.touch()
    folder.mkdir()
    run = tmp_path / "run"
    (run / "folder.ckpt").mkdir(parents=True)
    plugin = build(composed(["trainer.accelerator=cpu"]), run).trainer.strategy.checkpoint_io
    assert type(plugin) is storage.DurableCheckpoints  # of every trainer
    for path in (mine, folder, run / ".." / "mine.ckpt"):
        with pytest.raises(CheckpointError, match="outside the run's directory"):
            plugin.remove_checkpoint(path)
        with pytest.raises(CheckpointError, match="outside the run's directory"):
            plugin.save_checkpoint({}, path)
    plugin.remove_checkpoint(run / "folder.ckpt")
    assert all(path.exists() for path in (mine, folder, run / "folder.ckpt"))
    outside = r"BestCheckpoint.dirpath=.* is outside the run's directory"
    with pytest.raises(ConfigError, match=outside):
        build(composed([f"callbacks.best.dirpath={tmp_path}/elsewhere", "trainer=cpu"]), run)


# What a command says of it


def test_a_failed_save_needs_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="No space left") as raised:  # noqa: PT012
        try:
            save({}, tmp_path / "file" / "last.ckpt")
        finally:  # result.json does not fit either
            raise OSError(errno.ENOSPC, "No space left on device")
    assert isinstance(expected(raised.value), CheckpointError)
    assert expected(OSError(errno.EROFS, "Read-only file system")) is not None
    assert expected(FileNotFoundError(errno.ENOENT, "a fault of the program")) is None
    assert expected(KeyError("x")) is None


# The newest good one


def test_last_or_newest_good_one_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, step in (("last", 6), ("a", 3), ("best", 7), ("c", 5), ("broken", 8)):
        save(checkpoint(step), tmp_path / f"{name}.ckpt")
    assert find_newest(tmp_path) == tmp_path / "last.ckpt"
    assert not caplog.records
    for name in ("last", "broken"):
        with (tmp_path / f"{name}.ckpt").open("r+b") as file:
            file.truncate(1000)
    (tmp_path / ".last.ckpt.part").write_bytes(b"half")
    with caplog.at_level(logging.WARNING):
        assert find_newest(tmp_path) == tmp_path / "best.ckpt"
    assert f"{tmp_path / 'last.ckpt'} (1,000 bytes) is cut short" in caplog.text
    assert f"Using {tmp_path / 'best.ckpt'} instead, of step 7." in caplog.text


def test_without_a_good_checkpoint_each_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint to resume from: there is none"):
        find_newest(tmp_path)
    for name in ("best", "last"):
        (tmp_path / f"{name}.ckpt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"(?s)last.ckpt \(1 bytes\).*best.ckpt \(1 bytes\)"):
        find_newest(tmp_path)


def test_torch_load_stands_in_one_file_and_loads_weights_only() -> None:
    root = Path(storage.__file__).parents[3]
    files = [*root.glob("*.py"), *(root / "src").rglob("*.py"), *(root / "scripts").glob("*.py")]
    calls = re.compile(
        r"torch\.load\(|hub\.load\(|load_from_checkpoint|from torch import .*\bload\b"
    )
    found = [path.name for path in files for _ in calls.findall(path.read_text())]
    assert found == ["storage.py"]
    text = Path(storage.__file__).read_text()
    assert len(re.findall(r"torch\.load\([^)]*weights_only=True", text)) == 1
