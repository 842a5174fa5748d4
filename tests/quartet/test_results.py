"""Runs as a table: what is read, how seeds are gathered, how settings are ranked."""

import json
import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from made_runs import made_run
from scipy import stats

from quartet.records.sweep import Table
from quartet.reports.page import summary
from quartet.reports.results import cautions, find, gather, rank, read, read_history


def sweep(folder: Path, values: dict[str, list[float]], **more: object) -> Path:
    """A run for each value of each optimizer, the seeds counted from 0."""
    number = 0
    for name, bests in values.items():
        for seed, best in enumerate(bests):
            made_run(folder / str(number), [f"optimizer={name}", f"seed={seed}"], best, **more)  # type: ignore[arg-type]
            number += 1
    return folder


def test_seeds_are_gathered_to_mean_deviation_and_students_interval(tmp_path: Path) -> None:
    values = [0.31, 0.35, 0.42, 0.29]
    results = read([sweep(tmp_path, {"sgd": values, "adam": [0.9]})])
    assert results.knobs == ["optimizer"]
    table = gather(results.jobs, results.knobs)
    row = table.loc["sgd"]
    assert row["mean"] == pytest.approx(np.mean(values))
    assert row["sd"] == pytest.approx(np.std(values, ddof=1))
    interval = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (row["low"], row["high"]) == pytest.approx(interval)
    assert (row["n"], row["of"]) == (4, 4)
    alone = table.loc["adam"]
    assert alone["n"] == 1
    assert alone[["sd", "low", "high"]].isna().all()


@pytest.mark.parametrize(("mode", "order"), [("min", ["b", "a", "c"]), ("max", ["c", "a", "b"])])
def test_ranking_is_by_the_mean_as_monitored(tmp_path: Path, mode: str, order: list[str]) -> None:
    values = {"a": [0.5, 0.7], "b": [0.1, 0.9], "c": [0.8, 0.9]}
    results = read([sweep(tmp_path, values, mode=mode, metric="val/score", accuracy=0.25)])
    table = rank(results, "val/score")
    assert list(table["optimizer"]) == order
    assert list(table["test/accuracy"]) == [0.25] * 3
    best = {"min": "2", "max": "5"}[mode]  # the better seed of the best setting
    assert results.jobs.loc[table["winner"].iloc[0], "job"] == best


def test_a_nan_is_never_the_winner(tmp_path: Path) -> None:
    values = {"a": [math.nan, math.nan], "b": [0.9, math.nan]}
    results = read([sweep(tmp_path, values)])
    table = rank(results, "val/loss")
    assert list(table["optimizer"]) == ["b", "a"]
    assert table["mean"].iloc[0] == 0.9
    assert list(table["n"]) == [1, 0]
    assert math.isnan(table["winner"].iloc[1])
    assert cautions(results.jobs, "val/loss") == [
        "3 of the 4 finished jobs never had a number as val/loss, and no mean counts them; metrics.csv "
        "shows since when."
    ]


def test_jobs_that_did_not_finish_are_listed_and_not_ranked(tmp_path: Path) -> None:
    error = {"type": "Refusal", "message": "lr must be positive, got -1."}
    made_run(tmp_path / "0", ["optimizer=sgd", "seed=0"], 0.5)
    made_run(tmp_path / "1", ["optimizer=sgd", "seed=1"], status="failed", error=error)
    made_run(tmp_path / "2", ["optimizer=adam", "seed=0"], status="refused", error=error, epochs=0)
    made_run(tmp_path / "3", ["optimizer=adam", "seed=1"], status=None, epochs=2)
    with (tmp_path / "3" / "metrics.csv").open("a") as file:
        file.write("3,11")  # half a line: it is being written
    results = read([tmp_path])
    assert list(results.jobs["status"]) == ["finished", "failed", "refused", "unfinished"]
    assert list(results.jobs["epochs"]) == [3, 3, 0, 2]
    assert results.jobs["reason"].iloc[1] == "Refusal: lr must be positive, got -1."
    made_run(tmp_path / "4", ["optimizer=sgd", "seed=2"], status=None)
    table = rank(read([tmp_path]), "val/loss")
    assert list(table["optimizer"]) == ["sgd"]
    assert (table["n"].iloc[0], table["of"].iloc[0]) == (1, 3)


