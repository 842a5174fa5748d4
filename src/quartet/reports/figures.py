"""The style of all figures; figures of a size in inches, for files; SVG figures, for a page."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from quartet.core import files
from quartet.core.messages import cut, shorten

log = logging.getLogger(__name__)

DPI = 120
INK, GREY, PALE = "#262626", "#747474", "#c9c9c9"
# Colours of Okabe and Ito, which the colour-blind distinguish; their yellow is too light for lines.
BLUE, RED = "#0072b2", "#d55e00"
SERIES = (BLUE, RED, "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a51a3", "#6b7378")
# Of every figure: draw within `mpl.rc_context(STYLE)`.
STYLE: Any = {
    "font.size": 9,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "text.parse_math": False,  # a class may be called $5
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # else matplotlib measures every label to find a place
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "legend.borderpad": 0.2,
    "legend.fontsize": 8,
}
PAGE_STYLE = STYLE | {"svg.fonttype": "none", "legend.frameon": False}
PAPER = "#010203"  # of a page
# A page has these colours by the names of its own, which depend on its theme.
THEME = {INK: "ink", GREY: "faint", PAPER: "paper"} | {
    colour: f"c{number}" for number, colour in enumerate(SERIES, start=1)
}
DASHES: list[Any] = ["-", (0, (5, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5))]
Table = TypeVar("Table", pd.DataFrame, "pd.Series[float]")
MANY = 12  # values of a knob that are drawn side by side; more numbers make a scatter


class Canvas(Figure):
    """A figure whose panels have places in inches, which is faster than matplotlib's layouts."""

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), dpi=DPI)

    def panel(self, left: float, bottom: float, width: float, height: float) -> Axes:
        """Axes whose frame lies there, in inches from the lower left corner."""
        x, y = self.get_size_inches()
        return self.add_axes((left / x, bottom / y, width / x, height / y))


def drawable_names(names: Sequence[str]) -> list[str]:
    """Returns names that a font of this machine can draw; ``#3`` for the third, if none has its letters."""

    def letters(font: str) -> set[int]:
        return {*font_manager.get_font(font).get_charmap()}

    usual = letters(font_manager.findfont("DejaVu Sans"))
    missing = {ord(letter) for name in names for letter in name if not letter.isspace()} - usual
    if not missing:
        return list(names)
    for font in font_manager.fontManager.ttflist:
        if font.name != "Last Resort High-Efficiency" and missing <= letters(font.fname):
            STYLE["font.family"] = ["DejaVu Sans", font.name]
            return list(names)
    drawn = [
        f"#{number}" if missing & {*map(ord, name)} else name
        for number, name in enumerate(names, start=1)
    ]
    legend = (f"{short} {name}" for short, name in zip(drawn, names, strict=True) if short != name)
    message = "No font has the letters of some names, which are numbers in pictures"
    log.warning(f"{message}: {shorten(legend, 20)}.")
    return drawn


def save_png(figure: Figure, path: Path) -> None:
    drawn = BytesIO()
    # The pixels are the same at every level; a lower one writes sooner and larger files.
    figure.savefig(drawn, format="png", dpi=DPI, pil_kwargs={"compress_level": 3})
    files.write_atomic(path, drawn.getvalue())


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


# Figures of a page


