"""Files that are whole or not there, whatever happens while they are written. Without torch."""

import os
from contextlib import suppress
from pathlib import Path

CONF = Path(__file__).parents[3] / "conf"


def write_atomic(path: Path, content: bytes) -> None:
    """Writes a file so that it is the old one or the new one at every moment.

    It reaches the disk before it takes the name of the old one; power may fail at any time.

    Raises:
        OSError: it cannot be written; names it. The old one is intact, and nothing else is left.
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
        error.filename = error.filename or str(path)  # which a full disk does not tell
        raise
    finally:
        remove_file(temporary)


def sync_directory(folder: Path) -> None:
    """Flushes the names of a folder's files to disk, where the system can."""
    with suppress(OSError):  # Windows and some network folders cannot
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_file(path: Path) -> None:
    """Removes a file, if it is there and can be."""
    with suppress(OSError):
        path.unlink()
