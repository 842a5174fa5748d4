"""Averaged weights: those of a hand-written loop, and those that are validated, saved, tested."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from made import composed, refusals
from torch import Tensor, nn

from quartet.build import build
from quartet.inference.evaluate import evaluate
from quartet.reports.run import describe_run
from quartet.run import train
from quartet.training.callbacks.averaging import EMA

# 70 training rows: batches of 20, 20, 20 and 10.
TINY = (
    *("data=linear", "data.batch_size=20", "model.hidden=[16]", "model.norm=batch"),
    *("optimizer=sgd", "optimizer.lr=0.1", "trainer=cpu", "trainer.max_epochs=4"),
    *("callbacks.progress_bar=null", "callbacks.last.every_n_steps=1"),
)


State = dict[str, Tensor]
Average = Callable[[State, State, int], None]


def floats(model: nn.Module) -> dict[str, Tensor]:
    return {k: v for k, v in model.state_dict().items() if v.is_floating_point()}


def by_hand(average: Average, names: tuple[str, ...]) -> tuple[State, State]:
    """Weights and their average, with the statistics of batch normalisation, of a plain loop."""
    run = build(composed(names))
    run.data.load()
    model, loader = run.module.model, run.data.train_dataloader()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    averaged: dict[str, Tensor] = {}
    step = 0
    for epoch in range(4):
        loader.batch_sampler.set_epoch(epoch)
        for inputs, targets in loader:
            optimizer.zero_grad()
            nn.functional.mse_loss(model(inputs), targets).backward()
            optimizer.step()
            step += 1
            average(averaged, floats(model), step)
    return floats(model), averaged


def ema(averaged: State, weights: State, step: int, warmup: bool = True) -> None:
    decay = min(0.9, step / (9 + step)) if warmup else 0.9  # after step - 1 updates
    for name, value in weights.items():
        if step == 1:
            averaged[name] = value.clone()
        else:
            averaged[name].lerp_(value, 1 - decay)


def swa(averaged: State, weights: State, step: int) -> None:
    counted = {8: 0, 12: 1, 16: 2}  # the ends of epochs 2, 3 and 4 of 4 steps
    for name, value in weights.items():
        if step == 8:
            averaged[name] = value.clone()
        elif step in counted:
            averaged[name] += (value - averaged[name]) / (counted[step] + 1)


CASES: dict[str, tuple[Average, list[str]]] = {
    "ema": (ema, ["callbacks=ema", "callbacks.ema.decay=0.9"]),
    "ema at once": (
        partial(ema, warmup=False),
        ["callbacks=ema", "callbacks.ema.decay=0.9", "callbacks.ema.warmup=false"],
    ),
    "swa": (swa, ["callbacks=swa", "callbacks.swa.start=0.25"]),
}


def saved(directory: Path, name: str, key: str = "state_dict") -> dict[str, Tensor]:
    state = torch.load(directory / "checkpoints" / f"{name}.ckpt", weights_only=True)[key]
    return {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}


@pytest.mark.parametrize("case", CASES)
def test_average_equals_that_of_a_plain_loop_bit_for_bit(case: str, tmp_path: Path) -> None:
    average, names = CASES[case]
    overrides = (*TINY, *names)
    weights, averaged = by_hand(average, overrides)
    train(composed(overrides), tmp_path)
    last, current = saved(tmp_path, "last"), saved(tmp_path, "last", "current_model_state")
    assert all(torch.equal(last[name], value) for name, value in averaged.items())
    assert all(torch.equal(current[name], value) for name, value in weights.items())
    assert any(not torch.equal(last[name], current[name]) for name in averaged)


def test_short_training_does_not_validate_its_first_weights(tmp_path: Path) -> None:
    learnable = [*TINY, "data=diabetes", "optimizer.lr=0.003", "model.norm=none"]
    losses = {}
    for name, more in {
        "weights": [],
        "average": ["callbacks=ema", "callbacks.ema.decay=0.999"],
        "first": ["callbacks=ema", "callbacks.ema.decay=0.999", "callbacks.ema.warmup=false"],
    }.items():
        losses[name] = train(composed([*learnable, *more]), tmp_path / name)["metrics"]["val/loss"]
    assert losses["average"] < 1.05 * losses["weights"]
    assert losses["first"] > 1.1 * losses["weights"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("warmup=false decay=0.999", r"91% of the average after 100 steps .*set its warmup=true"),
        ("warmup=false decay=0.99 every_n_steps=2", r"61% of .* first update; set its warmup"),
        ("decay=0.999", None),
        ("warmup=false decay=0.9", None),
        ("start_step=98", r"18% of .* are the weights of its first update; train for longer"),
        ("start_step=100", r"is not updated in 100 steps; lower its start_step"),
    ],
)
def test_average_of_first_weights_is_cautioned_about(
    overrides: str, words: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"callbacks.ema.{override}" for override in overrides.split()]
    length = ["trainer.max_steps=100", "trainer.max_epochs=99"]
    cfg = composed([*TINY, *length, "callbacks=ema", *names])
    described = describe_run(cfg)
    callback: Any = next(x for x in build(cfg).trainer.callbacks if isinstance(x, EMA))
    callback.on_train_start(SimpleNamespace(max_steps=100, max_epochs=-1), None)
    for text in (described, caplog.text):
        assert re.search(words, text) if words else "average" not in text


@pytest.mark.parametrize("case", ["ema", "swa"])
def test_average_is_what_is_validated_and_tested(case: str, tmp_path: Path) -> None:
    learnable = [*TINY, "data=diabetes", "optimizer.lr=0.003"]
    overrides = [*learnable, *CASES[case][1]]
    result = train(composed(overrides), tmp_path)
    assert result["monitor"]["epoch"] > 2  # there is an average by then
    test = evaluate(composed(overrides), tmp_path, checkpoint="best")
    for name, value in test.items():
        assert result["metrics"][name] == value
    run = build(composed(learnable))
    weights = saved(tmp_path, "best")
    run.module.model.load_state_dict(weights)
    run.module.model.eval()
    with torch.no_grad():
        for part in ("val", "test"):
            inputs, targets = getattr(run.data.load(), part).tensors
            loss = nn.functional.mse_loss(run.module.model(inputs), targets)
            assert result["metrics"][f"{part}/loss"] == pytest.approx(loss.item(), rel=1e-6)


def test_weights_themselves_are_validated_and_saved_until_an_average_begins(tmp_path: Path) -> None:
    plain, late = tmp_path / "plain", tmp_path / "late"
    for directory, names in ((plain, []), (late, ["callbacks=ema", "callbacks.ema.start_step=99"])):
        train(composed([*TINY, *names]), directory)
    assert (plain / "metrics.csv").read_text() == (late / "metrics.csv").read_text()
    for name in ("best", "last"):
        one, other = saved(plain, name), saved(late, name)
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_constant_buffers_stay_what_they_are(tmp_path: Path) -> None:
    names = ["data=diabetes", "callbacks=ema", "trainer.max_epochs=2"]
    train(composed(names), tmp_path)
    state: Any = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    for name in ("task.mean", "task.std"):
        assert torch.equal(state["state_dict"][name], state["current_model_state"][name])


def test_no_update_waits_for_the_device() -> None:
    run = build(composed([*TINY, "callbacks=ema"]))
    (callback,) = (each for each in run.trainer.callbacks if isinstance(each, EMA))
    callback.setup(run.trainer, run.module, "fit")
    # As in test_options: without values, looking at one fails, where a GPU would be waited for.
    run.module.to("meta")
    callback.on_fit_start(run.trainer, run.module)
    for step in range(1, 4):
        callback.on_train_batch_end(SimpleNamespace(global_step=step), run.module, None, None, 0)
    average = callback._average_model
    assert average.n_averaged == 3
    assert all(tensor.is_meta for tensor in average.module.state_dict().values())


test_averages_that_cannot_be_are_refused = refusals(
    ("callbacks=[ema,swa]", r"^callbacks: EMA and SWA each average the weights; choose one"),
    ("callbacks=ema callbacks.ema.decay=1", r"^callbacks.ema.decay=1: must be in \[0, 1\)"),
    ("callbacks=ema callbacks.ema.every_n_steps=0", r"every_n_steps=0: must be at least 1"),
    ("callbacks=swa callbacks.swa.start=1", r"^callbacks.swa.start=1: must be in \[0, 1\)"),
    (
        "callbacks=swa trainer.max_epochs=-1 trainer.max_time=00:00:01:00",
        r"callbacks.swa.start=0.75: .* trainer.max_epochs",
    ),
    (
        "+callbacks.mine._target_=lightning.pytorch.callbacks.EMAWeightAveraging",
        r"EMAWeightAveraging leaves the average out of .*; use callbacks=ema",
    ),
)
