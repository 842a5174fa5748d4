"""Settings that contradict each other, the task, the machine, or what the module logs and takes."""

import os
import re
from collections.abc import Collection, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from lightning.pytorch.accelerators import CPUAccelerator
from torchmetrics import Metric, MetricCollection

from quartet.config import allow, signatures
from quartet.config.configuration import Configuration
from quartet.config.instantiate import POLICY_KEYS, import_task, is_foreign, list_observers
from quartet.config.overrides import base_group, find_groups, key_of
from quartet.core import processes
from quartet.core.files import CONF
from quartet.core.messages import closest_name, format_value, join_or, suggest_name
from quartet.core.problems import Config, Context, Problem, Problems
from quartet.data.task import SigmoidTask, Task, create_task
from quartet.validation.keys import is_whole


def check_settings(config: Config, wrong: Container[str], unused: Container[str] = ()) -> Problems:
    """Yields settings that contradict each other or the machine.

    `unused` are groups that are not built; ``data`` if another class than the engine's serves it.
    """
    yield from check_length(config["trainer"], wrong)
    yield from check_device(config["trainer"], wrong)
    yield from check_processes(config["trainer"])
    for group in find_groups(config, "optimizer"):
        if group not in unused:
            yield from check_optimizer(group, config[group], config["trainer"], wrong)
    for group in find_groups(config, "scheduler"):
        if group not in unused:
            yield from check_scheduler(config, group, wrong)
    if "data" not in unused:
        yield from check_channels(config["data"], wrong)
        yield from check_balance(config["data"], config["trainer"], wrong)


def check_requirements(config: Configuration, unused: Container[str]) -> Problems:
    """Yields options that go with other options of another group than the chosen one."""
    options = config.options
    for group, node in config.raw.items():
        if group in unused or base_group(group) not in POLICY_KEYS or not options:
            continue
        requires = node.get("requires") or {}
        if not isinstance(requires, dict):
            continue  # which is refused elsewhere
        for other, names in requires.items():
            names = names if isinstance(names, list) else [str(names)]
            if other not in options:
                message = f"is no group; {suggest_name(str(other), options)}"
                yield Problem(f"{group}.requires.{other}", message)
            elif options[other] not in names:
                message = f"goes with {other}={join_or(names)}; add {other}={names[0]}."
                yield Problem(group, message, options.get(group))


def check_length(trainer: Config, wrong: Container[str]) -> Problems:
    """The training must have an end, after its first step."""
    if any(f"trainer.{name}" in wrong for name in ("max_epochs", "max_steps", "max_time")):
        return
    epochs, steps, time = trainer["max_epochs"], trainer["max_steps"], trainer["max_time"]
    if epochs == 0 or steps == 0:
        name = "max_epochs" if epochs == 0 else "max_steps"
        yield Problem(f"trainer.{name}", "must be at least 1.", 0)
    elif epochs in (None, -1) and steps == -1 and not time:
        message = "the training would never end; set a number, trainer.max_steps or"
        yield Problem("trainer.max_epochs", f"{message} trainer.max_time.", epochs)


def check_device(trainer: Config, wrong: Container[str]) -> Problems:
    """This machine must have the accelerator, and that the precision."""
    if "trainer.accelerator" in wrong:
        return
    accelerator = trainer["accelerator"]
    gpus, mps = torch.cuda.device_count(), torch.backends.mps.is_available()
    no_gpu = accelerator in ("gpu", "cuda") and not gpus and not (accelerator == "gpu" and mps)
    if no_gpu or (accelerator == "mps" and not mps):
        lack = "has no GPU that torch can use" if no_gpu else "is no Mac with a GPU"
        yield Problem("trainer.accelerator", f"this machine {lack}; use trainer=cpu.", accelerator)
        return
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not gpus and not mps)
    precision = "" if "trainer.precision" in wrong else str(trainer["precision"])
    if on_cpu and precision.startswith("16"):
        message = "the processor has no 16-bit floats of this kind; use bf16-mixed or 32-true."
        yield Problem("trainer.precision", message, precision)
    brain_floats = not on_cpu and gpus and precision.startswith("bf16")
    if brain_floats and not torch.cuda.is_bf16_supported(including_emulation=False):
        message = "this GPU has no bfloat16; use 16-mixed or 32-true."
        yield Problem("trainer.precision", message, precision)


