"""The base LightningModule: buffered metrics, schedules, non-finite losses, exact resume."""

import inspect
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn

import torch
from lightning import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MetricCollection

from quartet.checkpoints.callbacks import all_gather_object
from quartet.compat import get_trainer, is_last_batch_done
from quartet.core.messages import join_and
from quartet.core.problems import TrainingError
from quartet.data.datamodule import DataModule
from quartet.data.task import Task
from quartet.training.metric_buffer import MetricBuffer
from quartet.training.schedule import Schedule

NO_EXTRAS: Mapping[str, Any] = MappingProxyType({})


class NonFiniteLossError(TrainingError):
    """The loss or the weights became NaN or infinite."""


class MissingLossError(ValueError):
    """A model that computes no loss, where no loss is chosen."""


class Module(LightningModule):
    """The base of a project's LightningModule, with the chosen parts and the bookkeeping.

    A subclass writes the steps and ``configure_optimizers`` in plain Lightning. It uses:

    - ``self.model``, ``self.task``, ``self.loss``: the chosen parts; the task's ``split`` takes a
      batch apart;
    - :meth:`mix` and :meth:`compute_loss`: mixup and CutMix, and the chosen loss;
    - :meth:`record`: the epoch's mean loss and metrics, logged as ``train/loss``, ``val/accuracy``, ...;
    - :meth:`make_optimizer` and :meth:`make_scheduler`: the chosen optimizer and scheduler.

    Example::

        class Module(quartet.Module):
            def training_step(self, batch, batch_idx):
                inputs, targets, extras = self.task.split(batch)
                outputs = self.model(inputs)
                loss = self.compute_loss(outputs, targets, extras)
                self.record("train", loss, outputs, targets, extras)
                return loss

            def configure_optimizers(self):
                optimizer = self.make_optimizer()
                return [optimizer], self.make_scheduler(optimizer)

    Args:
        model: Maps inputs to raw outputs.
        task: Maps raw outputs to predictions, and with ``labels`` targets to labels.
        loss: ``(outputs, targets) -> scalar``, or a dict of scalars with the total under ``loss``; gets
            extras of the batch, such as ``indexes``, if its ``forward`` names them. None: the model
            gives such a dict.
        metrics: Metrics of predictions and labels; copied for train, val and test.
        heads: Name of a metric -> key of the predictions and labels that it compares.
        optimizer: Makes the optimizer of a model.
        scheduler: Makes the schedule of an optimizer, with `total_steps`, `steps_per_epoch` and
            `validate_every` (epochs).
        mixing: Mixes the samples of training batches and their targets; None mixes nothing.
    """

    model: Any
    task: Any
    loss: Any

    def __init__(
        self,
        *,
        model: nn.Module,
        task: Task,
        loss: nn.Module | None,
        metrics: MetricCollection,
        optimizer: Callable[[nn.Module], Optimizer],
        scheduler: Callable[..., Schedule],
        mixing: Callable[..., tuple[Tensor, Tensor, Tensor]] | None = None,
        heads: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.task = task
        self.loss = loss
        self.train_metrics = MetricBuffer(task, metrics, "train/", heads)
        self.val_metrics = MetricBuffer(task, metrics, "val/", heads)
        self.test_metrics = MetricBuffer(task, metrics, "test/", heads)
        self.create_optimizer = optimizer
        self.create_schedule = scheduler
        self.mixing = mixing
        self.last_batch = -1
        self.loaded: dict[str, Any] = {}
        self.plateau_is_due = False
        self.loss_extras = find_extras(loss)
        self.class_names: list[str] = []

    def forward(self, inputs: Any) -> Any:
        """Returns the raw outputs of the model."""
        return self.model(inputs)

    def setup(self, stage: str) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, DataModule):
            return
        self.class_names = self.task.names(data.metadata())
        if stage != "fit":
            return
        if hasattr(self.loss, "fit"):
            self.loss.fit(data.targets())
        if data.parts.target_scale is not None:
            for buffer, value in zip(self.task.buffers(), data.parts.target_scale, strict=True):
                buffer.copy_(value)

    def make_optimizer(self) -> Optimizer:
        """Makes the chosen optimizer of the model's trainable parameters."""
        return self.create_optimizer(self.model)

    def make_scheduler(self, optimizer: Optimizer) -> list[dict[str, Any]]:
        """Makes the chosen scheduler and its warm-up, as dictionaries for Lightning.

        Each dictionary has ``scheduler``, ``interval`` (``step`` or ``epoch``), ``frequency`` and,
        for the main scheduler, ``monitor``. The list is empty for a constant learning rate.
        """
        self.trainer.fit_loop.setup_data()  # counts the batches, which would be infinite otherwise
        total_steps = self.trainer.estimated_stepping_batches
        steps = self.trainer.num_training_batches / self.trainer.accumulate_grad_batches
        self.schedule = self.create_schedule(
            optimizer,
            total_steps=total_steps,
            steps_per_epoch=steps if math.isinf(steps) else math.ceil(steps),
            validate_every=self.trainer.check_val_every_n_epoch or 1,
        )
        return self.schedule.configs

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if isinstance(scheduler, ReduceLROnPlateau) and not self.plateau_is_due:
            return
        if scheduler is self.schedule.warmup or self.schedule.due(self.trainer.global_step):
            super().lr_scheduler_step(scheduler, metric)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if gradient_clip_val is None:
            return
        # In the order of the model: the norm would round differently in the order of the groups.
        groups = optimizer.param_groups
        optimizer.param_groups = [{"params": list(self.model.parameters())}]
        try:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        finally:
            optimizer.param_groups = groups

    def mix(self, inputs: Tensor, targets: Tensor, batch_idx: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns mixed inputs, mixed targets for the loss, and the targets of the larger shares.

        Without mixup and CutMix it returns the inputs and, twice, the targets.
        """
        if self.mixing is None:
            return inputs, targets, targets
        place = {"epoch": self.current_epoch, "batch": batch_idx}
        return self.mixing(inputs, targets, **place, rank=self.global_rank)

    def compute_loss(
        self, outputs: Any, targets: Any, extras: Mapping[str, Any] = NO_EXTRAS
    ) -> Any:
        """Returns the loss of a batch: a scalar, or a dict of scalars with the total under ``loss``.

        Args:
            outputs: Raw outputs of the model.
            targets: Targets as the data gives them.
            extras: Further items of the batch; the loss gets those that its ``forward`` names.
        """
        if self.loss is None:
            return model_losses(outputs)
        return self.loss(outputs, targets, **{name: extras[name] for name in self.loss_extras})

    def record(
        self,
        stage: str,
        loss: Any,
        outputs: Any = None,
        targets: Any = None,
        extras: Mapping[str, Any] = NO_EXTRAS,
        size: int | None = None,
    ) -> None:
        """Adds a batch to the epoch's mean losses and metrics, without waiting for the device.

        Args:
            stage: train, val or test.
            loss: Scalar, the mean over the batch; or a dict of such scalars, each of which is logged
                by its name. None logs no loss.
            outputs: Raw outputs of the model; None updates no metric.
            targets: Targets as the data gives them.
            extras: Further items of the batch, for metrics that name them, such as ``indexes``.
            size: Number of samples; None counts those of the targets.
        """
        trainer = get_trainer(self)
        if stage == "train" and trainer is not None:
            # LBFGS evaluates a batch several times; records the first time.
            batch = trainer.fit_loop.batch_idx
            if batch == self.last_batch:
                return
            self.last_batch = batch
        buffers = {"train": self.train_metrics, "val": self.val_metrics, "test": self.test_metrics}
        buffers[stage].append(loss, outputs, targets, extras, size)

    def on_train_epoch_start(self) -> None:
        self.last_batch = -1
        self.lr: float = self.trainer.optimizers[0].param_groups[0]["lr"]

    def on_validation_start(self) -> None:
        self.refuse_non_finite()  # before a checkpoint is written after validation

    def on_train_epoch_end(self) -> None:
        self.refuse_non_finite()
        self.log("lr", self.lr)
        self.log_epoch("train", self.train_metrics)
        # Lightning would do so after the checkpoint of the epoch, which would lack it.
        if is_last_batch_done(self.trainer):
            for each in self.trainer.lr_scheduler_configs:
                due = (self.trainer.current_epoch + 1) % each.frequency == 0
                if each.reduce_on_plateau and due and each.monitor:
                    check_logged(self.trainer, {"scheduler.monitor": each.monitor})
            self.plateau_is_due = True
            self.trainer.fit_loop.epoch_loop.update_lr_schedulers(
                "epoch", update_plateau_schedulers=True
            )
            self.plateau_is_due = False

    def on_validation_epoch_end(self) -> None:
        self.log_epoch("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        self.log_epoch("test", self.test_metrics)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.refuse_non_finite()  # a checkpoint has finite weights
        checkpoint["epoch_in_progress"] = {
            "metrics": all_gather_object(self.trainer, self.train_metrics.state()),
            "last_batch": self.last_batch,
            "lr": getattr(self, "lr", None),
        }
        if isinstance(self.trainer.datamodule, DataModule):  # type: ignore[attr-defined]
            checkpoint["metadata"] = self.trainer.datamodule.metadata()  # type: ignore[attr-defined]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trainer = get_trainer(self)
        if trainer and trainer.state.fn == TrainerFn.FITTING:
            self.loaded = checkpoint.get("epoch_in_progress", {})

    def on_fit_start(self) -> None:
        if self.loaded:
            self.train_metrics.load_state(self.loaded["metrics"][self.global_rank], self.device)
            self.last_batch, self.lr = self.loaded["last_batch"], self.loaded["lr"]
            self.loaded = {}

    def log_epoch(self, stage: str, buffer: MetricBuffer) -> None:
        """Logs the mean loss and the metrics of an epoch, and resets them."""
        sums = buffer.loss_sums()
        # A process without a share of the samples knows no names.
        known = all_gather_object(self.trainer, ([*sums], buffer.has_outputs()))
        means = {}
        for name in dict.fromkeys(name for names, _ in known for name in names):
            share = sums.get(name, torch.zeros(2, device=self.device))
            total, samples = self.trainer.strategy.reduce(share, reduce_op="sum")
            means[f"{stage}/{name}"] = total / samples
        loss = means.get("val/loss")
        if loss is not None and self.trainer.state.fn == TrainerFn.FITTING and not loss.isfinite():
            self.stop_non_finite(f"the validation loss became {loss.item()} at the end")
        metrics = buffer.compute(self.class_names) if any(updated for _, updated in known) else {}
        self.log_dict({**means, **metrics})
        buffer.reset()

    def refuse_non_finite(self) -> None:
        """Raises NonFiniteLossError if the loss or the weights are NaN or infinite.

        Waits for the device, so call it at the end of an epoch and for checkpoints only.
        """
        recorded = self.train_metrics.step_losses()
        # Values beside the loss may be undefined for a batch.
        for name in ["loss"] if "loss" in recorded else recorded:
            wrong = (~(losses := recorded[name]).isfinite()).nonzero()
            if len(wrong):
                batch, title = int(wrong[0]), "the loss" if name == "loss" else name
                self.stop_non_finite(f"{title} became {losses[batch].item()} in batch {batch + 1}")
        # Each process checks its own shard of the weights: a collective here could deadlock.
        weights = [parameter.detach() for parameter in self.model.parameters()]
        shards = [each.to_local() if isinstance(each, DTensor) else each for each in weights]
        ends = [end.isfinite() for shard in shards if shard.numel() for end in shard.aminmax()]
        if ends and not torch.stack(ends).all():
            self.stop_non_finite("the weights became NaN or infinite by the end")

    def stop_non_finite(self, problem: str) -> NoReturn:
        raise NonFiniteLossError(
            f"{problem} of epoch {self.trainer.current_epoch + 1}, at learning rate {self.lr:g}; try "
            "a smaller optimizer.lr, or trainer.gradient_clip_val=1."
        )


def find_extras(loss: nn.Module | None) -> list[str]:
    """Returns the names of the extras that a loss needs: its parameters after outputs and targets."""
    if loss is None:
        return []
    parameters = list(inspect.signature(loss.forward).parameters.values())[2:]
    return [
        p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]


def model_losses(outputs: Any) -> dict[str, Tensor]:
    """Returns the losses that a model computes by itself: the scalars of its outputs.

    Raises:
        MissingLossError: there is none under ``loss``.
    """
    losses = {}
    if isinstance(outputs, Mapping):
        losses = {k: v for k, v in outputs.items() if isinstance(v, Tensor) and not v.ndim}
    if "loss" not in losses:
        raise MissingLossError(
            "loss=none needs a model that returns a dict with its loss under 'loss', a scalar; or "
            "override the steps of the module."
        )
    return losses


def check_logged(trainer: Any, monitored: Mapping[str, str]) -> None:
    """Checks that values were logged.

    Args:
        trainer: Knows the values that were.
        monitored: Name of each value, by the setting that names it.

    Raises:
        TrainingError: one was not.
    """
    logged = list(trainer.callback_metrics)
    for key, name in monitored.items():
        if name not in logged:
            raise TrainingError(
                f"{key}={name}: was not logged by the end of epoch {trainer.current_epoch + 1}. "
                f"Monitor a value that was ({join_and(logged) or 'none so far'}), or log it with "
                "self.record or self.log in the steps of the module."
            )
