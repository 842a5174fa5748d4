"""Image sets of torchvision, held in memory: downloaded once, then read from ``data.dir``."""

# ruff: noqa: A002 (dir is the key the commands know, data.dir)

import tempfile
from pathlib import Path

import numpy as np
import torch
from torchvision import datasets

from quartet import Fold, Parts, assemble, split


def mnist(*, dir: str, val_fraction: float, split_seed: int, fold: Fold | None = None) -> Parts:
    """Handwritten digits: inputs uint8 ``(rows, 1, 28, 28)``, targets int64 ``(rows,)``.

    The test part is the official one.

    Args:
        dir: Where the data lies, or goes when it has to be downloaded.
        val_fraction: Share of the official training part for validation, in [0, 1); stratified.
        split_seed: Seed of that choice.
        fold: Which fold (from 0) is the validation part, and how many there are; None: a fraction.

    Raises:
        ValueError: The data is not in dir and cannot be downloaded, or the fraction is out of range.
    """
    return _parts(datasets.MNIST, Path(dir), "MNIST/raw", val_fraction, split_seed, fold)


def fashion_mnist(
    *, dir: str, val_fraction: float, split_seed: int, fold: Fold | None = None
) -> Parts:
    """Pictures of clothes: inputs uint8 ``(rows, 1, 28, 28)``, targets int64 ``(rows,)``.

    Arguments and errors are those of `mnist`.
    """
    return _parts(
        datasets.FashionMNIST, Path(dir), "FashionMNIST/raw", val_fraction, split_seed, fold
    )


def cifar10(*, dir: str, val_fraction: float, split_seed: int, fold: Fold | None = None) -> Parts:
    """Photographs of ten kinds of things: inputs uint8 ``(rows, 3, 32, 32)``, targets int64 ``(rows,)``.

    Files in dir count only if their checksums are the original's. Arguments and errors are those
    of `mnist`.
    """
    return _parts(
        datasets.CIFAR10, Path(dir), "cifar-10-batches-py", val_fraction, split_seed, fold
    )


_Source = type[datasets.MNIST] | type[datasets.CIFAR10]


def _parts(
    source: _Source,
    root: Path,
    folder: str,
    val_fraction: float,
    split_seed: int,
    fold: Fold | None = None,
) -> Parts:
    root = root.expanduser().resolve()
    try:
        train, test = source(root, train=True), source(root, train=False)
    except RuntimeError:
        _download(source, root, folder)
        train, test = source(root, train=True), source(root, train=False)
    labels = np.asarray(train.targets, dtype=np.int64)
    rows = split(
        len(labels),
        val_fraction=val_fraction,
        test_fraction=0,
        split_seed=split_seed,
        fold=fold,
        stratify=labels,
    )
    rows = rows._replace(test=np.arange(len(labels), len(labels) + len(test)))
    images = torch.cat([torch.as_tensor(part.data) for part in (train, test)])
    channels_first = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    targets = torch.cat([torch.as_tensor(part.targets) for part in (train, test)])
    return assemble(
        rows, channels_first.contiguous(), targets, class_names=tuple(map(str, train.classes))
    )


def _download(source: _Source, root: Path, folder: str) -> None:
    """Downloads beside ``root/folder`` and moves the files there when all of them have arrived."""
    new = [parent for parent in (root, *root.parents) if not parent.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as arriving:
            source(arriving, download=True)
            (root / folder).mkdir(parents=True, exist_ok=True)
            for file in (Path(arriving) / folder).iterdir():
                if file.suffix != ".gz":  # unpacked beside it, and never read again
                    file.replace(root / folder / file.name)
    except (OSError, RuntimeError) as error:
        tried = getattr(source, "mirrors", None) or [source.url]
        raise ValueError(
            f"{source.__name__} is not (or not whole) in {root / folder}, and downloading it from "
            f"{' or '.join(tried)} failed: {str(error).strip().splitlines()[-1]}.\n"
            f"Put its files into {root / folder}, or set data.dir to a folder that has {folder}."
        ) from error
    finally:
        for parent in new:
            if parent.exists() and not any(parent.iterdir()):
                parent.rmdir()
