"""The base LightningModule: buffered metrics, schedules, non-finite losses, exact resume."""

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from quartet.compat.lightning_loop import count_epoch_steps, count_steps
from quartet.core.messages import closest_name, join_and
from quartet.core.problems import TrainingError
from quartet.data import nest
from quartet.data.datamodule import DataModule
from quartet.data.task import Task
from quartet.training.metric_buffer import MetricBuffer, name_losses
from quartet.training.schedule import Schedule

log = logging.getLogger(__name__)

NO_EXTRAS: Mapping[str, Any] = MappingProxyType({})
SHARE = "share of "  # name of what a loss counts for, beside that of the loss


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
    - :meth:`make_optimizer` and :meth:`make_scheduler`: the chosen optimizers and schedulers.

    With ``automatic_optimization = False`` it takes the optimizer steps itself, with as many
    optimizers as it needs. Steps of the first one are the steps of the training, which
    ``trainer.max_steps``, schedules and callbacks count. Schedulers are stepped as in automatic
    optimization, unless ``automatic_schedulers`` is False.

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
        optimizers: By group, what makes an optimizer of the model's parameters.
        schedulers: By group, what makes the schedule of an optimizer, with `total_steps`,
            `steps_per_epoch` and `validate_every` (epochs).
        mixing: Mixes the samples of training batches and their targets; None mixes nothing.

    Attributes:
        logs: Names of values that hooks of the module log, for the check of what is monitored.
        automatic_schedulers: Whether schedulers are stepped in manual optimization too.
        batches_per_step: In manual optimization, training batches from one step of the first
            optimizer to the next.
    """

    logs: Sequence[str] = ()
    automatic_schedulers = True
    batches_per_step: float = 1
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
        optimizers: Mapping[str, Callable[..., Optimizer]],
        schedulers: Mapping[str, Callable[..., Schedule]],
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
        self.optimizer_factories = optimizers
        self.scheduler_factories = schedulers
        self.made_optimizers: dict[Optimizer, str] = {}  # with their groups
        self.schedules: list[Schedule] = []
        self._length: Mapping[str, Any] | None = None  # where there is no trainer to ask
        self._last_step = 0  # after which schedulers are stepped, in manual optimization
        self.mixing = mixing
        self._last_batch = -1
        self._loaded: dict[str, Any] = {}
        self.loss_extras = find_extras(loss)
        self.class_names: list[str] = []

    def forward(self, inputs: Any) -> Any:
        """Returns the raw outputs of the model."""
        return self.model(inputs)

    def setup(self, stage: str) -> None:
        self.made_optimizers, self.schedules = {}, []
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, DataModule):
            return
        self.class_names = self.task.names(data.metadata())
        if stage != "fit":
            return
        if hasattr(self.loss, "fit"):
            self.loss.fit(data.targets())
        if data.parts.target_scale is not None:
            self.task.set_scale(*data.parts.target_scale)

    def make_optimizer(
        self,
        parameters: nn.Module | Iterable[nn.Parameter] | None = None,
        name: str = "optimizer",
    ) -> Optimizer:
        """Makes an optimizer of trainable parameters.

        Args:
            parameters: A module, or some of the parameters; None for those of the model.
            name: The group with its settings, such as ``critic_optimizer``. Patterns in them match
                the names of the whole model's parameters.

        Raises:
            ValueError: there is no such group, or its settings do not fit the parameters.
        """
        factory = find_factory(name, self.optimizer_factories)
        if parameters is None:
            parameters = self.model
        if isinstance(parameters, nn.Module):
            parameters = parameters.parameters()
        chosen = set(parameters)
        if not chosen:
            raise ValueError(f"make_optimizer: there are no parameters for {name}; leave it out.")
        named = {
            key.removeprefix("model."): each
            for key, each in self.named_parameters()
            if each in chosen
        }
        if len(named) < len(chosen):
            raise ValueError(
                f"{name} is made of parameters that the module does not have; make them, or what "
                "they belong to, an attribute of it."
            )
        optimizer: Optimizer = factory(self.model, named)
        self.made_optimizers[optimizer] = name
        return optimizer

    def make_scheduler(self, optimizer: Optimizer, name: str = "scheduler") -> list[dict[str, Any]]:
        """Makes a scheduler of an optimizer and its warm-up, as dictionaries for Lightning.

        Each dictionary has ``scheduler``, ``interval`` (``step`` or ``epoch``), ``frequency`` and,
        for the main scheduler, ``monitor``. The list is empty for a constant learning rate.

        Args:
            optimizer: The optimizer.
            name: The group with its settings, such as ``critic_scheduler``.

        Raises:
            ValueError: there is no such group, or its settings do not fit the training.
        """
        factory = find_factory(name, self.scheduler_factories)
        schedule: Schedule = factory(optimizer, **(self._length or self.measure_length()))
        self.schedules.append(schedule)
        if self.automatic_optimization:
            return schedule.configs
        known = ("scheduler", "name", "interval", "frequency")  # the others would cause a warning
        return [{key: config[key] for key in known} for config in schedule.configs]

    def measure_length(self) -> dict[str, Any]:
        """Returns the length of the training, in steps of the first optimizer."""
        self.trainer.fit_loop.setup_data()  # counts the batches, which would be infinite otherwise
        return {
            "total_steps": count_steps(self.trainer),
            "steps_per_epoch": count_epoch_steps(self.trainer),
            "validate_every": self.trainer.check_val_every_n_epoch or 1,
        }

    def try_optimizers(
        self, steps_per_epoch: float, total_steps: float, trainer: Mapping[str, Any]
    ) -> None:
        """Makes the optimizers and schedulers without a trainer, from its settings."""
        every = trainer["check_val_every_n_epoch"]
        steps = {"total_steps": total_steps, "steps_per_epoch": steps_per_epoch}
        self._length = {**steps, "validate_every": every}
        self.configure_optimizers()

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        step = self.trainer.global_step if self.automatic_optimization else self._last_step
        if not any(each.main is scheduler and not each.due(step) for each in self.schedules):
            super().lr_scheduler_step(scheduler, metric)

    def step_schedulers(self, interval: str, plateau: bool, steps: Iterable[int]) -> None:
        """Steps the schedulers in manual optimization, when Lightning would in automatic one.

        Args:
            interval: ``step`` or ``epoch``: what has ended.
            plateau: Whether to step those that compare a monitored value, or the others.
            steps: Numbers of the optimizer steps that have ended, from 1.
        """
        for step in steps if self.automatic_schedulers else ():
            self._last_step = step
            for _, config in self.each_config(interval):
                scheduler, monitor = config["scheduler"], str(config.get("monitor"))
                if isinstance(scheduler, ReduceLROnPlateau) == plateau:
                    self.lr_scheduler_step(scheduler, self.trainer.callback_metrics.get(monitor))

    def each_config(self, interval: str) -> Iterator[tuple[Schedule, dict[str, Any]]]:
        """Yields the schedules and their configs that are due at the end of this step or epoch."""
        for schedule in self.schedules:
            for config in schedule.configs:
                epoch = self.trainer.current_epoch + 1
                due = interval == "step" or epoch % config["frequency"] == 0
                if config["interval"] == interval and due:
                    yield schedule, config

    def lr_schedulers(self) -> Any:
        if not self.automatic_optimization and self.automatic_schedulers:
            raise RuntimeError(
                "the schedulers are stepped by themselves, as in automatic optimization; leave "
                "self.lr_schedulers() out, or set automatic_schedulers = False to step them here."
            )
        return super().lr_schedulers()

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
        own = {parameter for group in groups for parameter in group["params"]}
        optimizer.param_groups = [{"params": [each for each in self.parameters() if each in own]}]
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
            extras: Further items of the batch; the loss gets those that its ``forward`` names, and
                all of them if it has ``**`` arguments.
        """
        if self.loss is None:
            return model_losses(outputs)
        found = self.loss(outputs, targets, **self._extras_of_loss(extras))
        if not torch.is_grad_enabled():  # `record` weighs this loss, and no other
            vars(self)["_computed"] = found, outputs, targets, extras
        return found

    def _extras_of_loss(self, extras: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.loss_extras is None:
            return extras
        return {name: extras[name] for name in self.loss_extras if name in extras}

    def _divisor(self, outputs: Any, targets: Any, extras: Mapping[str, Any]) -> Any:
        """Returns what the loss of a batch divides by, where that may not be the number of samples.

        The mean over an epoch depends on it. A loss of a project's own has a method `divisor`.
        """
        if callable(own := getattr(self.loss, "divisor", None)):
            return own(outputs, targets, **self._extras_of_loss(extras))
        if (
            not isinstance(self.loss, nn.CrossEntropyLoss | nn.NLLLoss)
            or self.loss.reduction != "mean"
            or not isinstance(targets, Tensor)
            or targets.is_floating_point()
        ):
            return None
        kept, weight = targets != self.loss.ignore_index, self.loss.weight
        return kept.sum() if weight is None else (weight[targets.where(kept, 0)] * kept).sum()

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
        if stage == "train" and trainer is not None and self.automatic_optimization:
            # LBFGS evaluates a batch several times; records the first time.
            batch = trainer.fit_loop.batch_idx
            if batch == self._last_batch:
                return
            self._last_batch = batch
        buffers = {"train": self.train_metrics, "val": self.val_metrics, "test": self.test_metrics}
        if stage not in buffers:
            raise TrainingError(
                f"self.record: the stage must be train, val or test, got {stage!r}."
            )
        if targets is None and size is None:
            message = (
                "self.record needs the targets of the batch, or its number of samples, size=N."
            )
            raise TrainingError(message)
        computed = vars(self).pop("_computed", (None,))
        if stage != "train" and loss is not None and computed[0] is loss:
            divisor = self._divisor(*computed[1:])
            if divisor is not None:
                named = name_losses(loss)
                share = torch.as_tensor(divisor, device=self.device)
                share = share / (nest.size(targets) if size is None else size)
                loss = {SHARE + name: share for name in named}
                # Without any divisor the mean is NaN.
                loss |= {name: (value * share).where(share > 0, 0) for name, value in named.items()}
        buffers[stage].append(loss, outputs, targets, extras, size)

    def on_train_epoch_start(self) -> None:
        self._last_batch = -1
        self._rates = self.learning_rates()

    def on_validation_start(self) -> None:
        self.refuse_non_finite()  # before a checkpoint is written after validation

    def on_train_epoch_end(self) -> None:
        self.refuse_non_finite()
        self.compare_steps()
        self.log_dict(self._rates)
        self.log_epoch("train", self.train_metrics)
        if is_last_batch_done(self.trainer):
            for schedule, config in self.each_config("epoch"):
                if isinstance(config["scheduler"], ReduceLROnPlateau):
                    check_logged(self.trainer, {f"{schedule.group}.monitor": config["monitor"]})

    def compare_steps(self) -> None:
        """Warns if the first epoch had another number of steps than schedules were made for."""
        if self.trainer.current_epoch or not is_last_batch_done(self.trainer):
            return
        steps, expected = self.trainer.global_step, count_epoch_steps(self.trainer)
        if steps != expected and not self.automatic_optimization:
            log.warning(
                f"The first optimizer took {steps} steps in the first epoch, and schedules and "
                f"callbacks expect {expected}. Return the optimizer that steps in every batch first, "
                "or set batches_per_step of the module."
            )

    def on_validation_epoch_end(self) -> None:
        self.log_epoch("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        self.log_epoch("test", self.test_metrics)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.refuse_non_finite()  # a checkpoint has finite weights
        checkpoint["epoch_in_progress"] = {
            "metrics": all_gather_object(self.trainer, self.train_metrics.state()),
            "last_batch": self._last_batch,
            "rates": getattr(self, "_rates", {}),
        }
        if isinstance(self.trainer.datamodule, DataModule):  # type: ignore[attr-defined]
            checkpoint["metadata"] = self.trainer.datamodule.metadata()  # type: ignore[attr-defined]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trainer = get_trainer(self)
        if trainer and trainer.state.fn == TrainerFn.FITTING:
            self._loaded = checkpoint.get("epoch_in_progress", {})

    def on_fit_start(self) -> None:
        if self._loaded:
            self.train_metrics.load_state(self._loaded["metrics"][self.global_rank], self.device)
            self._last_batch, self._rates = self._loaded["last_batch"], self._loaded["rates"]
            self._loaded = {}

    def learning_rates(self) -> dict[str, float]:
        """Returns the rate of each optimizer's first group: ``lr``, ``lr/critic_optimizer``, ..."""
        rates: dict[str, float] = {}
        for number, optimizer in enumerate(self.trainer.optimizers, start=1):
            name = self.made_optimizers.get(optimizer, "optimizer")
            key = "lr" if name == "optimizer" else f"lr/{name}"
            key = f"lr/{name}_{number}" if key in rates else key
            rates[key] = optimizer.param_groups[0]["lr"]
        return rates

    def log_epoch(self, stage: str, buffer: MetricBuffer) -> None:
        """Logs the mean loss and the metrics of an epoch, and resets them."""
        sums = buffer.loss_sums()
        # A process without a share of the samples knows no names.
        known = all_gather_object(self.trainer, ([*sums], buffer.has_outputs()))
        means = {}
        for name in dict.fromkeys(name for names, _ in known for name in names):
            share = sums.get(name, torch.zeros(2)).to(self.device)
            total, samples = self.trainer.strategy.reduce(share, reduce_op="sum")
            means[f"{stage}/{name}"] = total / samples
        for name in [name for name in means if name.startswith(f"{stage}/{SHARE}")]:
            if not (share := means.pop(name)) and stage == "val":
                message = "no target of the val part counts for the loss; give it some that do, or"
                raise TrainingError(f"{message} leave the part out, data.val_fraction=0.")
            means[name.replace(SHARE, "", 1)] /= share
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
        clip = "trainer.gradient_clip_val=1"
        if not self.automatic_optimization:
            clip = "self.clip_gradients(optimizer, gradient_clip_val=1) before its step"
        raise NonFiniteLossError(
            f"{problem} of epoch {self.trainer.current_epoch + 1}, at learning rate "
            f"{', '.join(f'{rate:g}' for rate in self._rates.values())}; try a smaller optimizer.lr, "
            f"or {clip}."
        )


def find_factory(name: str, factories: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """Returns what makes the optimizer or scheduler of a group.

    Raises:
        ValueError: there is no such group.
    """
    if name in factories:
        return factories[name]
    base = next(iter(factories))
    raise ValueError(
        f"{name} is no group of this configuration, which has {join_and(list(factories))}; choose "
        f"its option with `- /{base}@{name}: OPTION` in the defaults list of an experiment, or "
        f"+{base}@{name}=OPTION on the command line."
    )


def find_extras(loss: nn.Module | None, required: bool = False) -> list[str] | None:
    """Returns the names of the extras that a loss takes: its parameters after outputs and targets.

    Args:
        loss: The loss; None takes none.
        required: Whether to leave out those with a default.

    Returns:
        The names; None if it takes extras of any name.
    """
    if loss is None:
        return []
    parameters = list(inspect.signature(loss.forward).parameters.values())[2:]
    kinds = {parameter.kind for parameter in parameters}
    if not required and inspect.Parameter.VAR_KEYWORD in kinds:
        return None
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [
        p.name
        for p in parameters
        if p.kind in named and not (required and p.default is not p.empty)
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
            near = closest_name(name, logged) or "NAME"
            raise TrainingError(
                f"{key}={name}: was not logged by the end of epoch {trainer.current_epoch + 1}; "
                f"logged is {join_and(logged) or 'nothing so far'}. Set {key}={near}, or log "
                f"{name} with self.record or self.log in the steps of the module."
            )
