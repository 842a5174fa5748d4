"""Weights divided among processes: what is learnt and kept is that of one process."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from made import composed
from processes import train_anew
from torch import nn

from quartet.build import build
from quartet.checkpoints import storage
from quartet.compat import quieten
from quartet.inference.evaluate import evaluate
from quartet.parts.fsdp import find_units

# 398 rows to train, and batches that do not divide them; a unit of each layer and one of the rest.
RUN = (
    *("data=breast_cancer", "model.hidden=[16]", "scheduler=one_cycle", "trainer.max_epochs=3"),
    *("trainer.gradient_clip_val=1", "monitor.metric=val/auroc"),
)
TWO = ("trainer=fsdp", "trainer.accelerator=cpu", "trainer.strategy.unit_size=100")


def weights(directory: Path, name: str = "last") -> dict[str, Any]:
    """As plain torch reads them: every tensor whole."""
    found = torch.load(directory / f"checkpoints/{name}.ckpt", weights_only=True)
    assert all(type(value) is torch.Tensor for value in found["state_dict"].values())
    return dict(found["state_dict"])


def assert_close(found: dict[str, Any], expected: dict[str, Any], atol: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=atol, msg=name)


@pytest.mark.slow
def test_two_processes_with_half_the_weights_each_train_as_one(tmp_path: Path) -> None:
    quieten()
    options = [*RUN, "optimizer=momentum"]
    status, err = train_anew(tmp_path, *options, *TWO, "data.batch_size=16", "hydra.run.dir=two")
    assert status == 0, err
    two = tmp_path / "two"
    result = json.loads((two / "result.json").read_text())
    assert result["status"] == "finished"
    alone = build(composed([*options, "data.batch_size=32", "trainer=cpu"]), tmp_path / "alone")
    alone.trainer.fit(alone.module, alone.data)
    assert_close(weights(two), alone.module.state_dict(), 1e-6)
    assert storage.load(two / "checkpoints/best.ckpt")["epoch"] + 1 == result["monitor"]["epoch"]
    alone.module.load_state_dict(weights(two, "best"))
    (test,) = alone.trainer.test(alone.module, alone.data, verbose=False)
    figures = evaluate(composed([*options, "trainer=cpu"]), two)
    assert figures.keys() == test.keys()
    for name, value in figures.items():
        assert value == pytest.approx(test[name], abs=1e-6)
        assert result["metrics"][name] == pytest.approx(value, abs=1e-6)


@pytest.mark.slow
def test_training_that_goes_on_ends_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    options = [*RUN, "optimizer=adamw", "optimizer.decay_bias_and_norm=false", *TWO]
    options += ["optimizer.lr_factors={layers.2.*: 0.5}", "scheduler=none"]
    for name, steps in (("whole", -1), ("cut", 10)):  # within an epoch
        length = f"trainer.max_steps={steps}"
        status, err = train_anew(tmp_path, *options, length, f"hydra.run.dir={name}")
        assert status == 0, err
    status, err = train_anew(tmp_path, "resume=cut", "trainer.max_steps=-1")
    assert status == 0, err
    assert_close(weights(tmp_path / "cut"), weights(tmp_path / "whole"), 0)
    rows = [(tmp_path / name / "metrics.csv").read_text() for name in ("cut", "whole")]
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_damaged_checkpoint_is_not_taken(tmp_path: Path) -> None:
    status, err = train_anew(tmp_path, *RUN, *TWO, "scheduler=none", "hydra.run.dir=cut")
    assert status == 0, err
    path = tmp_path / "cut/checkpoints/last.ckpt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    status, err = train_anew(tmp_path, "resume=cut", "trainer.max_epochs=4")
    assert status == 0, err
    assert "checksum does not match" in err
    assert "best.ckpt instead" in err


@pytest.mark.slow
def test_weights_that_become_infinite_end_all_processes(tmp_path: Path) -> None:
    blown = ["optimizer=sgd", "optimizer.lr=1e30", "trainer.gradient_clip_val=null"]
    status, err = train_anew(tmp_path, *RUN, *blown, *TWO, "scheduler=none", "hydra.run.dir=blown")
    assert status == 1
    assert "at learning rate 1e+30; try a smaller optimizer.lr" in err
    assert "Traceback" not in err


def test_units_are_as_large_as_asked_and_leave_the_rest_to_the_model() -> None:
    block = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    model = nn.Sequential(block, nn.ModuleList([nn.Linear(30, 30)]), nn.Linear(2, 2))
    assert find_units(model, 10_000) == []
    assert find_units(model, 200) == [block, model[1][0]]  # type: ignore[index]
    assert find_units(model, 110) == [*block, model[1][0]]  # type: ignore[index]
