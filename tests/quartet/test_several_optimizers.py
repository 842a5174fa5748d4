"""Several optimizers, each a group of its own; manual optimization with them trains as automatic."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from made import PROJECT, TINY, assert_refused, composed, project_part, weights
from omegaconf import OmegaConf
from test_resume import assert_resumes
from torch import nn
from training_by_hand import settings as rates

from quartet.build import Run, build
from quartet.config.overrides import is_job_override
from quartet.core.problems import ConfigError
from quartet.reports.run import describe_run
from quartet.run import train

pytestmark = pytest.mark.usefixtures("quiet")
SHORT = (*TINY, "optimizer.lr=0.05")
CRITIC = ("+optimizer@critic_optimizer=adam", "critic_optimizer.lr=0.05")
Module: Any = project_part("module.Module")


class Manual(Module):
    """Takes the steps itself."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        optimizers = self.optimizers()
        every = optimizers if isinstance(optimizers, list) else [optimizers]
        for optimizer in every:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in every:
            optimizer.step()
        return loss


class Two(Manual):
    """Trains the first layer with one optimizer, and the others with another."""

    def configure_optimizers(self) -> Any:
        first = self.make_optimizer(self.model.layers[0])
        second = self.make_optimizer(self.model.layers[1:], "critic_optimizer")
        schedules = self.make_scheduler(first)
        if "critic_scheduler" in self.scheduler_factories:
            schedules += self.make_scheduler(second, "critic_scheduler")
        return [first, second], schedules


class Accumulating(Manual):
    """Takes a step every second batch, and at the end of an epoch."""

    batches_per_step = 2

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = Module.training_step(self, batch, batch_idx)
        self.manual_backward(loss / 2)
        if batch_idx % 2 or self.trainer.is_last_batch:
            self.optimizers().step()
            self.optimizers().zero_grad()
        return loss


@pytest.fixture(autouse=True)
def _modules(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in (Manual, Two, Accumulating):
        monkeypatch.setattr(each, "__module__", f"{PROJECT}.module")
        monkeypatch.setattr(f"{PROJECT}.module.{each.__name__}", each, raising=False)


def module(name: str) -> str:
    return f"module._target_={PROJECT}.module.{name}"


def fitted(directory: Path, *overrides: str) -> tuple[Run, pd.DataFrame]:
    run = build(composed([*SHORT, *overrides]), directory)
    run.trainer.fit(run.module, run.data)
    return run, pd.read_csv(directory / "metrics.csv")


BOTH = {
    "cosine by epochs": ["cosine"],
    "cosine by steps after a warm-up": ["cosine", "interval=step", "warmup_steps=3", "frequency=2"],
    "one cycle": ["one_cycle"],
    "plateau after a warm-up": ["plateau", "warmup_epochs=1", "patience=0", "threshold=0.5"],
}


def both(options: Sequence[str]) -> list[str]:
    """A schedule for both optimizers."""
    name, *settings = options
    groups = [("scheduler", "scheduler"), ("+scheduler@critic_scheduler", "critic_scheduler")]
    chosen = [f"{group}={name}" for group, _ in groups]
    return chosen + [f"{key}.{setting}" for _, key in groups for setting in settings]


@pytest.mark.parametrize("schedule", BOTH)
def test_two_optimizers_train_as_one_does(schedule: str, tmp_path: Path) -> None:
    chosen = both(BOTH[schedule])
    whole, expected = fitted(tmp_path / "one", *[each for each in chosen if "critic" not in each])
    run, history = fitted(tmp_path / "two", module("Two"), *CRITIC, *chosen)
    assert torch.equal(weights(run), weights(whole))
    assert history.pop("lr/critic_optimizer").equals(history["lr"])
    pd.testing.assert_frame_equal(history, expected[history.columns])
    assert history["lr"].nunique() > 1
    assert run.trainer.global_step == 12


@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer.max_steps=10", "scheduler=cosine", "scheduler.interval=step"],
        ["trainer.val_check_interval=0.5", "callbacks=ema", "callbacks.ema.start_step=5"],
        ["callbacks=swa", "callbacks.swa.start=0.6"],
        ["data=diabetes", "data.batch_size=100", "model.norm=batch", "optimizer.lr=0.01"],
    ],
    ids=" ".join,
)
def test_manual_optimization_trains_as_automatic_does(overrides: list[str], tmp_path: Path) -> None:
    whole, expected = fitted(tmp_path / "automatic", *overrides)
    run, history = fitted(tmp_path / "manual", module("Manual"), *overrides)
    assert torch.equal(weights(run), weights(whole))
    pd.testing.assert_frame_equal(history, expected)


@pytest.mark.parametrize("schedule", ["interval=step", "warmup_epochs=1", "interval=epoch"])
def test_steps_every_few_batches_are_those_of_accumulation(schedule: str, tmp_path: Path) -> None:
    settings = ["scheduler=cosine", f"scheduler.{schedule}", "data.batch_size=15"]  # 5 batches
    automatic = [*settings, "trainer.accumulate_grad_batches=2"]
    whole, expected = fitted(tmp_path / "automatic", *automatic)
    run, history = fitted(tmp_path / "manual", module("Accumulating"), *settings)
    assert torch.equal(weights(run), weights(whole))
    assert run.trainer.global_step == whole.trainer.global_step == 9
    assert history["lr"].equals(expected["lr"])


