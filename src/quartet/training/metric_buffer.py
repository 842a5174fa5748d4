"""Losses and metrics of an epoch, buffered so that a training step never waits for them."""

import copy
import inspect
import pickle
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from quartet.checkpoints.callbacks import load_metric_state, metric_state
from quartet.core.messages import suggest_name
from quartet.core.problems import TrainingError
from quartet.data import nest

Step = tuple[dict[str, Tensor], list[int], Any, Any, dict[str, Any]]


class MetricBuffer(nn.Module):
    """Buffers the outputs of steps, and updates the metrics with many steps at once.

    The buffer has at most `max_steps` steps and about `max_values` outputs. Every `chunk_size` steps
    are concatenated into a chunk, since the small tensors of many steps would fragment the memory.
    Steps whose samples differ in shape are not concatenated.

    Args:
        task: Maps raw outputs to predictions, and with ``labels`` targets to labels.
        metrics: Metrics of predictions and labels; copied.
        prefix: Of the names of all values, such as ``train/``.
        heads: Name of a metric -> key of the predictions and labels that it compares; the others
            compare all of them.
    """

    task: Any
    saves_metrics = True  # by `state`, so that `ResumeState` need not
    max_steps = 256
    max_values = 1 << 20
    chunk_size = 16

    def __init__(
        self,
        task: nn.Module,
        metrics: MetricCollection,
        prefix: str = "",
        heads: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.__dict__["task"] = task  # not a submodule, or checkpoints would have it twice
        self.metrics = copy_metrics(metrics)
        self.metrics.prefix = prefix or metrics.prefix
        self.prefix, self.heads = prefix, dict(heads or {})
        self.has_each_batch = any(getattr(each, "each_batch", False) for each in metrics.values())
        self.reset()

    def reset(self) -> None:
        """Discards everything, for a new epoch."""
        self.metrics.reset()
        # Steps and chunks of them: losses by name, sizes, outputs, targets, extras.
        self.buffer: list[Step] = []
        self.chunks: list[Step] = []
        self.steps = self.values = 0  # counts in the buffer and the chunks
        self.samples = 0
        self.losses: dict[str, list[Tensor]] = {}
        self.sizes: dict[str, list[int]] = {}

    def append(
        self,
        losses: Tensor | Mapping[str, Tensor] | None,
        outputs: Any = None,
        targets: Any = None,
        extras: Mapping[str, Any] | None = None,
        size: int | None = None,
    ) -> None:
        """Adds a step.

        Args:
            losses: Scalars by name; one alone is ``loss``. None is a step without.
            outputs: Raw outputs of the model; None updates no metric.
            targets: Targets of the batch.
            extras: Further items of the batch, for metrics that name them, such as ``indexes``.
            size: Number of samples; None counts those of the targets.
        """
        named = name_losses(losses)
        outputs = nest.map_tensors(Tensor.detach, outputs)
        size = nest.size(targets) if size is None else size
        self.buffer.append((named, [size], outputs, targets, dict(extras or {})))
        attributes = vars(self)  # nn.Module.__setattr__ is slow
        attributes["samples"] += size
        attributes["steps"] += 1
        attributes["values"] += nest.count_values(outputs)
        if self.steps == self.max_steps or self.values > self.max_values:
            self.update_metrics()
        elif len(self.buffer) == self.chunk_size:
            self.flush()

    def flush(self) -> None:
        """Moves the buffered steps into chunks."""
        steps, self.buffer = self.buffer, []
        stacked: list[Step] = [
            ({n: v[None] for n, v in step[0].items()}, *step[1:]) for step in steps
        ]
        joined = join(stacked)
        self.chunks += joined
        if not nest.is_plain([chunk[2:] for chunk in joined]):  # a checkpoint could not hold them
            self.update_metrics()

    def update_metrics(self) -> None:
        """Updates the metrics with all chunks and empties them."""
        if self.buffer:
            self.flush()
        for losses, sizes, outputs, targets, extras in join(self.chunks):
            for name, values in losses.items():
                self.losses.setdefault(name, []).append(values)
                self.sizes.setdefault(name, []).extend(sizes)
            if outputs is not None:
                self.update(outputs, targets, extras, sizes)
        self.chunks, self.steps, self.values = [], 0, 0

    @torch.no_grad()
    def update(
        self, outputs: Any, targets: Any, extras: Mapping[str, Any], sizes: Sequence[int]
    ) -> None:
        """Updates the metrics with steps of these sizes: with all at once, unless they ask for each."""
        predictions = self.task(nest.map_tensors(at_least_32_bits, outputs))
        labels = self.task.labels(targets)
        if not self.heads and not self.has_each_batch:
            self.metrics.update(predictions, labels, **extras)
            return
        for name, metric in self.metrics.items(keep_base=True, copy_state=False):
            pair = [pick_head(each, name, self.heads.get(name)) for each in (predictions, labels)]
            accepted = inspect.signature(metric.update).parameters
            more = {key: value for key, value in extras.items() if key in accepted}
            if not getattr(metric, "each_batch", False):
                metric.update(*pair, **more)
                continue
            if sum(sizes) != nest.size(targets):
                message = (
                    "takes each batch alone; leave out size= of self.record, which differs from"
                )
                raise TrainingError(f"metrics.{name} {message} the samples of its targets.")
            for rows in torch.arange(sum(sizes)).split(list(sizes)):
                batch = [nest.select(each, rows) for each in pair]
                metric.update(*batch, **{key: nest.select(v, rows) for key, v in more.items()})

    def state(self) -> dict[str, Any]:
        """Returns the contents of the buffer, in plain containers."""
        self.flush()
        return {
            "chunks": [list(chunk) for chunk in self.chunks],
            "losses": {name: list(values) for name, values in self.losses.items()},
            "sizes": {name: list(values) for name, values in self.sizes.items()},
            "samples": self.samples,
            "metrics": {n: metric_state(m) for n, m in self.each_metric()} if self.samples else {},
        }

    def load_state(self, state: dict[str, Any], device: torch.device) -> None:
        """Replaces the contents of the buffer by those that `state` returned."""
        self.reset()
        state = nest.map_tensors(lambda tensor: tensor.to(device), state)
        self.chunks = [tuple(chunk) for chunk in state["chunks"]]
        self.steps = sum(len(chunk[1]) for chunk in self.chunks)
        self.values = sum(nest.count_values(chunk[2]) for chunk in self.chunks)
        self.losses, self.sizes, self.samples = state["losses"], state["sizes"], state["samples"]
        for name, metric in self.each_metric():
            if name in state["metrics"]:
                load_metric_state(metric, state["metrics"][name])

    def each_metric(self) -> Iterator[tuple[str, Metric]]:
        """Returns all metrics, including wrapped ones, by name."""
        return ((n, m) for n, m in self.metrics.named_modules() if isinstance(m, Metric))

    def step_losses(self) -> dict[str, Tensor]:
        """Returns the losses of every step so far, each ``(steps,)``, by name."""
        # Does not update the metrics, which would round differently after a checkpoint.
        self.flush()
        found: dict[str, list[Tensor]] = {name: [*values] for name, values in self.losses.items()}
        for losses, *_ in self.chunks:
            for name, values in losses.items():
                found.setdefault(name, []).append(values)
        return {name: torch.cat(values) for name, values in found.items()}

    def loss_sums(self) -> dict[str, Tensor]:
        """Returns, for each loss, its sum over all samples and their number, ``(2,)``."""
        self.update_metrics()
        sums = {}
        for name, values in self.losses.items():
            losses = at_least_32_bits(torch.cat(values))
            sizes = torch.tensor(self.sizes[name], dtype=losses.dtype)
            sizes = sizes.to(losses.device, non_blocking=True)
            sums[name] = torch.stack([(losses * sizes).sum(), sizes.sum()])
        return sums

    def has_outputs(self) -> bool:
        """Whether a step had outputs, so that the metrics have values."""
        self.update_metrics()
        return any(metric.update_called for _, metric in self.each_metric())

    def compute(self, names: Sequence[str] = ()) -> dict[str, Tensor]:
        """Returns the value of every metric, over all processes.

        Args:
            names: Of the classes, for metrics that give a value for each.
        """
        self.update_metrics()
        found: dict[str, Tensor] = {}
        # Of values by name the collection would leave out the name of the metric.
        for name, metric in self.metrics.items(keep_base=True, copy_state=False):
            found |= name_values(name, metric.compute(), names)
        return {f"{self.prefix}{name}": value for name, value in found.items()}


def name_losses(losses: Any) -> dict[str, Tensor]:
    """Returns the losses of a step by name, without their gradients.

    Args:
        losses: A scalar, which is ``loss``, or a dict of them; those that are None are left out.

    Raises:
        TrainingError: one is no scalar.
    """
    if isinstance(losses, Tensor) and not losses.ndim:
        return {"loss": losses.detach()}
    named = losses if isinstance(losses, Mapping) else {"loss": losses}
    found = {}
    for name, value in named.items():
        if isinstance(value, Tensor | Real) and torch.as_tensor(value).numel() == 1:
            found[name] = torch.as_tensor(value).detach().reshape(())
        elif value is not None:
            raise TrainingError(
                f"the loss gives {describe(value)} as {name!r}; every entry must be a scalar, the mean "
                "over the batch, or None where a batch has none."
            )
    return found


def describe(value: Any) -> str:
    """Describes a value that is not what it should be, by its shape or its type."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return "None" if value is None else f"a {type(value).__name__}"


def pick_head(nest: Any, metric: str, head: str | None) -> Any:
    """Returns what a metric compares: an entry of predictions or labels, or all of them.

    Raises:
        ValueError: there is no such entry.
    """
    if head is None:
        return nest
    names = list(nest) if isinstance(nest, Mapping) else []
    if head not in names:
        way_out = suggest_name(head, names) if names else "they are no dict, leave it out."
        raise ValueError(f"metrics.{metric}.of={head}: predictions and labels lack it; {way_out}")
    return nest[head]


def join(chunks: Sequence[Step]) -> Sequence[Step]:
    """Concatenates chunks into one, if their samples have one shape; else returns them as they are."""
    if len(chunks) < 2:
        return chunks
    try:
        joined: Any = nest.concatenate(chunks)
    except (ValueError, RuntimeError):
        return chunks
    return [joined]


def name_values(name: str, value: Any, names: Sequence[str]) -> dict[str, Tensor]:
    """Names the values of a metric: a scalar as the metric, of a vector each by its class.

    Values with names of their own get that of the metric before, unless they begin with it: ``map``
    and ``map_50`` of a metric ``map``.

    Raises:
        TrainingError: it is no number, vector or dict of them.
    """
    if isinstance(value, Mapping):
        titles = {
            key: key if f"{key}_".startswith(f"{name}_") else f"{name}_{key}" for key in value
        }
        pairs = [name_values(titles[key], each, names) for key, each in value.items()]
        return {key: each for pair in pairs for key, each in pair.items()}
    if isinstance(value, Real | np.ndarray):
        value = torch.as_tensor(value)
    if not isinstance(value, Tensor) or value.ndim > 1:
        raise TrainingError(
            f"the metric {name} gives {describe(value)}, and must give a number, a vector with a value "
            "for each class, or a dict of them by name."
        )
    value = value.float()
    if not value.ndim:
        return {name: value}
    if len(names) != len(value):
        names = [str(i) for i in range(len(value))]
    return {f"{name}_{label}": each for label, each in zip(names, value, strict=True)}


def at_least_32_bits(values: Tensor) -> Tensor:
    """Converts floats to at least 32 bits, which sums and probabilities need."""
    if not values.is_floating_point():
        return values
    return values.to(torch.promote_types(values.dtype, torch.float32))


def copy_metrics(metrics: MetricCollection) -> MetricCollection:
    """Returns a copy of metrics, as `copy.deepcopy` does, which takes longer."""
    tensors: dict[int, tuple[Tensor, Tensor]] = {}  # each and its copy

    def copy_tensor(value: Any) -> int | None:
        if type(value) is not Tensor or value.requires_grad:
            return None  # pickled as any other object
        tensors.setdefault(id(value), (value, value.clone()))
        return id(value)

    file = BytesIO()
    pickler = pickle.Pickler(file, pickle.HIGHEST_PROTOCOL)
    pickler.persistent_id = copy_tensor  # type: ignore[method-assign]
    try:
        pickler.dump(metrics)
        unpickler = pickle.Unpickler(BytesIO(file.getvalue()))
        unpickler.persistent_load = lambda number: tensors[number][1]  # type: ignore[method-assign]
        copied: MetricCollection = unpickler.load()
    except Exception:  # a metric holds a function or a class that cannot be pickled
        return copy.deepcopy(metrics)
    return copied
