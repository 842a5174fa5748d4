"""The command line: exit statuses, directories, signals, sweeps; each in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from argparse import Action, ArgumentParser, Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from made import composed
from processes import ENDLESS, SMALL, SMOKE, Cli, result, run, start, wait_for, write_losses
from test_sweep import contents
from torch import Tensor, nn

from quartet.compat import allow_lazy_help
from quartet.config import allow
from quartet.core.files import make_unique_directory
from quartet.run import train
from quartet.training.module import NonFiniteLossError

ROOT = Path(__file__).parents[2]


def anew(directory: Path, *arguments: str) -> "subprocess.Popen[str]":
    """``python train.py`` from the start of Python."""
    command = [sys.executable, ROOT / "train.py", *arguments]
    return subprocess.Popen(command, cwd=directory, stdout=-1, stderr=-1, text=True)  # pipes


def epochs_of(directory: Path) -> list[int]:
    return list(pd.read_csv(directory / "metrics.csv")["epoch"])


def test_refusal_exits_with_2_and_leaves_nothing(train_py: Cli, tmp_path: Path) -> None:
    assert train_py("optimizer.lr=-1", "+model.hiden=3", "hydra.run.dir=a/b/run") == 2
    assert tuple(train_py.capsys.readouterr()) == (
        "",
        "Refused, before the first batch:\n"
        "  model.hiden: MLP has no such argument; did you mean hidden?\n"
        "  optimizer.lr=-1: must be at least 0.\n",
    )
    assert not list(tmp_path.iterdir())


def test_check_only_says_what_would_run_and_leaves_nothing(train_py: Cli, tmp_path: Path) -> None:
    out = train_py.ask("check=only", "data=wine", "scheduler=cosine")
    assert not list(tmp_path.iterdir())
    assert "None" not in out  # of an experiment
    for words in (
        r"^Nothing is wrong with it. It would run:",
        r"^data +wine$",
        r"^parameters +2,179 trained, 0 frozen$",
        r"^samples +124 train, 18 val, 36 test$",
        r"^steps +4 an epoch, 120 in all$",
        r"^lr +0.002 at the start, 0.001 in the middle, .* at the end$",
        r"^monitor +val/loss \(min\)$",
    ):
        assert re.search(words, out, re.MULTILINE), words


def test_each_run_has_a_directory_that_is_never_written_over(train_py: Cli, tmp_path: Path) -> None:
    pair = [start(tmp_path, *SMOKE), start(tmp_path, *SMOKE)]
    outputs = [process.communicate(timeout=300) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outputs
    directories = sorted(path.parent for path in tmp_path.glob("outputs/*/*/result.json"))
    assert len(directories) == 2
    for directory in directories:
        assert result(directory)["status"] == "finished"
        assert epochs_of(directory) == [1]

    before = contents(directories[0])
    words = "already holds a run, and nothing in it was touched; name another directory"
    assert words in train_py.refuse(*SMOKE, f"hydra.run.dir='{directories[0]}'")
    assert contents(directories[0]) == before


def test_directories_made_at_once_are_all_new(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = threads.map(make_unique_directory, [tmp_path / "day" / "12-00-00"] * 8)
    numbers = ["", *(f"-{number}" for number in range(1, 8))]
    assert sorted(path.name for path in made) == sorted(f"12-00-00{number}" for number in numbers)


# Signals


def assert_finite(checkpoint: Path) -> int:
    """Asserts that the weights of a checkpoint are numbers; returns its epoch."""
    content = torch.load(checkpoint, weights_only=True)
    assert all(tensor.isfinite().all() for tensor in content["state_dict"].values())
    return int(content["epoch"])


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_after_the_batch(number: signal.Signals, status: int, tmp_path: Path) -> None:
    process = start(tmp_path, *ENDLESS)
    wait_for("outputs/*/*/metrics.csv", tmp_path, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    directory = next(tmp_path.glob("outputs/*/*"))
    assert process.returncode == status
    assert re.search(rf"^Interrupted; .*{directory.name}", err, re.MULTILINE)
    assert "Traceback" not in err
    values = result(directory)
    assert (values["status"], values["error"]["type"]) == ("interrupted", "SystemExit")
    assert_finite(directory / "checkpoints" / "last.ckpt")


def test_second_signal_ends_at_once(tmp_path: Path) -> None:
    write_losses(tmp_path)
    process = start(tmp_path, *SMALL, "loss._target_=hydra_plugins.losses.Ends", "+loss.by=sleep")
    wait_for("under_way", tmp_path, process)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None  # it waits for the batch
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    process.communicate(timeout=300)
    assert process.returncode == 130
    assert time.monotonic() - began < 30
    assert result(next(tmp_path.glob("outputs/*/*")))["status"] == "interrupted"


@pytest.mark.parametrize("twice", [False, True])
def test_signal_during_imports_ends_before_anything_begins(twice: bool, tmp_path: Path) -> None:
    process = anew(tmp_path, *ENDLESS)
    wait_for("outputs/*/*/train.log", tmp_path, process)
    time.sleep(0.4)
    process.send_signal(signal.SIGTERM)
    if twice:
        time.sleep(0.1)
        # The same again: of two that wait, Python takes the smaller number first.
        process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 143
    assert "Traceback" not in err
    assert twice or not list(tmp_path.glob("outputs/*/*/*"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_at_any_moment_ends_with_its_status(number: signal.Signals, tmp_path: Path) -> None:
    """From the first import to the middle of the training: 20 moments."""
    for step in range(20):
        process = anew(tmp_path, *ENDLESS, f"hydra.run.dir=run-{step}")
        time.sleep(0.5 + 0.22 * step)  # before, Python itself starts
        process.send_signal(number)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 128 + number, (step, err)
        assert "Traceback" not in err, (step, err)
        directory = tmp_path / f"run-{step}"
        if (directory / "result.json").exists():
            assert result(directory)["status"] == "interrupted"
            assert err.splitlines()[-1].endswith(f"train.py resume={directory}"), (step, err)


# Slurm


SCONTROL = """#!/bin/sh
echo "$@" >> scontrol.txt
[ ! -e refused ] || { echo "Job is not requeueable" >&2; exit 1; }
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which commands run as a job of Slurm's, whose scontrol writes to a file."""
    (tmp_path / "scontrol").write_text(SCONTROL)
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    return tmp_path