def test_the_effect_of_a_knob_is_over_all_values_of_the_others(tmp_path: Path) -> None:
    for number in range(8):
        a, b, seed = number // 4, number // 2 % 2, number % 2
        made_run(tmp_path / str(number), [f"a={a}", f"b={b}", f"seed={seed}"], 10.0 * a + b + seed)
    results = read([tmp_path])
    alone = gather(results.jobs, ["a"])
    assert list(alone["mean"]) == [1.0, 11.0]
    assert alone["sd"].iloc[0] == pytest.approx(np.std([0, 1, 1, 2], ddof=1))
    both = gather(results.jobs, ["a", "b"])["mean"].unstack()
    assert both.to_numpy().tolist() == [[0.5, 1.5], [10.5, 11.5]]


def test_a_directory_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no run; name a sweep"):
        read([tmp_path])
    with pytest.raises(FileNotFoundError, match=r"nowhere is no directory; name a sweep"):
        read([tmp_path / "nowhere"])


def test_commands_leave_out_how_the_sweep_was_run_and_are_quoted(tmp_path: Path) -> None:
    given = ["optimizer=sgd", "launcher=local", "sweep=tpe", "+sweep.trials=9"]
    made_run(tmp_path / "0", [*given, "model.hidden=[1,2]"])
    command = read([tmp_path]).jobs["command"].iloc[0]
    assert command == "python train.py optimizer=sgd 'model.hidden=[1,2]'"
    assert shlex.split(command)[2:] == ["optimizer=sgd", "model.hidden=[1,2]"]


def test_a_value_that_was_not_given_is_looked_up(tmp_path: Path) -> None:
    for folder, word, name in (("a", "optimizer.lr=0.5", "adam"), ("b", "optimizer=sgd", "sgd")):
        run = made_run(tmp_path / folder, [word], config={"optimizer": {"lr": 0.25}})
        choices = {"hydra": {"runtime": {"choices": {"optimizer": name}}}}
        (run / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(choices))
    results = read([tmp_path / "a", tmp_path / "b"])
    assert list(results.jobs["optimizer.lr"]) == [0.5, 0.25]
    assert list(results.jobs["optimizer"]) == ["adam", "sgd"]
    assert sorted(results.knobs) == ["optimizer", "optimizer.lr"]


def test_a_run_resumed_for_longer_is_a_setting_of_its_own(tmp_path: Path) -> None:
    for seed in range(3):
        run = made_run(tmp_path / str(seed), ["trainer.max_epochs=3", f"seed={seed}"], 0.1 + seed)
        starts = [(run / ".hydra", 3, None), (run / ".hydra/resume-1", 3, None)]
        starts += [(run / ".hydra/resume-2", 20, {"hours": 1})] if seed == 0 else []
        for folder, epochs, time in starts:
            folder.mkdir(exist_ok=True)
            config = {"trainer": {"max_epochs": epochs, "max_time": time}}
            (folder / "config.yaml").write_text(yaml.safe_dump(config))
    results = read([tmp_path])
    assert results.knobs == ["trainer.max_epochs", "trainer.max_time"]
    assert list(results.jobs["trainer.max_epochs"]) == [20, 3, 3]
    assert rank(results, "val/loss")["mean"].tolist() == pytest.approx([0.1, 1.6])
    assert results.jobs["command"].tolist() == [
        "python train.py seed=0 trainer.max_epochs=20 'trainer.max_time={hours: 1}'",
        "python train.py trainer.max_epochs=3 seed=1",
        "python train.py trainer.max_epochs=3 seed=2",
    ]


def test_a_knob_that_some_jobs_do_not_have_keeps_their_rows(tmp_path: Path) -> None:
    made_run(tmp_path / "0", ["optimizer=sgd", "optimizer.momentum=0.9"], 0.3)
    made_run(tmp_path / "1", ["optimizer=adam"], 0.2)
    table = rank(read([tmp_path]), "val/loss")
    assert list(table["mean"]) == [0.2, 0.3]
    assert table["winner"].tolist() == [1, 0]


def test_one_job_ranks_alone_and_a_knob_named_like_a_column_keeps_its_own(tmp_path: Path) -> None:
    for number in range(2):
        made_run(tmp_path / str(number), [f"epochs={number}"])
    alone = read([tmp_path / "0"])
    assert alone.knobs == []
    assert rank(alone, "val/loss")["mean"].tolist() == [0.5]
    assert list(alone.jobs["seed"]) == [0]
    results = read([tmp_path])
    assert results.knobs == ["override epochs"]
    assert list(results.jobs["epochs"]) == [3, 3]


