"""Python: private names."""

import atexit
import threading


def run_exit_handlers() -> None:
    """Does what Python does at its end, but for the destruction of modules: torch's takes seconds."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
