"""Write the predictions of a trained run as a table, one row a sample."""

import csv
import functools
import importlib.util
import itertools
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2
from tqdm import tqdm

from quartet.build import Run
from quartet.checkpoints import storage
from quartet.compat import quieten
from quartet.config import allow
from quartet.config.configuration import DictConfig, to_container
from quartet.config.instantiate import import_task, is_foreign
from quartet.core.files import create_file, unique_path
from quartet.core.problems import ConfigError, Problem, as_problems, collect_problems, refuse
from quartet.data import nest
from quartet.data.csv import describe_unseen, encode, known_targets, require_fit
from quartet.data.image_folder import to_tensor
from quartet.data.loader import make_normalizer, worker_options
from quartet.data.pictures import PictureError, list_pictures, read_picture, refuse_pictures
from quartet.data.table import CHUNK, Format, TableFile
from quartet.data.task import Columns, Task, as_written, create_task
from quartet.inference.predictor import Predictor, from_checkpoint, from_run, rebuild_run

log = logging.getLogger(__name__)

NEEDED = "predict.py needs a predict_step, which takes a batch."


class Batch(NamedTuple):
    """A few samples to predict.

    Attributes:
        samples: Names of the samples: numbers, paths, or values of a column.
        inputs: Inputs of the model, a nest of tensors.
        targets: Columns of known targets, or empty.
        queries: Query of each sample, for ranking.
    """

    samples: list[Any]
    inputs: Any
    targets: Columns
    queries: list[int] | None = None


