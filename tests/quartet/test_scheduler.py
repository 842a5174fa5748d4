"""Schedules: their horizon, ticks, warm-up and momentum, and what is refused."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from made import rejections
from omegaconf import OmegaConf
from torch import nn
from torch.optim import SGD, Adam, Optimizer, lr_scheduler
from torch.optim.lr_scheduler import ReduceLROnPlateau

from quartet.training.schedule import Schedule, create

CONF = Path(__file__).parents[2] / "conf" / "scheduler"
EPOCHS, STEPS_PER_EPOCH = 24, 3
TOTAL_STEPS = EPOCHS * STEPS_PER_EPOCH
SHARED = {"frequency": 1, "warmup_steps": 0, "warmup_epochs": 0}
DRIVING = ("interval", "frequency", "warmup_steps", "warmup_epochs", "monitor")
LEARNING_RATES = (0.1, 0.02)


def two_groups(kind: Callable[..., Optimizer] = SGD, **keywords: Any) -> Optimizer:
    first, second = (nn.Parameter(torch.zeros(1)) for _ in LEARNING_RATES)
    groups = [{"params": [first]}, {"params": [second], "lr": LEARNING_RATES[1]}]
    return kind(groups, lr=LEARNING_RATES[0], **keywords)


def from_yaml(
    name: str, optimizer: Optimizer, *, metric: str = "val/loss", **overrides: Any
) -> Schedule:
    length = {"total_steps": TOTAL_STEPS, "steps_per_epoch": STEPS_PER_EPOCH, "validate_every": 1}
    length |= {key: overrides.pop(key) for key in length.keys() & overrides}
    monitor = {"monitor": {"metric": metric, "mode": "min"}}
    node = OmegaConf.load(CONF / f"{name}.yaml")
    config = OmegaConf.merge(monitor, {"scheduler": SHARED}, {"scheduler": node})
    config = OmegaConf.merge(config, {"scheduler": overrides})
    keywords: dict[str, Any] = OmegaConf.to_container(config, resolve=True)["scheduler"]
    keywords.pop("search", None)
    driving = {key: keywords.pop(key, None) for key in DRIVING}
    factory = None
    if keywords["_target_"] is not None:
        partial = hydra.utils.instantiate(keywords, _partial_=True, _convert_="all")
        factory = functools.partial(partial.func, *partial.args, **partial.keywords)
    return create(optimizer, factory, **length, **driving)


def rates_of(optimizer: Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


def loss_after(epoch: int) -> float:
    return max(0.5, 1.0 - 0.1 * epoch)


def train(
    schedule: Schedule, optimizer: Optimizer, epochs: int = EPOCHS, metric: Any = loss_after
) -> list[list[float]]:
    """The learning rates of every optimizer step and those left over at the end, ticked as
    Lightning's training loop ticks the configs."""
    rates = []
    step = 0

    def tick(interval: str, index: int) -> None:
        for config in schedule.configs:
            scheduler = config["scheduler"]
            if config["interval"] != interval or (index + 1) % config["frequency"]:
                continue
            if scheduler is not schedule.warmup and not schedule.due(step):
                continue
            if isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step(metric(index))
            else:
                scheduler.step()

    for epoch in range(epochs):
        for batch in range(STEPS_PER_EPOCH):
            rates.append(rates_of(optimizer))
            optimizer.step()
            step += 1
            tick("step", batch)
        tick("epoch", epoch)
    return [*rates, rates_of(optimizer)]


