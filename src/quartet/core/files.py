"""Atomic writes, unique paths and the removal of empty directories. Without torch."""

import itertools
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CONF = Path(__file__).parents[3] / "conf"
# Packages of the project: every package in src/ beside the engine, whatever a fork calls it.
PROJECTS = tuple(
    sorted({path.parent.name for path in (CONF.parent / "src").glob("*/__init__.py")} - {"quartet"})
)


def write_atomic(path: Path, content: bytes) -> None:
    """Writes a file atomically: it has the old or the new content, even after a power failure.

    Raises:
        OSError: it cannot be written. The old file is intact, and nothing else is left.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.unlink(missing_ok=True)  # of a process that was killed
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not say which
        raise
    finally:
        remove_file(temporary)


@contextmanager
def create_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path, and renames that file to `path` at the end of the block.

    An error in the block leaves neither file.

    Raises:
        FileExistsError: another program wrote a file of this name meanwhile.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        yield Path(folder) / path.name
        if path.exists():
            raise FileExistsError(f"{path} was written by another program; name another file.")
        (Path(folder) / path.name).rename(path)


def sync_directory(folder: Path) -> None:
    """Flushes the names of a folder's files to disk, where the system can."""
    with suppress(OSError):  # Windows and some network folders cannot
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_file(path: Path) -> None:
    """Removes a file; ignores errors, such as that it does not exist."""
    with suppress(OSError):
        path.unlink()


def numbered_paths(path: Path, suffix: str = "") -> Iterator[Path]:
    """Yields the path, then the path with -1, -2, ... before its suffix."""
    yield path
    stem = path.name.removesuffix(suffix)
    yield from (path.with_name(f"{stem}-{n}{suffix}") for n in itertools.count(1))


def unique_path(path: Path) -> Path:
    """Returns the first numbered path that does not exist. Another process may still create it."""
    return next(each for each in numbered_paths(path, path.suffix) if not each.exists())


def make_unique_directory(path: Path) -> Path:
    """Creates a new directory at the first numbered path that does not exist."""
    for each in numbered_paths(path):
        with suppress(FileExistsError):
            each.mkdir(parents=True)
            return each
    raise AssertionError("there is always a next number")


def remove_empty_directories(directory: Path, *, parents: int = 2) -> None:
    """Removes a directory and its nearest parents, as long as they are empty.

    The working directory and those above it stay.
    """
    here = Path.cwd()
    for path in (directory, *list(directory.parents)[:parents]):
        if path.resolve() in (here, *here.parents):
            return
        try:
            path.rmdir()
        except FileNotFoundError:
            continue  # it was never created
        except OSError:
            return


def encode_json(content: Mapping[str, Any]) -> bytes:
    return f"{json.dumps(content, indent=2)}\n".encode()
