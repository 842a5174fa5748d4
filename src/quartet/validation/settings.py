"""Settings that contradict each other, the task or the machine."""

import os
from collections.abc import Container, Iterator

import torch
from lightning.pytorch.accelerators import CPUAccelerator

from quartet.config.configuration import Configuration
from quartet.config.groups import POLICY_KEYS
from quartet.config.instantiate import import_task
from quartet.config.overrides import base_group, find_groups
from quartet.core import processes
from quartet.core.messages import format_value, join_or, suggest_name
from quartet.core.problems import Config, Context, Problem
from quartet.data.task import SigmoidTask, Task, create_task
from quartet.validation.keys import is_whole


def check_settings(
    config: Config, wrong: Container[str], unused: Container[str] = ()
) -> Iterator[Problem]:
    """Yields settings that contradict each other or the machine.

    Args:
        config: The configuration, in plain containers.
        wrong: Keys that have problems already.
        unused: Groups that are not built; ``data`` if another class than the engine's serves it.
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


def check_requirements(config: Configuration, unused: Container[str]) -> Iterator[Problem]:
    """Yields options that go with other options of another group than the chosen one.

    Args:
        config: The configuration.
        unused: Groups whose parts the module does not take.
    """
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


def check_length(trainer: Config, wrong: Container[str]) -> Iterator[Problem]:
    """The training must have an end, after its first step."""
    if any(f"trainer.{name}" in wrong for name in ("max_epochs", "max_steps", "max_time")):
        return
    epochs, steps, time = trainer["max_epochs"], trainer["max_steps"], trainer["max_time"]
    if epochs == 0 or steps == 0:
        name = "max_epochs" if epochs == 0 else "max_steps"
        yield Problem(f"trainer.{name}", "must be at least 1.", 0)
    elif epochs in (None, -1) and steps == -1 and not time:
        yield Problem(
            "trainer.max_epochs",
            "the training would never end; set a number, trainer.max_steps or trainer.max_time.",
            epochs,
        )


def check_device(trainer: Config, wrong: Container[str]) -> Iterator[Problem]:
    """This machine must have the accelerator, and that the precision."""
    if "trainer.accelerator" in wrong:
        return
    accelerator = trainer["accelerator"]
    gpus, mps = torch.cuda.device_count(), torch.backends.mps.is_available()
    if accelerator in ("gpu", "cuda") and not gpus and not (accelerator == "gpu" and mps):
        message = "this machine has no GPU that torch can use; use trainer=cpu."
        yield Problem("trainer.accelerator", message, accelerator)
        return
    if accelerator == "mps" and not mps:
        message = "this machine is no Mac with a GPU; use trainer=cpu."
        yield Problem("trainer.accelerator", message, accelerator)
        return
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not gpus and not mps)
    precision = str(trainer["precision"])
    if "trainer.precision" in wrong:
        return
    if on_cpu and precision.startswith("16"):
        yield Problem(
            "trainer.precision",
            "the processor has no 16-bit floats of this kind; use bf16-mixed or 32-true.",
            precision,
        )
    brain_floats = not on_cpu and gpus and precision.startswith("bf16")
    if brain_floats and not torch.cuda.is_bf16_supported(including_emulation=False):
        message = "this GPU has no bfloat16; use 16-mixed or 32-true."
        yield Problem("trainer.precision", message, precision)


def check_processes(trainer: Config) -> Iterator[Problem]:
    """There must be as many processes as the trainer expects."""
    nodes, devices = trainer["num_nodes"], trainer["devices"]
    if not is_whole(nodes, 1) or not is_whole(devices, 1) or trainer.get("plugins"):
        return
    if processes.started_by_torchrun():
        started = int(os.environ["WORLD_SIZE"])
        if nodes * devices != started:
            yield Problem(
                "trainer.num_nodes",
                f"with trainer.devices={devices}, torchrun has started {started} "
                f"process{'es' if started > 1 else ''}; trainer=nodes takes its numbers.",
                nodes,
            )
    elif nodes > 1 and not processes.started_by_slurm():
        yield Problem(
            "trainer.num_nodes",
            "nothing starts the processes of the other machines; conf/trainer/nodes.yaml shows how "
            "torchrun and srun do, set trainer.num_nodes=1 for this machine alone.",
            nodes,
        )


def check_optimizer(
    group: str, optimizer: Config, trainer: Config, wrong: Container[str]
) -> Iterator[Problem]:
    """An optimizer must suit the trainer, and its settings each other."""
    title = str(optimizer.get("_target_")).rpartition(".")[2]
    accumulate = trainer["accumulate_grad_batches"]
    if title == "LBFGS" and accumulate != 1 and "trainer.accumulate_grad_batches" not in wrong:
        yield Problem(
            "trainer.accumulate_grad_batches",
            "LBFGS evaluates one batch several times a step and cannot gather gradients over "
            "batches; use a larger data.batch_size.",
            accumulate,
        )
    precision, clip = trainer["precision"], trainer["gradient_clip_val"]
    if str(precision) in ("16", "16-mixed") and "trainer.gradient_clip_val" not in wrong:
        if title == "LBFGS":
            message = "LBFGS cannot scale gradients; use bf16-mixed or 32-true."
            yield Problem("trainer.precision", message, precision)
        elif optimizer.get("fused") is True and clip:
            yield Problem(
                f"{group}.fused",
                f"unscales gradients itself, after trainer.gradient_clip_val={clip} would have to "
                f"clip them in {precision}; set {group}.fused=null.",
                True,
            )


def check_scheduler(config: Config, group: str, wrong: Container[str]) -> Iterator[Problem]:
    """Lower bounds of the learning rate and the momentum must lie below the upper ones."""
    scheduler, partner = config[group], f"{group.removesuffix('scheduler')}optimizer"
    if any(f"{group}.{name}" in wrong for name in scheduler) or f"{partner}.lr" in wrong:
        return
    rate = config.get(partner, {}).get("lr")
    for name in ("eta_min", "min_lr"):
        least = scheduler.get(name)
        if isinstance(least, int | float) and rate and least > rate:
            yield Problem(
                f"{group}.{name}",
                f"is above {partner}.lr={rate}, from which the rate is to fall; lower it.",
                least,
            )
    for thing in ("lr", "momentum"):
        low, high = scheduler.get(f"base_{thing}"), scheduler.get(f"max_{thing}")
        if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
            message = f"is above {group}.max_{thing}={high}; exchange them."
            yield Problem(f"{group}.base_{thing}", message, low)


def check_channels(data: Config, wrong: Container[str]) -> Iterator[Problem]:
    """Flips and crops need images; the mean and the standard deviation those of their channels."""
    for key in ("flip", "crop"):
        shape = data["input_shape"]
        if data[key] and shape is not None and len(shape) != 3 and f"data.{key}" not in wrong:
            message = (
                "needs images (channels, height, width), and the inputs have shape "
                f"{format_value(shape)}; leave it out."
            )
            yield Problem(f"data.{key}", message, data[key])
    if any(f"data.{name}" in wrong for name in ("mean", "std", "input_shape")):
        return
    mean, std, shape = data["mean"], data["std"], data["input_shape"]
    if (mean is None) != (std is None):
        given, other = ("std", "mean") if mean is None else ("mean", "std")
        yield Problem(f"data.{given}", f"needs data.{other} too; give both or none.", data[given])
    elif mean is None or shape is None:
        return
    elif len(shape) != 3 or not len(mean) == len(std) == shape[0]:
        yield Problem(
            "data.mean",
            f"data.mean and data.std={format_value(std)} need a number for each channel of images "
            f"(channels, height, width), and the inputs have shape {format_value(shape)}; null "
            "leaves them as they are.",
            mean,
        )


def check_thresholds(metrics: Config, task: Task) -> Iterator[Problem]:
    """Where the largest probability decides, torchmetrics passes over a threshold."""
    for name, node in metrics.items():
        value = node.get("threshold", 0.5) if isinstance(node, dict) else 0.5
        ours = value == 0.5 or isinstance(task, SigmoidTask)
        if not ours and str(node.get("_target_")).startswith("torchmetrics."):
            message = f"the largest probability decides in a {task.name} task; leave it out."
            yield Problem(f"metrics.{name}.threshold", message, value)


def check_cores(context: Context) -> Iterator[Problem]:
    """On a CPU there may be as many processes as cores; two show anywhere that several work."""
    cores, count = os.cpu_count() or 1, context.trainer.num_devices
    if isinstance(context.trainer.accelerator, CPUAccelerator) and count > max(2, cores):
        message = f"starts as many processes, and this machine has {cores} CPU cores; set at most that, 1 uses all."
        yield Problem("trainer.devices", message, count)


def check_task(name: str | None) -> Iterator[Problem]:
    """The task must be one of the engine's, or a class of the project, which is imported."""
    try:
        import_task(name)
    except ValueError as error:
        yield Problem("data.task", str(error), name)


