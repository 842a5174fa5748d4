"""Samples from other files, prepared as those of the training were."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2
from tqdm import tqdm

from quartet.core.messages import closest_name
from quartet.data import csv
from quartet.data.image_folder import to_tensor
from quartet.data.loader import make_normalizer, worker_options
from quartet.inference.predictor import Predictor

CHUNK = 8192  # rows of a table that are in memory at once
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zip": "zip"}


class Batch(NamedTuple):
    """A few samples to predict.

    Attributes:
        samples: Names of the samples: numbers, paths, or values of a column.
        inputs: As the model takes them.
        targets: Columns of known targets, or empty.
        queries: Query of each sample, for ranking.
    """

    samples: list[Any]
    inputs: Tensor
    targets: dict[str, list[Any]]
    queries: list[int] | None = None


def read_batches(path: Path, predictor: Predictor, key: str | None) -> Iterator[Batch]:
    """Batches of a table, a picture, or a folder of pictures; never all of it in memory.

    Args:
        path: The file or folder.
        predictor: Predictor of the run.
        key: The column of a table that names its rows; None for their numbers.

    Raises:
        ValueError: it does not hold what the model was trained on.
    """
    metadata = predictor.metadata
    shape = metadata["input_shape"]
    if not path.exists():
        raise ValueError(f"{path} is missing; name a file or a folder.")
    if metadata["encoding"] is not None:
        if path.is_dir():
            raise ValueError(
                f"{path} is a folder; the run was trained on a table, name a csv file."
            )
        return read_table(path, predictor, key)
    if len(shape) == 3 and shape[0] in (1, 3):
        if key is not None:
            raise ValueError("id names a column of a table; leave it out for pictures.")
        return read_pictures(path, metadata, predictor.names)
    raise ValueError(
        f"{path}: the run's data is neither a table (data=csv) nor pictures, and its samples of "
        f"shape {list(shape)} come from nowhere else; split=test predicts those it has."
    )


def read_table(path: Path, predictor: Predictor, key: str | None) -> Iterator[Batch]:
    """Batches of a table, its columns encoded as those of the run's training part."""
    task, metadata = predictor.task, predictor.metadata
    encoding, size = metadata["encoding"], metadata["config"]["eval_batch_size"]
    separator: str = encoding["separator"]
    given = list(pd.read_csv(path, sep=separator, nrows=0).columns)
    features = [*encoding["numeric"], *encoding["categories"]]
    for name in [*features, *([] if key is None else [key])]:
        if name not in given:
            close = closest_name(name, given)
            hint = f"did you mean {close!r}? " if close else ""
            raise ValueError(
                f"{path} has no column {name!r}; {hint}The columns are {', '.join(given)}."
            )
    has_targets = all(name in given for name in encoding["targets"])
    targets = encoding["targets"] if has_targets else []
    # Texts stay as they are written; pandas knows the spellings of true and false.
    texts = [name for name, known in encoding["categories"].items() if not are_flags(known)]
    texts += targets if task.column_type is str else []
    texts += [] if key is None or key in features else [key]
    wanted = list(dict.fromkeys([*features, *targets, *([] if key is None else [key])]))
    compression: Any = COMPRESSIONS.get(path.suffix)
    start = 0
    with (
        path.open("rb") as file,
        tqdm(total=path.stat().st_size, desc="predicting", unit="B", unit_scale=True) as bar,
    ):
        for chunk in pd.read_csv(
            file,
            sep=separator,
            usecols=wanted,
            dtype=dict.fromkeys(texts, str),
            chunksize=max(CHUNK, size),
            compression=compression,
        ):
            if chunk.empty:
                break
            try:
                inputs = csv.encode(chunk, encoding, strict=True)
            except ValueError as error:
                raise ValueError(f"{path}, rows from {start + 1}: {error}") from None
            samples = list(range(start, start + len(chunk)))
            yield Batch(
                samples if key is None else [str(value) for value in chunk[key]],
                inputs,
                task.known_targets(chunk[targets], predictor.names) if targets else {},
            )
            start += len(chunk)
            bar.update(file.tell() - bar.n)
    if not start:
        raise ValueError(f"{path} has no rows below the names of its columns.")


def are_flags(values: Sequence[str | None]) -> bool:
    return {value for value in values if value is not None} <= {"True", "False"}


class PictureFiles(Dataset[Any]):
    """Image files as tensors, or a text that says why one cannot be read.

    Args:
        paths: The files.
        channels: 1 or 3.
        transform: Makes the picture a tensor.
        size: Height and width, of which pictures must be a multiple; None takes any.
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
            with Image.open(self.paths[index]) as image:
                picture = image.convert(self.mode)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return f"{self.paths[index]} cannot be read as a picture: {error}"
        width, height = picture.size
        if self.size and width * self.size[0] != height * self.size[1]:
            return (
                f"{self.paths[index]} is {width} pixels wide and {height} high; the model takes "
                f"{self.size[1]} by {self.size[0]}, cut it to that shape."
            )
        tensor: Tensor = self.transform(picture)
        return tensor


def read_pictures(path: Path, metadata: Mapping[str, Any], names: Sequence[str]) -> Iterator[Batch]:
    """Batches of a picture, or of all pictures in a folder and in the folders within it.

    The folder that a picture lies in is its target, if it is called like a class.
    """
    config = metadata["config"]
    paths = [path]
    if path.is_dir():
        paths = sorted(each for each in path.rglob("*") if each.suffix.lower() in IMG_EXTENSIONS)
    if not paths:
        raise ValueError(f"{path} holds no picture, which end in {', '.join(IMG_EXTENSIONS)}.")
    channels, height, width = metadata["input_shape"]
    any_size = "image_size" in config  # as data=image_folder takes them
    transform = to_tensor(config["image_size"]) if any_size else resize_to(height, width)
    loader: DataLoader[Any] = DataLoader(
        PictureFiles(paths, channels, transform, None if any_size else (height, width)),
        batch_size=config["eval_batch_size"],
        collate_fn=list,
        **worker_options(config["num_workers"]),
    )
    convert = make_normalizer(config["mean"], config["std"], torch.device("cpu"))
    known, start = any(each.parent.name in names for each in paths), 0
    with tqdm(total=len(paths), desc="predicting", unit="picture") as bar:
        for tensors in loader:
            if problems := [each for each in tensors if isinstance(each, str)]:
                raise ValueError(problems[0])
            part = paths[start : start + len(tensors)]
            folders = [each.parent.name for each in part]
            targets = {"target": [each if each in names else None for each in folders]}
            yield Batch(
                [str(each) for each in part],
                convert(torch.stack(tensors)),
                targets if known else {},
            )
            start += len(tensors)
            bar.update(len(tensors))


def resize_to(height: int, width: int) -> v2.Compose:
    return v2.Compose(
        [
            v2.ToImage(),
            v2.Resize((height, width), antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.ToPureTensor(),
        ]
    )