def check_processes(trainer: Config) -> Problems:
    """There must be as many processes as the trainer expects."""
    nodes, devices = trainer["num_nodes"], trainer["devices"]
    if not is_whole(nodes, 1) or not is_whole(devices, 1) or trainer.get("plugins"):
        return
    if processes.started_by_torchrun():
        started = int(os.environ["WORLD_SIZE"])
        if nodes * devices != started:
            count = f"torchrun has started {started} process{'es' if started > 1 else ''}"
            message = f"with trainer.devices={devices}, {count}; trainer=nodes takes its numbers."
            yield Problem("trainer.num_nodes", message, nodes)
    elif nodes > 1 and not processes.started_by_slurm():
        message = "nothing starts the processes of the other machines; see conf/trainer/nodes.yaml"
        yield Problem("trainer.num_nodes", f"{message}, or set trainer.num_nodes=1.", nodes)


def check_optimizer(
    group: str, optimizer: Config, trainer: Config, wrong: Container[str]
) -> Problems:
    """An optimizer must suit the trainer, and its settings each other."""
    title = str(optimizer.get("_target_")).rpartition(".")[2]
    accumulate = trainer["accumulate_grad_batches"]
    if title == "LBFGS" and accumulate != 1 and "trainer.accumulate_grad_batches" not in wrong:
        message = "LBFGS evaluates one batch several times a step; use a larger data.batch_size."
        yield Problem("trainer.accumulate_grad_batches", message, accumulate)
    precision, clip = trainer["precision"], trainer["gradient_clip_val"]
    if str(precision) in ("16", "16-mixed") and "trainer.gradient_clip_val" not in wrong:
        if title == "LBFGS":
            message = "LBFGS cannot scale gradients; use bf16-mixed or 32-true."
            yield Problem("trainer.precision", message, precision)
        elif optimizer.get("fused") is True and clip:
            message = f"unscales gradients after trainer.gradient_clip_val={clip} clips them; set"
            yield Problem(f"{group}.fused", f"{message} {group}.fused=null.", True)


def check_scheduler(config: Config, group: str, wrong: Container[str]) -> Problems:
    """Lower bounds of the learning rate and the momentum must lie below the upper ones."""
    scheduler, partner = config[group], f"{group.removesuffix('scheduler')}optimizer"
    if any(f"{group}.{name}" in wrong for name in scheduler) or f"{partner}.lr" in wrong:
        return
    rate = config.get(partner, {}).get("lr")
    for name in ("eta_min", "min_lr"):
        least = scheduler.get(name)
        if isinstance(least, int | float) and rate and least > rate:
            message = f"is above {partner}.lr={rate}, from which the rate is to fall; lower it."
            yield Problem(f"{group}.{name}", message, least)
    for thing in ("lr", "momentum"):
        low, high = scheduler.get(f"base_{thing}"), scheduler.get(f"max_{thing}")
        if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
            message = f"is above {group}.max_{thing}={high}; exchange them."
            yield Problem(f"{group}.base_{thing}", message, low)


