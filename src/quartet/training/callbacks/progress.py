"""What a person sees while training, and how long the epochs took."""

import sys
from time import perf_counter
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks import ProgressBar as LightningProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from tqdm import tqdm

from quartet.checkpoints.callbacks import LastCheckpoint
from quartet.compat.lightning import is_accumulating, is_last_batch_done, is_validation_due
from quartet.core.signals import ShutdownHandler


class ProgressBar(LightningProgressBar):
    """One bar for the whole training, with the figures of the last epoch beside it.

    Redrawn by the clock, so that it costs a fast step nothing. Where there is no terminal, a line
    every 30 seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bar: tqdm[Any] | None = None

    def disable(self) -> None:
        self.close()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        steps = trainer.estimated_stepping_batches * trainer.accumulate_grad_batches
        terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=None if steps == float("inf") else int(steps),
            initial=trainer.fit_loop.total_batch_idx + 1,
            desc="training",
            unit="batch",
            disable=trainer.global_rank != 0,
            dynamic_ncols=terminal,
            mininterval=0.1 if terminal else 30,
            leave=terminal,
        )

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.bar is None:
            return
        last = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else "∞"
        self.bar.set_description(f"epoch {trainer.current_epoch + 1}/{last}", refresh=False)
        figures = {
            name: f"{float(value):.3g}"
            for name, value in trainer.callback_metrics.items()
            if name in ("val/loss", "val/accuracy", "val/r2", "val/ndcg")
        }
        self.bar.set_postfix(figures, refresh=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.close()

    def on_exception(self, *args: Any) -> None:
        self.close()


class Timer(Callback):
    """Measures epochs from start to start, so with their logging and checkpoints.

    Attributes:
        epochs: Seconds of each finished epoch, validation left out.
        samples: Training samples of each, over all processes.
    """

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.samples: list[int] = []

    def samples_per_second(self) -> float | None:
        """Training samples a second; the first epoch, which warms up, counts only if alone."""
        start = 1 if len(self.epochs) > 1 else 0
        seconds = sum(self.epochs[start:])
        return sum(self.samples[start:]) / seconds if seconds else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A training that goes on within an epoch does not start that epoch.
        self.started, self.validation = perf_counter(), 0.0
        meter: Any = pl_module.train_metrics
        self.before = meter.samples

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.lap()
        self.started, self.validation = perf_counter(), 0.0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validation_started = perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validation += perf_counter() - self.validation_started

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Callbacks come before the module, which starts its meter anew here.
        meter: Any = pl_module.train_metrics
        self.samples.append((meter.samples - self.before) * trainer.world_size)
        self.before = 0

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.lap()

    def lap(self) -> None:
        if len(self.samples) > len(self.epochs):
            self.epochs.append(perf_counter() - self.started - self.validation)


class StopAtBatchEnd(Callback):
    """Ends the training when a signal asked for it: after the optimizer step under way, saved.

    Within a validation it ends after a batch, and the validation begins again on a resume.

    Args:
        stop: Tells whether a signal came.
    """

    def __init__(self, stop: ShutdownHandler) -> None:
        self.stop = stop
        self.ends = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stop.reinstall()  # Lightning's own way would end in the middle of a step

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if not self.asked(trainer) or is_accumulating(trainer):
            return
        # The end of the epoch is saved by itself.
        if not is_last_batch_done(trainer) or is_validation_due(trainer):
            self.save(trainer)
            self.stop.exit()

    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.state.fn == TrainerFn.FITTING and self.asked(trainer):
            self.save(trainer)
            self.stop.exit()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ends = self.asked(trainer)
        for last in lasts(trainer):
            last.interrupted = self.ends

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.ends:  # else a signal came after the epoch, whose end may not be saved
            self.stop.exit()

    def asked(self, trainer: Trainer) -> bool:
        """Whether a signal came to any of the processes."""
        if trainer.world_size > 1:
            status = torch.tensor(self.stop.exit_code, device=trainer.strategy.root_device)
            self.stop.exit_code = int(trainer.strategy.reduce(status, reduce_op="max"))
        return self.stop.exit_code != 0

    def save(self, trainer: Trainer) -> None:
        for last in lasts(trainer):
            last.save(trainer)


def lasts(trainer: Trainer) -> list[LastCheckpoint]:
    return [each for each in trainer.callbacks if isinstance(each, LastCheckpoint)]  # type: ignore[attr-defined]