def check_folds(data: Config, wrong: Container[str]) -> Iterator[Problem]:
    """The fold must be one of those there are."""
    if "data.folds" in wrong or "data.fold" in wrong:
        return
    count, number = data["folds"], data["fold"]
    if count is None and number:
        yield Problem("data.fold", "is one of data.folds; set that, such as data.folds=5.", number)
    if count is not None and number >= count:
        yield Problem(
            "data.fold",
            f"with data.folds={count} they are 0 to {count - 1}; in a sweep "
            f"'data.fold=range({count})'.",
            number,
        )


def check_balance(data: Config, trainer: Config, wrong: Container[str]) -> Iterator[Problem]:
    """There must be classes to draw equally often, and a random order to draw them in."""
    if data["balance"] is not True or "data.task" in wrong:
        return
    task = create_task(data["task"])
    if not task.has_classes:
        yield Problem(
            "data.balance",
            f"draws classes equally often, and the task is {task.name}; leave it false. Losses such as "
            "loss=weighted_bce have weights.",
            True,
        )
    elif not data["shuffle"] or trainer["overfit_batches"]:
        setting = "trainer.overfit_batches=0" if data["shuffle"] else "data.shuffle=true"
        message = f"draws the samples of every epoch anew; set {setting}."
        yield Problem("data.balance", message, True)


def check_outputs(data: Config) -> Iterator[Problem]:
    """The number of outputs must be the one that the task has."""
    task, count, classes = data["task"], data["num_outputs"], data["num_classes"]
    right = create_task(task).expected_outputs(classes)
    if None not in (right, count) and count != right:
        message = f"must be {right} in this {task} task; leave it out."
        yield Problem("data.num_outputs", message, count)


def check_shapes(data: Config) -> Iterator[Problem]:
    """Shapes must be named where the data is not read before the training."""
    unread = data["train_samples"] is not None and "." not in data["task"]
    for key in ("input_shape", "num_outputs"):
        if unread and data[key] is None:
            message = (
                "is not known before the data is there, as data.train_samples says; set it, or "
                "data.train_samples=null, which reads the data at once."
            )
            yield Problem(f"data.{key}", message, None)
