"""The state with which a training continues from a checkpoint as if it had not stopped."""

import random
from typing import Any

import numpy as np
import torch
import torch.distributed
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn

from quartet.compat import (
    add_logger_step,
    is_accumulating,
    is_validation_due,
    logged_values,
    logger_step,
    start_new_epoch,
)
from quartet.records.loggers import MetricsCSV, rewind


class ResumeState(Callback):
    """Saves and restores the state that Lightning leaves out of a checkpoint.

    The state has the states of all random-number generators, the rows of metrics.csv, the last values
    that can be monitored, and whether the training was about to stop. It also normalizes the position
    in the epoch, so that Lightning repeats and skips nothing.

    Args:
        end: The settings that decide when the training ends, as a string.

    Attributes:
        extended: Whether the training continues beyond its original end.
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
            unlogged = {name: float(value) for name, value in logged_values(trainer).items()}
        checkpoint["resume_state"] = {
            # A resume repeats an interrupted validation.
            "random": all_gather_object(trainer, self.before_validation or random_states(trainer)),
            "rows": [dict(row) for row in history.rows] if history else [],
            "unlogged": unlogged and {**unlogged, "epoch": trainer.current_epoch},
            "step": logger_step(trainer),
            "monitored": {k: v.detach().clone() for k, v in trainer.callback_metrics.items()},
            "stops": trainer.should_stop,
            "end": self.end,
            "within_step": not is_between_epochs(trainer) and is_accumulating(trainer),
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn != TrainerFn.FITTING or "resume_state" not in checkpoint:
            return
        self.loaded = loaded = checkpoint["resume_state"]
        saved = checkpoint["callbacks"]
        for each in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(each, EarlyStopping) and each.state_key in saved:
                # Lightning would restore the saved patience.
                saved[each.state_key]["patience"] = each.patience
        if len(loaded["random"]) != trainer.world_size:
            raise ValueError(
                f"the checkpoint is of {len(loaded['random'])} processes and cannot be resumed with "
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
        if is_between_epochs(trainer):
            start_new_epoch(trainer)
        trainer.callback_metrics.update(self.loaded["monitored"])
        restore_random_states(trainer, self.loaded["random"][trainer.global_rank])
        self.loaded = {}


def is_between_epochs(trainer: Trainer) -> bool:
    """Whether an epoch has ended and the next one has not begun."""
    progress: Any = trainer.fit_loop.epoch_progress.current
    return bool(progress.processed == progress.ready)


def normalize_progress(trainer: Trainer, loops: dict[str, Any]) -> None:
    """Converts Lightning's counters to one of three forms from which it resumes exactly.

    The forms are: between two epochs; between two batches; before a validation. Lightning has more
    forms, and resumes some of them without a validation or with a second end of an epoch.
    """
    over = is_between_epochs(trainer)
    validates = not over and is_validation_due(trainer)
    batches = loops["epoch_loop.batch_progress"]
    for span in ("total", "current"):
        counters = loops["epoch_progress"][span]
        if over:
            counters.update(dict.fromkeys(counters, counters["processed"]))
        counters = batches[span]
        done = 0 if over and span == "current" else counters["processed"]
        counters.update(dict.fromkeys(counters, done))
        # Lightning records a validation in progress as one started batch and none processed.
        loops["epoch_loop.val_loop.batch_progress"][span] = {
            "ready": int(validates), "started": int(validates), "processed": 0, "completed": 0
        }  # fmt: skip
    if over:
        batches["is_last_batch"] = False
    elif not validates:
        add_logger_step(loops["epoch_loop.state_dict"])  # Lightning adds it after a validation


def all_gather_object(trainer: Trainer, value: Any) -> list[Any]:
    """Returns the values of all processes, by rank."""
    if trainer.world_size == 1:
        return [value]
    values: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def random_states(trainer: Trainer) -> dict[str, Any]:
    """Returns the states of all global random-number generators."""
    version, numbers, gauss = random.getstate()
    state: Any = np.random.get_state(legacy=False)
    states = {
        "python": [version, list(numbers), gauss],
        "numpy": [
            torch.from_numpy(state["state"]["key"].astype(np.int64)),
            *(state["state"]["pos"], state["has_gauss"], state["gauss"]),
        ],
        "torch": torch.get_rng_state(),
    }
    device = trainer.strategy.root_device
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore_random_states(trainer: Trainer, states: dict[str, Any]) -> None:
    """Sets the generators to the states that `random_states` returned."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    key, *others = states["numpy"]
    np.random.set_state(("MT19937", key.numpy().astype(np.uint32), *others))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and trainer.strategy.root_device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], trainer.strategy.root_device)
    elif "mps" in states and trainer.strategy.root_device.type == "mps":
        torch.mps.set_rng_state(states["mps"])
