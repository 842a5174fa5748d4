"""All of Lightning's hooks are called by the fast loop, and its steps are those of Lightning."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from made import composed

from quartet.build import build
from quartet.compat import lightning_loop, quieten
from quartet.compat.lightning_loop import MODULE_HOOKS, STEP_HOOKS, TRANSFER_HOOKS
from quartet.data.datamodule import DataModule
from quartet.training.module import Module

SHORT = ["data=wine", "trainer.max_epochs=2", "data.batch_size=32", "logger=none"]
STEPS, VALIDATIONS, TESTS = 2 * 4, 2 * 1, 1  # 124, 18 and 36 samples; validated at once
BATCH_HOOKS = {
    **dict.fromkeys(("on_train_batch_start", "on_train_batch_end"), STEPS),
    **dict.fromkeys(("on_validation_batch_start", "on_validation_batch_end"), VALIDATIONS),
    **dict.fromkeys(("on_test_batch_start", "on_test_batch_end"), TESTS),
}


def run_once(directory: Path, callbacks: list[Callback]) -> None:
    quieten()
    run = build(composed(SHORT), directory)
    run.trainer.callbacks += callbacks  # type: ignore[attr-defined]
    run.trainer.fit(run.module, run.data)
    run.trainer.test(run.module, run.data, verbose=False)


@pytest.mark.parametrize("expected", [BATCH_HOOKS, *({hook: STEPS} for hook in STEP_HOOKS)])
def test_hooks_of_a_later_callback_are_called(expected: dict[str, int], tmp_path: Path) -> None:
    calls: Counter[str] = Counter()

    def counting(hook: str) -> Any:
        return lambda *_, **__: calls.update([hook])

    overriding = type("Overriding", (Callback,), {hook: counting(hook) for hook in expected})
    given = LambdaCallback(**{hook: counting(hook) for hook in expected})
    run_once(tmp_path, [overriding(), given])
    assert calls == {hook: 2 * count for hook, count in expected.items()}


@pytest.mark.filterwarnings("ignore:You have overridden")
@pytest.mark.parametrize(
    ("part", "base", "hook"),
    [
        (Module, Module, "optimizer_step"),
        (Module, Module, "on_train_batch_end"),
        (DataModule, LightningDataModule, "transfer_batch_to_device"),
        *(
            pytest.param(Module, Module, hook, marks=pytest.mark.slow)
            for hook in MODULE_HOOKS + TRANSFER_HOOKS
        ),
        *(
            pytest.param(DataModule, LightningDataModule, hook, marks=pytest.mark.slow)
            for hook in TRANSFER_HOOKS
        ),
    ],
)
def test_hook_of_the_module_or_the_data_is_called_every_time(
    part: type, base: type, hook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()
    own = getattr(base, hook)

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.update([hook])
        return own(*args, **kwargs)

    monkeypatch.setattr(part, hook, counted, raising=False)
    run_once(tmp_path, [])
    assert calls == {hook: STEPS + (VALIDATIONS + TESTS if hook in TRANSFER_HOOKS else 0)}


class Diary(Callback):
    """Writes down hooks outside the steps, and what a callback can see there."""

    def __init__(self, *, logs: bool) -> None:
        self.lines: list[tuple[Any, ...]] = []
        self.logs = logs


def diary_of(hook: str) -> Any:
    def written(self: Diary, trainer: Trainer, module: Any, *args: Any) -> None:
        within = {} if hook == "on_train_batch_start" else trainer.callback_metrics
        values = [
            {key: float(value) for key, value in arg.items()} if isinstance(arg, dict) else arg
            for arg in args
            if isinstance(arg, dict | int)
        ]
        figures = {name: float(value) for name, value in within.items()}
        self.lines.append((hook, trainer.global_step, *values, figures))
        if self.logs and hook.startswith("on_train_batch"):
            self.log(f"seen/{hook}", float(trainer.global_step), on_step=True, on_epoch=True)

    return written


for part in ("train", "train_epoch", "train_batch", "validation_epoch"):
    for hook in (f"on_{part}_start", f"on_{part}_end"):
        setattr(Diary, hook, diary_of(hook))


def step_as_mapping(self: Any, batch: Any, batch_idx: int) -> dict[str, Any]:
    return {"loss": training_step(self, batch, batch_idx), "batch": batch_idx}


def step_that_skips(self: Any, batch: Any, batch_idx: int) -> Any:
    loss = training_step(self, batch, batch_idx)
    return None if batch_idx % 2 else loss


def step_that_logs(self: Any, batch: Any, batch_idx: int) -> Any:
    loss = training_step(self, batch, batch_idx)
    self.log("own", loss, on_step=True, on_epoch=True)
    return loss


def step_that_stops(self: Any, batch: Any, batch_idx: int) -> Any:
    self.trainer.should_stop |= (self.trainer.current_epoch, batch_idx) == (1, 1)
    return training_step(self, batch, batch_idx)


training_step = Module.training_step


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize(
    ("overrides", "step"),
    [
        pytest.param(
            *(overrides, step),
            # Each setting with the usual step and each step with few settings; the rest is slow.
            marks=[] if "max_steps" in overrides or step is training_step else pytest.mark.slow,
        )
        for overrides in (
            "",
            "trainer.accumulate_grad_batches=3",
            "trainer.gradient_clip_val=0.1",
            "trainer.val_check_interval=2 scheduler=one_cycle",
            "trainer.check_val_every_n_epoch=2 trainer.limit_train_batches=3 scheduler=plateau",
            "optimizer=lbfgs",
            "trainer.max_steps=6 trainer.log_every_n_steps=3",
        )
        for step in (
            *(training_step, step_as_mapping),
            *(step_that_skips, step_that_logs, step_that_stops),
        )
        if (overrides, step) != ("optimizer=lbfgs", step_that_skips)  # which needs every loss
    ],
)
def test_steps_are_those_of_lightning(
    overrides: str, step: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Module, "training_step", step)
    runs = []
    for fast in (True, False):
        if not fast:
            monkeypatch.setattr(lightning_loop, "supports_fast_path", lambda _: False)
        diary = Diary(logs=step is not training_step)
        words = [*SHORT, "trainer.log_every_n_steps=2", *overrides.split()]
        run = build(composed(words), tmp_path / str(fast))
        run.trainer.callbacks.append(diary)  # type: ignore[attr-defined]
        run.trainer.fit(run.module, run.data)
        loop: Any = run.trainer.fit_loop
        assert loop.epoch_loop.is_fast is fast
        weights = {name: value.tolist() for name, value in run.module.state_dict().items()}
        rows = (tmp_path / str(fast) / "metrics.csv").read_text()
        runs.append((diary.lines, weights, rows, loop.state_dict()))
    for ours, theirs in zip(*runs, strict=True):
        assert ours == theirs
