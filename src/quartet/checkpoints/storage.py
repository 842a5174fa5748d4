"""Checkpoint files: written atomically, verified on load, without pickled code; initial weights.

A file is a zip archive of ``torch.save``. Its comment, which is its last bytes, is the SHA-256 of all
bytes before it.
"""

import hashlib
import io
import logging
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

import fsspec  # type: ignore[import-untyped]
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor, nn

from quartet.core import files
from quartet.core.messages import join_and, shorten
from quartet.core.problems import ConfigError, Problem
from quartet.records.run_directory import checkpoint_path

log = logging.getLogger(__name__)

PREFIX = "model."  # of the names of the model's weights in a checkpoint
LABEL = b"quartet sha256 "
SUFFIX = ".ckpt"
SCHEMES = ("file", "http", "https", "s3", "gs", "abfs", "hf")  # of URLs
SEAL_SIZE = len(LABEL) + hashlib.sha256().digest_size * 2
ATOMS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
LISTS = (list, tuple, set)
DICTS = (dict, OrderedDict, Counter)
# What `save_hyperparameters` of a module and of a data module saves.
HYPERPARAMETERS = ("hyper_parameters", "datamodule_hyper_parameters")
# Keys with which Lightning and Hydra find a class or function to call.
CALLS = ("_target_", "_instantiator", "_class_path")
# Entries of a checkpoint and their types: those to score and predict with, then those of a training.
WEIGHTS = {"state_dict": dict, "pytorch-lightning_version": str, "loops": dict}
TRAINING = {
    **{**WEIGHTS, "epoch": int, "global_step": int, "optimizer_states": list},
    **{"lr_schedulers": list, "callbacks": dict, "resume_state": dict},
}
NESTED = {  # what is read of some entries
    "loops": {"fit_loop", "validate_loop", "test_loop", "predict_loop"},
    "resume_state": {"random", "rows", "unlogged", "step", "monitored", "stops", "end"},
}


HARMLESS = "Nothing in it was run; use a checkpoint that this program wrote."


class CheckpointError(OSError):
    """A checkpoint cannot be written or loaded. The message has the path."""


