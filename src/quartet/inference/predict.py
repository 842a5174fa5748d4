"""Write the predictions of a trained run as a table, one row a sample."""

import csv
import importlib.util
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from quartet.build import Run
from quartet.compat.lightning import quieten
from quartet.core.files import unique_path
from quartet.core.problems import ConfigError, Problem
from quartet.data.task import Columns
from quartet.inference import inputs
from quartet.inference.inputs import Batch
from quartet.inference.predictor import (
    Predictor,
    find_checkpoint,
    from_checkpoint,
    from_run,
    rebuild_run,
)

if TYPE_CHECKING:
    from omegaconf import DictConfig


def predict(
    cfg: "DictConfig",
    directory: str | Path,
    *,
    split: str = "test",
    checkpoint: str = "best",
    input: str | Path | None = None,  # noqa: A002 (the key of the command)
    id: str | None = None,  # noqa: A002
    output: str | Path | None = None,
) -> Path:
    """Writes a run's predictions, batch by batch, so that memory does not grow with their number.

    Columns: sample, the number of the row, the path of a picture or the value of the column `id`;
    query, for ranking; target, if it is known; prediction; and for classification the probability
    of every class.

    Args:
        cfg: The configuration it was trained with, data settings perhaps changed.
        directory: Directory of the run.
        split: train, val or test, of the run's own data.
        checkpoint: best, last, or the path or URL of a file.
        input: A csv table, a picture or a folder of pictures to predict instead; None for `split`.
        id: The column of that table that names its rows; None for their numbers.
        output: The file, ``.csv`` or ``.parquet``; None for ``predictions-SPLIT.csv`` (of the
            input's name, if there is one) in the directory, with a number if that exists.

    Returns:
        The path of the file.

    Raises:
        quartet.core.problems.ConfigError: there is no such split or checkpoint, the data cannot be
            read, the input does not fit what the model was trained on, or the output exists.
    """
    quieten()
    source = Path(input).expanduser() if input else None
    name = source.stem if source else split
    default = unique_path(Path(directory) / f"predictions-{name}.csv")
    output = Path(output).expanduser() if output else default
    check_output(output)
    if source is None:
        splits = ("test", "val", "train")
        run, path = rebuild_run(cfg, Path(directory), split, checkpoint, splits=splits)
        predictor = from_run(run, path)
        count = write_predictions(predictor, read_part(run, predictor, split), output)
    else:
        path = find_checkpoint(Path(directory), checkpoint)
        predictor = from_checkpoint(cfg, Path(directory), path)
        try:
            batches = inputs.read_batches(source, predictor, id)
            count = write_predictions(predictor, batches, output)
        except (ValueError, OSError) as error:
            raise ConfigError(Problem("input", str(error), str(source))) from None
    print(f"{count:,} predictions in {output}")
    return output


def check_output(output: Path) -> None:
    """Refuses a file that predictions cannot be written to.

    Raises:
        ConfigError: it exists, has another suffix, or a package is missing.
    """
    if output.exists():
        message = "exists, and was not touched; name another file."
    elif output.suffix not in ("", ".csv", ".parquet"):
        message = "must end in .csv or .parquet."
    elif output.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        other = output.with_suffix(".csv")
        message = f'parquet needs pyarrow, pip install -e ".[parquet]"; {other} needs nothing.'
    else:
        return
    raise ConfigError(Problem("output", message, str(output)))


def read_part(run: Run, predictor: Predictor, split: str) -> Iterator[Batch]:
    """Batches of train, val or test, by the numbers of their samples."""
    count, task = 0, predictor.task
    for batch in tqdm(run.data.part_loader(split), desc="predicting", unit="batch", leave=False):
        inputs, targets, *indexes = batch
        labels = task.labels(targets.to(predictor.device))
        yield Batch(
            list(range(count, count + len(targets))),
            inputs,
            task.target_columns(labels, predictor.names),
            indexes[0].tolist() if indexes else None,
        )
        count += len(targets)


def write_predictions(predictor: Predictor, batches: Iterable[Batch], output: Path) -> int:
    """Writes a row for each sample, batch by batch, and returns their number.

    The file takes its name when it is complete.
    """
    task, names, count = predictor.task, predictor.names, 0
    size = predictor.metadata["config"]["eval_batch_size"]
    with open_table(output, task.column_type) as write:
        for batch in batches:
            predictions = torch.cat([predictor(part).cpu() for part in batch.inputs.split(size)])
            write(
                {
                    "sample": batch.samples,
                    **({} if batch.queries is None else {"query": batch.queries}),
                    **batch.targets,
                    **task.prediction_columns(predictions, names),
                }
            )
            count += len(batch.samples)
    return count


@contextmanager
def open_table(output: Path, column_type: type) -> Iterator[Callable[[Columns], None]]:
    """Opens a file, csv or parquet by its suffix, that takes its name when it is complete.

    Args:
        output: The file.
        column_type: Of the columns of targets and predictions.

    Returns:
        A function that writes rows, given columns of equal length.

    Raises:
        FileExistsError: another program wrote a file of this name meanwhile.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as folder:
        part = Path(folder) / output.name
        with (open_parquet if output.suffix == ".parquet" else open_csv)(
            part, column_type
        ) as write:
            yield write
        if output.exists():
            raise FileExistsError(f"{output} was written by another program; name another file.")
        part.rename(output)


@contextmanager
def open_csv(path: Path, column_type: type) -> Iterator[Callable[[Columns], None]]:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)

        def write(columns: Columns) -> None:
            if not file.tell():
                writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))

        yield write


@contextmanager
def open_parquet(path: Path, column_type: type) -> Iterator[Callable[[Columns], None]]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    writer: ParquetWriter | None = None

    def type_of(name: str, values: list[Any]) -> Any:
        if name in ("sample", "query"):
            return types[type(values[0])]
        return types[float if name.startswith("probability_") else column_type]

    def write(columns: Columns) -> None:
        nonlocal writer
        if writer is None:
            fields = {name: type_of(name, values) for name, values in columns.items()}
            writer = ParquetWriter(path, pa.schema(fields))
        writer.write_table(pa.table(columns, schema=writer.schema))

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()
