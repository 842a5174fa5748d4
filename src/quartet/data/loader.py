"""Loaders: the order of the samples in an epoch, and their batches."""

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate, get_worker_info

from quartet.compat.lightning_loop import DeviceBatch


class Batches:
    """A batch sampler whose batches are a function of the seed and the epoch alone.

    Batches are index tensors. Each of several processes gets its share of every batch.

    Args:
        count: Number of samples (or queries).
        batch_size: Samples of a batch, for each process.
        seed: Seed of the order.
        shuffle: Whether to shuffle the samples in every epoch.
        drop_last: Whether to drop a last batch that is smaller.
        fill: Whether the first samples of the epoch fill its last batch, so that the shares of all
            processes are equal, as averaged gradients need them. Otherwise the last share may be
            empty.
        rank: Rank of this process, from 0.
        world_size: Number of processes.
        start: First epoch, and the number of its batches to skip.
        weights: Relative frequency of each sample; an epoch draws `count` samples with replacement.
            None draws every sample once.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool = False,
        drop_last: bool = False,
        fill: bool = True,
        rank: int = 0,
        world_size: int = 1,
        start: tuple[int, int] = (0, 0),
        weights: Tensor | None = None,
    ) -> None:
        self.count = count
        self.batch_size = batch_size * world_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.missing = -count % world_size if fill and not drop_last else 0
        self.rank = rank
        self.world_size = world_size
        self.start = start
        self.weights = weights
        self.epoch = start[0]  # a `DataLoader` with workers reads before `set_epoch` is called

    @property
    def sampler(self) -> "Batches":
        """Itself: Lightning calls `set_epoch` only on the sampler of a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, from 0, of the next batches."""
        self.epoch = epoch

    def order(self) -> Tensor:
        """Returns the order of the samples in the current epoch, ``(count,)``."""
        if not self.shuffle:
            return torch.arange(self.count)
        # With seed + epoch, the second epoch of seed 0 would have the first order of seed 1.
        state = np.random.SeedSequence((self.seed, self.epoch)).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0] >> 1))
        if self.weights is None:
            return torch.randperm(self.count, generator=generator)
        # `torch.multinomial` supports at most 2**24 samples.
        upper = self.weights.double().cumsum(0)
        drawn = torch.rand(self.count, generator=generator, dtype=torch.float64) * upper[-1]
        return torch.searchsorted(upper, drawn, right=True).clamp_(max=self.count - 1)

    def __len__(self) -> int:
        whole, rest = divmod(self.count, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Tensor]:
        order = self.order()
        if self.missing:
            order = order[torch.arange(self.count + self.missing) % self.count]
        first = self.start[1] if self.epoch == self.start[0] else 0
        for batch in order.split(self.batch_size)[first : len(self)]:
            yield batch[self.rank :: self.world_size] if self.world_size > 1 else batch


class TensorLoader:
    """Slices batches of tensors on their device, a whole batch at a time.

    A `DataLoader` would collate sample by sample, which takes longer than a training step of a
    small model. A batch without samples is an empty list.

    Args:
        tensors: Tensors of equal length: inputs, targets and, for ranking, the query of each row.
        batches: Rows (for ranking: queries) of each batch.
        device: Device of the batches, and of the tensors if they fit.
        normalize: Turns stored inputs into the model's.
        augment: Changes inputs at random, given their rows and the epoch; None changes nothing.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        batches: Batches,
        device: torch.device,
        normalize: Callable[[Tensor], Tensor],
        augment: Callable[[Tensor, Tensor, int], Tensor] | None = None,
    ) -> None:
        kept = storage_device(tensors, device)
        self.tensors = [tensor.to(kept) for tensor in tensors]
        self.batch_sampler = batches  # the name under which Lightning looks for samplers
        self.normalize = normalize
        self.augment = augment
        self.device = device
        self.rows: tuple[Tensor, ...] | None = None
        if len(tensors) == 3:
            counts = tensors[2].unique_consecutive(return_counts=True)[1]
            self.rows = torch.arange(len(tensors[2])).split(counts.tolist())

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[DeviceBatch]:
        for batch in self.batch_sampler:
            if not len(batch):
                yield DeviceBatch()
                continue
            if self.rows is not None:
                batch = torch.cat([self.rows[query] for query in batch.tolist()])
            batch = batch.to(self.tensors[0].device, non_blocking=True)
            inputs, *others = [
                tensor.index_select(0, batch).to(self.device, non_blocking=True)
                for tensor in self.tensors
            ]
            if self.augment:
                rows = batch.to(self.device, non_blocking=True)
                inputs = self.augment(inputs, rows, self.batch_sampler.epoch)
            yield DeviceBatch([self.normalize(inputs), *others])