class DurableCheckpoints(TorchCheckpointIO):
    """The CheckpointIO of `save` and `load`, within one directory.

    Args:
        directory: The run directory; nothing outside it is written or removed.
    """

    def __init__(self, directory: str | Path) -> None:
        super().__init__()
        self.directory = Path(directory).resolve()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        for key in HYPERPARAMETERS:
            # Of objects that a module was made with; the configuration describes them.
            values = checkpoint.get(key) or {}
            plain = {name: v for name, v in values.items() if not any(find_unsafe(v))}
            checkpoint |= {key: plain} if values else {}
        save(checkpoint, self.within(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        if self.within(path).suffix == SUFFIX:
            files.remove_file(Path(path))

    def within(self, path: str | Path) -> Path:
        """Returns the path if it is in the run's directory, or raises CheckpointError."""
        if not Path(path).resolve().is_relative_to(self.directory):
            message = f"{path} was not touched: it is outside the run's directory, {self.directory}"
            raise CheckpointError(f"{message}; leave dirpath and filename as conf/ sets them.")
        return Path(path)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Loads a checkpoint with `load`, which never unpickles code. Ignores `weights_only`."""
        return load(path, map_location)


def save(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Writes a checkpoint atomically.

    Raises:
        CheckpointError: it has more than tensors and plain containers, or cannot be written. An old
            checkpoint at `path` is intact then, and no other file is left.
    """
    path = Path(path)
    for key, problem in find_unsafe(checkpoint):
        message = f"{path} was not written: {key} {problem}; a checkpoint has tensors, numbers,"
        raise CheckpointError(f"{message} texts, lists and dictionaries only.")
    content = seal(checkpoint)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(path, content)
    except OSError as error:
        before = "The one before it is intact." if path.exists() else "There is none before it."
        reason = f"{len(content):,} bytes, {error.strerror or error}"
        way_out = "make room or write elsewhere, with hydra.run.dir=FOLDER"
        raise CheckpointError(f"{path} was not written: {reason}; {way_out}. {before}") from error


def load(
    path: str | Path, map_location: Any = "cpu", entries: Mapping[str, type] | None = None
) -> dict[str, Any]:
    """Loads a checkpoint, a file or URL, and verifies its checksum. Never runs code in it.

    `entries` are those that it must have, and their types.

    Raises:
        CheckpointError: it is damaged, of another program, lacks an entry, or has more than plain
            data.
        FileNotFoundError: the file does not exist.
    """
    with open_binary(path) as file:
        verify(file, path)
        file.seek(0)
        try:
            checkpoint: Any = torch.load(file, map_location=map_location, weights_only=True)
        except Exception as error:  # of many kinds
            reason = f"it has more than plain data: {str(error).strip().partition(chr(10))[0]}"
            raise CheckpointError(
                f"{path} ({size_of(file):,} bytes) is refused, {reason} {HARMLESS}"
            ) from None
    if type(checkpoint) not in DICTS:
        raise CheckpointError(f"{path} is refused: {type(checkpoint).__name__}, no dictionary.")
    try:
        found = next(find_unsafe(checkpoint), None)
    except RecursionError:
        found = ("it", "contains itself")
    if found:
        raise CheckpointError(f"{path} is refused: {' '.join(found)}. {HARMLESS}")
    wrong = [
        key
        for key, kind in (entries or {}).items()
        if not isinstance(value := checkpoint.get(key), kind)
        or (isinstance(value, dict) and not value.keys() >= NESTED.get(key, set()))
    ]
    if wrong:
        message = f"{path} is refused: it has no {join_and(wrong)} as a training writes it"
        raise CheckpointError(f"{message}. {HARMLESS}")
    return checkpoint  # type: ignore[no-any-return]


def find_newest(folder: str | Path) -> Path:
    """Finds ``last.ckpt`` in a folder; if it is damaged, warns and finds the newest valid checkpoint.

    Ignores checkpoints that were saved within an optimizer step, as they lack its gradients.

    Raises:
        CheckpointError: no checkpoint can be loaded; the message has the problem of each.
        FileNotFoundError: no checkpoint is damaged, but all were saved within a step.
    """
    folder = Path(folder)
    problems: list[str] = []
    steps: dict[Path, int] = {}
    last = folder / "last.ckpt"
    for path in [last, *sorted(set(folder.glob("*.ckpt")) - {last})]:
        try:
            found = load(path, entries=TRAINING)
            if not found["resume_state"].get("within_step"):
                steps[path] = found["global_step"]
        except FileNotFoundError:
            continue
        except OSError as error:
            problems.append(str(error))
        if path == last and path in steps:
            break
    if not steps and not problems and any(folder.glob("*.ckpt")):
        raise FileNotFoundError(f"{folder} has no checkpoint that was saved between two steps.")
    if not steps:
        found_problems = "\n  ".join(problems) or "there is none."
        raise CheckpointError(f"{folder} has no checkpoint to resume from: {found_problems}")
    newest = max(steps, key=lambda path: steps[path])
    for problem in problems:
        log.warning(problem)
    if newest != last:
        log.warning(f"Using {newest} instead, of step {steps[newest]}.")
    return newest


def seal(checkpoint: dict[str, Any]) -> bytes:
    """Returns the bytes of the file: the archive and its checksum."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    with buffer.getbuffer() as archive:
        archive[-2:] = SEAL_SIZE.to_bytes(2, "little")  # the length of the zip comment
    buffer.seek(0, io.SEEK_END)
    buffer.write(LABEL)
    with buffer.getbuffer() as content:
        digest = hashlib.sha256(content).hexdigest()
    buffer.write(digest.encode())
    return buffer.getvalue()


def verify(file: IO[bytes], path: str | Path) -> None:
    """Compares the checksum of a file with its content.

    Raises:
        CheckpointError: the checksum is missing or differs.
    """
    length = size_of(file)
    digest_length = SEAL_SIZE - len(LABEL)
    file.seek(max(0, length - SEAL_SIZE))
    label, expected = file.read(len(LABEL)), file.read()
    if label != LABEL or len(expected) != digest_length:
        problem = "is cut short, damaged at its end, or not written by this program"
    else:
        file.seek(0)
        digest, left = hashlib.sha256(), length - digest_length
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
        if digest.hexdigest().encode() == expected:
            return
        problem = "is damaged: its checksum does not match"
    others = "use another one, such as checkpoint=best or checkpoint=last"
    raise CheckpointError(f"{path} ({length:,} bytes) {problem}; {others}.")


def find_unsafe(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yields key and reason of every value that is not plain data, or names a class to call."""
    kind = type(value)
    if kind in ATOMS:
        return
    if kind in DICTS:
        for name, item in value.items():
            if name in CALLS:
                yield join_key(key, name), "names something to call"
            yield from find_unsafe(name, f"{join_key(key, name)} (the key itself)")
            yield from find_unsafe(item, join_key(key, name))
    elif kind in LISTS:
        for index, item in enumerate(value):
            yield from find_unsafe(item, join_key(key, index))
    elif kind not in (Tensor, nn.Parameter):
        yield key, f"is a {kind.__module__}.{kind.__qualname__}"
    for name, item in getattr(value, "__dict__", {}).items():
        yield from find_unsafe(item, join_key(key, name))


def join_key(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)


def open_binary(path: str | Path) -> IO[bytes]:
    scheme = str(path).partition("://")[0]
    if scheme == str(path):
        if Path(path).exists() and not Path(path).is_file():  # a pipe would hang
            raise CheckpointError(f"{path} cannot be read: it is no file.")
        return Path(path).open("rb")
    if scheme not in SCHEMES:  # some schemes of fsspec read further URLs from files
        raise CheckpointError(f"{path} cannot be read: must begin with {', '.join(SCHEMES)}.")
    try:
        with fsspec.open(str(path), "rb") as file:
            return io.BytesIO(file.read())
    except Exception as error:  # each scheme raises its own kinds
        raise CheckpointError(f"{path} cannot be read: {error or type(error).__name__}.") from error


def size_of(file: IO[bytes]) -> int:
    return file.seek(0, io.SEEK_END)


# Weights


def load_state(module: nn.Module, weights: Mapping[str, Any], key: str, value: Any) -> None:
    """Loads the ``state_dict`` of the checkpoint that a setting, `key`, names into a module.

    Raises:
        ConfigError: the weights do not fit.
    """
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).partition(":\n")[2].split())
        message = f"is of another model, or of other data: {reason}"
        raise ConfigError(Problem(key, message, value)) from None