def stopped_by_slurm(folder: Path, *arguments: str) -> tuple[int | None, str]:
    """Exit status and stderr of a run that gets SIGUSR1 once it has logged an epoch."""
    process = start(folder, *arguments)
    wait_for("outputs/*/*/metrics.csv", folder, process)
    process.send_signal(signal.SIGUSR1)
    _, err = process.communicate(timeout=300)
    return process.returncode, err


@pytest.mark.slow
def test_requeued_job_resumes_its_run(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*ENDLESS, "logger=tensorboard", "logger.tensorboard.name=a b"]
    status, err = stopped_by_slurm(slurm, *words)
    (directory,) = slurm.glob("outputs/*/*/")
    assert (status, result(directory)["status"]) == (138, "interrupted"), err
    assert "Requeued job 123, which will resume it." in err
    again = f"train.py resume={directory} 'logger.tensorboard.name=a b'"
    assert err.splitlines()[-1].endswith(again), err
    assert (slurm / "scontrol.txt").read_text() == "requeue 123\n"
    before = (directory / "metrics.csv").read_text()

    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    process = start(slurm, *words)
    wait_for(f"{directory.relative_to(slurm)}/environment-1.json", slurm, process)
    time.sleep(1)
    process.terminate()
    _, err = process.communicate(timeout=300)
    assert process.returncode == 143, err
    assert list(slurm.glob("outputs/*/*/")) == [directory]
    after = (directory / "metrics.csv").read_text()
    assert after.startswith(before)
    assert len(after) > len(before)

    other = run(slurm, *SMOKE)  # another line of the same job is another run
    assert other[0] == 0
    assert len(list(slurm.glob("outputs/*/*/"))) == 2


