"""Lightning's loop over the batches of an epoch, with less work around each training step."""

import inspect
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.core.optimizer import do_nothing_closure
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.optimization.manual import _ManualOptimization
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultMetric
from torch import Tensor

from quartet.compat import skip_nvml

NULL_CONTEXT: AbstractContextManager[None] = nullcontext()
# Hooks that the fast path does not call: of callbacks and the module, of the module, of the data.
STEP_HOOKS = [
    *("on_before_zero_grad", "on_before_backward"),
    *("on_after_backward", "on_before_optimizer_step"),
]
MODULE_HOOKS = [
    *STEP_HOOKS,
    *("optimizer_zero_grad", "backward", "optimizer_step"),
    *("on_train_batch_start", "on_train_batch_end"),
]
TRANSFER_HOOKS = [
    *("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
]


class DeviceBatch(list[Any]):
    """A batch that is on the model's device already; Lightning need not look for its tensors."""

    def to(self, *_: Any, **__: Any) -> "DeviceBatch":
        return self


class NoProfiler(Profiler):
    """Measures nothing. Lightning's PassThroughProfiler creates a generator at each call."""

    def start(self, action_name: str) -> None:
        pass

    def stop(self, action_name: str) -> None:
        pass

    def profile(self, action_name: str) -> Any:
        return NULL_CONTEXT


class ManualOptimization(_ManualOptimization):
    """Manual optimization in which the steps of the first optimizer count, not those of all.

    Attributes:
        has_stepped: Whether it stepped in the current batch.
    """

    has_stepped = False

    def on_run_start(self) -> None:
        super().on_run_start()
        self.has_stepped = False
        for optimizer in self.trainer.strategy._lightning_optimizers[1:]:
            optimizer._on_before_step = optimizer._on_after_step = do_nothing_closure

    def _on_after_step(self) -> None:
        super()._on_after_step()
        self.has_stepped = True


class FitLoop(_FitLoop):
    """Lightning's loop over epochs, which also resumes a training that stopped in its last steps.

    Lightning would not run at all if the steps of the training are done, so that the last epoch
    would have no end: no validation, no row of metrics, no checkpoint.
    """

    @property
    def done(self) -> bool:
        epochs: Any = self.epoch_progress.current
        return super().done and not (self.restarting and epochs.processed < epochs.ready)

    def on_advance_end(self) -> None:
        self._restarting = False  # the end of an epoch that was resumed is that of any other
        super().on_advance_end()


class FastEpochLoop(_TrainingEpochLoop):
    """Lightning's epoch loop with a fast path for one device in full precision.

    The fast path makes Lightning's calls in Lightning's order, except that gradients are freed
    before the forward pass and not after it. Lightning's own code runs if a part overrides a hook
    that the fast path does not call, or with any other strategy or precision.

    The last weights are validated too: a validation follows the last step of a training that
    `max_steps`, `max_epochs` or a stop within an epoch (`max_time`) ends where none is scheduled. It is
    logged, monitored and counts for the best checkpoint as any other. A checkpoint that is saved before
    it is the same as if the training continued, so that a longer one leaves it out. A callback that
    stops the training when an epoch has ended causes no further validation.
    """

    scheduled_step = 0  # the last optimizer step after which schedulers were stepped
    has_updated_plateaus = False  # in this epoch
    around_start: Callable[[Any, Callable[[Any], None]], None] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.manual_optimization = ManualOptimization(self.trainer)

    def update_lr_schedulers(self, interval: str, update_plateau_schedulers: bool) -> None:
        module: Any = self.trainer.lightning_module
        if interval == "epoch" and update_plateau_schedulers:
            if self.has_updated_plateaus:
                return
            self.has_updated_plateaus = True
        if module.automatic_optimization:
            super().update_lr_schedulers(interval, update_plateau_schedulers)
        elif hasattr(module, "step_schedulers"):
            new = range(self.scheduled_step + 1, self.global_step + 1)
            steps = new if interval == "step" else [self.global_step]
            self.scheduled_step = self.global_step
            module.step_schedulers(interval, update_plateau_schedulers, steps)

    def on_run_start(self, data_fetcher: Any) -> None:
        if self.around_start is None:
            super().on_run_start(data_fetcher)
        else:
            self.around_start(data_fetcher, super().on_run_start)
        self.scheduled_step, self.has_updated_plateaus = self.global_step, False
        self.is_fast = (
            supports_fast_path(self.trainer) and not self.automatic_optimization._skip_backward
        )
        self.is_on_device = getattr(self.trainer.train_dataloader, "is_on_device", False)
        self.validates_within = validates_within_epochs(self.trainer)
        schedulers = self.trainer.lr_scheduler_configs
        self.schedules_steps = any(scheduler.interval == "step" for scheduler in schedulers)

    @property
    def done(self) -> bool:
        validates = self.restarting and self._should_check_val_fx(
            self.trainer.fit_loop._data_fetcher
        )
        return super().done and not validates

    def _should_check_val_fx(self, data_fetcher: Any) -> bool:
        return self.is_validation_scheduled(data_fetcher) or self.is_final_validation()

    def is_validation_scheduled(self, data_fetcher: Any) -> bool:
        """Whether the settings ask for a validation after the current batch."""
        stops, self.trainer.should_stop = self.trainer.should_stop, False
        try:
            return super()._should_check_val_fx(data_fetcher)
        finally:
            self.trainer.should_stop = stops

    def is_final_validation(self) -> bool:
        """Whether a validation follows the current batch because the training ends."""
        return self.trainer.enable_validation and self.is_last_step()

    def is_last_step(self) -> bool:
        """Whether the training ends after the current batch, unless it is stopped after an epoch."""
        trainer = self.trainer
        if is_reached(self.max_steps, self.global_step):
            return True
        if trainer.should_stop and trainer.fit_loop._can_stop_early:
            return True
        if not self._num_ready_batches_reached():
            return False
        epochs: Any = trainer.fit_loop.epoch_progress.current
        return is_reached(trainer.max_epochs, epochs.processed + 1)

    def advance(self, data_fetcher: Any) -> None:
        if self.restarting and not self.is_validation_scheduled(data_fetcher):
            if self.is_final_validation():
                self._batches_that_stepped -= 1  # `on_advance_end` adds it
                return
            if self.is_last_step() or self._num_ready_batches_reached():
                raise StopIteration  # nothing is left but the end of the epoch
        if self.restarting or not self.is_fast:
            super().advance(data_fetcher)
            return
        trainer: Any = self.trainer
        batch, _, _ = next(data_fetcher)
        batch_idx = self.batch_idx + 1  # after a resume a fetcher would count from 0
        self.batch_progress.is_last_batch = data_fetcher.done
        if not self.is_on_device:
            batch = trainer.strategy.batch_to_device(batch)
        self.batch_progress.increment_ready()
        connector, results = trainer._logger_connector, self._results
        connector._first_loop_iter = connector._first_loop_iter is None
        results.batch, results.batch_size, results.dataloader_idx = batch, None, None
        self.call_callbacks("on_train_batch_start", batch, batch_idx)
        self.batch_progress.increment_started()
        outputs = self.step(batch, batch_idx)
        self.batch_progress.increment_processed()
        if self.schedules_steps:
            self.update_lr_schedulers("step", update_plateau_schedulers=False)
        if self._num_ready_batches_reached():
            self.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        self.call_callbacks("on_train_batch_end", outputs, batch, batch_idx)
        logged = any(result.meta.on_step for result in results.values())
        if logged:
            connector.on_batch_end()
        results.batch = results.batch_size = None
        self.batch_progress.increment_completed()
        if logged:
            connector.update_train_step_metrics()

    def on_advance_end(self, data_fetcher: Any) -> None:
        ends = self._num_ready_batches_reached() or self.is_last_step()
        if not self.is_fast or self.validates_within or ends or self.trainer.received_sigterm:
            super().on_advance_end(data_fetcher)
            return
        # There is no validation after this batch.
        if self.schedules_steps:
            self.update_lr_schedulers("step", update_plateau_schedulers=True)
        if not self._should_accumulate():
            self._batches_that_stepped += 1

    def step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Runs forward, backward and, if the accumulated gradients are complete, the optimizer."""
        trainer: Any = self.trainer
        module, optimizer = trainer.lightning_module, trainer.optimizers[0]
        progress = self.automatic_optimization.optim_progress.optimizer
        share = trainer.accumulate_grad_batches
        first, last = batch_idx % share == 0, not self._should_accumulate()
        outputs: dict[str, Any] = {}

        def closure() -> Tensor | None:
            if first:
                optimizer.zero_grad()
                progress.zero_grad.increment_by(1)
            output = call_module_hook(module, "training_step", batch, batch_idx)
            if isinstance(output, Tensor) or not isinstance(output, Mapping):  # the latter is slow
                output = {"loss": output}
            outputs.update(output)
            loss = outputs["loss"]
            if loss is not None:  # None skips the batch
                loss = loss / share if share > 1 else loss
                outputs["loss"] = loss.detach()
                loss.backward()
            if last:
                clip = trainer.gradient_clip_val, trainer.gradient_clip_algorithm
                call_module_hook(module, "configure_gradient_clipping", optimizer, *clip)
            return outputs["loss"]  # type: ignore[no-any-return]

        if last:
            progress.step.increment_ready()
            optimizer.step(closure)
            progress.step.increment_completed()
        else:
            closure()
        return outputs if outputs["loss"] is not None else {}

    def call_callbacks(self, hook: str, *args: Any) -> None:
        """Calls a hook of the callbacks, which may log."""
        trainer, module = self.trainer, self.trainer.lightning_module
        set_hook_name(module, hook)
        for callback in trainer.callbacks:
            getattr(callback, hook)(trainer, module, *args)
        set_hook_name(module, None)


def is_reached(limit: int | None, count: int) -> bool:
    """Whether a count has reached a limit; None and -1 are no limit."""
    return limit is not None and 0 <= limit <= count


def call_module_hook(module: LightningModule, hook: str, *args: Any) -> Any:
    """Calls a hook of the module, which may log, and returns its output."""
    set_hook_name(module, hook)
    output = getattr(module, hook)(*args)
    set_hook_name(module, None)
    return output


def set_hook_name(module: LightningModule, name: str | None) -> None:
    vars(module)["_current_fx_name"] = name  # nn.Module.__setattr__ is slow


def supports_fast_path(trainer: Any) -> bool:
    """Whether `FastEpochLoop` may use its fast path for a training."""
    module, data = trainer.lightning_module, trainer.datamodule
    parts: list[tuple[Any, type, list[str]]] = [
        (module, LightningModule, MODULE_HOOKS + TRANSFER_HOOKS),
        *([(data, LightningDataModule, TRANSFER_HOOKS)] if data else []),
        *((callback, Callback, STEP_HOOKS) for callback in trainer.callbacks),
    ]
    arguments = inspect.signature(module.training_step).parameters
    return (
        type(trainer.strategy) is SingleDeviceStrategy
        and type(trainer.precision_plugin) is Precision
        and type(trainer.profiler) is NoProfiler
        and module.automatic_optimization
        and len(arguments) == 2
        and "dataloader_iter" not in arguments
        and not any(overrides(part, base, hook) for part, base, hooks in parts for hook in hooks)
    )


def validates_within_epochs(trainer: Any) -> bool:
    """Whether a validation may follow a batch that is not the last of its epoch."""
    return (
        trainer.check_val_every_n_epoch is None
        or trainer._val_check_time_interval is not None
        or trainer.val_check_batch < trainer.num_training_batches
    )


def overrides(part: Any, base: type, hook: str) -> bool:
    """Whether a callback, module or data module overrides a hook."""
    own = vars(part).get(hook)  # a LambdaCallback has hooks as attributes
    return own is not None or getattr(type(part), hook) is not getattr(base, hook)


def batches_per_step(trainer: Trainer) -> float:
    """Batches from one step of the first optimizer to the next."""
    module = trainer.lightning_module
    if module.automatic_optimization:
        return trainer.accumulate_grad_batches
    return getattr(module, "batches_per_step", 1)


def count_epoch_steps(trainer: Trainer) -> float:
    """Steps of the first optimizer in an epoch."""
    steps = trainer.num_training_batches / batches_per_step(trainer)
    return steps if math.isinf(steps) else math.ceil(steps)


def count_steps(trainer: Trainer) -> float:
    """Steps of the first optimizer in the whole training; infinite without an end."""
    limit = math.inf if trainer.max_steps == -1 else trainer.max_steps
    if trainer.max_epochs in (None, -1):
        return limit
    return min(limit, trainer.max_epochs * count_epoch_steps(trainer))


def log_in_place(move: Callable[..., _ResultMetric] = _ResultMetric.to) -> None:
    """Leaves a logged value where it is, if that is its device.

    Lightning copies all that it knows of a value each time it is logged: a third of an epoch's end.
    """

    def to(metric: _ResultMetric, *args: Any, **kwargs: Any) -> _ResultMetric:
        value = vars(metric).get("value")  # a metric that is logged is a submodule
        is_there = isinstance(value, Tensor) and args == (value.device,)
        return metric if is_there else move(metric, *args, **kwargs)

    _ResultMetric.to = to  # type: ignore[method-assign, assignment]


def install(trainer: Trainer) -> None:
    """Replaces the loops of a trainer by `FitLoop` and `FastEpochLoop`."""
    log_in_place()
    if not torch.cuda.device_count():
        skip_nvml()
    loop = trainer.fit_loop
    trainer.fit_loop = FitLoop(trainer, loop.min_epochs, loop.max_epochs)
    trainer.fit_loop.epoch_loop = FastEpochLoop(trainer, loop.min_steps, loop.max_steps)


def set_epoch_start(trainer: Trainer, around: Callable[[Any, Callable[[Any], None]], None]) -> None:
    """Calls `around` at the start of each epoch, with Lightning's data fetcher and start."""
    loop: Any = trainer.fit_loop.epoch_loop
    loop.around_start = around


def update_plateau_schedulers(trainer: Trainer, interval: str) -> None:
    """Steps the schedulers that compare a monitored value, at the end of a step or epoch.

    At the end of an epoch Lightning does so after the checkpoints, which would lack it; it is not
    done twice.
    """
    loop = trainer.fit_loop.epoch_loop
    if interval == "step" or loop._num_ready_batches_reached():
        loop.update_lr_schedulers(interval, update_plateau_schedulers=True)


def has_epoch_start(trainer: Trainer) -> bool:
    return getattr(trainer.fit_loop.epoch_loop, "around_start", None) is not None


def done_batches(trainer: Trainer) -> int:
    """The number of batches of the epoch that are done."""
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return batches.ready  # type: ignore[no-any-return]
