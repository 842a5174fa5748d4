"""The steps of a module, tried before the training: what they log may be monitored."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning import Callback
from made import assert_refused, composed, project_part

from quartet.build import build
from quartet.checkpoints.callbacks import BestCheckpoint
from quartet.core.problems import TrainingError

pytestmark = pytest.mark.usefixtures("quiet")
Module = project_part("module.Module")
TINY = ("data=linear", "trainer=cpu", "trainer.max_epochs=2", "callbacks.progress_bar=null")


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Replaces the training step of the project's module."""
    return lambda function: monkeypatch.setattr(Module, "training_step", function)


def recording_step(module: Any, batch: Any, batch_idx: int) -> Any:
    inputs, targets, _ = module.task.split(batch)
    outputs = module.model(inputs)
    size = (outputs**2).mean()
    loss = module.compute_loss(outputs, targets)
    module.log("largest", outputs.max(), on_step=False, on_epoch=True)
    module.record("train", {"loss": loss + size, "size": size}, size=len(targets))
    return loss + size


def best_score(run: Any) -> float:
    (best,) = (each for each in run.trainer.callbacks if isinstance(each, BestCheckpoint))
    return float(best.best_model_score)


@pytest.mark.parametrize("name", ["train/size", "largest"])
def test_value_of_a_step_is_monitored(name: str, step: Callable[..., None]) -> None:
    step(recording_step)
    words = [*TINY, f"monitor.metric={name}", "monitor.mode=max"]
    run = build(composed(words))
    run.trainer.fit(run.module, run.data)
    assert best_score(run) >= run.trainer.callback_metrics[name]
    assert_refused(
        [*TINY, f"monitor.metric={name}"], f"^monitor.mode=null: is not known for {name}"
    )


def test_value_of_a_hook_is_known_by_name_or_unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*TINY, "monitor.metric=val/score", "monitor.mode=max"]
    monkeypatch.setattr(Module, "on_train_batch_end", lambda *_: None, raising=False)
    assert "monitor.metric=val/score: whether it is logged" in build(composed(words)).unchecked
    monkeypatch.setattr(Module, "logs", ("val/score",))
    assert not any("val/score" in each for each in build(composed(words)).unchecked)


def test_value_that_no_step_logs_is_refused(step: Callable[..., None]) -> None:
    step(recording_step)
    for name, words in (
        ("train/sice", "did you mean train/size"),
        ("train/r2", "did you mean"),  # the outputs of the training are not recorded
        ("brightness", "there are .*val/loss"),
    ):
        monitored = [*TINY, f"monitor.metric={name}", "monitor.mode=max"]
        assert_refused(monitored, f"metric={name}: will not be logged .*{words}")


def test_metrics_need_outputs_and_common_names_are_free(step: Callable[..., None]) -> None:
    step(recording_step)
    run = build(composed(TINY))
    run.module.length = run.module.rates = run.module.loaded = [1]
    run.trainer.fit(run.module, run.data)
    logged = {*run.trainer.callback_metrics}
    assert {"train/loss", "train/size", "val/loss", "val/r2"} <= logged
    assert "train/r2" not in logged
    assert run.module.length == run.module.rates == run.module.loaded == [1]


@pytest.mark.parametrize(
    ("make_output", "words"),
    [
        (lambda module, loss: {"los": loss}, "training_step returns a dict, and must return"),
        (lambda module, loss: loss.item(), "training_step returns a float, and must"),
        (lambda module, loss: loss.repeat(3), r"training_step returns a tensor of shape \[3\]"),
        (lambda module, loss: loss.detach(), "a loss without its gradient; do not detach it"),
        (lambda module, loss: module.log("a", "b"), "logs a str as 'a'; self.log takes a number"),
        (lambda module, loss: module.log("a", torch.ones(2)), r"logs a tensor of shape \[2\] as"),
        (lambda module, loss: module.log("train/loss", loss), "by self.log and by self.record"),
        (lambda module, loss: module.record("valid", loss, size=1), "must be train, val or test"),
        (
            lambda module, loss: module.record("val", loss),
            "self.record needs the targets .* size=N",
        ),
    ],
)
def test_misuse_in_a_step_is_refused(
    make_output: Callable[[Any, Any], Any], words: str, step: Callable[..., None]
) -> None:
    def wrong(module: Any, batch: Any, batch_idx: int) -> Any:
        return make_output(module, recording_step(module, batch, batch_idx))

    step(wrong)
    assert_refused(TINY, f"^module: .*{words}")


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_training_without_a_loss_ends(step: Callable[..., None]) -> None:
    def forgetting(module: Any, batch: Any, batch_idx: int) -> Any:
        recording_step(module, batch, batch_idx)

    step(forgetting)
    run = build(composed(TINY))
    with pytest.raises(TrainingError, match="training_step returned no loss in epoch 1, and noth"):
        run.trainer.fit(run.module, run.data)
    step(lambda *args: recording_step(*args) if args[2] else None)  # skips a batch
    run = build(composed(TINY))
    run.trainer.fit(run.module, run.data)


@pytest.mark.parametrize("hook", ["setup", "on_train_epoch_end", "on_save_checkpoint"])
def test_hook_without_its_base_is_refused(hook: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Module, hook, lambda module, *args: None, raising=False)
    words = rf"^module: Module\.{hook} leaves out .*; call super\(\)\.{hook}\(.*\) in it"
    assert_refused(TINY, words)
    monkeypatch.setattr(
        Module, hook, eval(f"lambda module, *args: quartet.Module.{hook}(module, *args)")
    )
    build(composed(TINY))


def test_step_that_needs_a_trainer_is_not_checked(step: Callable[..., None]) -> None:
    def needing(module: Any, batch: Any, batch_idx: int) -> Any:
        assert module.trainer.max_epochs == 2
        return recording_step(module, batch, batch_idx)

    step(needing)
    run = build(composed([*TINY, "monitor.metric=train/size", "monitor.mode=min"]))
    assert "not attached to a `Trainer`" in " ".join(run.unchecked)
    assert "monitor.metric=train/size: whether it is logged" in " ".join(run.unchecked)
    assert_refused([*TINY, "monitor.metric=val/los"], "did you mean val/loss")


class Brightness(Callback):
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.log("brightness", torch.tensor(1.0))


def test_value_of_a_callback_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    Brightness.__module__ = Module.__module__
    monkeypatch.setattr(f"{Module.__module__}.Brightness", Brightness, raising=False)
    words = [*TINY, f"+callbacks.own={{_target_: {Module.__module__}.Brightness}}"]
    run = build(composed([*words, "monitor.metric=brightness", "monitor.mode=max"]))
    assert "monitor.metric=brightness" in " ".join(run.unchecked)
    run.trainer.fit(run.module, run.data)
    assert best_score(run) == 1
    assert_refused([*words, "monitor.metric=val/los"], "did you mean val/loss")


def test_trial_changes_neither_weights_nor_random_numbers(step: Callable[..., None]) -> None:
    def drawing(module: Any, batch: Any, batch_idx: int) -> Any:
        torch.randn(3)
        with torch.no_grad():
            next(module.model.parameters()).zero_()
        return recording_step(module, batch, batch_idx)

    words = [*TINY, "model.norm=batch", "data.batch_size=10"]
    states = []
    for function in (drawing, recording_step):
        step(function)
        run = build(composed(words))
        states.append({**run.module.state_dict(), "random": torch.get_rng_state()})
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
