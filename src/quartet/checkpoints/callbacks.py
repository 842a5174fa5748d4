"""Callbacks that save the best and the last checkpoint of a run, and the state of a resume."""

import functools
import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torchmetrics import Metric

from quartet import compat
from quartet.compat import lightning_loop
from quartet.core.files import write_atomic
from quartet.core.problems import Context, Problem, Problems
from quartet.core.processes import process_rank
from quartet.records.loggers import MetricsCSV, rewind

log = logging.getLogger(__name__)


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint of the best epoch, or of the last epoch if nothing is monitored."""

    on_train_batch_end = Callback.on_train_batch_end  # saves after epochs alone

    def __init__(self, *, filename: str, save_top_k: int = 1, **kwargs: Any) -> None:
        if save_top_k != 1 and "{" not in filename:
            filename += "-{epoch}"  # several need several names
        super().__init__(
            filename=filename, save_top_k=save_top_k, enable_version_counter=False, **kwargs
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        state = relocate_paths(state_dict, self.dirpath)
        best, kept = Path(state["best_model_path"]), Path(str(self.dirpath)) / "mid_epoch_best.ckpt"
        if self.monitor and state["best_model_path"] and not (best.exists() or kept.exists()):
            if process_rank() == 0:
                log.warning("%s is missing; only epochs from here on count for the best.", best)
            return
        super().load_state_dict(state)
        self.current_score = state["current_score"]


def saved_checkpoints(trainer: Trainer) -> tuple[dict[str, str], float | None]:
    """Returns the paths of the best and the last checkpoint, and the monitored value of the best one."""
    paths, score = {}, None
    for each in trainer.checkpoint_callbacks:
        path, value = str(getattr(each, "best_model_path", "")), 0.0
        if not (path and Path(path).exists()):
            continue
        if isinstance(each, LastCheckpoint):
            paths["last"] = path
        elif isinstance(each, BestCheckpoint):
            if each.best_model_score is not None:
                value = score = float(each.best_model_score)
            if math.isfinite(value):  # otherwise no epoch had a value, and this is the first one
                paths["best"] = path
    return paths, score


def check_checkpoints(context: Context) -> Problems:
    """Checkpoints must lie in the run's directory, and the best one be that of the monitored value."""
    monitor = context.config["monitor"]["metric"]
    for each in context.trainer.callbacks:
        if not isinstance(each, ModelCheckpoint) or not each.dirpath:
            continue
        if isinstance(each, BestCheckpoint) and each.monitor != monitor:
            message = f"the best epoch is that of monitor.metric={monitor}; leave this out."
            yield Problem("callbacks.best.monitor", message, each.monitor)
        folder = context.directory / "checkpoints"
        if isinstance(each, LastCheckpoint) and Path(each.dirpath).resolve() != folder.resolve():
            message = f"resume= looks for it in {folder}; leave it out."
            yield Problem("callbacks.last.dirpath", message, each.dirpath)
            continue
        if not Path(each.dirpath).resolve().is_relative_to(context.directory.resolve()):
            place = f"{type(each).__name__}.dirpath={each.dirpath}"
            message = f"{place} is outside the run's directory, {context.directory}"
            message += "; leave it out, hydra.run.dir sets the run's directory."
            yield Problem("callbacks", message)


