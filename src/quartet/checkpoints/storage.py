"""Checkpoints on disk: whole or not there, verified when read, and never more than plain data.

A file is torch's own zip archive, which plain ``torch.load`` reads. Its last bytes, the comment of
the archive, are the SHA-256 of all bytes before them: file and checksum are one and cannot disagree.
"""

import hashlib
import io
import logging
import shutil
from collections import Counter, OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import fsspec  # type: ignore[import-untyped]
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor, nn

from quartet.core import files

log = logging.getLogger(__name__)

LABEL = b"quartet sha256 "
SUFFIX = ".ckpt"
SCHEMES = ("file", "http", "https", "s3", "gs", "abfs", "hf")  # of addresses
SEAL = len(LABEL) + hashlib.sha256().digest_size * 2
ATOMS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
LISTS = (list, tuple, set)
DICTS = (dict, OrderedDict, Counter)
# By these keys Lightning and Hydra find what to call.
CALLS = ("_target_", "_instantiator", "_class_path")


class CheckpointError(OSError):
    """A checkpoint cannot be written, or must not be used. Tells the path and the way out."""


class DurableCheckpoints(TorchCheckpointIO):
    """Lets Lightning save and load by `save` and `load`, and remove nothing but checkpoints.

    Args:
        directory: Of the run; nothing outside it is written or removed.
    """

    def __init__(self, directory: str | Path) -> None:
        super().__init__()
        self.directory = Path(directory).resolve()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        save(checkpoint, self.within(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        if self.within(path).suffix == SUFFIX:
            files.remove_file(Path(path))

    def within(self, path: str | Path) -> Path:
        """The path, if it is in the run's directory."""
        if not Path(path).resolve().is_relative_to(self.directory):
            raise CheckpointError(
                f"{path} was not touched: it is outside the run's directory, {self.directory}; "
                "leave dirpath and filename as conf/callbacks/ sets them."
            )
        return Path(path)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Loads as `load` does: weights only, whatever is asked for."""
        return load(path, map_location)


def save(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Writes a checkpoint so that `path` is the old one or the new one at every moment.

    Raises:
        CheckpointError: it holds more than tensors and plain containers, or cannot be written; the
            old one is then intact, and nothing else is left behind.
    """
    path = Path(path)
    for key, fault in unfit(checkpoint):
        raise CheckpointError(
            f"{path} was not written: {key} {fault}; a checkpoint holds tensors, numbers, texts, "
            "lists and dictionaries only, so that loading it can run nothing."
        )
    content = sealed(checkpoint)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(path, content)
    except OSError as error:
        raise CheckpointError(
            f"{path} was not written: {len(content):,} bytes, {error.strerror or error}"
            f"{room(path.parent)}; make room or write elsewhere, with hydra.run.dir=FOLDER. "
            f"{'The one before it is intact.' if path.exists() else 'There is none before it.'}"
        ) from error


def load(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Reads a checkpoint after its bytes are verified. What is pickled in it never runs.

    Args:
        path: A file, or a URL.
        map_location: Where its tensors go.

    Raises:
        CheckpointError: it is damaged, not one of ours, or holds more than plain data.
        FileNotFoundError: there is none.
    """
    with opened(path) as file:
        verify(file, path)
        file.seek(0)
        try:
            checkpoint: dict[str, Any] = torch.load(
                file, map_location=map_location, weights_only=True
            )
        except Exception as error:  # of many kinds: the bytes are whole, so the content is at fault
            raise CheckpointError(
                f"{path} ({size(file):,} bytes) is refused, it holds more than plain data: "
                f"{str(error).strip().partition(chr(10))[0]} Nothing in it was run; take a "
                "checkpoint that this program wrote."
            ) from None
    if type(checkpoint) not in DICTS:
        raise CheckpointError(f"{path} is refused: {type(checkpoint).__name__}, no dictionary.")
    try:
        found = next(unfit(checkpoint), None)
    except RecursionError:
        found = ("it", "holds itself")
    if found:
        raise CheckpointError(
            f"{path} is refused: {' '.join(found)}. Nothing in it was run; take a checkpoint that "
            "this program wrote."
        )
    return checkpoint


def newest_good(folder: str | Path) -> Path:
    """``last.ckpt`` of a folder; if it is damaged, says so and takes the newest that is not.

    One that was saved within an optimizer step does not count: the gradients so far are not in it.

    Raises:
        CheckpointError: none can be loaded; says what is wrong with each.
        FileNotFoundError: none is damaged, and each was saved within a step.
    """
    folder = Path(folder)
    faults: list[str] = []
    good: dict[Path, int] = {}
    last = folder / "last.ckpt"
    for path in [last, *sorted(set(folder.glob("*.ckpt")) - {last})]:
        try:
            found = load(path)
            if not found.get("resume_state", {}).get("within_step"):
                good[path] = found.get("global_step", -1)
        except FileNotFoundError:
            continue
        except OSError as error:
            faults.append(str(error))
        if path == last and path in good:
            break
    if not good and not faults and any(folder.glob("*.ckpt")):
        raise FileNotFoundError(f"{folder} has no checkpoint that was saved between two steps.")
    if not good:
        there = "\n  ".join(faults) or "there is none."
        raise CheckpointError(f"{folder} has no checkpoint to go on from: {there}")
    newest = max(good, key=lambda path: good[path])
    for fault in faults:
        log.warning(fault)
    if newest != last:
        log.warning(f"Taking {newest} instead, of step {good[newest]}.")
    return newest


def sealed(checkpoint: dict[str, Any]) -> bytes:
    """The bytes of the file."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    with buffer.getbuffer() as archive:
        archive[-2:] = SEAL.to_bytes(2, "little")  # a zip archive ends in the length of its comment
    buffer.seek(0, io.SEEK_END)
    buffer.write(LABEL)
    with buffer.getbuffer() as content:
        digest = hashlib.sha256(content).hexdigest()
    buffer.write(digest.encode())
    return buffer.getvalue()


def verify(file: IO[bytes], path: str | Path) -> None:
    """Compares the checksum.

    Raises:
        CheckpointError: there is none, or another.
    """
    length = size(file)
    digest_length = SEAL - len(LABEL)
    file.seek(max(0, length - SEAL))
    label, expected = file.read(len(LABEL)), file.read()
    if label != LABEL or len(expected) != digest_length:
        fault = "is cut short, damaged at its end, or not written by this program"
    else:
        file.seek(0)
        digest, left = hashlib.sha256(), length - digest_length
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
        if digest.hexdigest().encode() == expected:
            return
        fault = "is damaged: its checksum does not match"
    raise CheckpointError(
        f"{path} ({length:,} bytes) {fault}; take another one, such as checkpoint=best or "
        "checkpoint=last."
    )


def unfit(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Keys of what is no tensor and no plain container, or names something to call, and why."""
    kind = type(value)
    if kind in ATOMS:
        return
    if kind in DICTS:
        for name, item in value.items():
            if name in CALLS:
                yield joined(key, name), "names something to call"
            yield from unfit(name, f"{joined(key, name)} (the key itself)")
            yield from unfit(item, joined(key, name))
    elif kind in LISTS:
        for index, item in enumerate(value):
            yield from unfit(item, joined(key, index))
    elif kind not in (Tensor, nn.Parameter):
        yield key, f"is a {kind.__module__}.{kind.__qualname__}"
    for name, item in getattr(value, "__dict__", {}).items():
        yield from unfit(item, joined(key, name))


def joined(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)


def opened(path: str | Path) -> IO[bytes]:
    scheme = str(path).partition("://")[0]
    if scheme == str(path):
        return Path(path).open("rb")
    if scheme not in SCHEMES:  # some of fsspec's many build an address of what other files say
        raise CheckpointError(f"{path} cannot be read: must begin with {', '.join(SCHEMES)}.")
    try:
        with fsspec.open(str(path), "rb") as file:
            return io.BytesIO(file.read())
    except Exception as error:  # each kind of address has its own
        raise CheckpointError(f"{path} cannot be read: {error or type(error).__name__}.") from error


def size(file: IO[bytes]) -> int:
    return file.seek(0, io.SEEK_END)


def room(folder: Path) -> str:
    try:
        return f", {shutil.disk_usage(folder).free:,} bytes free"
    except OSError:
        return ""
