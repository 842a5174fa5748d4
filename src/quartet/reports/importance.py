"""Which of the knobs that a search turned mattered."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd


def importances(jobs: pd.DataFrame, knobs: Sequence[str]) -> "tuple[pd.Series[float], float]":
    """How much worse a random forest predicts the jobs' ranks with a knob's values shuffled.

    Five times, the forest sees four fifths of the jobs and is judged by the rest. Ranks, since a
    few diverged jobs would otherwise decide.

    Returns:
        The loss of R2 by knob, the greatest first, and R2 itself.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import KFold

    inputs = pd.DataFrame(
        {
            knob: jobs[knob] if pd.api.types.is_numeric_dtype(jobs[knob]) else codes(jobs[knob])
            for knob in knobs
        }
    ).to_numpy(dtype=float)
    targets = jobs["best"].rank().to_numpy() / len(jobs)
    losses, scores = [], []
    for train, rest in KFold(5, shuffle=True, random_state=0).split(inputs):
        forest = RandomForestRegressor(100, random_state=0).fit(inputs[train], targets[train])
        scores.append(forest.score(inputs[rest], targets[rest]))
        shuffled = permutation_importance(
            forest, inputs[rest], targets[rest], n_repeats=5, random_state=0
        )
        losses.append(shuffled.importances_mean)
    lost = np.mean(losses, axis=0).clip(min=0).tolist()
    importance: pd.Series[float] = pd.Series(dict(zip(knobs, lost, strict=True)), dtype=float)
    return importance.sort_values(ascending=False, kind="stable"), float(np.mean(scores))


def codes(column: "pd.Series[Any]") -> "pd.Series[int]":
    return column.astype("category").cat.codes
