"""What refuses a configuration before the first batch, with the reason and the way out.

Every function returns faults, one sentence each: the key, the value, why, and what to do instead.
"""

import copy
import inspect
import re
import traceback
import warnings
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torchmetrics import Metric, MetricCollection

from quartet.averaging import SWA, Average
from quartet.meter import Meter
from quartet.ranges import whole
from quartet.schema import both, either, nearest, show
from quartet.unfreezing import Unfreeze

Config = Mapping[str, Any]


class Refusal(Exception):
    """A configuration that cannot train.

    Attributes:
        faults: What is wrong with it, each with the way out.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = list(faults)


@contextmanager
def collecting(faults: list[str], key: str, names: Iterable[str] = ()) -> Iterator[None]:
    """Adds what a part says of its arguments to `faults`, with the key before it.

    Args:
        faults: Grows.
        key: Where the part stands in the configuration.
        names: Of its arguments.
    """
    try:
        yield
    except Refusal as refusal:
        faults += refusal.faults
    except Exception as error:
        faults.append(sentence(key, error, list(names)))


def sentence(key: str, error: Exception, names: Sequence[str]) -> str:
    """What an error says, as a fault of `key`."""
    text = " ".join(str(error).split())
    if isinstance(error, Warning):
        return f"{key}: {text.partition('. ')[0]}, so torch would broadcast; give both one shape."
    if missing := re.search(r"Requirement '([\w-]+)[^']*' not met", text):
        return f"{key}: needs {missing[1]}, which is not installed; pip install {missing[1]}."
    if unknown := re.search(r"[Uu]nexpected keyword arguments?:? ['`](\w+)", text):
        others = [name for name in names if name != unknown[1]]
        way_out = nearest(unknown[1], others) if others else "remove it, or correct its name."
        return f"{key}.{unknown[1]}: nothing takes this argument; {way_out}"
    if re.match(rf"{re.escape(key)}[.= ]", text):
        return text
    if (word := re.match(r"\w+", text)) and word[0] in names:  # "gamma must be at least 0, ..."
        return f"{key}.{text}"
    if isinstance(error, ValueError | OSError | MisconfigurationException):
        return f"{key}: {text}"
    # An error of the program: where, for whoever wrote it.
    frames = traceback.extract_tb(error.__traceback__)
    paths = [(Path(frame.filename), frame.lineno) for frame in frames]
    ours = [Path(__file__).with_name(f"{name}.py") for name in ("build", "check", "meter")]
    own = [(p, line) for p, line in paths if "site-packages" not in p.parts and p not in ours]
    place = f" ({own[-1][0].name}, line {own[-1][1]})" if own else ""
    kind = "" if isinstance(error, RuntimeError) else f"{type(error).__name__}: "
    return f"{key}: {kind}{text}{place}"


def keys(faults: Iterable[str]) -> set[str]:
    """The keys that faults are about, those above them included."""
    named = (re.match(r"[\w.]+", fault) for fault in faults)
    paths = [match[0].rstrip(".").split(".") for match in named if match]
    return {".".join(path[:length]) for path in paths for length in range(1, len(path) + 1)}


def top_level(config: Config, read: Iterable[str]) -> list[str]:
    """Keys that nothing reads: neither the program, nor another value through ``${key}``."""
    known = sorted(read)
    return [
        f"{key}: nothing reads this key; {nearest(key, known)}"
        for key in config
        if key not in known
    ]


# Settings that contradict each other


def settings(config: Config, wrong: Container[str]) -> list[str]:
    """Settings that contradict each other or the machine.

    Args:
        config: In plain containers.
        wrong: Keys whose values are refused already.
    """
    return [
        *training_length(config["trainer"], wrong),
        *device(config["trainer"], wrong),
        *optimizer_settings(config["optimizer"], config["trainer"], wrong),
        *scheduler_settings(config["scheduler"], config["optimizer"], wrong),
        *channels(config["data"], wrong),
        *folds(config["data"], wrong),
        *balance(config["data"], config["trainer"], wrong),
    ]


def training_length(trainer: Config, wrong: Container[str]) -> list[str]:
    if any(f"trainer.{name}" in wrong for name in ("max_epochs", "max_steps", "max_time")):
        return []
    epochs, steps, time = trainer["max_epochs"], trainer["max_steps"], trainer["max_time"]
    if epochs == 0 or steps == 0:
        name = "max_epochs" if epochs == 0 else "max_steps"
        return [f"trainer.{name}=0: must be at least 1."]
    if epochs in (None, -1) and steps == -1 and not time:
        return [
            f"trainer.max_epochs={show(epochs)}: the training would never end; set a number, "
            "trainer.max_steps or trainer.max_time."
        ]
    return []


def device(trainer: Config, wrong: Container[str]) -> list[str]:
    """Whether this machine has the devices, and they the precision."""
    accelerator, devices = trainer["accelerator"], trainer["devices"]
    if "trainer.accelerator" in wrong:
        return []
    gpus, mps = torch.cuda.device_count(), torch.backends.mps.is_available()
    if accelerator in ("gpu", "cuda") and not gpus and not (accelerator == "gpu" and mps):
        return [
            f"trainer.accelerator={accelerator}: this machine has no GPU that torch can use; use "
            "trainer=cpu."
        ]
    if accelerator == "mps" and not mps:
        return ["trainer.accelerator=mps: this machine is no Mac with a GPU; use trainer=cpu."]
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not gpus and not mps)
    faults = []
    if "trainer.devices" not in wrong:
        wanted = (
            devices if isinstance(devices, list) else range(devices if whole(devices, 1) else 0)
        )
        if on_cpu and isinstance(devices, list):
            faults.append(
                f"trainer.devices={show(devices)}: processors have no indices; give a number of "
                f"processes, trainer.devices={max(1, len(devices))}."
            )
        elif not on_cpu and gpus and any(index not in range(gpus) for index in wanted):
            faults.append(
                f"trainer.devices={show(devices)}: this machine has {gpus} "
                f"GPU{'s' if gpus > 1 else ''}; use trainer.devices={gpus} or fewer."
            )
    precision = str(trainer["precision"])
    if "trainer.precision" in wrong:
        return faults
    if on_cpu and precision.startswith("16"):
        faults.append(
            f"trainer.precision={precision}: the processor has no 16-bit floats of this kind; use "
            "bf16-mixed or 32-true."
        )
    brain = not on_cpu and gpus and precision.startswith("bf16")
    if brain and not torch.cuda.is_bf16_supported(including_emulation=False):
        faults.append(
            f"trainer.precision={precision}: this GPU has no bfloat16; use 16-mixed or 32-true."
        )
    return faults


def optimizer_settings(optimizer: Config, trainer: Config, wrong: Container[str]) -> list[str]:
    faults = []
    title = str(optimizer.get("_target_")).rpartition(".")[2]
    accumulate = trainer["accumulate_grad_batches"]
    if title == "LBFGS" and accumulate != 1 and "trainer.accumulate_grad_batches" not in wrong:
        faults.append(
            f"trainer.accumulate_grad_batches={accumulate}: LBFGS evaluates one batch several times "
            "a step and cannot gather gradients over batches; use a larger data.batch_size."
        )
    precision, clip = trainer["precision"], trainer["gradient_clip_val"]
    if str(precision) in ("16", "16-mixed") and "trainer.gradient_clip_val" not in wrong:
        if title == "LBFGS":
            faults.append(
                f"trainer.precision={precision}: LBFGS cannot scale gradients; use bf16-mixed or "
                "32-true."
            )
        elif optimizer.get("fused") is True and clip:
            faults.append(
                f"optimizer.fused=true: unscales gradients itself, after trainer.gradient_clip_val="
                f"{clip} would have to clip them in {precision}; set optimizer.fused=null."
            )
    if any(f"optimizer.{name}" in wrong for name in optimizer):
        return faults
    if optimizer.get("nesterov") and title == "SGD":
        momentum, dampening = optimizer.get("momentum", 0), optimizer.get("dampening", 0)
        if not momentum or dampening:
            faults.append(
                f"optimizer.nesterov=true needs momentum and no dampening, which are {momentum} and "
                f"{dampening}; set optimizer.momentum=0.9 and optimizer.dampening=0."
            )
    if title == "Rprop" and not 0 < optimizer["etas"][0] < 1 < optimizer["etas"][1]:
        faults.append(
            f"optimizer.etas={show(optimizer['etas'])}: the first must lie between 0 and 1, the "
            "second above 1, such as [0.5, 1.2]."
        )
    return faults


def scheduler_settings(scheduler: Config, optimizer: Config, wrong: Container[str]) -> list[str]:
    if any(f"scheduler.{name}" in wrong for name in scheduler) or "optimizer.lr" in wrong:
        return []
    faults = []
    rate = optimizer.get("lr")
    for name in ("eta_min", "min_lr"):
        least = scheduler.get(name)
        if isinstance(least, int | float) and rate and least > rate:
            faults.append(
                f"scheduler.{name}={least} is above optimizer.lr={rate}, from which the rate is to "
                "fall; lower it."
            )
    for thing in ("lr", "momentum"):
        low, high = scheduler.get(f"base_{thing}"), scheduler.get(f"max_{thing}")
        if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
            faults.append(
                f"scheduler.base_{thing}={low} is above scheduler.max_{thing}={high}; exchange them."
            )
    return faults


def channels(data: Config, wrong: Container[str]) -> list[str]:
    """Whether the mean and the standard deviation are those of the channels of images."""
    if any(f"data.{name}" in wrong for name in ("mean", "std", "input_shape")):
        return []
    mean, std, shape = data["mean"], data["std"], data["input_shape"]
    if (mean is None) != (std is None):
        given, other = ("std", "mean") if mean is None else ("mean", "std")
        return [f"data.{given}={show(data[given])} comes with data.{other}; give both or none."]
    if mean is None or shape is None or (len(shape) == 3 and len(mean) == len(std) == shape[0]):
        return []
    return [
        f"data.mean={show(mean)} and data.std={show(std)}: need a number for each channel of images "
        f"(channels, height, width), and the inputs have shape {show(shape)}; null leaves them as "
        "they are."
    ]


def folds(data: Config, wrong: Container[str]) -> list[str]:
    """Whether the fold is one of those there are."""
    if "data.folds" in wrong or "data.fold" in wrong:
        return []
    count, number = data["folds"], data["fold"]
    if count is None and number:
        return [f"data.fold={number}: is one of data.folds; set that, such as data.folds=5."]
    if count is not None and number >= count:
        return [
            f"data.fold={number}: with data.folds={count} they are 0 to {count - 1}; in a sweep "
            f"'data.fold=range({count})'."
        ]
    return []


def balance(data: Config, trainer: Config, wrong: Container[str]) -> list[str]:
    """Whether there are classes to draw equally often, and a draw."""
    if data["balance"] is not True or "data.task" in wrong:
        return []
    if data["task"] not in ("multiclass", "binary"):
        return [
            f"data.balance=true draws classes equally often, and the task is {data['task']}; leave "
            "it false."
        ]
    if not data["shuffle"] or trainer["overfit_batches"]:
        setting = "trainer.overfit_batches=0" if data["shuffle"] else "data.shuffle=true"
        return [f"data.balance=true draws the samples of every epoch anew; set {setting}."]
    return []


# Parts that do not suit the task of the data


def facts(data: Config) -> list[str]:
    """Whether the number of outputs is the one that the task has."""
    task, count, classes = data["task"], data["num_outputs"], data["num_classes"]
    right = {"multiclass": classes, "binary": 1, "ranking": 1}.get(task)
    if None in (right, count) or count == right:
        return []
    return [f"data.num_outputs={count} must be {right} in this {task} task; leave it out."]


def suits(
    key: str, choice: str, tasks: Sequence[str] | None, task: str, others: list[str]
) -> list[str]:
    """Whether an option made for `tasks` suits the task of the data.

    Args:
        key: The group: loss or metrics.
        choice: The option.
        tasks: Those it is for; None for all.
        task: That of the data.
        others: Options of the group that suit.
    """
    if tasks is None or task in tasks:
        return []
    return [
        f"{key}={choice} is for {both(tasks)} tasks, and the data's is {task}; use "
        f"{key}={either(others)}."
    ]


def convolutions(model: nn.Module) -> list[str]:
    """Whether the model has weights with channels to put last."""
    if any(parameter.ndim == 4 for parameter in model.parameters()):
        return []
    return ["trainer.channels_last=true: the model has no convolutions of images; leave it false."]


def outputs(model: nn.Module, input_shape: Sequence[int], num_outputs: int) -> list[str]:
    """Whether the model maps inputs to ``(batch, num_outputs)``, and can be trained."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return ["model: has no parameter that requires a gradient, and so nothing to train."]
    try:
        made = trial(model, (2, *input_shape))
    except Exception as error:
        return [
            f"{sentence('model', error, ())}; it must take inputs of data.input_shape="
            f"{show(list(input_shape))}, as model=mlp and model=linear do."
        ]
    shape = list(made.shape) if isinstance(made, Tensor) else type(made).__name__
    if shape != [2, num_outputs]:
        return [
            f"model: gives {shape} for a batch of 2, and the task needs [2, {num_outputs}]; "
            "end it in num_outputs: ${data.num_outputs} raw outputs."
        ]
    return []


