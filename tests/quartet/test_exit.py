"""The end of a command: exit status, output and exit handlers are those of Python."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import atexit, sys, threading, time
from quartet.cli import run_and_exit

class Slow:
    def __del__(self):
        print("taken apart")

kept = Slow()
atexit.register(print, "handler")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()

def main():
    print("main")
    {end}

run_and_exit(main)
"""
ENDS = {
    "pass": 0,
    "sys.exit()": 0,
    "sys.exit(0)": 0,
    "sys.exit(3)": 3,
    "sys.exit('words')": 1,
    "raise ValueError('words')": 1,
}


CASES = [*((end, []) for end in ENDS), ("pass", ["-u"]), ("sys.exit(3)", ["-u"])]


@pytest.mark.parametrize(("end", "before"), CASES)
def test_status_and_output_are_pythons(end: str, before: list[str], tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(end=end))
    command = [sys.executable, *before, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == ENDS[end]
    assert ("words" in done.stderr) is ("words" in end)
    printed = done.stdout.splitlines()
    assert printed[:3] == ["main", "thread", "handler"]
    taken_apart = bool(before) or "words" in end
    assert printed[3:] == ["taken apart"] * taken_apart


def test_closed_output_is_reported_as_python_does(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(end="pass"))
    with subprocess.Popen([sys.executable, program], stdout=-1, stderr=-1) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert b"BrokenPipeError" in process.stderr.read()
    assert process.returncode != 0
