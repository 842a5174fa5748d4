"""A callback that collects the predictions of a test or a validation."""

import math
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from quartet.checkpoints.callbacks import all_gather_object
from quartet.data import nest
from quartet.data.datamodule import DataModule
from quartet.data.stream import count_samples
from quartet.data.task import Task
from quartet.training.metric_buffer import at_least_32_bits


class PredictionCollector(Callback):
    """Collects the predictions of a test or a validation for the pictures of a run.

    It keeps every n-th sample (or query) of a part with more than `max_values` predictions, and the
    first ones of a part of unknown length. After the
    test or validation it gathers the predictions of all processes.

    Attributes:
        part: ``test`` or ``val``; None before both.
        step: n if every n-th sample was kept.
        predictions: Predictions of the task, arrays ``(samples, ...)``.
        labels: Labels of the task.
        queries: Query of each sample, for ranking; otherwise empty.
        rows: Index of each sample in its part; undefined for ranking.
        dataset: The data set of the part; sample i is ``dataset[rows[i]]``.
    """

    max_values = 1 << 24  # 64 MB

    def __init__(self) -> None:
        self.part: str | None = None
        self.step = self.values = 0
        self.kept: list[tuple[Any, ...]] = []
        self.predictions: Any = np.empty(0)
        self.labels: Any = np.empty(0)
        self.queries = self.rows = np.empty(0)
        self.dataset: Any = None

    def append(
        self, part: str, trainer: Trainer, module: Any, outputs: Any, batch: Any, i: int, *_: int
    ) -> None:
        """Appends the predictions of batch number `i`; data that the engine knows has one loader."""
        task, data = getattr(module, "task", None), trainer.datamodule  # type: ignore[attr-defined]
        if outputs is None or not isinstance(task, Task) or not isinstance(data, DataModule):
            return  # no share of the last batch, or no data that the engine knows
        if type(task).figures is Task.figures:
            return
        _, targets, extras = module.task.split(batch)
        queries = extras["indexes"] if module.task.has_queries else None
        size = nest.size(targets)
        # Before the samples are selected: outputs may hold more, such as the losses of a batch.
        predictions = module.task(nest.map_tensors(at_least_32_bits, outputs))
        samples, count = count_samples(getattr(data.parts, part)), nest.count_values(predictions)
        if math.isinf(samples) and self.values + count > self.max_values:
            return
        self.values += count
        if not self.step:
            whole = 0 if math.isinf(samples) else samples * count // size
            self.step = max(1, math.ceil(whole / self.max_values))
        start = i * data.eval_batch_size * trainer.world_size
        share = torch.arange(size, device=module.device)
        rows = start + trainer.global_rank + share * trainer.world_size
        chosen = ((rows if queries is None else queries) % self.step == 0).nonzero().flatten()
        values = [
            nest.select(predictions, chosen),
            nest.select(module.task.labels(targets), chosen),
            rows[:0] if queries is None else queries[chosen],
            rows[chosen],
        ]
        self.kept.append(nest.map_tensors(lambda tensor: tensor.detach().cpu(), tuple(values)))

    def describe(self) -> str:
        """Describes the samples for titles: ``test samples``."""
        return f"{self.part} samples" + (f", one in {self.step} of all" if self.step > 1 else "")

    def gather(self, part: str, trainer: Trainer) -> None:
        kept = [each for share in all_gather_object(trainer, self.kept) for each in share]
        self.kept = []
        if not kept:
            return
        self.part, columns = part, nest.concatenate(kept)
        self.dataset = getattr(trainer.datamodule.parts, part)  # type: ignore[attr-defined]
        order = (columns[2] if len(columns[2]) else columns[3]).argsort(stable=True)
        if not len(columns[2]):
            columns = (*columns[:2], order[:0], columns[3])
        self.predictions, self.labels, self.queries, self.rows = (
            nest.map_tensors(Tensor.numpy, nest.select(column, order[: nest.size(column)]))
            for column in columns
        )

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.append("test", *args)

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.append("val", *args)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.gather("test", trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.gather("val", trainer)