def trial(model: nn.Module, shape: tuple[int, ...], training: bool = False) -> Any:
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
        trial(model, (1, *input_shape), training=True)
    except Exception as error:
        reason = str(error).partition(",")[0]
        return [
            f"data.batch_size={batch_size}: leaves a batch of one sample, and the model refuses it "
            f"({reason}); take another size, or data.drop_last=true to leave a smaller last batch out."
        ]
    return []


def example(task: str, num_outputs: int) -> tuple[Tensor, ...]:
    """Outputs and targets of a few made-up samples, and for ranking their queries."""
    targets: tuple[Tensor, ...]
    if task == "multiclass":
        classes = {*range(min(num_outputs, 64)), num_outputs - 1}
        targets = (torch.tensor([0, *sorted(classes)]),)
    elif task == "ranking":
        targets = (torch.tensor([[1.0], [0.0], [2.0], [0.0]]), torch.tensor([0, 0, 1, 1]))
    elif task == "regression":
        targets = (torch.arange(3.0 * num_outputs).view(3, num_outputs),)
    else:
        targets = (torch.tensor([[1.0], [0.0], [1.0]]).expand(3, num_outputs).contiguous(),)
    size = len(targets[0])
    return torch.arange(1.0 * size * num_outputs).sin().view(size, num_outputs), *targets


