"""Files: atomic writes, unique paths, locks of directories, removal of empty ones. Without torch."""

import errno
import itertools
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from quartet.core import processes
from quartet.core.problems import ConfigError, Problem

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
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
        with suppress(OSError):  # Windows and some network folders cannot
            descriptor = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not say which
        raise
    finally:
        remove_file(temporary)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file atomically."""
    write_atomic(path, f"{json.dumps(content, indent=2)}\n".encode())


@contextmanager
def create_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path, and renames that file to `path` at the end of the block.

    An error in the block leaves neither file.

    Raises:
        FileExistsError: another program wrote a file of this name meanwhile.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    with temporary as folder:
        yield Path(folder) / path.name
        if path.exists():
            raise FileExistsError(f"{path} was written by another program; name another file.")
        (Path(folder) / path.name).rename(path)


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


_descriptors: dict[Path, int] = {}  # of the directories that this process has locked


def release_in_child() -> None:
    """Closes the locks of a process in one that it forks, which may live on when it is killed."""
    for descriptor in _descriptors.values():
        os.close(descriptor)
    _descriptors.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=release_in_child)


def try_lock(directory: Path) -> bool:
    """Locks a directory for this process. False if another one has locked it."""
    directory = directory.resolve()
    if directory in _descriptors or processes.process_rank() > 0:
        return True  # the first process of a run locks it for all
    if sys.platform == "win32":
        return True  # Windows has no such locks: start one process at a time
    import fcntl

    directory.mkdir(parents=True, exist_ok=True)
    path = directory / ".lock"
    while True:
        # Network file systems lock only files that are open for writing.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(descriptor)
                raise
            warn_of_no_locks()
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                os.truncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
                _descriptors[directory] = descriptor
                return True
        os.close(descriptor)  # another process has just removed the file


@cache
def warn_of_no_locks() -> None:
    """Says once that a file system has no locks."""
    message = "This file system has no locks: start nothing twice in one directory at once."
    print(message, file=sys.stderr)


def unlock(directory: Path) -> None:
    """Unlocks a directory, if this process has locked it."""
    descriptor = _descriptors.pop(directory.resolve(), None)
    if descriptor is not None:
        with suppress(OSError):
            (directory / ".lock").unlink()
        os.close(descriptor)


@contextmanager
def lock(directory: Path, *, wait: bool = False) -> Iterator[None]:
    """Locks a directory within the block.

    Args:
        directory: The directory; this process may have locked it already.
        wait: Whether to wait until another process unlocks it.

    Raises:
        ConfigError: another process has locked it, and `wait` is False.
    """
    if directory.resolve() in _descriptors:
        yield
        return
    while not try_lock(directory):
        if not wait:
            who = ""
            with suppress(OSError):  # the other process may have just ended
                who = (directory / ".lock").read_text()
            message = f"another process trains in {directory}: {who or 'unknown'}"
            raise ConfigError(Problem("", f"{message}; wait until it ends."))
        time.sleep(0.01)
    try:
        yield
    finally:
        unlock(directory)