class LastCheckpoint(ModelCheckpoint):
    """Keeps the newest checkpoint, saved after epochs and within them.

    A training that ends within an epoch, or with a validation that is not scheduled, also leaves
    ``mid_epoch.ckpt``, from which a longer training continues as if it had not ended: without that
    end of an epoch, that validation, and what they changed (rows of metrics, early stopping). The
    best checkpoint before it is kept as ``mid_epoch_best.ckpt``.

    Args:
        every_n_steps: Optimizer steps between saves within an epoch; None for no such saves.
        every_minutes: Minutes between saves within an epoch; None for no such saves.
        min_seconds: Smallest time between saves after epochs; the last epoch is always saved. A
            killed run repeats at most this time. 0 saves every epoch.
        kwargs: Arguments of Lightning's ModelCheckpoint.
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
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self.min_seconds = min_seconds
        self.interrupted = False
        self.saved_at = time.monotonic()
        self.has_saved = False  # since the start, after which the first epoch is always saved
        self.stop_is_pending = False
        self.mid_epoch_step = (
            0  # of mid_epoch.ckpt, which no checkpoint of a later step leaves there
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(relocate_paths(state_dict, self.dirpath))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.saved_at = time.monotonic()
        self.mid_epoch_step = trainer.global_step
        best, kept = self.best_path(trainer), Path(self.path("mid_epoch_best"))
        resumes = Path(str(trainer.ckpt_path)).stem == "mid_epoch"
        if resumes and best and kept.exists():
            write_atomic(best, kept.read_bytes())

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        stops = trainer.should_stop or self.stop_is_pending
        due = self.is_save_due(trainer)
        if not (due or stops or compat.is_last_step(trainer)):
            return
        # A time limit waits for the optimizer step, or its accumulated gradients would be lost.
        waits = compat.is_accumulating(trainer)
        self.stop_is_pending, trainer.should_stop = stops and waits, stops and not waits
        if waits:
            return
        done, scheduled = compat.is_last_batch_done(trainer), compat.is_validation_due(trainer)
        if compat.is_last_step(trainer) and not (
            done and (scheduled or not trainer.enable_validation)
        ):
            self.save_mid_epoch(trainer)
        elif due and (scheduled or not done):  # otherwise the end of the epoch follows
            self.save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        epochs: Any = trainer.fit_loop.epoch_progress.current
        if (
            not self.has_saved
            or self.interrupted
            or trainer.should_stop
            or lightning_loop.is_reached(trainer.max_steps, trainer.global_step)
            or lightning_loop.is_reached(trainer.max_epochs, epochs.processed)
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
        self.best_model_path = self.path(str(self.filename))
        compat.save_checkpoint(self, trainer, self.best_model_path)
        self.saved_at, self.has_saved = time.monotonic(), True
        if trainer.is_global_zero and trainer.global_step > self.mid_epoch_step:
            for name in ("mid_epoch", "mid_epoch_best"):  # the training has passed them
                Path(self.path(name)).unlink(missing_ok=True)

    def save_mid_epoch(self, trainer: Trainer) -> None:
        """Saves ``mid_epoch.ckpt`` and keeps the best checkpoint beside it."""
        self.mid_epoch_step = trainer.global_step
        trainer.save_checkpoint(self.path("mid_epoch"))
        if best := self.best_path(trainer):
            write_atomic(Path(self.path("mid_epoch_best")), best.read_bytes())

    def best_path(self, trainer: Trainer) -> Path | None:
        """Returns the best checkpoint so far, in the process that writes files."""
        kinds = (each for each in trainer.checkpoint_callbacks if isinstance(each, BestCheckpoint))
        best = next(kinds, None)
        written = trainer.is_global_zero and best is not None and best.best_model_path
        return Path(written) if written else None

    def path(self, name: str) -> str:
        return str(Path(str(self.dirpath)) / f"{name}{self.FILE_EXTENSION}")


def relocate_paths(state: dict[str, Any], directory: Any) -> dict[str, Any]:
    """Returns the state of a ModelCheckpoint with its paths moved to a directory."""

    def relocated(path: str) -> str:
        inner = Path(path)
        if inner.is_relative_to(str(state["dirpath"])):
            inner = inner.relative_to(str(state["dirpath"]))
        else:
            inner = Path(inner.name)
        return str(Path(str(directory)) / inner) if path else path

    return state | {
        "dirpath": directory,
        "best_model_path": relocated(state["best_model_path"]),
        "kth_best_model_path": relocated(state["kth_best_model_path"]),
        "last_model_path": relocated(state["last_model_path"]),
        "best_k_models": {relocated(path): score for path, score in state["best_k_models"].items()},
    }


# The state of a resume


class ResumeState(Callback):
    """Saves and restores the state that Lightning leaves out of a checkpoint.

    The state has the states of all random-number generators, the rows of metrics.csv, the values that
    were logged in the epoch, and whether the training was about to stop. It also normalizes the position
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
        self.metrics_before: dict[str, Any] = {}
        # Of other data than the engine's: before and after the epoch's iterator was made.
        self.loader_states: list[dict[str, Any]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        resumes_itself = getattr(trainer.datamodule, "resumes_itself", False)  # type: ignore[attr-defined]
        if resumes_itself and not any(self.loaded.get("metrics", ())):
            return
        self.loader_states = [] if resumes_itself else [random_states(trainer)]
        lightning_loop.set_epoch_start(trainer, functools.partial(self.start_epoch, trainer))
        if self.loaded and not resumes_itself and self.loaded["epoch"] == 0:
            # Lightning makes the first iterator before `on_train_start`.
            restore_random_states(trainer, self.loaded["loader"][trainer.global_rank][0])

    def start_epoch(self, trainer: Trainer, fetcher: Any, start: Callable[[Any], None]) -> None:
        """Starts the batches of an epoch, by Lightning's `start`; after a resume those not done yet.

        A loader that draws its order from the global generators gives the same batches again, if it
        begins with the same states; those that are done are skipped.
        """
        loaded, self.loaded = self.loaded, {}
        saved = loaded["metrics"][trainer.global_rank] if loaded else {}
        for name, metric in own_metrics(trainer.lightning_module):
            if name in saved:
                state = apply_to_collection(saved[name], Tensor, Tensor.to, metric.device)
                load_metric_state(metric, state)
        if not self.loader_states:
            start(fetcher)
            return
        now, done = random_states(trainer), lightning_loop.done_batches(trainer)
        if loaded and done:
            self.loader_states = loaded["loader"][trainer.global_rank]
            if loaded["epoch"] > 0:
                restore_random_states(trainer, self.loader_states[0])
                iter(fetcher)
            restore_random_states(trainer, self.loader_states[1])
            for _ in range(done):
                next(fetcher)
            fetcher.fetched -= done  # Lightning adds them
            start(fetcher)
            restore_random_states(trainer, now)
            if not compat.is_validation_due(trainer):  # after which Lightning does so
                lightning_loop.update_plateau_schedulers(trainer, "step")
            return
        if loaded or trainer.current_epoch > 0:
            self.loader_states = [now]
        if loaded:
            iter(fetcher)  # Lightning's own iterator is older than the states
        start(fetcher)
        self.loader_states = [self.loader_states[0], random_states(trainer)]

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.before_validation = random_states(trainer)
            self.metrics_before = save_metrics(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.before_validation, self.metrics_before = None, {}

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        normalize_progress(trainer, checkpoint["loops"]["fit_loop"])
        history = next((x for x in trainer.loggers if isinstance(x, MetricsCSV)), None)
        progress = trainer.fit_loop.epoch_progress.current
        # Lightning logs an epoch or a step only after its checkpoints are saved.
        unlogged: dict[str, Any] = {}
        step, is_step = compat.logger_step(trainer), compat.is_step_unlogged(trainer)
        if is_step or progress.completed < progress.processed:  # type: ignore[attr-defined]
            unlogged = {name: float(value) for name, value in compat.logged_values(trainer).items()}
        checkpoint["resume_state"] = {
            # A resume repeats an interrupted validation.
            "random": all_gather_object(trainer, self.before_validation or random_states(trainer)),
            "rows": [dict(row) for row in history.rows] if history else [],
            "unlogged": unlogged and {**unlogged, "epoch": trainer.current_epoch},
            "step": step + is_step,
            "logged": all_gather_object(trainer, compat.save_logged(trainer)),
            "monitored": {k: v.detach().clone() for k, v in trainer.callback_metrics.items()},
            "stops": trainer.should_stop,
            "end": self.end,
            "within_step": not is_between_epochs(trainer) and compat.is_accumulating(trainer),
            "epoch": trainer.current_epoch,
            "metrics": all_gather_object(trainer, self.metrics_before or save_metrics(trainer)),
            "loader": all_gather_object(trainer, self.loader_states),
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
        if (count := len(loaded["random"])) != trainer.world_size:
            message = f"cannot be resumed with {trainer.world_size}; set trainer.devices={count}."
            raise ValueError(f"the checkpoint is of {count} processes and {message}")
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
            compat.start_new_epoch(trainer)
        elif lightning_loop.done_batches(trainer):
            compat.load_logged(trainer, self.loaded["logged"][trainer.global_rank])
        trainer.callback_metrics.update(self.loaded["monitored"])
        restore_random_states(trainer, self.loaded["random"][trainer.global_rank])
        if not lightning_loop.has_epoch_start(trainer):
            self.loaded = {}


def save_metrics(trainer: Trainer) -> dict[str, Any]:
    """Returns copies of the states of a module's metrics, by name.

    Without those that Lightning resets after this epoch or validation, since they were logged.
    """
    logged = compat.logged_metrics(trainer, is_between_epochs(trainer))
    return {
        name: apply_to_collection(metric_state(metric), Tensor, Tensor.clone)
        for name, metric in own_metrics(trainer.lightning_module)
        if id(metric) not in logged
    }


def own_metrics(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, Metric]]:
    """Yields the metrics of a module by their names, except for those that are saved elsewhere."""
    for name, child in module.named_children():
        if isinstance(child, Metric):
            yield f"{prefix}{name}", child
        if not getattr(child, "saves_metrics", False):
            yield from own_metrics(child, f"{prefix}{name}.")


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
    validates = not over and compat.is_validation_due(trainer)
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
        # Lightning adds it after a validation.
        compat.add_logger_step(loops["epoch_loop.state_dict"])


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
    legacy: Any = np.random.get_state()
    _, key, *others = legacy
    states: dict[str, Any] = {"python": [version, list(numbers), gauss]}
    states["numpy"] = [torch.from_numpy(key.astype(np.int64)), *others]
    states["torch"] = torch.get_rng_state()
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


def metric_state(metric: Metric) -> dict[str, Any]:
    """Returns the states of a metric and its other numbers, such as counters and extremes."""
    states = metric.metric_state
    return {
        "states": {k: v if isinstance(v, Tensor) else list(v) for k, v in states.items()},
        "numbers": {
            key: value
            for key, value in vars(metric).items()
            if type(value) in (int, float, Tensor) and key[0] != "_" and key not in states
        },
        "update_count": metric.update_count,
    }


def load_metric_state(metric: Metric, state: dict[str, Any]) -> None:
    """Restores the states that `metric_state` returned."""
    for key, value in state["states"].items():
        setattr(metric, key, value)
    for key, value in state["numbers"].items():
        setattr(metric, key, value)
    compat.set_update_count(metric, state["update_count"])
