"""Models, losses and metrics that do not suit the task of the data, tried on made-up samples."""

import copy
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from quartet.core.messages import format_value, join_and, join_or
from quartet.core.problems import Config, ConfigError, Problem, Problems, collect_problems
from quartet.data import nest
from quartet.data.loader import seeded
from quartet.data.nest import leaves
from quartet.data.task import StandardTask, Task
from quartet.training.metric_buffer import MetricBuffer, describe, name_losses
from quartet.training.module import MissingLossError, Module, find_extras, model_losses


def check_model(model: nn.Module, inputs: Any, num_outputs: int | None) -> Problems:
    """The model must take the inputs of two samples, and have something to train.

    The task needs `num_outputs`; None accepts any outputs.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        message = "has no parameter that requires a gradient, and so nothing to train."
        yield Problem("model", message)
        return
    with collect_problems([], "model") as problems:
        made = pass_through(model, inputs)
    if problems:
        taken = "a batch of the training part"
        if isinstance(inputs, Tensor):
            taken = f"inputs of data.input_shape={format_value(list(inputs.shape[1:]))}"
        others = ", as model=mlp and model=linear do" if num_outputs else ""
        message = f"{problems[0].message}; it must take {taken}{others}."
        yield Problem("model", message)
        return
    shape = list(made.shape) if isinstance(made, Tensor) else type(made).__name__
    if num_outputs and shape != [2, num_outputs]:
        message = f"gives {shape} for a batch of 2, and the task needs [2, {num_outputs}]; end it"
        yield Problem("model", f"{message} in num_outputs: ${{data.num_outputs}} raw outputs.")


def pass_through(model: nn.Module, inputs: Any, training: bool = False) -> Any:
    """Returns the outputs of a copy of a model, since a model may keep what it has seen."""
    model = copy.deepcopy(model)
    if not training:
        model.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return model(inputs)


Sample = tuple[Any, Any, Mapping[str, Any]]  # outputs, targets, extras


class StepTrial:
    """Runs the steps of a module, made of copies of its parts, before there is a trainer."""

    def __init__(self, module: Module, names: Sequence[str]) -> None:
        self.module, self.names = module, names
        self.logged: list[str] = []
        module.log = self.log  # type: ignore[method-assign, unused-ignore]

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Notes the name of a value that a step logs.

        Raises:
            ConfigError: it is no number.
        """
        if not isinstance(value, Metric | Real) and getattr(value, "numel", lambda: 0)() != 1:
            message = f"logs {describe(value)} as {name!r}; self.log takes a number, or a Metric."
            raise ConfigError(Problem("module", message))
        self.logged.append(name)

    def train(self, batch: Any) -> None:
        """Runs the training step, and raises what it raises.

        Raises:
            ConfigError: it returns what Lightning cannot minimize.
        """
        with seeded(0), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            output = self.module.training_step(batch, 0)
        loss = output.get("loss", {}) if isinstance(output, Mapping) else output
        if loss is None or not self.module.automatic_optimization:  # None skips a batch
            return
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            message = f"returns {describe(output)}, and must return a scalar, or a dict with one under 'loss'."
            raise ConfigError(Problem("module", f"training_step {message}"))
        if not loss.requires_grad:
            message = "training_step returns a loss without its gradient; do not detach it."
            raise ConfigError(Problem("module", message))

    def find_names(self, batch: Any) -> list[str]:
        """Runs both steps, and returns the names of what they log, such as ``train/loss``."""
        self.train(copy.deepcopy(batch))
        module = self.module
        was_training = [each for each in module.modules() if each.training]
        with seeded(0), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            module.eval().validation_step(batch, 0)
        for each in was_training:
            each.training = True
        recorded: list[str] = []
        for buffer in (module.train_metrics, module.val_metrics):
            recorded += (f"{buffer.prefix}{name}" for name in buffer.loss_sums())
            recorded += buffer.compute(self.names) if buffer.has_outputs() else ()
            buffer.reset()
        if twice := [name for name in self.logged if name in recorded]:
            message = f"logs {twice[0]} by self.log and by self.record; give one another name."
            raise ConfigError(Problem("module", message))
        self.logged += recorded
        return self.logged


