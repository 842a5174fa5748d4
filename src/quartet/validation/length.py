"""The length of a training: samples, batches and optimizer steps, before the first of them."""

import math

import torch
from torch import nn

from quartet.config.configuration import Configuration
from quartet.core.problems import Config, Problem, Problems, collect_problems
from quartet.data.datamodule import DataModule
from quartet.data.task import create_task
from quartet.validation.dry_run import StepTrial, pass_through


def count_train_batches(config: Config, data: DataModule, world_size: int) -> tuple[float, float]:
    """Training batches of an epoch, with and without the limits of the trainer; infinite if not known."""
    batches = data.count_batches(world_size, count_rows(config, data)["train"])
    limit = config["trainer"]["overfit_batches"] or config["trainer"]["limit_train_batches"]
    return apply_limit(batches, limit), batches


def apply_limit(batches: float, limit: float) -> float:
    """Returns how many batches a limit of the trainer leaves."""
    if isinstance(limit, int):
        return min(batches, limit)
    return batches if math.isinf(batches) else int(batches * limit)


def count_steps(
    config: Config, data: DataModule, world_size: int, batches_per_step: float | None = None
) -> tuple[float, float]:
    """Optimizer steps of an epoch and of the whole training; infinite if they are not known.

    `batches_per_step` is None for ``trainer.accumulate_grad_batches``.
    """
    trainer = config["trainer"]
    batches, _ = count_train_batches(config, data, world_size)
    share = batches_per_step or trainer["accumulate_grad_batches"]
    per_epoch = batches if math.isinf(batches) else max(1, math.ceil(batches / share))
    epochs, steps = trainer["max_epochs"], trainer["max_steps"]
    total = math.inf if epochs in (None, -1) else epochs * per_epoch
    return per_epoch, total if steps == -1 else min(total, steps)


def count_rows(config: Config, data: DataModule) -> dict[str, float]:
    """Samples (or queries) of each part that is known before a download; infinite if not counted."""
    if not data.loaded:
        count, folds = config["data"]["train_samples"], config["data"]["folds"]
        val = round(count * config["data"].get("val_fraction", 0))
        if folds:
            val = len(range(config["data"]["fold"], count, folds))  # the first are larger by one
        return {"train": count - val, "val": val}
    parts = [name for name in ("train", "val", "test") if getattr(data.parts, name) is not None]
    return {name: data.count(name) for name in parts}


def validates(config: Config, data: DataModule | None) -> bool:
    """Whether there is a validation, at the end of the training if not before; None: no data yet."""
    has_part = config["data"].get("val_fraction") != 0 or bool(config["data"]["folds"])
    if data is not None and data.loaded:
        has_part = data.parts.val is not None
    return has_part and config["trainer"]["limit_val_batches"] != 0


def count_processes(trainer: Config) -> int:
    """Processes of a training as its settings name them, before there is a trainer."""
    counts = (trainer[key] for key in ("devices", "num_nodes"))
    return math.prod(max(1, count) if isinstance(count, int) else 1 for count in counts)


def resolve_interval(config: Configuration, data: DataModule) -> None:
    """Validates at the end of an epoch that a limit of the trainer makes shorter than the interval."""
    interval = config["trainer"]["val_check_interval"]
    limited, batches = count_train_batches(config, data, count_processes(config["trainer"]))
    if isinstance(interval, int) and limited < interval and limited < batches:
        config.fill({"trainer.val_check_interval": 1.0})


def check_limits(config: Config, data: DataModule, world_size: int) -> Problems:
    """The limits of the trainer must leave some of the batches of each part."""
    counts = count_rows(config, data)
    batches = {"train": data.count_batches(world_size, counts["train"])}
    for part in counts.keys() - {"train"}:
        size = config["data"]["eval_batch_size"] * world_size
        batches[part] = counts[part] if math.isinf(counts[part]) else math.ceil(counts[part] / size)
    trainer = config["trainer"]
    for part, count in batches.items():
        keys = [f"limit_{part}_batches"]
        keys += ["overfit_batches", "val_check_interval"] if part == "train" else []
        message = f"is a share, and the {part} part has no known length; set a whole number of"
        for key in keys if math.isinf(count) else ():
            if isinstance(trainer[key], float) and 0 < trainer[key] < 1:
                yield Problem(f"trainer.{key}", f"{message} batches.", trainer[key])
        limited = part == "train" or (part == "val" and trainer["limit_val_batches"] != 0)
        overfits = trainer["overfit_batches"] and limited
        key = "overfit_batches" if overfits else f"limit_{part}_batches"
        limit = trainer[key]
        left = apply_limit(count, limit)
        if count and not left and (limit or part == "train"):
            message = f"leaves none of the {count} {part} batches; a whole number counts them,"
            message += f" a share of them is at least {1 / count:.2g}."
            yield Problem(f"trainer.{key}", message, limit)
        interval = trainer["val_check_interval"]
        if part == "train" and isinstance(interval, int) and interval > left > 0:
            message = f"an epoch has {left} batches only; 1.0 validates at its end, and"
            message += " trainer.check_val_every_n_epoch=N less often."
            yield Problem("trainer.val_check_interval", message, interval)


def check_smallest_batch(
    config: Config,
    data: DataModule,
    model: nn.Module,
    world_size: int,
    trial: StepTrial | None = None,
) -> Problems:
    """The model must accept the smallest batch that the training reaches.

    It is tried on zeros where the steps cannot be.
    """
    size, last = config["data"]["batch_size"], not config["data"]["drop_last"]
    rows = count_rows(config, data)["train"]
    if math.isinf(rows) and size == "full":
        return  # refused, since nothing knows all samples
    share = size if math.isinf(rows) else math.ceil(rows / world_size)  # rows of each process
    whole = share if size == "full" else min(size, share)
    limited, batches = count_train_batches(config, data, world_size)
    per_epoch, total = count_steps(config, data, world_size)
    if last and share % whole and limited == batches and total >= per_epoch:
        whole = share % whole
    task, shape = create_task(config["data"]["task"]), config["data"]["input_shape"]
    if whole == 1 and not task.has_queries and (trial or shape is not None):
        fitting = next((n for n in range(2, share + 1) if n > size and share % n != 1), None)
        fitting = 2 if math.isinf(rows) else fitting
        advice = f"data.batch_size={fitting}" if fitting else "more rows, or another model,"
        if fitting and size > 1:
            advice += " or data.drop_last=true"
        batch = data.first_batch(1) if trial else torch.zeros(1, *shape)
        with collect_problems([], "model") as problems:
            if trial:
                trial.train(batch)
            else:
                pass_through(model, batch, training=True)
        if problems:  # batch normalisation refuses it
            reason = problems[0].message.partition(",")[0]
            message = f"leaves a batch of one sample, and the model refuses it ({reason}); {advice}"
            yield Problem("data.batch_size", f"{message} leaves none.", size)
