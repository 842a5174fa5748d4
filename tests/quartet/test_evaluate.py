"""Runs scored again, from the command line and from Python."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made import composed
from made_runs import made_run
from processes import Cli

from quartet.inference.evaluate import evaluate
from quartet.records.sweep import Job, Table
from quartet.run import train
from quartet.sweeps.directory import find_run, find_winner


@pytest.fixture
def rescore(command: Cli) -> Cli:
    """Runs evaluate.py in this process and returns its exit status."""
    return command.with_words("evaluate.py")


def table(path: Path, seed: int, columns: str = "abc") -> None:
    random = np.random.default_rng(seed)
    numbers = random.standard_normal((150, len(columns)))
    frame = pd.DataFrame(numbers, columns=list(columns))
    frame["kind"] = np.where(numbers[:, 0] + numbers[:, 1] > 0, "up", "down")
    frame.to_csv(path, index=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a table of the user's own."""
    folder = tmp_path_factory.mktemp("trained")
    table(folder / "table.csv", 0)
    words = ["data=csv", f"data.path={folder}/table.csv", "data.target=kind"]
    train(composed([*words, "trainer.max_epochs=3"]), folder / "run")
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """The same, to write into."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def written(run: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((run / f"evaluation-{name}.json").read_text()))


@pytest.mark.parametrize(
    "overrides",
    [
        "data=digits",
        "data=breast_cancer optimizer=lbfgs trainer.max_epochs=2",
        "data=diabetes",
        "data=ranking data.queries=40",
        "data=wine trainer.precision=bf16-mixed monitor.metric=val/f1",
    ],
)
@pytest.mark.filterwarnings("ignore:.*bf16.*:UserWarning")
def test_figures_are_those_of_training_to_the_last_digit(overrides: str, tmp_path: Path) -> None:
    cfg = composed(["trainer.max_epochs=3", "trainer.accelerator=cpu", *overrides.split()])
    figures = train(cfg, tmp_path)["metrics"]
    for split in ("test", "val"):
        again = evaluate(cfg, tmp_path, split=split)
        found = {name: value for name, value in figures.items() if name.startswith(f"{split}/")}
        assert found
        assert again == found == written(tmp_path, split)["metrics"]


def test_other_checkpoints_and_other_data_are_scored(
    run: Path, rescore: Cli, tmp_path: Path
) -> None:
    # Of validation, the figures of the last epoch are on record.
    rows = pd.read_csv(run / "metrics.csv")
    last = {name: rows[name].iloc[-1] for name in rows if name.startswith("val/")}
    assert rescore(f"run={run}", "split=val", "checkpoint=last") == 0
    assert written(run, "val")["metrics"] == last
    assert rescore(f"run={run}", "split=val", f"checkpoint={run}/checkpoints/last.ckpt") == 0
    assert written(run, "val-1") == written(run, "val")
    table(tmp_path / "other.csv", 1)
    assert rescore(f"run={run}", f"data.path={tmp_path}/other.csv") == 0
    assert rescore(f"run={run}", "data=csv", f"data.path={tmp_path}/other.csv") == 0
    assert rescore(f"run={run}", "trainer=cpu") == 0
    own = json.loads((run / "result.json").read_text())["metrics"]
    assert written(run, "test")["metrics"] == written(run, "test-1")["metrics"]
    assert written(run, "test")["metrics"]["test/loss"] != own["test/loss"]
    assert written(run, "test-2")["metrics"]["test/loss"] == own["test/loss"]
    assert written(run, "test")["overrides"] == [f"data.path={tmp_path}/other.csv"]
    assert "trainer.accelerator=cpu" in written(run, "test-2")["overrides"]


def test_samples_that_were_trained_on_are_not_scored(
    tmp_path: Path, command: Cli, caplog: pytest.LogCaptureFixture
) -> None:
    train(composed(["data=linear", "trainer.max_epochs=1"]), tmp_path / "r")
    for setting in ("split_seed=5", "test_fraction=0.3", "val_fraction=0.3", "folds=3"):
        for script in ("evaluate.py", "predict.py"):
            assert command(script, "run=r", f"data.{setting}") == 2
            message = "is not what the run was trained with, and samples to score would be some"
            assert f"data.{setting}: {message}" in command.err
    assert command("evaluate.py", "run=r", "seed=2", "data.num_workers=1") == 0
    assert "Caution" not in caplog.text
    assert command("evaluate.py", "run=r", "data.seed=3") == 0
    assert "Caution: which samples were trained on is not known with data.seed=3." in caplog.text
    found = [written(tmp_path / "r", name)["overrides"] for name in ("test", "test-1")]
    assert found == [["seed=2", "data.num_workers=1"], ["data.seed=3"]]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("data=digits", "was trained with data=csv; leave it out. Other data"),
        ("model=linear", "model=linear: the run in "),
        ("data.path=narrow.csv", "narrow.csv has no column 'c'; there are a, b, kind"),
        ("optimizer.lr=3", "optimizer.lr=3: is a setting of the training; leave it out, or train"),
        ("loss.gamma=1 check=only", "check=only: is a setting of the training"),
        ("+critic_scheduler.T=1", "critic_scheduler.T=1: is a setting of the training"),
        ("split=train", "split=train: must be one of test, val."),
        ("checkpoint=first", "checkpoint=first: first is missing; name best, last or a file."),
        ("data.target=kin", "data.target=kin: is a setting of the training; leave it out"),
        ("data.drop=[a]", "data.drop=[a]: is a setting of the training; leave it out"),
        ("data.missing=mean", "data.missing=mean: is a setting of the training; leave it out"),
    ],
)
def test_what_does_not_fit_is_refused(
    overrides: str, message: str, run: Path, rescore: Cli, tmp_path: Path
) -> None:
    table(tmp_path / "narrow.csv", 1, "ab")
    before = sorted(run.rglob("*"))
    assert message in rescore.refuse(f"run={run}", *overrides.split())
    assert sorted(run.rglob("*")) == before


# The winner of a sweep


def swept(folder: Path, *values: float | None, **kwargs: Any) -> Path:
    """A sweep of two optimizers, two seeds each."""
    settings = [("sgd", 0), ("sgd", 1), ("adam", 0), ("adam", 1)]
    overrides = [[f"optimizer={name}", f"seed={seed}"] for name, seed in settings]
    found = {str(n): {"overrides": each, "conf": ""} for n, each in enumerate(overrides)}
    folder.mkdir()
    (folder / "sweep.json").write_text(json.dumps({"command": [], "jobs": found}))
    for number, value in enumerate(values):
        status = "failed" if value is None else "finished"
        made_run(folder / str(number), overrides[number], value, status=status, **kwargs)
    return folder


def test_the_best_job_of_the_best_setting_wins(tmp_path: Path) -> None:
    # Of adam's mean 0.3 and sgd's 0.4, though the best single job is sgd's.
    sweep = swept(tmp_path / "s", 0.1, 0.7, 0.35, 0.25)
    found, message = find_winner(sweep)
    assert found == sweep / "3"
    words = "by val/loss (min) is job 3, 0.25: optimizer=adam, seed=1"
    assert message == f"The winner of {sweep} {words}"
    sweep = swept(tmp_path / "t", 0.1, 0.7, 0.35, None, metric="val/f1", mode="max")
    assert find_winner(sweep)[0] == sweep / "1"


def test_a_sweep_without_a_winner_is_refused(tmp_path: Path) -> None:
    for sweep in (swept(tmp_path / "s", None, None), swept(tmp_path / "t", 0.1, metric=None)):
        with pytest.raises(ValueError, match="is a sweep without a finished job"):
            find_winner(sweep)


def test_damaged_sweep_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = swept(tmp_path / "s", 0.5)
    (sweep / "0" / "result.json").write_text('{"metrics": []}')
    with pytest.raises(ValueError, match="is a sweep without a finished job"):
        find_winner(sweep)
    # A directory that the table does not know, and whose name Hydra would read as settings.
    sweep = swept(tmp_path / "t", 0.5)
    made_run(sweep / "0', hydra.mode='MULTIRUN", [], 0.1)
    with pytest.raises(ValueError, match="is none of its jobs"):
        find_winner(sweep)
    (sweep / "sweep.json").write_text("[]")
    with pytest.raises(SystemExit, match="2"):
        find_run(sweep)
    told = capsys.readouterr().err
    assert f"run={sweep} is a sweep that cannot be ranked: " in told
    assert "is no table of a sweep's jobs" in told


def test_a_sweep_is_evaluated_as_its_winner(tmp_path: Path, rescore: Cli) -> None:
    for number, rate in enumerate(("1e-6", "0.01")):
        overrides = [f"optimizer.lr={rate}", "trainer.max_epochs=2", "data=wine"]
        train(composed(overrides), tmp_path / "s" / str(number))
    table = Table(tmp_path / "s")
    table.jobs = {n: Job(tmp_path / "s" / str(n), [], "") for n in range(2)}
    table.write()
    assert "The winner of s by val/loss (min) is job 1, " in rescore.ask("run=s", "split=test")
    figures = json.loads((tmp_path / "s/1/result.json").read_text())["metrics"]
    for name, value in written(tmp_path / "s" / "1", "test")["metrics"].items():
        assert value == figures[name]
