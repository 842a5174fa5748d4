"""Sweeps on Ray and in Slurm's queue: they keep the promises of launcher=local."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fake_slurm
import pytest
import torch
from processes import ENDLESS, SMOKE, Cli, result, run, start, wait_for, write_losses
from test_sweep import Sweep, contents, sweep

from quartet.records.sweep import Job, Table
from quartet.sweeps import launch
from quartet.sweeps.launch import EXIT_LOCKED, Program, Work

__all__ = ["sweep"]

# Long enough to be disturbed within; with dropout, so that a wrong state of a random generator shows.
WINE = [
    *("data=wine", "data.batch_size=8", "model.hidden=[16]", "model.dropout=0.3", "trainer=cpu"),
    *("trainer.max_epochs=150", "hydra.sweep.dir=s"),  # still at it when a test looks
]
FOREVER = [*ENDLESS, "hydra.sweep.dir=s"]
ENDS = [*SMOKE, "loss._target_=hydra_plugins.losses.Ends", "hydra.sweep.dir=s"]


def outcome(directory: Path) -> tuple[dict[str, Any], str, dict[str, torch.Tensor]]:
    """The result, each row and the weights, which no interruption may change."""
    values = result(directory)
    del values["seconds"], values["samples_per_second"]
    weights = torch.load(directory / "checkpoints/last.ckpt", weights_only=False)["state_dict"]
    return values, (directory / "metrics.csv").read_text(), weights


def assert_same(directory: Path, other: Path) -> None:
    values, rows, weights = outcome(directory)
    others, other_rows, other_weights = outcome(other)
    assert values == others
    assert rows == other_rows
    assert weights.keys() == other_weights.keys()
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


def holder(directory: Path) -> int:
    """The process that trains in a directory."""
    found = re.match(r"process (\d+) on", (directory / ".lock").read_text())
    assert found
    return int(found[1])


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


# Settings


@pytest.mark.parametrize(("launcher", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_missing_engine_is_named_with_its_extra(
    launcher: str, package: str, sweep: Sweep, monkeypatch: pytest.MonkeyPatch, train_py: Cli
) -> None:
    found = importlib.util.find_spec
    without = lambda name, *rest: None if name == package else found(name, *rest)  # noqa: E731
    monkeypatch.setattr("quartet.sweeps.launch.find_spec", without)
    assert sweep("-m", "seed=1,2", f"launcher={launcher}") == (2, [])
    line = f"launcher={launcher} needs {package}: pip install -e '.[{launcher}]'\n"
    assert train_py.err == line
    assert list(Path().iterdir()) == []


@pytest.fixture
def _engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every engine were installed."""
    monkeypatch.setattr("quartet.sweeps.launch.find_spec", lambda *_: True)


@pytest.mark.usefixtures("_engines")
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (["local", "launcher.n_jobs=0"], "launcher.n_jobs must be at least 1, got 0."),
        (["ray", "launcher.num_gpus=1.5"], "launcher.num_gpus must be 0 or more, and a whole"),
        (["ray", "launcher.num_cpus=-1"], "launcher.num_cpus must be 0 or more"),
        (["ray", "launcher.env=[NOT_SET]"], "launcher.env: NOT_SET is not set here."),
        (["slurm", "launcher.cluster=moab"], "launcher.cluster=moab: must be slurm or local."),
        (["slurm"], "there is no sbatch here"),
        (["slurm", "launcher.timeout_min=0"], "launcher.timeout_min must be a whole number of at"),
        (["slurm", "launcher.gpus_per_node=0.5"], "launcher.gpus_per_node must be a whole number"),
        (["slurm", 'launcher.account="a\nreboot"'], "launcher.account must be one line"),
    ],
)
def test_wrong_setting_leaves_nothing(
    setting: list[str], message: str, sweep: Sweep, train_py: Cli
) -> None:
    launcher, *rest = setting
    assert sweep("-m", "seed=1,2", f"launcher={launcher}", *rest) == (2, [])
    assert message in train_py.err
    assert list(Path().iterdir()) == []


# What both engines share


