"""Searches: what is drawn, how a killed one continues, the ranges of the shipped options."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from made import assert_refused, composed
from omegaconf import OmegaConf
from processes import SMALL, Cli, start, wait_for

from quartet.build import build
from quartet.config.overrides import check_range
from quartet.core.files import CONF
from quartet.core.problems import ConfigError, Problem
from quartet.records import run_directory as record
from quartet.records.sweep import Job, Table
from quartet.sweeps import search as searching
from quartet.sweeps.search import checked_ranges

optuna = pytest.importorskip("optuna")

pytestmark = pytest.mark.usefixtures("quiet")
LR = "optimizer.lr=tag(log,interval(1e-4,1.0))"
BOWL = ["optimizer=sgd", LR, "hydra.sweep.dir=s"]


@pytest.fixture
def real_search(train_py: Cli) -> Cli:
    """Runs a search in this process."""
    return train_py.with_words("-m", "sweep=optuna")


@pytest.fixture
def search(real_search: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a search whose jobs only have a value: best at sgd's lr of 0.01."""

    def train_job(sweeper: Any, job: Job) -> None:
        given = dict(each.split("=", 1) for each in job.overrides)
        lr, seed = float(given.get("optimizer.lr", 0.002)), given.get("seed")
        value = float("nan") if seed == "14" else (lr - 0.01) ** 2
        values = record.initial_result() | {"status": "finished"}
        values["monitor"] |= {"metric": "val/loss", "mode": "min", "best": value, "epoch": 1}
        values["metrics"] = {"val/loss": value, "test/size": lr}
        values["seconds"] = {"fit": 1 / lr, "total": None}
        if seed == "13" and lr > 0.01:
            error = ConfigError(Problem("seed", "is refused here.", 13))
            values |= record.failure("refused", error)
        record.write_result(job.directory, values)

    monkeypatch.setattr("quartet.sweeps.grid.train_job", train_job)
    return real_search


def drawn(directory: str) -> list[list[str]]:
    return [job.overrides for job in Table(directory).current]


def study(directory: str) -> "optuna.Study":
    from quartet.records.sweep import make_storage

    return optuna.load_study(study_name="search", storage=make_storage(None, Path(directory)))


def learning_rates(directory: str) -> list[float]:
    return [trial.params["optimizer.lr"] for trial in study(directory).trials]


def states(directory: str) -> list[str]:
    return [trial.state.name for trial in study(directory).trials]


# What is asked for


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("random", "qmc", "nsgaii")]


@pytest.mark.parametrize("sampler", ["tpe", *OTHERS])
def test_resumed_search_asks_what_an_uninterrupted_one_does(sampler: str, search: Cli) -> None:
    command = ("optimizer=sgd", LR, "model.dropout=interval(0.0,0.5)", f"sweep.sampler={sampler}")
    out = search.ask(*command, "sweep.n_trials=13", "hydra.sweep.dir=whole")
    best = study("whole").best_trial
    assert best.value == min((lr - 0.01) ** 2 for lr in learning_rates("whole"))
    assert f"best: job {best.number}, val/loss {best.value:.4g}" in out
    assert "13 of 13 jobs finished: whole" in out
    for total in (5, 12, 13):
        assert search(*command, f"sweep.n_trials={total}", "hydra.sweep.dir=parts") == 0
        assert len(drawn("parts")) == total
    assert drawn("parts") == drawn("whole")
    assert len({tuple(overrides) for overrides in drawn("whole")}) == 13
    assert search(*command, "sweep.seed=1", "sweep.n_trials=2", "hydra.sweep.dir=other") == 0
    assert drawn("other")[0] != drawn("whole")[0]


def test_each_option_is_searched_in_its_own_space(search: Cli) -> None:
    over = ("sweep.over=[optimizer,scheduler]", "optimizer=sgd,momentum,adam")
    assert search(*over, "sweep.n_trials=20", "scheduler=none,step", "hydra.sweep.dir=s") == 0
    keys = {
        "optimizer=sgd": {"lr", "weight_decay"},
        "optimizer=momentum": {"lr", "momentum", "weight_decay"},
        "optimizer=adam": {"lr", "weight_decay"},
        "scheduler=none": set(),
        "scheduler=step": {"step_size", "gamma"},
    }
    seen = set()
    for overrides in drawn("s"):
        choices = [each for each in overrides if each in keys]
        assert [each.partition("=")[0] for each in choices] == ["optimizer", "scheduler"]
        own = {f"{each.partition('=')[0]}.{name}" for each in choices for name in keys[each]}
        assert {each.partition("=")[0] for each in overrides if each not in choices} == own
        seen |= set(choices)
    assert seen == set(keys)


