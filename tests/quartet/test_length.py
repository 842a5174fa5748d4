"""The length of a training: what its batches and steps reach, and what they do not."""

import re
from contextlib import nullcontext
from itertools import product
from pathlib import Path

import pytest
from made import composed

from quartet.build import build
from quartet.core.problems import ConfigError
from quartet.data.loader import Batches
from quartet.validation import length

pytestmark = pytest.mark.usefixtures("quiet", "no_pictures")


# 70 training rows: three batches of 23 and one of 1, or two steps of two batches.
@pytest.mark.parametrize(
    ("overrides", "reached"),
    [
        ("", True),
        ("trainer.limit_train_batches=4", True),
        ("trainer.limit_train_batches=9", True),
        ("trainer.limit_train_batches=3", False),
        ("trainer.limit_train_batches=1", False),
        ("trainer.limit_train_batches=0.99", False),
        ("trainer=overfit", False),
        ("trainer.overfit_batches=4", True),
        ("trainer.overfit_batches=0.75 trainer.limit_val_batches=0", False),
        ("trainer.max_steps=3", False),
        ("trainer.max_steps=4", True),
        ("trainer.max_steps=1 trainer.accumulate_grad_batches=2", False),
        ("trainer.max_steps=2 trainer.accumulate_grad_batches=2", True),
        ("data.drop_last=true", False),
        ("data.batch_size=24", False),
        ("data.batch_size=full", False),
        ("data.batch_size=69 trainer.limit_train_batches=1", False),
        ("data.batch_size=1 trainer.limit_train_batches=1", True),
    ],
)
def test_batch_of_one_sample_is_refused_exactly_where_training_meets_it(
    overrides: str, reached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["data=linear", "data.batch_size=23", "model.hidden=[4]", "model.norm=batch"]
    cfg = composed([*names, "trainer=cpu", *overrides.split(), "trainer.max_epochs=1"])
    with pytest.raises(ConfigError, match=r"leaves a batch of one") if reached else nullcontext():
        build(cfg)
    monkeypatch.setattr(length, "check_single_sample", lambda *arguments: ())
    run = build(cfg, tmp_path)
    with pytest.raises(ValueError, match="more than 1 value") if reached else nullcontext():
        run.trainer.fit(run.module, run.data)


def test_smallest_batch_is_that_of_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    """For all sizes up to 40, on up to 4 processes: the last line of advice fits too."""
    found: list[str] = []
    monkeypatch.setattr(length, "check_single_sample", lambda *a: found.append(a[-1]) or ())
    run = build(composed(["data=linear", "data.rows=50", "metrics=none"]))
    count = len(run.data.load().train)  # type: ignore[arg-type]

    def smallest(size: int, world_size: int) -> int:
        options = {"seed": 0, "world_size": world_size}
        return min(
            len(batch)
            for rank in range(world_size)
            for batch in Batches(count, size, rank=rank, **options)  # type: ignore[arg-type]
        )

    for size, world_size in product(range(1, count + 2), range(1, 5)):
        found.clear()
        run.data.batch_size = size
        config = {**run.config, "data": {**run.config["data"], "batch_size": size}}
        list(length.check_smallest_batch(config, run.data, run.module.model, world_size))
        assert bool(found) == (smallest(size, world_size) == 1), (size, world_size)
        for advice in found:
            (better,) = re.findall(r"^data.batch_size=(\d+)", advice)
            assert smallest(int(better), world_size) > 1
            assert ("drop_last" in advice) == (size > 1)


def test_batch_of_one_sample_is_fine_for_other_models_and_frozen_statistics() -> None:
    base = ["data=wine", "data.batch_size=3", "model.norm=batch"]
    for more in (["model.norm=layer"], ["optimizer.freeze=['layers.[01].*']"]):
        build(composed([*base, *more]))
    with pytest.raises(ConfigError, match=r"data.batch_size=4 or data.drop_last=true leaves none"):
        build(composed(base))
