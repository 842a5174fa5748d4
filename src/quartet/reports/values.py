"""Pictures of predicted numbers and of orders: scatter, residuals, nDCG by query."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from quartet.core.messages import cut
from quartet.reports.canvas import BLUE, GREY, INK, PALE, RED, STYLE, Canvas

Array = NDArray[Any]
POINTS = 5000  # of a scatter; more of them are only a blot
ROWS = 4  # outputs that are drawn


def scatter(predictions: Array, labels: Array, names: Sequence[str]) -> Canvas:
    """Predicted against true, and residuals against predicted, a row for each output.

    Args:
        predictions: ``(samples, outputs)``.
        labels: ``(samples, outputs)``.
        names: Of the outputs.
    """
    outputs = min(predictions.shape[1], ROWS)
    canvas = Canvas(9.1, 3.6 * outputs + 0.1)
    chosen = slice(None, None, -(-len(labels) // POINTS))
    with mpl.rc_context(STYLE):
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
            side.hist(
                labels[:, k] - predictions[:, k],
                bins=24,
                orientation="horizontal",
                color=PALE,
            )
            side.set_ylim(second.get_ylim())
            side.set(xlabel="samples")
            side.tick_params(labelleft=False, left=False)
            side.xaxis.set_major_locator(MaxNLocator(2, integer=True))
    return canvas


def dots(panel: Axes, x: Array, y: Array) -> None:
    faint = float(np.interp(len(x), [100, POINTS], [0.8, 0.25]))
    panel.plot(x, y, "o", color=BLUE, markersize=3.5, alpha=faint, markeredgewidth=0)
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(MaxNLocator(5))


def by_query(scores: Array, relevance: Array, queries: Array, top: int | None) -> Array:
    """The nDCG of each query, in the order of their numbers; 0 where nothing is relevant.

    Args:
        scores: ``(documents,)``.
        relevance: ``(documents,)`` grades.
        queries: ``(documents,)``, ascending.
        top: Documents that count; None for all.
    """
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
    with mpl.rc_context(STYLE):
        first = canvas.panel(0.65, 0.55, 3.2, 2.75)
        first.hist(values, bins=np.linspace(0, 1, 21).tolist(), color=PALE)
        first.axvline(values.mean(), color=BLUE, label=f"mean {values.mean():.4f}")
        lowest = np.quantile(values, 0.1)
        first.axvline(lowest, color=RED, linestyle="--", label=f"a tenth below {lowest:.4f}")
        first.set(title=f"{at} by query", xlabel=at, ylabel="queries", xlim=(-0.02, 1.02))
        first.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        first.legend(loc="upper left")
        second = canvas.panel(4.75, 0.55, 3.2, 2.75)
        length = top or 20
        curves = (
            ("best order", -relevance, GREY, "--"),
            ("predicted order", -scores, BLUE, "-"),
        )
        for name, key, colour, dash in curves:
            mean = mean_at_ranks(relevance, key, queries, length)
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
