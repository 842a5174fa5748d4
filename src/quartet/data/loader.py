"""Loaders: the order of the samples in an epoch, and their batches."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate, get_worker_info

from quartet.compat.lightning_loop import DeviceBatch
from quartet.data.nest import children, leaves, lists_to_tuples, map_children, map_tensors


@dataclass(eq=False)
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
            processes are equal, as averaged gradients need them. Otherwise, in an evaluation, the
            last share may be empty, and random draws are those of epoch 0.
        rank: Rank of this process, from 0.
        world_size: Number of processes.
        start: First epoch, and the number of its batches to skip.
        weights: Relative frequency of each sample; an epoch draws `count` samples with replacement.
            None draws every sample once.
    """

    count: int
    batch_size: int
    _: KW_ONLY
    seed: int
    shuffle: bool = False
    drop_last: bool = False
    fill: bool = True
    rank: int = 0
    world_size: int = 1
    start: tuple[int, int] = (0, 0)
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        self.batch_size *= self.world_size
        self.missing = -self.count % self.world_size if self.fill and not self.drop_last else 0
        self.epoch = self.start[0]  # a `DataLoader` with workers reads before `set_epoch` is called

    @property
    def sampler(self) -> "Batches":
        """Itself: Lightning calls `set_epoch` only on the sampler of a batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch, from 0, of the next batches of a training."""
        self.epoch = epoch if self.fill else 0

    def order(self) -> Tensor:
        """Returns the order of the samples in the current epoch, ``(count,)``."""
        if not self.shuffle:
            return torch.arange(self.count)
        generator = make_generator(self.seed, self.epoch)
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


def make_generator(*numbers: int) -> torch.Generator:
    """Makes a generator of the seed, the epoch and further numbers."""
    # With seed + epoch, the second epoch of seed 0 would have the first order of seed 1.
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> 1))


class TensorLoader:
    """Slices batches of tensors on their device, a whole batch at a time.

    A `DataLoader` would collate sample by sample, which takes longer than a training step of a
    small model. A batch without samples is an empty list.

    Args:
        tensors: Nest of tensors of equal length, such as a tuple of inputs and targets.
        batches: Rows of each batch; with `queries` the numbers of queries.
        device: Device of the batches, and of the tensors if they fit.
        prepare: Makes what the model gets of a batch, given its rows and the epoch.
        queries: The query of each row, ascending; None if rows are independent.
    """

    is_on_device = True  # are the batches of the loader

    def __init__(
        self,
        tensors: Any,
        batches: Batches,
        device: torch.device,
        prepare: Callable[[Any, Tensor, int], Any],
        queries: Tensor | None = None,
    ) -> None:
        self.storage = device
        if device.type == "cuda":  # it stores them if half of its free memory is enough
            free, _ = torch.cuda.mem_get_info(device)
            if 2 * sum(tensor.nbytes for tensor in leaves(tensors)) > free:
                self.storage = torch.device("cpu")
        self.tensors = map_tensors(lambda tensor: tensor.to(self.storage), tensors)
        self.batch_sampler = batches  # the name under which Lightning looks for samplers
        self.prepare = prepare
        self.device = device
        self.rows: tuple[Tensor, ...] | None = None
        if queries is not None:
            counts = queries.unique_consecutive(return_counts=True)[1]
            self.rows = torch.arange(len(queries)).split(counts.tolist())

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Any]:
        for rows in self.batch_sampler:
            if not len(rows):
                yield DeviceBatch()
                continue
            if self.rows is not None:
                rows = torch.cat([self.rows[query] for query in rows.tolist()])
            rows = rows.to(self.storage, non_blocking=True)
            if type(self.tensors) is tuple:
                batch: Any = DeviceBatch(self.take(tensor, rows) for tensor in self.tensors)
            else:
                batch = self.take(self.tensors, rows)
            yield self.prepare(batch, rows, self.batch_sampler.epoch)

    def take(self, nest: Any, rows: Tensor) -> Any:
        """Returns rows of the tensors of a nest, on the device of the model."""
        if isinstance(nest, Tensor):
            return nest.index_select(0, rows).to(self.device, non_blocking=True)
        return map_tensors(lambda tensor: self.take(tensor, rows), nest)


