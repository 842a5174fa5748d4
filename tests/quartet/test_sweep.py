"""Sweeps as commands: they resume, survive their jobs, and share a directory with each other."""

import json
import random
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from processes import ENDLESS, SMOKE, Cli, result, run, start, wait_for, write_losses

from quartet.checkpoints.storage import load
from quartet.records import run_directory as record
from quartet.records.sweep import Table
from quartet.training.module import NonFiniteLossError


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# Which jobs are trained: with a training that only writes its result

Sweep = Callable[..., tuple[int, list[tuple[str, int]]]]


@pytest.fixture
def sweep(train_py: Cli, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Gives the status of train.py, and the optimizer and seed of each training."""
    trained: list[tuple[str, int]] = []

    def train(cfg: DictConfig, directory: Path, pictures: bool) -> dict[str, Any]:
        trained.append((str(cfg.hydra.runtime.choices.optimizer), cfg.seed))
        values = record.initial_result(cfg) | {"status": "finished"}
        if cfg.seed == 13:
            error = NonFiniteLossError("the loss became nan")
            record.write_result(directory, values | record.failure("failed", error))
            raise error
        record.write_result(directory, values)
        return values

    monkeypatch.setattr("quartet.run.train", train)

    def command(*arguments: str) -> tuple[int, list[tuple[str, int]]]:
        trained.clear()
        return train_py(*arguments), list(trained)

    return command


def test_new_jobs_alone_are_trained(sweep: Sweep, tmp_path: Path, train_py: Cli) -> None:
    assert sweep("-m", "seed=1,2", "hydra.sweep.dir=s") == (0, [("adam", 1), ("adam", 2)])
    before = contents(tmp_path / "s")
    assert sweep("-m", "seed=1,2", "hydra.sweep.dir=s") == (0, [])
    assert contents(tmp_path / "s") == before
    assert sweep("-m", "seed=3,2,1,2", "hydra.sweep.dir=s") == (0, [("adam", 3)])
    assert sweep("-m", "optimizer=sgd", "seed=1", "hydra.sweep.dir=s") == (0, [("sgd", 1)])
    again = ("-m", "hydra.sweep.dir=s", "seed=1", "optimizer=sgd", "launcher=basic")
    assert sweep(*again) == (0, [])  # in any order, by any launcher
    seeds = [result(tmp_path / f"s/{number}")["seed"] for number in range(4)]
    assert seeds == [1, 2, 3, 1]
    after = contents(tmp_path / "s")
    assert all(after[path] == before[path] for path in before if path.name != "sweep.json")
    assert "4 of 4 jobs finished: s" in train_py.out


def test_job_is_the_same_run_as_alone(tmp_path: Path, train_py: Cli) -> None:
    assert train_py("-m", "seed=1,2,3", *SMOKE, "hydra.sweep.dir=s") == 0
    for seed in (1, 2, 3):
        assert train_py(f"seed={seed}", *SMOKE, f"hydra.run.dir={seed}") == 0
        job, alone = tmp_path / f"s/{seed - 1}", tmp_path / str(seed)
        files = ("config.yaml", "overrides.yaml")
        ours, theirs = ({f: (d / ".hydra" / f).read_text() for f in files} for d in (job, alone))
        assert ours["config.yaml"] == theirs["config.yaml"]
        assert sorted(ours["overrides.yaml"]) == sorted(theirs["overrides.yaml"])
        hydra = OmegaConf.load(job / ".hydra/hydra.yaml").hydra
        assert (hydra.job.num, hydra.sweep.subdir) == (seed - 1, str(seed - 1))
        assert hydra.runtime.output_dir == str(job)
        assert f"seed={seed}" in hydra.overrides.task
        assert (job / "metrics.csv").read_text() == (alone / "metrics.csv").read_text()
        weights = [load(d / "checkpoints/last.ckpt")["state_dict"] for d in (job, alone)]
        assert weights[0].keys() == weights[1].keys()
        assert all(value.equal(weights[1][key]) for key, value in weights[0].items())


def test_resume_alone_resumes_all_jobs(sweep: Sweep, tmp_path: Path) -> None:
    sweep("-m", "seed=1,2", "hydra.sweep.dir=s")
    sweep("-m", "optimizer=sgd", "seed=5,6", "hydra.sweep.dir=s")
    for number in (1, 3):  # as if killed
        (tmp_path / f"s/{number}/result.json").unlink()
    assert sweep("sweep.resume=s") == (0, [("sgd", 6), ("adam", 2)])


def test_failed_jobs_get_new_numbers(sweep: Sweep, tmp_path: Path, train_py: Cli) -> None:
    sweep("-m", "seed=1,13", "hydra.sweep.dir=s")
    before = contents(tmp_path / "s" / "1")
    again = ("-m", "seed=1,13", "hydra.sweep.dir=s")
    assert sweep(*again, "sweep.retry=failed") == (1, [("adam", 13)])
    assert contents(tmp_path / "s" / "1") == before
    assert Table(tmp_path / "s").jobs[1].retried_as == 2
    assert "1 of 2 jobs finished" in train_py.out
    record.write_result(tmp_path / "s/0", result(tmp_path / "s/0") | {"status": "interrupted"})
    assert sweep(*again) == (1, [("adam", 1)])  # without a word, failed ones are left
    assert sweep(*again, "sweep.retry=all") == (2, [])
    assert "sweep.retry=all: must be failed" in train_py.err


MINE = ("-m", "--config-dir=mine", "experiment=mine", "hydra.sweep.dir=s")


def write_experiment(lr: float, comment: str = "") -> None:
    """An experiment in the folder that `MINE` names."""
    Path("mine/experiment").mkdir(parents=True, exist_ok=True)
    text = f"# @package _global_\n{comment}optimizer: {{lr: {lr}}}\n"
    Path("mine/experiment/mine.yaml").write_text(text)


def test_changed_config_is_refused_with_a_diff(sweep: Sweep, tmp_path: Path, train_py: Cli) -> None:
    write_experiment(0.5)
    command = (*MINE, "seed=1,2")
    assert len(sweep(*command)[1]) == 2
    before = contents(tmp_path / "s")

    write_experiment(0.25)
    assert train_py.err
    assert sweep(*command) == (2, [])
    assert train_py.err == (
        "conf/ has changed since jobs in s were trained, and nothing in it was touched:\n"
        "  job 0: experiment=mine seed=1\n"
        "    optimizer.lr: 0.5 -> 0.25\n"
        "  job 1: experiment=mine seed=2\n"
        "    optimizer.lr: 0.5 -> 0.25\n"
        "Undo the change, or start another sweep in another hydra.sweep.dir.\n"
    )
    assert contents(tmp_path / "s") == before

    write_experiment(0.5, comment="# The same in other words.\n")
    assert sweep(*command) == (0, [])
    for number in (0, 1):  # killed before their first checkpoint: nothing was trained
        (tmp_path / f"s/{number}/result.json").unlink()
    write_experiment(0.25)
    assert sweep(*command) == (0, [("adam", 1), ("adam", 2)])


def test_refused_and_retried_jobs_ignore_changed_files(sweep: Sweep, tmp_path: Path) -> None:
    write_experiment(0.5)
    command = (*MINE, "seed=13")
    assert sweep(*command)[0] == 1
    write_experiment(0.25)
    assert sweep(*command) == (2, [])
    assert sweep(*command, "sweep.retry=failed") == (1, [("adam", 13)])
    # Refused while composing, so that it has no record.
    record.write_result(tmp_path / "s/1", record.initial_result() | {"status": "refused"})
    (tmp_path / "s/1/.hydra/config.yaml").unlink()
    write_experiment(0.75)
    assert sweep(*command) == (1, [])


def test_misspelt_option_refuses_the_sweep(sweep: Sweep, tmp_path: Path, train_py: Cli) -> None:
    assert sweep("-m", "optimizer=sgd,adamm", "seed=1,2") == (2, [])
    assert sweep("-m", "optimizer=sgd", "optimizer.lrr=1,2", "hydra.sweep.dir=s") == (2, [])
    said = train_py.err
    assert "optimizer=adamm: there is no such option; did you mean adam?" in said
    assert "optimizer.lrr=1,2: there is no such key; did you mean optimizer.lr?" in said
    assert list(tmp_path.iterdir()) == []
    combinations = ("optimizer=adam,sgd", "optimizer.betas=[0.9,0.99],[0.8,0.9]")
    assert sweep("-m", *combinations, "hydra.sweep.dir=s") == (2, [])
    assert "betas=[0.9,0.99],[0.8,0.9]: there is no such key with optimizer=sgd; there are" in (
        train_py.err
    )


def test_check_only_says_what_would_run(sweep: Sweep, tmp_path: Path, train_py: Cli) -> None:
    data = ("-m", "data=wine", "check=only", "launcher=local")
    assert sweep(*data, "optimizer=sgd,adam") == (0, [])
    assert train_py.out.count("Nothing is wrong with it. It would run:") == 2
    assert sweep(*data, "optimizer.lr=0.1,-1") == (2, [])
    said = train_py.printed
    assert said.count("Nothing is wrong with it. It would run:") == 1
    assert "1 of 2 jobs would be refused" in said
    assert list(tmp_path.iterdir()) == []


class OtherLauncher(Launcher):
    """Of another package."""

    __module__ = "hydra_plugins.other"

    def setup(self, **settings: Any) -> None: ...

    def launch(self, *jobs: Any) -> Any:
        raise AssertionError("it got jobs")


def test_foreign_launcher_is_refused(train_py: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    plugins, store = Plugins.instance(), ConfigStore.instance()
    package = ModuleType("hydra_plugins.other")
    monkeypatch.setattr(package, "OtherLauncher", OtherLauncher, raising=False)
    monkeypatch.setitem(sys.modules, "hydra_plugins.other", package)
    plugins.register(OtherLauncher)
    node = {"_target_": "hydra_plugins.other.OtherLauncher"}
    store.store(group="hydra/launcher", name="other", node=node, provider="test")
    assert "hydra/launcher=other: does not train the jobs of sweep=grid" in train_py.refuse(
        "-m", *SMOKE, "seed=0,1", "hydra/launcher=other"
    )


def test_devices_need_a_process_for_each_job(sweep: Sweep, tmp_path: Path, train_py: Cli) -> None:
    assert sweep("-m", "trainer=ddp", "seed=1", "hydra.sweep.dir=s") == (1, [])
    assert result(tmp_path / "s/0")["status"] == "refused"
    assert "add launcher=local" in train_py.err


# Processes


@pytest.mark.slow
def test_jobs_of_their_own_survive_each_other(tmp_path: Path) -> None:
    write_losses(tmp_path)
    ends = "loss._target_=hydra_plugins.losses.Ends"  # which a record may not decide
    by = "+loss.by=diverge,raise,kill,refusal,nothing"
    command = ("-m", *SMOKE, ends, by, "hydra.sweep.dir=s", "launcher=local")
    status, out, err = run(tmp_path, *command)
    assert status == 1
    assert re.search(r"^job 4 .* finished; sweep: 1 of 5 done", err, re.MULTILINE)
    assert re.search(r"^job 0 failed: the loss became nan in batch 1 of epoch 1", err, re.MULTILINE)
    assert re.search(r"^job 1 failed: a bug of this loss$", err, re.MULTILINE)
    assert "job 2 killed by signal 9; the next start of the sweep resumes it" in err
    assert re.search(r"^job 3 refused: .*by=refusal: is not to be had", err, re.MULTILINE)
    assert out.startswith("1 of 5 jobs finished: s\n")
    assert "Traceback" not in err
    assert "ArithmeticError: a bug of this loss" in (tmp_path / "s/1/output.log").read_text()

    before = {path: path.read_bytes() for path in (tmp_path / "s").glob("*/result.json")}
    status, out, err = run(tmp_path, "sweep.resume=s", ends)
    assert status == 1  # failed and refused ones stay
    assert out.startswith("2 of 5 jobs finished: s\n")
    assert "killed" not in err
    assert all(path.read_bytes() == content for path, content in before.items())


def test_signal_reaches_the_jobs_which_go_on_later(tmp_path: Path) -> None:
    endless = [*ENDLESS, "hydra.sweep.dir=s", "seed=1,2"]
    process = start(tmp_path, "-m", *endless, "launcher=local", "launcher.n_jobs=1")
    wait_for("s/0/metrics.csv", tmp_path, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 143
    assert re.search(r"^python .*train\.py sweep\.resume=s$", err, re.MULTILINE)
    assert "Traceback" not in err
    assert result(tmp_path / "s/0")["status"] == "interrupted"
    assert (tmp_path / "s/0/checkpoints/last.ckpt").exists()
    assert not (tmp_path / "s/0/.lock").exists()
    assert not (tmp_path / "s/1").exists()


def test_run_is_not_trained_by_two_processes(train_py: Cli, tmp_path: Path) -> None:
    endless = [*ENDLESS, "hydra.run.dir=run"]
    first = start(tmp_path, *endless)
    wait_for("run/checkpoints/last.ckpt", tmp_path, first)
    status = train_py("resume=run")
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=300)
    assert first.returncode == 143
    assert status == 2
    words = f"another process trains in run: process {first.pid} on"
    assert words in train_py.err
    assert not (tmp_path / "run/.hydra/resume-1").exists()
    assert not (tmp_path / "run/.lock").exists()


# Killed and started again, together: what comes out is what an undisturbed sweep gives

TWELVE = [
    *("data=wine", "data.batch_size=8", "model.hidden=[16]", "model.dropout=0.3", "trainer=cpu"),
    *("trainer.max_epochs=3", "callbacks.last.every_n_steps=1"),
    *("optimizer=sgd,adam,rmsprop", "seed=range(4)"),
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """Its directory, and the seconds that it took."""
    directory = tmp_path_factory.mktemp("undisturbed")
    began = time.monotonic()
    assert run(directory, "-m", *TWELVE, "hydra.sweep.dir=s")[0] == 0
    return directory / "s", time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "local"])
def test_sweep_killed_ten_times_and_started_twice_at_once_gives_what_an_undisturbed_one_gives(
    launcher: str, undisturbed: tuple[Path, float], tmp_path: Path
) -> None:
    whole_sweep, seconds = undisturbed
    moments = random.Random(launcher)
    command = ["-m", *TWELVE, "hydra.sweep.dir=s", f"launcher={launcher}"]
    sweep = tmp_path / "s"
    finished: dict[Path, tuple[int, bytes]] = {}

    def look() -> None:
        """Finished results are never written again."""
        for path in sweep.glob("*/result.json"):
            now = (path.stat().st_mtime_ns, path.read_bytes())
            assert finished.setdefault(path, now) == now
            assert json.loads(now[1])["status"] == "finished"

    def training(since: float) -> bool:
        saved = sweep.glob("*/checkpoints/last.ckpt")
        return any(path.stat().st_mtime > since for path in saved)

    for number in range(10):
        began = time.time()
        # The last four jobs are left to the two that start at once.
        process = start(tmp_path, *command, "optimizer=sgd,adam")
        time.sleep(moments.uniform(0, 0.3) * seconds)
        if number % 2:  # not while it still imports
            while process.poll() is None and not training(began):
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 0.2))
        process.kill()
        process.communicate()
        look()
    resumed = len(list(sweep.glob("*/.hydra/resume-*")))
    assert resumed or launcher == "local"  # whose jobs outlive it
    both = [start(tmp_path, *command) for _ in range(2)]
    trained: list[str] = []
    for process in both:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert "12 of 12 jobs finished: s" in out
        trained += re.findall(r"^job (\d+) .* finished; sweep", err, re.MULTILINE)
    assert len(trained) == len(set(trained))
    assert launcher == "local" or len(trained) == 12 - len(finished)
    look()
    assert len(finished) == 12
    assert sorted(path.name for path in sweep.iterdir() if path.is_dir()) == sorted(
        str(number) for number in range(12)
    )
    for number, job in Table(whole_sweep).jobs.items():
        again = Table(sweep).jobs[number]
        assert again.overrides == job.overrides
        whole, other = (result(each.directory) for each in (job, again))
        for values in (whole, other):
            del values["seconds"], values["samples_per_second"]
        assert other == whole
        rows = [(each.directory / "metrics.csv").read_text() for each in (job, again)]
        assert rows[0] == rows[1]


@pytest.mark.slow
def test_several_devices_inside_the_jobs_of_a_sweep(tmp_path: Path) -> None:
    common = ["data=breast_cancer", "model.hidden=[16]", "trainer.max_epochs=2"]
    two = ["trainer=ddp", "trainer.accelerator=cpu", "data.batch_size=16"]
    seeds = ["seed=1,2", "hydra.sweep.dir=two", "launcher=local", "launcher.n_jobs=1"]
    status, out, err = run(tmp_path, "-m", *common, *two, *seeds)
    assert status == 0, err
    assert "2 of 2 jobs finished: two" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["two"]
    one = ["trainer=cpu", "data.batch_size=32", "seed=1,2", "hydra.sweep.dir=one"]
    assert run(tmp_path, "-m", *common, *one)[0] == 0
    for job in ("0", "1"):
        together, alone = (result(tmp_path / sweep / job) for sweep in ("two", "one"))
        assert len(list((tmp_path / "two" / job).rglob("metrics.csv"))) == 1
        assert together["metrics"] == pytest.approx(alone["metrics"], abs=1e-5)
        assert together["metrics"].keys() == alone["metrics"].keys()
