"""Data sets: a source gives the parts, the DataModule their batches."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from quartet.data import augment
from quartet.data.loader import (
    BatchDataset,
    Batches,
    EpochBatchSampler,
    TensorLoader,
    collate,
    identity,
    make_normalizer,
    worker_options,
)
from quartet.data.split import Parts

__all__ = ["DataModule", "Parts"]


class DataModule(LightningDataModule):
    """Serves the parts of a data set in batches.

    Parts held in memory (`TensorDataset`) are sliced whole and stay on the device of the model; any
    other data set goes through a `DataLoader`.

    Args:
        source: Gives the parts when called; downloads what is missing.
        task: The name of the kind of task, see `quartet.data.task`.
        batch_size: Samples (ranking: queries) a training step, or ``"full"`` for all of them.
        eval_batch_size: The same for validation and test.
        seed: Of the order of the training samples.
        shuffle: Whether every epoch has an order of its own.
        balance: Whether an epoch draws every class equally often, with replacement.
        drop_last: Whether a last training batch that is smaller is left out.
        num_workers: Processes that read files ahead; 0 reads in this process.
        mean: Of each channel of images in [0, 1], subtracted; None for none.
        std: Of each channel, divided by.
        flip: Whether half of the training images are mirrored, others in each epoch.
        crop: Pixels by which training images are shifted at most; 0 leaves them.
    """

    parts: Parts

    def __init__(
        self,
        source: Callable[[], Parts],
        *,
        task: str,
        batch_size: int | str,
        eval_batch_size: int,
        seed: int,
        shuffle: bool,
        balance: bool,
        drop_last: bool,
        num_workers: int,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        flip: bool,
        crop: int,
    ) -> None:
        super().__init__()
        self.source = source
        self.task = task
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.balance = balance
        self.drop_last = drop_last
        self.num_workers = num_workers
        self.mean = mean
        self.std = std
        self.flip = flip
        self.crop = crop
        self.start = (0, 0)
        # Of the configuration: task, input_shape, num_classes, num_outputs.
        self.config_metadata: dict[str, Any] = {}

    def metadata(self) -> dict[str, Any]:
        """All that prediction needs to know of the data, in plain containers."""

        def texts(names: Sequence[str] | None) -> list[str] | None:
            return None if names is None else [str(name) for name in names]

        return self.config_metadata | {
            "class_names": texts(self.parts.class_names),
            "feature_names": texts(self.parts.feature_names),
            "encoding": self.parts.encoding,
        }

    def state_dict(self) -> dict[str, int]:
        """How far the training has come: the epoch, and how many of its batches are done."""
        # By the trainer's count: a loader that reads ahead has given out more.
        loop = self.trainer.fit_loop  # type: ignore[union-attr]
        epoch: Any = loop.epoch_progress.current
        batches: Any = loop.epoch_loop.batch_progress.current
        over = epoch.processed == epoch.ready
        return {"epoch": epoch.processed, "batches": 0 if over else batches.processed}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.start = (state_dict["epoch"], state_dict["batches"])

    def prepare_data(self) -> None:
        self.load()

    def setup(self, stage: str) -> None:
        self.load()

    def load(self) -> Parts:
        """The parts, read on the first call."""
        if not self.loaded:
            self.parts = self.source()
        return self.parts

    @property
    def loaded(self) -> bool:
        """Whether the parts were read."""
        return hasattr(self, "parts")

    def targets(self) -> Tensor:
        """The targets of the training part, in its order."""
        train = self.load().train
        if isinstance(train, TensorDataset):
            return train.tensors[1]
        if hasattr(train, "targets"):
            return torch.as_tensor(train.targets)
        count = len(train)  # type: ignore[arg-type]
        return torch.stack([torch.as_tensor(train[i][1]) for i in range(count)])

    def count_batches(self, world_size: int, samples: int | None = None) -> int:
        """Training batches of an epoch for each process.

        Args:
            world_size: Number of processes.
            samples: Of the training part; None to count them.
        """
        count = rows(self.load().train) if samples is None else samples
        return len(self._batches(count, self.batch_size, self.drop_last, 0, world_size))

    def train_dataloader(self) -> Any:
        # The batches to overfit stay the same.
        overfits = self.trainer is not None and self.trainer.overfit_batches  # type: ignore[attr-defined]
        shuffle = self.shuffle and not overfits
        change = None
        if self.flip or self.crop:
            change = functools.partial(
                augment.images, mirror=self.flip, shift=self.crop, seed=self.seed
            )
        return self._loader(
            *(self.parts.train, self.batch_size, shuffle, self.drop_last),
            fill=True,
            start=self.start,
            change=change,
            weights=balanced(self.targets()) if self.balance else None,
        )

    def val_dataloader(self) -> Any:
        return self.part_loader("val")

    def test_dataloader(self) -> Any:
        return self.part_loader("test")

    def part_loader(self, part: str) -> Any:
        """The samples of train, val or test in their order."""
        return self._loader(getattr(self.parts, part), self.eval_batch_size)

    def _loader(
        self,
        dataset: Dataset[Any] | None,
        batch_size: int | str,
        shuffle: bool = False,
        drop_last: bool = False,
        fill: bool = False,
        start: tuple[int, int] = (0, 0),
        change: Callable[[Tensor, Tensor, int], Tensor] | None = None,
        weights: Tensor | None = None,
    ) -> Any:
        if dataset is None:
            return []
        trainer = self.trainer
        rank = trainer.global_rank if trainer else 0
        world_size = trainer.world_size if trainer else 1
        batches = self._batches(
            *(rows(dataset), batch_size, drop_last, rank, world_size),
            *(shuffle, fill, start, weights),
        )
        device = trainer.strategy.root_device if trainer else torch.device("cpu")
        if not isinstance(dataset, TensorDataset):
            collate_samples = functools.partial(collate, mean=self.mean, std=self.std)
            return DataLoader(
                BatchDataset(dataset, collate_samples, self.seed, change),
                batch_sampler=EpochBatchSampler(batches),  # type: ignore[arg-type]
                collate_fn=identity,
                # Without one it would draw from the random numbers of the training.
                generator=torch.Generator().manual_seed(self.seed),
                **worker_options(self.num_workers),
            )
        return TensorLoader(
            dataset.tensors,
            batches,
            device,
            make_normalizer(self.mean, self.std, device),
            change,
        )

    def _batches(
        self,
        count: int,
        batch_size: int | str,
        drop_last: bool,
        rank: int,
        world_size: int,
        shuffle: bool = False,
        fill: bool = True,
        start: tuple[int, int] = (0, 0),
        weights: Tensor | None = None,
    ) -> Batches:
        return Batches(
            count,
            # The whole set is divided among the processes.
            math.ceil(count / world_size) if batch_size == "full" else int(batch_size),
            seed=self.seed,
            shuffle=shuffle,
            drop_last=drop_last,
            fill=fill,
            rank=rank,
            world_size=world_size,
            start=start,
            weights=weights,
        )


def balanced(targets: Tensor) -> Tensor:
    """A weight for each sample, so that those of every class have the same sum."""
    classes = targets.flatten().long()
    return classes.bincount().double().reciprocal()[classes]


def rows(dataset: Dataset[Any]) -> int:
    """What a batch counts: samples, or queries where a third tensor names them."""
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 3:
        return len(dataset.tensors[2].unique_consecutive())
    return len(dataset)  # type: ignore[arg-type]
