"""Forecasts of a table of hours: the next values of a column, from all columns of the hours before."""

from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

import quartet


def windows(
    *,
    path: str,
    time: str,
    target: str,
    history: int,
    horizon: int,
    val_fraction: float,
    test_fraction: float,
) -> quartet.Parts:
    """Inputs ``(history, columns)``, targets ``(horizon,)``: the values that follow.

    The last hours are the test part, those before them the validation part. All targets of a window
    lie in its part; its inputs may reach back into the part before. Columns are standardized by the
    training part, and metrics are in their units.

    Args:
        path: A csv file.
        time: The column by which its rows are divided, numbers or dates.
        target: The column to forecast.
        history: Hours that the model sees.
        horizon: Hours to forecast.
        val_fraction: Share of the hours for validation.
        test_fraction: Share of the hours for the test.
    """
    table = pd.read_csv(path, parse_dates=[time]).sort_values(time)
    rows = quartet.split(
        len(table),
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        split_seed=0,
        order=table[time].to_numpy(),
    )
    columns = [target, *table.columns.drop([time, target])]
    values, (mean, std) = quartet.standardize(table[columns].to_numpy(float), rows.train)
    cut = partial(cut_windows, history=history, horizon=horizon)

    def read(path: Path) -> TensorDataset:
        other = pd.read_csv(path, parse_dates=[time]).sort_values(time)
        numbers = torch.tensor(other[columns].to_numpy(float)).float()
        return cut((numbers - mean) / std, 0, len(other))

    train, val, test = (cut(values, int(each[0]), int(each[-1]) + 1) for each in rows)
    return quartet.Parts(
        train,
        val,
        test,
        class_names=tuple(f"{hour}h" for hour in range(1, horizon + 1)),
        target_scale=(mean[:1].repeat(horizon), std[:1].repeat(horizon)),
        read=read,
    )


def cut_windows(
    values: Tensor, first: int, end: int, *, history: int, horizon: int
) -> TensorDataset:
    """All windows whose targets are hours from `first` to before `end`."""
    starts = range(max(first, history), end + 1 - horizon)
    inputs = torch.stack([values[start - history : start] for start in starts])
    targets = torch.stack([values[start : start + horizon, 0] for start in starts])
    return TensorDataset(inputs, targets)
