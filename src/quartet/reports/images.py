"""Pictures of pictures: samples of the data, and those a model got most wrong."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from quartet.reports.canvas import DPI, STYLE, Canvas, text_width

if TYPE_CHECKING:
    from torch.utils.data import Dataset

Array = NDArray[Any]
TILE = 0.85  # inches
WORST, ACROSS, CLASSES = 14, 7, 12


def are_images(shape: Sequence[int]) -> bool:
    """Whether inputs of a shape can be shown: ``(channels, height, width)``, grey or in colour."""
    return len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) > 1


def read(dataset: "Dataset[Any]", rows: Sequence[int]) -> Array:
    """Inputs as they are stored, ``(rows, height, width, 3)`` in [0, 1], at most a tile in size."""
    import torch
    from torch.nn.functional import interpolate
    from torch.utils.data import TensorDataset

    if isinstance(dataset, TensorDataset):
        inputs: torch.Tensor = dataset.tensors[0][list(rows)]
    else:
        inputs = torch.stack([torch.as_tensor(dataset[row][0]) for row in rows])
    pixels = inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs.float()
    low, high = pixels.min(), pixels.max()
    if low < 0 or high > 1:  # a source that standardises by itself
        pixels = (pixels - low) / (high - low)
    height, width = pixels.shape[2:]
    size = TILE * DPI / max(height, width)
    if size < 1:
        shape = (max(1, round(height * size)), max(1, round(width * size)))
        pixels = interpolate(pixels, shape, mode="bilinear", antialias=True).clamp(0, 1)
    return pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()


def known_tensors(dataset: "Dataset[Any]") -> tuple[Any, ...]:
    """Targets, and queries if there are any; empty if they are not known without reading files."""
    import torch
    from torch.utils.data import TensorDataset

    if isinstance(dataset, TensorDataset):
        return dataset.tensors[1:]
    return (torch.as_tensor(dataset.targets),) if hasattr(dataset, "targets") else ()


def captioned(tiles: Array, captions: Sequence[str], title: str) -> Canvas:
    """Pictures in rows, with up to two lines of text below each."""
    across = min(ACROSS, len(tiles))
    lines = [line for caption in captions for line in caption.split("\n")]
    below = 0.16 * max(caption.count("\n") + 1 for caption in captions) + 0.12
    wide, high = max(TILE, text_width(lines, 8)) + 0.1, TILE + below
    canvas, panel = sheet(across * wide, -(-len(tiles) // across) * high, title)
    with mpl.rc_context(STYLE):
        for number, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
            left, top = number % across * wide, number // across * high
            put(panel, tile, left, top)
            panel.text(left, top + TILE + 0.03, caption, va="top", fontsize=8, linespacing=1.1)
    return canvas


def by_class(tiles: Sequence[Array], names: Sequence[str], title: str) -> Canvas:
    """A row of pictures for each class, its name before it."""
    left, most = text_width(names) + 0.15, max(len(each) for each in tiles)
    canvas, panel = sheet(left + most * TILE, len(tiles) * TILE, title)
    height, width = tiles[0].shape[1:3]
    side = max(height, width) + max(1, round(0.04 * max(height, width)))
    whole = np.ones((len(tiles) * side, most * side, 3), np.float32)
    with mpl.rc_context(STYLE):
        for i, (of_class, name) in enumerate(zip(tiles, names, strict=True)):
            panel.text(left - 0.1, (i + 0.5) * TILE, name, ha="right", va="center")
            for j, tile in enumerate(of_class):
                whole[i * side : i * side + height, j * side : j * side + width] = tile
        # All in one: matplotlib takes a millisecond for each.
        edges = (left, left + most * TILE, len(tiles) * TILE, 0)
        panel.imshow(whole, extent=edges, aspect="auto", interpolation="nearest")
    return canvas


def sheet(width: float, height: float, title: str) -> tuple[Canvas, Axes]:
    """A canvas with a title, and axes without a frame that count inches from the upper left."""
    canvas = Canvas(max(width, text_width([title], 10)) + 0.2, height + 0.45)
    panel = canvas.panel(0.1, 0.05, width, height)
    with mpl.rc_context(STYLE):
        panel.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
        panel.set_axis_off()
        panel.set_title(title)
    return canvas, panel


def put(panel: Axes, tile: Array, left: float, top: float) -> None:
    """Draws a picture, its longer side as long as a tile."""
    height, width = (TILE * side / max(tile.shape[:2]) for side in tile.shape[:2])
    edges = (left, left + width, top + height, top)
    panel.imshow(tile, extent=edges, aspect="auto", interpolation="nearest")
