"""Several processes: each sample counts as it does in one."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from made import composed
from processes import train_anew
from torch import Tensor
from torch.utils.data import DataLoader

from quartet.build import build
from quartet.compat import quieten
from quartet.data.loader import (
    BatchDataset,
    Batches,
    EpochBatchSampler,
    TensorLoader,
    collate,
    identity,
)


def epoch_of(
    count: int, batch_size: int, world_size: int, *, epoch: int = 0, **options: bool
) -> list[list[Tensor]]:
    """The batches of each process."""
    shares = []
    for rank in range(world_size):
        more = {"shuffle": True, **options}
        batches = Batches(count, batch_size, seed=0, rank=rank, world_size=world_size, **more)
        batches.set_epoch(epoch)
        shares.append(list(batches))
        assert len(shares[-1]) == len(batches)
    return shares


def flat(shares: Sequence[Sequence[Tensor]]) -> list[int]:
    return torch.cat([batch for share in shares for batch in share]).tolist()


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 16, 23, 24, 25])
def test_equal_shares_have_each_training_sample(count: int, world_size: int, shuffle: bool) -> None:
    shares = epoch_of(count, 4, world_size, shuffle=shuffle)
    sizes = {tuple(len(batch) for batch in share) for share in shares}
    assert len(sizes) == 1
    samples = flat(shares)
    repeated = -count % world_size
    assert set(samples) == set(range(count))
    assert len(samples) == count + repeated


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 16, 23, 24, 25])
def test_each_sample_to_evaluate_is_in_one_share_only(count: int, world_size: int) -> None:
    shares = epoch_of(count, 4, world_size, shuffle=False, fill=False)
    assert sorted(flat(shares)) == list(range(count))
    assert len({len(share) for share in shares}) == 1  # or one process would wait for the others


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("count", [16, 23, 24, 25])
def test_shares_without_the_last_batch_are_whole_and_disjoint(count: int, shuffle: bool) -> None:
    shares = epoch_of(count, 4, 2, shuffle=shuffle, drop_last=True)
    assert all(len(batch) == 4 for share in shares for batch in share)
    samples = flat(shares)
    assert len(samples) == len(set(samples)) == count // 8 * 8


@pytest.mark.parametrize("epoch", [0, 3])
def test_shares_together_are_the_batch_of_one_process(epoch: int) -> None:
    (alone,) = epoch_of(70, 32, 1, epoch=epoch)
    shares = epoch_of(70, 16, 2, epoch=epoch)
    for whole, *parts in zip(alone, *shares, strict=True):
        assert sorted(whole.tolist()) == sorted(torch.cat(parts).tolist())


def test_each_epoch_has_an_order_of_its_own_that_processes_share() -> None:
    first, again, second = (flat(epoch_of(24, 4, 2, epoch=epoch)) for epoch in (0, 0, 1))
    assert first == again != second


@pytest.mark.parametrize("rows", [60, 61, 62])
def test_full_batch_is_divided_among_the_processes(rows: int, tmp_path: Path) -> None:
    overrides = ["data=linear", f"data.rows={rows}", "data.batch_size=full", "trainer=cpu"]
    data = build(composed(overrides), tmp_path).data
    assert data.count_batches(world_size=1) == 1
    assert data.count_batches(world_size=2) == 1
    count = len(data.load().train)  # type: ignore[arg-type]
    (alone,) = data.train_dataloader()
    assert len(alone[0]) == count
    half = math.ceil(count / 2)
    assert [len(batch) for (batch,) in epoch_of(count, half, 2)] == [half, half]


def test_lightning_gives_each_epoch_another_order(tmp_path: Path) -> None:
    quieten()
    overrides = ["data=linear", "trainer=cpu", "trainer.max_epochs=3", "data.batch_size=full"]
    run = build(composed(overrides), tmp_path)
    seen: list[Tensor] = []
    run.module.model.register_forward_pre_hook(
        lambda model, args: seen.append(args[0]) if model.training else None
    )
    run.trainer.fit(run.module, run.data)
    assert len(seen) == 3
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])
    assert torch.equal(seen[0].sort(0)[0], seen[2].sort(0)[0])


@pytest.mark.parametrize("kind", ["rows", "queries", "files"])
def test_a_share_without_samples_is_an_empty_batch(kind: str) -> None:
    rows = torch.arange(9)
    batches = Batches(3, 1, seed=0, fill=False, rank=1, world_size=2)
    prepare = lambda batch, *_: batch  # noqa: E731
    if kind == "files":
        dataset: Any = BatchDataset([(torch.zeros(3, 2, 2), 0)] * 3, collate, prepare, seed=0)  # type: ignore[arg-type]
        sampler: Any = EpochBatchSampler(batches)
        loader: Any = DataLoader(dataset, batch_sampler=sampler, collate_fn=identity)
    else:
        queries = rows // 3 if kind == "queries" else None
        loader = TensorLoader((rows, rows), batches, torch.device("cpu"), prepare, queries)
    first, last = loader
    assert len(first[0]) == (3 if kind == "queries" else 1)
    assert last == []


RUN = ("optimizer=momentum", "scheduler=one_cycle", "trainer.accelerator=cpu")


# 398 rows to train, 57 to validate, 114 to test: the last of the batches to validate is 1 row, which
# only one of two processes has. R2 is the metric that a process cannot add to another's.
@pytest.mark.parametrize(
    "chosen",
    [
        ["data=breast_cancer", "model.hidden=[16]", "monitor.metric=val/auroc"],
        pytest.param(["data=diabetes", "monitor.metric=val/r2"], marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_and_measure_as_one(tmp_path: Path, chosen: list[str]) -> None:
    overrides = [*RUN, *chosen, "trainer.max_epochs=3"]
    quieten()
    two = ["trainer=ddp", "trainer.devices=2", "data.batch_size=16", "data.eval_batch_size=28"]
    status, err = train_anew(tmp_path, *overrides, *two)
    assert status == 0, err
    assert "Warning" not in err
    (result_file,) = tmp_path.rglob("result.json")  # one directory for both
    directory = result_file.parent
    assert directory.parents[1] == tmp_path / "outputs"
    assert [path.parent for path in tmp_path.rglob("metrics.csv")] == [directory]
    result = json.loads(result_file.read_text())
    assert result["status"] == "finished"
    assert list(pd.read_csv(directory / "metrics.csv")["epoch"]) == [1, 2, 3]

    alone = build(composed([*overrides, "data.batch_size=32", "trainer=cpu"]), tmp_path / "alone")
    alone.trainer.fit(alone.module, alone.data)
    last = torch.load(directory / result["checkpoints"]["last"], weights_only=True)
    trained = alone.module.state_dict()
    for name, value in last["state_dict"].items():
        torch.testing.assert_close(value, trained[name], rtol=0, atol=1e-6)

    best = torch.load(directory / result["checkpoints"]["best"], weights_only=True)
    alone.module.load_state_dict(best["state_dict"])
    (val,) = alone.trainer.validate(alone.module, alone.data, verbose=False)
    (test,) = alone.trainer.test(alone.module, alone.data, verbose=False)
    assert {name for name in result["metrics"] if not name.startswith("train/")} == {*val, *test}
    for name, value in (val | test).items():
        assert result["metrics"][name] == pytest.approx(value, rel=1e-6, abs=1e-6), name
