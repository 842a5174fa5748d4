"""Several machines: processes started from outside make one run in one directory."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from quartet.build import build, compose
from quartet.compat import quieten
from quartet.core import processes
from quartet.core.problems import ConfigError

ROOT = Path(__file__).parents[2]
RUN = (
    *("data=breast_cancer", "model.hidden=[16]", "optimizer=momentum", "trainer.max_epochs=2"),
    *("trainer=nodes", "trainer.accelerator=cpu"),
)
TRAIN = (str(ROOT / "train.py"), *RUN, "data.batch_size=16")
NAMED = "hydra.run.dir=run"


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def together(
    folder: Path, commands: Sequence[Sequence[str]], environments: Sequence[Mapping[str, str]]
) -> list[tuple[int, str]]:
    """Exit status and errors of commands that run at once."""
    started = [
        subprocess.Popen(
            command,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
        for command, environment in zip(commands, environments, strict=True)
    ]
    try:
        errors = [each.communicate(timeout=300)[1] for each in started]
        return [(each.returncode, err) for each, err in zip(started, errors, strict=True)]
    finally:
        for each in started:
            each.kill()


def by_torchrun(folder: Path, *arguments: str) -> list[tuple[int, str]]:
    """Two machines with a process each."""
    where = ["--nnodes=2", "--nproc_per_node=1", "--master_addr=127.0.0.1"]
    where += [f"--master_port={free_port()}"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *where]
    commands = [[*torchrun, f"--node_rank={n}", *TRAIN, *arguments] for n in (0, 1)]
    return together(folder, commands, [{}, {}])


def by_srun(folder: Path, *arguments: str) -> list[tuple[int, str]]:
    """Two nodes with a task each, by what Slurm tells its tasks."""
    shared = {
        **{"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_JOB_NAME": "train"},
        **{"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS_PER_NODE": "1"},
        **{"SLURM_NNODES": "2", "SLURM_LOCALID": "0", "SLURM_NODELIST": "127.0.0.1"},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())},
    }
    tasks = [shared | {"SLURM_PROCID": str(n), "SLURM_NODEID": str(n)} for n in (0, 1)]
    return together(folder, [[sys.executable, *TRAIN, *arguments]] * 2, tasks)


def assert_one_run(folder: Path) -> Path:
    """One directory with one result, whose weights are those of one process."""
    (result_file,) = folder.rglob("result.json")
    directory = result_file.parent
    assert [path.parent for path in folder.rglob("metrics.csv")] == [directory]
    assert directory == folder / "run"
    assert json.loads(result_file.read_text())["status"] == "finished"
    quieten()
    alone = build(compose([*RUN, "data.batch_size=32", "trainer=cpu"]), folder / "alone")
    alone.trainer.fit(alone.module, alone.data)
    last = torch.load(directory / "checkpoints/last.ckpt", weights_only=True)
    for name, value in alone.module.state_dict().items():
        torch.testing.assert_close(last["state_dict"][name], value, rtol=0, atol=1e-6)
    return directory


@pytest.mark.slow
def test_two_machines_under_torchrun_make_one_run(tmp_path: Path) -> None:
    for status, err in by_torchrun(tmp_path, NAMED):
        assert status == 0, err
    directory = assert_one_run(tmp_path)
    command = [sys.executable, str(ROOT / "evaluate.py"), f"run={directory}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr  # in one process, without another trainer


@pytest.mark.slow
def test_two_tasks_of_slurm_make_one_run(tmp_path: Path) -> None:
    for status, err in by_srun(tmp_path, NAMED):
        assert status == 0, err
    assert_one_run(tmp_path)


def test_processes_started_from_outside_need_a_named_directory(tmp_path: Path) -> None:
    (status, err), (other, silent) = by_srun(tmp_path)
    assert (status, other, silent) == (2, 2, "")
    assert "name it on the command line: hydra.run.dir=outputs/NAME" in err
    assert list(tmp_path.iterdir()) == []


def test_numbers_are_those_of_whoever_started_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def numbers() -> tuple[int, bool, bool]:
        outside, lightning = processes.started_externally(), processes.started_by_lightning()
        return processes.process_rank(), outside, lightning

    assert numbers() == (0, False, False)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert numbers() == (1, False, True)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("RANK", "5")
    assert numbers() == (5, True, False)


def test_trainer_takes_the_numbers_of_torchrun_and_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    def numbers() -> tuple[int, int]:
        trainer = compose(["trainer=nodes"]).trainer
        return trainer.num_nodes, trainer.devices

    assert numbers() == (1, 1)
    monkeypatch.setenv("SLURM_NNODES", "3")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    assert numbers() == (3, 4)
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert numbers() == (2, 8)


def test_other_numbers_than_were_started_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"trainer.num_nodes=2: nothing starts the processes of"):
        build(compose(["trainer.num_nodes=2", "trainer=cpu"]))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match=r"torchrun has started 2 processes; trainer=nodes takes"):
        build(compose(["trainer=cpu"]))