def test_settings_of_the_chosen_options_are_searched_by_default(search: Cli) -> None:
    assert search("optimizer=rmsprop", "sweep.n_trials=1", "hydra.sweep.dir=s") == 0
    keys = [each.partition("=")[0] for each in drawn("s")[0]]
    rmsprop = ["optimizer.lr", "optimizer.alpha", "optimizer.weight_decay"]
    assert keys == ["optimizer", *rmsprop, "model", "model.hidden", "model.dropout"]


@pytest.mark.parametrize(
    ("over", "searched"),
    [
        ("null", {"optimizer.lr", "critic_optimizer.lr", "critic_optimizer.weight_decay"}),
        ("[critic_optimizer]", {"critic_optimizer.lr", "critic_optimizer.weight_decay"}),
        ("[optimizer@critic_optimizer]", {"critic_optimizer.lr", "critic_optimizer.weight_decay"}),
        ("[critic_optimizer.lr]", {"critic_optimizer.lr"}),
    ],
)
def test_another_optimizer_is_searched(over: str, searched: set[str], search: Cli) -> None:
    command = (f"sweep.over={over}", "+optimizer@critic_optimizer=sgd", "optimizer=sgd")
    assert search(*command, "sweep.n_trials=2", "hydra.sweep.dir=s") == 0
    for overrides in drawn("s"):
        values = dict(each.split("=") for each in overrides)
        assert searched <= values.keys()
        assert {key for key in values if "_optimizer." in key} <= searched
        assert values["+optimizer@critic_optimizer"] == "sgd"
        assert 1e-3 <= float(values["critic_optimizer.lr"]) <= 1


def test_what_is_fixed_stays_and_own_ranges_win(search: Cli) -> None:
    own = "sweep.space={optimizer.lr: {low: 0.2, high: 0.3}, model.hidden: [[8], [16, 8]]}"
    command = ("sweep.over=[optimizer]", "optimizer=adam", "optimizer.weight_decay=0", own)
    assert search(*command, "sweep.n_trials=6", "hydra.sweep.dir=s") == 0
    for overrides in drawn("s"):
        values = dict(each.split("=") for each in overrides)
        keys = {"optimizer", "optimizer.lr", "optimizer.weight_decay", "model.hidden"}
        assert values.keys() == keys
        assert values["optimizer.weight_decay"] == "0"
        assert 0.2 <= float(values["optimizer.lr"]) <= 0.3
        assert values["model.hidden"] in ("[8]", "[16,8]")
    lr, weight_decay = "sweep.over=[optimizer.lr]", "optimizer.weight_decay"
    assert search(lr, "sweep.n_trials=2", "hydra.sweep.dir=one") == 0
    assert [each.partition("=")[0] for each in drawn("one")[0]] == ["optimizer.lr"]
    assert weight_decay not in str(drawn("one"))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a=interval(1,5)", {"low": 1, "high": 5, "log": False}),
        ("a=tag(log,interval(1e-4,0.1))", {"low": 1e-4, "high": 0.1, "log": True}),
        ("a=range(1,10,3)", {"low": 1, "high": 7, "step": 3}),
        ("a=choice(1,x,[2,3])", ["1", "x", "[2,3]"]),
        ("optimizer=sgd,adam", ["sgd", "adam"]),
    ],
)
def test_hydras_syntax_names_ranges(override: str, expected: Any) -> None:
    assert searching.parse_range(OverridesParser.create().parse_override(override)) == expected


# What came of them


