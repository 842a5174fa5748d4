"""The DataModule: a source returns the parts of a data set, loaders return their batches."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from quartet.data.augment import augment_images
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

    The tensors of a `TensorDataset` are kept on the device of the model and sliced a batch at a
    time; a `DataLoader` reads any other data set sample by sample.

    Args:
        source: Function that returns the parts, and downloads missing files.
        task: Name of the task, see `quartet.data.task`.
        batch_size: Samples (ranking: queries) of a training step, or ``"full"`` for all of them.
        eval_batch_size: Samples of a validation or test step.
        seed: Seed of the order of the training samples.
        shuffle: Whether to shuffle the training samples in every epoch.
        balance: Whether an epoch draws every class equally often, with replacement.
        drop_last: Whether to drop a last training batch that is smaller.
        num_workers: Processes that load batches; 0 loads them in this process.
        mean: Means to subtract from the channels of images in [0, 1], or None.
        std: Standard deviations to divide the channels by, or None.
        flip: Whether to mirror half of the training images, drawn anew in each epoch.
        crop: Largest shift of a training image in pixels; 0 shifts none.
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
        # From the configuration: task, input_shape, num_classes, num_outputs.
        self.config_metadata: dict[str, Any] = {}

    def metadata(self) -> dict[str, Any]:
        """Returns the metadata that prediction needs, in plain containers."""

        def texts(names: Sequence[str] | None) -> list[str] | None:
            return None if names is None else [str(name) for name in names]

        return self.config_metadata | {
            "class_names": texts(self.parts.class_names),
            "feature_names": texts(self.parts.feature_names),
            "encoding": self.parts.encoding,
        }

    def state_dict(self) -> dict[str, int]:
        """Returns the position in the training: the epoch, and the number of its finished batches."""
        # The trainer counts them, because a loader with workers is ahead of it.
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
        """Returns the parts; the first call reads them."""
        if not self.loaded:
            self.parts = self.source()
        return self.parts

    @property
    def loaded(self) -> bool:
        """Whether the parts were read."""
        return hasattr(self, "parts")

    def targets(self) -> Tensor:
        """Returns the targets of the training part, in its order."""
        train = self.load().train
        if isinstance(train, TensorDataset):
            return train.tensors[1]
        if hasattr(train, "targets"):
            return torch.as_tensor(train.targets)
        count = len(train)  # type: ignore[arg-type]
        return torch.stack([torch.as_tensor(train[i][1]) for i in range(count)])

    def count_batches(self, world_size: int, samples: int | None = None) -> int:
        """Counts the training batches of an epoch for each process.

        Args:
            world_size: Number of processes.
            samples: Size of the training part; None counts its samples.
        """
        count = count_samples(self.load().train) if samples is None else samples
        return len(self._train_batches(count, 0, world_size))

    def _train_batches(self, count: int, rank: int, world_size: int, **options: Any) -> Batches:
        full = math.ceil(count / world_size)  # the processes share the whole set
        return Batches(
            count,
            full if self.batch_size == "full" else int(self.batch_size),
            seed=self.seed,
            drop_last=self.drop_last,
            rank=rank,
            world_size=world_size,
            **options,
        )

    def train_dataloader(self) -> Any:
        # With overfit_batches every epoch has the same batches.
        overfits = self.trainer is not None and self.trainer.overfit_batches  # type: ignore[attr-defined]
        batches = self._train_batches(
            count_samples(self.parts.train),
            *self._process(),
            shuffle=self.shuffle and not overfits,
            start=self.start,
            weights=balancing_weights(self.targets()) if self.balance else None,
        )
        augment = None
        if self.flip or self.crop:
            augment = functools.partial(
                augment_images, mirror=self.flip, shift=self.crop, seed=self.seed
            )
        return self._loader(self.parts.train, batches, augment)

    def val_dataloader(self) -> Any:
        return self.part_loader("val")

    def test_dataloader(self) -> Any:
        return self.part_loader("test")

    def part_loader(self, part: str) -> Any:
        """Returns a loader of the train, val or test part, without shuffling."""
        dataset = getattr(self.parts, part)
        if dataset is None:
            return []
        rank, world_size = self._process()
        batches = Batches(
            count_samples(dataset),
            self.eval_batch_size,
            seed=self.seed,
            fill=False,
            rank=rank,
            world_size=world_size,
        )
        return self._loader(dataset, batches)

    def _process(self) -> tuple[int, int]:
        """The rank of this process and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader(
        self,
        dataset: Dataset[Any],
        batches: Batches,
        augment: Callable[[Tensor, Tensor, int], Tensor] | None = None,
    ) -> Any:
        if isinstance(dataset, TensorDataset):
            cpu = torch.device("cpu")
            device = self.trainer.strategy.root_device if self.trainer else cpu
            normalize = make_normalizer(self.mean, self.std, device)
            return TensorLoader(dataset.tensors, batches, device, normalize, augment)
        collate_samples = functools.partial(collate, mean=self.mean, std=self.std)
        return DataLoader(
            BatchDataset(dataset, collate_samples, self.seed, augment),
            batch_sampler=EpochBatchSampler(batches),  # type: ignore[arg-type]
            collate_fn=identity,
            # Without one it would draw from the generator of the training.
            generator=torch.Generator().manual_seed(self.seed),
            **worker_options(self.num_workers),
        )


def balancing_weights(targets: Tensor) -> Tensor:
    """Returns a weight for each sample; the weights of every class have the same sum."""
    classes = targets.flatten().long()
    return classes.bincount().double().reciprocal()[classes]


def count_samples(dataset: Dataset[Any]) -> int:
    """Counts the samples of a data set, or its queries if it has a third tensor."""
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 3:
        return len(dataset.tensors[2].unique_consecutive())
    return len(dataset)  # type: ignore[arg-type]
