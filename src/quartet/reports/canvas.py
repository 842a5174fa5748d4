"""The style of a run's pictures, their panels in inches, and how they are saved."""

import io
import logging
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from quartet.core import files

log = logging.getLogger(__name__)

DPI = 120
INK, GREY, PALE = "#262626", "#767676", "#c9c9c9"
# Colours of Okabe and Ito, which the colour-blind distinguish; their yellow is too light for lines.
BLUE, RED = "#0072b2", "#d55e00"
SERIES = (BLUE, RED, "#009e73", "#cc79a7", "#e69f00", "#56b4e9", INK)


def make_style(ink: str, grey: str) -> dict[str, Any]:
    """The style of all figures, in two colours."""
    return {
        "font.size": 9,
        "axes.edgecolor": grey,
        "axes.labelcolor": ink,
        "text.color": ink,
        "xtick.color": grey,
        "ytick.color": grey,
        "xtick.labelcolor": ink,
        "ytick.labelcolor": ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.unicode_minus": False,
        "text.parse_math": False,  # a class may be called $5
    }


STYLE: Any = make_style(INK, GREY) | {
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # else matplotlib measures every label to find a place
    "axes.labelsize": 9,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "legend.borderpad": 0.2,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
}


class Canvas:
    """A figure whose panels have places in inches, which is faster than matplotlib's layouts.

    Args:
        width: In inches.
        height: In inches.
    """

    @mpl.rc_context(STYLE)
    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height), dpi=DPI)

    @mpl.rc_context(STYLE)
    def panel(self, left: float, bottom: float, width: float, height: float) -> Axes:
        """Axes whose frame lies there, in inches from the lower left corner."""
        x, y = self.width, self.height
        return self.figure.add_axes((left / x, bottom / y, width / x, height / y))

    @mpl.rc_context(STYLE)
    def save(self, path: Path) -> Path:
        drawn = io.BytesIO()
        self.figure.savefig(drawn, dpi=DPI, format="png")
        files.write_atomic(path, drawn.getvalue())
        return path


def row(count: int, width: float = 3.2, height: float = 2.9) -> tuple[Canvas, list[Axes]]:
    """A canvas with so many panels side by side, their frames of a size in inches."""
    step = width + 0.75
    canvas = Canvas(count * step + 0.1, height + 0.9)
    return canvas, [canvas.panel(0.65 + i * step, 0.55, width, height) for i in range(count)]


def text_width(names: Iterable[str], size: float = 9) -> float:
    """About the width of the longest name, in inches."""
    return max((len(name) for name in names), default=0) * size * 0.6 / 72


def spans_decades(values: Any) -> bool:
    """Whether the values are positive and span more than two decades."""
    numbers = np.asarray(values, dtype=float)
    numbers = numbers[np.isfinite(numbers)]
    return bool(len(numbers) and 0 < 100 * numbers.min() < numbers.max())


def fit_scale(axes: Axes, values: Any, axis: str = "y") -> bool:
    """Makes an axis logarithmic where its values span more than two decades."""
    if is_wide := spans_decades(values):
        axes.set(**{f"{axis}scale": "log"})
        ticks = axes.yaxis if axis == "y" else axes.xaxis
        ticks.set_major_formatter(lambda value, _: f"{value:g}")  # its own are formulas
        ticks.set_minor_formatter(NullFormatter())
    return is_wide


@contextmanager
def forgiving(path: Path) -> Iterator[None]:
    """Logs an error in the block, which leaves out the picture `path` and nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a font without some letter of a class's name
        try:
            yield
        except Exception as error:
            log.warning(f"{path.name} is left out: {type(error).__name__}: {error}")


def add_to_board(board: str, paths: Sequence[Path], step: int) -> None:
    """Adds picture files to a TensorBoard unchanged, in an event file of their own."""
    from PIL import Image
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(board, filename_suffix=".pictures")
    for path in paths:
        with Image.open(path) as image:
            width, height = image.size
        shown = Summary.Image(
            height=height, width=width, colorspace=4, encoded_image_string=path.read_bytes()
        )
        summary = Summary(value=[Summary.Value(tag=path.stem, image=shown)])
        writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))
    writer.close()