def test_steps_of_every_optimizer_are_equal_only_if_its_settings_are(tmp_path: Path) -> None:
    """The comparisons above would see it if the second group were not used."""
    one, _ = fitted(tmp_path / "one", module("Two"), *CRITIC)
    other, _ = fitted(tmp_path / "other", module("Two"), *CRITIC, "critic_optimizer.lr=0.04")
    assert not torch.equal(weights(one), weights(other))


def test_policy_is_that_of_each_group() -> None:
    settings = [
        *("optimizer.weight_decay=0.1", "critic_optimizer.decay_bias_and_norm=false"),
        *("critic_optimizer.weight_decay=0.2", "critic_optimizer.lr_factors={layers.3.bias: 0.5}"),
        *("model.hidden=[16,8]", "critic_optimizer.freeze=[layers.6.weight]"),
    ]
    run = build(composed([*SHORT, module("Two"), *CRITIC, *settings]))
    run.module.try_optimizers(run.steps_per_epoch, run.total_steps, run.config["trainer"])
    first, second = (rates(run.module.model, each) for each in run.module.made_optimizers)
    assert first | second == {
        "layers.0.weight": (0.05, 0.1),
        "layers.0.bias": (0.05, 0.1),
        "layers.3.weight": (0.05, 0.2),
        "layers.3.bias": (0.025, 0.0),
        "layers.6.bias": (0.05, 0.0),
    }


REFUSED = {
    "critic_optimizer.lr=-1": r"^critic_optimizer.lr=-1: must be at least 0",
    "+critic_optimizer.lrr=1": r"^critic_optimizer.lrr: Adam has no such argument; did you mean lr",
    "critic_optimizer.freeze=[x]": r"^critic_optimizer.freeze: 'x' matches no trainable parameter",
    "critic_optimizer.lr_factors={layers.0.*: 0.1}": (
        r"^critic_optimizer.lr_factors: 'layers.0.\*' matches no trainable parameter"
    ),
    "critic_optimizer.freeze=[layers.3.*]": r"^critic_optimizer.freeze: must leave the optimizer a p",
    "critic_optimizer.search={lr: 3}": r"^critic_optimizer.search.lr=3: must be \{low",
    "critic_optimizer._target_=os.system": r"^critic_optimizer._target_=os.system: is no part of a tr",
    "critic_optimizer._target_=lightning.pytorch.callbacks.Timer": r"is a class for the group callb",
    "+scheduler@critic_scheduler=cosine": r"^critic_scheduler: the module makes no such scheduler; ca",
    "trainer.gradient_clip_val=1": (
        r"^trainer.gradient_clip_val=1: .* call self.clip_gradients\(optimizer, gradient_clip_val=1\)"
    ),
    "trainer.accumulate_grad_batches=2": r"^trainer.accumulate_grad_batches=2: .* set 1, or a larger",
    f"module._target_={PROJECT}.module.Module": (
        r"^critic_optimizer: the module makes no such optimizer; call self.make_optimizer\(\.\.\., "
        r"name='critic_optimizer'\)"
    ),
    "~optimizer@critic_optimizer": (
        r"^module: critic_optimizer is no group of this configuration, which has optimizer; choose "
        r"its option with `- /optimizer@critic_optimizer: OPTION`"
    ),
    "+critic_scheduler={T_max: 3}": r"^critic_scheduler: has no interval, .* `- /scheduler@critic_sch",
}


