"""Work that another process does meanwhile: the pictures of a run, while a sweep trains the next."""

import atexit
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

helper: ProcessPoolExecutor | None = None


@contextmanager
def aside() -> Iterator[None]:
    """Within it `do` returns at once; it ends when all is done. One within another changes nothing."""
    global helper
    if helper:
        yield
        return
    # Read when torch is imported: its threads sleep after 2 ms without work, not 16, in which they
    # would keep a core from the other process.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=begin) as helper:
        helper.submit(get_ready)
        try:
            yield
        finally:
            helper = None


def begin() -> None:
    """Leaves Ctrl+C to the process that trains, and ends when that does, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What is drawn is on disk; taking all modules apart takes a second.
    atexit.register(os._exit, 0)
    parent = multiprocessing.parent_process()
    assert parent

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def get_ready() -> None:
    """Imports what draws while the sweep imports, too: later it would take the training's time."""
    from quartet.reports import classes, curves  # noqa: F401


def do(work: Callable[..., Any], *arguments: Any) -> None:
    """Calls `work`, a function of some module, in the other process if there is one."""
    try:
        if helper:
            helper.submit(work, *arguments)
            return
    except BrokenExecutor:  # someone has ended it
        pass
    work(*arguments)
