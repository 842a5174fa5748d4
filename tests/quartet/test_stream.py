"""Streams: the order of shards and samples, their batches, shares of processes, where they go on."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import examples
import numpy as np
import pandas as pd
import pytest
import torch
from made import EACH_STEP, PROJECT, TINY, composed
from test_resume import assert_resumes
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from quartet.build import build
from quartet.config.compose import evaluation_config
from quartet.core.problems import ConfigError, TrainingError
from quartet.data.datamodule import DataModule
from quartet.data.loader import collate
from quartet.data.split import Parts
from quartet.data.stream import Stream, StreamLoader
from quartet.inference.evaluate import evaluate
from quartet.inference.predict import predict
from quartet.run import train

SIZES = [7, 5, 9, 1, 8, 6, 4, 10]
STARTS = np.cumsum([0, *SIZES])


def read(shard: int) -> tuple[Tensor, dict[str, Tensor]]:
    numbers = torch.arange(STARTS[shard], STARTS[shard + 1])
    return numbers.float()[:, None], {"number": numbers}


def prepare(batch: Any, rows: Tensor, epoch: int) -> Any:
    return batch


pytestmark = pytest.mark.usefixtures("quiet")


class Numbers(IterableDataset[Any]):
    """Samples 0 to 49 in their order, with noise, and a length or none."""

    def __iter__(self) -> Iterator[Any]:
        for number in range(50):
            yield number, torch.rand(()) + random.random()


class Counted(Numbers):
    def __len__(self) -> int:
        return 50


def make_loader(dataset: Any, size: int = 4, **options: Any) -> StreamLoader:
    given = {"seed": 0, "collate": collate, "prepare": prepare, "train": True, **options}
    return StreamLoader(dataset, size, **given)


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
    shares = [order(share(rank, shuffle=shuffle)) for rank in ranks]
    assert {len(each) for each in shares} == {-(-50 // world_size)}
    assert {number for each in shares for number in each} == set(range(50))
    whole = [order(share(rank, shuffle=shuffle, drop_last=True)) for rank in ranks]
    assert {len(each) for each in whole} == {50 // world_size // 4 * 4}
    evaluated = [numbers(share(rank, train=False)) for rank in ranks]
    assert len({len(batches) for batches in evaluated}) == 1
    assert [n for batches in evaluated for batch in batches for n in batch] == list(range(50))


@pytest.mark.parametrize("dataset", [Counted(), Numbers()])
def test_processes_share_each_batch_of_samples(dataset: Any) -> None:
    shares = [list(make_loader(dataset, rank=r, world_size=3)) for r in range(3)]
    together = torch.stack([torch.cat([batch[0] for batch in share]) for share in shares], 1)
    assert together.flatten().tolist() == [*range(50), 48]
    evaluated = [list(make_loader(dataset, rank=r, world_size=3, train=False)) for r in range(3)]
    assert [[len(b) and len(b[0]) for b in each][-1] for each in evaluated] == [1, 1, 0]


@pytest.mark.parametrize("dataset", [stream(), Counted(), Numbers()])
def test_order_and_random_draws_are_the_same_with_workers(dataset: Any) -> None:
    if isinstance(dataset, Stream):
        dataset.read = draw
    torch.manual_seed(5)
    before = torch.get_rng_state()
    options = {"shuffle": True, "start": (1, 2)}
    alone, helped = (list(make_loader(dataset, num_workers=n, **options)) for n in (0, 2))
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


def test_lists_of_samples_are_collated_and_ragged_shards_are_refused() -> None:
    ragged = Stream(lambda size: torch.ones(3, size), [1, 2], counts=3)
    with pytest.raises(TrainingError, match=r"^Samples of several shards do not .* but got size"):
        list(make_loader(ragged, shuffle=True))
    lists = Stream(lambda size: [torch.ones(size)] * 3, [1, 2], counts=3)
    (batch,) = make_loader(lists, 6, shuffle=True, collate=lambda samples: [*map(len, samples)])
    assert sorted(batch) == [1, 1, 1, 2, 2, 2]
    assert [len(sample) for sample in lists] == sorted(batch)


@pytest.mark.parametrize(
    ("shard", "words"),
    [
        (torch.ones(2), r"Shard 0 has 2 samples, and counts states 3\."),
        ((torch.ones(3), torch.ones(2)), r"Shard 0 is a tuple with \[2, 3\] samples; read must"),
        (np.ones(3), r"Shard 0 is a ndarray with no countable samples; read must give tuples"),
    ],
)
def test_a_shard_that_is_not_what_it_says_is_refused(shard: Any, words: str) -> None:
    wrong = Stream(lambda number: shard, [0], counts=3)
    with pytest.raises(TrainingError, match=f"^{words}"):
        list(make_loader(wrong))
    with pytest.raises(TrainingError, match=f"^{words}"):
        next(iter(wrong))


def test_a_stream_needs_shards_and_a_count_of_each() -> None:
    with pytest.raises(ValueError, match="at least one shard"):
        Stream(read, [])
    with pytest.raises(ValueError, match="2 shards and 1 counts"):
        Stream(read, [0, 1], counts=[3])
    with pytest.raises(TypeError, match=r"Stream\(counts=\.\.\.\) states it"):
        len(Stream(read, [0]))
    with pytest.raises(TrainingError, match=r"needs Stream\(counts=\.\.\.\) where several"):
        list(make_loader(stream(counts=None), world_size=2))


@pytest.mark.parametrize("least", [0, 60])
def test_an_epoch_that_ends_before_its_length_is_an_error(least: int) -> None:
    class Short(Numbers):
        def __len__(self) -> int:
            if least:
                raise TypeError
            return 60

    with pytest.raises(TrainingError, match=r"ended after 50 batches.* promises 60; correct it"):
        list(make_loader(Short(), 1, least=least))


class Drawing(Dataset[Any]):
    """Samples that know the epoch, with random draws of three kinds."""

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 12

    def __getitem__(self, row: int) -> Any:
        return self.epoch, random.random() + np.random.rand() + torch.rand(())


class DrawingStream(IterableDataset[Any]):
    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        for _ in range(12):
            yield self.epoch, random.random() + np.random.rand() + torch.rand(())


@pytest.mark.parametrize("dataset", [Drawing(), DrawingStream()])
def test_data_sets_know_the_epoch_and_draw_the_same_with_workers(dataset: Any) -> None:
    options: dict[str, Any] = {"seed": 3, "balance": False, "drop_last": False, "mean": None}
    options |= {"std": None, "flip": False, "crop": 0, "eval_batch_size": 5, "batch_size": 5}
    options["shuffle"] = isinstance(dataset, Drawing)
    drawn = []
    for workers in (0, 2):
        parts = Parts(dataset, dataset, None)
        data = DataModule(lambda: parts, task="regression", num_workers=workers, **options)  # noqa: B023
        data.load()
        loader, epochs, before = data.train_dataloader(), [], torch.get_rng_state()
        for epoch in (0, 1):
            loader.batch_sampler.sampler.set_epoch(epoch)
            batches = list(loader)
            assert {int(number) for batch in batches for number in batch[0]} == {epoch}
            epochs.append(torch.cat([batch[1] for batch in batches]))
        assert len(torch.cat(epochs).unique()) == 24
        assert torch.equal(torch.get_rng_state(), before)  # of the training
        evaluated = data.part_loader("val")
        values = [batch[1] for batch in evaluated]
        evaluated.batch_sampler.sampler.set_epoch(1)  # the figures of all epochs are comparable
        assert all(map(torch.equal, values, [batch[1] for batch in evaluated]))
        drawn.append(torch.cat([*epochs, *values]))
    assert torch.equal(*drawn)


# Trainings. Of 70 rows: batches of 20, 20, 20 and 10.

SAVING = (*TINY, EACH_STEP)
SHARDS = 7


class Rows(IterableDataset[Any]):
    """The rows of tensors with noise, and a length or none."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tensors

    def __iter__(self) -> Iterator[Any]:
        for inputs, targets in zip(*self.tensors, strict=True):
            yield inputs + torch.rand(()), targets


