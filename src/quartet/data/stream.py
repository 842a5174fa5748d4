"""Streams: data that is read in order, shard by shard or sample by sample, and fits into no memory."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import count, islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from quartet.core.problems import TrainingError
from quartet.data import nest
from quartet.data.loader import identity, make_generator, seeded, tell_epoch

Piece = tuple[int, int, float]  # number of a shard, its first row, the end of its rows


class Stream(IterableDataset[Any]):
    """Data in shards, such as files, of which only a few are in memory at a time.

    An epoch reads the shards in a new order, with ``data.num_workers`` processes, shuffles the samples
    of neighbouring shards, and cuts batches. Random draws of `read` do not depend on the processes.

    Example::

        def read(path):  # images (1000, 3, 32, 32) and labels (1000,)
            content = numpy.load(path)
            return torch.tensor(content["images"]), torch.tensor(content["labels"])

        quartet.Stream(read, sorted(folder.glob("train-*.npz")), counts=1000)

    Args:
        read: Returns the samples of a shard: a nest of tensors with the samples first, or a list of
            samples, of which ``Parts.collate`` makes batches.
        shards: What `read` takes, such as paths; for large files (path, first row, last row).
        counts: Number of samples of each shard, or one for all; None if they are not known. With it
            the length of an epoch is known, a resume reads no shard that is done, and each of
            several processes reads its share of the shards.
        window: Number of shards whose samples are shuffled together, in memory.

    Raises:
        ValueError: there is no shard, or another number of counts.
    """

    def __init__(
        self,
        read: Callable[[Any], Any],
        shards: Sequence[Any],
        *,
        counts: int | Sequence[int] | None = None,
        window: int = 4,
    ) -> None:
        self.read, self.shards, self.window = read, list(shards), window
        self.counts = [counts] * len(self.shards) if isinstance(counts, int) else counts
        if not self.shards:
            raise ValueError("a Stream needs at least one shard, and there is none.")
        if self.counts is not None and len(self.counts) != len(self.shards):
            numbers = f"{len(self.shards)} shards and {len(self.counts)} counts"
            raise ValueError(f"a Stream has {numbers}; give the number of samples of each shard.")

    def __len__(self) -> int:
        if self.counts is None:
            raise TypeError("the number of samples is not known; Stream(counts=...) states it.")
        return sum(self.counts)

    def __iter__(self) -> Iterator[Any]:
        """Yields the samples in their order."""
        for number, shard in enumerate(self.shards):
            samples = self.read(shard)
            for row in range(self.check(number, samples)):
                yield nest.sample(samples, row)

    def check(self, number: int, samples: Any) -> int:
        """Counts the samples of a shard.

        Raises:
            TrainingError: they cannot be counted, or their number is not the stated one.
        """
        sizes, name = sorted(nest.sizes(samples)), self.shards[number]
        if len(sizes) != 1 or not nest.is_plain(samples):
            given = f"{type(samples).__name__} with {sizes or 'no countable'} samples"
            taken = "tuples and dicts of tensors with one number of samples, or a list of samples"
            raise TrainingError(f"Shard {name} is a {given}; read must give {taken}.")
        if self.counts is not None and sizes[0] != self.counts[number]:
            stated = self.counts[number]
            raise TrainingError(f"Shard {name} has {sizes[0]} samples, and counts states {stated}.")
        return sizes[0]


@dataclass(eq=False)
class StreamLoader:
    """Cuts batches of a `Stream`, or of any other `IterableDataset` of samples.

    The batches of an epoch are a function of the seed and the epoch alone. Each of several processes
    reads an equal span of a `Stream`. Any other data set keeps its order and is read by one worker;
    each process reads all of it, and keeps its share of every batch.

    Args:
        source: The data set; its method ``set_epoch`` is told the epoch, if it has one.
        collate: Makes a batch of a list of samples.
        prepare: Makes what the model gets of a batch, given the places of its samples in the epoch,
            and the epoch.
        num_workers: Processes that read shards.
        train: Whether all shares must be equal: samples fill the last batch, and too few batches are
            an error. Otherwise, in an evaluation, the last share may be empty, and random draws are
            those of epoch 0.
        least: Number of batches on which a training counts if the data set has no length.

    The others are as those of `quartet.data.loader.Batches`.
    """

    source: IterableDataset[Any]
    batch_size: int
    _: KW_ONLY
    seed: int
    collate: Callable[[list[Any]], Any]
    prepare: Callable[[Any, Tensor, int], Any]
    num_workers: int = 0
    shuffle: bool = False
    drop_last: bool = False
    train: bool = False
    least: int = 0
    rank: int = 0
    world_size: int = 1
    start: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self.epoch = self.start[0]  # it is read before `set_epoch` is called

    @property
    def sampler(self) -> "StreamLoader":
        """Itself: Lightning calls `set_epoch` of a sampler, and of that of a batch sampler."""
        return self

    batch_sampler = sampler

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, from 0, of the next batches of a training."""
        self.epoch = epoch if self.train else 0

    def __len__(self) -> int:
        """Counts the batches of an epoch; raises TypeError if the data set has no length."""
        samples: int = len(self.source)  # type: ignore[arg-type]
        whole, rest = divmod(samples, self.batch_size * self.world_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Any]:
        number = self.start[1] if self.epoch == self.start[0] else 0
        is_stream = isinstance(self.source, Stream)
        for batch in self.cut(number) if is_stream else self.read_samples(number):
            size = nest.size(batch)
            if self.drop_last and size < self.batch_size:
                break
            places = torch.arange(size) + number * self.batch_size
            number += 1
            yield self.finish(batch, places * self.world_size + self.rank) if size else []
        expected = len(self) if math.isfinite(count_samples(self.source)) else self.least
        if number < expected and (self.train or self.world_size == 1):
            message = f"A part of the data ended after {number} batches, and its length (or"
            promise = f"trainer.limit_train_batches) promises {expected}; correct it."
            raise TrainingError(f"{message} {promise}")
        yield from ([] for _ in range(number, expected))

    def finish(self, batch: Any, rows: Tensor) -> Any:
        """Returns what the model gets of a batch, given the places of its samples in the epoch."""
        with seeded(self.seed, self.epoch, *rows.tolist()):
            batch = self.collate(batch) if isinstance(batch, list) else batch
            return self.prepare(batch, rows, self.epoch)

    def load(self, reader: Dataset[Any], workers: int, **options: Any) -> Iterator[Any]:
        """Iterates over what a reader gives, in its order, with a number of worker processes."""
        # Without a generator it would draw from that of the training.
        options |= {"generator": torch.Generator().manual_seed(self.seed), "collate_fn": identity}
        return iter(DataLoader(reader, batch_size=None, num_workers=workers, **options))

    def read_samples(self, first: int) -> Iterator[list[Any]]:
        """Yields the batches of a data set of samples from number `first`, as lists."""
        size = self.batch_size * self.world_size
        reader = SampleReader(self.source, size, self.seed, self.epoch, first)
        for samples in self.load(reader, min(self.num_workers, 1)):
            if self.train and not self.drop_last:
                missing = -len(samples) % self.world_size
                samples = [samples[i % len(samples)] for i in range(len(samples) + missing)]
            yield samples[self.rank :: self.world_size]

    def cut(self, first: int) -> Iterator[Any]:
        """Yields the batches of a stream from number `first`; the last may be smaller."""
        held = None
        for chunk, rows in self.read_shards(first * self.batch_size):
            first_size = self.batch_size if held is None else self.batch_size - nest.size(held)
            parts = (rows[:first_size], *rows[first_size:].split(self.batch_size))
            for part in (part for part in parts if len(part)):
                batch = nest.select(chunk, part)
                held = batch if held is None else concatenate([held, batch])
                if nest.size(held) == self.batch_size:
                    yield held
                    held = None
        if held is not None:
            yield held

    def read_shards(self, skip: int) -> Iterator[tuple[Any, Tensor]]:
        """Yields shards that are shuffled together, and the order of their rows.

        Args:
            skip: Samples to leave out; shards of known sizes with them alone are not read.
        """
        stream: Any = self.source
        pieces = self.list_pieces()
        step = stream.window if self.shuffle else 1
        groups = [pieces[i : i + step] for i in range(0, len(pieces), step)]
        first = 0
        for group in groups:
            size = sum(end - start for _, start, end in group)
            if size > skip:
                break
            skip, first = skip - int(size), first + 1
        numbers = [number for group in groups[first:] for number, _, _ in group]
        reader = ShardReader(stream, self.seed, self.epoch)
        shards = self.load(reader, self.num_workers, sampler=numbers)
        for place in range(first, len(groups)):
            chunk = concatenate([self.take(next(shards), *piece) for piece in groups[place]])
            rows = torch.arange(nest.size(chunk))
            if self.shuffle:
                generator = make_generator(self.seed, self.epoch, self.rank, place)
                rows = torch.randperm(len(rows), generator=generator)
            yield chunk, rows[skip:]
            skip = max(0, skip - len(rows))

    def list_pieces(self) -> list[Piece]:
        """Lists the shards of the epoch that this process reads, in order, and their rows."""
        stream: Any = self.source
        count = len(stream.shards)
        order: list[int] = list(range(count))
        if self.shuffle:
            order = torch.randperm(count, generator=make_generator(self.seed, self.epoch)).tolist()
        if stream.counts is None:
            if self.world_size > 1:
                message = "needs Stream(counts=...) where several processes share it."
                raise TrainingError(f"A stream of unknown length {message}")
            return [(number, 0, math.inf) for number in order]
        total = len(stream)
        share = total // self.world_size if self.drop_last else -(-total // self.world_size)
        start = self.rank * share
        end = start + share if self.train else min(start + share, total)
        pieces: list[Piece] = []
        first = 0
        for number in (*order, *order):  # the last share may need the first samples again
            size = stream.counts[number]
            low, high = max(start - first, 0), min(end - first, size)
            if low < high:
                pieces.append((number, low, high))
            first += size
        return pieces

    def take(self, samples: Any, number: int, start: int, end: float) -> Any:
        """Returns rows of a shard."""
        stream: Any = self.source
        size = stream.check(number, samples)
        if (start, min(end, size)) == (0, size):
            return samples
        return nest.select(samples, torch.arange(start, int(end)))