def blank(width: float = 4.4, height: float = 3.0) -> tuple[Figure, Axes]:
    """A figure of so many inches, and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def svg(figure: Figure, title: str) -> str:
    """The figure as an element of a page, without references to other files."""
    buffer = StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"| id="(?!m|p)[^"]*"|<!--.*?-->', "", text, flags=re.S)
    text = re.sub(r' (d|points)="[^"]*"', lambda part: shorten_path(part.group()), text)
    text = re.sub(r"\n\s*", "\n", text)
    for colour, name in THEME.items():
        text = text.replace(colour, f"var(--{name})")
    width, height = figure.get_size_inches() * 96
    return re.sub(
        r'<svg [^>]*viewBox="([^"]*)"[^>]*>',
        f'<svg role="img" aria-label="{escape(title)}" viewBox="\\1" '
        f'style="width:{width:.0f}px;aspect-ratio:{width / height:.4f}">',
        text,
        count=1,
    )


def shorten_path(path: str) -> str:
    return re.sub(r"(\.\d\d)\d+", r"\1", path).replace(" \n", " ")


def natural(values: "pd.Index[Any]") -> "pd.Index[Any]":
    """Sort key in which [64] comes before [128]."""
    if pd.api.types.is_numeric_dtype(values):
        return values
    return values.map(lambda value: re.sub(r"\d+", lambda part: part.group().zfill(12), str(value)))


def label(value: Any, length: int = 24) -> str:
    """A value for an axis: 0.01 and not 0.010000000000000002, and not too long."""
    return cut(f"{value:.4g}" if isinstance(value, float) else value, length)


def name_columns(axes: Axes, places: Any, names: Sequence[str], turned: bool) -> None:
    rotation, align = (40, "right") if turned else (0, "center")
    axes.set_xticks(places, names, rotation=rotation, ha=align)


def curves(groups: Mapping[str, pd.DataFrame], metric: str) -> str:
    """Mean by epoch of each group, with a band of one standard deviation over its seeds.

    At most eight groups, each with a column a seed, and the epoch as the index.
    """
    figure, axes = blank(height=3.6)
    means = {name: thin(seeds).mean(axis=1) for name, seeds in groups.items()}
    logarithmic = fit_scale(axes, np.concatenate([m.to_numpy() for m in means.values()]))
    for number, (name, mean) in enumerate(means.items()):
        colour, dash = SERIES[number % 8], DASHES[number % 4]
        marker = "o" if len(mean) == 1 else None
        style: Any = {"marker": marker, "ls": dash, "color": colour, "lw": 1.6}
        axes.plot(mean.index, mean, label=label(name, 26), **style)
        sd = thin(groups[name]).std(axis=1)
        low = mean - sd
        if logarithmic:
            low = low.clip(lower=mean / 10)
        if sd.notna().any():
            axes.fill_between(mean.index, low, mean + sd, color=colour, alpha=0.12, lw=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel=metric)
    figure.legend(loc="outside lower left", ncols=2, fontsize=8)
    return svg(figure, f"Learning curves: {metric} by epoch")


def thin(table: Table, most: int = 200) -> Table:
    """At most about so many rows, the last among them."""
    return table[:: -(len(table) // -most)] if len(table) > most else table


def intervals(table: pd.DataFrame, metric: str) -> str:
    """A row for each setting: mean and 95 % interval, the best on top."""
    figure, axes = blank(height=0.9 + 0.24 * len(table))
    places = np.arange(len(table))
    fit_scale(axes, table["mean"], "x")
    low, high = table["low"].fillna(table["mean"]), table["high"].fillna(table["mean"])
    axes.hlines(places, low, high, color=SERIES[0], lw=2, alpha=0.5)
    axes.plot(table["mean"], places, "o", color=SERIES[0], ms=5)
    if axes.get_xscale() == "linear":
        axes.set_xlim(*window(table["mean"], low.min(), high.max()))
    axes.set_yticks(places, [label(name, 26) for name in table["name"]])
    axes.set(xlabel=metric, ylim=(len(table) - 0.4, -0.6))
    return svg(figure, f"The best settings: mean and 95 % interval of {metric}")


def window(means: "pd.Series[float]", low: float, high: float) -> tuple[float, float]:
    """Limits that show the means, and intervals as far as these are not very much wider."""
    spread = float(np.ptp(means)) or abs(float(means.iloc[0])) or 1.0
    low, high = max(low, means.min() - spread), min(high, means.max() + spread)
    margin = 0.04 * (high - low) or spread
    return low - margin, high + margin


def effect(jobs: pd.DataFrame, knob: str, means: pd.DataFrame, metric: str) -> str:
    """The effect of one knob: each job a point; mean and standard deviation where values repeat."""
    figure, axes = blank()
    axes.set(xlabel=knob, ylabel=metric)
    fit_scale(axes, jobs["best"])
    scattered = is_scattered(means.index)
    shown = jobs if scattered else jobs[jobs[knob].isin(means.index)]
    shown = shown if len(shown) <= 500 else shown.sample(500, random_state=0)
    if scattered:
        fit_scale(axes, jobs[knob], "x")
        axes.plot(shown[knob], shown["best"], "o", ms=3.5, mew=0, color=SERIES[0], alpha=0.55)
        return svg(figure, f"{metric} by {knob}")
    places = {value: place for place, value in enumerate(means.index)}
    width = 0.13 if means["n"].max() > 5 else 0
    where = shown[knob].map(places) + np.random.default_rng(0).uniform(-width, width, len(shown))
    axes.plot(where, shown["best"], "o", ms=3, mew=0, color=GREY, alpha=0.5)
    axes.errorbar(
        range(len(places)), means["mean"], means["sd"].fillna(0), fmt="o", capsize=4,
        color=SERIES[0], ms=6, lw=1.6,
    )  # fmt: skip
    names = [label(value, 14) for value in means.index]
    name_columns(axes, range(len(places)), names, sum(map(len, names)) > 38)
    axes.set_xlim(-0.5, len(places) - 0.5)
    return svg(figure, f"{metric} by {knob}")


def is_scattered(values: "pd.Index[Any]") -> bool:
    return len(values) > MANY and pd.api.types.is_numeric_dtype(values)


def heat(table: pd.DataFrame, metric: str, lower_is_better: bool) -> str:
    """Means by two knobs, one down and one across; the darker the better."""
    rows, columns = table.shape
    figure, axes = blank(1.3 + max(0.62 * columns, 2.2), 0.9 + max(0.34 * rows, 1.2))
    values = table.to_numpy(dtype=float)
    shades = np.log(values) if spans_decades(values) else values
    shades = -shades if lower_is_better else shades
    low, high = np.nanmin(shades), np.nanmax(shades)
    shades = (shades - low) / (high - low or 1)
    masked: Any = np.ma.masked_invalid(shades)
    axes.pcolormesh(masked, cmap="cividis_r", vmin=0, vmax=1, ec=PAPER, lw=1.5)
    for row, column in np.argwhere(np.isfinite(values)):
        ink = "white" if shades[row, column] > 0.55 else "black"
        text: Any = {"fontsize": 8, "ha": "center", "va": "center", "color": ink}
        axes.text(column + 0.5, row + 0.5, f"{values[row, column]:.3g}", **text)
    axes.set_yticks(np.arange(rows) + 0.5, [label(v, 16) for v in table.index])
    names = [label(value, 14) for value in table.columns]
    name_columns(axes, np.arange(columns) + 0.5, names, max(map(len, names)) > 7)
    axes.set(xlabel=str(table.columns.name), ylabel=str(table.index.name))
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return svg(figure, f"Mean of {metric} by {table.index.name} and {table.columns.name}")


def progress(values: Sequence[float], metric: str, mode: str) -> str:
    """Each job's value in the order of the jobs, and the best so far."""
    figure, axes = blank()
    series = pd.Series(values, dtype=float)
    best = series.cummax() if mode == "max" else series.cummin()
    fit_scale(axes, series)
    shown = thin(series, 500)
    axes.plot(shown.index, shown, "o", ms=3, mew=0, color=GREY, alpha=0.6, label="a job")
    style: Any = {"color": SERIES[0], "lw": 1.8, "drawstyle": "steps-post"}
    axes.plot(best.index, best, label="best so far", **style)
    axes.legend(fontsize=8)
    axes.set(xlabel="finished jobs", ylabel=metric)
    return svg(figure, f"History of the search: {metric}")
