"""Callbacks that end a training: after a signal, or where a monitored value is not logged."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from quartet.checkpoints.callbacks import LastCheckpoint
from quartet.compat import is_accumulating, is_last_batch_done, is_validation_due
from quartet.compat.lightning_loop import update_plateau_schedulers
from quartet.core.problems import TrainingError
from quartet.core.processes import ShutdownHandler
from quartet.records.run_directory import split_part
from quartet.training.module import check_logged


class StopAtBatchEnd(Callback):
    """Saves and exits after the optimizer step in which a signal arrived.

    Within a validation it exits after a batch. A resume repeats the validation.

    Args:
        shutdown: The handler that receives signals.
    """

    def __init__(self, shutdown: ShutdownHandler) -> None:
        self.shutdown = shutdown
        self.exits = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.shutdown.reinstall()  # Lightning's own handler would exit in the middle of a step

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if not self.is_asked(trainer) or is_accumulating(trainer):
            return
        # The checkpoint callbacks save the end of an epoch.
        if not is_last_batch_done(trainer) or is_validation_due(trainer):
            self.save_and_exit(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.state.fn == TrainerFn.FITTING and self.is_asked(trainer):
            self.save_and_exit(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.exits = self.is_asked(trainer)
        for callback in last_checkpoints(trainer):
            callback.interrupted = self.exits

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.exits:  # otherwise the end of the last epoch may not be saved
            self.shutdown.exit()

    def is_asked(self, trainer: Trainer) -> bool:
        """Whether any process has received a signal."""
        if trainer.world_size > 1:
            status = torch.tensor(self.shutdown.exit_code, device=trainer.strategy.root_device)
            self.shutdown.exit_code = int(trainer.strategy.reduce(status, reduce_op="max"))
        return self.shutdown.exit_code != 0

    def save_and_exit(self, trainer: Trainer) -> None:
        for callback in last_checkpoints(trainer):
            callback.save(trainer)
        self.shutdown.exit()


def last_checkpoints(trainer: Trainer) -> list[LastCheckpoint]:
    return [each for each in trainer.callbacks if isinstance(each, LastCheckpoint)]  # type: ignore[attr-defined]


class MonitorCheck(Checkpoint):
    """Ends a training in which a monitored value is not logged, where Lightning would do so later.

    Also ends one in which no step of an epoch returns a loss, which Lightning would let pass, and
    steps the schedulers that compare a monitored value, before the other callbacks.

    It is a Checkpoint because Lightning calls these last, when the training metrics are known; of
    all callbacks it must be the first.

    Args:
        monitored: Name of each monitored value, by the setting that names it.
    """

    def __init__(self, monitored: Mapping[str, str]) -> None:
        self.monitored = monitored
        self.has_validated = False
        self.has_loss: bool | None = None  # of the batches so far, if there was one

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        if not self.has_loss:  # outputs of manual optimization are not of interest
            self.has_loss = not pl_module.automatic_optimization or bool(outputs)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.has_validated = True
            check_logged(
                trainer, {k: v for k, v in self.monitored.items() if split_part(v)[0] == "val"}
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.has_loss is False:
            raise TrainingError(
                f"training_step returned no loss in epoch {trainer.current_epoch + 1}, and nothing was "
                "learnt; end it in `return loss`."
            )
        every = trainer.check_val_every_n_epoch
        was_due = every is not None and (trainer.current_epoch + 1) % every == 0
        if self.has_validated or (was_due and not any(trainer.num_val_batches)):
            check_logged(trainer, self.monitored)
        update_plateau_schedulers(trainer, "epoch")
