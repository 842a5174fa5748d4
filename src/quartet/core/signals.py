"""Ctrl+C, SIGTERM and Slurm's SIGUSR1: a training ends after the step under way, most else at once.

Imported before anything else at every start.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class ShutdownHandler:
    """Remembers that a signal asked for an end. A second signal ends at once.

    The exit status is 128 plus the number of the signal: 130 for Ctrl+C, 143 for SIGTERM, 138 for
    SIGUSR1, which counts under Slurm alone.
    """

    def __init__(self) -> None:
        self.exit_code = 0
        self.deferring = False
        self.installed = False
        self.interrupted = False
        self.imports = False
        self.pending: list[int] | None = None  # signals that came while nothing may be broken off

    def install(self) -> None:
        """Takes over the signals."""
        self.installed = True
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle)
        if "SLURM_JOB_ID" in os.environ:
            # Before Lightning, which then leaves it alone; its own would end in the middle of a step.
            signal.signal(signal.SIGUSR1, self.handle)

    def defer(self) -> None:
        """From here on a signal is remembered only, until `release`."""
        self.deferring = True

    def stop_deferring(self) -> None:
        """Signals count again; ends the program if one came."""
        self.deferring = False
        if self.exit_code:
            self.exit()

    def reinstall(self) -> None:
        """Takes them back, if they were taken over before."""
        if self.installed:
            self.install()

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.pending is not None:
            self.pending.append(number)
            return
        if self.exit_code and self.imports:
            os._exit(128 + number)  # broken off in any other way, an import of torch aborts
        self.interrupted = bool(self.exit_code) or not self.deferring
        self.exit_code = 128 + number
        if self.interrupted:
            self.exit()

    @property
    def requeues(self) -> bool:
        """Whether it was Slurm that asked for the end."""
        return "SLURM_JOB_ID" in os.environ and self.exit_code == 128 + signal.SIGUSR1

    @contextmanager
    def as_exit(self) -> Iterator[None]:
        """Within it, what a signal broke off ends with its status, whatever error came of that."""
        try:
            yield
        except Exception:
            if self.interrupted:
                self.exit()
            raise

    @contextmanager
    def deferred(self, *, imports: bool = False) -> Iterator[None]:
        """Within it, a signal is remembered only; the code run may look at `asked` and call `now`.

        For training steps, and for imports, some of which abort the process when they are broken off.
        """
        self.defer()
        self.imports = imports
        try:
            yield
        finally:
            self.deferring = self.imports = False
        self.stop_deferring()

    @contextmanager
    def masked(self) -> Iterator[None]:
        """Within it, for moments, not even a second signal ends anything; it counts afterwards."""
        self.pending = []
        try:
            yield
        finally:
            late, self.pending = self.pending, None
        for number in late:
            self.handle(number, None)

    def exit(self) -> NoReturn:
        """Ends the program, with the status of the signal."""
        raise SystemExit(self.exit_code)


shutdown = ShutdownHandler()
