"""Forecasts of a table of hours: the next values of a column, from all columns of the hours before."""

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
    hours = table[time].to_numpy()
    rows = quartet.split(
        len(table),
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        split_seed=0,
        order=hours,
    )
    columns = [target, *table.columns.drop([time, target])]
    values, (mean, std) = quartet.standardize(table[columns].to_numpy(float), rows.train)

    def part(numbers: Tensor) -> TensorDataset:
        first = max(history, int(numbers[0]))  # hours that a window forecasts first
        starts = torch.arange(first, int(numbers[-1]) + 2 - horizon)
        inputs = torch.stack([values[start - history : start] for start in starts])
        targets = torch.stack([values[start : start + horizon, 0] for start in starts])
        return TensorDataset(inputs, targets)

    train, val, test = (part(torch.from_numpy(each)) for each in rows)
    scale = mean[:1].repeat(horizon), std[:1].repeat(horizon)
    names = tuple(f"{hour}h" for hour in range(1, horizon + 1))
    return quartet.Parts(train, val, test, class_names=names, target_scale=scale)
