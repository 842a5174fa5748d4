"""The checkpoints of a run, and what lets a training go on from one as if it had never stopped."""

import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn

from quartet.checkpoints.random_state import random_states, restore_random_states
from quartet.records.loggers import MetricsCSV, rewind


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint of the best epoch; the last one if nothing is monitored."""

    on_train_batch_end = Callback.on_train_batch_end  # saves after epochs only

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(save_top_k=1, enable_version_counter=False, **kwargs)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(relocate_paths(state_dict, self.dirpath))
        self.current_score = state_dict["current_score"]


class LastCheckpoint(ModelCheckpoint):
    """Keeps the newest checkpoint: of epochs, and within them as often as asked.

    A training that ends within an epoch, by its steps or time, leaves ``mid_epoch.ckpt`` besides:
    the place from which a longer one goes on.

    Args:
        every_n_steps: Optimizer steps after which to save within an epoch; None for never.
        every_minutes: The same by the clock, with the end of the step.
        min_seconds: An epoch is passed over that ends sooner than this after the last save, unless
            the training ends with it. A killed run repeats at most this much. 0 saves every epoch.
        kwargs: Of Lightning's ModelCheckpoint.

    Raises:
        ValueError: one of the first two is not positive, or the third is negative.
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
        faults = [
            f"callbacks.last.{name} must be above 0, got {value}; null saves epochs alone."
            for name, value in (("every_n_steps", every_n_steps), ("every_minutes", every_minutes))
            if value is not None and not value > 0
        ]
        if not min_seconds >= 0:
            least = f"must be at least 0, got {min_seconds}; 0 saves every epoch."
            faults.append(f"callbacks.last.min_seconds {least}")
        if faults:
            raise ValueError(" ".join(faults))
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self.min_seconds = min_seconds
        self.interrupted = False
        self.saved_at = time.monotonic()
        self.has_saved = False  # since the start; each saves its first epoch
        self.stop_waits = False

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(relocate_paths(state_dict, self.dirpath))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved_at = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        stops = trainer.should_stop or self.stop_waits
        ends = stops or reached(trainer.max_steps, trainer.global_step)
        if not (ends or self.due(trainer)):
            return
        # An end by the clock waits for the step, or the gradients of half of it would be lost.
        waits = is_accumulating(trainer)
        self.stop_waits, trainer.should_stop = stops and waits, stops and not waits
        if waits:
            return
        if trainer.fit_loop.epoch_loop._num_ready_batches_reached():
            if validation_due(trainer):  # else the end of the epoch follows at once
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
            or reached(trainer.max_steps, trainer.global_step)
            or reached(trainer.max_epochs, epochs.processed)
            or self.due(trainer)
            or self.rested(trainer, self.min_seconds)
        ):
            self.save(trainer)

    def due(self, trainer: Trainer) -> bool:
        """Whether it is time for a checkpoint within the epoch."""
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            return True
        return self.every_minutes is not None and self.rested(trainer, 60 * self.every_minutes)

    def rested(self, trainer: Trainer, seconds: float) -> bool:
        """Whether the last save was so long ago."""
        late: bool = time.monotonic() - self.saved_at >= seconds
        return trainer.strategy.broadcast(late)  # clocks of processes differ

    def save(self, trainer: Trainer) -> None:
        """Saves, between two optimizer steps."""
        self._save_checkpoint(trainer, self.path(str(self.filename)))
        self.best_model_path = self.path(str(self.filename))
        self.saved_at, self.has_saved = time.monotonic(), True
        longer = Path(self.path("mid_epoch"))
        if trainer.is_global_zero and not ended_within_epoch(trainer):
            longer.unlink(missing_ok=True)  # of a training that went on since

    def path(self, name: str) -> str:
        return str(Path(str(self.dirpath)) / f"{name}{self.FILE_EXTENSION}")


def reached(limit: int | None, count: int) -> bool:
    """Whether a limit of a training, of which None and -1 are none, is reached."""
    return limit is not None and 0 <= limit <= count


def relocate_paths(state: dict[str, Any], directory: Any) -> dict[str, Any]:
    """State of a ModelCheckpoint whose directory may have been moved since."""

    def moved(path: str) -> str:
        return str(Path(str(directory)) / Path(path).name) if path else path

    return state | {
        "dirpath": directory,
        "best_model_path": moved(state["best_model_path"]),
        "kth_best_model_path": moved(state["kth_best_model_path"]),
        "last_model_path": moved(state["last_model_path"]),
        "best_k_models": {moved(path): score for path, score in state["best_k_models"].items()},
    }