class CountedRows(Rows):
    def __len__(self) -> int:
        return len(self.tensors[0])


def noisy(tensors: Sequence[Tensor]) -> Any:
    inputs, targets = tensors
    return inputs + random.random() + torch.rand(inputs.shape), targets


def in_shards(part: Any, known: bool) -> Stream:
    shards = list(zip(*(tensor.tensor_split(SHARDS) for tensor in part.tensors), strict=True))
    counts = [len(shard[0]) for shard in shards]
    return Stream(noisy, shards, counts=counts if known else None, window=3)


KINDS: dict[str, tuple[Callable[[Any], Any], list[str]]] = {
    "known": (partial(in_shards, known=True), []),
    "unknown": (partial(in_shards, known=False), []),
    "counted rows": (lambda part: CountedRows(part.tensors), ["data.shuffle=false"]),
    "rows": (lambda part: Rows(part.tensors), ["data.shuffle=false"]),
}


def install(kind: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes streams of all parts of the data; returns the options that they need."""
    make, options = KINDS[kind]
    original = DataModule.load

    def load(self: DataModule) -> Parts:
        if not self.loaded:
            parts = original(self)
            made = {name: make(getattr(parts, name)) for name in ("train", "val", "test")}
            self.parts = parts._replace(**made)
        return self.parts

    monkeypatch.setattr(DataModule, "load", load)
    return [*SAVING, *options]


PLACES = [
    ("on_train_batch_end", 2),
    ("on_train_batch_end", 4),  # the last batch of an epoch
    ("on_train_batch_end", 7),
    ("on_validation_start", 2),
    ("on_train_epoch_end", 2),
    ("on_train_end", 1),
]


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wholes")


def slow_but(kind: str, places: Sequence[int]) -> list[Any]:
    """All places of a kind, slow but for some."""
    marks = [[] if number in places else [pytest.mark.slow] for number in range(len(PLACES))]
    return [pytest.param(kind, *p, marks=m) for p, m in zip(PLACES, marks, strict=True)]


@pytest.mark.parametrize(
    ("kind", "hook", "number"),
    [
        *slow_but("unknown", [2, 3]),
        *slow_but("known", [2]),
        *slow_but("counted rows", [5]),
        *slow_but("rows", [1]),
    ],
)
def test_training_goes_on_exactly_from_every_place(
    kind: str, hook: str, number: int, wholes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = install(kind, monkeypatch)
    if not (wholes / kind).exists():
        train(composed([*names, "data.num_workers=2"]), wholes / kind)
    assert_resumes(names, tmp_path / "run", hook, number, wholes / kind)


def test_stream_is_evaluated_and_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = train(composed(install("unknown", monkeypatch)), tmp_path / "run")
    cfg = evaluation_config(tmp_path / "run", [])
    for split in ("val", "test"):
        for name, value in evaluate(cfg, tmp_path / "run", split=split).items():
            assert value == result["metrics"][name]
    table = pd.read_csv(predict(cfg, tmp_path / "run"))
    mae = (table["target"] - table["prediction"]).abs().mean()
    assert len(table) == 20
    assert mae == pytest.approx(result["metrics"]["test/mae"], rel=1e-5)


def test_schedule_by_steps_ends_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [*install("unknown", monkeypatch), "trainer.max_steps=7", "trainer.max_epochs=-1"]
    run = build(composed([*names, "scheduler=cosine", "scheduler.interval=step"]), tmp_path)
    run.trainer.fit(run.module, run.data)
    assert run.trainer.global_step == 7
    assert run.trainer.optimizers[0].param_groups[0]["lr"] == 0


@pytest.mark.parametrize(
    ("kind", "setting", "words"),
    [
        ("unknown", "data.batch_size=full", "needs all samples at once"),
        ("known", "data.batch_size=full", "needs all samples at once"),
        ("rows", "data.shuffle=true", "set data.shuffle=false, or return a quartet.Stream"),
        ("unknown", "scheduler.warmup_epochs=1", "set scheduler.warmup_steps"),
        ("unknown", "scheduler=cosine", "trainer.max_steps, with scheduler.interval=step"),
        ("unknown", "callbacks=swa", "of unknown length is not known; set trainer.max_steps"),
        ("unknown", "trainer.devices=2", r"state it, Stream\(counts=\.\.\.\), or set"),
        ("unknown", "trainer.limit_train_batches=0.5", "no known length; set a whole number"),
        ("unknown", "trainer.limit_val_batches=0.5", "no known length; set a whole number"),
        ("unknown", "trainer.overfit_batches=0.5", "no known length; set a whole number"),
        ("unknown", "trainer.val_check_interval=0.5", "no known length; set a whole number"),
    ],
)
def test_what_a_stream_does_not_have_is_refused(
    kind: str, setting: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [*install(kind, monkeypatch), setting]
    key = "scheduler.T_max" if setting == "scheduler=cosine" else setting.partition("=")[0]
    with pytest.raises(ConfigError, match=words) as caught:
        build(composed(names))
    assert [problem.key.removesuffix(".swa.start") for problem in caught.value.problems] == [key]


def test_classes_of_a_stream_cannot_be_balanced_or_counted(tmp_path: Path) -> None:
    with examples.installed("stream", tmp_path):
        place = [*SAVING[5:], "data=sharded", f"data.dir={tmp_path}", "data.balance=true"]
        with pytest.raises(ConfigError) as caught:
            build(composed([*place, "loss=weighted_cross_entropy"]))
    assert caught.value.messages == [
        "data.balance=true: draws from all samples, and the training part is a stream; set "
        "data.balance=false.",
        f"loss: {PROJECT}.loss.WeightedCrossEntropy reads all training targets, and the training part is "
        "a stream; use another loss.",
    ]


@pytest.mark.slow
def test_two_processes_evaluate_each_sample_once(tmp_path: Path) -> None:
    fork = examples.write_fork("stream", tmp_path)
    words = ["data=sharded", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    words += ["trainer.max_epochs=2", "logger=csv", "hydra.run.dir=run"]
    with examples.start(fork, *words) as process:
        assert process.wait(200) == 0
    result = json.loads((fork / "run/result.json").read_text())["metrics"]
    with examples.installed("stream", tmp_path):
        one = ["trainer.devices=1", "trainer.strategy=auto", f"data.dir={fork / 'data'}"]
        figures = evaluate(evaluation_config(fork / "run", one), fork / "run", split="test")
    for name, value in figures.items():
        assert value == pytest.approx(result[name], rel=1e-5)
