"""Pictures in folders, one folder for each class."""

import copy
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from quartet.data.split import Fold, IntArray, Parts, split


def image_folder(
    *,
    path: str | None,
    image_size: int,
    val_fraction: float,
    test_fraction: float,
    split_seed: int,
    fold: Fold | None = None,
) -> Parts:
    """Reads pictures when they are needed: float32 ``(3, size, size)`` in [0, 1], and the class.

    The shorter side is resized to ``image_size`` and the center is cropped. Grey pictures have three
    equal channels.

    Args:
        path: A folder of class folders; or one with ``train/`` and perhaps ``val/`` and ``test/``,
            each a folder of class folders. A part without a folder is split off from the training
            pictures.
        image_size: Height and width of the inputs in pixels, at least 1.
        val_fraction: Share of the training pictures for validation, in [0, 1); unused with val/.
        test_fraction: Share of the training pictures for testing, in [0, 1); unused with test/.
        split_seed: Seed of the stratified split.
        fold: Fold of the rest that is the validation part instead of a fraction, and their number.

    Raises:
        ValueError: path is not such a folder, the parts have different classes, a class has no
            picture, or a number is out of range.
    """
    if path is None:
        raise ValueError("path is not set; data.path=FOLDER names the folder of class folders.")
    if image_size < 1:
        raise ValueError(f"image_size must be at least 1, got {image_size}; 64 suits small models.")
    root = Path(path).expanduser().resolve()
    if not root.is_dir():
        raise ValueError(
            f"path {root} is not a folder; data.path=FOLDER has a folder for each class."
        )
    transform = to_tensor(image_size)
    own = {
        part: _read(root / part, transform) for part in ("val", "test") if _has_folder(root, part)
    }
    train = _read(root / "train" if _has_folder(root, "train") else root, transform)
    for part, pictures in own.items():
        if pictures.classes != train.classes:
            raise ValueError(
                f"the classes of {root / part} differ from those of train: only in {part} "
                f"{sorted(set(pictures.classes) - set(train.classes))}, only in train "
                f"{sorted(set(train.classes) - set(pictures.classes))}; give both the same folders."
            )
    if fold and "val" in own:
        raise ValueError(
            f"folds: {root / 'val'} is the validation part already; set data.folds=null, or move "
            "its pictures to train."
        )
    rows = split(
        len(train),
        val_fraction=0 if "val" in own else val_fraction,
        test_fraction=0 if "test" in own else test_fraction,
        split_seed=split_seed,
        fold=fold,
        stratify=np.array(train.classes)[train.targets],
    )

    return Parts(
        _select(train, rows.train),
        own.get("val") or (_select(train, rows.val) if len(rows.val) else None),
        own.get("test") or (_select(train, rows.test) if len(rows.test) else None),
        class_names=tuple(train.classes),
    )


def to_tensor(image_size: int) -> v2.Compose:
    """Returns the transform that makes a picture float32 ``(channels, size, size)`` in [0, 1]."""
    return v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(image_size, antialias=True),
            v2.CenterCrop(image_size),
            v2.ToDtype(torch.float32, scale=True),
            v2.ToPureTensor(),
        ]
    )


def _has_folder(root: Path, part: str) -> bool:
    # Without train/, folders named val and test are classes.
    return (root / "train").is_dir() and (root / part).is_dir()


def _read(folder: Path, transform: v2.Compose) -> ImageFolder:
    try:
        return ImageFolder(folder, transform=transform)
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} is not a folder of class folders with pictures: {error}."
        ) from error


def _select(pictures: ImageFolder, rows: IntArray) -> ImageFolder:
    """Selects some of the pictures; unlike a Subset, the result has ``targets`` without reading files."""
    part = copy.copy(pictures)
    part.samples = part.imgs = [pictures.samples[row] for row in rows]
    part.targets = [target for _, target in part.samples]
    return part
