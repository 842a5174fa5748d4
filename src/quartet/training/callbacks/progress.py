"""The progress bar of a training, and a timer of its epochs."""

import sys
from time import perf_counter
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks import ProgressBar as LightningProgressBar
from tqdm import tqdm

from quartet.compat.lightning_loop import batches_per_step, count_steps
from quartet.training.metric_buffer import MetricBuffer


class ProgressBar(LightningProgressBar):
    """One progress bar for the whole training, with the metrics of the last epoch.

    It is drawn ten times a second. Without a terminal, it prints a line every 30 seconds.
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
        batches = count_steps(trainer) * batches_per_step(trainer)
        terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=None if batches == float("inf") else int(batches),
            initial=trainer.fit_loop.total_batch_idx + 1,
            desc="training",
            unit="batch",
            disable=trainer.global_rank != 0,
            dynamic_ncols=terminal,
            delay=0 if terminal else 30,
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
        metrics = {
            name: f"{float(value):.3g}"
            for name, value in trainer.callback_metrics.items()
            if name in ("val/loss", "val/accuracy", "val/r2", "val/ndcg")
        }
        self.bar.set_postfix(metrics, refresh=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.close()

    def on_exception(self, *args: Any) -> None:
        self.close()


class Timer(Callback):
    """Measures epochs from start to start, including their logging and checkpoints.

    Attributes:
        epochs: Seconds of each finished epoch without its validation.
        samples: Training samples of each epoch, over all processes.
    """

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.samples: list[int] = []

    def samples_per_second(self) -> float | None:
        """Returns training samples per second, without the first of several epochs.

        None where they are not known, since the module records none.
        """
        start = 1 if len(self.epochs) > 1 else 0
        seconds = sum(self.epochs[start:])
        return sum(self.samples[start:]) / seconds or None if seconds else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A resume within an epoch does not call on_train_epoch_start for it.
        self.started, self.validation = perf_counter(), 0.0
        self.resumed_samples = samples_of(pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.end_epoch()
        self.started, self.validation = perf_counter(), 0.0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validation_started = perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validation += perf_counter() - self.validation_started

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Callbacks are called before the module, which resets its metrics in this hook.
        self.samples.append((samples_of(pl_module) - self.resumed_samples) * trainer.world_size)
        self.resumed_samples = 0

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.end_epoch()

    def end_epoch(self) -> None:
        if len(self.samples) > len(self.epochs):
            self.epochs.append(perf_counter() - self.started - self.validation)


def samples_of(module: Any) -> int:
    """Returns the number of training samples of the epoch so far, in this process."""
    buffer = getattr(module, "train_metrics", None)
    return buffer.samples if isinstance(buffer, MetricBuffer) else 0