def test_jobs_that_do_not_finish_are_failed_trials_with_the_reason(search: Cli) -> None:
    assert search(*BOWL, "seed=13", "sweep.n_trials=6") == 1
    for trial in study("s").trials:
        refused = trial.params["optimizer.lr"] > 0.01
        assert trial.state.name == ("FAIL" if refused else "COMPLETE")
        reason = "refused: seed=13: is refused here." if refused else None
        assert trial.user_attrs.get("reason") == reason
    assert f"{states('s').count('FAIL')} of 6 trials failed" in search.out
    assert search("optimizer=sgd", LR, "seed=14", "sweep.n_trials=2", "hydra.sweep.dir=nan") == 0
    assert states("nan") == ["FAIL", "FAIL"]
    assert study("nan").trials[0].user_attrs["reason"] == "val/loss is nan"


def test_several_objectives_have_a_front(search: Cli) -> None:
    both = ("sweep.objectives=[val/loss,seconds/fit]", "sweep.n_trials=12")
    assert search(*BOWL, *both) == 0
    found = study("s")
    assert [direction.name for direction in found.directions] == ["MINIMIZE", "MINIMIZE"]
    # The time falls with lr, so that all above the best lr are on the front.
    front = {t.number for t in found.trials if t.params["optimizer.lr"] > 0.01}
    assert front <= {trial.number for trial in found.best_trials}
    printed = search.out
    assert f"{len(found.best_trials)} trials on the Pareto front:" in printed
    assert printed.count("best: job") == len(found.best_trials)
    unknown = ("sweep.objectives=[test/size,nope/loss]", "sweep.mode=[max,min]")
    search("optimizer=sgd", LR, *unknown, "sweep.n_trials=1", "hydra.sweep.dir=t")
    assert study("t").trials[0].user_attrs["reason"].startswith("has no nope/loss; it has val/loss")
    accuracy = ("data=wine", "monitor.metric=val/accuracy", LR, "sweep.n_trials=1")
    search(*accuracy, "hydra.sweep.dir=u")  # of one, the mode is that of its metric
    assert study("u").direction.name == "MAXIMIZE"


def test_database_takes_the_place_of_the_journal(search: Cli, tmp_path: Path) -> None:
    command = (*BOWL, "sweep.storage=sqlite:///own.db")
    assert search(*command, "sweep.n_trials=2") == 0
    assert search(*command, "sweep.n_trials=3") == 0
    (name,) = optuna.get_all_study_names("sqlite:///own.db")
    assert len(optuna.load_study(study_name=name, storage="sqlite:///own.db").trials) == 3
    assert not (tmp_path / "s/optuna/study.journal").exists()


# Killed and started again