def loss(module: nn.Module, task: str, num_outputs: int, names: Sequence[str]) -> list[str]:
    """Whether the loss takes outputs and targets of the task: tried on made-up samples.

    Args:
        module: Is copied.
        task: That of the data.
        num_outputs: Of the model.
        names: Of the arguments of the loss.
    """
    made, targets, *indexes = example(task, num_outputs)
    made.requires_grad_()
    module = copy.deepcopy(module)
    takes_indexes = "indexes" in inspect.signature(module.forward).parameters
    faults: list[str] = []
    with collecting(faults, "loss", names), warnings.catch_warnings():
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


def mixing(data: Config, module: nn.Module) -> list[str]:
    """Whether samples can be mixed, and the loss of a mixture is the mixture of the losses.

    Args:
        data: The data group, with its facts.
        module: The loss; is copied.
    """
    given = {key: data[key] for key in ("mixup", "cutmix") if data[key]}
    if not given:
        return []
    named = " ".join(f"data.{key}={value}" for key, value in given.items())
    off = " ".join(f"data.{key}=0" for key in given)
    task, count = data["task"], data["num_outputs"]
    if task in ("regression", "ranking"):
        return [f"{named}: mixes classes, and the task is {task}; set {off}."]
    faults = []
    if "cutmix" in given and len(data["input_shape"]) != 3:
        faults.append(
            f"data.cutmix={data['cutmix']}: cuts patches out of images, and the inputs have shape "
            f"{show(list(data['input_shape']))}; set data.cutmix=0, data.mixup mixes any inputs."
        )
    if not takes_mixtures(copy.deepcopy(module), task, count):
        right = "cross_entropy or label_smoothing" if task == "multiclass" else "bce"
        faults.append(
            f"{named}: {type(module).__name__} has no value for targets between classes; use "
            f"loss={right}, or set {off}."
        )
    return faults


