"""Readings of a sensor, more than memory holds: in a mapped file, or in shards."""

# ruff: noqa: A002 (dir is the key the commands know, data.dir)

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

import quartet

CLASSES = ("calm", "rising", "wavy")
STEPS = 24  # of a reading
SIZES = {"train": 200, "val": 60, "test": 60}
SHARD = 30  # readings in a file


def mapped(*, dir: str, noise: float) -> quartet.Parts:
    """Readings float32 ``(24,)`` of a file that stays on disk.

    Args:
        dir: Where the files lie, or are made.
        noise: Standard deviation of what is added to a training reading, anew in each epoch.
    """
    folder = record(Path(dir) / "readings")
    train, val, test = (Mapped(folder / part, noise if part == "train" else 0) for part in SIZES)
    return quartet.Parts(train, val, test, class_names=CLASSES)


class Mapped(Dataset[Any]):
    """The rows of a file of readings; the labels are in memory."""

    def __init__(self, place: Path, noise: float) -> None:
        self.readings = np.load(f"{place}.npy", mmap_mode="r")
        self.targets = torch.load(f"{place}.pt")
        self.noise = noise

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        reading = torch.tensor(self.readings[row])
        return reading + self.noise * torch.randn(STEPS), self.targets[row]


def sharded(*, dir: str, noise: float, window: int) -> quartet.Parts:
    """The same readings in files of a few, whose names end in their number of readings.

    Args:
        dir: Where the files lie, or are made.
        noise: Standard deviation of what is added to a training reading, anew in each epoch.
        window: Files whose readings are shuffled together.
    """
    folder = record(Path(dir) / "readings")

    def stream(part: str, noise: float) -> quartet.Stream:
        paths = sorted(folder.glob(f"{part}-*.pt"))
        counts = [int(path.stem.rpartition("-")[2]) for path in paths]
        return quartet.Stream(partial(read, noise=noise), paths, counts=counts, window=window)

    parts = [stream("train", noise), stream("val", 0), stream("test", 0)]
    return quartet.Parts(*parts, class_names=CLASSES)


def read(path: Path, noise: float) -> tuple[Tensor, Tensor]:
    readings, labels = torch.load(path)
    return readings + noise * torch.randn(readings.shape), labels


def record(folder: Path) -> Path:
    """Makes the files, unless they are there."""
    if folder.is_dir():
        return folder
    folder.mkdir(parents=True)
    random, time = np.random.default_rng(0), np.linspace(0, 1, STEPS)
    curves = np.stack([0 * time, 2 * time - 1, np.sin(9 * time)])
    for part, count in SIZES.items():
        labels = random.integers(0, len(CLASSES), count)
        readings = (curves[labels] + random.normal(0, 0.7, (count, STEPS))).astype(np.float32)
        np.save(folder / f"{part}.npy", readings)
        torch.save(torch.from_numpy(labels), folder / f"{part}.pt")
        for number, rows in enumerate(torch.arange(count).split(SHARD)):
            content = torch.from_numpy(readings)[rows], torch.from_numpy(labels)[rows]
            torch.save(content, folder / f"{part}-{number:02}-{len(rows)}.pt")
    return folder