class ShardReader(Dataset[Any]):
    """Reads the shards of a stream by their numbers, with random draws of their own in each epoch."""

    def __init__(self, stream: Stream, seed: int, epoch: int) -> None:
        self.stream, self.seed, self.epoch = stream, seed, epoch

    def __getitem__(self, number: int) -> Any:
        tell_epoch(self.stream, self.epoch)
        with seeded(self.seed, self.epoch, number):
            return self.stream.read(self.stream.shards[number])


@dataclass(eq=False)
class SampleReader(IterableDataset[Any]):
    """Reads lists of `size` samples from number `first`, each with random draws of its own."""

    dataset: IterableDataset[Any]
    size: int
    seed: int
    epoch: int
    first: int

    def __iter__(self) -> Iterator[list[Any]]:
        tell_epoch(self.dataset, self.epoch)
        samples: Iterator[Any] = iter(())
        for number in count():
            with seeded(self.seed, self.epoch, number):
                samples = samples if number else iter(self.dataset)
                found = list(islice(samples, self.size))
            if not found:
                return
            if number >= self.first:
                yield found


def count_samples(dataset: Any) -> float:
    """Counts the samples of a data set; infinite if they are not known."""
    try:
        return len(dataset)
    except TypeError:
        if isinstance(dataset, IterableDataset):
            return math.inf
        raise


def concatenate(nests: Sequence[Any]) -> Any:
    """Concatenates the samples of shards.

    Raises:
        TrainingError: they differ in their structure or in the shapes of samples.
    """
    if len(nests) == 1:
        return nests[0]
    try:
        return nest.concatenate(nests)
    except (ValueError, RuntimeError) as error:
        message = f"Samples of several shards do not fit together: {error} Pad them to one shape,"
        raise TrainingError(f"{message} or let read return lists of samples.") from None