def takes_mixtures(module: nn.Module, task: str, num_outputs: int) -> bool:
    outputs, targets = example(task, num_outputs)
    if hasattr(module, "fit"):
        module.fit(targets)  # type: ignore[operator]
    whole = one_hot(targets, num_outputs).float() if task == "multiclass" else targets
    other = whole.roll(1, 0)
    try:
        values = [module(outputs, one) for one in (whole, other, 0.3 * whole + 0.7 * other)]
        close = torch.isclose(values[2], 0.3 * values[0] + 0.7 * values[1], rtol=1e-4)
        return bool(close and torch.isclose(module(outputs, targets), values[0], rtol=1e-4))
    except Exception:  # each loss has its own words for targets that it does not take
        return False


def metric(key: str, metric: Metric, task: nn.Module, name: str, num_outputs: int) -> list[str]:
    """Whether a metric takes predictions and labels of the task: tried on made-up samples.

    Args:
        key: Where it stands in the configuration.
        metric: Is copied.
        task: Maps outputs to predictions.
        name: Of the task.
        num_outputs: Of the model.
    """
    metric = copy.deepcopy(metric)
    if hasattr(metric, "validate_args"):
        metric.validate_args = True
    meter = Meter(task, MetricCollection({"value": metric}))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            meter.add(torch.zeros(()), *example(name, num_outputs))
            value = meter.compute()["value"]
    except Exception as error:
        reason = sentence(key, error, ()).rstrip(".")
        return [f"{reason}; it must suit this {name} task with num_outputs={num_outputs}."]
    if value.ndim:
        return [f"{key}: gives {list(value.shape)}, and must give a scalar; set an average."]
    return []