def find_checkpoint(place: str) -> str | Path:
    """Finds the best or else the last checkpoint of a run directory; returns a file or URL unchanged.

    Raises:
        ValueError: there is no such checkpoint.
    """
    if "://" in place:
        return place
    path = Path(place)
    known = [path]
    if path.is_dir():
        known = [checkpoint_path(path, name) for name in ("best", "last")]
    found = next((file for file in known if file.is_file()), None)
    if found is None:
        folder = path / "checkpoints"
        missing = f"no best.ckpt or last.ckpt in {folder}" if path.is_dir() else "no such file"
        way_out = "name the directory of a run, or one of its checkpoints"
        raise ValueError(f"weights={place}: {missing}; {way_out}.")
    return found


Keys = Sequence[str] | Mapping[str, str] | None


def load_weights(
    model: nn.Module,
    place: str,
    *,
    strict: bool,
    keys: Keys = None,
    metadata: Mapping[str, Any] | None = None,
) -> str:
    """Loads the weights of a checkpoint into a model, and returns a message about them.

    Args:
        model: Changed in place.
        place: A run directory, or the path or URL of a checkpoint.
        strict: Whether names and shapes of all parameters and buffers must be equal. Otherwise those
            that fit are loaded.
        keys: The part to load, of which `strict` speaks then: shell patterns of names, such as
            ``encoder.*``; or modules by their names there and here, "" for the whole. None for all.
        metadata: That of the data, if it is known: columns and classes must be in the order of the
            run.

    Raises:
        ValueError: there is no checkpoint, no tensor fits, or with ``strict`` some tensor does not.
        CheckpointError: it is damaged or has more than plain data.
    """
    path = find_checkpoint(place)
    content = load(path, entries={"state_dict": dict})
    before = content.get("metadata")
    for key in ("feature_names", "class_names") if isinstance(before, dict) and metadata else ():
        old, new = before.get(key) or [], metadata[key] or []  # type: ignore[union-attr, index]
        if old != new and sorted(old) == sorted(new):
            given = f"that run has the {key.replace('_names', 's')} {shorten(old)}"
            message = f"{given}, and the data has them in the order {shorten(new)}"
            way_out = "give them the same order, columns by data.features=[...]"
            raise ValueError(f"weights={place}: {message}; {way_out}.")
    saved: dict[str, Tensor] = {
        name.removeprefix(PREFIX): value
        for name, value in content["state_dict"].items()
        if str(name).startswith(PREFIX) and isinstance(value, Tensor)
    }
    whole = model.state_dict()
    saved, own = choose_part(saved, whole, keys, place)
    fitting = {k: v for k, v in saved.items() if k in own and v.shape == own[k].shape}
    mismatches = [
        *(
            f"{k} {tuple(v.shape)} there, {tuple(own[k].shape)} here"
            for k, v in saved.items()
            if k in own and k not in fitting
        ),
        *(f"{k} only there" for k in saved if k not in own),
        *(f"{k} only here" for k in own if k not in saved),
    ]
    differences = shorten(mismatches, 8)
    if not fitting:
        reason = f"nothing in {path} fits this model: {differences or 'it is empty'}"
        raise ValueError(f"weights={place}: {reason}; choose the model of that run.")
    if strict and mismatches:
        raise ValueError(
            f"weights={place}: {path} does not fit this model: {differences}; choose the model of "
            "that run, load a part with model.weights_keys, or the tensors that fit with "
            "model.strict=false."
        )
    model.load_state_dict(fitting, strict=False)
    rest = f"; left out: {differences}" if mismatches else ""
    if kept := [name for name in whole if name not in own]:
        rest = f": {shorten(fitting, 8)}{rest}; as they were: {shorten(kept, 8)}"
    return f"{len(fitting)} of {len(whole)} tensors from {path}{rest}."