@pytest.mark.parametrize("end", [None, "finished"])
def test_trial_that_was_killed_fails_and_is_tried_again(
    end: str | None, search: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`end` is what its result.json says."""
    assert search(*BOWL, "sweep.n_trials=4") == 0
    whole = drawn("s")
    assert search(*BOWL[:2], "hydra.sweep.dir=k", "sweep.n_trials=2") == 0

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("quartet.sweeps.search.Search.end_trial", killed)
        with pytest.raises(KeyboardInterrupt):
            search(*BOWL[:2], "hydra.sweep.dir=k", "sweep.n_trials=4")
    result = tmp_path / "k/2/result.json"
    if end:
        values = json.loads(result.read_text())
        result.write_text(json.dumps(values | {"status": end}))
    else:
        result.unlink()
    assert states("k") == ["COMPLETE", "COMPLETE", "RUNNING"]

    assert search(*BOWL[:2], "hydra.sweep.dir=k", "sweep.n_trials=4") == 0
    assert drawn("k") == whole  # as if nothing had happened
    failed = [] if end == "finished" else ["FAIL"]
    assert states("k") == ["COMPLETE", "COMPLETE", *failed, "COMPLETE", "COMPLETE"]
    if failed:
        assert study("k").trials[2].user_attrs["reason"] == "killed or interrupted"
        assert Table("k").jobs[2].retried_as == 3


def test_half_a_line_of_the_journal_is_removed(search: Cli) -> None:
    assert search(*BOWL, "sweep.n_trials=2") == 0
    with Path("s/optuna/study.journal").open("a") as file:
        file.write('{"op_code": 4, "wor')
    assert search("sweep.resume=s", "sweep.n_trials=4") == 0
    assert states("s") == ["COMPLETE"] * 4


OTHER = [
    (["optimizer=sgd,adam,rmsprop", LR], "optimizer: ['sgd', 'adam'] -> ['sgd', 'adam', "),
    (["optimizer=sgd,adam", "optimizer.lr=interval(0.1,0.2)"], "optimizer.lr: {"),
    (["optimizer=sgd,adam", LR, "seed=1"], "fixed: [] -> ['seed=1']"),
    (["optimizer=sgd,adam", LR, "sweep.objectives=[seconds/fit]"], "objectives: {'val/loss'"),
]


def test_another_search_in_the_same_directory_is_refused(search: Cli) -> None:
    assert search("optimizer=sgd,adam", LR, "sweep.n_trials=2", "hydra.sweep.dir=s") == 0
    before = Path("s/optuna/study.journal").read_text()
    for changed, message in OTHER:
        said = search.refuse(*changed, "sweep.n_trials=3", "hydra.sweep.dir=s")
        assert f"s holds another search:\n  {message}" in said
        assert "name another hydra.sweep.dir" in said
        assert Path("s/optuna/study.journal").read_text() == before
    wider = LR.replace("1e-4", "1e-5")
    other = ("sweep.sampler=random", "sweep.n_trials=3", "hydra.sweep.dir=s")
    assert search("optimizer=sgd,adam", wider, *other) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep.sampler=tpee"], "sweep.sampler=tpee: must be one of tpe, random, qmc"),
        (["sweep.sampler=grid"], "sweep=grid tries every combination"),
        (["sweep.storage=redis://a"], "sweep.storage=redis://a: Optuna unpickles"),
        (["sweep.n_trials=0"], "sweep.n_trials=0: must be a whole number of at least 1"),
        (["sweep.pruner=median", "sweep.objectives=[a/loss,b/loss]"], "prunes with one objective"),
        (["sweep.mode=[least]"], "each must be min or max"),
        (["sweep.mode=[min,max]"], "must name min or max for each objective"),
        (["sweep.over=[optimiser]"], "optimiser is neither a group nor a setting"),
        (["sweep.over=[optimizer.lrr]"], "for which optimizer names a range: lr, weight_decay;"),
        (["sweep.over=[]"], "There is nothing to search: name groups such as"),
        (["sweep.space={optimizer.lr: 3}"], "optimizer.lr=3: must be {low: 0.001, high"),
        (["sweep.space={seed: [1, 2]}", "seed=3"], "seed is on the command line too, as seed=3"),
        (["+optimizer.search.lrr=[1, 2]"], "optimizer.search.lrr: optimizer has no such setting"),
        (["monitor.metric=null"], "monitor.metric=null: name what to optimise"),
    ],
)
def test_misspelt_settings_leave_nothing(arguments: list[str], message: str, search: Cli) -> None:
    assert message in search.refuse(*arguments)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("range_", "message"),
    [
        ([], "has no value to choose from."),
        ({"low": 1, "high": "b"}, "'b' is no number; write such as 1.0e-4."),
        ({"low": 2, "high": 1}, "low is above high; exchange them."),
        ({"low": 0, "high": 1, "log": True}, "the logarithm needs a low above 0."),
        ({"low": 0, "high": 1, "step": 0}, "step must be above 0, and does not go with log."),
        ({"low": 0, "high": 1, "up": 0}, "up: a range has low, high, log and step."),
        ({"low": 1, "high": 1}, None),
    ],
)
def test_wrong_ranges_are_refused(range_: Any, message: str | None) -> None:
    assert check_range(range_) == message


def test_nothing_is_left_without_optuna(real_search: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert real_search("data=wine", LR, "check=only", "sweep.n_trials=2") == 0
    assert real_search.out.count("Nothing is wrong with it. It would run:") == 2
    monkeypatch.setitem(sys.modules, "optuna", None)
    said = real_search.refuse(*BOWL)
    assert said == "sweep=optuna needs optuna: pip install -e '.[optuna]'\n"
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("launcher", ["basic", pytest.param("local", marks=pytest.mark.slow)])
def test_killed_search_goes_to_its_total(launcher: str, real_search: Cli, tmp_path: Path) -> None:
    own = [*SMALL, "optimizer.lr=tag(log,interval(1e-4,0.1))"]
    command = [*own, "trainer.max_epochs=40", "sweep.n_trials=5", "hydra.sweep.dir=s"]
    command += [f"launcher={launcher}"]
    process = start(tmp_path, "-m", "sweep=optuna", *command)
    wait_for("s/2/checkpoints/last.ckpt", tmp_path, process)
    process.kill()
    process.communicate()
    assert "RUNNING" in states("s")
    assert "5 of 5 jobs finished: s" in real_search.ask(*command)
    assert states("s").count("COMPLETE") == 5
    assert "RUNNING" not in states("s")
    if launcher == "basic":  # with processes of their own, jobs outlive the search
        assert states("s").count("FAIL") == 1
    assert len({tuple(overrides) for overrides in drawn("s")}) == 5


# Pruning


def test_pruned_trials_end_early_and_count_as_finished(real_search: Cli) -> None:
    quick = [*SMALL, "trainer.max_epochs=6", "callbacks.progress_bar=null"]
    lr = "optimizer.lr=tag(log,interval(1e-6,0.1))"
    prune = ("sweep.pruner=median", "sweep.warmup_epochs=2", "sweep.sampler=random")
    assert real_search(*quick, lr, *prune, "sweep.n_trials=10", "hydra.sweep.dir=s") == 0
    results = [json.loads(Path(f"s/{n}/result.json").read_text()) for n in range(10)]
    assert [result["status"] for result in results] == ["finished"] * 10
    pruned = [number for number, result in enumerate(results) if "pruned" in result]
    assert pruned
    assert states("s") == ["PRUNED" if n in pruned else "COMPLETE" for n in range(10)]
    for number in range(10):
        rows = len(Path(f"s/{number}/metrics.csv").read_text().splitlines()) - 1
        assert rows == results[number].get("pruned", 6)
    assert all(2 < results[number]["pruned"] < 6 for number in pruned)
    assert f"{len(pruned)} of 10 trials pruned" in real_search.out
    reported = study("s").trials[pruned[0]].intermediate_values
    assert list(reported) == list(range(1, results[pruned[0]]["pruned"] + 1))


# The ranges in conf/

SHIPPED = [
    (path.parent.name, path.stem)
    for path in sorted(CONF.glob("*/*.yaml"))
    if "search" in OmegaConf.load(path)
]


def test_every_optimizer_of_torch_names_a_range_for_lr() -> None:
    for path in (CONF / "optimizer").glob("*.yaml"):
        option = OmegaConf.load(path)
        if option._target_.startswith("torch."):
            assert "lr" in option.get("search", {}), path.name


@pytest.mark.slow
@pytest.mark.parametrize("end", [0, -1])
@pytest.mark.parametrize(("group", "option"), SHIPPED)
def test_ranges_train_at_both_ends(group: str, option: str, end: int, tmp_path: Path) -> None:
    cfg = composed([f"{group}={option}", "data.batch_size=64", "trainer.max_epochs=1"])
    for key, range_ in cfg[group].search.items():
        values = list(searching.values(OmegaConf.to_container(range_)))
        OmegaConf.update(cfg, f"{group}.{key}", values[end])
    cfg.trainer.accelerator = "cpu"
    cfg.callbacks, cfg.data.train_samples = {}, None
    run = build(cfg, tmp_path)
    run.trainer.fit(run.module, run.data)
    assert run.trainer.global_step == 20
    assert all(parameter.isfinite().all() for parameter in run.module.parameters())


@pytest.mark.parametrize("option", SHIPPED)
def test_shipped_ranges_are_ranges_of_settings_of_their_option(option: tuple[str, str]) -> None:
    group, name = option
    cfg = composed([f"{group}={name}"])
    assert set(checked_ranges(cfg, group, name)) == set(cfg[group].search)


def test_run_is_checked_for_misspelt_ranges_and_else_not_changed_by_them() -> None:
    assert_refused("optimizer.search.lr.low=7", r"optimizer\.search\.lr=.*: low is above high")
    assert_refused("model.search=3", r"model\.search=3: must be a range for each setting")
    assert build(composed(["optimizer.search=null", "model.search=null"])).module