# What is monitored


def monitor(
    key: str, metric: str | None, mode: str | None, metrics: MetricCollection, validates: bool
) -> list[str]:
    """Whether what `key` looks at will be logged, and whether its mode is the right one.

    Args:
        key: What looks at it: monitor, scheduler or a callback.
        metric: Such as val/loss.
        mode: min, max or None for the metric's own.
        metrics: Those of each part.
        validates: Whether there is a validation before the training ends.
    """
    setting = "monitor.metric" if key == "monitor" else f"{key}.monitor"
    if metric is None:
        return [f"{setting}=null: {key} needs a value to look at; set it, e.g. to val/loss."]
    if metric.startswith("val/") and not validates:
        return [
            f"{key} looks at {metric}, and there is no validation; set monitor.metric=train/loss, "
            "keep a validation part with data.val_fraction=0.1, or train until the first validation."
        ]
    logged = [f"{part}/{name}" for part in ("val", "train") for name in ("loss", *metrics)]
    if metric not in logged:
        part, _, name = metric.partition("/")
        near = nearest(f"val/{name}" if part == "test" else metric, logged)
        return [f"{setting}={metric} will not be logged while training; {near}"]
    right = direction(metric, metrics)
    if mode in (None, right):
        return []
    return [
        f"{key}.mode={mode} contradicts {metric}, which is better when "
        f"{'lower' if right == 'min' else 'higher'}; leave it out."
    ]