class PartTrial:
    """Tries model, loss and metrics on a few samples, each a copy.

    `heads` has the key of the predictions and labels that a metric compares, by its name.

    Attributes:
        logged: Names of the values that loss and metrics log, such as accuracy.
        is_finite: Whether the last loss was.
        adds_up: Whether it is a sum over the samples, not a mean.
    """

    is_finite, adds_up = True, False

    def __init__(
        self, task: Task, heads: Mapping[str, str] | None = None, names: Sequence[str] = ()
    ) -> None:
        self.task, self.heads, self.names = task, heads or {}, names
        self.logged: list[str] = []

    def check_batch(self, batch: Any, parts: Mapping[str, Any], part: str = "train") -> Problems:
        """Tries the parts, as far as they were made, on a batch of a task of the project's own."""
        with collect_problems([], "data.task") as problems:
            inputs, targets, extras = self.task.split(batch)
        if problems or "model" not in parts:
            yield from problems
            return
        if found := list(check_model(parts["model"], inputs, None)):
            if part != "train":
                reason = found[0].message.partition(";")[0]
                message = f"the {part} inputs are {nest.describe(inputs)}, of two samples: {reason}"
                found = [Problem("data", message)]
            yield from found
            return
        sample = pass_through(parts["model"], inputs), targets, extras
        if parts.get("loss"):
            found += self.check_loss(parts["loss"], sample)
        else:
            with suppress(MissingLossError):  # the steps of the module may need none
                self.logged += model_losses(sample[0])
        for name, metric in parts.get("metrics", {}).items():
            found += self.check_metric(name, metric, sample)
        if found:
            gives = f"Of two {part} samples the model gives {nest.describe(sample[0])}"
            gives += f"; targets are {nest.describe(targets)}."
            found[0] = replace(found[0], message=f"{found[0].message.rstrip('.')}. {gives}")
        yield from found

    def check_loss(self, loss: nn.Module, sample: Sample, names: Sequence[str] = ()) -> Problems:
        """The loss of a batch must be a scalar that depends on the outputs, or a dict with one.

        Made-up samples come with the names of the arguments of the loss; real ones may happen to have a
        gradient of zero.
        """
        outputs, targets, extras = sample
        made = [tensor for tensor in leaves(outputs) if tensor.is_floating_point()]
        for tensor in made:
            tensor.requires_grad_()
        loss = copy.deepcopy(loss)
        missing = [name for name in find_extras(loss, required=True) or () if name not in extras]
        if missing:
            given = join_and(["inputs", "targets", *extras])
            yield Problem("loss", f"needs {join_and(missing)} of a batch, and a batch has {given}.")
            return
        with collect_problems([], "loss", names) as problems, warnings.catch_warnings():
            # torch warns of targets that it broadcasts.
            warnings.filterwarnings("error", "Using a target size")
            if hasattr(loss, "fit"):
                loss.fit(targets)  # type: ignore[operator]
            accepted = find_extras(loss)
            named = {k: v for k, v in extras.items() if accepted is None or k in accepted}
            value = loss(outputs, targets, **named)
            total = value.get("loss") if isinstance(value, Mapping) else value
            self.logged += value if isinstance(value, Mapping) else ["loss"]
            if not isinstance(total, Tensor) or total.ndim:
                kind = list(total.shape) if isinstance(total, Tensor) else type(value).__name__
                message = f"gives {kind}, and must give a scalar, or a dict with one under 'loss'."
                problems.append(Problem("loss", message))
            elif not any(depends_on(total, tensor, bool(names)) for tensor in made):
                shape = f" {list(outputs.shape)}" if isinstance(outputs, Tensor) else ""
                message = f"does not depend on outputs{shape}: nothing would be learnt."
                problems.append(Problem("loss", message))
            else:
                name_losses(value)
                self.is_finite = bool(total.isfinite())
                with suppress(Exception):  # of samples that cannot be put together
                    twice = [nest.concatenate([each, each]) for each in (outputs, targets)]
                    more = {k: nest.concatenate([v, v]) for k, v in named.items()}
                    doubled = loss(*twice, **more)
                    doubled = doubled["loss"] if isinstance(doubled, Mapping) else doubled
                    self.adds_up = bool(total.abs() > 1e-6 and torch.isclose(doubled, 2 * total))
        yield from problems

    def check_metric(self, name: str, metric: Metric, sample: Sample) -> Problems:
        """A metric must take predictions and labels of the task."""
        key, task = f"metrics.{name}", self.task
        predictions: Any = None
        with collect_problems([], key) as problems, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            predictions = task(sample[0])
            own = {name: self.heads[name]} if name in self.heads else {}
            buffer = MetricBuffer(task, MetricCollection({name: metric}), heads=own)
            for copied in buffer.metrics.values():
                if hasattr(copied, "validate_args"):
                    copied.validate_args = True
            buffer.append(torch.zeros(()), *sample)
            values = buffer.compute(self.names)
            if taken := [value for value in values if value in self.logged]:
                message = f"logs {taken[0]}, as the loss or another metric does; rename it."
                yield Problem(key, message)
            self.logged += values
        if problems and problems[0].key.endswith(".of"):
            yield problems[0]
        elif problems:
            suit = f"it must suit this {task.name} task"
            if isinstance(task, StandardTask):
                suit += f" with num_outputs={task.num_outputs}"
            if isinstance(predictions, Mapping) and name not in self.heads:
                entries = join_or([str(entry) for entry in predictions])
                suit = f"predictions are a dict, name what it compares by {key}.of: {entries}"
            yield Problem(key, f"{problems[0].message.rstrip('.')}; {suit}.")


