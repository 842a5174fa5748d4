"""Pictures in folders, one folder for each class."""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2

from quartet.core.messages import join_and, shorten
from quartet.data.pictures import (
    PictureError,
    check_pictures,
    is_hidden,
    list_pictures,
    read_picture,
)
from quartet.data.split import (
    Fold,
    IntArray,
    Parts,
    Rows,
    file_size,
    find_duplicates,
    hash_files,
    split,
)

PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
FEW = 20_000  # pictures that are read in seconds
LAYOUT = "a folder for each class, or train/ (and val/, test/) that hold one for each class"


def image_folder(
    *,
    path: str | None,
    image_size: int,
    classes: Sequence[str] | None,
    check_files: bool | None,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    fold: Fold | None = None,
    prepared: Mapping[str, Any] | None = None,
) -> Parts:
    """Reads pictures when they are needed: float32 ``(3, size, size)`` in [0, 1], and the class.

    The shorter side is resized to ``image_size`` and the center is cropped. Grey pictures have three
    equal channels. Pictures are read as a viewer shows them: `quartet.data.pictures.read_picture`.

    Args:
        path: A folder of class folders; or one with ``train/`` and perhaps ``val/`` and ``test/``,
            each a folder of class folders. ``valid/``, ``Test/`` and the like are these parts, too. A
            part without a folder is split off from the training pictures.
        image_size: Height and width of the inputs in pixels, at least 1.
        classes: Names of the class folders, in the order of the class indices; None for those of
            the training part in the order of their names. Another part may lack some of them.
        check_files: Whether to read every picture once beforehand, and to name all that are damaged;
            None: if there are at most `FEW`.
        val_fraction: Share of the training pictures for validation, in [0, 1); unused with val/.
        test_fraction: Share of the training pictures for testing, in [0, 1); unused with test/.
        split_seed: Seed of the stratified split.
        fold: Fold of the rest that is the validation part instead of a fraction, and their number.
        prepared: Metadata of a run, whose classes are those of other pictures, too; None for a new one.

    Raises:
        ValueError: path is not such a folder, a part has a class of its own, a class has no training
            picture, a picture cannot be read, or a number is out of range.
    """
    if path is None:
        raise ValueError("path is not set; data.path=FOLDER names the folder of class folders.")
    if image_size < 1:
        raise ValueError(f"image_size must be at least 1, got {image_size}; 64 suits small models.")
    root = Path(path).expanduser().resolve()
    if not root.is_dir():
        raise ValueError(f"path {root} is not a folder; data.path=FOLDER has {LAYOUT}.")
    notes: list[str] = []
    classes = (prepared or {}).get("class_names") or classes
    folders = find_parts(root, notes)
    names = list_classes(folders["train"]) if classes is None else [str(name) for name in classes]
    if classes is None and len(names) == 1:
        inner = folders["train"] / names[0]
        hint = f"; data.path={inner} holds {LAYOUT}" if list_classes(inner) else ""
        raise ValueError(f"path {root} has one class only, {names[0]}{hint or '; add another'}.")
    make = partial(Pictures, classes=names, transform=to_tensor(image_size))

    def are_checked(count: int) -> bool:
        return count <= FEW if check_files is None else check_files

    def read(*places: Path) -> list[Pictures]:
        found = [make(place, notes=notes) for place in places]
        if are_checked(count := sum(map(len, found))):  # all of them at once
            check_pictures([path for pictures in found for path, _ in pictures.samples])
        elif check_files is None:
            notes.append(f"{count:,} pictures were not read beforehand; data.check_files=true does")
        return found

    parts = dict(zip(folders, read(*folders.values()), strict=True))
    train, own = parts.pop("train"), parts
    if classes is None and (empty := set(range(len(names))) - set(train.targets)):
        raise ValueError(
            f"path {root}: no picture of class {join_and([names[i] for i in sorted(empty)])} in "
            f"{folders['train']}; add pictures, or remove its folder"
            + "".join(f"; {note}" for note in notes)
        )
    if fold and "val" in own:
        raise ValueError(
            f"folds: {folders['val']} is the validation part already; set data.folds=null, or move "
            "its pictures to train."
        )
    rows = split(
        len(train),
        val_fraction=0 if "val" in own else val_fraction,
        test_fraction=0 if "test" in own else test_fraction,
        split_seed=split_seed,
        fold=fold,
        stratify=np.array(names)[train.targets],
    )
    found = {part: own.get(part) or train.select(getattr(rows, part)) for part in Rows._fields}
    files = {part: [path for path, _ in pictures.samples] for part, pictures in found.items()}
    if are_checked(sum(map(len, files.values()))) and prepared is None:
        notes += _describe_duplicates(files)
    return Parts(
        found["train"],
        found["val"] if files["val"] else None,
        found["test"] if files["test"] else None,
        class_names=tuple(names),
        read=lambda folder: read(folder)[0],
        notes=tuple(notes),
        hashes={part: hash_files(paths, root, False) for part, paths in files.items()},
    )


