"""Less of Lightning's own time in each step, with all of its hooks alive.

Microseconds are those saved of a training step of Lightning 2.6 on a CPU.
"""

import inspect
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultMetric
from torch import Tensor

from quartet.data.loader import DeviceBatch

NOTHING: AbstractContextManager[None] = nullcontext()


class NoProfiler(Profiler):
    """Measures nothing, and makes no generator each time it is asked to (30 us)."""

    def start(self, action_name: str) -> None:
        pass

    def stop(self, action_name: str) -> None:
        pass

    def profile(self, action_name: str) -> Any:
        return NOTHING


# What `Steps` passes over: of callbacks, of the module, and of the module or the data.
WITHIN_STEPS = [
    *("on_before_zero_grad", "on_before_backward"),
    *("on_after_backward", "on_before_optimizer_step"),
]
OF_MODULE = [
    *WITHIN_STEPS,
    *("optimizer_zero_grad", "backward", "optimizer_step"),
    *("on_train_batch_start", "on_train_batch_end"),
]
OF_DATA = ["on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"]
BATCH_HOOKS = WITHIN_STEPS + [
    f"on_{part}_batch_{moment}"
    for part in ("train", "validation", "test", "predict")
    for moment in ("start", "end")
]


class FastEpochLoop(_TrainingEpochLoop):
    """The loop over the batches of an epoch.

    The usual training is written out: one device, full precision, no hook within its steps. It makes
    Lightning's calls in Lightning's order, but for gradients, which are freed before the forward
    pass and not after it (50 us). Any other training goes through Lightning's own code (200 us more).
    """

    def on_run_start(self, data_fetcher: Any) -> None:
        super().on_run_start(data_fetcher)
        drop_empty_hooks(self.trainer.callbacks)
        self.usual = (
            supports_fast_path(self.trainer) and not self.automatic_optimization._skip_backward
        )
        self.validates_within = validates_within_epochs(self.trainer)
        schedulers = self.trainer.lr_scheduler_configs
        self.scheduled_by_step = any(scheduler.interval == "step" for scheduler in schedulers)

    def advance(self, data_fetcher: Any) -> None:
        if self.restarting or not self.usual:
            super().advance(data_fetcher)
            return
        trainer: Any = self.trainer
        batch, _, _ = next(data_fetcher)
        batch_idx = self.batch_idx + 1  # a fetcher counts from 0 after a resume, too
        self.batch_progress.is_last_batch = data_fetcher.done
        if type(batch) is not DeviceBatch:
            batch = trainer.strategy.batch_to_device(batch)
        self.batch_progress.increment_ready()
        connector, results = trainer._logger_connector, self._results
        connector._first_loop_iter = connector._first_loop_iter is None
        results.batch, results.batch_size, results.dataloader_idx = batch, None, None
        self.tell("on_train_batch_start", batch, batch_idx)
        self.batch_progress.increment_started()
        outputs = self.step(batch, batch_idx)
        self.batch_progress.increment_processed()
        if self.scheduled_by_step:
            self.update_lr_schedulers("step", update_plateau_schedulers=False)
        if self._num_ready_batches_reached():
            self.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        self.tell("on_train_batch_end", outputs, batch, batch_idx)
        logged = any(result.meta.on_step for result in results.values())
        if logged:
            connector.on_batch_end()
        results.batch = results.batch_size = None
        self.batch_progress.increment_completed()
        if logged:
            connector.update_train_step_metrics()

    def on_advance_end(self, data_fetcher: Any) -> None:
        ends = self._num_ready_batches_reached() or self.trainer.should_stop
        if not self.usual or self.validates_within or ends or self.trainer.received_sigterm:
            super().on_advance_end(data_fetcher)
            return
        # Asking after each batch whether to validate and which scheduler is due takes 35 us.
        if self.scheduled_by_step:
            self.update_lr_schedulers("step", update_plateau_schedulers=True)
        if not self._should_accumulate():
            self._batches_that_stepped += 1

    def step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Forward, backward and, where accumulated gradients are complete, the optimizer."""
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
            if loss is not None:  # else the batch is to be skipped
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

    def tell(self, hook: str, *args: Any) -> None:
        """Calls a hook of the callbacks, which may log."""
        trainer, module = self.trainer, self.trainer.lightning_module
        module._current_fx_name = hook
        for callback in trainer.callbacks:
            own = getattr(callback, hook)
            if own is not None:
                own(trainer, module, *args)
        module._current_fx_name = None


def call_module_hook(module: LightningModule, hook: str, *args: Any) -> Any:
    """What a hook of the module gives, which may log."""
    module._current_fx_name = hook
    output = getattr(module, hook)(*args)
    module._current_fx_name = None
    return output


def supports_fast_path(trainer: Any) -> bool:
    """Whether `Steps` has all that a training needs."""
    module, data = trainer.lightning_module, trainer.datamodule
    passed_over: list[tuple[Any, type, list[str]]] = [
        (module, LightningModule, OF_MODULE + OF_DATA),
        *([(data, LightningDataModule, OF_DATA)] if data else []),
        *((callback, Callback, WITHIN_STEPS) for callback in trainer.callbacks),
    ]
    arguments = inspect.signature(module.training_step).parameters
    return (
        type(trainer.strategy) is SingleDeviceStrategy
        and type(trainer.precision_plugin) is Precision
        and type(trainer.profiler) is NoProfiler
        and module.automatic_optimization
        and len(arguments) == 2
        and "dataloader_iter" not in arguments
        and not any(
            overrides(part, base, hook) for part, base, hooks in passed_over for hook in hooks
        )
    )


def validates_within_epochs(trainer: Any) -> bool:
    """Whether a validation may follow a batch that is not the last of its epoch."""
    return (
        trainer.check_val_every_n_epoch is None
        or trainer._val_check_time_interval is not None
        or trainer.val_check_batch < trainer.num_training_batches
    )


def overrides(part: Any, base: type, hook: str) -> bool:
    """Whether a callback, module or data module has a hook of its own."""
    own = vars(part).get(hook)  # as a LambdaCallback has them
    return own is not None or getattr(type(part), hook) is not getattr(base, hook)


def drop_empty_hooks(callbacks: Iterable[Callback]) -> None:
    """Sets hooks of a step that a callback does not override to None, which Lightning skips.

    Each callback costs 9 us otherwise, a ModelCheckpoint 21.
    """
    for callback in callbacks:
        for hook in BATCH_HOOKS:
            if not overrides(callback, Callback, hook):
                setattr(callback, hook, None)


def moved(result: Any, *place: Any, **kwargs: Any) -> Any:
    """Moves a logged value that lies elsewhere; Lightning searches all its attributes (500 us)."""
    lies_there = result.is_tensor and place == (result.value.device,) and not kwargs
    return result if lies_there else search(result, *place, **kwargs)


search = _ResultMetric.to


def install(trainer: Trainer) -> None:
    """Gives a trainer `Steps` and all logging `moved`; without a GPU, Adam does not look for one."""
    _ResultMetric.to = moved  # type: ignore[assignment,method-assign]
    if not torch.cuda.device_count():
        # Set by Lightning, so that each step looks for the library of the driver (40 us).
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    loop = trainer.fit_loop.epoch_loop
    trainer.fit_loop.epoch_loop = FastEpochLoop(trainer, loop.min_steps, loop.max_steps)