def test_job_that_slurm_does_not_requeue_says_so(slurm: Path) -> None:
    (slurm / "refused").touch()
    status, err = stopped_by_slurm(slurm, *ENDLESS)
    assert status == 138
    assert "scontrol requeue 123 failed: Job is not requeueable" in err
    assert "train.py resume=" in err.splitlines()[-1]


def test_refused_start_leaves_what_was_there(train_py: Cli, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "server.log").write_text("mine")
    for argument, status in (("optimizer.lr=-1", 2), ("check=only", 0)):
        assert train_py(*SMOKE, argument, "hydra.run.dir=mine") == status
        assert [path.name for path in mine.iterdir()] == ["server.log"]
    (mine / "train.log").write_text("mine, too")
    assert "already holds a run" in train_py.refuse(*SMOKE, "optimizer.lr=-1", "hydra.run.dir=mine")
    assert (mine / "train.log").read_text() == "mine, too"


# Secrets


LOGIN = ["loss._target_=hydra_plugins.losses.Login", "+loss.key=${oc.env:MINE}"]
SECRET = 'p4ssw0rd-"é"-of-the\n cluster//' + "and more of it, " * 8


def spoils(place: Path, output: str) -> list[str]:
    """Where a secret stands, in any spelling that a file may give it."""
    spellings = [SECRET.partition("-")[0], "and more of it"]
    found = [
        str(path)
        for path in place.rglob("*")
        if path.is_file() and any(word.encode() in path.read_bytes() for word in spellings)
    ]
    return found + [output for word in spellings if word in output]