def test_warmup_counts_parts_of_an_epoch_and_without_one_there_is_no_config() -> None:
    schedule = from_yaml("none", two_groups(), warmup_epochs=1.5, steps_per_epoch=20)
    assert schedule.warmup_steps == 30
    schedule = from_yaml("none", two_groups())
    assert schedule.configs == []
    assert schedule.warmup is None


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("warmup_steps", [0, 7, 9])
@pytest.mark.parametrize("frequency", [1, 3])
@pytest.mark.parametrize(("name", "end"), [("cosine", 0.0), ("linear", 0.01), ("polynomial", 0.0)])
def test_horizon_ends_with_the_training(
    name: str, end: float, frequency: int, warmup_steps: int, interval: str
) -> None:
    optimizer = two_groups()
    settings = {"interval": interval, "frequency": frequency, "warmup_steps": warmup_steps}
    rates = train(from_yaml(name, optimizer, **settings), optimizer)
    for group, top in enumerate(LEARNING_RATES):
        series = [rate[group] for rate in rates]
        assert series[-1] == pytest.approx(end * top, abs=1e-12)
        assert max(series) == pytest.approx(top)
        assert min(series[warmup_steps:]) == series[-1]
        assert min(series[warmup_steps : -frequency * STEPS_PER_EPOCH]) > end * top


@pytest.mark.parametrize(
    ("name", "key", "settings", "ticks"),
    [
        ("cosine", "T_max", {"interval": "step", "total_steps": 25, "warmup_steps": 4}, 21),
        ("cosine", "T_max", {"interval": "step", "total_steps": 25, "frequency": 4}, 6),
        ("cosine", "T_max", {"interval": "epoch", "total_steps": 25, "steps_per_epoch": 10}, 3),
        ("linear", "total_iters", {"total_steps": 60, "steps_per_epoch": 10, "frequency": 2}, 3),
        ("linear", "total_iters", {"total_steps": 6, "steps_per_epoch": 3, "frequency": 5}, 1),
        ("one_cycle", "total_steps", {"total_steps": 25, "warmup_steps": 4}, 21),
        ("one_cycle", "total_steps", {"total_steps": 25, "frequency": 2}, 13),
    ],
)
def test_horizon_counts_ticks(name: str, key: str, settings: dict[str, Any], ticks: int) -> None:
    schedule = from_yaml(name, two_groups(), **settings)
    assert getattr(schedule.configs[0]["scheduler"], key) == ticks


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("warmup_steps", range(0, 30, 7))
@pytest.mark.parametrize("frequency", [1, 2, 3, 5])
def test_ticks_are_those_of_lightning(frequency: int, warmup_steps: int, interval: str) -> None:
    optimizer = two_groups()
    schedule = from_yaml(
        "exponential", optimizer, interval=interval, frequency=frequency, warmup_steps=warmup_steps
    )
    train(schedule, optimizer)
    assert schedule.configs[0]["scheduler"].last_epoch == schedule.ticks


def test_training_without_an_end_has_no_ticks_and_keeps_a_given_horizon() -> None:
    schedule = from_yaml("cosine", two_groups(), T_max=7, total_steps=math.inf)
    assert schedule.ticks is None
    assert schedule.configs[0]["scheduler"].T_max == 7


@pytest.mark.parametrize(
    ("interval", "frequency", "due"), [("step", 1, [6, 10, 14]), ("epoch", 4, [*range(3, 15)])]
)
def test_frequency_of_steps_or_epochs(interval: str, frequency: int, due: list[int]) -> None:
    schedule = from_yaml("cosine", two_groups(), interval=interval, frequency=4, warmup_steps=2)
    assert schedule.configs[0]["frequency"] == frequency
    assert [step for step in range(15) if schedule.due(step)] == due


@pytest.mark.parametrize(
    ("metric", "frequency", "validate_every", "ticks_every"),
    [("val/loss", 1, 5, 5), ("val/loss", 4, 6, 12), ("train/loss", 4, 6, 4)],
)
def test_plateau_looks_where_its_value_is_new(
    metric: str, frequency: int, validate_every: int, ticks_every: int
) -> None:
    settings = {"metric": metric, "frequency": frequency, "validate_every": validate_every}
    (config,) = from_yaml("plateau", two_groups(), **settings).configs
    assert config["frequency"] == ticks_every
    assert config["monitor"] == metric


def test_plateau_leaves_a_warmup_alone() -> None:
    optimizer = two_groups()
    schedule = from_yaml("plateau", optimizer, warmup_epochs=10, patience=0)
    rates = train(schedule, optimizer, epochs=14, metric=lambda _: 1.0)
    first_group = [group[0] for group in rates]
    assert max(first_group) == pytest.approx(0.1)
    assert first_group[-1] == pytest.approx(0.1 * 0.1**3)