def choose_part(
    saved: dict[str, Tensor], own: dict[str, Tensor], keys: Keys, place: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns the tensors of a checkpoint, by their names in the model, and those of the model.

    Raises:
        ValueError: a pattern or module is the name of no tensor in one of them.
    """
    if not keys:
        return saved, own
    patterns, renamed = list(keys), saved
    if isinstance(keys, Mapping):
        pairs = [(f"{old}.".lstrip("."), f"{new}.".lstrip(".")) for old, new in keys.items()]
        patterns = [f"{new}*" for _, new in pairs]
        renamed = {
            new + name.removeprefix(old): value
            for old, new in pairs
            for name, value in saved.items()
            if name.startswith(old)
        }
    parts: list[dict[str, Tensor]] = [{}, {}]
    for chosen, pattern in zip(keys, patterns, strict=True):
        for part, tensors, where in zip(parts, (renamed, own), ("there", "here"), strict=True):
            names = [name for name in tensors if fnmatchcase(name, pattern)]
            if not names:
                known = saved if where == "there" else own
                message = f"{chosen!r} chooses nothing {where}, of {shorten(known, 8)}"
                raise ValueError(f"weights_keys: {message}; choose names that both models have.")
            part |= {name: tensors[name] for name in names}
    return parts[0], parts[1]
