"""Streams: the order of shards and samples, their batches, shares of processes, where they go on."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from quartet.data.loader import collate
from quartet.data.stream import Stream, StreamLoader

SIZES = [7, 5, 9, 1, 8, 6, 4, 10]
STARTS = np.cumsum([0, *SIZES])


def read(shard: int) -> tuple[Tensor, dict[str, Tensor]]:
    numbers = torch.arange(STARTS[shard], STARTS[shard + 1])
    return numbers.float()[:, None], {"number": numbers}


def prepare(batch: Any, rows: Tensor, epoch: int) -> Any:
    return batch


class Numbers(IterableDataset[Any]):
    """Samples 0 to 49 in their order, with noise, and a length or none."""

    def __iter__(self) -> Iterator[Any]:
        for number in range(50):
            yield number, torch.rand(()) + random.random()


class Counted(Numbers):
    def __len__(self) -> int:
        return 50


def make_loader(dataset: Any, size: int = 4, **options: Any) -> StreamLoader:
    return StreamLoader(
        dataset, size, **{"seed": 0, "collate": collate, "prepare": prepare, **options}
    )


def numbers(batches: Any) -> list[list[int]]:
    """The numbers of the samples of each batch."""
    return [batch[1]["number"].tolist() if len(batch) else [] for batch in batches]


def order(batches: Any) -> list[int]:
    """The numbers of all samples."""
    return [number for batch in numbers(batches) for number in batch]


def stream(**options: Any) -> Stream:
    return Stream(read, range(8), **{"counts": SIZES, **options})


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("counts", [SIZES, None])
def test_an_epoch_has_each_sample_once_in_full_batches(shuffle: bool, counts: Any) -> None:
    loader = make_loader(stream(counts=counts), shuffle=shuffle)
    assert [len(batch) for batch in numbers(loader)] == [4] * 12 + [2]
    assert sorted(order(loader)) == list(range(50))
    assert (order(loader) == list(range(50))) is not shuffle
    whole = make_loader(stream(counts=counts), shuffle=shuffle, drop_last=True)
    assert numbers(whole) == numbers(loader)[:12]


def test_each_epoch_and_seed_has_an_order_of_its_own() -> None:
    loader = make_loader(stream(), shuffle=True)
    orders = [tuple(order(make_loader(stream(), seed=1, shuffle=True)))]
    for epoch in range(3):
        loader.set_epoch(epoch)
        orders.append(tuple(order(loader)))
    assert len(set(orders)) == 4


@pytest.mark.parametrize(("window", "least", "most"), [(1, 7, 7), (8, 30, 49)])
def test_a_window_mixes_its_shards(window: int, least: int, most: int) -> None:
    found = order(make_loader(stream(window=window), shuffle=True))
    shards = np.searchsorted(STARTS, found, side="right")
    assert least <= np.count_nonzero(np.diff(shards)) <= most


@pytest.mark.parametrize("counts", [SIZES, None])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("done", [1, 6, 13])
def test_an_epoch_goes_on_after_any_of_its_batches(done: int, shuffle: bool, counts: Any) -> None:
    whole = numbers(make_loader(stream(counts=counts), shuffle=shuffle, start=(2, 0)))
    loader = make_loader(stream(counts=counts), shuffle=shuffle, start=(2, done))
    assert numbers(loader) == whole[done:]
    loader.set_epoch(3)
    assert len(numbers(loader)) == 13


@pytest.mark.parametrize(("shuffle", "least"), [(True, 4), (False, 2)])
def test_shards_that_are_done_are_not_read_again(shuffle: bool, least: int) -> None:
    seen: list[int] = []

    def note(shard: int) -> Any:
        seen.append(shard)
        return read(shard)

    list(make_loader(Stream(note, range(8), counts=SIZES), shuffle=shuffle, start=(0, 9)))
    assert len(seen) == len(set(seen)) == least


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_processes_share_the_samples_equally(world_size: int, shuffle: bool) -> None:
    def share(rank: int, **options: Any) -> StreamLoader:
        return make_loader(stream(), rank=rank, world_size=world_size, **options)

    ranks = range(world_size)
    shares = [order(share(rank, shuffle=shuffle, train=True)) for rank in ranks]
    assert {len(each) for each in shares} == {-(-50 // world_size)}
    assert {number for each in shares for number in each} == set(range(50))
    whole = [order(share(rank, shuffle=shuffle, train=True, drop_last=True)) for rank in ranks]
    assert {len(each) for each in whole} == {50 // world_size // 4 * 4}
    evaluated = [numbers(share(rank)) for rank in ranks]
    assert len({len(batches) for batches in evaluated}) == 1
    assert [n for batches in evaluated for batch in batches for n in batch] == list(range(50))


@pytest.mark.parametrize("dataset", [Counted(), Numbers()])
def test_processes_share_each_batch_of_samples(dataset: Any) -> None:
    shares = [list(make_loader(dataset, rank=r, world_size=3, train=True)) for r in range(3)]
    together = torch.stack([torch.cat([batch[0] for batch in share]) for share in shares], 1)
    assert together.flatten().tolist() == [*range(50), 48]
    evaluated = [list(make_loader(dataset, rank=r, world_size=3)) for r in range(3)]
    assert [[len(b) and len(b[0]) for b in each][-1] for each in evaluated] == [1, 1, 0]


@pytest.mark.parametrize("dataset", [stream(), Counted(), Numbers()])
def test_order_and_random_draws_are_the_same_with_workers(dataset: Any) -> None:
    if isinstance(dataset, Stream):
        dataset.read = draw
    torch.manual_seed(5)
    before = torch.get_rng_state()
    alone, helped = (
        list(make_loader(dataset, num_workers=n, shuffle=True, start=(1, 2))) for n in (0, 2)
    )
    assert len(alone) == 11
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    assert torch.equal(torch.get_rng_state(), before)
    whole = list(make_loader(dataset, shuffle=True, start=(1, 0)))
    assert all(torch.equal(one[1], other[1]) for one, other in zip(whole[2:], alone, strict=True))
    later = list(make_loader(dataset, shuffle=True, start=(2, 2)))
    assert not torch.equal(alone[0][1], later[0][1])


def draw(shard: int) -> Any:
    size = SIZES[shard]
    return torch.full((size,), shard), torch.rand(size) + random.random() + np.random.rand()