def test_numbers_for_a_cycle_are_scaled_for_each_group() -> None:
    optimizer = two_groups()
    from_yaml("one_cycle", optimizer, max_lr=1.0)
    assert [group["max_lr"] for group in optimizer.param_groups] == pytest.approx([1.0, 0.2])
    schedule = from_yaml("cyclic", two_groups(), base_lr=0.5, max_lr=1)
    scheduler = schedule.configs[0]["scheduler"]
    assert scheduler.base_lrs == pytest.approx([0.5, 0.1])
    assert scheduler.max_lrs == pytest.approx([1.0, 0.2])


@pytest.mark.parametrize("name", ["one_cycle", "cyclic"])
@pytest.mark.parametrize(
    ("kind", "settings", "cycle_momentum", "cycles"),
    [
        (SGD, {"momentum": 0.9}, None, True),
        (SGD, {"momentum": 0.9}, True, True),
        (SGD, {"momentum": 0.9}, False, False),
        (SGD, {}, None, False),
        (SGD, {}, False, False),
        (Adam, {}, None, True),
        (Adam, {}, False, False),
        (torch.optim.Adagrad, {}, None, False),
    ],
)
def test_momentum_cycles_where_there_is_momentum(
    name: str, kind: Any, settings: dict[str, Any], cycle_momentum: bool | None, cycles: bool
) -> None:
    def momentum() -> Any:
        group = optimizer.param_groups[0]
        return group["betas"][0] if "betas" in group else group.get("momentum")

    optimizer = two_groups(kind, **settings)
    before = momentum()
    schedule = from_yaml(name, optimizer, cycle_momentum=cycle_momentum, warmup_steps=3)
    top = {"one_cycle": 0.95, "cyclic": 0.9}[name]
    assert momentum() == (top if cycles else before)
    train(schedule, optimizer, epochs=5)
    assert (momentum() < top) if cycles else (momentum() == before)


NO_MOMENTUM = r"scheduler.cycle_momentum=true needs momentum.*SGD.*null"


test_impossible_settings_are_refused = rejections(
    lambda name, settings: from_yaml(name, two_groups(), **settings),
    (
        "step",
        {"warmup_epochs": 1, "warmup_steps": 5},
        r"warmup_steps=5 sets the warm-up, and so does .*; set one",
    ),
    ("one_cycle", {"cycle_momentum": True}, NO_MOMENTUM),
    ("cyclic", {"cycle_momentum": True}, NO_MOMENTUM),
    ("none", {"warmup_steps": 72}, r"warm-up of 72 optimizer steps .* training of 72; shorten"),
    ("cosine", {"warmup_epochs": 30}, r"warm-up of 90 optimizer steps .* training of 72"),
    ("plateau", {"interval": "step"}, r"interval=step does not suit.*interval=epoch"),
    ("plateau", {"monitor": None}, r"needs a value to compare; set scheduler.monitor"),
    ("cosine", {"total_steps": math.inf}, r"T_max cannot be .*set scheduler.T_max itself"),
    ("linear", {"total_steps": -1}, r"total_iters cannot be .*trainer.max_epochs"),
    ("one_cycle", {"total_steps": -1}, r"total_steps cannot be"),
    ("one_cycle", {"pct_start": 1.0}, r"pct_start=1.0 leaves a phase of the 72 ticks empty"),
    ("one_cycle", {"pct_start": 0.125, "total_steps": 8}, r"pct_start=0.125.*such as 0.3"),
    ("one_cycle", {"pct_start": 0.6, "three_phase": True}, r"pct_start=0.6 leaves a phase"),
)


def test_one_cycle_that_ends_before_the_training_is_refused() -> None:
    factory = functools.partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=50)
    with pytest.raises(ValueError, match=r"total_steps=50 is shorter.* 72 times; set .*=null"):
        create(
            two_groups(momentum=0.9), factory, interval="step", frequency=1, warmup_steps=0,
            warmup_epochs=0, monitor=None, total_steps=72, steps_per_epoch=3, validate_every=1,
        )  # fmt: skip