def direction(metric: str, metrics: MetricCollection) -> str:
    """Whether the best value of a metric (such as val/accuracy) is its min or max."""
    name = metric.split("/")[-1]
    return "max" if name in metrics and metrics[name].higher_is_better else "min"


# Averages of the weights


def averages(trainer: Trainer) -> list[str]:
    """Whether there is one average of the weights at most, of a kind that is validated and saved."""
    kinds = (WeightAveraging, StochasticWeightAveraging)
    found = [each for each in trainer.callbacks if isinstance(each, kinds)]  # type: ignore[attr-defined]
    names = [type(each).__name__ for each in found]
    faults = [
        f"callbacks: {name} leaves the average out of validation, checkpoints or test; use "
        "callbacks=ema or callbacks=swa."
        for each, name in zip(found, names, strict=True)
        if not isinstance(each, Average)
    ]
    faults += [
        f"callbacks.swa.start={each.start}: a share of a training limited by time alone is not "
        "known; set trainer.max_epochs or trainer.max_steps, or take callbacks=ema."
        for each in found
        if isinstance(each, SWA) and trainer.max_epochs == -1 and trainer.max_steps == -1
    ]
    if len(found) > 1:
        faults.append(f"callbacks: {both(names)} each average the weights; choose one of them.")
    if found and isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
        faults.append(
            f"callbacks: {names[0]} needs the whole model on every device, and trainer.strategy "
            "divides it; leave it out, or set trainer.strategy=ddp."
        )
    return faults


def unfreezing(trainer: Trainer, model: nn.Module) -> list[str]:
    """Whether parameters that are held at first are there, and can be trained later."""
    faults: list[str] = []
    for each in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(each, Unfreeze):
            with collecting(faults, "callbacks.unfreeze", ["epochs"]):
                each.beginnings(model)
            if trainer.world_size > 1:
                faults.append(
                    "callbacks.unfreeze: several processes agree on what is trained before they "
                    "begin; set trainer.devices=1, or optimizer.freeze for the whole training."
                )
    return faults


# The length of the training


def horizon(scheduler: Any, ticks: int | None) -> list[str]:
    """Whether a cosine ends before the training, after which torch lets the rate rise again."""
    length = getattr(scheduler, "T_max", None)
    if length is None or ticks is None or length >= ticks:
        return []
    return [
        f"scheduler.T_max={length} ends before the training, whose schedule has {ticks} ticks, and "
        "the rate would rise again; null is the whole training, scheduler=cosine_restarts rises on "
        "purpose."
    ]


def limits(trainer: Config, batches: Mapping[str, int]) -> list[str]:
    """Whether the limits of the trainer leave something to do.

    Args:
        trainer: The trainer group.
        batches: Of an epoch, for each part that is known.
    """
    faults = []
    for part, count in batches.items():
        overfits = trainer["overfit_batches"] and part != "test"
        key = "overfit_batches" if overfits else f"limit_{part}_batches"
        limit = trainer[key]
        left = int(count * limit) if isinstance(limit, float) else min(count, limit)
        if count and not left and (limit or part == "train"):
            faults.append(
                f"trainer.{key}={limit}: leaves none of the {count} {part} batches; a whole number "
                f"counts batches, a share of them is at least {1 / count:.2g}."
            )
        interval = trainer["val_check_interval"]
        if part == "train" and isinstance(interval, int) and interval > left > 0:
            faults.append(
                f"trainer.val_check_interval={interval}: an epoch has {left} batches only; 1.0 "
                "validates at its end, trainer.check_val_every_n_epoch less often."
            )
    return faults