def check_channels(data: Config, wrong: Container[str]) -> Problems:
    """Flips and crops need images; the mean and the standard deviation those of their channels."""
    mean, std, shape = data["mean"], data["std"], data["input_shape"]
    for key in ("flip", "crop"):
        if data[key] and shape is not None and len(shape) != 3 and f"data.{key}" not in wrong:
            message = f"needs images (channels, height, width), not {format_value(shape)}"
            yield Problem(f"data.{key}", f"{message}; leave it out.", data[key])
    if any(f"data.{name}" in wrong for name in ("mean", "std", "input_shape")):
        return
    if (mean is None) != (std is None):
        given, other = ("std", "mean") if mean is None else ("mean", "std")
        yield Problem(f"data.{given}", f"needs data.{other} too; give both or none.", data[given])
    elif mean is None or shape is None:
        return
    elif len(shape) != 3 or not len(mean) == len(std) == shape[0]:
        message = f"data.mean and data.std={format_value(std)} need a number"
        way_out = f"and the inputs have shape {format_value(shape)}; null leaves them as they are"
        yield Problem("data.mean", f"{message} for each channel of images, {way_out}.", mean)


def check_thresholds(metrics: Config, task: Task) -> Problems:
    """Where the largest probability decides, torchmetrics passes over a threshold."""
    for name, node in metrics.items():
        value = node.get("threshold", 0.5) if isinstance(node, dict) else 0.5
        ours = value == 0.5 or isinstance(task, SigmoidTask)
        if not ours and str(node.get("_target_")).startswith("torchmetrics."):
            message = f"the largest probability decides in a {task.name} task; leave it out."
            yield Problem(f"metrics.{name}.threshold", message, value)


def check_cores(context: Context) -> Problems:
    """On a CPU there may be as many processes as cores; two show anywhere that several work."""
    cores, count = os.cpu_count() or 1, context.trainer.num_devices
    if isinstance(context.trainer.accelerator, CPUAccelerator) and count > max(2, cores):
        message = f"this machine has {cores} CPU cores; set at most that, 1 uses all."
        yield Problem("trainer.devices", message, count)


def check_task(name: str | None) -> Problems:
    """The task must be one of the engine's, or a class of the project, which is imported."""
    try:
        import_task(name)
    except ValueError as error:
        yield Problem("data.task", str(error), name)


def check_folds(data: Config, wrong: Container[str]) -> Problems:
    """The fold must be one of those there are."""
    if "data.folds" in wrong or "data.fold" in wrong:
        return
    count, number = data["folds"], data["fold"]
    if count is None and number:
        yield Problem("data.fold", "is one of data.folds; set that, such as data.folds=5.", number)
    if count is not None and number >= count:
        each = f"in a sweep 'data.fold=range({count})'"
        message = f"with data.folds={count} they are 0 to {count - 1}; {each}."
        yield Problem("data.fold", message, number)


def check_balance(data: Config, trainer: Config, wrong: Container[str]) -> Problems:
    """There must be classes to draw equally often, and a random order to draw them in."""
    if data["balance"] is not True or "data.task" in wrong:
        return
    task = create_task(data["task"])
    if not task.has_classes:
        message = f"draws classes equally often, and the task is {task.name}; leave it false."
        message += " Losses such as loss=weighted_bce have weights."
        yield Problem("data.balance", message, True)
    elif not data["shuffle"] or trainer["overfit_batches"]:
        setting = "trainer.overfit_batches=0" if data["shuffle"] else "data.shuffle=true"
        message = f"draws the samples of every epoch anew; set {setting}."
        yield Problem("data.balance", message, True)


def check_outputs(data: Config) -> Problems:
    """The number of outputs must be the one that the task has."""
    task, count, classes = data["task"], data["num_outputs"], data["num_classes"]
    right = create_task(task).expected_outputs(classes)
    if None not in (right, count) and count != right:
        message = f"must be {right} in this {task} task; leave it out."
        yield Problem("data.num_outputs", message, count)


def check_shapes(data: Config) -> Problems:
    """Shapes must be named where the data is not read before the training."""
    unread = data["train_samples"] is not None and "." not in data["task"]
    for key in ("input_shape", "num_outputs"):
        if unread and data[key] is None:
            message = "is not known before the data is there; set it, or data.train_samples=null"
            yield Problem(f"data.{key}", f"{message}, which reads the data at once.", None)


