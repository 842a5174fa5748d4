"""Directory locks. The system releases a lock when its process ends, however that ends."""

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quartet.core import processes

_descriptors: dict[Path, int] = {}


class DirectoryLocked(RuntimeError):
    """Another process has locked a directory."""


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
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                os.truncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
                _descriptors[directory] = descriptor
                return True
        os.close(descriptor)  # another process has just removed the file


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
        DirectoryLocked: another process has locked it, and `wait` is False.
    """
    if directory.resolve() in _descriptors:
        yield
        return
    while not try_lock(directory):
        if not wait:
            who = ""
            with suppress(OSError):  # the other process may have just ended
                who = (directory / ".lock").read_text()
            raise DirectoryLocked(
                f"another process trains in {directory}: {who or 'unknown'}; wait until it ends."
            )
        time.sleep(0.01)
    try:
        yield
    finally:
        unlock(directory)
