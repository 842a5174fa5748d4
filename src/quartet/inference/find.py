"""Search the learning rate at which the loss falls fastest, and the fastest batch size.

Real steps on the run's own data, in its precision and on its device. Nothing is kept of them but a
picture.
"""

import math
import statistics
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import matplotlib as mpl
import torch
from lightning import Callback, LightningModule, Trainer
from matplotlib.ticker import NullFormatter
from omegaconf import DictConfig, open_dict

from quartet.build import Run, build
from quartet.compat.lightning import quieten
from quartet.core.problems import ConfigError
from quartet.reports.canvas import BLUE, GREY, PALE, RED, STYLE, Canvas
from quartet.training.module import NonFiniteLossError
from quartet.validation.data import load_data

SMOOTH = 0.9  # of the mean that a loss is compared by
DIVERGED = 4.0  # times the best loss
ENOUGH = 0.9  # of the highest speed
WARM_UP, TIMED = 3, 10  # steps


class Rates(Callback):
    """Trains each optimizer step at a higher rate than the last, and ends when the loss has risen.

    Args:
        rates: Of the steps. Groups with a rate of their own keep their share of it.

    Attributes:
        losses: Of each step that was done.
    """

    def __init__(self, rates: list[float], base: float) -> None:
        self.rates, self.base = rates, base
        self.losses: list[float] = []
        self.shares: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        groups = trainer.optimizers[0].param_groups
        self.shares = [group["lr"] / self.base if self.base else 1.0 for group in groups]

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        groups = trainer.optimizers[0].param_groups
        for group, share in zip(groups, self.shares, strict=True):
            group["lr"] = self.rates[trainer.global_step] * share

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        if trainer.global_step == len(self.losses):
            return  # gradients are being accumulated
        self.losses.append(float(outputs["loss"].detach()))
        trend = smoothed(self.losses)
        if not math.isfinite(trend[-1]) or trend[-1] > DIVERGED * min(trend):
            trainer.should_stop = True


