"""Predictions of a trained run as a table, a row a sample."""

import csv
import importlib.util
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from quartet.inference.inputs import Batch
from quartet.inference.predictor import Predictor
from quartet.records.loggers import shorten_float

if TYPE_CHECKING:
    from quartet.build import Run

Columns = dict[str, list[Any]]


def faults(output: Path) -> list[str]:
    """Why predictions cannot go to a file."""
    if output.exists():
        return [f"output={output}: is there already, and was not touched; name another file."]
    if output.suffix not in ("", ".csv", ".parquet"):
        return [f"output={output}: must end in .csv or .parquet."]
    if output.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        return [
            f'output={output}: parquet needs pyarrow, pip install -e ".[parquet]"; '
            f"{output.with_suffix('.csv')} needs nothing."
        ]
    return []


def of_part(run: "Run", split: str, names: Sequence[str]) -> Iterator[Batch]:
    """Batches of train, val or test, by the numbers of their samples."""
    count, task = 0, run.config["data"]["task"]
    for batch in tqdm(run.data.part_loader(split), desc="predicting", unit="batch", leave=False):
        inputs, targets, *indexes = batch
        labels = run.module.task.labels(targets.to(run.trainer.strategy.root_device))  # type: ignore[operator]
        yield Batch(
            list(range(count, count + len(targets))),
            inputs,
            truth(task, names, labels),
            indexes[0].tolist() if indexes else None,
        )
        count += len(targets)


def write(trained: Predictor, batches: Iterable[Batch], output: Path) -> int:
    """Writes a row for each sample, batch by batch, and returns their number.

    The file takes its name when it is whole.
    """
    task, names, count = trained.facts["task"], trained.names, 0
    size = trained.facts["config"]["eval_batch_size"]
    with writing(output, task) as add:
        for batch in batches:
            predictions = torch.cat([trained(part).cpu() for part in batch.inputs.split(size)])
            add(
                {
                    "sample": batch.samples,
                    **({} if batch.queries is None else {"query": batch.queries}),
                    **batch.targets,
                    **columns(task, names, predictions),
                }
            )
            count += len(batch.samples)
    return count


def truth(task: str, names: Sequence[str], labels: Tensor) -> Columns:
    """Columns of targets, as the task makes them comparable to predictions."""
    if task in ("multiclass", "binary"):
        return {"target": [names[label] for label in labels.tolist()]}
    values = labels.reshape(len(labels), -1).T.tolist()
    if task != "multilabel":
        values = [[shorten_float(each) for each in column] for column in values]
    return dict(zip(titles("target", task, names), values, strict=True))


def columns(task: str, names: Sequence[str], predictions: Tensor) -> Columns:
    """Columns of predictions: the class and every class's probability, or the values."""
    if task == "binary":
        predictions = torch.stack([1 - predictions, predictions], dim=1)
    values = predictions.reshape(len(predictions), -1)
    told = [[shorten_float(each) for each in column] for column in values.T.tolist()]
    if task in ("regression", "ranking"):
        return dict(zip(titles("prediction", task, names), told, strict=True))
    probabilities = dict(zip((f"probability_{name}" for name in names), told, strict=True))
    if task == "multilabel":
        guesses = (values > 0.5).int().T.tolist()
        return dict(zip(titles("prediction", task, names), guesses, strict=True)) | probabilities
    return {"prediction": [names[each] for each in values.argmax(1).tolist()]} | probabilities


def titles(kind: str, task: str, names: Sequence[str]) -> list[str]:
    if task == "multilabel" or len(names) > 1:
        return [f"{kind}_{name}" for name in names]
    return [kind]


@contextmanager
def writing(output: Path, task: str) -> Iterator[Callable[[Columns], None]]:
    """What adds rows to a file, csv or parquet by its suffix, that is there only when it is whole.

    Raises:
        FileExistsError: another program wrote a file of this name meanwhile.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as folder:
        part = Path(folder) / output.name
        with (parquet if output.suffix == ".parquet" else plain)(part, task) as add:
            yield add
        if output.exists():
            raise FileExistsError(f"{output} was written by another program; name another file.")
        part.rename(output)


@contextmanager
def plain(path: Path, task: str) -> Iterator[Callable[[Columns], None]]:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)

        def add(columns: Columns) -> None:
            if not file.tell():
                writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))

        yield add


@contextmanager
def parquet(path: Path, task: str) -> Iterator[Callable[[Columns], None]]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    answers = {"multiclass": pa.string(), "binary": pa.string(), "multilabel": pa.int64()}
    writer: ParquetWriter | None = None

    def kind(name: str, values: list[Any]) -> Any:
        if name in ("sample", "query"):
            return pa.string() if isinstance(values[0], str) else pa.int64()
        return pa.float64() if name.startswith("probability_") else answers.get(task, pa.float64())

    def add(columns: Columns) -> None:
        nonlocal writer
        if writer is None:
            fields = {name: kind(name, values) for name, values in columns.items()}
            writer = ParquetWriter(path, pa.schema(fields))
        writer.write_table(pa.table(columns, schema=writer.schema))

    try:
        yield add
    finally:
        if writer is not None:
            writer.close()
