"""Callbacks that save the best and the last checkpoint of a run."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from quartet.checkpoints.resume_state import is_between_epochs
from quartet.compat import (
    is_accumulating,
    is_last_batch_done,
    is_validation_due,
    save_checkpoint,
)
from quartet.core.problems import Context, Problem


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint of the best epoch, or of the last epoch if nothing is monitored."""

    on_train_batch_end = Callback.on_train_batch_end  # saves after epochs alone

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(save_top_k=1, enable_version_counter=False, **kwargs)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(relocate_paths(state_dict, self.dirpath))
        self.current_score = state_dict["current_score"]


def check_directories(context: Context) -> Iterator[Problem]:
    """Yields a problem for every checkpoint callback with a directory outside the run's own."""
    for each in context.trainer.callbacks:
        if not isinstance(each, ModelCheckpoint) or not each.dirpath:
            continue
        if not Path(each.dirpath).resolve().is_relative_to(context.directory.resolve()):
            yield Problem(
                "callbacks",
                f"{type(each).__name__}.dirpath={each.dirpath} is outside the run's directory, "
                f"{context.directory}; leave it out, hydra.run.dir sets the run's directory.",
            )


class LastCheckpoint(ModelCheckpoint):
    """Keeps the newest checkpoint, saved after epochs and within them.

    A training that ends within an epoch also leaves ``mid_epoch.ckpt``, from which a longer
    training continues.

    Args:
        every_n_steps: Optimizer steps between saves within an epoch; None for no such saves.
        every_minutes: Minutes between saves within an epoch; None for no such saves.
        min_seconds: Smallest time between saves after epochs; the last epoch is always saved. A
            killed run repeats at most this time. 0 saves every epoch.
        kwargs: Arguments of Lightning's ModelCheckpoint.

    Raises:
        ValueError: a number of steps or minutes is not positive, or `min_seconds` is negative.
    """

    def __init__(
        self,
        *,
        every_n_steps: int | None,
        every_minutes: float | None,
        min_seconds: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(save_top_k=1, enable_version_counter=False, monitor=None, **kwargs)
        problems = [
            f"callbacks.last.{name} must be above 0, got {value}; null saves epochs alone."
            for name, value in (("every_n_steps", every_n_steps), ("every_minutes", every_minutes))
            if value is not None and not value > 0
        ]
        if not min_seconds >= 0:
            least = f"must be at least 0, got {min_seconds}; 0 saves every epoch."
            problems.append(f"callbacks.last.min_seconds {least}")
        if problems:
            raise ValueError(" ".join(problems))
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self.min_seconds = min_seconds
        self.interrupted = False
        self.saved_at = time.monotonic()
        self.has_saved = False  # since the start, after which the first epoch is always saved
        self.stop_is_pending = False

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(relocate_paths(state_dict, self.dirpath))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved_at = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        stops = trainer.should_stop or self.stop_is_pending
        ends = stops or is_reached(trainer.max_steps, trainer.global_step)
        if not (ends or self.is_save_due(trainer)):
            return
        # A time limit waits for the optimizer step, or its accumulated gradients would be lost.
        waits = is_accumulating(trainer)
        self.stop_is_pending, trainer.should_stop = stops and waits, stops and not waits
        if waits:
            return
        if is_last_batch_done(trainer):
            if is_validation_due(trainer):  # otherwise the end of the epoch follows
                self.save(trainer)
        elif ends:
            trainer.save_checkpoint(self.path("mid_epoch"))
        else:
            self.save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        epochs: Any = trainer.fit_loop.epoch_progress.current
        if (
            not self.has_saved
            or self.interrupted
            or trainer.should_stop
            or is_reached(trainer.max_steps, trainer.global_step)
            or is_reached(trainer.max_epochs, epochs.processed)
            or self.is_save_due(trainer)
            or self.has_elapsed(trainer, self.min_seconds)
        ):
            self.save(trainer)

    def is_save_due(self, trainer: Trainer) -> bool:
        """Whether it is time for a checkpoint within the epoch."""
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            return True
        return self.every_minutes is not None and self.has_elapsed(trainer, 60 * self.every_minutes)

    def has_elapsed(self, trainer: Trainer, seconds: float) -> bool:
        """Whether this many seconds have passed since the last save."""
        elapsed: bool = time.monotonic() - self.saved_at >= seconds
        return trainer.strategy.broadcast(elapsed)  # the clocks of processes differ

    def save(self, trainer: Trainer) -> None:
        """Saves the checkpoint. Call it between two optimizer steps."""
        path = self.path(str(self.filename))
        save_checkpoint(self, trainer, path)
        self.best_model_path = path
        self.saved_at, self.has_saved = time.monotonic(), True
        if trainer.is_global_zero and (
            not is_between_epochs(trainer) or is_last_batch_done(trainer)
        ):
            Path(self.path("mid_epoch")).unlink(missing_ok=True)  # the training has passed it

    def path(self, name: str) -> str:
        return str(Path(str(self.dirpath)) / f"{name}{self.FILE_EXTENSION}")


def is_reached(limit: int | None, count: int) -> bool:
    """Whether a count has reached a limit; None and -1 are no limit."""
    return limit is not None and 0 <= limit <= count


def relocate_paths(state: dict[str, Any], directory: Any) -> dict[str, Any]:
    """Returns the state of a ModelCheckpoint with its paths moved to a directory."""

    def relocated(path: str) -> str:
        return str(Path(str(directory)) / Path(path).name) if path else path

    return state | {
        "dirpath": directory,
        "best_model_path": relocated(state["best_model_path"]),
        "kth_best_model_path": relocated(state["kth_best_model_path"]),
        "last_model_path": relocated(state["last_model_path"]),
        "best_k_models": {relocated(path): score for path, score in state["best_k_models"].items()},
    }
