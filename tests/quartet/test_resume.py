"""A training that was interrupted and goes on ends as if nothing had happened, bit for bit."""

import functools
import json
import math
import random
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import processes
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, Timer
from made import EACH_STEP, SHORT, TINY, composed, options, paint
from processes import ROOT, Cli, Command
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from quartet.build import build, compose
from quartet.checkpoints import callbacks
from quartet.cli import find_resumed_run
from quartet.config.compose import evaluation_config
from quartet.config.overrides import quote, unquote
from quartet.core.problems import ConfigError
from quartet.core.processes import ShutdownHandler, shutdown
from quartet.data.datamodule import DataModule
from quartet.data.loader import Batches
from quartet.data.split import Parts
from quartet.records.run_directory import list_configs, read_result
from quartet.reports import run as report
from quartet.run import train

RARELY = "callbacks.last.min_seconds=1000"


class Crash(Exception):
    """Ends a training at a place of the test's choice."""


class CrashAt(Callback):
    """Raises when `hook` is called for the `number`-th time."""

    def __init__(self, hook: str, number: int) -> None:
        self.left = number

        def count(*args: Any, **kwargs: Any) -> None:
            self.left -= 1
            if not self.left:
                raise Crash

        setattr(self, hook, count)


def read_rows(directory: Path) -> list[str]:
    return (directory / "metrics.csv").read_text().splitlines()


def marked(names: Iterable[str], quick: Sequence[str]) -> list[Any]:
    """The names as parameters of a test, slow but for those that are quick."""
    return [pytest.param(n, marks=[] if n in quick else pytest.mark.slow) for n in names]


def crash(overrides: Sequence[str], directory: Path, hook: str, number: int) -> None:
    """Trains until the training fails where it is told to."""
    import quartet.build

    original = quartet.build.build

    def build(*args: Any, **kwargs: Any) -> Any:
        run = original(*args, **kwargs)
        run.trainer.callbacks.append(CrashAt(hook, number))
        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quartet.build, "build", build)
        with pytest.raises(Crash):
            train(composed(overrides), directory)


def resume(directory: Path, *overrides: str) -> dict[str, Any]:
    return train(compose([f"resume={directory}", *overrides]))


