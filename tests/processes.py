"""The commands: in this process, and as processes forked off one that has imported torch already."""

import atexit
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["quartet.inference.find", "quartet.reports.run", "torch.utils.tensorboard"]
)
ROOT = Path(__file__).parents[1]
MARK = "STARTED_BY_TEST"  # in the environment of a command and of all that it starts
STARTED: list["Command"] = []
SMALL = ["data=linear", "model=linear", "metrics=none", "optimizer=sgd", "trainer=cpu"]
SMOKE = [*SMALL, "trainer.max_epochs=1"]
ENDLESS = [*SMALL, "trainer.max_epochs=1000000"]

# Losses of a fork: Hydra finds modules of this package by itself.
LOSSES = '''
import os
import signal
import time
from torch import nn
from quartet.config import allow

allow.FAMILIES.append((__name__, "torch.nn.Module"))


class Ends(nn.MSELoss):
    """Ends in one of several ways; where it kills its process, that happens once."""

    def __init__(self, *, by="nothing"):
        super().__init__()
        if by == "refusal":
            raise ValueError("by=refusal is not to be had.")
        self.by = by

    def forward(self, outputs, targets):
        loss = super().forward(outputs, targets)
        if len(outputs) <= 10:  # the trial before
            return loss
        if self.by == "raise":
            raise ArithmeticError("a bug of this loss")
        if self.by == "kill" and not os.path.exists("killed"):
            open("killed", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.by == "sleep":
            open("under_way", "w").close()
            time.sleep(60)
        return loss * float("nan") if self.by == "diverge" else loss


class Login(nn.MSELoss):
    """Keeps a key, as a client of a service does; its own is in the environment."""

    def __init__(self, key=None, fails=False):
        super().__init__()
        self.key, self.fails = key or os.environ["MY_TOKEN"], fails

    def forward(self, outputs, targets):
        if self.fails and len(outputs) > 10:
            raise PermissionError(f"{self.key} is not accepted")
        return super().forward(outputs, targets)
'''


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
        for name in ("out", "err"):  # it may be killed before it writes
            (self.output / name).touch()
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


@dataclass(frozen=True)
class Cli:
    """A command in this process: what it is called with, and what it prints.

    Attributes:
        run: Takes the script and its arguments; gives the exit status.
        capsys: Holds what is printed; `out`, `err` and `printed`, both of them, forget what they give.
        words: The first ones, given in each call.
    """

    run: Callable[..., int]
    capsys: pytest.CaptureFixture[str]
    words: tuple[str, ...] = ()

    def __call__(self, *words: str) -> int:
        return self.run(*self.words, *words)

    def with_words(self, *words: str) -> "Cli":
        return replace(self, words=(*self.words, *words))

    @property
    def printed(self) -> str:
        return "".join(reversed(self.capsys.readouterr()))

    @property
    def out(self) -> str:
        return self.capsys.readouterr().out

    @property
    def err(self) -> str:
        return self.capsys.readouterr().err

    def ask(self, *words: str) -> str:
        """Calls a command, which must end well; returns what it prints."""
        self.capsys.readouterr()
        assert self(*words) == 0
        return self.out

    def refuse(self, *words: str) -> str:
        """Calls a command, which must end with status 2; returns its message."""
        self.capsys.readouterr()
        assert self(*words) == 2
        return self.err


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


def write_losses(directory: Path) -> None:
    """Gives a directory the losses ``hydra_plugins.losses.Ends`` and ``Login``."""
    (directory / "hydra_plugins").mkdir()
    (directory / "hydra_plugins" / "losses.py").write_text(LOSSES)


def start(directory: Path, *arguments: str, threads: str = "1") -> Command:
    """Starts ``python train.py`` in a directory, which may hold modules."""
    path = [str(directory), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    variables = {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": threads}
    return Command(directory, *arguments, environment=variables)


def run(directory: Path, *arguments: str) -> tuple[int | None, str, str]:
    """Runs ``python train.py``. Returns its exit status, stdout and stderr."""
    process = start(directory, *arguments)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def train_anew(directory: Path, *arguments: str) -> tuple[int, str]:
    """Runs ``python train.py`` from the start of Python; warnings are errors. Gives status and stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "train.py"), *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return done.returncode, done.stderr


def wait_for(pattern: str, directory: Path, process: "Command | subprocess.Popen[Any]") -> None:
    """Returns once a process has made such a file."""
    for _ in range(6000):
        if list(directory.glob(pattern)):
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    pytest.fail(f"no {pattern}: {process.communicate()}")


def result(directory: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((directory / "result.json").read_text())
    return values
