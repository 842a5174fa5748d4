"""Find the learning rate that lowers the loss most, and the fastest batch size.

Real steps on the run's own data, in its precision and on its device. Lightning's Tuner does not
serve: it gives all parameter groups one rate, loses its results when a non-finite loss ends the
training, and writes a checkpoint.
"""

import math
import statistics
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import matplotlib as mpl
import torch
from lightning import Callback, LightningModule, Trainer

from quartet.build import Run, build
from quartet.compat import quieten
from quartet.config.configuration import DictConfig, replace_values
from quartet.config.overrides import find_groups
from quartet.core.messages import join_and
from quartet.core.problems import ConfigError, Problem
from quartet.reports.figures import BLUE, RED, STYLE, Canvas, save_png
from quartet.training.module import NonFiniteLossError
from quartet.validation.data import load_data

FLAT = 0.2  # share of the steps, the first, in which the loss is taken to stay as it is
WINDOW = 0.05  # share of the steps on each side of one over which its loss is smoothed
FALL = 0.75  # share of the loss's fall that the best rate has reached
NOISE = 3.0  # standard errors of a smoothed loss by which it must fall
DIVERGED = 3.0  # times the first loss, above it
FAST_ENOUGH = 0.9  # of the highest speed
WARM_UP_STEPS, TIMED_STEPS = 3, 10


