"""Python: private names."""

import atexit
import threading


def run_exit_handlers() -> None:
    """Ends threads and runs exit handlers, without the destruction of torch that takes seconds."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
