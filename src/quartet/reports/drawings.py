"""Drawings of a run: confusion, ROC, calibration, scatter, orders and learning curves.

A task names its drawings by the names of these functions, `quartet.data.task.Task.figures`.
"""

import itertools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn import metrics

from quartet.core.messages import cut
from quartet.records.run_directory import split_part
from quartet.reports import figures
from quartet.reports.figures import BLUE, GREY, INK, PALE, RED, SERIES, Canvas, text_width
from quartet.reports.results import read_history

Array = NDArray[Any]
COLOURS = {"train": GREY, "val": BLUE}
NAMED = 100  # classes whose names still fit beside a matrix
# Of confidence, as usual since Guo et al., "On Calibration of Modern Neural Networks", 2017.
BINS = 15


def confusion(predicted: Array, true: Array, names: Sequence[str], title: str) -> Canvas:
    """The confusion matrix: numbers of samples, coloured by the share of their true class."""
    classes = range(len(names))
    matrix = metrics.confusion_matrix(true.astype(int), predicted.astype(int), labels=classes)
    return heat_map(matrix, names, names, title, "predicted", "true")


def outcomes(predicted: Array, true: Array, names: Sequence[str], title: str) -> Canvas:
    """A row for each label: the four cells of its own confusion matrix."""
    cells = metrics.multilabel_confusion_matrix(true.astype(bool), predicted.astype(bool))
    matrix = cells[:, [1, 1, 0, 0], [1, 0, 1, 0]]
    return heat_map(matrix, names, ["TP", "FN", "FP", "TN"], title, "", "label")


