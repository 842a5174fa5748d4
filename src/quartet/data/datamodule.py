"""The DataModule: a source returns the parts of a data set, loaders return their batches."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from quartet.data import loader
from quartet.data.augment import augment_images
from quartet.data.split import Parts, Rows, identify, identify_files
from quartet.data.stream import StreamLoader, count_samples
from quartet.data.task import create_task

__all__ = ["DataModule", "Parts"]


@dataclass(eq=False, repr=False)
class DataModule(LightningDataModule):
    """Serves the parts of a data set in batches.

    The tensors of a `TensorDataset` are kept on the device of the model and sliced a batch at a
    time; a `Stream` is read shard by shard; a `DataLoader` reads any other data set sample by sample.

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

    source: Callable[[], Parts]
    _: KW_ONLY
    task: str
    batch_size: int | str
    eval_batch_size: int
    seed: int
    shuffle: bool
    balance: bool
    drop_last: bool
    num_workers: int
    mean: Sequence[float] | None
    std: Sequence[float] | None
    flip: bool
    crop: int

    parts: Parts = field(init=False)
    resumes_itself = True  # its batches follow from the seed, the epoch and their number
    is_rebuilt = False  # whether it is that of a run, which has trained on its training part
    is_prepared = False  # whether its source prepared it by the metadata of a run
    paths: Sequence[str] = field(default=(), init=False)  # files and folders that the settings name
    # By which a change of the data is noticed.
    identity: dict[str, Any] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        super().__init__()
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
            "identity": self.identity,
        }

    def __str__(self) -> str:
        # Lightning's own would look into batches for loaders.
        sizes = (f"{part} {self.count(part):,.0f}" for part in Rows._fields if self.count(part))
        return f"{type(self).__name__}({', '.join(sizes)})"

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
            hashes = self.parts.hashes
            self.identity = identify(hashes) if hashes else identify_files(self.paths)
        return self.parts

    def fingerprint(self) -> str | None:
        """Tells the data from other data, however it is divided; None if it has no files."""
        hashes, found = self.parts.hashes, self.identity
        if self.parts.encoding is not None:  # whose rows are encoded as their division asks
            found = identify_files(self.paths)
        elif hashes:
            return f"{sum(int(part.sum()) for part in hashes.values()) % 2**64:x}"
        return str(found["fingerprint"]) if found else None

    @property
    def loaded(self) -> bool:
        """Whether the parts were read."""
        return hasattr(self, "parts")

    def targets(self) -> Tensor:
        """Returns the targets of the training part, in its order."""
        train = self.load().train
        split = create_task(self.task).split
        if isinstance(train, TensorDataset):
            return split(train.tensors)[1]  # type: ignore[no-any-return]
        if hasattr(train, "targets"):
            return torch.as_tensor(train.targets)
        count = len(train)  # type: ignore[arg-type]
        return torch.stack([torch.as_tensor(split(train[i])[1]) for i in range(count)])

    def knows_targets(self) -> bool:
        """Whether the targets of the training part are known without reading its samples."""
        train = self.load().train
        return isinstance(train, TensorDataset) or hasattr(train, "targets")

    def count(self, part: str) -> float:
        """Counts the samples of a part, or its queries; 0 without this part, infinite if not known."""
        dataset = getattr(self.load(), part)
        if dataset is None:
            return 0
        queries = self.queries(dataset)
        return count_samples(dataset) if queries is None else len(queries.unique_consecutive())

    def queries(self, dataset: Dataset[Any]) -> Tensor | None:
        """Returns the query of each row of a data set, or None if the task has none."""
        task = create_task(self.task)
        if not (task.has_queries and isinstance(dataset, TensorDataset)):
            return None
        return task.split(dataset.tensors)[2]["indexes"]  # type: ignore[no-any-return]

    def count_batches(self, world_size: int, samples: float | None = None) -> float:
        """Counts the training batches of an epoch for each process; infinite if not known.

        `samples` is the size of the training part; None counts it.
        """
        count = self.count("train") if samples is None else samples
        if math.isinf(count):
            return count
        return len(self._train_batches(int(count), world_size=world_size))

    def _train_batches(self, count: int, **options: Any) -> loader.Batches:
        full = math.ceil(count / options["world_size"])  # the processes share the whole set
        size = full if self.batch_size == "full" else int(self.batch_size)
        return loader.Batches(count, size, seed=self.seed, drop_last=self.drop_last, **options)

    def train_dataloader(self) -> Any:
        # With overfit_batches every epoch has the same batches.
        overfits = self.trainer is not None and self.trainer.overfit_batches  # type: ignore[attr-defined]
        order: dict[str, Any] = {"shuffle": self.shuffle and not overfits, "start": self.start}
        options: dict[str, Any] = {"augment": self.parts.augment}
        if self.flip or self.crop:
            options["augment_inputs"] = functools.partial(
                augment_images, mirror=self.flip, shift=self.crop, seed=self.seed
            )
        if isinstance(self.parts.train, IterableDataset):
            limit = self.trainer.limit_train_batches if self.trainer else 0
            order |= {"drop_last": self.drop_last, "train": True}
            order["least"] = limit if isinstance(limit, int) else 0
            return self._stream(self.parts.train, self.batch_size, options, **order)
        weights = balancing_weights(self.targets()) if self.balance else None
        order |= {"weights": weights, **self._process()}
        batches = self._train_batches(int(self.count("train")), **order)
        return self._loader(self.parts.train, batches, **options)

    def first_batch(self, count: int, part: str = "train", augment: Any = None) -> Any:
        """Returns the first samples of a part as a batch, changed by `augment` alone."""
        dataset: Any = getattr(self.load(), part)
        if isinstance(dataset, IterableDataset):
            return next(iter(self._stream(dataset, count, {"augment": augment}, num_workers=0)))
        if self.queries(dataset) is not None:
            count = 1
        batches = loader.Batches(min(count, len(dataset)), count, seed=self.seed)
        return next(iter(self._loader(dataset, batches, num_workers=0, augment=augment)))

    def val_dataloader(self) -> Any:
        return self.part_loader("val")

    def test_dataloader(self) -> Any:
        return self.part_loader("test")

    def part_loader(self, part: str) -> Any:
        """Returns a loader of the train, val or test part, without shuffling."""
        dataset = getattr(self.parts, part)
        if dataset is None:
            return []
        if isinstance(dataset, IterableDataset):
            return self._stream(dataset, self.eval_batch_size)
        options = {"seed": self.seed, "fill": False, **self._process()}
        count = int(self.count(part))
        return self._loader(dataset, loader.Batches(count, self.eval_batch_size, **options))

    def _process(self) -> dict[str, Any]:
        """The rank of this process and the number of processes."""
        trainer = self.trainer
        rank, count = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        return {"rank": rank, "world_size": count}

    def _loader(self, dataset: Dataset[Any], batches: loader.Batches, **options: Any) -> Any:
        device = torch.device("cpu")
        if isinstance(dataset, TensorDataset) and self.trainer:
            device = self.trainer.strategy.root_device
        workers = options.pop("num_workers", self.num_workers)
        prepare = self._preparation(device, **options)
        if isinstance(dataset, TensorDataset):
            queries = self.queries(dataset)
            return loader.TensorLoader(dataset.tensors, batches, device, prepare, queries)
        return DataLoader(
            loader.BatchDataset(dataset, self._collate(), prepare, self.seed),
            batch_sampler=loader.EpochBatchSampler(batches),  # type: ignore[arg-type]
            collate_fn=loader.identity,
            # Without one it would draw from the generator of the training.
            generator=torch.Generator().manual_seed(self.seed),
            **loader.worker_options(workers),
        )

    def _stream(
        self, dataset: Any, batch_size: Any, augmentation: Any = None, **options: Any
    ) -> StreamLoader:
        return StreamLoader(
            dataset,
            batch_size,
            seed=self.seed,
            collate=self._collate(),
            prepare=self._preparation(torch.device("cpu"), **(augmentation or {})),
            **{"num_workers": self.num_workers, **self._process(), **options},
        )

    def _collate(self) -> Callable[[list[Any]], Any]:
        own = self.parts.collate
        return loader.collate if own is None else functools.partial(loader.collate_as_lists, own)

    def _preparation(self, device: torch.device, **options: Any) -> Callable[..., Any]:
        normalize = loader.make_normalizer(self.mean, self.std, device)
        return functools.partial(loader.prepare_batch, normalize=normalize, **options)


def balancing_weights(targets: Tensor) -> Tensor:
    """Returns a weight for each sample; the weights of every class have the same sum."""
    classes = targets.flatten().long()
    return classes.bincount().double().reciprocal()[classes]
