"""Slurm's commands as far as submitit needs them; the jobs run here.

    python fake_slurm.py COMMAND STATE ARGUMENTS

STATE is a folder: one file tells the state of each task, another the process of its step.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("sbatch", "srun", "sacct", "squeue", "scancel", "scontrol")
OWN = Path(__file__).resolve()


def install(directory: Path) -> dict[str, str]:
    """Puts the commands into a folder. Returns the variables with which they are found."""
    (directory / "bin").mkdir()
    (directory / "state").mkdir()
    for name in COMMANDS:
        path = directory / "bin" / name
        path.write_text(
            f'#!/bin/sh\nexec {sys.executable} {OWN} {name} {directory / "state"} "$@"\n'
        )
        path.chmod(0o755)
    return {"PATH": f"{directory / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def sbatch(state: Path, script: str) -> str | None:
    if "partition=nowhere" in Path(script).read_text():
        return "sbatch: error: invalid partition specified: nowhere"
    name = str(100 + len(list(state.glob("*.sh"))))
    kept = state / f"{name}.sh"
    kept.write_text(Path(script).read_text())
    array = re.search(r"--array=0-(\d+)%(\d+)", kept.read_text())
    tasks = [f"{name}_{n}" for n in range(int(array[1]) + 1)] if array else [name]
    for task in tasks:
        (state / task).write_text("PENDING")
    subprocess.Popen(
        [sys.executable, OWN, "controller", state, kept, array[2] if array else "1", *tasks],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=(state / f"{name}.err").open("w"),
    )
    print(f"Submitted batch job {name}")
    return None


def controller(state: Path, script: str, parallel: str, *tasks: str) -> None:
    """Runs the tasks of a job, some at once."""
    running: dict[str, subprocess.Popen[bytes]] = {}
    restarts = dict.fromkeys(tasks, 0)
    while running or any((state / task).read_text() == "PENDING" for task in tasks):
        for task in tasks:
            if len(running) < int(parallel) and (state / task).read_text() == "PENDING":
                (state / task).write_text("RUNNING")
                running[task] = run(script, task, restarts[task])
        for task, process in list(running.items()):
            if (status := process.poll()) is not None:
                del running[task]
                if (state / f"{task}.requeue").exists():
                    (state / f"{task}.requeue").unlink()
                    restarts[task] += 1
                    (state / task).write_text("PENDING")
                elif (state / task).read_text() == "RUNNING":
                    (state / task).write_text("FAILED" if status else "COMPLETED")
        time.sleep(0.05)


def run(script: str, task: str, restarts: int) -> "subprocess.Popen[bytes]":
    name, _, index = task.partition("_")
    variables = {"SLURM_JOB_ID": name, "SLURM_JOB_NODELIST": socket.gethostname()}
    variables |= {"SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1"}
    if index:
        variables |= {"SLURM_ARRAY_JOB_ID": name, "SLURM_ARRAY_TASK_ID": index}
    if restarts:
        variables["SLURM_RESTART_COUNT"] = str(restarts)
    return subprocess.Popen(
        ["bash", script], env={**os.environ, **variables}, start_new_session=True
    )


def srun(state: Path, *arguments: str) -> int:
    """Starts the one task of a step, whose output goes to a file."""
    name, index = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_ARRAY_TASK_ID")
    task = f"{name}_{index}" if index else name
    rest = list(arguments)
    files = {}
    while rest[0].startswith("--"):
        flag = rest.pop(0)
        if flag in ("--output", "--error"):
            path = rest.pop(0).replace("%A_%a", task).replace("%j", task).replace("%t", "0")
            files[flag] = Path(path).open("a")  # noqa: SIM115
    of_task = {"SLURM_NODEID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    process = subprocess.Popen(
        rest, env={**os.environ, **of_task}, stdout=files["--output"], stderr=files["--error"]
    )
    (state / f"{task}.step").write_text(str(process.pid))
    return process.wait()


def sacct(state: Path, *arguments: str) -> None:
    asked = [arguments[n + 1] for n, each in enumerate(arguments) if each == "-j"]
    print("JobID|State|NodeList")
    for path in sorted(state.iterdir()):
        if "." not in path.name and path.name.partition("_")[0] in asked:
            print(f"{path.name}|{path.read_text()}|here")


def squeue(state: Path, *arguments: str) -> None:
    for path in sorted(state.iterdir()):
        if "." not in path.name and path.read_text() in ("PENDING", "RUNNING"):
            print(path.name, path.read_text())


def scontrol(state: Path, command: str, task: str) -> None:
    assert command == "requeue"
    (state / f"{task}.requeue").touch()


def scancel(state: Path, *arguments: str) -> None:
    """Ends jobs, or sends a signal to all processes of their steps, as Slurm does by cgroups."""
    rest = list(arguments)
    number = None
    if "--signal" in rest:
        at = rest.index("--signal")
        number = signal.Signals[f"SIG{rest[at + 1]}"]
        del rest[at : at + 2]
    running = []
    for path in sorted(state.iterdir()):
        if "." in path.name or not {path.name, path.name.partition("_")[0]} & set(rest):
            continue
        was = path.read_text()
        if number is None and was in ("PENDING", "RUNNING"):
            path.write_text("CANCELLED by 0")
        if was == "RUNNING" and (state / f"{path.name}.step").exists():
            running += descendants(int((state / f"{path.name}.step").read_text()))
    for process in running:
        os.kill(process, number or signal.SIGTERM)
    deadline = time.monotonic() + 5
    while number is None and any(map(alive, running)):
        if time.monotonic() > deadline:
            for process in filter(alive, running):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.1)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descendants(process: int) -> list[int]:
    found = [process]
    for path in Path("/proc").glob("[0-9]*/task/*/children"):
        if int(path.parts[2]) == process:
            for child in path.read_text().split():
                found += descendants(int(child))
    return found


if __name__ == "__main__":
    sys.exit(globals()[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:]))
