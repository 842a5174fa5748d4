"""Learning curves of one run."""

import math
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullFormatter

from quartet.reports.canvas import BLUE, GREY, INK, STYLE, Canvas

WIDTH, HEIGHT, ACROSS = 3.3, 2.0, 3  # inches of a panel, panels in a row


def curves(directory: Path) -> Canvas:
    """A run's metrics.csv: a panel for each figure, and the learning rate under them."""
    history = pd.read_csv(directory / "metrics.csv").groupby("epoch").last()
    names = list(dict.fromkeys(c.split("/", 1)[1] for c in map(str, history) if "/" in c))
    down = max(1, math.ceil(len(names) / ACROSS))
    across = max(1, math.ceil(len(names) / down))
    rate = 1.35 if "lr" in history else 0.0
    canvas = Canvas(across * (WIDTH + 0.7) + 0.1, down * (HEIGHT + 0.75) + rate + 0.1)
    with mpl.rc_context(STYLE):
        for number, name in enumerate(names):
            place = number % across, down - 1 - number // across
            panel = canvas.panel(
                0.6 + place[0] * (WIDTH + 0.7),
                rate + 0.5 + place[1] * (HEIGHT + 0.75),
                WIDTH,
                HEIGHT,
            )
            metric(panel, history, name)
        if rate:
            learning_rate(canvas.panel(0.6, 0.45, canvas.width - 0.8, 0.75), history["lr"])
    return canvas


def metric(panel: Axes, history: pd.DataFrame, name: str) -> None:
    """A figure by epoch, train beside val."""
    for part, colour in (("train", GREY), ("val", BLUE)):
        if f"{part}/{name}" in history:
            values = history[f"{part}/{name}"].dropna()
            style = "o" if len(values) == 1 else "-"
            panel.plot(values.index, values, style, label=part, color=colour)
    panel.set_title(name)
    by_epoch(panel)
    if name == "loss":
        panel.legend()


def learning_rate(panel: Axes, rates: "pd.Series[float]") -> None:
    """The rate that each epoch began with; logarithmic where it spans more than two decades."""
    rates = rates.dropna()
    style = "o" if len(rates) == 1 else "-"
    panel.plot(rates.index, rates, style, color=INK, drawstyle="steps-post")
    panel.set_title("learning rate")
    if 0 < 100 * rates.min() < rates.max():
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter(NullFormatter())
    else:
        top = max(rates.max(), 1e-12)
        panel.set(ylim=(0, 1.15 * top), yticks=(0, top))
        panel.yaxis.set_major_formatter("{x:.3g}")
    by_epoch(panel)


def by_epoch(panel: Axes) -> None:
    panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    panel.set_xlabel("epoch", labelpad=1)