def test_different_monitors_are_kept_apart(tmp_path: Path) -> None:
    made_run(tmp_path / "0", ["monitor.metric=val/loss"], 0.1)
    made_run(tmp_path / "1", ["monitor.metric=val/f1"], 0.9, metric="val/f1", mode="max")
    made_run(tmp_path / "2", ["monitor.metric=null"], None, metric=None)
    parts = {metric: (mode, len(jobs)) for metric, mode, jobs in read([tmp_path]).by_monitor()}
    assert parts == {"val/loss": ("min", 1), "val/f1": ("max", 1)}


MODEL_LOSS = {"loss": {"_target_": None}, "metrics": {}}
LOSS = {"loss": {"_target_": "project.loss.Focal"}, "metrics": {"accuracy": {}, "f1": {}}}


@pytest.mark.parametrize(
    ("knob", "metric", "config", "said"),
    [
        ("loss", "val/loss", None, "loss differs between these jobs, so val/loss may not mean the"),
        ("loss.gamma", "val/loss", LOSS, "loss.gamma differs"),
        ("loss.gamma", "val/kl", LOSS, "loss.gamma differs"),
        ("module.weight", "val/loss", LOSS, "module.weight differs"),
        ("data.standardize_targets", "val/loss", LOSS, "data.standardize_targets differs"),
        ("model.beta", "val/loss", MODEL_LOSS, "model.beta differs"),
        ("model", "train/loss", MODEL_LOSS, "model differs between these jobs, so train/loss may"),
        ("metrics.f1.average", "val/f1_cat", LOSS, "metrics.f1.average differs"),
        ("data", "val/f1", LOSS, "data differs between these jobs: val/f1 on one data set"),
        ("loss", "val/f1", None, ""),
        ("loss", "val/f1_cat", LOSS, ""),
        ("model.beta", "val/loss", LOSS, ""),
        ("model.beta", "val/accuracy", MODEL_LOSS | {"metrics": {"accuracy": {}}}, ""),
        ("metrics.f1.average", "val/accuracy", LOSS, ""),
        ("data.batch_size", "val/loss", MODEL_LOSS, ""),
        ("optimizer.lr", "val/loss", MODEL_LOSS, ""),
        ("module.optimizer.lr", "val/loss", MODEL_LOSS, ""),
        ("module.critic_scheduler.gamma", "val/loss", MODEL_LOSS, ""),
        ("trainer.max_epochs", "val/loss", MODEL_LOSS, ""),
    ],
)
def test_what_cannot_be_compared_is_said(
    tmp_path: Path, knob: str, metric: str, config: dict[str, Any] | None, said: str
) -> None:
    for number in range(2):
        run = made_run(tmp_path / str(number), [f"{knob}={number}"], metric=metric, config=config)
    found = cautions(read([tmp_path]).jobs, metric)
    assert len(found) == (1 if said else 0)
    assert all(said in each for each in found)
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"status": "refused"}))
    assert cautions(read([tmp_path]).jobs, metric) == []  # there is one to rank


@pytest.mark.parametrize(
    ("files", "paths", "said"),
    [
        (["a", "a", "b"], ["u", "u", "u"], True),
        ([None, "a", "b"], ["u", "u", "u"], True),
        ([None, "a", None], ["u", "u", "u"], False),  # some are of an older version
        (["a", "a", "b"], ["u", "u", "v"], False),  # of which another caution speaks
    ],
)
def test_files_of_the_data_that_have_changed_are_told(
    tmp_path: Path, files: list[str | None], paths: list[str], said: bool
) -> None:
    for seed, (file, path) in enumerate(zip(files, paths, strict=True)):
        given = ["data=csv", f"data.path={path}", f"seed={seed}"]
        made_run(tmp_path / str(seed), given, more={"data_files": file})
    results = read([tmp_path])
    found = "files of the data have changed between these jobs, so val/loss is not of the same"
    assert (found in summary(results)) == said


def test_jobs_of_a_setting_that_share_a_fold_or_seed_are_told(tmp_path: Path) -> None:
    for number in range(12):
        lr, fold, seed = number // 6, number % 3, number // 3 % 2
        given = [f"optimizer.lr={lr}", f"data.fold={fold}", f"seed={seed}"]
        for name in ("crossed", "apart")[: 1 + (lr == seed)]:  # apart: a seed of its own for each
            made_run(tmp_path / name / str(number), given, 0.5 + number)
    words = summary(read([tmp_path / "crossed"]))
    assert "a setting has 2 values of seed and 3 values of data.fold: jobs that share one" in words
    assert " jobs\n" in words
    assert "Caution" not in summary(read([tmp_path / "apart"]))