def depends_on(value: Tensor, tensor: Tensor, moves: bool = True) -> bool:
    """Whether a value has a gradient for a tensor; with `moves` one that is not zero everywhere."""
    if not value.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(value, tensor, allow_unused=True, retain_graph=True)
    return gradient is not None and (not moves or bool(gradient.any()))


def check_mixing(data: Config, loss: nn.Module | None, task: Task) -> Problems:
    """Samples must be such as can be mixed, and the loss of a mixture the mixture of the losses."""
    given = {key: data[key] for key in ("mixup", "cutmix") if data[key]}
    if not given:
        return
    key, value = next(iter(given.items()))
    off = " ".join(f"data.{name}=0" for name in given)
    if not isinstance(task, StandardTask) or task.mixing_losses is None:
        message = f"mixes classes, and the task is {task.name}; set {off}."
        yield Problem(f"data.{key}", message, value)
        return
    if "cutmix" in given and len(data["input_shape"]) != 3:
        shape = format_value(list(data["input_shape"]))
        message = f"cuts patches out of images, and the inputs have shape {shape}; set"
        yield Problem(
            "data.cutmix", f"{message} data.cutmix=0, data.mixup mixes any inputs.", data["cutmix"]
        )
    if loss is None or not takes_mixtures(copy.deepcopy(loss), task):
        title = "loss=none" if loss is None else type(loss).__name__
        message = f"{title} has no value for targets between classes; use loss={task.mixing_losses}"
        yield Problem(f"data.{key}", f"{message}, or set {off}.", value)


def takes_mixtures(module: nn.Module, task: StandardTask) -> bool:
    outputs, targets, _ = task.example()
    if hasattr(module, "fit"):
        module.fit(targets)  # type: ignore[operator]
    whole = task.mixable_targets(targets)
    other = whole.roll(1, 0)
    try:
        values = [module(outputs, one) for one in (whole, other, 0.3 * whole + 0.7 * other)]
        close = torch.isclose(values[2], 0.3 * values[0] + 0.7 * values[1], rtol=1e-4)
        return bool(close and torch.isclose(module(outputs, targets), values[0], rtol=1e-4))
    except Exception:  # each loss raises an error of its own for targets that it does not accept
        return False