class Pace(Callback):
    """Measures the seconds of every batch, with its loading and without what ends an epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.since = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.since = perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds.append(perf_counter() - self.since)
        self.since = perf_counter()


def learning_rate(
    cfg: DictConfig, into: Path, *, low: float = 1e-6, high: float = 10.0, steps: int = 100
) -> float:
    """The rate at which the loss falls fastest while the rate grows (Smith, 2017).

    Args:
        cfg: As `quartet.build.compose` gives it.
        into: The picture: loss over rate.
        low: The first rate.
        high: The last, unless the loss rises before.
        steps: Optimizer steps in all.

    Raises:
        Refusal: the configuration cannot train, or has no rate to search.
    """
    name = str(cfg.optimizer.get("_target_")).rpartition(".")[2]
    if name in ("LBFGS", "Rprop"):
        raise ConfigError(
            [
                f"optimizer: {name} finds the length of its steps itself; leave optimizer.lr as it is."
            ]
        )
    rates = [low * (high / low) ** (step / (steps - 1)) for step in range(steps)]
    callback = Rates(rates, cfg.optimizer.lr)
    run = prepare(cfg, steps)
    with suppress(NonFiniteLossError):  # the end of the search
        fit(run, callback)
    trend = [loss for loss in smoothed(callback.losses) if math.isfinite(loss)]
    rates = rates[: len(trend)]
    best = steepest(rates, trend)
    draw_rates(rates, trend, best, into)
    if best is None:
        raise ConfigError(
            [
                f"no rate from {low:g} to {rates[-1]:g} lowered the loss, see {into}; try another "
                "range, more steps, or look for the mistake with trainer=overfit."
            ]
        )
    return float(f"{best:.2g}")


def batch_size(cfg: DictConfig, into: Path, *, limit: int | None = None) -> int:
    """The smallest batch size that trains nearly as many samples a second as any that fits.

    Args:
        cfg: As `quartet.build.compose` gives it; its size is the first, and doubled.
        into: The picture: samples a second over size.
        limit: The largest size; None for the training set.

    Raises:
        Refusal: the configuration cannot train, or its batch is the whole set.
    """
    first = cfg.data.batch_size
    if first == "full":
        raise ConfigError(
            ["data.batch_size=full: is the whole set already; give a number to begin at."]
        )

    def speed(size: int) -> float:
        run = prepare(cfg, WARM_UP + TIMED, size)
        pace = Pace()
        fit(run, pace)
        return size / statistics.median(pace.seconds[WARM_UP:])

    whole = prepare(cfg, 1, first)
    largest = first * whole.data.count_batches(1)
    speeds, stopped = double(speed, first, min(largest, limit or largest))
    best = min(size for size in speeds if speeds[size] >= ENOUGH * max(speeds.values()))
    for size, value in speeds.items():
        print(f"{size:8} {value:12,.0f} samples a second")
    print(f"{stopped:8} does not fit" if stopped else "The training set holds no larger batch.")
    draw_sizes(speeds, best, stopped, into)
    return best


def double(
    speed: Callable[[int], float], first: int, limit: int
) -> tuple[dict[int, float], int | None]:
    """Speeds of sizes, each twice the last, up to a limit; and the first that memory did not hold.

    Raises:
        Refusal: memory does not hold the first.
    """
    speeds: dict[int, float] = {}
    size = first
    while size <= limit:
        try:
            speeds[size] = speed(size)
        except (torch.OutOfMemoryError, MemoryError):
            if speeds:
                return speeds, size
            raise ConfigError(
                [f"data.batch_size={size}: does not fit into memory; begin with a smaller one."]
            ) from None
        size *= 2
    return speeds, None


def prepare(cfg: DictConfig, steps: int, size: int | None = None) -> Run:
    """A run of so many optimizer steps, with nothing that would write or watch."""
    quieten()
    cfg = cfg.copy()
    with open_dict(cfg):
        cfg.callbacks, cfg.logger = {}, {}
        cfg.trainer.update(max_epochs=-1, max_steps=steps, max_time=None, limit_val_batches=0)
        if size is not None:
            cfg.data.update(batch_size=size, drop_last=True)
    run = build(cfg)
    if run.trainer.world_size > 1:
        raise ConfigError(
            [f"trainer.devices={cfg.trainer.devices}: a search has one process; set it to 1."]
        )
    load_data(run)
    return run


def fit(run: Run, callback: Callback) -> None:
    trainer: Any = run.trainer
    trainer.loggers, trainer.callbacks = [], [callback]
    trainer.fit(run.module, run.data)


def smoothed(losses: list[float]) -> list[float]:
    """The running mean of losses, each weighed less the older it is."""
    mean, found = 0.0, []
    for number, loss in enumerate(losses, start=1):
        mean = SMOOTH * mean + (1 - SMOOTH) * loss
        found.append(mean / (1 - SMOOTH**number))
    return found


def steepest(rates: list[float], trend: list[float]) -> float | None:
    """The rate at which the loss falls fastest by the logarithm of the rate, before its minimum."""
    lowest = min(range(len(trend)), key=trend.__getitem__, default=0)
    if lowest < 2 or trend[lowest] > 0.98 * trend[0]:
        return None
    slopes = {
        rates[i]: (trend[i + 1] - trend[i - 1]) / math.log(rates[i + 1] / rates[i - 1])
        for i in range(1, lowest)
    }
    return min(slopes, key=slopes.__getitem__)


def draw_rates(rates: list[float], trend: list[float], best: float | None, into: Path) -> None:
    canvas = Canvas(5.2, 3.4)
    with mpl.rc_context(STYLE):
        panel = canvas.panel(0.7, 0.55, 4.3, 2.45)
        panel.plot(rates, trend, color=BLUE)
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter("{x:g}")
        panel.set(xlabel="learning rate, one step each", title="training loss, smoothed")
        if trend:
            panel.set_ylim(None, min(max(trend), 1.5 * trend[0]))
        if best is not None:
            panel.axvline(best, color=RED, linewidth=1)
            panel.plot([best], [trend[rates.index(best)]], "o", color=RED)
            top = panel.get_ylim()[1]
            panel.text(best * 0.8, top, f"{best:.2g}", color=RED, ha="right", va="top")
    into.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(into)


def draw_sizes(speeds: Mapping[int, float], best: int, stopped: int | None, into: Path) -> None:
    canvas = Canvas(5.2, 3.4)
    with mpl.rc_context(STYLE):
        panel = canvas.panel(0.8, 0.55, 4.2, 2.45)
        panel.plot(list(speeds), list(speeds.values()), "o-", color=BLUE)
        panel.plot([best], [speeds[best]], "o", color=RED, markersize=8)
        panel.axhline(ENOUGH * max(speeds.values()), color=PALE, linewidth=1, zorder=0)
        panel.set_xscale("log", base=2)
        sizes = [*speeds, *([stopped] if stopped else [])]
        panel.set_xticks(sizes[:: max(1, len(sizes) // 8)])
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        panel.set_ylim(0, 1.1 * max(speeds.values()))
        panel.set(xlabel="batch size", title="samples a second")
        if stopped:
            panel.axvline(stopped, color=GREY, linewidth=1, linestyle="--")
            panel.text(stopped, 0, "does not fit ", color=GREY, ha="right", va="bottom")
    into.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(into)