@pytest.mark.parametrize(
    ("logged", "config", "said"),
    [
        (["val/kl", "val/f1"], LOSS, "compare one that does, such as monitor.metric=val/f1."),
        (["val/kl", "test/f1"], LOSS, "compare one that does, such as monitor.metric=val/kl."),
        (["train_loss", "val_acc"], LOSS, "compare one that does, such as monitor.metric=val_acc."),
        (["train/loss"], MODEL_LOSS, "they log no other value to compare; log one that means"),
    ],
)
def test_caution_names_values_that_the_runs_have(
    tmp_path: Path, logged: list[str], config: dict[str, Any], said: str
) -> None:
    for number in range(2):
        figures = {"metrics": {"val/loss": 0.5, **dict.fromkeys(logged, 0.5)}}
        made_run(tmp_path / str(number), [f"loss={number}"], config=config, more=figures)
    (caution,) = cautions(read([tmp_path]).jobs, "val/loss")
    assert said in caution


BOMB = "a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("result.json", b""),
        ("result.json", b"[]"),
        ("result.json", b'{"monitor": {}}'),
        ("result.json", b'{"status": "finished", "monitor": "val/loss"}'),
        ("result.json", b'{"status": "finished", "monitor": {"best": "0.1"}}'),
        ("result.json", b'{"status": "finished", "metrics": {"val/loss": {}}}'),
        ("result.json", b'{"status": "finished", "data_files": []}'),
        ("result.json", b"[" * 100_000),
        (".hydra/overrides.yaml", b"a: b"),
        (".hydra/overrides.yaml", b"[1, [a]]"),
        (".hydra/overrides.yaml", b"\xff"),
        (".hydra/overrides.yaml", BOMB.encode()),
        (".hydra/config.yaml", b"a: [b"),
        (".hydra/config.yaml", BOMB.encode()),
        (".hydra/hydra.yaml", b"? [a]\n: b"),
    ],
)
def test_damaged_run_is_named_and_left_out(tmp_path: Path, file: str, content: bytes) -> None:
    config = {"optimizer": {"lr": 1}}
    made_run(tmp_path / "0", ["optimizer=adam", "seed=1"], 0.1, config=config)
    (tmp_path / "0" / file).write_bytes(content)
    made_run(tmp_path / "1", ["optimizer=sgd", "optimizer.lr=0.1", "seed=1"], 0.5)
    results = read([tmp_path])
    assert list(results.jobs["status"]) == ["damaged", "finished"]
    assert str(tmp_path / "0" / file) in results.jobs["reason"][0]
    assert rank(results, "val/loss")["mean"].dropna().tolist() == [0.5]
    assert f"Left out: {tmp_path / '0' / file}: " in summary(results)


@pytest.mark.parametrize("content", ["", "a,b\nx,y\n", "epoch,val/loss\nx,1\n1.5,2\n1,y\n\0,3\n"])
def test_damaged_metrics_are_no_history(tmp_path: Path, content: str) -> None:
    (made_run(tmp_path / "0") / "metrics.csv").write_text(content)
    history = read_history(tmp_path / "0")
    assert "val/loss" not in history or history["val/loss"].isna().all()
    results = read([tmp_path])
    assert results.jobs["status"][0] == "finished"
    assert results.jobs["epochs"][0] == int("1,y" in content)


def test_history_is_a_value_an_epoch_whatever_shares_its_rows(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "epoch,step,train/loss,val/loss\n1,4,3.5,\n1,9,,2.5\n2,14,3.0,\n2,19,,2.0\n3,2"
    )
    history = read_history(tmp_path)
    assert history["val/loss"].to_dict() == {1: 2.5, 2: 2.0}
    assert history["train/loss"].to_dict() == {1: 3.5, 2: 3.0}
    assert read_history(tmp_path / "nowhere").empty


def test_runs_are_relative_to_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_run(tmp_path / "sweep" / "0")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evaluate.py").touch()
    assert list(read(["sweep"]).jobs["directory"]) == [str(Path("sweep", "0"))]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert list(read([tmp_path / "sweep"]).jobs["directory"]) == [str(tmp_path / "sweep" / "0")]


def test_runs_are_found_in_order_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(tmp_path)
    for _ in range(12):
        (table.add([], "").directory / ".hydra").mkdir(parents=True)
    table.jobs[1].retried_as = 2
    table.write()
    expected = [str(number) for number in range(12) if number != 1]
    monkeypatch.chdir(tmp_path)
    assert [run.name for run in find([tmp_path, "3"])] == expected
    assert [run.name for run in find([tmp_path / "1"])] == ["1"]  # unless it is named
