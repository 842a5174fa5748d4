"""What only the data can show: values that cannot be trained on, parts that cannot be scored."""

import math
from collections.abc import Container, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset, default_collate

from quartet.core.messages import format_value
from quartet.core.problems import ConfigError, collect_problems
from quartet.data.datamodule import rows
from quartet.data.split import Parts

Config = Mapping[str, Any]


def check(parts: Parts, config: Config, metrics: Container[str]) -> list[str]:
    """Faults of the data, a sentence each.

    Args:
        parts: Of the data.
        config: The data group, with its facts.
        metrics: Names of those that will be computed.
    """
    faults = []
    auroc, r2 = "auroc" in metrics, "r2" in metrics
    for part in ("train", "val", "test"):
        dataset: Dataset[Any] | None = getattr(parts, part)
        if dataset is None:
            continue
        size = len(dataset)  # type: ignore[arg-type]
        if not size:
            faults.append(
                f"data: the {part} part is empty; change data.val_fraction or data.test_fraction."
            )
            continue
        if r2 and size == 1:
            faults.append(
                f"data: the {part} part holds one sample, for which there is no R2; choose a larger "
                "part, or metrics=none."
            )
        if isinstance(dataset, TensorDataset):
            wrong = layout(part, dataset.tensors, config) or labels(
                part, dataset.tensors[1], config
            )
            faults += wrong or contents(part, dataset.tensors, parts, config, auroc)
        else:
            wrong = layout(part, default_collate([dataset[0]]), config)
            if not wrong and config["task"] == "multiclass" and hasattr(dataset, "targets"):
                targets = torch.as_tensor(dataset.targets)
                wrong = labels(part, targets, config)
                wrong = wrong or classes(part, targets, parts, config["num_outputs"], auroc)
            faults += wrong
        if wrong and part == "train":  # the other parts would say the same
            break
    size, count = config["batch_size"], rows(parts.train)
    if config["drop_last"] and size != "full" and count < size:
        faults.append(
            f"data.drop_last=true leaves no batch, for data.batch_size={size} is more than the "
            f"{count} samples of the training part; use a smaller one, or data.batch_size=full."
        )
    return faults


def layout(part: str, tensors: Sequence[Tensor], config: Config) -> list[str]:
    """Whether inputs and targets have the shape and type that model and loss will meet."""
    inputs, targets, *_ = tensors
    task = config["task"]
    if list(inputs.shape[1:]) != list(config["input_shape"]):
        return [
            f"data.input_shape={format_value(config['input_shape'])}: the {part} inputs have shape "
            f"{list(inputs.shape[1:])}; null reads it off the data."
        ]
    shape = [len(inputs)] if task == "multiclass" else [len(inputs), config["num_outputs"]]
    kind = torch.int64 if task == "multiclass" else torch.float32
    if list(targets.shape) != shape or targets.dtype != kind:
        return [
            f"data: the {part} targets are {targets.dtype} of shape {list(targets.shape)}; a {task} "
            f"task takes {kind} of shape {shape}."
        ]
    return []


def labels(part: str, targets: Tensor, config: Config) -> list[str]:
    """Whether targets are classes, or 0 and 1, that the model has outputs for."""
    task, count = config["task"], config["num_outputs"]
    if task == "multiclass":
        wrong = targets[(targets < 0) | (targets >= count)]
        if len(wrong):
            return [
                f"data: {len(wrong)} {part} targets lie outside 0..{count - 1}, such as {wrong[0]}; "
                "set data.num_classes, or correct them."
            ]
    elif task in ("binary", "multilabel"):
        wrong = targets[(targets != 0) & (targets != 1)]
        if len(wrong):
            return [
                f"data: {len(wrong)} {part} targets of a {task} task are neither 0 nor 1, such as "
                f"{wrong[0]:g}; correct them, or choose another data.task."
            ]
    return []


def contents(
    part: str, tensors: Sequence[Tensor], parts: Parts, config: Config, auroc: bool
) -> list[str]:
    """Faults of the values of a part held in memory."""
    inputs, targets, *indexes = tensors
    task, count = config["task"], config["num_outputs"]
    faults = non_finite(part, "inputs", inputs, parts.feature_names)
    if task == "multiclass":
        return faults + classes(part, targets, parts, count, auroc)
    faults += non_finite(part, "targets", targets, None)
    if task in ("binary", "multilabel"):
        names = parts.class_names or tuple(map(str, range(count)))
        constant = [names[i] for i in range(count) if (targets[:, i] == targets[0, i]).all()]
        if constant and (part == "train" or auroc):
            what = f"label {', '.join(constant)}" if task == "multilabel" else "the target"
            faults.append(f"data: in the {part} part {what} has one value only; {ONE_VALUE}")
    elif task == "ranking":
        documents = indexes[0].unique_consecutive(return_counts=True)[1]
        if alone := int((documents == 1).sum()):
            faults.append(
                f"data: {alone} of the {len(documents)} queries of the {part} part have one document, "
                "which has no order; leave them out."
            )
    return faults


ONE_VALUE = (
    "for it there is no AUROC; choose another data.split_seed, a larger part, or metrics=none."
)


def classes(part: str, targets: Tensor, parts: Parts, count: int, auroc: bool) -> list[str]:
    present = torch.bincount(targets, minlength=count) > 0
    names = parts.class_names or tuple(map(str, range(count)))
    if part == "train" and not present.all():
        absent = [names[i] for i in (~present).nonzero().flatten().tolist()]
        return [
            f"data: no training sample of class {some(absent)}; choose another data.split_seed, add "
            "samples, or set data.num_classes to the classes there are."
        ]
    if auroc and present.sum() == 1:
        return [f"data: the {part} part holds one class only; {ONE_VALUE}"]
    return []


def non_finite(part: str, kind: str, values: Tensor, names: Sequence[str] | None) -> list[str]:
    if not values.is_floating_point() or math.isfinite(values.sum()) or values.isfinite().all():
        return []
    wrong = (~values.isfinite()).flatten(1).sum(0)
    columns = [names[i] if names else str(i) for i in wrong.nonzero().flatten().tolist()]
    return [
        f"data: {int(wrong.sum())} {part} {kind} are NaN or infinite, in column {some(columns)}; "
        "correct or remove these rows."
    ]


def some(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def load_data(run: Any) -> None:
    """Reads, downloads if need be, and checks the data.

    Raises:
        quartet.core.problems.ConfigError: it cannot be had, or cannot train.
    """
    faults: list[str] = []
    if not run.data.loaded:
        with collect_problems(faults, "data", run.config["data"]):
            faults += check(run.data.load(), run.config["data"], run.config["metrics"])
    if faults:
        raise ConfigError(faults)
