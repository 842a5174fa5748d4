"""The commands as processes, forked off one that has imported torch already."""

import atexit
import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["quartet.build", "quartet.run", "quartet.inference.find"])
ROOT = Path(__file__).parents[1]
MARK = "STARTED_BY_TEST"  # in the environment of a command and of all that it starts
STARTED: list["Command"] = []


class Command:
    """``python SCRIPT ARGUMENTS`` in a directory: a process with signals and an exit status of its own.

    What a process does before torch is imported is not to be seen in it.

    Args:
        directory: To work in.
        arguments: Of the command.
        script: In the project's root.
        environment: Variables besides those of here.
    """

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        script: str = "train.py",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        line = [str(ROOT / script), *map(str, arguments)]
        self.output = Path(tempfile.mkdtemp())
        variables = {**os.environ, **(environment or {}), MARK: str(self.output)}
        self.process = CONTEXT.Process(target=play, args=(line, directory, variables, self.output))
        self.process.start()
        STARTED.append(self)

    @property
    def pid(self) -> int:
        assert self.process.pid
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        """The exit status; None while it runs."""
        return self.process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the end. Returns stdout and stderr."""
        self.process.join(timeout)
        assert self.poll() is not None, f"it has not ended after {timeout} s"
        return (self.output / "out").read_text(), (self.output / "err").read_text()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        self.process.kill()


def end_all() -> None:
    """Kills what tests have left behind, as one does that fails, and removes what it printed."""
    while STARTED:
        command = STARTED.pop()
        for group in {command.pid, *groups(command)}:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        command.kill()  # if it has no group yet
        command.process.join()
        shutil.rmtree(command.output, ignore_errors=True)


def groups(command: Command) -> Iterator[int]:
    """Of what a command started in sessions of their own, and what may outlive it."""
    mark = f"{MARK}={command.output}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):  # there is none but on Linux
        with suppress(OSError):
            if mark in path.read_bytes().split(b"\0"):
                yield os.getpgid(int(path.parent.name))


def play(line: list[str], directory: Path, variables: Mapping[str, str], output: Path) -> None:
    """Runs a command line here."""
    os.setpgrp()  # with what it starts
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(output / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(variables)
    sys.path[:0] = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = line
    try:
        runpy.run_path(line[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()
