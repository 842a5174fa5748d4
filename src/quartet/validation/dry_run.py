"""Models, losses and metrics that do not suit the task of the data, tried on made-up samples."""

import copy
import inspect
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from quartet.core.messages import format_value
from quartet.core.problems import Config, Problem, collect_problems
from quartet.data.task import Task
from quartet.training.metric_buffer import MetricBuffer


def check_model(
    model: nn.Module, input_shape: Sequence[int], num_outputs: int
) -> Iterator[Problem]:
    """The model must map inputs to ``(batch, num_outputs)``, and have something to train."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        message = "has no parameter that requires a gradient, and so nothing to train."
        yield Problem("model", message)
        return
    problems: list[Problem] = []
    with collect_problems(problems, "model"):
        made = pass_through(model, (2, *input_shape))
    if problems:
        yield Problem(
            "model",
            f"{problems[0].message}; it must take inputs of data.input_shape="
            f"{format_value(list(input_shape))}, as model=mlp and model=linear do.",
        )
        return
    shape = list(made.shape) if isinstance(made, Tensor) else type(made).__name__
    if shape != [2, num_outputs]:
        yield Problem(
            "model",
            f"gives {shape} for a batch of 2, and the task needs [2, {num_outputs}]; end it in "
            "num_outputs: ${data.num_outputs} raw outputs.",
        )


def pass_through(model: nn.Module, shape: tuple[int, ...], training: bool = False) -> Any:
    """The outputs for inputs of a shape: on the meta device if the model can, else of zeros."""
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    modes = {module: module.training for module in model.modules()}
    if not training:
        model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            try:
                metas = {name: torch.empty_like(t, device="meta") for name, t in tensors.items()}
                inputs = torch.empty(shape, device="meta")
                return torch.func.functional_call(model, metas, (inputs,))
            except Exception:
                # A model may branch on values, or have tensors that are no buffers.
                copies = {name: tensor.clone() for name, tensor in tensors.items()}
                return torch.func.functional_call(model, copies, (torch.zeros(shape),))
    finally:
        for module, mode in modes.items():
            module.training = mode


def check_single_sample(
    model: nn.Module, input_shape: Sequence[int], batch_size: int | str
) -> Iterator[Problem]:
    """A model that is trained on a batch of one sample must accept it; batch normalisation does not."""
    problems: list[Problem] = []
    with collect_problems(problems, "model"):
        pass_through(model, (1, *input_shape), training=True)
    if problems:
        reason = problems[0].message.partition(",")[0]
        yield Problem(
            "data.batch_size",
            f"leaves a batch of one sample, and the model refuses it ({reason}); choose another "
            "size, or data.drop_last=true to leave a smaller last batch out.",
            batch_size,
        )


def check_channels_last(model: nn.Module) -> Iterator[Problem]:
    """The model must have weights with channels to put last."""
    if not any(parameter.ndim == 4 for parameter in model.parameters()):
        message = "the model has no convolutions of images; leave it false."
        yield Problem("trainer.channels_last", message, True)


def check_loss(loss: nn.Module, task: Task, names: Sequence[str]) -> Iterator[Problem]:
    """The loss must be a scalar that depends on the outputs: tried on made-up samples.

    Args:
        loss: The loss; is copied.
        task: The task of the data.
        names: Names of the arguments of the loss.
    """
    made, targets, *indexes = task.example()
    made.requires_grad_()
    loss = copy.deepcopy(loss)
    takes_indexes = "indexes" in inspect.signature(loss.forward).parameters
    problems: list[Problem] = []
    with collect_problems(problems, "loss", names), warnings.catch_warnings():
        # torch warns of targets that it broadcasts.
        warnings.filterwarnings("error", "Using a target size")
        if hasattr(loss, "fit"):
            loss.fit(targets)  # type: ignore[operator]
        value = loss(made, targets, *(indexes if takes_indexes else ()))
        if not isinstance(value, Tensor) or value.ndim:
            kind = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            problems.append(Problem("loss", f"gives {kind}, and must give a scalar, the mean."))
        elif not depends_on(value, made):
            message = f"does not depend on outputs {list(made.shape)}: nothing would be learnt."
            problems.append(Problem("loss", message))
    yield from problems


def depends_on(value: Tensor, tensor: Tensor) -> bool:
    """Whether a value has a gradient for a tensor that is not zero everywhere."""
    if not value.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(value, tensor, allow_unused=True)
    return gradient is not None and bool(gradient.any())


def check_mixing(data: Config, loss: nn.Module, task: Task) -> Iterator[Problem]:
    """Samples must be such as can be mixed, and the loss of a mixture the mixture of the losses.

    Args:
        data: The data group, with the shapes of the data.
        loss: The loss; is copied.
        task: The task of the data.
    """
    given = {key: data[key] for key in ("mixup", "cutmix") if data[key]}
    if not given:
        return
    key, value = next(iter(given.items()))
    off = " ".join(f"data.{name}=0" for name in given)
    if task.mixing_losses is None:
        message = f"mixes classes, and the task is {task.name}; set {off}."
        yield Problem(f"data.{key}", message, value)
        return
    if "cutmix" in given and len(data["input_shape"]) != 3:
        yield Problem(
            "data.cutmix",
            "cuts patches out of images, and the inputs have shape "
            f"{format_value(list(data['input_shape']))}; set data.cutmix=0, data.mixup mixes any "
            "inputs.",
            data["cutmix"],
        )
    if not takes_mixtures(copy.deepcopy(loss), task):
        yield Problem(
            f"data.{key}",
            f"{type(loss).__name__} has no value for targets between classes; use loss={task.mixing_losses}, or "
            f"set {off}.",
            value,
        )


def takes_mixtures(module: nn.Module, task: Task) -> bool:
    outputs, targets = task.example()
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


def check_metric(key: str, metric: Metric, task: Task) -> Iterator[Problem]:
    """A metric must take predictions and labels of the task: tried on made-up samples.

    Args:
        key: Where it stands in the configuration.
        metric: The metric; is copied.
        task: The task of the data.
    """
    metric = copy.deepcopy(metric)
    if hasattr(metric, "validate_args"):
        metric.validate_args = True
    buffer = MetricBuffer(task, MetricCollection({"value": metric}))
    problems: list[Problem] = []
    with collect_problems(problems, key), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        buffer.append(torch.zeros(()), *task.example())
        value = buffer.compute()["value"]
    if problems:
        suit = f"it must suit this {task.name} task with num_outputs={task.num_outputs}."
        yield Problem(key, f"{problems[0].message.rstrip('.')}; {suit}")
    elif not isinstance(value, Tensor) or value.ndim:
        kind = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        yield Problem(key, f"gives {kind}, and must give a scalar; set an average.")
