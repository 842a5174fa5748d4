"""How a command ends: as Python does, but for taking apart what it imported.

With torch that takes 1 to 2 seconds, in which nothing is saved and nobody is told anything.
"""

import atexit
import os
import sys
import threading
from collections.abc import Callable


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
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def started_alone() -> bool:
    """Whether the command line was ``python PROGRAM.py`` with whatever follows."""
    return sys.orig_argv[1:2] == sys.argv[:1]
