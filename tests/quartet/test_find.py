"""Searches before a training: sane answers, and nothing left but a picture."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made import composed, project_part
from processes import Cli
from torch import Tensor

from quartet.build import build
from quartet.core.problems import ConfigError
from quartet.inference import find

MLP = project_part("model.mlp.MLP")
CPU = ["trainer=cpu", "metrics=none"]


Search = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def search(command: Cli) -> Search:
    """Gives the exit status of the script, and the overrides of its last line, a command."""

    def run(what: str, overrides: list[str]) -> tuple[int, list[str]]:
        status = command("scripts/find.py", what, *overrides)
        out, err = command.capsys.readouterr()
        if status:
            return status, [err]
        python, program, *found = shlex.split(out.splitlines()[-1])
        assert (python, program) == ("python", "train.py")
        return status, found

    return run


def loss_after(overrides: list[str], rate: float) -> float:
    """The training loss of an epoch's last batches, at a rate."""
    run = build(composed([*overrides, f"optimizer.lr={rate}", "trainer.max_epochs=1"]))
    losses: list[float] = []
    step = run.module.training_step

    def spy(batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = step(batch, batch_idx)
        losses.append(float(loss.detach()))
        return loss

    run.module.training_step = spy  # type: ignore[method-assign]
    run.trainer.loggers, run.trainer.callbacks = [], []  # type: ignore[attr-defined]
    try:
        run.trainer.fit(run.module, run.data)
    except find.NonFiniteLossError:
        return float("inf")
    return sum(losses[-10:]) / 10


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_found_rate_beats_those_far_from_it(optimizer: str, search: Search, tmp_path: Path) -> None:
    options = [*CPU, f"optimizer={optimizer}", "scheduler=one_cycle"]
    status, command = search("lr", options)
    assert status == 0
    *kept, found = command
    assert kept == options
    rate = float(found.removeprefix("optimizer.lr="))
    assert 1e-4 < rate < 3
    plain = [each for each in options if not each.startswith("scheduler")]
    best, below, above = (loss_after(plain, rate * factor) for factor in (1, 0.01, 100))
    assert best < 0.8 * min(below, above)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written == [tmp_path / "outputs/find-lr.png"]


def test_rate_has_made_most_of_the_fall_whatever_the_noise() -> None:
    rates = [10.0 ** (step / 20 - 5) for step in range(100)]
    falling = [1 / (1 + 1000 * rate) for rate in rates[:80]]  # half of it at 1e-3
    noisy = [loss + 0.3 * (-1) ** (step % 3) for step, loss in enumerate(falling)]
    for losses in (falling, noisy, [loss - 5 for loss in noisy], [*falling, 9.0, 99.0]):
        assert 2e-3 < find.choose_rate(rates, losses, find.smooth(losses, 5), 20) < 5e-3
    jumping = [1 + 0.3 * (-1) ** (step % 3) for step in range(80)]
    for flat in ([1.0] * 80, jumping, [0.0] * 6 + [1.0] * 40, falling[:9], []):
        assert find.choose_rate(rates, flat, find.smooth(flat, 5), 20) is None


@pytest.mark.parametrize("what", ["lr", "batch_size"])
def test_schedule_and_warm_up_are_left_out_of_a_search(what: str, search: Search) -> None:
    options = [*CPU, "scheduler=plateau", "scheduler.warmup_steps=100", "data.batch_size=600"]
    status, (*kept, found) = search(what, options)
    assert status == 0
    assert kept == [each for each in options if not each.startswith(found.partition("=")[0])]
    cfg = composed(options)
    run = find.prepare(cfg, 5)
    assert run.total_steps == 5
    assert run.config["scheduler"]["warmup_steps"] == 0


def test_rate_of_few_noisy_samples_trains(tmp_path: Path) -> None:
    options = [*CPU, "data=diabetes"]
    rate = find.find_learning_rate(composed(options), tmp_path / "rates.png")
    best, below, above = (loss_after(options, rate * factor) for factor in (1, 0.1, 30))
    assert best < 0.8 * min(below, above)


def test_groups_keep_their_share_of_the_rate(tmp_path: Path) -> None:
    cfg = composed([*CPU, "optimizer.lr_factors={layers.0.*: 0.1}"])
    seen: list[list[float]] = []

    class Spy(find.LearningRateSweep):
        def on_train_batch_end(self, trainer, *args, **kwargs) -> None:  # type: ignore[no-untyped-def]
            seen.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    find.fit(find.prepare(cfg, 2), Spy([0.5, 1.0], cfg.optimizer.lr))
    assert [pytest.approx(sorted(each)) for each in seen] == [[0.05, 0.5], [0.1, 1.0]]


def test_size_doubles_until_memory_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = MLP.forward

    def bounded(self: Any, inputs: Tensor) -> Tensor:
        if len(inputs) > 64:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, inputs)

    monkeypatch.setattr(MLP, "forward", bounded)
    options = ["data.batch_size=16", "trainer.val_check_interval=30"]
    found = find.find_batch_size(composed([*CPU, *options]))
    assert found in (16, 32, 64)
    lines = capsys.readouterr().out.split("\n")
    assert [int(line.split()[0]) for line in lines[:4]] == [16, 32, 64, 128]
    assert "does not fit" in lines[3]


@pytest.mark.parametrize(
    ("what", "overrides", "words"),
    [
        ("lr", ["optimizer=lbfgs"], "LBFGS finds the length of its steps itself"),
        ("lr", ["loss=mse"], "loss=mse: is for regression"),
        ("lr", ["optimizer=adma"], "adma"),
        ("lr", ["trainer=ddp", "trainer.accelerator=cpu"], "the search needs a single process"),
        ("batch_size", ["data.batch_size=full"], "is the whole set already"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    what: str, overrides: list[str], words: str, search: Search, tmp_path: Path
) -> None:
    status, (said,) = search(what, overrides)
    assert status == 2
    assert words in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("factor", [0, float("nan")])
def test_rate_of_a_model_that_cannot_learn_is_refused(
    factor: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = MLP.forward
    monkeypatch.setattr(MLP, "forward", lambda self, inputs: factor * forward(self, inputs))
    with pytest.raises(ConfigError, match=r"no rate from 1e-06 to .* lowered the loss"):
        find.find_learning_rate(composed(CPU), tmp_path / "rates.png", steps=20)