@dataclass(frozen=True)
class Logged:
    """What is known of the values that a training logs.

    Attributes:
        metrics: Metrics of each part of the data.
        losses: Names of losses, such as dice.
        names: Names of the values, such as val/accuracy.
        complete: Whether no other values are logged.
        validates: Whether there is a validation before the training ends.
        unchecked: Gets the settings of which only the training will show whether they are right.
    """

    metrics: MetricCollection
    losses: Collection[str]
    names: Sequence[str]
    complete: bool
    validates: bool
    unchecked: list[str]


def resolve_monitor(config: Configuration, logged: Logged, wrong: Collection[str]) -> Problems:
    """Fills in the monitored metric and its mode; without a validation, nothing may be monitored."""
    metric, mode = config["monitor"]["metric"], config["monitor"]["mode"]
    idle = not metric or (metric.startswith("val/") and not logged.validates)
    if not idle or metric not in (None, "val/loss"):  # the latter is the default
        yield from check_monitor("monitor", metric, mode, logged)
    if mode is None:
        mode = find_mode(metric, logged.metrics, logged.losses) or guess_mode(metric) or "min"
        config.fill({"monitor.mode": mode})
    for key, node, required in find_observers(config, wrong):
        own, own_mode = node.get("monitor"), node.get("mode")
        follows = own == metric and own_mode in (None, mode)
        if (idle and required) or not (follows or (own is None and not required)):
            yield from check_monitor(key, own, own_mode, logged)
    if idle:
        config.fill({"monitor.metric": None})  # the last checkpoint is then the one that is tested


def check_monitor(key: str, metric: str | None, mode: str | None, logged: Logged) -> Problems:
    """A value that an observer, `key`, monitors must be logged, and its mode be the right one."""
    setting = "monitor.metric" if key == "monitor" else f"{key}.monitor"
    if metric is None:
        yield Problem(setting, f"{key} needs a value to monitor; set it, e.g. to val/loss.", None)
        return
    if metric.startswith("val/") and not logged.validates:
        message = f"monitors {metric}, and there is no validation; set monitor.metric=train/loss"
        yield Problem(key, f"{message}, or keep a validation part with data.val_fraction=0.1.")
        return
    if metric not in logged.names:
        part, _, name = metric.partition("/")
        similar = closest_name(name, [each.partition("/")[2] for each in logged.names])
        if logged.complete or part == "test" or similar:
            near = suggest_name(f"val/{name}" if part == "test" else metric, logged.names)
            yield Problem(setting, f"will not be logged while training; {near}", metric)
            return
        logged.unchecked.append(f"{setting}={metric}: whether it is logged")
    right = find_mode(metric, logged.metrics, logged.losses)
    if right is not None and mode not in (None, right):
        better = "lower" if right == "min" else "higher"
        message = f"contradicts {metric}, which is better when {better}; leave it out."
        yield Problem(f"{key}.mode", message, mode)
    elif mode is None and right is None:
        own = find_metric(metric, logged.metrics)
        yield from check_guess(key, metric, "whose metric has no higher_is_better" if own else None)


def resolve_foreign_monitor(config: Configuration) -> Problems:
    """Fills in the mode of a value that a foreign module logs, as far as its name tells it."""
    metric, mode = config["monitor"]["metric"], config["monitor"]["mode"]
    if mode is None:
        yield from check_guess("monitor", metric)
        config.fill({"monitor.mode": "min"})


def check_guess(key: str, metric: str | None, reason: str | None = None) -> Problems:
    """The mode of a value that tells none must be set, unless its name tells it."""
    if guess_mode(metric) is None:
        reason = reason or "which the module logs"
        message = f"is not known for {metric}, {reason}; set it to min or max."
        yield Problem(f"{key}.mode", message, None)


def guess_mode(metric: str | None) -> str | None:
    return "min" if metric is None or re.search("loss|error", metric) else None


def find_mode(metric: str | None, metrics: MetricCollection, losses: Collection[str]) -> str | None:
    """Whether the best value of a metric or loss is its min or max; None for other values."""
    own = find_metric(metric, metrics)
    if own is not None:
        return {None: None, True: "max", False: "min"}[own.higher_is_better]
    return "min" if str(metric).split("/")[-1] in losses else None


