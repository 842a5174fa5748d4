"""Averages of the weights along a training, which validation, checkpoints and the test then use."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage(WeightAveraging):
    """Lightning's average of the weights; it leads from the first update on.

    Before that, the weights themselves are validated and saved. Buffers, such as the statistics of
    batch normalisation, are averaged too. A checkpoint's ``state_dict`` is what was validated.
    """

    leads = False  # the model holds the average, and the average the weights

    @property
    def begun(self) -> bool:
        """Whether there is an average yet."""
        return self._average_model is not None and bool(self._average_model.n_averaged)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning copies the model before it moves it to its device, and would fetch all weights
        # from there at every update. The count stays: a GPU would be waited for to tell it.
        assert self._average_model is not None
        self._average_model.module.to(pl_module.device)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.begun:
            super().on_validation_epoch_start(trainer, pl_module)
            self.leads = True

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.leads:
            super().on_validation_epoch_end(trainer, pl_module)
            self.leads = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.begun:
            super().on_train_end(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        # A signal within a validation has it saved while the two are exchanged; before the first
        # update Lightning would save the weights that the training began with.
        if self.leads or not self.begun:
            names = ("state_dict", "current_model_state")
            one, other = (checkpoint[name] for name in names)
            checkpoint |= dict(zip(names, (other, one if self.leads else other), strict=True))

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # For a test, Lightning would put the weights in the place of their average.
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)


class EMA(WeightAverage):
    """Exponential moving average: ``average = decay * average + (1 - decay) * weights``.

    It begins as the weights of the first step that counts.

    Args:
        decay: How much of the average stays at each update.
        every_n_steps: Optimizer steps from one update to the next.
        start_step: Optimizer steps before the first.
    """

    def __init__(self, *, decay: float, every_n_steps: int, start_step: int) -> None:
        super().__init__()
        self.update = get_ema_multi_avg_fn(decay)
        self.every_n_steps = every_n_steps
        self.start_step = start_step

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        if step_idx is None:
            return False
        return step_idx >= self.start_step and (step_idx + 1) % self.every_n_steps == 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        step = trainer.global_step
        if not self.begun:
            super().on_train_batch_end(trainer, pl_module, *args, **kwargs)  # copies the weights
        elif step > self._latest_update_step and self.should_update(step - 1):
            # torch's own way to update sends the count to the device, which is waited for.
            average = self._average_model
            assert average is not None
            pairs: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for one, other in zip(tensors(average.module), tensors(pl_module), strict=True):
                pairs[one.dtype].append((one, other))
            for each in pairs.values():
                self.update([one for one, _ in each], [other for _, other in each], 0)
            average.n_averaged += 1
            self._latest_update_step = step


def tensors(module: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers, outside of what gradients are computed of."""
    return (tensor.detach() for tensor in chain(module.parameters(), module.buffers()))


class SWA(WeightAverage):
    """Stochastic weight averaging: the mean of the weights after each of the last epochs.

    Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", 2018. The
    learning rate is left to the scheduler.

    Args:
        start: Share of the training's steps after which epochs count.
    """

    def __init__(self, *, start: float) -> None:
        super().__init__()
        self.start = start

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        # Before the validation at the end of the epoch, which is to see it.
        steps = trainer.global_step
        ends = trainer.fit_loop.epoch_loop._num_ready_batches_reached()
        if not ends and not 0 < trainer.max_steps <= steps:
            return
        if steps > self.start * trainer.estimated_stepping_batches:
            super().on_train_batch_end(trainer, *args, **kwargs)
