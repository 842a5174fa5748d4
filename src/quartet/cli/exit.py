"""Exit without the destruction of modules, which takes 1 to 2 s once torch is imported."""

import os
import sys
from collections.abc import Callable

from quartet.compat.python import run_exit_handlers


def run_and_exit(main: Callable[[], object]) -> None:
    """Calls `main` and ends the process with its status.

    Threads are waited for, exit handlers run, and what was printed is flushed. A process that was
    not started for this program alone (by a debugger, a profiler, a test) goes on.
    """
    status = 0
    try:
        main()
    except SystemExit as end:
        if not isinstance(end.code, int | None) or not started_alone():
            raise
        status = end.code or 0
    if started_alone():
        run_exit_handlers()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def started_alone() -> bool:
    """Whether the command line was ``python PROGRAM.py`` with whatever follows."""
    return sys.orig_argv[1:2] == sys.argv[:1]