def heat_map(
    matrix: Array, rows: Sequence[str], columns: Sequence[str], title: str, x: str, y: str
) -> Canvas:
    """Numbers in a grid, coloured by their share of the row; many rows share few names."""
    most = max(matrix.shape)
    size = float(np.interp(most, [2, 10, 30, NAMED], [0.85, 0.45, 0.24, 0.13]))
    size = min(size, 13 / most)
    font = min(9.0, size * 72 * 0.62)
    every = -(-most // NAMED)
    rows, columns = ([cut(name) for name in names] for names in (rows, columns))
    left, below = (text_width(names[::every], font) for names in (rows, columns))
    turned = below > 0.9 * size
    left, below = left + 0.55, (below if turned else font / 72) + 0.5
    wide, high = matrix.shape[1] * size, matrix.shape[0] * size
    width = max(left + wide + 0.2, 0.1 + text_width([title], 10))
    canvas = Canvas(width, below + high + 0.4)
    panel = canvas.panel(left, below, wide, high)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    ticks = [range(0, n, every) for n in matrix.shape]
    rotation = 90 if turned else 0
    panel.set_xticks(ticks[1], columns[::every], fontsize=font, rotation=rotation)
    panel.set_yticks(ticks[0], rows[::every], fontsize=font)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    panel.set(xlabel=x, ylabel=y)
    panel.set_title(title, x=-left / wide + 0.1 / wide)
    if most <= 30:
        for i, j in zip(*matrix.nonzero(), strict=True):
            ink = "white" if shares[i, j] > 0.6 else INK
            digits = len(str(matrix[i, j]))
            cell = min(font, 72 * size / (0.7 * digits + 0.4))
            panel.text(j, i, matrix[i, j], color=ink, fontsize=cell, ha="center", va="center")
    return canvas


def quality(
    scores: Array,
    truth: Array,
    names: Sequence[str],
    confidence: Array | None = None,
    is_right: Array | None = None,
) -> Canvas:
    """ROC, precision-recall and reliability side by side; reliability alone without two classes.

    `scores` and `truth` are ``(samples, classes)``, each class against the rest; `confidence` and
    `is_right` ``(samples,)`` of the chosen class, None for all of the scores.
    """
    drawn = [
        (cut(name), truth[:, k], scores[:, k])
        for k, name in enumerate(names)
        if 0 < truth[:, k].sum() < len(truth)
    ]
    count = 3 if drawn else 1
    canvas = Canvas(3.95 * count + 0.1, 3.8)
    panels = [canvas.panel(0.65 + 3.95 * i, 0.55, 3.2, 2.9) for i in range(count)]
    if drawn:
        class_curves(panels[0], drawn, receiver_operating, "AUC")
        panels[0].set(title="ROC", xlabel="false positive rate", ylabel="true positive rate")
        panels[0].plot([0, 1], [0, 1], ":", color=GREY, linewidth=1, zorder=1)
        class_curves(panels[1], drawn, precision_recall, "AP")
        panels[1].set(title="Precision and recall", xlabel="recall", ylabel="precision")
    if confidence is None or is_right is None:
        reliability(panels[-1], scores.ravel(), truth.ravel())
        panels[-1].set(xlabel="predicted probability", ylabel="frequency observed")
    else:
        reliability(panels[-1], confidence, is_right)
        panels[-1].set(xlabel="confidence", ylabel="accuracy")
    return canvas


def receiver_operating(truth: Array, scores: Array) -> tuple[Array, Array, float]:
    false_positive, true_positive, _ = metrics.roc_curve(truth, scores)
    return false_positive, true_positive, float(metrics.auc(false_positive, true_positive))


def precision_recall(truth: Array, scores: Array) -> tuple[Array, Array, float]:
    precision, recall, _ = metrics.precision_recall_curve(truth, scores, drop_intermediate=True)
    precision[-1] = precision[-2]  # nothing found has no precision; it says 1
    return recall[::-1], precision[::-1], float(metrics.average_precision_score(truth, scores))


def class_curves(
    panel: Axes,
    drawn: Sequence[tuple[str, Array, Array]],
    curve: Callable[[Array, Array], tuple[Array, Array, float]],
    area: str,
) -> None:
    """A line for each class; of many, their mean and the worst before all others."""
    lines = [(name, *curve(truth, scores)) for name, truth, scores in drawn]
    # Between two recalls there is no threshold, and so no precision.
    step = "steps-pre" if area == "AP" else "default"
    if len(lines) <= len(SERIES):
        for colour, (name, x, y, value) in zip(SERIES, lines, strict=False):
            label = f"{name}: {area} {value:.4f}" if len(lines) > 1 else f"{area} {value:.4f}"
            panel.plot(x, y, color=colour, label=label, drawstyle=step)
    else:
        for number, (_, x, y, _) in enumerate(lines):
            label = "" if number else "each class"
            panel.plot(x, y, color=PALE, linewidth=0.8, label=label, drawstyle=step)
        name, x, y, value = min(lines, key=lambda line: line[3])
        label = f"worst class, {name}: {area} {value:.4f}"
        panel.plot(x, y, color=RED, linewidth=1, label=label, drawstyle=step)
        grid = np.linspace(0, 1, 501)
        mean = np.mean([interpolated(grid, line[1], line[2], area) for line in lines], axis=0)
        value = float(np.mean([line[3] for line in lines]))
        label = f"mean of {len(lines)} classes: {area} {value:.4f}"
        panel.plot(grid, mean, color=BLUE, label=label)
    panel.legend(loc="lower right" if area == "AUC" else "lower left")
    unit_square(panel)


def interpolated(grid: Array, x: Array, y: Array, area: str) -> Array:
    """The height of a curve over each point of the grid."""
    if area == "AUC":
        return np.asarray(np.interp(grid, x, y))
    return np.asarray(y[np.searchsorted(x, grid, side="left").clip(max=len(y) - 1)])


def unit_square(panel: Axes) -> None:
    panel.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    thin_ticks(panel)


def thin_ticks(panel: Axes) -> None:
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(MaxNLocator(5))


def calibration(confidence: Array, right: Array) -> tuple[Array, Array, Array, float]:
    """Mean confidence, accuracy and number of samples of each bin, and the calibration error.

    Bins without samples are NaN. The error is the mean gap between confidence and accuracy,
    weighted by the samples.
    """
    edges = np.linspace(0, 1, BINS + 1)
    bins = np.searchsorted(edges, confidence, side="right").clip(1, BINS) - 1
    number = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(bins, confidence, BINS) / number
        accuracy = np.bincount(bins, right, BINS) / number
    error = np.nansum(number * np.abs(mean - accuracy)) / len(confidence)
    return mean, accuracy, number, float(error)


def interval(share: Array, number: Array) -> tuple[Array, Array]:
    """95 % interval of a share that was found in so many samples (Wilson, 1927)."""
    z = 1.96
    centre = (share + z * z / (2 * number)) / (1 + z * z / number)
    root = np.sqrt(share * (1 - share) / number + (z / (2 * number)) ** 2)
    half = z / (1 + z * z / number) * root
    return centre - half, centre + half


def reliability(panel: Axes, confidence: Array, right: Array) -> None:
    """How often predictions of a confidence are right, over how many there are of it."""
    mean, accuracy, number, error = calibration(confidence, right)
    centres = (np.arange(BINS) + 0.5) / BINS
    share = number / len(confidence)
    panel.bar(centres, share, width=0.9 / BINS, color=PALE, label="share of the samples")
    panel.plot([0, 1], [0, 1], ":", color=GREY, linewidth=1)
    there = number > 0
    mean, accuracy = mean[there], accuracy[there]
    panel.vlines(mean, *interval(accuracy, number[there]), color=BLUE, linewidth=0.8)
    panel.plot(mean, accuracy, "o", color=BLUE, markersize=4, label="observed, 95 % interval")
    panel.set_title(f"Reliability (calibration error {error:.4f})")
    panel.legend(loc="upper left")
    unit_square(panel)
    panel.set(ylim=(-0.02, 1.3), yticks=(0, 0.25, 0.5, 0.75, 1))  # the legend above all points


POINTS = 5000  # of a scatter; more of them are only a blot
ROWS = 4  # outputs that are drawn


def scatter(predictions: Array, labels: Array, names: Sequence[str]) -> Canvas:
    """Predicted against true, and residuals against predicted: ``(samples, outputs)`` each."""
    outputs = min(predictions.shape[1], ROWS)
    canvas = Canvas(9.1, 3.6 * outputs + 0.1)
    chosen = slice(None, None, -(-len(labels) // POINTS))
    for k in range(outputs):
        below = 3.6 * (outputs - 1 - k) + 0.5
        predicted, true = predictions[chosen, k], labels[chosen, k]
        name = f"{cut(names[k])}: " if len(names) > 1 else ""
        first = canvas.panel(0.75, below, 2.75, 2.75)
        ends = [min(predicted.min(), true.min()), max(predicted.max(), true.max())]
        first.plot(ends, ends, color=GREY, linewidth=1)
        dots(first, true, predicted)
        margin = 0.03 * (ends[1] - ends[0] or 1)
        limits = (ends[0] - margin, ends[1] + margin)
        first.set(title=f"{name}Predicted against true", xlabel="true", ylabel="predicted")
        first.set(xlim=limits, ylim=limits)
        second = canvas.panel(4.35, below, 3.2, 2.75)
        second.axhline(0, color=GREY, linewidth=1)
        dots(second, predicted, true - predicted)
        second.set(title="Residuals", xlabel="predicted", ylabel="true - predicted")
        side = canvas.panel(7.65, below, 1.1, 2.75)
        residuals = (labels[:, k] - predictions[:, k]).astype(float)
        # Residuals that differ by rounding alone leave no room for 24 bins.
        equal = np.ptp(residuals) <= 1e-9 * np.abs(residuals).max()
        around = (residuals.mean() - 0.5, residuals.mean() + 0.5) if equal else None
        side.hist(residuals, bins=24, range=around, orientation="horizontal", color=PALE)
        side.set_ylim(second.get_ylim())
        side.set(xlabel="samples")
        side.tick_params(labelleft=False, left=False)
        side.xaxis.set_major_locator(MaxNLocator(2, integer=True))
    return canvas


def dots(panel: Axes, x: Array, y: Array) -> None:
    faint = float(np.interp(len(x), [100, POINTS], [0.8, 0.25]))
    panel.plot(x, y, "o", color=BLUE, markersize=3.5, alpha=faint, markeredgewidth=0)
    thin_ticks(panel)


def by_query(scores: Array, relevance: Array, queries: Array, top: int | None) -> Array:
    """The nDCG of each query, in ascending order of their numbers; 0 where nothing is relevant."""
    import torch
    from torchmetrics.functional.retrieval import retrieval_normalized_dcg

    starts = np.flatnonzero(np.diff(queries, prepend=queries[0] - 1))[1:]
    pairs = zip(np.split(scores, starts), np.split(relevance, starts), strict=True)
    values = [
        retrieval_normalized_dcg(torch.from_numpy(score), torch.from_numpy(grade), top_k=top)
        for score, grade in pairs
    ]
    return torch.stack(values).numpy()


def orders(scores: Array, relevance: Array, queries: Array, top: int | None) -> Canvas:
    """The nDCG of all queries, and the mean relevance at each rank beside the best possible one."""
    values = by_query(scores, relevance, queries, top)
    at = f"nDCG@{top}" if top else "nDCG"
    canvas = Canvas(8.2, 3.7)
    first = canvas.panel(0.65, 0.55, 3.2, 2.75)
    first.hist(values, bins=np.linspace(0, 1, 21).tolist(), color=PALE)
    first.axvline(values.mean(), color=BLUE, label=f"mean {values.mean():.4f}")
    lowest = np.quantile(values, 0.1)
    first.axvline(lowest, color=RED, linestyle="--", label=f"a tenth below {lowest:.4f}")
    first.set(title=f"{at} by query", xlabel=at, ylabel="queries", xlim=(-0.02, 1.02))
    first.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    first.legend(loc="upper left")
    second = canvas.panel(4.75, 0.55, 3.2, 2.75)
    for name, key, colour, dash in (
        ("best order", -relevance, GREY, "--"),
        ("predicted order", -scores, BLUE, "-"),
    ):
        mean = mean_at_ranks(relevance, key, queries, top or 20)
        second.plot(np.arange(1, len(mean) + 1), mean, dash, color=colour, label=name)
    level = float(relevance.mean())
    second.axhline(level, color=INK, linestyle=":", linewidth=1, label="by chance")
    second.set(title="Relevance at each rank", xlabel="rank", ylabel="mean relevance")
    second.set_ylim(bottom=0)
    second.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    second.legend()
    return canvas


def mean_at_ranks(relevance: Array, key: Array, queries: Array, length: int) -> Array:
    """Mean relevance of the documents in each of the first places, when ordered by the key."""
    order = np.lexsort((key, queries))
    starts = np.searchsorted(queries, queries, side="left")
    ranks = np.arange(len(queries)) - starts
    near = ranks < length
    total = np.bincount(ranks[near], relevance[order][near])
    mean: Array = total / np.bincount(ranks[near])
    return mean


PANEL = 3.3, 2.0  # inches
ACROSS = 3  # panels in a row


def learning_curves(directory: Path, metric: str | None = None, mode: str = "min") -> Canvas:
    """A run's metrics.csv: a panel for each figure, and the learning rate under them.

    The best epoch of the metric is marked, by its min or max.
    """
    history = read_history(directory)
    best: Any = None
    if metric in history and history[metric].notna().any():
        best = history[metric].idxmin() if mode == "min" else history[metric].idxmax()
    rates = [column for column in map(str, history) if re.match(r"lr\b", column)]
    others = [column for column in map(str, history) if column not in [*rates, "epoch", "step"]]
    names = list(dict.fromkeys(split_part(column)[1] for column in others))
    down = max(1, math.ceil(len(names) / ACROSS))
    across = max(1, math.ceil(len(names) / down))
    rate = 1.35 if rates else 0.0
    wide, high = PANEL[0] + 0.7, PANEL[1] + 0.75
    canvas = Canvas(across * wide + 0.1, down * high + rate + 0.1)
    for number, name in enumerate(names):
        place, row = number % across, down - 1 - number // across
        panel = canvas.panel(0.6 + place * wide, rate + 0.5 + row * high, *PANEL)
        split = {column: split_part(column) for column in others}
        parts = {part: column for column, (part, own) in split.items() if own == name}
        for part in sorted(parts, key=[*COLOURS, "test", ""].index):
            draw_by_epoch(panel, history[parts[part]], label=part, color=COLOURS.get(part, INK))
        if best is not None:
            panel.axvline(best, color=GREY, lw=0.8, ls=":", label=f"best epoch, {best}")
        panel.set_title(name)
        if not number:
            panel.legend()
    if rate:
        draw_rates(canvas.panel(0.6, 0.45, across * wide - 0.7, 0.75), history[rates].dropna())
    return canvas


def draw_rates(panel: Axes, rates: "pd.DataFrame") -> None:
    """The rates that each epoch began with; logarithmic where they span more than two decades."""
    for name, colour in zip(rates, itertools.cycle((INK, *SERIES)), strict=False):
        label = str(name).removeprefix("lr/")
        draw_by_epoch(panel, rates[name], color=colour, drawstyle="steps-post", label=label)
    panel.set_title("learning rate")
    if rates.shape[1] > 1:
        panel.legend()
    if not figures.fit_scale(panel, rates.stack()):
        top = max(float(rates.to_numpy().max()), 1e-12)
        panel.set(ylim=(0, 1.15 * top), yticks=(0, top))
        panel.yaxis.set_major_formatter("{x:.3g}")


def draw_by_epoch(panel: Axes, values: "pd.Series[float]", **style: Any) -> None:
    values = values.dropna()
    panel.plot(values.index, values, "o" if len(values) == 1 else "-", **style)
    panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    panel.set_xlabel("epoch", labelpad=1)
