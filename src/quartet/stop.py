"""Ctrl+C, SIGTERM and Slurm's SIGUSR1: a training ends after the step under way, most else at once.

Imported before anything else at every start.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class Stop:
    """Remembers that a signal asked for an end. A second signal ends at once.

    The exit status is 128 plus the number of the signal: 130 for Ctrl+C, 143 for SIGTERM, 138 for
    SIGUSR1, which counts under Slurm alone.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.waits = False
        self.listens = False
        self.broke_off = False
        self.imports = False
        self.late: list[int] | None = None  # signals that came while nothing may be broken off

    def listen(self) -> None:
        """Takes over the signals."""
        self.listens = True
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle)
        if "SLURM_JOB_ID" in os.environ:
            # Before Lightning, which then leaves it alone; its own would end in the middle of a step.
            signal.signal(signal.SIGUSR1, self.handle)

    def hold(self) -> None:
        """From here on a signal is remembered only, until `release`."""
        self.waits = True

    def release(self) -> None:
        """Signals count again; ends the program if one came."""
        self.waits = False
        if self.asked:
            self.now()

    def listen_again(self) -> None:
        """Takes them back, if they were taken over before."""
        if self.listens:
            self.listen()

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.late is not None:
            self.late.append(number)
            return
        if self.asked and self.imports:
            os._exit(128 + number)  # broken off in any other way, an import of torch aborts
        self.broke_off = bool(self.asked) or not self.waits
        self.asked = 128 + number
        if self.broke_off:
            self.now()

    @property
    def requeues(self) -> bool:
        """Whether it was Slurm that asked for the end."""
        return "SLURM_JOB_ID" in os.environ and self.asked == 128 + signal.SIGUSR1

    @contextmanager
    def wins(self) -> Iterator[None]:
        """Within it, what a signal broke off ends with its status, whatever error came of that."""
        try:
            yield
        except Exception:
            if self.broke_off:
                self.now()
            raise

    @contextmanager
    def held(self, *, imports: bool = False) -> Iterator[None]:
        """Within it, a signal is remembered only; the code run may look at `asked` and call `now`.

        For training steps, and for imports, some of which abort the process when they are broken off.
        """
        self.hold()
        self.imports = imports
        try:
            yield
        finally:
            self.waits = self.imports = False
        self.release()

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """Within it, for moments, not even a second signal ends anything; it counts afterwards."""
        self.late = []
        try:
            yield
        finally:
            late, self.late = self.late, None
        for number in late:
            self.handle(number, None)

    def now(self) -> NoReturn:
        """Ends the program, with the status of the signal."""
        raise SystemExit(self.asked)


stop = Stop()
