"""Directory locks: the system itself releases one when its process ends, however that ends."""

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from quartet.core import processes

_held: dict[Path, int] = {}


class DirectoryLocked(RuntimeError):
    """Another process works in a directory. Tells which, and the way out."""


def try_lock(directory: Path) -> bool:
    """Takes a directory for this process. False if another one has it."""
    directory = directory.resolve()
    if directory in _held or processes.process_rank() > 0:
        return True  # further processes of a run go with the first
    if sys.platform == "win32":
        return True  # no such locks there: start one process at a time
    import fcntl

    directory.mkdir(parents=True, exist_ok=True)
    path = directory / ".lock"
    while True:
        # Open for writing, without which network file systems lock nothing.
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
                _held[directory] = descriptor
                return True
        os.close(descriptor)  # the one that had it has just removed the file


def unlock(directory: Path) -> None:
    """Gives a directory back, if this process has it."""
    descriptor = _held.pop(directory.resolve(), None)
    if descriptor is not None:
        with suppress(OSError):
            (directory / ".lock").unlink()
        os.close(descriptor)


@contextmanager
def lock(directory: Path, *, wait: bool = False) -> Iterator[None]:
    """Within it, no other process works in a directory.

    Raises:
        Taken: another one does, and this one shall not wait.
    """
    if directory.resolve() in _held:
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
