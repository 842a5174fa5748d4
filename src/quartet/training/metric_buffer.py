"""Losses and metrics of one part of the data, over an epoch."""

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities.data import _bincount


class MetricBuffer(nn.Module):
    """Puts aside what each step gives and counts many steps at once.

    So metrics cost next to nothing a step and never wait for the device. What is put aside is
    bounded by `max_steps` steps and about `max_values` outputs. Every `bunch` steps are joined:
    many small tensors that stay, each between the large ones of its step, keep the memory that
    those leave from being used again (0.4 MB a step of two layers of 512).

    Args:
        task: Maps raw outputs to predictions, and by ``labels`` targets to what metrics compare.
        metrics: Of predictions and labels.
    """

    task: Any
    max_steps = 256
    max_values = 1 << 20
    bunch = 16

    def __init__(self, task: nn.Module, metrics: MetricCollection) -> None:
        super().__init__()
        self.__dict__["task"] = task  # of the module that owns it, whose checkpoint holds it once
        self.metrics = metrics
        self.reset()

    def reset(self) -> None:
        """Forgets the epoch."""
        self.metrics.reset()
        self.aside: list[tuple[Tensor, ...]] = []
        self.bunches: list[tuple[Tensor, ...]] = []
        self.steps = self.values = 0
        self.losses: list[Tensor] = []
        self.sizes: list[int] = []

    def add(self, loss: Tensor, outputs: Tensor, targets: Tensor, *indexes: Tensor) -> None:
        """Takes in a step: its scalar loss, raw outputs, targets and, for ranking, queries."""
        self.aside.append((loss.detach(), outputs.detach(), targets, *indexes))
        own = vars(self)  # nn.Module takes 5 us to set one
        own["steps"] += 1
        own["values"] += outputs.numel()
        if self.steps == self.max_steps or self.values > self.max_values:
            self.count()
        elif len(self.aside) == self.bunch:
            self.join()

    def join(self) -> None:
        """Makes one bunch of the steps that were put aside since the last one."""
        if not self.aside:
            return
        losses, outputs, targets, *indexes = zip(*self.aside, strict=True)
        self.sizes += map(len, targets)
        parts = (outputs, targets, *indexes)
        self.bunches.append((torch.stack(losses), *(torch.cat(part) for part in parts)))
        self.aside = []

    def count(self) -> None:
        """Counts in what was put aside."""
        self.join()
        if not self.bunches:
            return
        losses, outputs, targets, *indexes = map(torch.cat, zip(*self.bunches, strict=True))
        self.losses.append(losses)
        with torch.no_grad():
            self.metrics.update(
                self.task(at_least_32_bits(outputs)),
                self.task.labels(targets),
                **({"indexes": indexes[0]} if indexes else {}),
            )
        self.bunches, self.steps, self.values = [], 0, 0

    def state(self) -> dict[str, Any]:
        """Everything taken in so far, in plain containers."""
        self.join()
        metrics = self.metrics.items(keep_base=True, copy_state=False) if self.samples else ()
        return {
            "bunches": [list(bunch) for bunch in self.bunches],
            "losses": list(self.losses),
            "sizes": list(self.sizes),
            "metrics": {name: state_of(metric) for name, metric in metrics},
            "groups": self.groups,
        }

    def load(self, state: dict[str, Any], device: torch.device) -> None:
        """Goes on from what `state` gave, whatever was taken in before."""
        self.reset()
        self.bunches = [tuple(part.to(device) for part in bunch) for bunch in state["bunches"]]
        self.steps = sum(len(losses) for losses, *_ in self.bunches)
        self.values = sum(outputs.numel() for _, outputs, *_ in self.bunches)
        self.losses = [losses.to(device) for losses in state["losses"]]
        self.sizes = list(state["sizes"])
        for name, saved in state["metrics"].items():
            metric = getattr(self.metrics, name)
            for key, value in saved["states"].items():
                whole = isinstance(value, Tensor)
                setattr(metric, key, value.to(device) if whole else [v.to(device) for v in value])
            for key, value in saved["numbers"].items():
                setattr(metric, key, value)
        self.groups = state["groups"]

    @property
    def groups(self) -> list[list[str]]:
        """Metrics that share their states, as the first batch showed; before it, none."""
        metrics = self.metrics
        return (
            [list(names) for names in metrics._groups.values()] if metrics._groups_checked else []
        )

    @groups.setter
    def groups(self, groups: list[list[str]]) -> None:
        if groups:
            self.metrics._groups = dict(enumerate(groups))
            self.metrics._groups_checked, self.metrics._state_is_copy = True, False
            self.metrics._compute_groups_create_state_ref()

    @property
    def samples(self) -> int:
        """Samples so far."""
        return sum(self.sizes) + sum(len(step[2]) for step in self.aside)

    def step_losses(self) -> Tensor:
        """The loss of every step so far, ``(steps,)``."""
        # Without counting: metrics would round otherwise wherever a checkpoint is saved.
        self.join()
        losses = [*self.losses, *(bunch[0] for bunch in self.bunches)]
        return torch.cat(losses) if losses else torch.empty(0)

    def sums(self) -> Tensor:
        """The sum of the losses of all samples so far, and the number of samples, ``(2,)``."""
        self.count()
        losses = at_least_32_bits(self.step_losses())
        sizes = torch.tensor(self.sizes, dtype=losses.dtype).to(losses.device, non_blocking=True)
        return torch.stack([(losses * sizes).sum(), sizes.sum()])

    def compute(self) -> dict[str, Tensor]:
        """The value of every metric, over all processes."""
        self.count()
        return {name: value.float() for name, value in self.metrics.compute().items()}


def state_of(metric: Metric) -> dict[str, Any]:
    """The states of a metric, and what else it counts in plain numbers."""
    states = {key: getattr(metric, key) for key in metric._defaults}
    numbers = {
        key: value
        for key, value in vars(metric).items()
        if type(value) in (int, float) and (not key.startswith("_") or key == "_update_count")
    }
    return {
        "states": {k: v if isinstance(v, Tensor) else list(v) for k, v in states.items()},
        "numbers": {key: value for key, value in numbers.items() if key not in states},
    }


def at_least_32_bits(values: Tensor) -> Tensor:
    """Values that 16-bit training gives, in a type that sums and probabilities need."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def counts_of(values: Tensor, minlength: int | None = None) -> Tensor:
    """How often each of 0, 1, ... ``minlength - 1`` occurs.

    On a GPU ``torch.bincount``, which torchmetrics calls, waits to see the largest value.
    """
    if values.is_cpu or minlength is None:
        return _bincount(values, minlength)
    ones = torch.ones_like(values, dtype=torch.int64)
    return ones.new_zeros(minlength).scatter_add_(0, values, ones)


for name in ("stat_scores", "confusion_matrix", "precision_recall_curve"):
    vars(sys.modules[f"torchmetrics.functional.classification.{name}"])["_bincount"] = counts_of
