"""How long a training is: samples, batches and optimizer steps, before the first of them."""

import math
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from quartet.config.groups import to_container
from quartet.data.datamodule import DataModule, rows
from quartet.data.task import find_task
from quartet.validation import dry_run, training


def count_steps(cfg: DictConfig, data: DataModule, world_size: int) -> tuple[int, float]:
    """Optimizer steps of an epoch and of the whole training."""
    batches = data.count_batches(world_size, count_rows(cfg, data)["train"])
    limit = cfg.trainer.overfit_batches or cfg.trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    per_epoch = max(1, math.ceil(batches / cfg.trainer.accumulate_grad_batches))
    epochs, steps = cfg.trainer.max_epochs, cfg.trainer.max_steps
    total = math.inf if epochs in (None, -1) else epochs * per_epoch
    return per_epoch, total if steps == -1 else min(total, steps)


def count_rows(cfg: DictConfig, data: DataModule) -> dict[str, int]:
    """Samples (or queries) of each part that is known before a download."""
    if not data.loaded:
        count, folds = cfg.data.train_samples, cfg.data.folds
        val = round(count * cfg.data.val_fraction)
        if folds:
            val = len(range(cfg.data.fold, count, folds))  # the first ones are larger by one
        return {"train": count - val, "val": val}
    parts = {name: getattr(data.parts, name) for name in ("train", "val", "test")}
    return {name: rows(part) for name, part in parts.items() if part is not None}


def reaches_validation(cfg: DictConfig, data: DataModule) -> bool:
    """Whether the training is long enough for its first validation."""
    trainer = cfg.trainer
    devices = max(1, trainer.devices) if isinstance(trainer.devices, int) else 1
    nodes = max(1, trainer.num_nodes) if isinstance(trainer.num_nodes, int) else 1
    per_epoch, total = count_steps(cfg, data, devices * nodes)
    first: float = per_epoch
    if isinstance(trainer.val_check_interval, int):  # batches
        first = min(first, trainer.val_check_interval / trainer.accumulate_grad_batches)
    elif isinstance(trainer.val_check_interval, float):
        first = per_epoch * trainer.val_check_interval
    before: int = (trainer.check_val_every_n_epoch - 1) * per_epoch
    return total >= before + math.ceil(first)


def check_batches(cfg: DictConfig, data: DataModule, parts: Mapping[str, Any]) -> list[str]:
    """Whether there are batches to train on, and whether the model takes the smallest of them."""
    processes = parts["trainer"].world_size
    counts = count_rows(cfg, data)
    batches = {"train": data.count_batches(processes, counts["train"])}
    for part in counts.keys() - {"train"}:
        batches[part] = math.ceil(counts[part] / (cfg.data.eval_batch_size * processes))
    faults = training.limits(to_container(cfg.trainer), batches)
    size = cfg.data.batch_size
    whole = counts["train"] if size == "full" else size * processes
    rest = 0 if cfg.data.drop_last else counts["train"] % whole
    reached = (cfg.trainer.overfit_batches or cfg.trainer.limit_train_batches) == 1.0
    smallest = math.ceil((rest if rest and reached else whole) / processes)
    if smallest == 1 and not find_task(cfg.data.task).has_queries:
        faults += dry_run.single(parts["model"], cfg.data.input_shape, size)
    return faults
