"""Predictions of a trained run as a table."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from quartet import storage
from quartet.logger import shortest

if TYPE_CHECKING:
    from quartet.build import Run


def write(run: "Run", checkpoint: str, split: str, output: Path) -> int:
    """Writes a row for each sample, batch by batch, and returns their number."""
    module, task = run.module, run.config["data"]["task"]
    device = run.trainer.strategy.root_device
    module.load_state_dict(storage.load(checkpoint)["state_dict"])
    module.to(device).eval()
    loader: DataLoader[Any] = run.data.part_loader(split)
    names = class_names(run)
    output.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with output.open("w", newline="") as file, torch.inference_mode():
        writer = csv.writer(file)
        for batch in tqdm(loader, desc="predicting", unit="batch", leave=False):
            inputs, targets, *indexes = (tensor.to(device) for tensor in batch)
            outputs = module(inputs)
            predictions, labels = module.task(outputs), module.task.labels(targets)  # type: ignore[operator]
            if not count:
                writer.writerow(["sample", *(["query"] if indexes else []), *header(task, names)])
            queries = [[int(query)] for query in indexes[0]] if indexes else [[]] * len(targets)
            for query, row in zip(queries, rows(task, names, predictions, labels), strict=True):
                writer.writerow([count, *query, *row])
                count += 1
    return count


def class_names(run: "Run") -> list[str]:
    data = run.config["data"]
    count = data["num_outputs"] if data["task"] != "binary" else 2
    return list(run.data.parts.class_names or map(str, range(count)))


def header(task: str, names: list[str]) -> list[str]:
    """Columns after the sample's number."""
    if task in ("multiclass", "binary"):
        return ["target", "prediction", *(f"probability_{name}" for name in names)]
    if task == "multilabel":
        kinds = ("target", "prediction", "probability")
        return [f"{kind}_{name}" for kind in kinds for name in names]
    if len(names) == 1:
        return ["target", "prediction"]
    return [f"{kind}_{name}" for kind in ("target", "prediction") for name in names]


def rows(task: str, names: list[str], predictions: Tensor, labels: Tensor) -> Iterator[list[Any]]:
    """The columns of `header`, sample by sample.

    Args:
        task: Of the data.
        names: Of the classes, labels or values.
        predictions: As the task makes them of raw outputs.
        labels: As the task makes them of targets.
    """
    if task == "binary":
        predictions = torch.stack([1 - predictions, predictions], dim=1)
    for prediction, label in zip(predictions.cpu(), labels.cpu(), strict=True):
        values = [shortest(value) for value in prediction.reshape(-1).tolist()]
        truth = label.reshape(-1).tolist()
        if task in ("multiclass", "binary"):
            yield [names[truth[0]], names[int(prediction.argmax())], *values]
        elif task == "multilabel":
            yield [*truth, *(int(value > 0.5) for value in values), *values]
        else:
            yield [*map(shortest, truth), *values]