class ResumeState(Callback):
    """Puts into every checkpoint what Lightning leaves out, and takes it from there.

    That is: the states of the random numbers of every process, the rows of metrics.csv, the last
    value of everything monitored, whether the training was about to stop; and the place in the
    epoch in a form that Lightning goes on from without doing anything twice or not at all.

    Args:
        end: What decides when the training ends.

    Attributes:
        extended: Whether the training goes on beyond the end that it had.
    """

    def __init__(self, end: str) -> None:
        self.end = end
        self.extended = False
        self.loaded: dict[str, Any] = {}
        self.before_validation: dict[str, Any] | None = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.before_validation = random_states(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.before_validation = None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        normalize_progress(trainer, checkpoint["loops"]["fit_loop"])
        history = next((x for x in trainer.loggers if isinstance(x, MetricsCSV)), None)
        progress = trainer.fit_loop.epoch_progress.current
        unlogged: dict[str, Any] = {}
        if progress.completed < progress.processed:  # type: ignore[attr-defined]
            # Lightning logs an epoch only after its checkpoints are saved.
            values: Any = trainer._logger_connector.metrics["log"]
            unlogged = {name: float(value) for name, value in values.items()}
        checkpoint["continuation"] = {
            # A validation that ended early begins again.
            "random": all_gather_object(trainer, self.before_validation or random_states(trainer)),
            "rows": [dict(row) for row in history.rows] if history else [],
            "unlogged": unlogged and {**unlogged, "epoch": trainer.current_epoch},
            "step": trainer.fit_loop.epoch_loop._batches_that_stepped - 1,
            "monitored": {k: v.detach().clone() for k, v in trainer.callback_metrics.items()},
            "stops": trainer.should_stop,
            "end": self.end,
            "within_step": not epoch_is_over(trainer) and is_accumulating(trainer),
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn != TrainerFn.FITTING or "continuation" not in checkpoint:
            return
        self.loaded = loaded = checkpoint["continuation"]
        saved = checkpoint["callbacks"]
        for each in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(each, EarlyStopping) and each.state_key in saved:
                # Lightning would keep the old one.
                saved[each.state_key]["patience"] = each.patience
        if len(loaded["random"]) != trainer.world_size:
            raise ValueError(
                f"the checkpoint is of {len(loaded['random'])} processes and cannot go on with "
                f"{trainer.world_size}; set trainer.devices={len(loaded['random'])}."
            )
        trainer.should_stop = loaded["stops"] and not self.extended
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                logger.rows = [dict(row) for row in loaded["rows"]]
            elif isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                rewind(logger, loaded["rows"])
            if loaded["unlogged"]:
                logger.log_metrics(dict(loaded["unlogged"]), loaded["step"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.loaded:
            return
        loop = trainer.fit_loop
        if epoch_is_over(trainer):
            # With trainer.max_steps Lightning would end the finished epoch a second time.
            loop._restarting = loop.epoch_loop.restarting = False
        trainer._logger_connector._callback_metrics.update(self.loaded["monitored"])
        restore_random_states(trainer, self.loaded["random"][trainer.global_rank])
        self.loaded = {}


def epoch_is_over(trainer: Trainer) -> bool:
    """Whether the training stands between two epochs."""
    progress: Any = trainer.fit_loop.epoch_progress.current
    return bool(progress.processed == progress.ready)


def ended_within_epoch(trainer: Trainer) -> bool:
    """Whether the epoch that is over was not done to its end."""
    return epoch_is_over(trainer) and not trainer.fit_loop.epoch_loop._num_ready_batches_reached()


def is_accumulating(trainer: Trainer) -> bool:
    """Whether gradients are being accumulated."""
    return trainer.fit_loop._should_accumulate()


def validation_due(trainer: Trainer) -> bool:
    """Whether a validation belongs after the batch that is done, one under way included."""
    if trainer.validating:
        return True
    stops, trainer.should_stop = trainer.should_stop, False  # a stop would bring one by itself
    try:
        return trainer.fit_loop.epoch_loop._should_check_val_fx(trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]
    finally:
        trainer.should_stop = stops


def normalize_progress(trainer: Trainer, loops: dict[str, Any]) -> None:
    """Brings Lightning's counters into one of three forms that it goes on from exactly.

    Between two epochs; between two batches; before a validation. Its own distinguish more, and
    resume some of them with a validation left out or an epoch ended twice.
    """
    over = epoch_is_over(trainer)
    validates = not over and validation_due(trainer)
    batches = loops["epoch_loop.batch_progress"]
    for span in ("total", "current"):
        counters = loops["epoch_progress"][span]
        if over:
            counters.update(dict.fromkeys(counters, counters["processed"]))
        counters = batches[span]
        done = 0 if over and span == "current" else counters["processed"]
        counters.update(dict.fromkeys(counters, done))
        # One batch begun and none done is how a validation under way looks.
        loops["epoch_loop.val_loop.batch_progress"][span] = {
            "ready": int(validates), "started": int(validates), "processed": 0, "completed": 0
        }  # fmt: skip
    if over:
        batches["is_last_batch"] = False
    elif not validates:
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] += 1  # counted after a validation


def all_gather_object(trainer: Trainer, value: Any) -> list[Any]:
    """The value of every process, by rank."""
    if trainer.world_size == 1:
        return [value]
    values: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(values, value)
    return values