def make_normalizer(
    mean: Sequence[float] | None, std: Sequence[float] | None, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Returns a function that turns stored inputs into the model's.

    The bytes of images ``(batch, channels, height, width)`` become floats in [0, 1], and their
    channels are standardized if `mean` and `std` are given. Other inputs stay as they are.
    """
    shift = None if mean is None else torch.tensor(mean, device=device).view(-1, 1, 1)
    scale = None if std is None else torch.tensor(std, device=device).view(-1, 1, 1)
    return partial(_normalize, shift=shift, scale=scale)  # can be sent to worker processes


def _normalize(inputs: Tensor, *, shift: Tensor | None, scale: Tensor | None) -> Tensor:
    if inputs.dtype == torch.uint8 and inputs.ndim == 4:
        inputs = inputs.float().div_(255)  # `* (1 / 255)` would round differently
    if shift is not None:
        inputs = inputs - shift
    return inputs if scale is None else inputs / scale


def collate(samples: list[Any]) -> Any:
    """Stacks the tensors of samples; the tuples of a sample become tuples, within a list."""
    batch = default_collate(samples)
    if isinstance(batch, list):
        return [lists_to_tuples(each) for each in batch]
    return lists_to_tuples(batch)


def collate_as_lists(own: Callable[[list[Any]], Any], samples: list[Any]) -> Any:
    """Makes a batch by a function of a project, with a list where it holds an item of each sample.

    The usual function of detectors, ``tuple(zip(*samples))``, makes tuples, which have no samples.
    """

    def to_list(part: Any) -> Any:
        pairs = zip(part, samples, strict=False) if type(part) is tuple else ()
        holds = [any(item is each for each in children(sample)) for item, sample in pairs]
        return list(part) if len(holds) == len(samples) and all(holds) else part

    batch = own(samples)
    return [*map(to_list, batch)] if type(batch) is list else map_children(to_list, batch)


def prepare_batch(
    batch: Any,
    rows: Tensor,
    epoch: int,
    *,
    normalize: Callable[[Tensor], Tensor],
    augment_inputs: Callable[[Tensor, Tensor, int], Tensor] | None = None,
    augment: Callable[[Any, Tensor, int], Any] | None = None,
) -> Any:
    """Augments a batch of an epoch, and normalizes inputs that are a tensor.

    A batch is a list or tuple with the inputs first, a dict with ``inputs``, or inputs alone; `rows`
    are the numbers of its samples. `augment_inputs` changes inputs alone, `augment` the whole batch.
    """
    if augment is not None or augment_inputs is not None:
        device = leaves(batch)[0].device
        rows = rows.to(device, non_blocking=True)
    if augment is not None:
        batch = map_tensors(lambda tensor: tensor.to(device), augment(batch, rows, epoch))
    place: Any = "inputs" if isinstance(batch, dict) else 0
    inputs = batch if isinstance(batch, Tensor) else batch[place]
    if not isinstance(inputs, Tensor):
        return batch
    if augment_inputs is not None:
        inputs = augment_inputs(inputs, rows, epoch)
    inputs = normalize(inputs)
    if isinstance(batch, Tensor):
        return inputs
    if isinstance(batch, tuple):
        return (inputs, *batch[1:])
    batch[place] = inputs
    return batch


class EpochBatchSampler:
    """Adds the epoch to each batch, since the workers of a `DataLoader` do not know it."""

    def __init__(self, batches: Batches) -> None:
        self.sampler = batches  # the name under which Lightning looks for `set_epoch`

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        for batch in self.sampler:
            yield self.sampler.epoch, batch


@dataclass(eq=False)
class BatchDataset(Dataset[Any]):
    """Reads whole batches of a data set of single samples.

    For each batch the global generators are seeded with the seed, the epoch and the rows, so that
    random draws of the data set are the same whatever the number of workers, also after a resume. A
    data set with a method ``set_epoch`` is told the epoch.

    Args:
        dataset: Map-style data set.
        collate: Makes a batch of a list of samples.
        prepare: Makes what the model gets of a batch, given its rows and the epoch.
        seed: Seed of the random numbers.
    """

    dataset: Dataset[Any]
    collate: Callable[[list[Any]], Any]
    prepare: Callable[[Any, Tensor, int], Any]
    seed: int

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitems__(self, numbered: tuple[int, Tensor]) -> Any:
        epoch, rows = numbered
        if not len(rows):
            return []
        tell_epoch(self.dataset, epoch)
        with seeded(self.seed, epoch, *rows.tolist()):
            if hasattr(self.dataset, "__getitems__"):
                samples = self.dataset.__getitems__(rows.tolist())
            else:
                samples = [self.dataset[row] for row in rows.tolist()]
            return self.prepare(self.collate(samples), rows, epoch)


def tell_epoch(dataset: Any, epoch: int) -> None:
    """Tells a data set the epoch, if it has a method ``set_epoch``."""
    if hasattr(dataset, "set_epoch"):
        dataset.set_epoch(epoch)


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seeds the global generators within the block; in the training's process restores them after it."""
    keep = get_worker_info() is None
    states = (random.getstate(), np.random.get_state(), torch.get_rng_state()) if keep else None
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would seed a GPU, too
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        if states is not None:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])


def identity(batch: Any) -> Any:
    return batch


def worker_options(num_workers: int) -> dict[str, Any]:
    """Returns the arguments of a `DataLoader` that reads files with `num_workers` processes."""
    return {"num_workers": num_workers, "persistent_workers": num_workers > 0}