def differences(one: Any, other: Any, key: str = "") -> list[str]:
    """Keys under which two nests of containers and tensors are not the same."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        same = one.dtype == other.dtype and torch.equal(one.nan_to_num(), other.nan_to_num())
        return [] if same else [key]
    if type(one) is not type(other):
        return [f"{key}: {type(one)} and {type(other)}"]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{key}: {one.keys() ^ other.keys()}"]
        return [d for name in one for d in differences(one[name], other[name], f"{key}.{name}")]
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [f"{key}: lengths"]
        pairs = enumerate(zip(one, other, strict=True))
        return [d for i, pair in pairs for d in differences(*pair, f"{key}.{i}")]
    return [] if one == other or one != one else [f"{key}: {one!r} and {other!r}"]


def load(path: Path, directory: Path) -> Any:
    def placeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {placeless(k): placeless(v) for k, v in value.items()}
        if isinstance(value, list):
            return [placeless(item) for item in value]
        return value.replace(str(directory), "DIR") if isinstance(value, str) else value

    saved = placeless(torch.load(path, weights_only=True))
    # A count of calls, which Lightning keeps for itself and does not read.
    del saved["loops"]["fit_loop"]["epoch_loop.scheduler_progress"]
    if path.stem == "best":
        del saved["resume_state"]["end"]  # may have been saved before the training was extended
    return saved


def assert_same(whole: Path, resumed: Path) -> None:
    """Weights, optimizer, scheduler, random numbers, scores and learning curves are the same."""
    assert (resumed / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    for name in ("last", "best"):
        one, other = (load(d / f"checkpoints/{name}.ckpt", d) for d in (whole, resumed))
        assert not differences(one, other, name)
    results = [json.loads((d / "result.json").read_text()) for d in (whole, resumed)]
    for result in results:
        assert result["status"] == "finished"
        for key in ("seconds", "samples_per_second"):
            del result[key]
    assert results[0] == results[1]


def assert_resumes(names: Sequence[str], run: Path, hook: str, number: int, whole: Path) -> None:
    """A training that fails at a place and is resumed ends as the whole one."""
    crash(names, run, hook, number)
    resume(run)
    assert_same(whole, run)


WHOLE: dict[tuple[str, ...], Path] = {}


@pytest.fixture(scope="module", autouse=True)
def _folder_of_wholes(tmp_path_factory: pytest.TempPathFactory) -> None:
    WHOLE.clear()
    WHOLE[()] = tmp_path_factory.mktemp("whole")


def uninterrupted(names: Sequence[str]) -> Path:
    """Where a training of these options at one go lies, for several tests, which only read it."""
    if tuple(names) not in WHOLE:
        directory = WHOLE[()] / str(len(WHOLE))
        train(composed(names), directory)
        WHOLE[tuple(names)] = directory
    return WHOLE[tuple(names)]


Place = tuple[str, int]
WITHIN: Place = ("on_train_batch_end", 7)  # the second epoch, of 3 of 4 batches


def check(overrides: Sequence[str], tmp_path: Path, *places: Place) -> None:
    """Trains without and with crashes, and compares."""
    names = [*TINY, "callbacks.last.every_n_steps=3", *overrides]
    whole, run = uninterrupted(names), tmp_path / "run"
    for number, place in enumerate(places or [WITHIN]):
        crash([f"resume={run}"] if number else names, run, *place)
    resume(run)
    assert_same(whole, run)


# Of 3 epochs of 4 batches, each with a validation of one batch.
PLACES = [
    ("on_train_batch_end", 2),
    ("on_train_batch_end", 4),  # the last batch of an epoch
    pytest.param("on_train_batch_end", 5, marks=pytest.mark.slow),
    pytest.param("on_train_batch_start", 12, marks=pytest.mark.slow),
    ("on_validation_start", 1),
    ("on_validation_batch_end", 2),
    pytest.param("on_validation_end", 3, marks=pytest.mark.slow),
    ("on_train_epoch_end", 2),  # before its checkpoint
    ("on_train_epoch_start", 2),  # after the epoch was logged
    ("on_train_end", 1),
    ("on_test_start", 1),
]
RICH = (
    *("optimizer=adam", "scheduler=plateau", *SHORT["plateau"], "scheduler.warmup_steps=3"),
    *("trainer.accumulate_grad_batches=2", "metrics=regression"),
)


@pytest.fixture
def whole() -> Path:
    return uninterrupted([*TINY, EACH_STEP, *RICH])


@pytest.mark.parametrize(("hook", "number"), PLACES)
def test_every_place_resumes_exactly(hook: str, number: int, whole: Path, tmp_path: Path) -> None:
    assert_resumes([*TINY, EACH_STEP, *RICH], tmp_path / "run", hook, number, whole)


SETTINGS: dict[str, list[str]] = {
    "classification": [
        *("data=digits", "trainer.limit_train_batches=8", "metrics.auroc.exact_values=600")
    ],
    "flip and crop": [
        *("data=digits", "trainer.limit_train_batches=8", "data.flip=true", "data.crop=1")
    ],
    "accumulation with an incomplete last window": ["trainer.accumulate_grad_batches=3"],
    "a limit of steps": ["trainer.max_steps=10"],
    "validation twice an epoch": [
        *("trainer.val_check_interval=0.5", "scheduler=plateau", *SHORT["plateau"])
    ],
    "validation every second epoch": [
        *("trainer.check_val_every_n_epoch=2", "trainer.max_epochs=4", "scheduler=plateau"),
        *SHORT["plateau"],
    ],
    "a limit of steps, validation every second epoch": [
        *("trainer.check_val_every_n_epoch=2", "trainer.max_steps=14", "trainer.max_epochs=9"),
    ],
    "no validation": ["data.val_fraction=0", "monitor.metric=train/loss"],
    "batch normalisation": ["model.norm=batch"],
    "not shuffled": ["data.shuffle=false"],
    "warm-up and a cosine by steps": [
        *("scheduler=cosine", "scheduler.interval=step", "scheduler.warmup_epochs=1.5")
    ],
    "one cycle, accumulated": ["scheduler=one_cycle", "trainer.accumulate_grad_batches=2"],
    "ranking": ["data=ranking", "data.queries=60", "data.documents=6", "data.batch_size=12"],
    "mixup and cutmix": [
        *("data=digits", "trainer.limit_train_batches=8", "data.mixup=0.2", "data.cutmix=1.0")
    ],
    "gradual unfreezing": [
        *("callbacks=unfreeze", "callbacks.unfreeze.epochs={3: ['layers.[01].*']}"),
        *("scheduler=cosine", "optimizer.lr_factors={layers.0.*: 0.5}", "model.norm=batch"),
    ],
    "balanced classes": [
        *("data=wine", "data.balance=true", "data.keep={0: 0.2}", "metrics=none"),
    ],
    "moving average": ["callbacks=ema", "model.norm=batch"],
    "moving average that begins late": ["callbacks=ema", "callbacks.ema.start_step=5"],
    "stochastic weight averaging": ["callbacks=swa", "callbacks.swa.start=0.3"],
    "frozen layer, own learning rates": [
        *("optimizer.freeze=['layers.0.*']", "optimizer.lr_factors={layers.3.*: 0.1}")
    ],
}  # fmt: skip


# Of most kinds of state one; the others are slow tests.
QUICK_SETTINGS = (
    *("a limit of steps", "validation twice an epoch", "warm-up and a cosine by steps"),
    *("ranking", "mixup and cutmix", "gradual unfreezing", "moving average"),
)


@pytest.mark.parametrize("setting", marked(SETTINGS, QUICK_SETTINGS))
def test_settings_go_on_exactly(setting: str, tmp_path: Path) -> None:
    check(SETTINGS[setting], tmp_path)


def test_early_stopping_goes_on_exactly(tmp_path: Path) -> None:
    patience = ["callbacks=early_stopping", "callbacks.early_stopping.patience=1"]
    names = [*patience, "callbacks.early_stopping.min_delta=9", "trainer.max_epochs=9"]
    check(names, tmp_path, ("on_train_batch_end", 6), ("on_train_end", 1), ("on_test_start", 1))


# Those that move the momentum too, with optimizers that have one; then each of the others.
MOMENTUM = {"momentum": "one_cycle", "nesterov": "cyclic"}
LEFT = [
    [name for name in options("optimizer") if name not in MOMENTUM],
    [name for name in options("scheduler") if name not in MOMENTUM.values()],
]
PAIRS = [*MOMENTUM.items(), *islice(zip(*map(cycle, LEFT), strict=False), max(map(len, LEFT)))]


QUICK = (*MOMENTUM, "adam", "asgd", "lbfgs", "muon")  # each keeps another kind of state


@pytest.mark.parametrize(
    ("optimizer", "scheduler"),
    [pytest.param(*pair, marks=[] if pair[0] in QUICK else pytest.mark.slow) for pair in PAIRS],
)
def test_optimizers_and_schedulers_resume(optimizer: str, scheduler: str, tmp_path: Path) -> None:
    names = [f"optimizer={optimizer}", f"scheduler={scheduler}", *SHORT.get(scheduler, [])]
    check(names, tmp_path)


def test_training_crashed_three_times_goes_on_exactly(tmp_path: Path) -> None:
    places = [("on_train_batch_end", 3), ("on_validation_end", 2), ("on_train_batch_end", 1)]
    check(RICH, tmp_path, *places)
    records = sorted(path.name for path in (tmp_path / "run" / ".hydra").glob("resume-*"))
    assert records == ["resume-1", "resume-2", "resume-3"]


def test_comparison_sees_random_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "restore_random_states", lambda *args: None)
    with pytest.raises(AssertionError):
        check([], tmp_path)


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Samples read one by one, with noise drawn as each is read."""

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        self.inputs, self.targets = tensors

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        noise = torch.randn(self.inputs.shape[1]) + random.random()
        return self.inputs[row] + noise, self.targets[row]


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_drawn_at_random_by_processes_go_on_exactly(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = DataModule.load

    def load(self: DataModule) -> Parts:
        parts = read(self)
        if isinstance(parts.train, TensorDataset):
            self.parts = parts._replace(train=Noisy(parts.train.tensors))
        return self.parts

    monkeypatch.setattr(DataModule, "load", load)
    # The seed is that of all, said again, so that no other test has these options.
    check([f"data.num_workers={workers}", "seed=0"], tmp_path)


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: steps and values by tag, without the epoch, which comes repeatedly."""
    shown = EventAccumulator(str(directory / "tensorboard"), size_guidance={"scalars": 0})
    shown.Reload()
    tags = [tag for tag in shown.Tags()["scalars"] if tag != "epoch"]
    return {tag: [(event.step, event.value) for event in shown.Scalars(tag)] for tag in tags}


def test_tensorboard_shows_each_step_once(tmp_path: Path) -> None:
    names = [*TINY, EACH_STEP, "logger=tensorboard"]
    whole = uninterrupted(names)
    crash(names, tmp_path / "run", "on_train_epoch_start", 2)
    time.sleep(1.1)  # files of events are ordered by the second
    resume(tmp_path / "run")
    assert scalars(tmp_path / "run") == scalars(whole)
    assert len(scalars(tmp_path / "run")["train/loss"]) == 3


def test_mlflow_goes_on_with_the_same_run(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    store = f"sqlite:///{tmp_path}/mlflow.db"
    names = [*TINY, EACH_STEP, "logger=mlflow", f"logger.mlflow.tracking_uri={store}"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's own
        crash(names, tmp_path / "run", "on_train_batch_end", 6)
        resume(tmp_path / "run", names[-1])
        client = mlflow.MlflowClient(store)
        (logged,) = client.search_runs([client.get_experiment_by_name("quartet").experiment_id])
        history = client.get_metric_history(logged.info.run_id, "train/loss")
    assert [metric.step for metric in history] == [3, 7, 11]
    assert logged.info.status == "FINISHED"


@pytest.mark.slow
def test_wandb_goes_on_with_the_same_run(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    names = [*TINY, "logger=wandb", "logger.wandb.offline=true", "trainer.max_epochs=1"]
    finish(*names, f"hydra.run.dir={tmp_path / 'run'}")
    told = (tmp_path / "run/loggers.json").read_text()
    finish(f"resume={tmp_path / 'run'}", "trainer.max_epochs=2", names[-2])
    assert (tmp_path / "run/loggers.json").read_text() == told
    name = json.loads(told)["wandb"]["id"]
    sessions = list((tmp_path / "run/wandb").glob("offline-run-*"))
    assert len(sessions) == 2
    assert all(path.name.endswith(name) for path in sessions)


def test_pictures_flipped_and_cropped_go_on_exactly(tmp_path: Path) -> None:
    paint(tmp_path / "pictures", dark=20, light=20)
    data = ["data=image_folder", f"data.path={tmp_path / 'pictures'}", "data.image_size=8"]
    more = ["data.batch_size=8", "data.flip=true", "data.crop=2", "data.num_workers=2"]
    check([*data, *more], tmp_path)


# --- Signals -------------------------------------------------------------------------------------


class SignalAt(CrashAt):
    """Asks for an end, as a signal does, when `hook` is called for the `number`-th time."""

    def __init__(self, hook: str, number: int) -> None:
        super().__init__(hook, number)
        count = getattr(self, hook)

        def ask(*args: Any, **kwargs: Any) -> None:
            try:
                count()
            except Crash:
                shutdown.handle(signal.SIGTERM, None)

        setattr(self, hook, ask)


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `crash` raises is a signal."""
    monkeypatch.setattr(shutdown, "exit_code", 0)
    monkeypatch.setattr(sys.modules[__name__], "CrashAt", SignalAt)
    monkeypatch.setattr(sys.modules[__name__], "Crash", SystemExit)


def stop_after(batches: int, patch: pytest.MonkeyPatch) -> None:
    """The time is over after some batches."""

    def check_time(self: Timer, trainer: Trainer) -> None:
        trainer.should_stop |= trainer.fit_loop.total_batch_idx + 1 >= batches

    patch.setattr(Timer, "_check_time_remaining", check_time)


SIGNALS = [
    ("on_train_batch_start", 2),
    ("on_train_batch_start", 3),  # in the middle of an accumulation
    ("on_train_batch_start", 4),
    ("on_validation_batch_start", 1),
    ("on_train_epoch_end", 1),
    ("on_train_epoch_end", 2),
    ("on_train_epoch_start", 2),
    ("on_train_epoch_start", 3),
]


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize(
    ("hook", "number", "saves"),
    [
        pytest.param(*place, saves, marks=[] if number % 2 else pytest.mark.slow)
        for saves in ([], [RARELY])
        for number, place in enumerate(SIGNALS, len(saves))
    ],
)
def test_signal_ends_a_training_where_it_can_go_on_exactly(
    hook: str, number: int, saves: list[str], whole: Path, tmp_path: Path
) -> None:
    crash([*TINY, *RICH, *saves], tmp_path / "run", hook, number)
    assert json.loads((tmp_path / "run/result.json").read_text())["status"] == "interrupted"
    shutdown.exit_code = 0
    resume(tmp_path / "run")
    assert_same(whole, tmp_path / "run")


# Ends of a training: by steps, where a validation is scheduled and where not, and by epochs.
@pytest.mark.parametrize(
    "end",
    [
        *("max_steps=6", "check_val_every_n_epoch=2"),
        pytest.param("max_steps=8", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "place",
    [
        *("on_train_batch_end", "on_validation_end"),
        pytest.param("on_validation_batch_start", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("error", [pytest.param(CrashAt, marks=pytest.mark.slow), SignalAt])
def test_last_validation_goes_on_exactly(
    end: str, place: str, error: type, tmp_path: Path, request: Any
) -> None:
    names = [*TINY, *RICH, "trainer.accumulate_grad_batches=1", f"trainer.{end}"]
    whole, run = uninterrupted(names), tmp_path / "run"
    if error is SignalAt:
        request.getfixturevalue("signals")
    steps = {"max_steps=8": 8, "max_steps=6": 6}.get(end, 12)
    crash(names, run, place, steps if place == "on_train_batch_end" else 2)
    shutdown.exit_code = 0
    resume(run)
    assert_same(whole, run)
    longer = "trainer.max_epochs=4" if steps == 12 else "trainer.max_steps=-1"
    resume(run, longer)
    assert_same(uninterrupted([*names, longer]), run)


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize(
    ("place", "number", "more"),
    [
        ("on_validation_batch_start", 2, []),
        ("on_train_batch_end", 6, []),
        ("on_train_batch_end", 6, ["data.val_fraction=0"]),
    ],
)
def test_signal_at_a_time_limit_goes_on_exactly(
    place: str, number: int, more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(6, monkeypatch)
    for limit in ("trainer.max_time=00:01:00:00", "trainer.max_steps=6"):
        names, run = [*TINY, limit, *more], tmp_path / limit
        crash(names, run / "run", place, number)
        shutdown.exit_code = 0
        resume(run / "run")
        train(composed(names), run / "whole")
        assert (run / "run/metrics.csv").read_text() == (run / "whole/metrics.csv").read_text()


def test_short_epochs_are_passed_over_and_done_again(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    save = callbacks.LastCheckpoint.save
    monkeypatch.setattr(
        callbacks.LastCheckpoint,
        "save",
        lambda self, t: (save(self, t), saved.append(t.current_epoch)),
    )
    names = [*TINY, *RICH, RARELY]
    crash(names, tmp_path / "run", "on_train_batch_end", 10)
    assert saved == [0]
    resume(tmp_path / "run")
    assert saved == [0, 1, 2]  # the first of a start and its last
    assert_same(whole, tmp_path / "run")


STEPS = ("scheduler=step", "scheduler.step_size=1")


# --- What may change -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("always", "short", "longer"),
    [
        ("", "max_epochs=2", "max_epochs=3"),
        ("", "max_steps=6", "max_steps=-1"),  # within an epoch
        pytest.param("", "max_steps=6", "max_steps=10", marks=pytest.mark.slow),
        # The weights at the early end are better than those after any epoch.
        ("optimizer=sgd optimizer.lr=0.5 seed=2 scheduler.gamma=1", "max_steps=6", "max_steps=-1"),
        pytest.param(
            *("callbacks=[ema,early_stopping]", "max_steps=6", "max_steps=-1"),
            marks=pytest.mark.slow,
        ),
        # At the end of an epoch, where no validation is scheduled.
        ("trainer.check_val_every_n_epoch=2", "max_epochs=1", "max_epochs=3"),
        ("trainer.check_val_every_n_epoch=2", "max_steps=4", "max_steps=-1"),
        (
            "trainer.val_check_interval=2 trainer.limit_train_batches=3",
            "max_epochs=2",
            "max_epochs=3",
        ),
    ],
)
def test_finished_run_goes_on(always: str, short: str, longer: str, tmp_path: Path) -> None:
    names = [*TINY, *STEPS, *always.split()]
    train(composed([*names, f"trainer.{short}"]), tmp_path / "run")
    resume(tmp_path / "run", f"trainer.{longer}")
    assert_same(uninterrupted([*names, f"trainer.{longer}"]), tmp_path / "run")
    left = {path.name for path in (tmp_path / "run/checkpoints").iterdir()}
    whole = uninterrupted([*names, f"trainer.{longer}"]) / "checkpoints"
    assert left == {path.name for path in whole.iterdir()}


def test_lost_best_checkpoint_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [*TINY, "+optimizer.maximize=true", "trainer.max_epochs=2"]  # the loss rises
    train(composed(names), tmp_path / "run")
    (tmp_path / "run/checkpoints/best.ckpt").unlink()
    assert resume(tmp_path / "run", "trainer.max_epochs=4")["monitor"]["epoch"] == 3
    assert "best.ckpt is missing; only epochs from here on count for the best." in caplog.text


def test_extension_killed_at_its_start_is_one_still_and_needs_a_checkpoint(tmp_path: Path) -> None:
    train(composed([*TINY, *STEPS, "trainer.max_steps=6"]), tmp_path / "run")
    path = tmp_path / "run/checkpoints/mid_epoch.ckpt"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    words = r"mid_epoch.ckpt .* is cut short.* ended within an epoch"
    with pytest.raises(ConfigError, match=words):
        resume(tmp_path / "run", "trainer.max_steps=-1")
    path.write_bytes(content)
    again = [f"resume={tmp_path / 'run'}", "trainer.max_steps=-1"]
    assert_resumes(again, tmp_path / "run", "on_train_start", 1, uninterrupted([*TINY, *STEPS]))


@pytest.mark.parametrize("batches", [5, 8])  # in a window of the second epoch, at an end
def test_training_ended_by_the_clock_goes_on(
    batches: int, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [*TINY, *STEPS, "trainer.accumulate_grad_batches=3"]

    with monkeypatch.context() as patch:
        stop_after(batches, patch)
        patch.setattr(Timer, "time_remaining", lambda self: -1.0)
        train(composed([*names, "trainer.max_time=00:01:00:00"]), tmp_path / "run")
    epoch, batch = divmod(batches, 4)
    reached = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert reached == 2 * epoch + math.ceil(batch / 3)  # windows of 3 and 1 batches
    assert "\nstopped as trainer.max_time was over\n" in capsys.readouterr().out
    resume(tmp_path / "run", "trainer.max_time=null")
    assert "stopped" not in capsys.readouterr().out
    assert_same(uninterrupted(names), tmp_path / "run")


def test_checkpoint_within_a_step_is_none_to_go_on_from(tmp_path: Path) -> None:
    # A validation after the third batch, and two batches a step: best.ckpt holds half a step.
    names = [*TINY, *RICH, "trainer.accumulate_grad_batches=2", "trainer.val_check_interval=3"]
    train(composed(names), tmp_path / "whole")
    crash(names, tmp_path / "run", "on_train_batch_start", 4)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["best.ckpt"]
    resume(tmp_path / "run")
    assert_same(tmp_path / "whole", tmp_path / "run")


def test_signal_leaves_pictures_for_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [*TINY, *RICH]
    whole = uninterrupted(names)
    with monkeypatch.context() as patch:
        patch.setattr(report, "draw_training", Mock(side_effect=SystemExit(130)))
        with pytest.raises(SystemExit):
            train(composed(names), tmp_path / "run")
    assert read_result(tmp_path / "run")["status"] == "interrupted"
    assert len(read_rows(tmp_path / "run")) == 1 + 3  # all epochs
    resume(tmp_path / "run")
    assert_same(whole, tmp_path / "run")


def test_patience_may_grow(tmp_path: Path) -> None:
    # Nothing ever gets better.
    names = [*TINY, "callbacks=early_stopping", "optimizer.lr=0", "trainer.max_epochs=6"]
    patience = "callbacks.early_stopping.patience"
    for name, value in (("run", 1), ("whole", 3)):
        train(composed([*names, f"{patience}={value}"]), tmp_path / name)
    assert len(read_rows(tmp_path / "run")) < len(read_rows(tmp_path / "whole"))
    resume(tmp_path / "run", f"{patience}=3")
    one, other = ((tmp_path / name / "metrics.csv").read_text() for name in ("run", "whole"))
    assert one == other


def test_start_that_came_to_nothing_is_no_record(done: Path) -> None:
    before = list_configs(done)
    start = done / ".hydra" / f"resume-{len(before)}"
    start.mkdir()
    (start / "config.yaml").touch()
    assert list_configs(done) == before
    (start / "config.yaml").write_text("seed: 7\n")
    assert list_configs(done) == [*before, start / "config.yaml"]
    shutil.rmtree(start)


def test_damaged_result_counts_as_none(done: Path, tmp_path: Path) -> None:
    result = read_result(done)
    shutil.copytree(done, tmp_path / "run")
    for content in ("[]", "{", "{}", ""):
        (tmp_path / "run/result.json").write_text(content)
        assert read_result(tmp_path / "run") == {}
    again = resume(tmp_path / "run")
    assert (again["status"], again["metrics"]) == ("finished", result["metrics"])


@pytest.mark.parametrize(
    "name", ["a", "it's", "'", "a'", "\\", "a\\'b\\", '"', "a b=c,{d}[e]", "ü:#%"]
)
def test_any_directory_can_be_named(name: str) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"a={quote(name)}"])
    assert override.value() == name
    assert unquote(quote(name)) == name
    assert unquote(name) == name


@pytest.mark.parametrize("left", ["checkpoints", "metrics.csv", ".hydra", "result.json"])
def test_what_is_left_of_a_run_is_not_written_over(left: str, tmp_path: Path) -> None:
    (tmp_path / left).mkdir()
    with pytest.raises(ConfigError, match="already holds a run, and nothing in it was touched"):
        train(composed(TINY), tmp_path)


def test_finished_run_says_so(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (done / "metrics.csv").stat().st_mtime_ns
    assert resume(done) == read_result(done)
    assert "has finished; trainer.max_epochs=N" in capsys.readouterr().out
    assert (done / "metrics.csv").stat().st_mtime_ns == before


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("done") / "run"
    train(composed([*TINY, "trainer.max_epochs=1"]), directory)
    return directory


def test_changes_of_what_was_trained_are_refused_at_once(done: Path) -> None:
    changes = {
        "optimizer.lr=0.5": "optimizer.lr: 0.002 -> 0.5",
        "model.hidden=[8]": "model.hidden: [16] -> [8]",
        "seed=1": "seed: 0 -> 1",
        "data.batch_size=7": "data.batch_size: 20 -> 7",
        "scheduler.frequency=2": "scheduler.frequency: 1 -> 2",
        "trainer.accumulate_grad_batches=2": "trainer.accumulate_grad_batches: 1 -> 2",
        "trainer.gradient_clip_val=1": "trainer.gradient_clip_val: None -> 1",
        "callbacks.best.filename=foo": "callbacks.best.filename: best -> foo",
        "callbacks.last.filename=foo": "callbacks.last.filename: last -> foo",
        "monitor.metric=train/loss": "monitor.metric: val/loss -> train/loss",
    }
    with pytest.raises(ConfigError) as raised:
        resume(done, *changes)
    *messages, advice = raised.value.messages
    assert all(any(text in each for each in messages) for text in changes.values())
    assert "start a run of its own without resume" in advice


def test_other_lengths_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    train(composed([*TINY, "scheduler=cosine"]), tmp_path / "run")
    derived = r"scheduler.T_max: was derived from .* 12 steps, .* for 16"
    with pytest.raises(ConfigError, match=derived):
        resume(tmp_path / "run", "trainer.max_epochs=4")
    with pytest.raises(ConfigError, match="max_epochs=1: lies before epoch 3"):
        resume(tmp_path / "run", "trainer.max_epochs=1")


def test_other_workers_loggers_and_callbacks_are_no_change(tmp_path: Path) -> None:
    train(composed([*TINY, *STEPS, "trainer.max_epochs=2"]), tmp_path / "run")
    words = ["trainer.max_epochs=3", "data.num_workers=1", "+logger=tensorboard"]
    resume(tmp_path / "run", *words, "callbacks.last.every_minutes=0.0001")
    whole = uninterrupted([*TINY, *STEPS])
    assert (tmp_path / "run/metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    assert list((tmp_path / "run/tensorboard").iterdir())


def test_directory_without_a_run_or_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    cfg = composed(TINY)
    cfg.resume = str(tmp_path)
    with pytest.raises(ConfigError, match="holds no run"):
        train(cfg)
    train(composed([*TINY, "callbacks.best=null", "callbacks.last=null"]), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"no checkpoint to resume from.*Start it anew"):
        resume(tmp_path / "run")


def test_run_killed_early_starts_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = uninterrupted(TINY)
    crash(TINY, tmp_path / "run", "on_train_batch_end", 1)
    resume(tmp_path / "run")
    assert "holds no checkpoint yet; it starts from the beginning" in capsys.readouterr().out
    assert_same(whole, tmp_path / "run")


def test_moved_run_goes_on_exactly(tmp_path: Path) -> None:
    names = [*TINY, EACH_STEP]
    crash(names, tmp_path / "before", "on_train_batch_end", 6)
    (tmp_path / "before").rename(tmp_path / "after")
    resume(tmp_path / "after")
    assert_same(uninterrupted(names), tmp_path / "after")


def test_negative_distances_between_checkpoints_are_refused() -> None:
    for name in ("every_n_steps", "every_minutes", "min_seconds"):
        with pytest.raises(
            ConfigError, match=f"callbacks.last.{name}=-1: must be (above|at least) 0"
        ):
            build(composed([f"callbacks.last.{name}=-1"]))


# --- Pieces --------------------------------------------------------------------------------------


def test_batches_begin_at_their_start_and_only_in_that_epoch() -> None:
    def batches(start: tuple[int, int]) -> Batches:
        return Batches(23, 5, seed=3, shuffle=True, drop_last=False, start=start)

    whole, begun = batches((0, 0)), batches((4, 2))
    whole.set_epoch(4)
    assert not differences(list(whole)[2:], list(begun))  # before set_epoch is called, too
    for epoch in (4, 5):
        whole.set_epoch(epoch)
        begun.set_epoch(epoch)
        assert len(list(begun)) == (3 if epoch == 4 else 5)
    assert not differences(list(whole), list(begun))
    assert len(begun) == 5


def test_command_line_names_the_run_to_continue(done: Path) -> None:
    line = [f"resume={done}", "trainer.max_epochs=9", "logger=tensorboard"]
    assert find_resumed_run(line) == (done, line[1:], False)
    assert find_resumed_run([f"resume={quote(done)}"]) == (done, [], False)
    assert find_resumed_run(["resume=null", "seed=1"]) is None
    of_sweep = [f"resume={done}", "hydra.job.num=3", "hydra.mode=RUN"]
    assert find_resumed_run(of_sweep) == (done, [], True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m"], "leave out -m"),
        (["hydra.run.dir=other"], "in its directory; leave out hydra.run.dir=other"),
    ],
)
def test_command_line_that_a_run_cannot_take_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        find_resumed_run(["resume=run", *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer=sgd", "optimizer=sgd: would change"),
        ("optimizer.lrr=1", "^optimizer.lrr: .*Correct optimizer.lrr=1"),
        ("trainer.max_epochs=3,4", "^trainer.max_epochs: has several values"),
        ("trainer.max_epochs=[3", r"^trainer.max_epochs=\[3: cannot be read; put quotes"),
        ("resume=nowhere", "^nowhere holds no run"),
    ],
)
def test_override_that_a_run_cannot_take_is_refused(override: str, words: str, done: Path) -> None:
    run = [] if override.startswith("resume") else [f"resume={done}"]
    with pytest.raises(ConfigError, match=words):
        compose([*run, override])


def test_overrides_apply_to_the_record_and_choose_loggers(done: Path) -> None:
    words = ["trainer.max_epochs=9", "+trainer.min_epochs=2", "~data.flip", "logger=tensorboard"]
    cfg = compose([f"resume={done}", *words])
    assert (cfg.trainer.max_epochs, cfg.trainer.min_epochs) == (9, 2)
    assert "flip" not in cfg.data
    assert [*cfg.logger] == ["tensorboard"]


def test_run_of_version_0_1_is_refused(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done / ".hydra", tmp_path / ".hydra")
    for file in tmp_path.rglob("config.yaml"):
        file.write_text(file.read_text().replace("project.model.mlp.MLP", "quartet.model.mlp.MLP"))
    with pytest.raises(ConfigError, match=r"version 0.1 trained this run.*evaluate.py, predict.py"):
        compose([f"resume={tmp_path}"])
    assert evaluation_config(tmp_path, []).model._target_ == "project.model.mlp.MLP"


# --- Processes -----------------------------------------------------------------------------------


LONGEST = 300  # seconds that a process may take for anything
start = functools.partial(processes.start, ROOT)


def wait_for(path: Path, process: Command, pause: float = 0.01) -> None:
    """Returns once there is such a file, or the process has ended."""
    end = time.monotonic() + LONGEST
    while not path.exists() and process.poll() is None:
        assert time.monotonic() < end, f"no {path}"
        time.sleep(pause)


def finish(*arguments: str) -> None:
    status, _, err = processes.run(ROOT, *arguments)
    assert status == 0, err


def kill(directory: Path, *arguments: str, number: int, delay: float) -> bool:
    """Kills a run some time after a checkpoint was written; returns whether it was under way."""
    process = start(f"hydra.run.dir={directory}", *arguments)
    path, seen, written = directory / "checkpoints/last.ckpt", 0, 0
    end = time.monotonic() + LONGEST
    while process.poll() is None and seen < number:
        assert time.monotonic() < end, f"only {seen} of {number} checkpoints"
        time.sleep(0.0005)
        if path.exists() and (at := path.stat().st_mtime_ns) != written:
            seen, written = seen + 1, at
    time.sleep(delay)
    running = process.poll() is None
    process.kill()
    process.communicate()
    return running


def test_killed_process_goes_on_exactly(tmp_path: Path) -> None:
    place = random.SystemRandom()
    number, delay = place.randint(1, 8), place.uniform(0, 0.01)
    print(f"killed {delay} s after checkpoint {number}")  # for the report of a failure
    names = [*TINY, *RICH, EACH_STEP, "trainer.max_epochs=7"]
    assert kill(tmp_path / "run", *names, number=number, delay=delay), "it was too fast"
    train(composed(names), tmp_path / "whole")
    resume(tmp_path / "run")
    assert_same(tmp_path / "whole", tmp_path / "run")


def test_two_starts_in_one_directory_leave_one_run(tmp_path: Path) -> None:
    names = [f"hydra.run.dir={tmp_path / 'run'}", *TINY]
    processes = {lr: start(*names, f"optimizer.lr={lr}") for lr in (0.01, 0.02)}
    told = {lr: "".join(process.communicate(timeout=300)) for lr, process in processes.items()}
    statuses = {processes[lr].returncode: lr for lr in processes}
    assert statuses.keys() == {0, 2}, told
    assert "already holds a run, and nothing in it was touched" in told[statuses[2]]
    assert f"lr: {statuses[0]}" in (tmp_path / "run/.hydra/config.yaml").read_text()
    assert (tmp_path / "run/train.log").exists()


def test_signal_while_the_result_is_written_loses_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    process = start(f"hydra.run.dir={directory}", *TINY, "trainer.max_epochs=100000")
    wait_for(directory / "checkpoints/last.ckpt", process)
    process.send_signal(signal.SIGINT)
    wait_for(directory / ".result.json.part", process, pause=0)
    process.send_signal(signal.SIGINT)
    output = "".join(process.communicate(timeout=300))
    assert process.returncode == 130, output
    assert output.splitlines()[-1].endswith(f"train.py resume={directory}")
    assert json.loads((directory / "result.json").read_text())["status"] == "interrupted"
    assert (directory / ".hydra/config.yaml").exists()


def test_signals_wait_for_what_must_not_be_broken_off() -> None:
    own = ShutdownHandler()
    seen = []

    def write() -> None:
        with own.masked():
            for _ in range(2):
                own.handle(signal.SIGINT, None)
                seen.append(own.exit_code)

    with pytest.raises(SystemExit, match="130"):
        write()
    assert seen == [0, 0]


def test_refused_start_leaves_no_record(done: Path, train_py: Cli) -> None:
    before = sorted((done / ".hydra").iterdir())
    assert "optimizer.lr: 0.002 -> 1" in train_py.refuse(f"resume={done}", "optimizer.lr=1")
    assert sorted((done / ".hydra").iterdir()) == before


# Dropout and shuffling besides, in all of them.
MORE = (
    [],
    ["trainer.accumulate_grad_batches=2", "scheduler.warmup_steps=3"],
    ["data=image_folder", "data.path=PICTURES", "data.image_size=8", "data.flip=true"],
    ["data=digits", "trainer.limit_train_batches=8", "data.flip=true", "data.crop=1"],
)
PICTURES = ["data.crop=2", "data.batch_size=8", "data.num_workers=2", "scheduler.warmup_steps=3"]


def plain(optimizer: str, scheduler: str) -> bool:
    """Whether a pair takes no warm-up and no accumulation: they are refused."""
    return optimizer == "lbfgs" or scheduler in ("one_cycle", "cyclic")


@pytest.mark.slow
@pytest.mark.parametrize("share", range(4))
def test_processes_killed_at_random_go_on_exactly(tmp_path: Path, share: int) -> None:
    """At least 20 kills in all: every optimizer and every scheduler, of some runs two."""
    paint(tmp_path / "pictures", dark=20, light=20)
    place = random.Random(share)
    kills = 0
    for index, (optimizer, scheduler) in list(enumerate(PAIRS))[share::4]:
        more = list(MORE[share])
        if share == 2:
            more = [x.replace("PICTURES", str(tmp_path / "pictures")) for x in [*more, *PICTURES]]
        if plain(optimizer, scheduler):
            more = [x for x in more if "warmup" not in x and "accumulate" not in x]
        names = [
            *(*TINY, EACH_STEP, "trainer.max_epochs=8", f"optimizer={optimizer}"),
            *(f"scheduler={scheduler}", *SHORT.get(scheduler, []), *more),
        ]
        whole, run = tmp_path / f"whole-{index}", tmp_path / f"run-{index}"
        train(composed(names), whole)
        kills += kill(run, *names, number=place.randint(1, 20), delay=place.uniform(0, 0.02))
        if index // 4 % 2:
            resume(run)
        else:
            process = start(f"resume={run}")
            time.sleep(place.uniform(0.3, 1.5))  # while it starts, or trains
            kills += process.poll() is None
            process.kill()
            process.communicate()
            finish(f"resume={run}")
        assert_same(whole, run)
    print(f"{kills} kills of {len(PAIRS[share::4])} runs")
    assert kills >= 5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_gpu_run_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    check(["trainer=gpu", "trainer.deterministic=true"], tmp_path, WITHIN)
