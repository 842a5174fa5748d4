"""Samples from files of a person's own, prepared as those of the training were."""

import difflib
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

from quartet.data import csv
from quartet.data.image_folder import to_tensor
from quartet.data.loader import make_normalizer, worker_options

CHUNK = 8192  # rows of a table that are in memory at once
PACKED = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zip": "zip"}


class Batch(NamedTuple):
    """Some samples.

    Attributes:
        samples: What names each of them: a number, a path, or a value of a column.
        inputs: As the model takes them.
        targets: Columns of what is known to be true, or empty.
        queries: Of each sample, for ranking.
    """

    samples: list[Any]
    inputs: Tensor
    targets: dict[str, list[Any]]
    queries: list[int] | None = None


def batches(path: Path, facts: Mapping[str, Any], names: Sequence[str], key: str | None) -> Any:
    """Batches of a table, a picture, or a folder of pictures; never all of it in memory.

    Args:
        path: The file or folder.
        facts: Of `quartet.inference.predictor.Predictor`.
        names: Of the classes, labels or values.
        key: The column of a table that names its rows; None for their numbers.

    Raises:
        ValueError: it does not hold what the model was trained on.
    """
    shape = facts["input_shape"]
    if not path.exists():
        raise ValueError(f"{path} is missing; name a file or a folder.")
    if facts["encoding"] is not None:
        if path.is_dir():
            raise ValueError(
                f"{path} is a folder; the run was trained on a table, name a csv file."
            )
        return rows(path, facts, names, key)
    if len(shape) == 3 and shape[0] in (1, 3):
        if key is not None:
            raise ValueError("id names a column of a table; leave it out for pictures.")
        return pictures(path, facts, names)
    raise ValueError(
        f"{path}: the run's data is neither a table (data=csv) nor pictures, and its samples of "
        f"shape {list(shape)} come from nowhere else; split=test predicts those it has."
    )


def rows(
    path: Path, facts: Mapping[str, Any], names: Sequence[str], key: str | None
) -> Iterator[Batch]:
    """Batches of a table, its columns encoded by the training part of that of the run."""
    encoding, size = facts["encoding"], facts["config"]["eval_batch_size"]
    separator: str = encoding["separator"]
    packed: Any = PACKED.get(path.suffix)
    given = list(pd.read_csv(path, sep=separator, nrows=0).columns)
    features = [*encoding["numeric"], *encoding["categories"]]
    for name in [*features, *([] if key is None else [key])]:
        if name not in given:
            close = difflib.get_close_matches(name, given, 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(
                f"{path} has no column {name!r}; {hint}The columns are {', '.join(given)}."
            )
    known = all(name in given for name in encoding["targets"])
    targets = encoding["targets"] if known else []
    # Texts stay as they are written; of yes and no there are several spellings, which pandas knows.
    texts = [name for name, of in encoding["categories"].items() if not flags(of)]
    texts += [] if facts["task"] in ("regression", "multilabel") else targets
    texts += [] if key is None or key in features else [key]
    wanted = list(dict.fromkeys([*features, *targets, *([] if key is None else [key])]))
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
            compression=packed,
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
                truth(chunk[targets], facts["task"], names),
            )
            start += len(chunk)
            bar.update(file.tell() - bar.n)
    if not start:
        raise ValueError(f"{path} has no rows below the names of its columns.")


def flags(values: Sequence[str | None]) -> bool:
    return {value for value in values if value is not None} <= {"True", "False"}


def truth(columns: pd.DataFrame, task: str, names: Sequence[str]) -> dict[str, list[Any]]:
    """The columns of targets; a class under the name that the training gave it, where it has one."""
    if columns.empty:
        return {}
    if task in ("regression", "multilabel"):
        alone = columns.shape[1] == 1 and task == "regression"
        whole = int if task == "multilabel" else float
        return {
            "target" if alone else f"target_{name}": [
                None if pd.isna(value) else whole(value) for value in columns[name]
            ]
            for name in columns
        }
    numbers = {}
    for name in names:  # 1 may be written as 1.0
        try:
            numbers[float(name)] = name
        except ValueError:
            continue

    def name_of(value: Any) -> str | None:
        if pd.isna(value):
            return None
        text = str(value)
        if text in names or not numbers:
            return text
        try:
            return numbers.get(float(text), text)
        except ValueError:
            return text

    return {"target": [name_of(value) for value in columns.iloc[:, 0]]}


class Pictures(Dataset[Any]):
    """Image files as tensors, or a text that says why one is none.

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


def pictures(path: Path, facts: Mapping[str, Any], names: Sequence[str]) -> Iterator[Batch]:
    """Batches of a picture, or of all pictures in a folder and those within it.

    The folder that a picture lies in is its target, if it is called like a class.
    """
    config = facts["config"]
    paths = [path]
    if path.is_dir():
        paths = sorted(each for each in path.rglob("*") if each.suffix.lower() in IMG_EXTENSIONS)
    if not paths:
        raise ValueError(f"{path} holds no picture, which end in {', '.join(IMG_EXTENSIONS)}.")
    channels, height, width = facts["input_shape"]
    free = "image_size" in config  # data=image_folder takes pictures of any size
    transform = to_tensor(config["image_size"]) if free else exactly(height, width)
    loader: DataLoader[Any] = DataLoader(
        Pictures(paths, channels, transform, None if free else (height, width)),
        batch_size=config["eval_batch_size"],
        collate_fn=list,
        **worker_options(config["num_workers"]),
    )
    convert = make_normalizer(config["mean"], config["std"], torch.device("cpu"))
    known, start = any(each.parent.name in names for each in paths), 0
    with tqdm(total=len(paths), desc="predicting", unit="picture") as bar:
        for found in loader:
            if faults := [each for each in found if isinstance(each, str)]:
                raise ValueError(faults[0])
            part = paths[start : start + len(found)]
            folders = [each.parent.name for each in part]
            targets = {"target": [each if each in names else None for each in folders]}
            yield Batch(
                [str(each) for each in part], convert(torch.stack(found)), targets if known else {}
            )
            start += len(found)
            bar.update(len(found))


def exactly(height: int, width: int) -> v2.Compose:
    return v2.Compose(
        [
            v2.ToImage(),
            v2.Resize((height, width), antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.ToPureTensor(),
        ]
    )