class Pictures(Dataset[tuple[Tensor, int]]):
    """The pictures of class folders.

    Args:
        folder: Has a folder for each class, or for some of them.
        classes: Their names, in the order of the class indices.
        transform: Makes a picture a tensor.
        notes: Gets a line about files that are left out.

    Attributes:
        samples: Path and class index of each picture.
        targets: The class indices.

    Raises:
        ValueError: a folder is none of the classes, or none has a picture.
    """

    def __init__(
        self,
        folder: Path,
        *,
        classes: Sequence[str],
        transform: v2.Compose,
        notes: list[str],
    ) -> None:
        self.transform = transform
        found = list_classes(folder)
        if unknown := [name for name in found if name not in classes]:
            raise ValueError(
                f"{folder} has {shorten(unknown)}, which {'is' if len(unknown) == 1 else 'are'} none of "
                f"the classes {shorten(classes)}; rename or remove {'it' if len(unknown) == 1 else 'them'}."
            )
        left_out: dict[str, int] = {}
        numbers = {name: classes.index(name) for name in found}
        self.samples = [
            (path, numbers[name])
            for name in found
            for path in list_pictures(folder / name, left_out)
        ]
        self.targets = [target for _, target in self.samples]
        kinds = shorten([f"{count} {kind}" for kind, count in left_out.items()], 10)
        if not self.samples:
            raise ValueError(
                f"{folder} has no picture in {LAYOUT}" + (f", but {kinds}." if left_out else ".")
            )
        if left_out:
            notes.append(f"files left out in {folder} that are no pictures: {kinds}")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        path, target = self.samples[row]
        try:
            return self.transform(read_picture(Path(path))), target
        except PictureError as error:
            way_out = (
                "Correct or remove it; data.check_files=true names all such pictures at the start"
            )
            raise PictureError(f"{error}. {way_out}.") from None

    def select(self, rows: IntArray) -> "Pictures":
        """Returns some of the pictures; unlike a Subset, they have ``targets`` without reading files."""
        part = copy.copy(self)
        part.samples = [self.samples[row] for row in rows]
        part.targets = [target for _, target in part.samples]
        return part


def _describe_duplicates(files: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Describes pictures that are in two parts; of the files, those of a size of their own are not read."""
    counts = Counter(file_size(path) for paths in files.values() for path in paths)
    read = {part: [p for p in paths if counts[file_size(p)] > 1] for part, paths in files.items()}
    hashes = {part: hash_files(paths, None, True) for part, paths in read.items()}
    for part, places in find_duplicates(hashes):
        example = read[part][places[0]]
        twin = read["train"][list(hashes["train"]).index(hashes[part][places[0]])]
        yield (
            f"{len(places)} of the {len(files[part])} pictures of the {part} part stand in the training "
            f"part too, such as {example}, which is {twin}; remove one of each, or its figures are too good"
        )


def list_classes(folder: Path) -> list[str]:
    """Lists the folders in a folder, without hidden ones, in the order of their names."""
    return sorted(
        each.name for each in folder.iterdir() if each.is_dir() and not is_hidden(each.name)
    )


def find_parts(root: Path, notes: list[str]) -> dict[str, Path]:
    """Finds the folder of each part; the root is that of the training part if there is none.

    Args:
        root: The folder.
        notes: Gets a line about folders and pictures beside them, which are left out.

    Raises:
        ValueError: the folders may be parts or classes, or two are the same part.
    """
    names = list_classes(root)
    if not names:
        raise ValueError(f"path {root} has no folders; it must have {LAYOUT}.")
    parts: dict[str, Path] = {}
    others = [name for name in names if name.lower() not in PARTS]
    for name in names:
        if (part := PARTS.get(name.lower())) and part in parts:
            both = f"{parts[part].name}/ and {name}/, which both name the {part} part"
            raise ValueError(f"path {root} has {both}; join them, or move one away.")
        if part:
            parts[part] = root / name
    if others and list(parts) == ["train"] and not list_classes(parts["train"]):
        others, parts = names, {}  # a class of trains
    if parts and "train" not in parts:
        found = join_and([f"{folder.name}/" for folder in parts.values()])
        way_out = f"; move {shorten(others)} into train/, or rename them if they are classes"
        raise ValueError(f"path {root} has {found} and no train/{way_out if others else ''}.")
    flat = [part for part in ("val", "test") if part in parts and not list_classes(parts[part])]
    for part in flat:
        folder = parts.pop(part)
        advice = f"predict.py input={folder} predicts pictures"
        notes.append(f"{folder.name}/ is left out, as it has no class folders; {advice}")
    if parts and others:
        notes.append(f"{shorten(others)} in {root} left out, beside the folders of parts")
    for name in () if parts else names:
        if inner := [each for each in list_classes(root / name) if each.lower() in PARTS]:
            order = f"put classes into parts, {inner[0]}/{name}"
            raise ValueError(f"path {root} has parts in its classes, {name}/{inner[0]}; {order}.")
    for folder in parts.values() or (root,):
        beside = [e for e in folder.iterdir() if e.suffix.lower() in IMG_EXTENSIONS and e.is_file()]
        if visible := [each for each in beside if not is_hidden(each.name)]:
            notes.append(f"{len(visible)} pictures left out in {folder}, beside the class folders")
    return parts or {"train": root}


def to_tensor(image_size: int | tuple[int, int]) -> v2.Compose:
    """Returns the transform that makes a picture float32 ``(channels, height, width)`` in [0, 1].

    A number is the height and width, to which the middle is cut; other pictures are stretched.
    """
    return v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(image_size, antialias=True),
            v2.CenterCrop(image_size),
            v2.ToDtype(torch.float32, scale=True),
            v2.ToPureTensor(),
        ]
    )