@pytest.mark.parametrize(
    ("overrides", "status", "message"),
    [
        ([*LOGIN, "+logger.tensorboard.comment=${oc.env:MINE}"], 0, ""),
        ([*LOGIN, "+loss.fails=true"], 1, "${oc.env:MINE} is not accepted"),
        ([*LOGIN[:1], "+loss.fails=true"], 1, "${oc.env:MY_TOKEN} is not accepted"),
        (["+model.key=${oc.env:MINE}", "optimizer.lr=${oc.env:MINE}"], 2, "lr=${oc.env:MINE}: m"),
        (["-m", "optimizer.lr=${oc.env:MINE}"], 1, "optimizer.lr=${oc.env:MINE}: must be"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_secrets_of_the_environment_are_written_nowhere(
    overrides: list[str], status: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_losses(tmp_path)
    monkeypatch.setenv("MY_TOKEN" if "${oc.env:MY_TOKEN}" in message else "MINE", SECRET)
    ended, out, err = run(tmp_path, *overrides, *SMOKE, "logger=tensorboard", "+callbacks.a=null")
    assert ended == status, err
    assert message in out + err
    assert not spoils(tmp_path, out + err)
    if "+loss.fails=true" in overrides:  # inside the training
        assert f"PermissionError: {message}" in err
        assert "losses.py" in err  # where
        values = result(next(tmp_path.glob("outputs/*/*")))
        assert values["status"] == "failed"
        assert values["error"] == {"type": "PermissionError", "message": message}


# Failures


def test_diverging_run_exits_with_1_and_says_where(train_py: Cli, tmp_path: Path) -> None:
    broken = ["optimizer.lr=1e30", "hydra.run.dir=run", "callbacks.progress_bar=null"]
    assert train_py(*SMALL, *broken) == 1
    err = train_py.err
    message = r"the (validation )?loss became (nan|inf) .* of epoch 1, at learning rate 1e\+30; try"
    assert re.search(rf"^Failed: {message} a smaller optimizer.lr", err, re.MULTILINE)
    assert "Traceback" not in err
    values = result(tmp_path / "run")
    assert (values["status"], values["error"]["type"]) == ("failed", "NonFiniteLossError")
    assert re.search(message, values["error"]["message"])


class Breaks(nn.MSELoss):
    """Is multiplied by `value` in the training step `at`, counted from 1."""

    def __init__(self, *, at: int, value: float) -> None:
        super().__init__()
        self.at, self.value, self.count = at, value, 0

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = super().forward(outputs, targets)
        if torch.is_grad_enabled():
            self.count += 1
        return loss * self.value if self.count == self.at and torch.is_grad_enabled() else loss


NAN, INF = float("nan"), float("inf")


STEPS = "+callbacks.last.every_n_train_steps=1 callbacks.last.save_on_train_epoch_end=false"


@pytest.mark.parametrize(
    ("value", "settings", "epochs"),
    [
        (NAN, "data.val_fraction=0.1 callbacks.last.min_seconds=0", (1, 2)),
        (INF, f"data.val_fraction=0 callbacks.last.min_seconds=0 {STEPS}", (1, 2)),
        (NAN, "data.val_fraction=0 callbacks.last.min_seconds=1", (0, 1, 2)),
        (NAN, f"data.val_fraction=0.1 callbacks.last.min_seconds=1 {STEPS}", (0, 1, 2)),
    ],
)
def test_non_finite_loss_spares_the_checkpoints(
    value: float, settings: str, epochs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = Path(__file__).stem
    monkeypatch.setattr(allow, "FAMILIES", [*allow.FAMILIES, (name, "torch.nn.Module")])
    overrides = [*SMALL, f"loss._target_={name}.Breaks", "+loss.at=12", f"+loss.value={value}"]
    overrides += ["data.batch_size=16", "optimizer.lr=0.01", *settings.split()]
    # 5 batches an epoch, so step 12 is the second of the third epoch.
    with pytest.raises(NonFiniteLossError) as stopped:
        train(composed(overrides), tmp_path)
    assert str(stopped.value) == (
        f"the loss became {value} in batch 2 of epoch 3, at learning rate 0.01; try a smaller "
        "optimizer.lr, or trainer.gradient_clip_val=1."
    )
    values = result(tmp_path)
    assert (values["status"], values["error"]["message"]) == ("failed", str(stopped.value))
    for file in ("best", "last"):
        assert assert_finite(tmp_path / "checkpoints" / f"{file}.ckpt") in epochs
    assert epochs_of(tmp_path) == [1, 2]


def test_weights_that_break_in_the_last_step_are_not_kept(tmp_path: Path) -> None:
    overrides = ["data.val_fraction=0", "data.batch_size=full", "optimizer.lr=1e38"]
    overrides += ["optimizer.weight_decay=10", "trainer.max_epochs=3"]
    with pytest.raises(NonFiniteLossError, match=r"(weights|loss) became"):
        train(composed([*SMALL, *overrides]), tmp_path)
    for path in (tmp_path / "checkpoints").glob("*.ckpt"):
        assert_finite(path)


# Imports


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"]])
def test_help_does_without_torch(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", ROOT / "train.py", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "optimizer" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert ("hydra" in imported) is (arguments != ["--help"])
    assert not imported & {"torch", "lightning", "numpy", "pandas", "sklearn", "matplotlib"}
    assert not list(tmp_path.iterdir())


def test_flag_whose_help_is_no_text_yet_is_let_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(self: ArgumentParser, action: Action) -> None:  # as Python 3.14 has it
        raise ValueError("badly formed help string")

    monkeypatch.setattr(ArgumentParser, "_check_help", check, raising=False)
    allow_lazy_help()
    see = ArgumentParser._check_help  # type: ignore[attr-defined]
    assert see(ArgumentParser(), Namespace(help=object())) is None
