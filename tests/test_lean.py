"""All of Lightning's hooks stay alive, whatever is spared."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback
from lightning.pytorch.callbacks import LambdaCallback

from quartet.build import build, compose
from quartet.lean import BATCH_HOOKS, WITHIN_STEPS, LeanPrecision
from quartet.run import quieten

SHORT = ["data=wine", "trainer.max_epochs=2", "data.batch_size=32", "logger=none"]
STEPS, VALIDATIONS, TESTS = 2 * 4, 2 * 1, 1  # 124, 18 and 36 samples; validated at once
EXPECTED = {
    **dict.fromkeys(BATCH_HOOKS, STEPS),
    **dict.fromkeys(("on_validation_batch_start", "on_validation_batch_end"), VALIDATIONS),
    **dict.fromkeys(("on_test_batch_start", "on_test_batch_end"), TESTS),
}
EXPECTED = {name: count for name, count in EXPECTED.items() if "predict" not in name}


def play(directory: Path, callbacks: list[Callback], change: Any = None) -> Any:
    quieten()
    run = build(compose(SHORT), directory)
    run.trainer.callbacks += callbacks  # type: ignore[attr-defined]
    if change:
        change(run)
    run.trainer.fit(run.module, run.data)
    run.trainer.test(run.module, run.data, verbose=False)
    return run


@pytest.mark.parametrize("hook", EXPECTED)
def test_hook_of_a_callback_added_later_is_called_every_time(hook: str, tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    overriding = type("Overriding", (Callback,), {hook: lambda *_, **__: seen.update(["class"])})
    given = LambdaCallback(**{hook: lambda *_, **__: seen.update(["given"])})
    play(tmp_path, [overriding(), given])
    assert seen == {"class": EXPECTED[hook], "given": EXPECTED[hook]}


@pytest.mark.parametrize("hook", WITHIN_STEPS)
def test_hook_of_the_module_is_called_every_time(
    hook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: Counter[str] = Counter()

    def change(run: Any) -> None:
        monkeypatch.setattr(type(run.module), hook, lambda *_, **__: seen.update([hook]))

    play(tmp_path, [], change)
    assert seen == {hook: STEPS}


def test_hooks_within_steps_are_spared_where_nobody_listens(tmp_path: Path) -> None:
    plugin = play(tmp_path, []).trainer.strategy.precision_plugin
    assert isinstance(plugin, LeanPrecision)
    assert not plugin.watched