def find_metric(metric: str | None, metrics: MetricCollection) -> Metric | None:
    """Returns the metric that logs a value such as val/accuracy; None for a loss."""
    name = str(metric).split("/")[-1]
    # A metric that gives several values logs them as accuracy_cat, accuracy_dog.
    names = map(str, metrics.keys(keep_base=True))  # without a prefix such as val/
    owners = [each for each in names if name == each or name.startswith(f"{each}_")]
    owner = max(owners, key=len, default="")
    return metrics[owner] if owner else None


def find_observers(
    config: Configuration, wrong: Collection[str]
) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Yields what monitors a value: its key, its settings, and whether the value is required."""
    for key, node in list_observers(config).items():
        if key not in wrong and key.startswith("callbacks."):
            parameter = signatures.parameters(allow.locate(node["_target_"]))[0].get("monitor")
            yield key, node, bool(parameter and parameter.default is parameter.empty)
        elif key not in wrong:
            yield key, node, True


def check_unused(config: Configuration, unused: Sequence[str]) -> Problems:
    """Yields groups that were chosen, and that the module does not take."""
    title = config.options.get("module") or config["module"]["_target_"]
    chosen = dict.fromkeys(key_of(each).split(".")[0] for each in config.overrides)
    experiment = config.options.get("experiment")
    file = CONF / "experiment" / f"{experiment}.yaml"
    if experiment and file.is_file():
        listed = yaml.safe_load(file.read_text()) or {}
        groups = [each for each in listed.get("defaults") or () if isinstance(each, dict)]
        defaults = [key for each in groups for key in each]
        chosen |= dict.fromkeys([*listed, *(key.split("/")[-1].split("@")[0] for key in defaults)])
    for group in unused:
        known = config["module"].get(group)
        typed = [each for each in config.overrides if key_of(each).startswith(f"{group}.")]
        typed = [each for each in typed if key_of(each).partition(".")[2] in (known or {})]
        for each in typed:
            message = f"module={title} sets it in module.{group}; use module.{each}."
            yield Problem(each, message)
        if group in chosen and not typed:
            message = f"module={title} has no argument {group}; leave it out."
            if group in config["module"]:
                message = f"module={title} sets it in module.{group}; change that."
            yield Problem(group, message, config.options.get(group, group))
    settings = config["trainer"]
    for key in ("compile", "channels_last") if "model" in unused else ():
        if settings[key]:
            message = "is for the model group, which the module does not take; do it in the module."
            yield Problem(f"trainer.{key}", message, settings[key])


def check_foreign_data(config: Configuration) -> Problems:
    """Yields settings of the engine's data that a LightningDataModule does not take."""
    target = config["data"]["_target_"]
    accepted, _ = signatures.parameters(allow.locate(target))
    usual = yaml.safe_load((CONF / "train.yaml").read_text())["data"]
    ignored = [
        key
        for key in POLICY_KEYS["data"]
        if key in usual and key not in accepted and config["data"][key] != usual[key]
    ]
    described = ("task", "input_shape", "num_classes", "num_outputs", "dir")
    for key in ignored:
        if key not in described:
            message = f"{target} has no such argument; leave it out, and change it in the class."
            yield Problem(f"data.{key}", message, config["data"][key])


def describe_unchecked(config: Configuration) -> list[str]:
    """What cannot be checked of foreign classes before the training, for ``check=only``."""
    found = []
    if is_foreign(config, "module"):
        metric = config["monitor"]["metric"]
        found.append("module: its steps, its optimizer and its schedule")
        found += [f"monitor.metric={metric}: whether the module logs it"] if metric else []
    if is_foreign(config, "data"):
        found.append("data: its batches, and the length of the training")
        found.append("a resume within an epoch: exact if a loader gives the same batches again")
    return found
