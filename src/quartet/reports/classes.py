"""Pictures of how well classes are told apart: confusion, ROC, precision-recall, calibration."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_curve

from quartet.core.messages import cut
from quartet.reports.canvas import (
    BLUE,
    GREY,
    INK,
    PALE,
    RED,
    SERIES,
    STYLE,
    Canvas,
    row,
    text_width,
)

Array = NDArray[Any]
NAMED = 100  # classes whose names still fit beside a matrix
BINS = (
    15  # of confidence, as usual since Guo et al., "On Calibration of Modern Neural Networks", 2017
)


def counts(predicted: Array, true: Array, classes: int) -> Array:
    """Numbers of samples of each class (row) of which each class (column) was predicted."""
    pairs = np.bincount(true.astype(int) * classes + predicted.astype(int), minlength=classes**2)
    return pairs.reshape(classes, classes)


def confusion(predicted: Array, true: Array, names: Sequence[str], title: str) -> Canvas:
    """The confusion matrix: numbers of samples, coloured by the share of their true class."""
    matrix = counts(predicted, true, len(names))
    return heat_map(matrix, names, names, title, "predicted", "true")


def outcomes(predicted: Array, true: Array, names: Sequence[str], title: str) -> Canvas:
    """A row for each label: the four cells of its own confusion matrix."""
    hit, said = true.astype(bool), predicted.astype(bool)
    cells = [(hit & said), (hit & ~said), (~hit & said), (~hit & ~said)]
    matrix = np.stack([cell.sum(0) for cell in cells], axis=1)
    kinds = ["TP", "FN", "FP", "TN"]
    return heat_map(matrix, names, kinds, title, "", "label")


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
    with mpl.rc_context(STYLE):
        panel = canvas.panel(left, below, wide, high)
        shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        panel.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        ticks = [range(0, n, every) for n in matrix.shape]
        panel.set_xticks(
            ticks[1], columns[::every], fontsize=font, rotation=90 if turned else 0, minor=False
        )
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

    Args:
        scores: ``(samples, classes)`` probabilities, each class against the rest.
        truth: ``(samples, classes)`` of bool.
        names: Names of the classes or labels.
        confidence: ``(samples,)`` probability of the chosen class; None takes all `scores`.
        is_right: ``(samples,)`` whether it is the true class; None takes all of `truth`.
    """
    drawn = [
        (cut(name), truth[:, k], scores[:, k])
        for k, name in enumerate(names)
        if 0 < truth[:, k].sum() < len(truth)
    ]
    canvas, panels = row(3 if drawn else 1)
    with mpl.rc_context(STYLE):
        if drawn:
            curves(panels[0], drawn, receiver_operating, "AUC")
            panels[0].set(title="ROC", xlabel="false positive rate", ylabel="true positive rate")
            panels[0].plot([0, 1], [0, 1], ":", color=GREY, linewidth=1, zorder=1)
            curves(panels[1], drawn, precision_recall, "AP")
            panels[1].set(title="Precision and recall", xlabel="recall", ylabel="precision")
        if confidence is None or is_right is None:
            reliability(panels[-1], scores.ravel(), truth.ravel())
            panels[-1].set(xlabel="predicted probability", ylabel="frequency observed")
        else:
            reliability(panels[-1], confidence, is_right)
            panels[-1].set(xlabel="confidence", ylabel="accuracy")
    return canvas


def receiver_operating(truth: Array, scores: Array) -> tuple[Array, Array, float]:
    false_positive, true_positive, _ = roc_curve(truth, scores)
    return false_positive, true_positive, float(auc(false_positive, true_positive))


def precision_recall(truth: Array, scores: Array) -> tuple[Array, Array, float]:
    precision, recall, _ = precision_recall_curve(truth, scores, drop_intermediate=True)
    precision[-1] = precision[-2]  # nothing found has no precision; it says 1
    return recall[::-1], precision[::-1], float(average_precision_score(truth, scores))


def curves(
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
        others = LineCollection(
            [steps(x, y) if area == "AP" else np.column_stack([x, y]) for _, x, y, _ in lines],
            colors=PALE,
            linewidths=0.8,
            label="each class",
        )
        panel.add_collection(others)
        name, x, y, value = min(lines, key=lambda line: line[3])
        label = f"worst class, {name}: {area} {value:.4f}"
        panel.plot(x, y, color=RED, linewidth=1, label=label, drawstyle=step)
        grid = np.linspace(0, 1, 501)
        mean = np.mean([interpolated(grid, line[1], line[2], area) for line in lines], axis=0)
        value = float(np.mean([line[3] for line in lines]))
        panel.plot(
            grid, mean, color=BLUE, label=f"mean of {len(lines)} classes: {area} {value:.4f}"
        )
    panel.legend(loc="lower right" if area == "AUC" else "lower left")
    unit_square(panel)


def steps(x: Array, y: Array) -> Array:
    """The corners ``(points, 2)`` of a curve whose height is that of the next point."""
    return np.column_stack([np.repeat(x, 2)[:-1], np.repeat(y, 2)[1:]])


def interpolated(grid: Array, x: Array, y: Array, area: str) -> Array:
    """The height of a curve over each point of the grid."""
    if area == "AUC":
        return np.asarray(np.interp(grid, x, y))
    return np.asarray(y[np.searchsorted(x, grid, side="left").clip(max=len(y) - 1)])


def unit_square(panel: Axes) -> None:
    panel.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
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