def predict(
    cfg: DictConfig,
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
            read, the input does not fit the model, or the output exists.
    """
    quieten()
    source = Path(input).expanduser() if input else None
    name = source.stem if source else split
    has_columns = gives_columns(cfg)
    suffix = ".csv" if has_columns else ".pt"
    default = unique_path(Path(directory) / f"predictions-{name}{suffix}")
    output = Path(output).expanduser() if output else default
    check_output(output, has_columns, cfg)
    if source is None and id is not None:
        message = "names a column of a table; add input=FILE, or leave it out."
        raise ConfigError(Problem("id", message, id))
    if source is None:
        splits = ("test", "val", "train")
        run, path = rebuild_run(cfg, Path(directory), split, checkpoint, splits=splits)
        if run.is_known:
            predictor = from_run(run, path)
            count = write_predictions(predictor, read_part(run, predictor, split), output)
        else:
            count = write_steps(run, path, split, output)
    elif is_foreign(to_container(cfg, resolve=False), "module"):
        message = "a module of your own reads its data itself; leave it out, split=test predicts "
        raise ConfigError(Problem("input", f"{message}a part of it.", str(source)))
    elif not source.exists():
        message = f"{source} is missing; name a file or a folder."
        raise ConfigError(Problem("input", message, str(source)))
    else:
        predictor = from_checkpoint(cfg, Path(directory), checkpoint)
        try:
            batches = read_batches(source, predictor, id, cfg, Path(directory), checkpoint)
            count = write_predictions(predictor, batches, output)
        except (ValueError, OSError) as error:
            raise ConfigError(Problem("input", str(error), str(source))) from None
    note = "" if has_columns else ", tensors for torch.load: the task has no columns"
    print(f"{count:,} predictions in {output}{note}")
    return output


def gives_columns(cfg: DictConfig) -> bool:
    """Whether predictions are columns of a table; else they are tensors."""
    raw = to_container(cfg, resolve=False)
    if is_foreign(raw, "module") or is_foreign(raw, "data"):
        return False
    with as_problems("data.task"):
        import_task(name := cfg.data.get("task"))
        task = create_task(name)
    return type(task).prediction_columns is not Task.prediction_columns


def write_steps(run: Run, checkpoint: str, split: str, output: Path) -> int:
    """Writes what the ``predict_step`` of a Lightning module gives for each batch of a part."""
    weights = storage.load(checkpoint)["state_dict"]
    storage.load_state(run.module, weights, "checkpoint", checkpoint)
    run.data.prepare_data()
    run.data.setup("fit" if split in ("train", "val") else split)
    loader = getattr(run.data, f"{split}_dataloader")()
    with collect_problems([], "module") as problems:
        found = run.trainer.predict(run.module, dataloaders=loader)
    refuse(Problem("module", f"{each.message}; {NEEDED}") for each in problems[:1])
    with create_file(output) as part:
        torch.save(found, part)
    return sum(nest.size(batch) for batch in found or ())


def check_output(output: Path, has_columns: bool, cfg: DictConfig) -> None:
    """Raises ConfigError if the file exists or has another suffix, or a package is missing."""
    message = ""
    if output.exists():
        message = "exists, and was not touched; name another file."
    elif not has_columns and output.suffix != ".pt":
        message = "must end in .pt: the task gives no columns, and tensors are written as they are."
    elif not has_columns:
        pass
    elif output.suffix not in ("", ".csv", ".parquet"):
        message = "must end in .csv or .parquet."
    elif output.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        other = output.with_suffix(".csv")
        message = f'parquet needs pyarrow, pip install -e ".[parquet]"; {other} needs nothing.'
    if not message:
        return
    problems = [Problem("output", message, output)]
    if is_foreign(raw := to_container(cfg, resolve=False), "module"):
        target = raw["module"]["_target_"]
        found: Any = allow.locate(target)
        if found.predict_step is LightningModule.predict_step:
            problems.append(Problem("module", f"{target} has no predict_step; {NEEDED}"))
    raise ConfigError(*problems)


# Reading


def read_part(run: Run, predictor: Predictor, split: str) -> Iterator[Batch]:
    """Batches of train, val or test, by the numbers of their samples."""
    count, task = 0, predictor.task
    exact = run.data.parts.exact_targets.get(split)
    for batch in tqdm(run.data.part_loader(split), desc="predicting", unit="batch", leave=False):
        inputs, targets, extras = task.split(batch)
        labels = task.labels(nest.map_tensors(predictor.to_device, targets))
        size = nest.size(targets)
        columns = task.target_columns(labels, predictor.names)
        if exact is not None:
            values = exact[count : count + size].T.tolist()
            written = [list(map(as_written, each)) for each in values]
            columns = dict(zip(columns, written, strict=True))
        yield Batch(
            list(range(count, count + size)),
            inputs,
            columns,
            extras["indexes"].tolist() if task.has_queries else None,
        )
        count += size


def read_batches(
    path: Path,
    predictor: Predictor,
    key: str | None,
    cfg: DictConfig,
    directory: Path,
    checkpoint: str,
) -> Iterator[Batch]:
    """Batches of a table, a picture, a folder of pictures, or what the data reads otherwise.

    `key` is the column of a table that names its rows; None for their numbers.

    Raises:
        ValueError: it does not hold samples of the kind that the model was trained on.
    """
    if predictor.metadata["encoding"] is not None:
        if path.is_dir():
            raise ValueError(f"{path} is a folder; the run was trained on a table, name a file.")
        return read_table(path, predictor, key)
    if key is not None:
        raise ValueError("id names a column of a table; leave it out for pictures and other files.")
    shape = predictor.metadata["input_shape"] or []
    if len(shape) == 3 and shape[0] in (1, 3):
        return read_pictures(path, predictor)
    run, checkpoint = rebuild_run(cfg, directory, "train", checkpoint, ("train",), path)
    return read_part(run, predictor, "test")


def read_table(path: Path, predictor: Predictor, key: str | None) -> Iterator[Batch]:
    """Batches of a table, its columns encoded as those of the run's training part."""
    task: Any = predictor.task
    metadata, config = predictor.metadata, predictor.metadata["config"]
    encoding, form = metadata["encoding"], Format.of(config)
    table = TableFile(path, form)
    given = table.names
    require_fit(given, encoding, form, str(path), [] if key is None else [key])
    targets: list[str] = encoding["targets"] if set(encoding["targets"]) <= set(given) else []
    texts = [*encoding["categories"], *targets, *([] if key is None else [key])]
    columns = [*dict.fromkeys([*encoding["numeric"], *texts])]
    unseen: Counter[str] | None = Counter() if config.get("unseen") == "zeros" else None
    filled = Counter[str]()
    start = 0
    with tqdm(desc="predicting", unit="row", unit_scale=True) as bar:
        for chunk in table.chunks(columns, texts, max(CHUNK, config["eval_batch_size"])):
            try:
                inputs = encode(chunk, encoding, form, unseen, filled)
                known = known_targets({name: chunk[name] for name in targets}, task, form)
            except ValueError as error:
                raise ValueError(f"{path}, rows from {start + 1}: {error}") from None
            count = len(inputs)
            numbers = list(range(start, start + count))
            yield Batch(
                numbers if key is None else list(chunk[key]),
                inputs,
                task.known_targets(known, predictor.names) if targets else {},
            )
            start += count
            bar.update(count)
    for note in describe_unseen(unseen, filled):
        log.warning("%s: %s.", path, note)


class PictureFiles(Dataset[Any]):
    """Image files as tensors, or a text that says why one cannot be read.

    Their height and width must be a multiple of `size`; None accepts any.
    """

    def __init__(
        self, paths: Sequence[Path], channels: int, transform: Any, size: tuple[int, int] | None
    ) -> None:
        self.paths, self.mode = paths, "L" if channels == 1 else "RGB"
        self.transform, self.size = transform, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            picture = read_picture(self.paths[index], self.mode)
        except PictureError as error:
            return str(error)
        height, width = v2.functional.get_size(picture)
        if self.size and width * self.size[0] != height * self.size[1]:
            shape = f"the model takes the shape {self.size[1]} by {self.size[0]}"
            return f"{self.paths[index]} is {width} pixels wide and {height} high, and {shape}"
        tensor: Tensor = self.transform(picture)
        return tensor


def read_pictures(path: Path, predictor: Predictor) -> Iterator[Batch]:
    """Batches of a picture, or of all pictures in a folder and in the folders within it.

    The name of a picture's folder is its target, if it is the name of a class.
    """
    config, names = predictor.metadata["config"], predictor.names
    left_out: dict[str, int] = {}
    paths = [Path(each) for each in list_pictures(path, left_out)] if path.is_dir() else [path]
    if not paths:
        raise ValueError(f"{path} holds no picture, which end in {', '.join(IMG_EXTENSIONS)}.")
    for kind, count in left_out.items():
        log.warning("input: %d %s left out, which are no pictures.", count, kind)
    channels, height, width = predictor.metadata["input_shape"]
    any_size = "image_size" in config  # as data=image_folder accepts them
    transform = to_tensor(config["image_size"] if any_size else (height, width))
    loader: DataLoader[Any] = DataLoader(
        PictureFiles(paths, channels, transform, None if any_size else (height, width)),
        batch_size=config["eval_batch_size"],
        collate_fn=list,
        **worker_options(config["num_workers"]),
    )
    convert = make_normalizer(config["mean"], config["std"], torch.device("cpu"))
    has_targets, start = any(each.parent.name in names for each in paths), 0
    problems: list[str] = []
    with tqdm(total=len(paths), desc="predicting", unit="picture") as bar:
        for tensors in loader:
            problems += [each for each in tensors if isinstance(each, str)]
            if problems:  # the others are read to name all of them
                continue
            part = paths[start : start + len(tensors)]
            folders = [each.parent.name for each in part]
            targets = {"target": [each if each in names else None for each in folders]}
            inputs = convert(torch.stack(tensors))
            yield Batch([str(each) for each in part], inputs, targets if has_targets else {})
            start += len(tensors)
            bar.update(len(tensors))
    refuse_pictures(problems, "Correct or remove" if any_size else "Cut or remove")


# Writing


def write_predictions(predictor: Predictor, batches: Iterable[Batch], output: Path) -> int:
    """Writes a row for each sample, batch by batch, and returns their number.

    The file gets its name when it is complete.
    """
    blocks = (predict_batch(predictor, batch) for batch in batches)
    with create_file(output) as part:
        if output.suffix == ".pt":
            found = list(blocks)  # a dict for each batch, for torch.load; all are in memory
            torch.save(found, part)
            return sum(len(columns["sample"]) for columns in found)
        if output.suffix == ".parquet":
            return write_parquet(part, blocks, getattr(predictor.task, "column_type", None))
        return write_csv(part, blocks)


def predict_batch(predictor: Predictor, batch: Batch) -> Columns:
    size, count = predictor.metadata["config"]["eval_batch_size"], len(batch.samples)
    parts = [batch.inputs]
    if count > size:
        parts = [nest.select(batch.inputs, rows) for rows in torch.arange(count).split(size)]
    to_cpu = functools.partial(nest.map_tensors, Tensor.cpu)
    predictions = nest.concatenate([to_cpu(predictor(part)) for part in parts])
    columns = predictor.task.prediction_columns(predictions, predictor.names)
    for name, column in {**batch.targets, **(columns or {})}.items():
        if len(column) != count:
            message = f"its column {name} has {len(column)} values for {count} samples; correct the"
            message += " task's prediction_columns or target_columns."
            raise ConfigError(Problem("data.task", message))
    return {
        "sample": batch.samples,
        **({} if batch.queries is None else {"query": batch.queries}),
        **batch.targets,
        **({"prediction": predictions} if columns is None else columns),
    }


def write_csv(path: Path, blocks: Iterator[Columns]) -> int:
    count = 0
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        for columns in blocks:
            if not count:
                writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
            count += len(columns["sample"])
    return count


def write_parquet(path: Path, blocks: Iterator[Columns], column_type: type | None) -> int:
    """Writes blocks of columns; those of targets and predictions are of `column_type`.

    Without one they are of the type of their first value.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    types = {str: pa.string(), int: pa.int64(), float: pa.float64()}

    def type_of(name: str, values: list[Any]) -> Any:
        if name in ("sample", "query"):
            return types[type(values[0])]
        return types[float if name.startswith("probability_") else column_type or type(values[0])]

    first, count = next(blocks), 0
    schema = pa.schema({name: type_of(name, values) for name, values in first.items()})
    with ParquetWriter(path, schema) as writer:
        for columns in itertools.chain([first], blocks):
            writer.write_table(pa.table(columns, schema=schema))
            count += len(columns["sample"])
    return count
