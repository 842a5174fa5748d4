"""Ctrl+C, SIGTERM and Slurm's SIGUSR1: a training exits after the current step, others at once.

Imported before anything else at every start.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class ShutdownHandler:
    """Exits on a signal, or later while signals are deferred. A second signal exits at once.

    The exit status is 128 plus the number of the signal: 130 for Ctrl+C, 143 for SIGTERM, 138 for
    SIGUSR1, which is handled under Slurm only.
    """

    def __init__(self) -> None:
        self.exit_code = 0
        self.deferring = False
        self.installed = False
        self.interrupted = False
        self.imports = False
        self.pending: list[int] | None = None  # signals received within `masked`

    def install(self) -> None:
        """Installs the handlers."""
        self.installed = True
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle)
        if "SLURM_JOB_ID" in os.environ:
            # Before Lightning, whose own handler would exit in the middle of a step.
            signal.signal(signal.SIGUSR1, self.handle)

    def defer(self) -> None:
        """Defers signals until `stop_deferring`."""
        self.deferring = True

    def stop_deferring(self) -> None:
        """Exits if a signal was deferred; later signals exit at once."""
        self.deferring = False
        if self.exit_code:
            self.exit()

    def reinstall(self) -> None:
        """Installs the handlers again, if they were installed before."""
        if self.installed:
            self.install()

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.pending is not None:
            self.pending.append(number)
            return
        if self.exit_code and self.imports:
            os._exit(128 + number)  # SystemExit within an import of torch may abort
        self.interrupted = bool(self.exit_code) or not self.deferring
        self.exit_code = 128 + number
        if self.interrupted:
            self.exit()

    @property
    def requeues(self) -> bool:
        """Whether Slurm sent the signal, so that the job is requeued."""
        return "SLURM_JOB_ID" in os.environ and self.exit_code == 128 + signal.SIGUSR1

    @contextmanager
    def as_exit(self) -> Iterator[None]:
        """Turns an error that follows from a signal into an exit with the status of the signal."""
        try:
            yield
        except Exception:
            if self.interrupted:
                self.exit()
            raise

    @contextmanager
    def deferred(self, *, imports: bool = False) -> Iterator[None]:
        """Defers signals within the block, which may check `exit_code`; for training and imports."""
        self.defer()
        self.imports = imports
        try:
            yield
        finally:
            self.deferring = self.imports = False
        self.stop_deferring()

    @contextmanager
    def masked(self) -> Iterator[None]:
        """Defers even a second signal within the block, which must be short."""
        self.pending = []
        try:
            yield
        finally:
            late, self.pending = self.pending, None
        for number in late:
            self.handle(number, None)

    def exit(self) -> NoReturn:
        """Exits with the status of the signal."""
        raise SystemExit(self.exit_code)


shutdown = ShutdownHandler()
