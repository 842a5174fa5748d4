"""What holds on a GPU; skipped where there is none."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from made import composed

from quartet.build import build
from quartet.config.compose import evaluation_config
from quartet.inference.evaluate import evaluate
from quartet.run import train

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    pytest.mark.usefixtures("no_pictures"),
]


class RefuseWaiting(Callback):
    """Makes a step raise where the processor waits for the GPU, once all is warm."""

    def __init__(self) -> None:
        self.steps = 0

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, number: int) -> None:
        self.steps += 1
        if self.steps > 10:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, *args: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_step_with_all_metrics_never_waits_for_the_gpu(optimizer: str) -> None:
    words = ["trainer=gpu", "trainer.max_epochs=3", "trainer.log_every_n_steps=10"]
    run = build(composed([f"optimizer={optimizer}", *words]))
    refuse = RefuseWaiting()
    run.trainer.callbacks.append(refuse)
    run.trainer.fit(run.module, run.data)
    assert refuse.steps > 50


@pytest.mark.parametrize("data", ["digits", "diabetes", "ranking"])
def test_metrics_equal_those_of_the_processor(data: str, tmp_path: Path) -> None:
    train(composed([f"data={data}", "trainer=cpu", "trainer.max_epochs=2"]), tmp_path)
    one, other = (
        evaluate(evaluation_config(tmp_path, [f"trainer={kind}"]), tmp_path)
        for kind in ("cpu", "gpu")
    )
    assert len(one) > 1
    assert other == pytest.approx(one, rel=1e-5)
