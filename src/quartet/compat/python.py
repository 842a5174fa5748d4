"""Python: private names."""

import atexit
import threading


def run_exit_handlers() -> None:
    """Joins threads and runs exit handlers, but does not unload torch, which takes seconds."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
