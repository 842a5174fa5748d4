"""A callback that collects the predictions of a test or a validation."""

import math
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

from quartet.checkpoints.callbacks import all_gather_object
from quartet.training.metric_buffer import at_least_32_bits

Array = NDArray[Any]


class PredictionCollector(Callback):
    """Collects the predictions of a test or a validation for the pictures of a run.

    It keeps every n-th sample (or query) of a part with more than `max_values` predictions. After the
    test or validation it gathers the predictions of all processes.

    Attributes:
        part: ``test`` or ``val``; None before both.
        step: n if every n-th sample was kept.
        predictions: Predictions of the task, ``(samples, ...)``.
        labels: Labels of the task.
        queries: Query of each sample, for ranking; otherwise empty.
        rows: Index of each sample in its part; undefined for ranking.
    """

    max_values = 1 << 24  # 64 MB

    def __init__(self) -> None:
        self.part: str | None = None
        self.step = 0
        self.kept: list[tuple[Array, ...]] = []
        self.predictions = self.labels = self.queries = self.rows = np.empty(0)

    def append(
        self, part: str, trainer: Trainer, module: Any, outputs: Any, batch: Any, i: int
    ) -> None:
        """Appends the predictions of batch number `i`."""
        if outputs is None:  # this process has no share of the last batch
            return
        _, targets, *indexes = batch
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not self.step:
            whole = len(getattr(data.parts, part)) * outputs[0].numel()
            self.step = math.ceil(whole / self.max_values)
        start = i * data.eval_batch_size * trainer.world_size
        share = torch.arange(len(targets), device=targets.device)
        rows = start + trainer.global_rank + share * trainer.world_size
        chosen = (indexes[0] if indexes else rows) % self.step == 0
        values: list[Tensor] = [
            module.task(at_least_32_bits(outputs[chosen].detach())),
            module.task.labels(targets[chosen]),
            indexes[0][chosen] if indexes else rows[:0],
            rows[chosen],
        ]
        self.kept.append(tuple(each.cpu().numpy() for each in values))

    def describe(self) -> str:
        """Describes the samples for titles: ``test samples``."""
        return f"{self.part} samples" + (f", one in {self.step} of all" if self.step > 1 else "")

    def gather(self, part: str, trainer: Trainer) -> None:
        kept = [each for share in all_gather_object(trainer, self.kept) for each in share]
        self.kept = []
        if not kept:
            return
        self.part, columns = part, [np.concatenate(each) for each in zip(*kept, strict=True)]
        order = np.argsort(columns[2] if len(columns[2]) else columns[3], kind="stable")
        self.predictions, self.labels = columns[0][order], columns[1][order]
        self.queries = columns[2][order] if len(columns[2]) else columns[2]
        self.rows = columns[3][order]

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.append("test", *args)

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.append("val", *args)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.gather("test", trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.gather("val", trainer)
