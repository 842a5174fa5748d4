"""Losses and metrics of an epoch, buffered so that a training step never waits for them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from quartet.compat import set_update_count


class MetricBuffer(nn.Module):
    """Buffers the outputs of steps, and updates the metrics with many steps at once.

    The buffer has at most `max_steps` steps and about `max_values` outputs. Every `chunk_size` steps
    are concatenated into a chunk, since the small tensors of many steps would fragment the memory.

    Args:
        task: Maps raw outputs to predictions, and with ``labels`` targets to labels.
        metrics: Metrics of predictions and labels.
    """

    task: Any
    max_steps = 256
    max_values = 1 << 20
    chunk_size = 16

    def __init__(self, task: nn.Module, metrics: MetricCollection) -> None:
        super().__init__()
        self.__dict__["task"] = task  # not a submodule, or checkpoints would have it twice
        self.metrics = metrics
        self.reset()

    def reset(self) -> None:
        """Discards everything, for a new epoch."""
        self.metrics.reset()
        self.buffer: list[tuple[Tensor, ...]] = []
        self.chunks: list[tuple[Tensor, ...]] = []
        self.steps = self.values = 0  # counts in the buffer and the chunks
        self.losses: list[Tensor] = []
        self.sizes: list[int] = []

    def append(self, loss: Tensor, outputs: Tensor, targets: Tensor, *indexes: Tensor) -> None:
        """Adds a step: its scalar loss, raw outputs, targets and, for ranking, queries."""
        self.buffer.append((loss.detach(), outputs.detach(), targets, *indexes))
        attributes = vars(self)  # nn.Module.__setattr__ is slow
        attributes["steps"] += 1
        attributes["values"] += outputs.numel()
        if self.steps == self.max_steps or self.values > self.max_values:
            self.update_metrics()
        elif len(self.buffer) == self.chunk_size:
            self.flush()

    def flush(self) -> None:
        """Moves the buffered steps into a chunk."""
        if not self.buffer:
            return
        losses, outputs, targets, *indexes = zip(*self.buffer, strict=True)
        self.sizes += map(len, targets)
        parts = (outputs, targets, *indexes)
        self.chunks.append((torch.stack(losses), *(torch.cat(part) for part in parts)))
        self.buffer = []

    def update_metrics(self) -> None:
        """Updates the metrics with all chunks and empties them."""
        self.flush()
        if not self.chunks:
            return
        losses, outputs, targets, *indexes = map(torch.cat, zip(*self.chunks, strict=True))
        self.losses.append(losses)
        with torch.no_grad():
            self.metrics.update(
                self.task(at_least_32_bits(outputs)),
                self.task.labels(targets),
                **({"indexes": indexes[0]} if indexes else {}),
            )
        self.chunks, self.steps, self.values = [], 0, 0

    def state(self) -> dict[str, Any]:
        """Returns the contents of the buffer, in plain containers."""
        self.flush()
        return {
            "chunks": [list(chunk) for chunk in self.chunks],
            "losses": list(self.losses),
            "sizes": list(self.sizes),
            "metrics": {n: metric_state(m) for n, m in self.each_metric()} if self.samples else {},
        }

    def load_state(self, state: dict[str, Any], device: torch.device) -> None:
        """Replaces the contents of the buffer by those that `state` returned."""
        self.reset()
        self.chunks = [tuple(part.to(device) for part in chunk) for chunk in state["chunks"]]
        self.steps = sum(len(losses) for losses, *_ in self.chunks)
        self.values = sum(outputs.numel() for _, outputs, *_ in self.chunks)
        self.losses = [losses.to(device) for losses in state["losses"]]
        self.sizes = list(state["sizes"])
        for name, metric in self.each_metric():
            if name in state["metrics"]:
                load_metric_state(metric, state["metrics"][name], device)

    def each_metric(self) -> Iterator[tuple[str, Metric]]:
        """Returns all metrics, including wrapped ones, by name."""
        return ((n, m) for n, m in self.metrics.named_modules() if isinstance(m, Metric))

    @property
    def samples(self) -> int:
        """Number of samples so far."""
        return sum(self.sizes) + sum(len(step[2]) for step in self.buffer)

    def step_losses(self) -> Tensor:
        """Returns the loss of every step so far, ``(steps,)``."""
        # Does not update the metrics, which would round differently after a checkpoint.
        self.flush()
        losses = [*self.losses, *(chunk[0] for chunk in self.chunks)]
        return torch.cat(losses) if losses else torch.empty(0)

    def loss_sum(self) -> Tensor:
        """Returns the sum of the losses of all samples so far and their number, ``(2,)``."""
        self.update_metrics()
        losses = at_least_32_bits(self.step_losses())
        sizes = torch.tensor(self.sizes, dtype=losses.dtype).to(losses.device, non_blocking=True)
        return torch.stack([(losses * sizes).sum(), sizes.sum()])

    def compute(self) -> dict[str, Tensor]:
        """Returns the value of every metric, over all processes."""
        self.update_metrics()
        return {name: value.float() for name, value in self.metrics.compute().items()}


def metric_state(metric: Metric) -> dict[str, Any]:
    """Returns the states of a metric and its other numbers, such as counters."""
    states = metric.metric_state
    return {
        "states": {k: v if isinstance(v, Tensor) else list(v) for k, v in states.items()},
        "numbers": {
            key: value
            for key, value in vars(metric).items()
            if type(value) in (int, float) and not key.startswith("_") and key not in states
        },
        "update_count": metric.update_count,
    }


def load_metric_state(metric: Metric, state: dict[str, Any], device: torch.device) -> None:
    """Restores the states that `metric_state` returned."""
    for key, value in state["states"].items():
        whole = isinstance(value, Tensor)
        setattr(metric, key, value.to(device) if whole else [v.to(device) for v in value])
    for key, value in state["numbers"].items():
        setattr(metric, key, value)
    set_update_count(metric, state["update_count"])


def at_least_32_bits(values: Tensor) -> Tensor:
    """Converts values to at least 32 bits, which sums and probabilities need."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
