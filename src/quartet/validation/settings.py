"""Settings that contradict each other, the task or the machine."""

import os
from collections.abc import Container, Iterable, Sequence

import torch

from quartet.core import processes as rank
from quartet.core.messages import format_value, join_and, join_or, suggest_name
from quartet.core.problems import Config
from quartet.data.task import find_task
from quartet.validation.values import whole


def settings(config: Config, wrong: Container[str]) -> list[str]:
    """Settings that contradict each other or the machine.

    Args:
        config: In plain containers.
        wrong: Keys whose values are refused already.
    """
    return [
        *training_length(config["trainer"], wrong),
        *device(config["trainer"], wrong),
        *processes(config["trainer"], wrong),
        *optimizer_settings(config["optimizer"], config["trainer"], wrong),
        *scheduler_settings(config["scheduler"], config["optimizer"], wrong),
        *channels(config["data"], wrong),
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
            f"trainer.max_epochs={format_value(epochs)}: the training would never end; set a number, "
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
                f"trainer.devices={format_value(devices)}: processors have no indices; give a number of "
                f"processes, trainer.devices={max(1, len(devices))}."
            )
        elif not on_cpu and gpus and any(index not in range(gpus) for index in wanted):
            faults.append(
                f"trainer.devices={format_value(devices)}: this machine has {gpus} "
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


def processes(trainer: Config, wrong: Container[str]) -> list[str]:
    """Whether there are as many processes as the trainer counts on."""
    nodes, devices = trainer["num_nodes"], trainer["devices"]
    if not whole(nodes, 1) or not whole(devices, 1) or trainer.get("plugins"):
        return []
    if rank.started_by_torchrun():
        started = int(os.environ["WORLD_SIZE"])
        if nodes * devices != started:
            return [
                f"trainer.num_nodes={nodes} with trainer.devices={devices}: torchrun has started "
                f"{started} process{'es' if started > 1 else ''}; trainer=nodes takes its numbers."
            ]
    elif nodes > 1 and not rank.started_by_slurm():
        return [
            f"trainer.num_nodes={nodes}: nothing starts the processes of the other machines; "
            "conf/trainer/nodes.yaml shows how torchrun and srun do, set trainer.num_nodes=1 for "
            "this machine alone."
        ]
    return []


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
            f"optimizer.etas={format_value(optimizer['etas'])}: the first must lie between 0 and 1, the "
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
        return [
            f"data.{given}={format_value(data[given])} comes with data.{other}; give both or none."
        ]
    if mean is None or shape is None or (len(shape) == 3 and len(mean) == len(std) == shape[0]):
        return []
    return [
        f"data.mean={format_value(mean)} and data.std={format_value(std)}: need a number for each channel of images "
        f"(channels, height, width), and the inputs have shape {format_value(shape)}; null leaves them as "
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
    if not find_task(data["task"]).has_classes:
        return [
            f"data.balance=true draws classes equally often, and the task is {data['task']}; leave "
            "it false."
        ]
    if not data["shuffle"] or trainer["overfit_batches"]:
        setting = "trainer.overfit_batches=0" if data["shuffle"] else "data.shuffle=true"
        return [f"data.balance=true draws the samples of every epoch anew; set {setting}."]
    return []


def facts(data: Config) -> list[str]:
    """Whether the number of outputs is the one that the task has."""
    task, count, classes = data["task"], data["num_outputs"], data["num_classes"]
    right = find_task(task).expected_outputs(classes)
    if None in (right, count) or count == right:
        return []
    return [f"data.num_outputs={count} must be {right} in this {task} task; leave it out."]


def top_level(config: Config, read: Iterable[str]) -> list[str]:
    """Keys that nothing reads: neither the program, nor another value through ``${key}``."""
    known = sorted(read)
    return [
        f"{key}: nothing reads this key; {suggest_name(key, known)}"
        for key in config
        if key not in known
    ]


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
        f"{key}={choice} is for {join_and(tasks)} tasks, and the data's is {task}; use "
        f"{key}={join_or(others)}."
    ]