def storage_device(tensors: Sequence[Tensor], device: torch.device) -> torch.device:
    """Returns the device that stores the tensors: a GPU if half of its free memory is enough."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if 2 * sum(tensor.nbytes for tensor in tensors) > free:
            return torch.device("cpu")
    return device


def make_normalizer(
    mean: Sequence[float] | None, std: Sequence[float] | None, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Returns a function that turns stored inputs into the model's.

    Bytes become floats in [0, 1]; the channels of images ``(batch, channels, height, width)`` are
    standardized if `mean` and `std` are given.
    """
    shift = None if mean is None else torch.tensor(mean, device=device).view(-1, 1, 1)
    scale = None if std is None else torch.tensor(std, device=device).view(-1, 1, 1)

    def convert(inputs: Tensor) -> Tensor:
        if inputs.dtype == torch.uint8:
            inputs = inputs.float().div_(255)  # `* (1 / 255)` would round differently
        if shift is not None:
            inputs = inputs - shift
        return inputs if scale is None else inputs / scale

    return convert


def collate(
    samples: Sequence[tuple[Any, ...]],
    *,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    augment: Callable[[Tensor], Tensor] | None = None,
) -> list[Tensor]:
    """Collates samples into a batch, augments and normalizes it."""
    if not samples:
        return []
    inputs, *others = default_collate(list(samples))
    if augment:
        inputs = augment(inputs)
    return [make_normalizer(mean, std, inputs.device)(inputs), *others]


class EpochBatchSampler:
    """Adds the epoch to each batch, since the workers of a `DataLoader` do not know it."""

    def __init__(self, batches: Batches) -> None:
        self.sampler = batches  # the name under which Lightning looks for `set_epoch`

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        for batch in self.sampler:
            yield self.sampler.epoch, batch


class BatchDataset(Dataset[Any]):
    """Reads whole batches of a data set of single samples.

    A worker process seeds its generators for each batch with the seed, the epoch and the rows, so
    that they are the same after a resume.

    Args:
        dataset: Data set of tuples of inputs and targets.
        collate: Makes a batch of samples; its keyword ``augment`` is a function of the inputs.
        seed: Seed of the random numbers.
        augment: Changes inputs at random, given their rows and the epoch; None changes nothing.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        collate: Callable[..., list[Tensor]],
        seed: int,
        augment: Callable[..., Tensor] | None,
    ) -> None:
        self.dataset, self.collate = dataset, collate
        self.seed, self.augment = seed, augment

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitems__(self, numbered: tuple[int, Tensor]) -> list[Tensor]:
        epoch, batch = numbered
        rows = batch.tolist()
        if rows and get_worker_info() is not None:
            words = np.random.SeedSequence((self.seed, epoch, *rows)).generate_state(1)
            torch.manual_seed(int(words[0]))
            np.random.seed(words[0])
            random.seed(int(words[0]))
        if hasattr(self.dataset, "__getitems__"):
            samples = self.dataset.__getitems__(rows)
        else:
            samples = [self.dataset[row] for row in rows]
        augment = self.augment and partial(self.augment, index=batch, epoch=epoch)
        return self.collate(samples, augment=augment)


def identity(batch: list[Tensor]) -> list[Tensor]:
    return batch


def worker_options(num_workers: int) -> dict[str, Any]:
    """Returns the arguments of a `DataLoader` that reads files with `num_workers` processes."""
    return {"num_workers": num_workers, "persistent_workers": num_workers > 0}