class Scripted(launch.Engine):
    """An engine that gives each job the next of its exit statuses."""

    def __init__(self, statuses: list[Any]) -> None:
        self.statuses, self.submitted, self.closed = statuses, list[int](), False

    def submit(self, todo: Sequence[Job]) -> list[int]:
        self.submitted += [job.number for job in todo]
        return [job.number for job in todo]

    def exit_status(self, handle: int) -> Any:
        return self.statuses.pop(0)

    def close(self) -> None:
        self.closed = True


def test_jobs_are_watched_until_each_has_ended(tmp_path: Path, train_py: Cli) -> None:
    table = Table(tmp_path)
    with table.changing():
        for seed in range(3):
            table.add([f"seed={seed}"], "")
    engine = Scripted([0, EXIT_LOCKED, -9, "lost by Ray: Died"])  # job 1 is submitted again
    launch.launch(engine, table.current, table, launch.Progress(table.current))
    assert (engine.submitted, engine.closed) == ([0, 1, 2, 1], True)
    reasons = [job.exit_reason for job in Table(tmp_path).current]
    assert reasons == [None, "lost by Ray: Died", "killed by signal 9"]
    assert "job 2 (seed=2) killed by signal 9; sweep: 0 of 3 done" in train_py.err


def test_work_trains_a_job_in_a_process_of_its_own(tmp_path: Path) -> None:
    words = (
        "import os; print(os.environ['MINE'], 'SLURM_JOB_ID' in os.environ); raise SystemExit(1)"
    )
    program = Program([sys.executable, "-c", words], [])
    job = Job(tmp_path / "0", ["seed=1"], "")
    work = Work(program, job, {"MINE": "here"}, str(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_JOB_ID", "7")
        patch.chdir(tmp_path)
        assert work() == 1
        assert result(job.directory)["error"]["message"] == "here False"
        assert work() == EXIT_LOCKED  # it has failed, and is not pending


# submitit on this machine


@pytest.mark.slow
def test_jobs_by_submitit_survive_each_other_and_resume(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    write_losses(tmp_path)
    command = (*("-m", *ENDS, "+loss.by=raise,kill,refusal,nothing"), "launcher=slurm")
    status, out, err = run(tmp_path, *command, "launcher.cluster=local")
    assert (status, out.partition("\n")[0]) == (1, "1 of 4 jobs finished: s"), err
    assert re.search(r"^job 0 failed: a bug of this loss$", err, re.MULTILINE)
    assert "job 1 killed by signal 9; the next start of the sweep resumes it" in err
    assert re.search(r"^job 2 refused: .*by=refusal: is not to be had", err, re.MULTILINE)
    assert "Traceback" not in err
    before = contents(tmp_path / "s" / "3")
    status, out, err = run(tmp_path, "sweep.resume=s", ENDS[-2])
    assert (status, out.partition("\n")[0]) == (1, "2 of 4 jobs finished: s"), err
    assert contents(tmp_path / "s" / "3") == before


# Slurm, as far as submitit needs it


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the states of the scheduler's jobs; no job outlives the test."""
    pytest.importorskip("submitit")
    (tmp_path / "slurm").mkdir()
    for name, value in fake_slurm.install(tmp_path / "slurm").items():
        monkeypatch.setenv(name, value)
    state = tmp_path / "slurm" / "state"
    yield state
    fake_slurm.scancel(state, *(path.stem for path in state.glob("*.sh")))


@pytest.mark.slow
def test_jobs_in_slurms_queue(slurm: Path, tmp_path: Path) -> None:
    write_losses(tmp_path)
    settings = ["partition=gpu", "cpus_per_task=3", "timeout_min=90", "array_parallelism=2"]
    settings += ["gpus_per_node=1", "mem_gb=4", "account=me"]
    command = ["-m", *ENDS, "+loss.by=raise,refusal,nothing", "launcher=slurm"]
    status, out, err = run(tmp_path, *command, *(f"launcher.{each}" for each in settings))
    assert (status, out.partition("\n")[0]) == (1, "1 of 3 jobs finished: s"), err
    assert re.search(r"^job 0 failed: a bug of this loss$", err, re.MULTILINE)
    assert re.search(r"^job 1 refused: .*by=refusal: is not to be had", err, re.MULTILINE)
    assert "Traceback" not in err

    lines = set((slurm / "100.sh").read_text().splitlines())
    expected = {"array=0-2%2", "partition=gpu", "cpus-per-task=3", "time=90", "gpus-per-node=1"}
    expected |= {"mem=4GB", "account=me", "signal=USR2@90", "nodes=1", "ntasks-per-node=1"}
    assert {f"#SBATCH --{each}" for each in expected} <= lines

    before = contents(tmp_path / "s" / "2")
    assert run(tmp_path, *command)[0] == 1
    assert contents(tmp_path / "s" / "2") == before
    assert len(list(slurm.glob("*.sh"))) == 1


def test_jobs_that_slurm_does_not_take(slurm: Path, tmp_path: Path) -> None:
    command = ["-m", *SMOKE, "seed=1,2", "launcher=slurm", "launcher.partition=nowhere"]
    status, _, err = run(tmp_path, *command, "hydra.sweep.dir=s")
    assert status == 2
    assert "Slurm refused the jobs" in err
    assert "invalid partition specified: nowhere" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_requeued_job_ends_as_an_undisturbed_one(slurm: Path, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    assert run(tmp_path / "whole", "-m", *WINE, "seed=1,2,3")[0] == 0
    process = start(tmp_path, "-m", *WINE, "seed=1,2,3", "launcher=slurm")
    # The time of the first is over; the second makes room for another job.
    for job, numbers in enumerate((["USR2"], ["TERM", "USR2"])):
        wait_for(f"s/{job}/metrics.csv", tmp_path, process)
        for number in numbers:
            fake_slurm.scancel(slurm, f"100_{job}", "--signal", number)
            time.sleep(0.2)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    for job, resumed in enumerate((True, True, False)):
        assert (tmp_path / f"s/{job}/.hydra/resume-1").exists() == resumed
        assert_same(tmp_path / f"s/{job}", tmp_path / f"whole/s/{job}")
    assert "Requeued job 100_0 (20 remaining timeouts)" in "".join(
        path.read_text() for path in (tmp_path / "s/.submitit").glob("*/100_0_0_log.*")
    )


@pytest.mark.slow
def test_jobs_in_slurm_outlive_the_sweep_which_watches_them(slurm: Path, tmp_path: Path) -> None:
    command = ["-m", *FOREVER, "seed=1,2", "launcher=slurm", "launcher.array_parallelism=1"]
    first = start(tmp_path, *command)
    wait_for("s/0/metrics.csv", tmp_path, first)
    first.send_signal(signal.SIGINT)
    _, err = first.communicate(timeout=300)
    assert first.returncode == 130
    assert "The jobs continue in Slurm, and the next start of the sweep watches them" in err
    assert "scancel 100\n" in err
    process = holder(tmp_path / "s/0")

    second = start(tmp_path, *command)
    time.sleep(8)
    assert (slurm / "100_1").read_text() == "PENDING"
    assert holder(tmp_path / "s/0") == process
    fake_slurm.scancel(slurm, "100")
    _, err = second.communicate(timeout=300)
    assert second.returncode == 1
    assert "job 1 ended by Slurm: CANCELLED by 0, job 100_1; the next start" in err
    assert [path.name for path in slurm.glob("*.sh")] == ["100.sh"]
    assert result(tmp_path / "s/0")["status"] == "interrupted"


@pytest.mark.slow
def test_several_devices_inside_a_job_of_slurm(slurm: Path, tmp_path: Path) -> None:
    """Lightning starts the processes, and asks Slurm for none."""
    common = ["data=breast_cancer", "model.hidden=[16]", "trainer.max_epochs=2"]
    two = ["trainer=ddp", "trainer.accelerator=cpu", "data.batch_size=16", "launcher=slurm"]
    status, _, err = run(tmp_path, "-m", *common, *two, "seed=1", "hydra.sweep.dir=two")
    assert status == 0, err
    one = ["trainer=cpu", "data.batch_size=32", "hydra.sweep.dir=one"]
    assert run(tmp_path, "-m", *common, *one, "seed=1")[0] == 0
    together, alone = (result(tmp_path / sweep / "0") for sweep in ("two", "one"))
    assert together["metrics"] == pytest.approx(alone["metrics"], abs=1e-5)
    assert together["metrics"].keys() == alone["metrics"].keys()


# Ray


@pytest.mark.slow
def test_sweep_on_two_nodes_of_ray_gives_what_the_basic_launcher_gives(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    (tmp_path / "basic").mkdir()
    four = ["-m", *WINE, "seed=1,2,3,4"]
    assert run(tmp_path / "basic", *four)[0] == 0
    one = {"num_cpus": 2, "num_gpus": 1}  # one job a GPU, if nothing else is said
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=one)
    try:
        cluster.add_node(**one)
        command = [*four, "launcher=ray", f"launcher.address={cluster.address}"]
        process = start(tmp_path, *command)
        for job in (0, 1):
            wait_for(f"s/{job}/metrics.csv", tmp_path, process)
        first, second = (holder(tmp_path / f"s/{job}") for job in (0, 1))
        nodes = {parent(parent(each)) for each in (first, second)}  # by Ray's own process there
        for each in (first, second):
            assert b"\0CUDA_VISIBLE_DEVICES=0\0" in Path(f"/proc/{each}/environ").read_bytes()
        assert not (tmp_path / "s/2/.hydra").exists()
        os.kill(second, signal.SIGKILL)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 1
        assert len(nodes) == 2
        assert "job 1 killed by signal 9; the next start of the sweep resumes it" in err
        assert [n for n in range(4) if not (tmp_path / f"s/{n}/result.json").exists()] == [1]

        status, out, err = run(tmp_path, *command)
        assert (status, out.partition("\n")[0]) == (0, "4 of 4 jobs finished: s"), err
        assert (tmp_path / "s/1/.hydra/resume-1").exists()
        for job in range(4):
            assert_same(tmp_path / f"s/{job}", tmp_path / f"basic/s/{job}")
    finally:
        cluster.shutdown()
        ray.shutdown()


@pytest.mark.slow
def test_node_of_ray_that_dies_ends_no_other_job(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        node = cluster.add_node(num_cpus=1)
        command = ["-m", *WINE, "seed=1,2", "launcher=ray", f"launcher.address={cluster.address}"]
        process = start(tmp_path, *command)
        for job in (0, 1):
            wait_for(f"s/{job}/metrics.csv", tmp_path, process)
        raylet = node.all_processes["raylet"][0].process.pid
        trainers = [holder(tmp_path / f"s/{job}") for job in (0, 1)]
        (lost,) = (job for job in (0, 1) if parent(parent(trainers[job])) == raylet)
        for each in (raylet, parent(trainers[lost]), trainers[lost]):  # all of a machine
            os.kill(each, signal.SIGKILL)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 1
        assert re.search(rf"^job {lost} lost by Ray: \w+; the next start", err, re.MULTILINE), err
        assert result(tmp_path / f"s/{1 - lost}")["status"] == "finished"

        status, out, err = run(tmp_path, *command)
        assert status == 0, err
        assert "2 of 2 jobs finished: s" in out  # Ray has a word first on machines short of memory
    finally:
        cluster.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_reaches_the_jobs_on_ray(number: signal.Signals, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    process = start(tmp_path, "-m", *FOREVER, "seed=1,2,3", "launcher=ray")
    wait_for("s/0/metrics.csv", tmp_path, process)
    trainer = holder(tmp_path / "s/0")
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 128 + number
    assert re.search(r"^python .*train\.py sweep\.resume=s$", err, re.MULTILINE)
    assert "Traceback" not in err
    assert result(tmp_path / "s/0")["status"] == "interrupted"
    assert (tmp_path / "s/0/checkpoints/last.ckpt").exists()
    assert not Path(f"/proc/{trainer}").exists()
    assert Table(tmp_path / "s").jobs[0].exit_reason == "interrupted"
    assert not subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True).stdout