@pytest.mark.parametrize("override", REFUSED)
def test_mistake_is_refused_with_a_way_out(override: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "critic_scheduler=cosine" in override:
        monkeypatch.setattr(Two, "make_scheduler", lambda *_: [])
    chosen = [] if override.startswith("~") else [*CRITIC, override]
    with pytest.raises(ConfigError) as error:
        build(composed([*SHORT, module("Two"), *chosen]))
    assert any(re.search(REFUSED[override], each) for each in error.value.messages), error.value


SCHEDULES = [
    ("warmup_steps=20", "shorten critic_scheduler.warmup_steps or critic_scheduler.warmup_epochs"),
    ("eta_min=1", "critic_scheduler.eta_min=1: is above critic_optimizer.lr=0.05, from which"),
    ("T_max=2", "critic_scheduler.T_max=2: ends before the training, whose schedule has 3 ticks"),
    ("frequency=0", "critic_scheduler.frequency=0: must be at least 1."),
]


@pytest.mark.parametrize(("setting", "words"), SCHEDULES)
def test_schedule_is_checked(setting: str, words: str) -> None:
    schedule = ["+scheduler@critic_scheduler=cosine", f"critic_scheduler.{setting}"]
    assert_refused([*SHORT, module("Two"), *CRITIC, *schedule], re.escape(words))


def test_several_optimizers_need_manual_optimization(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Two, "__init__", Module.__init__)
    words = r"^module: makes 2 optimizers, .* set self.automatic_opti"
    assert_refused([*SHORT, module("Two"), *CRITIC], words)


def test_check_shows_every_optimizer() -> None:
    schedule = ["+scheduler@critic_scheduler=cosine"]
    found = describe_run(composed([*SHORT, module("Two"), *CRITIC, *schedule])).splitlines()
    assert "optimizer@critic_optimizer adam" in found
    assert any(re.match(r"lr +0.05 at .*, 0.05 at the end, of 176 parameters$", x) for x in found)
    assert any(re.match(r"lr/critic_optimizer +0.05 .*, 0.0125 at the end, of", x) for x in found)


PLACES = [("on_train_batch_end", 7), ("on_validation_batch_end", 2), ("on_train_epoch_end", 1)]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Two", both(["plateau", "warmup_steps=5", "patience=0", "threshold=0.5"])),
        ("Accumulating", ["scheduler=one_cycle"]),
    ],
    ids=["two", "accumulating"],
)
def test_manual_optimization_resumes(name: str, settings: list[str], tmp_path: Path) -> None:
    names = [*SHORT, module(name), *settings, "callbacks=ema", "callbacks.last.every_n_steps=1"]
    names += CRITIC if name == "Two" else ()
    train(composed(names), tmp_path / "whole")
    for number, place in enumerate(PLACES):
        assert_resumes(names, tmp_path / str(number), *place, tmp_path / "whole")


def test_module_may_step_its_schedules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step_twice(self: Any, *_: Any) -> None:
        self.lr_schedulers().step()
        self.lr_schedulers().step()

    monkeypatch.setattr(Manual, "on_train_batch_end", step_twice, raising=False)
    settings = [module("Manual"), "scheduler=exponential", "scheduler.gamma=0.5"]
    with pytest.raises(RuntimeError, match="set automatic_schedulers = False to step them here"):
        fitted(tmp_path / "both", *settings)
    monkeypatch.setattr(Manual, "automatic_schedulers", False)
    run, _ = fitted(tmp_path / "own", *settings)
    assert run.trainer.optimizers[0].param_groups[0]["lr"] == 0.05 * 0.5**24


def test_schedules_tick_once_for_each_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Manual.training_step

    def step_twice(self: Any, *batch: Any) -> Any:
        step(self, *batch)
        return step(self, *batch)

    monkeypatch.setattr(Manual, "training_step", step_twice)
    monkeypatch.setattr(Manual, "batches_per_step", 0.5)
    schedule = ["scheduler=linear", "scheduler.interval=step", "scheduler.frequency=3"]
    run, history = fitted(tmp_path, module("Manual"), *schedule, "scheduler.end_factor=0.0")
    assert (run.trainer.global_step, run.module.schedules[0].ticks) == (24, 8)
    assert history["lr"].tolist() == pytest.approx([0.05, 0.05 * 6 / 8, 0.05 * 3 / 8])


def test_warns_of_steps_that_are_not_those_of_the_schedule(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Accumulating, "batches_per_step", 1)
    with caplog.at_level(logging.WARNING):
        fitted(tmp_path, module("Accumulating"))
    assert "took 2 steps in the first epoch, and schedules and callbacks expect 4" in caplog.text


def test_parameters_outside_of_the_model_are_clipped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    run = build(composed(SHORT))
    run.module.extra = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([run.module.extra, *run.module.model.layers[0].parameters()], lr=1)
    for parameter in run.module.parameters():
        parameter.grad = torch.ones_like(parameter)
    monkeypatch.setattr(
        run.module, "clip_gradients", lambda o, *_: seen.extend(o.param_groups[0]["params"])
    )
    seen: list[Any] = []
    run.module.configure_gradient_clipping(optimizer, 1.0)
    expected = [*run.module.model.layers[0].parameters(), run.module.extra]
    assert sorted(map(id, seen)) == sorted(map(id, expected))
    assert len(optimizer.param_groups[0]["params"]) == 3


def test_group_has_the_settings_of_all_optimizers() -> None:
    cfg = composed(CRITIC[:1])
    assert cfg.critic_optimizer.freeze == []
    assert OmegaConf.to_container(cfg.critic_optimizer) == OmegaConf.to_container(cfg.optimizer)
    assert cfg.hydra.runtime.choices["optimizer@critic_optimizer"] == "adam"


@pytest.mark.parametrize(
    ("override", "plain"),
    [
        ("optimizer@critic_optimizer=adam", True),
        ("+optimizer@critic_optimizer=adam", True),
        ("optimizer@critic_optimizer=none", False),
        ("optimizer@hydra.launcher=adam", False),
        ("logger@callbacks=csv", False),
    ],
)
def test_sweep_may_name_an_option_of_another_optimizer(override: str, plain: bool) -> None:
    assert is_job_override(override) is plain
