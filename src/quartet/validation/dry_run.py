"""Models, losses and metrics that do not suit the task of the data, tried on made-up samples."""

import copy
import inspect
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from quartet.core.messages import format_value
from quartet.core.problems import Config, collect_problems, describe_exception
from quartet.data.task import Task
from quartet.training.metric_buffer import MetricBuffer


def outputs(model: nn.Module, input_shape: Sequence[int], num_outputs: int) -> list[str]:
    """Whether the model maps inputs to ``(batch, num_outputs)``, and can be trained."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return ["model: has no parameter that requires a gradient, and so nothing to train."]
    try:
        made = pass_through(model, (2, *input_shape))
    except Exception as error:
        return [
            f"{describe_exception('model', error, ())}; it must take inputs of data.input_shape="
            f"{format_value(list(input_shape))}, as model=mlp and model=linear do."
        ]
    shape = list(made.shape) if isinstance(made, Tensor) else type(made).__name__
    if shape != [2, num_outputs]:
        return [
            f"model: gives {shape} for a batch of 2, and the task needs [2, {num_outputs}]; "
            "end it in num_outputs: ${data.num_outputs} raw outputs."
        ]
    return []


def pass_through(model: nn.Module, shape: tuple[int, ...], training: bool = False) -> Any:
    """What the model gives for inputs of a shape: of shapes alone if it can, else of zeros."""
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    before = model.training
    model.train(training)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            try:
                metas = {name: torch.empty_like(t, device="meta") for name, t in tensors.items()}
                inputs = torch.empty(shape, device="meta")
                return torch.func.functional_call(model, metas, (inputs,))
            except Exception:
                # A model may look at values, or hold tensors that are no buffers.
                copies = {name: tensor.clone() for name, tensor in tensors.items()}
                return torch.func.functional_call(model, copies, (torch.zeros(shape),))
    finally:
        model.train(before)


def single(model: nn.Module, input_shape: Sequence[int], batch_size: int | str) -> list[str]:
    """Whether the model can be trained on a batch of one sample: batch normalisation cannot."""
    try:
        pass_through(model, (1, *input_shape), training=True)
    except Exception as error:
        reason = str(error).partition(",")[0]
        return [
            f"data.batch_size={batch_size}: leaves a batch of one sample, and the model refuses it "
            f"({reason}); take another size, or data.drop_last=true to leave a smaller last batch out."
        ]
    return []


def convolutions(model: nn.Module) -> list[str]:
    """Whether the model has weights with channels to put last."""
    if any(parameter.ndim == 4 for parameter in model.parameters()):
        return []
    return ["trainer.channels_last=true: the model has no convolutions of images; leave it false."]


def loss(module: nn.Module, task: Task, names: Sequence[str]) -> list[str]:
    """Whether the loss takes outputs and targets of the task: tried on made-up samples.

    Args:
        module: Is copied.
        task: That of the data.
        names: Of the arguments of the loss.
    """
    made, targets, *indexes = task.example()
    made.requires_grad_()
    module = copy.deepcopy(module)
    takes_indexes = "indexes" in inspect.signature(module.forward).parameters
    faults: list[str] = []
    with collect_problems(faults, "loss", names), warnings.catch_warnings():
        # torch warns of targets that it broadcasts.
        warnings.filterwarnings("error", "Using a target size")
        if hasattr(module, "fit"):
            module.fit(targets)  # type: ignore[operator]
        value = module(made, targets, *(indexes if takes_indexes else ()))
        if value.ndim:
            return [f"loss: gives {list(value.shape)}, and must give a scalar, the mean."]
        slope = value.requires_grad and torch.autograd.grad(value, made, allow_unused=True)[0]
        if not isinstance(slope, Tensor) or not slope.any():
            return [
                f"loss: does not depend on outputs {list(made.shape)}: nothing would be learnt."
            ]
    return faults


def mixing(data: Config, module: nn.Module, task: Task) -> list[str]:
    """Whether samples can be mixed, and the loss of a mixture is the mixture of the losses.

    Args:
        data: The data group, with its facts.
        module: The loss; is copied.
        task: That of the data.
    """
    given = {key: data[key] for key in ("mixup", "cutmix") if data[key]}
    if not given:
        return []
    named = " ".join(f"data.{key}={value}" for key, value in given.items())
    off = " ".join(f"data.{key}=0" for key in given)
    if task.mixing_losses is None:
        return [f"{named}: mixes classes, and the task is {task.name}; set {off}."]
    faults = []
    if "cutmix" in given and len(data["input_shape"]) != 3:
        faults.append(
            f"data.cutmix={data['cutmix']}: cuts patches out of images, and the inputs have shape "
            f"{format_value(list(data['input_shape']))}; set data.cutmix=0, data.mixup mixes any inputs."
        )
    if not takes_mixtures(copy.deepcopy(module), task):
        faults.append(
            f"{named}: {type(module).__name__} has no value for targets between classes; use "
            f"loss={task.mixing_losses}, or set {off}."
        )
    return faults


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
    except Exception:  # each loss has its own words for targets that it does not take
        return False


def metric(key: str, metric: Metric, task: Task) -> list[str]:
    """Whether a metric takes predictions and labels of the task: tried on made-up samples.

    Args:
        key: Where it stands in the configuration.
        metric: Is copied.
        task: That of the data.
    """
    metric = copy.deepcopy(metric)
    if hasattr(metric, "validate_args"):
        metric.validate_args = True
    buffer = MetricBuffer(task, MetricCollection({"value": metric}))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            buffer.append(torch.zeros(()), *task.example())
            value = buffer.compute()["value"]
    except Exception as error:
        reason = describe_exception(key, error, ()).rstrip(".")
        return [
            f"{reason}; it must suit this {task.name} task with num_outputs={task.num_outputs}."
        ]
    if value.ndim:
        return [f"{key}: gives {list(value.shape)}, and must give a scalar; set an average."]
    return []
