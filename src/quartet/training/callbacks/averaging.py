"""Averages of the weights over a training, used in validation, checkpoints and the test."""

import logging
import math
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from quartet.compat import get_average, is_last_batch_done, last_update, set_last_update
from quartet.compat.lightning_loop import count_steps
from quartet.core.messages import join_and
from quartet.core.problems import Context, Problem
from quartet.parts.fsdp import SHARDING_STRATEGIES

log = logging.getLogger(__name__)

LARGE_SHARE = 0.1  # of an average: its first weights then count about as much as late ones


class WeightAverage(WeightAveraging):
    """Lightning's average of the weights, validated and saved after its first update.

    Buffers, such as the statistics of batch normalization, are averaged too. The ``state_dict`` of a
    checkpoint has the validated weights.
    """

    swapped = False  # whether the model has the averages, and the averaged model the weights

    @property
    def has_average(self) -> bool:
        """Whether there was an update."""
        average = get_average(self)
        return average is not None and bool(average.n_averaged)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning copies the model before it moves it to its device. The count stays on the CPU:
        # reading it from a GPU would wait for the GPU.
        average = get_average(self)
        assert average is not None
        average.module.to(pl_module.device)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.has_average:
            super().on_validation_epoch_start(trainer, pl_module)
            self.swapped = True

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.swapped:
            super().on_validation_epoch_end(trainer, pl_module)
            self.swapped = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.has_average:
            super().on_train_end(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        # A signal within a validation saves swapped weights; before the first update Lightning would
        # save the initial weights.
        if self.swapped or not self.has_average:
            names = ("state_dict", "current_model_state")
            first, second = (checkpoint[name] for name in names)
            pair = (second, first if self.swapped else second)
            checkpoint |= dict(zip(names, pair, strict=True))

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # For a test, Lightning would replace the average by the weights.
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)


class EMA(WeightAverage):
    """Exponential moving average: ``average = decay * average + (1 - decay) * weights``.

    It starts with the weights of its first update, of which it would keep ``decay ** n`` after ``n``
    further ones. With the warm-up of TensorFlow's ``tf.train.ExponentialMovingAverage``, the decay
    after ``n`` updates is at most ``(1 + n) / (10 + n)``, and they are soon forgotten.

    Args:
        decay: Share of the average that each update keeps.
        warmup: Whether the decay rises to `decay` from a lower one.
        every_n_steps: Optimizer steps from one update to the next.
        start_step: Optimizer steps before the first update.
    """

    # Lightning's EMAWeightAveraging counts steps otherwise and averages one parameter at a time.

    def __init__(self, *, decay: float, warmup: bool, every_n_steps: int, start_step: int) -> None:
        super().__init__()
        self.decay = decay
        self.warmup = warmup
        self.every_n_steps = every_n_steps
        self.start_step = start_step

    def decay_after(self, updates: int) -> float:
        """Returns the decay of the next update after a number of updates."""
        return min(self.decay, (1 + updates) / (10 + updates)) if self.warmup else self.decay

    def caution(self, total_steps: float) -> str | None:
        """Returns a warning if first weights are much of the average at the end of a training."""
        updates = total_steps // self.every_n_steps - self.start_step // self.every_n_steps
        if updates < 1:
            return f"the average is not updated in {total_steps:,} steps; lower its start_step."
        share, update = 1.0, 1
        while update < updates and share > LARGE_SHARE:
            share *= self.decay_after(update)
            update += 1
        if share <= LARGE_SHARE:
            return None
        ways = "train for longer" if self.warmup else "set its warmup=true, or lower its decay"
        return (
            f"{share:.0%} of the average after {total_steps:,} steps are the weights of its first "
            f"update; {ways}."
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps = count_steps(trainer)
        if math.isfinite(steps) and (caution := self.caution(steps)):
            log.warning("callbacks.ema: %s", caution)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        if step_idx is None:
            return False
        return step_idx >= self.start_step and (step_idx + 1) % self.every_n_steps == 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        step, average = trainer.global_step, get_average(self)
        if not self.has_average:
            super().on_train_batch_end(trainer, pl_module, *args, **kwargs)  # copies the weights
        elif average is not None and step > last_update(self) and self.should_update(step - 1):
            # AveragedModel.update_parameters sends the count to the device, and waits for it.
            pairs: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for mean, value in zip(tensors(average.module), tensors(pl_module), strict=True):
                pairs[mean.dtype].append((mean, value))
            update = get_ema_multi_avg_fn(self.decay_after(int(average.n_averaged)))
            for each in pairs.values():
                update([mean for mean, _ in each], [value for _, value in each], 0)
            average.n_averaged += 1
            set_last_update(self, step)


def tensors(module: nn.Module) -> Iterator[Tensor]:
    """Returns parameters and buffers, detached."""
    return (tensor.detach() for tensor in chain(module.parameters(), module.buffers()))


class SWA(WeightAverage):
    """Stochastic weight averaging: the mean of the weights after each of the last epochs.

    Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", 2018. The
    scheduler alone sets the learning rate.

    Args:
        start: Share of the training's steps after which epochs are averaged.
    """

    def __init__(self, *, start: float) -> None:
        super().__init__()
        self.start = start

    def problems(self, context: Context) -> Iterator[Problem]:
        """Yields a problem if the length of the training is unknown."""
        if math.isinf(context.total_steps):
            yield Problem(
                "callbacks.swa.start",
                "a share of a training of unknown length is not known; set trainer.max_steps (or, with "
                "data of a known length, trainer.max_epochs), or use callbacks=ema.",
                self.start,
            )

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        # Before the validation at the end of the epoch, which uses the average.
        steps = trainer.global_step
        if not is_last_batch_done(trainer) and not 0 < trainer.max_steps <= steps:
            return
        if steps > self.start * count_steps(trainer):
            super().on_train_batch_end(trainer, *args, **kwargs)


def check_averages(context: Context) -> Iterator[Problem]:
    """Yields problems of several averages of the weights, or of one that is not validated."""
    kinds = (WeightAveraging, StochasticWeightAveraging)
    found = [each for each in context.trainer.callbacks if isinstance(each, kinds)]
    names = [type(each).__name__ for each in found]
    for each, name in zip(found, names, strict=True):
        if not isinstance(each, WeightAverage):
            yield Problem(
                "callbacks",
                f"{name} leaves the average out of validation, checkpoints or test; use "
                "callbacks=ema or callbacks=swa.",
            )
    if len(found) > 1:
        message = f"{join_and(names)} each average the weights; choose one of them."
        yield Problem("callbacks", message)
    if found and isinstance(context.trainer.strategy, SHARDING_STRATEGIES):
        yield Problem(
            "callbacks",
            f"{names[0]} needs the whole model on every device, and trainer.strategy shards it; "
            "leave it out, or set trainer.strategy=ddp.",
        )