class LearningRateSweep(Callback):
    """Sets a higher rate for each optimizer step, and ends the training when the loss has risen.

    Args:
        rates: A rate for each step. Parameter groups with a factor keep it.
        base: The rate that the optimizer was made with.

    Attributes:
        losses: The loss of each step.
    """

    def __init__(self, rates: list[float], base: float) -> None:
        self.rates, self.base = rates, base
        self.losses: list[float] = []
        self.factors: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        groups = trainer.optimizers[0].param_groups
        self.factors = [group["lr"] / self.base if self.base else 1.0 for group in groups]

    def on_train_batch_start(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        groups = trainer.optimizers[0].param_groups
        for group, factor in zip(groups, self.factors, strict=True):
            group["lr"] = self.rates[trainer.global_step] * factor

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        if trainer.global_step == len(self.losses):
            return  # gradients are being accumulated
        self.losses.append(float(outputs["loss"].detach()))
        flat, recent = (max(3, int(share * len(self.rates))) for share in (FLAT, WINDOW))
        highest = max(map(abs, self.losses[:flat])) * (1 + DIVERGED)
        if not statistics.median(self.losses[-recent:]) <= highest:
            trainer.should_stop = True


class BatchTimer(Callback):
    """Measures the seconds of every batch, its loading included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.start = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start = perf_counter()

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds.append(perf_counter() - self.start)
        self.start = perf_counter()


def find_learning_rate(
    cfg: DictConfig, into: Path, *, low: float = 1e-6, high: float = 10.0, steps: int = 100
) -> float:
    """The rate that lowers the loss most while the rate grows (Smith, 2017), see `choose_rate`.

    Args:
        cfg: The configuration, as `compose` gives it.
        into: File of the picture of the loss over the rate.
        low: The first rate.
        high: The last, unless the loss rises before.
        steps: Optimizer steps in all.

    Raises:
        ConfigError: the configuration cannot be trained, or has no rate to find.
    """
    if others := find_groups(cfg, "optimizer")[1:]:
        each = f"-m optimizer.lr=0.001,0.01 {others[0]}.lr=0.001,0.01"
        message = f"depends on the rates of {join_and(others)}; try some of each, {each}"
        raise ConfigError(Problem("optimizer.lr", message))
    name = str(cfg.optimizer.get("_target_")).rpartition(".")[2]
    if name in ("LBFGS", "Rprop"):
        message = f"{name} finds the length of its steps itself; leave optimizer.lr as it is."
        raise ConfigError(Problem("optimizer", message))
    rates = [low * (high / low) ** (step / (steps - 1)) for step in range(steps)]
    callback = LearningRateSweep(rates, cfg.optimizer.lr)
    run = prepare(cfg, steps)
    with suppress(NonFiniteLossError):  # the end of the search
        fit(run, callback)
    losses = [loss for loss in callback.losses if math.isfinite(loss)]
    trend = smooth(losses, int(WINDOW * steps))
    rates = rates[: len(trend)]
    best = choose_rate(rates, losses, trend, max(3, int(FLAT * steps)))
    draw_rates(rates, trend, best, into)
    if best is None:
        message = f"no rate from {low:g} to {max(rates, default=low):g} lowered the loss enough"
        way_out = "try a larger data.batch_size, or look for the mistake with trainer=overfit"
        raise ConfigError(Problem("optimizer.lr", f"{message}, see {into}; {way_out}."))
    return float(f"{best:.2g}")


def find_batch_size(cfg: DictConfig) -> int:
    """The smallest batch size that trains nearly as many samples a second as any that fits.

    Args:
        cfg: The configuration; its batch size is the first, and doubled up to the training set.

    Raises:
        ConfigError: the configuration cannot be trained, or its batch is the whole set.
    """
    first = cfg.data.batch_size
    if first == "full":
        message = "is the whole set already; give a number to begin at."
        raise ConfigError(Problem("data.batch_size", message, first))

    largest = first * prepare(cfg, 1, first).data.count_batches(1)
    speeds: dict[int, float] = {}
    size = first
    while size <= largest:
        timer = BatchTimer()
        try:
            fit(prepare(cfg, WARM_UP_STEPS + TIMED_STEPS, size), timer)
        except (torch.OutOfMemoryError, MemoryError):
            print(f"{size:8} does not fit into memory")
            break
        speeds[size] = size / statistics.median(timer.seconds[WARM_UP_STEPS:])
        print(f"{size:8} {speeds[size]:12,.0f} samples a second")
        size *= 2
    if not speeds:
        message = "does not fit into memory; begin with a smaller one."
        raise ConfigError(Problem("data.batch_size", message, first))
    return min(size for size in speeds if speeds[size] >= FAST_ENOUGH * max(speeds.values()))


def prepare(cfg: DictConfig, steps: int, size: int | None = None) -> Run:
    """A run of so many optimizer steps, without callbacks and loggers."""
    quieten()
    values = {"callbacks": {}, "logger": {}, "trainer.max_epochs": -1, "trainer.max_steps": steps}
    values |= {"trainer.max_time": None, "trainer.limit_val_batches": 0}
    values["trainer.val_check_interval"] = 1.0  # an epoch of larger batches may be shorter
    # A schedule would move the rate, and a warm-up may be longer than the search.
    constant = {"_target_": None, "interval": "epoch", "frequency": 1}
    for group in find_groups(cfg, "scheduler"):
        values[group] = {**constant, "warmup_steps": 0, "warmup_epochs": 0}
    if size is not None:
        values |= {"data.batch_size": size, "data.drop_last": True}
    run = build(replace_values(cfg, values))
    if run.trainer.world_size > 1:
        message = "the search needs a single process; set it to 1."
        raise ConfigError(Problem("trainer.devices", message, cfg.trainer.devices))
    if not run.is_known:
        message = "the search needs the optimizer and data groups; leave the module as it is."
        raise ConfigError(Problem("module", message, cfg.module._target_))
    load_data(run)
    return run


def fit(run: Run, callback: Callback) -> None:
    trainer: Any = run.trainer
    trainer.loggers, trainer.callbacks = [], [callback]
    trainer.fit(run.module, run.data)


def smooth(losses: list[float], width: int) -> list[float]:
    """The median of each loss and of up to `width` losses on each side of it."""
    windows = (losses[max(0, i - width) : i + width + 1] for i in range(len(losses)))
    return list(map(statistics.median, windows))


def choose_rate(
    rates: list[float], losses: list[float], trend: list[float], flat: int
) -> float | None:
    """The rate at which the loss has made most of its fall; None if it does not fall.

    The steepest place of the curve would be that of the noise, where batches differ much. `trend` is
    the smoothed loss, `flat` the number of the first steps, whose rates are too low to change it.
    """
    if len(losses) <= flat:
        return None
    start, lowest = statistics.median(losses[:flat]), min(trend)
    error = statistics.stdev(losses[:flat]) / math.sqrt(1 + 2 * WINDOW * flat / FLAT)
    if start - lowest <= max(NOISE * error, 0.02 * abs(start)):
        return None
    above = [i for i in range(trend.index(lowest)) if trend[i] > start - FALL * (start - lowest)]
    return rates[above[-1] + 1] if above else None


@mpl.rc_context(STYLE)
def draw_rates(rates: list[float], trend: list[float], best: float | None, into: Path) -> None:
    canvas = Canvas(5.2, 3.4)
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
    save_png(canvas, into)
