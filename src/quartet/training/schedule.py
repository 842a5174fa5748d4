"""Learning-rate schedules: torch's schedulers with missing settings filled in, and a warm-up.

A tick is a call of the scheduler's ``step``: every `frequency` optimizer steps or epochs.
"""

import functools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, ReduceLROnPlateau

_HORIZONS = ("T_max", "total_iters", "total_steps")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Schedulers in Lightning's form, and the times of their ticks.

    The warm-up ticks after every optimizer step. The main scheduler ticks when Lightning asks for a
    tick and :meth:`due` is True.

    Attributes:
        group: The group of the settings.
        configs: Lightning's ``lr_scheduler`` dictionaries: the main scheduler, then the warm-up;
            empty for a constant learning rate.
        warmup: The ramp that precedes the main scheduler, or None.
        warmup_steps: Length of the ramp in optimizer steps, 0 without one.
        interval: Unit of the main scheduler: ``step`` or ``epoch``.
        frequency: Steps or epochs per tick.
        ticks: Ticks of the main scheduler in the whole training, at least 1; None if the training
            has no end.
    """

    group: str
    configs: list[dict[str, Any]]
    warmup: LinearLR | None
    warmup_steps: int
    interval: str
    frequency: int
    ticks: int | None

    @property
    def main(self) -> Any:
        """The main scheduler; None for a constant learning rate."""
        others = (config["scheduler"] for config in self.configs)
        return next((each for each in others if each is not self.warmup), None)

    def is_of(self, optimizer: Optimizer) -> bool:
        """Whether it changes the learning rates of an optimizer."""
        return any(config["scheduler"].optimizer is optimizer for config in self.configs)

    def due(self, global_step: int) -> bool:
        """Whether the main scheduler may tick after ``global_step`` optimizer steps.

        Lightning counts epochs. Steps are counted here from the end of the warm-up, because Lightning
        would count them from the start of every epoch.
        """
        past = global_step - self.warmup_steps
        return past > 0 and (self.interval == "epoch" or past % self.frequency == 0)


def create(
    optimizer: Optimizer,
    factory: functools.partial[LRScheduler] | None,
    *,
    interval: str,
    frequency: int,
    warmup_steps: int,
    warmup_epochs: float,
    monitor: str | None,
    total_steps: float,
    steps_per_epoch: float,
    validate_every: int,
    group: str = "scheduler",
) -> Schedule:
    """Builds the scheduler of a training and the linear warm-up before it.

    A keyword of ``factory`` that is None is filled in: ``T_max``, ``total_iters`` and
    ``total_steps`` with the length of the training; ``max_lr`` with the learning rate of each
    parameter group and ``base_lr`` with a tenth of it; ``cycle_momentum`` with whether the
    optimizer has momentum. Numbers for ``max_lr`` and ``base_lr`` are scaled by the ``lr`` of each
    group over that of the optimizer.

    Optimizer step ``k`` of a warm-up of ``N`` steps runs at ``k / (N + 1)`` of the learning rate
    with which the main scheduler starts; step ``N + 1`` is the first at full rate.

    Args:
        optimizer: Freshly made; its groups' learning rates become those of the first step.
        factory: The scheduler's class with its keywords, called with the optimizer; None for a
            constant learning rate.
        interval: Unit of ``frequency``: ``step`` (of the optimizer) or ``epoch``.
        frequency: Steps or epochs per tick, at least 1.
        warmup_steps: Optimizer steps of warm-up, or 0.
        warmup_epochs: The same in epochs, or 0; may be a fraction.
        monitor: Name of the value that ReduceLROnPlateau compares.
        total_steps: Optimizer steps of the whole training; infinite or negative if unlimited.
        steps_per_epoch: Optimizer steps of one epoch; infinite if not known.
        validate_every: Epochs from one validation to the next.
        group: The key of these settings, for messages.

    Raises:
        ValueError: Two settings contradict each other, or the training is too short or of no
            known length.
    """
    if warmup_steps and warmup_epochs:
        raise ValueError(
            f"{group}.warmup_steps={warmup_steps} sets the warm-up, and so does "
            f"{group}.warmup_epochs={warmup_epochs}; set one of them to 0."
        )
    if warmup_epochs and math.isinf(steps_per_epoch):
        raise ValueError(
            f"{group}.warmup_epochs={warmup_epochs} is not known in steps, since the data has no "
            f"known length; set {group}.warmup_steps."
        )
    ramp = warmup_steps or (round(warmup_epochs * steps_per_epoch) if warmup_epochs else 0)
    limit = None if total_steps < 0 or math.isinf(total_steps) else int(total_steps)
    if limit is not None and ramp >= limit:
        raise ValueError(
            f"A warm-up of {ramp} optimizer steps leaves nothing of a training of {limit}; "
            f"shorten {group}.warmup_steps or {group}.warmup_epochs, or train for longer."
        )

    counts = _count_ticks(limit, ramp, interval, frequency, steps_per_epoch)
    configs: list[dict[str, Any]] = []
    tick = {"interval": interval, "frequency": frequency if interval == "epoch" else 1}
    if factory is not None:
        target: Any = factory.func
        if isinstance(target, type) and issubclass(target, ReduceLROnPlateau):
            tick = _plateau_tick(group, interval, frequency, monitor, validate_every)
        keywords = _fill_horizon(group, factory.keywords, counts)
        keywords = keywords | _fill_range(keywords, optimizer)
        keywords = keywords | _fill_momentum(group, keywords, optimizer)
        _check_phases(group, keywords)
        scheduler = target(optimizer, *factory.args, **keywords)
        name = "lr" if group == "scheduler" else group
        configs.append({"scheduler": scheduler, "name": name, "monitor": monitor, **tick})

    warmup = None
    if ramp:
        # After the main scheduler, whose constructor sets the rate at the end of the ramp.
        warmup = LinearLR(optimizer, start_factor=1 / (ramp + 1), total_iters=ramp)
        name = "warmup" if group == "scheduler" else f"{group}.warmup"
        configs.append({"scheduler": warmup, "name": name, "interval": "step", "frequency": 1})
    return Schedule(
        group=group,
        configs=configs,
        warmup=warmup,
        warmup_steps=ramp,
        interval=interval,
        frequency=frequency,
        ticks=counts[0] if counts else None,
    )


def _plateau_tick(
    group: str, interval: str, frequency: int, monitor: str | None, validate_every: int
) -> dict[str, Any]:
    if interval != "epoch":
        raise ValueError(
            f"{group}.interval={interval} does not suit ReduceLROnPlateau, which looks at its value "
            f"when an epoch ends; set {group}.interval=epoch."
        )
    if monitor is None:
        raise ValueError(
            f"ReduceLROnPlateau needs a value to compare; set {group}.monitor, e.g. to val/loss."
        )
    # A val/ metric does not change between two validations, which would count as a plateau.
    epochs = frequency if monitor.startswith("train/") else math.lcm(frequency, validate_every)
    return {"interval": "epoch", "frequency": epochs, "strict": True}


def _count_ticks(
    limit: int | None, ramp: int, interval: str, frequency: int, steps_per_epoch: float
) -> tuple[int, int] | None:
    """Counts the ticks within the training, and the learning rates that its steps use.

    The two differ where the training ends on a tick: no step uses the rate after it. Both are at
    least 1. None if the training has no end, or if its epochs are not known.
    """
    if limit is None or (interval == "epoch" and math.isinf(steps_per_epoch)):
        return None

    def count(end: int) -> int:
        if interval == "step":
            return (end - ramp) // frequency
        return end // frequency - int(ramp // (frequency * steps_per_epoch))

    end = limit if interval == "step" else math.ceil(limit / steps_per_epoch)
    return max(1, count(end)), count(end - 1) + 1


def _fill_horizon(
    group: str, keywords: dict[str, Any], counts: tuple[int, int] | None
) -> dict[str, Any]:
    unknown = [key for key in _HORIZONS if key in keywords and keywords[key] is None]
    if counts is None:
        if unknown:
            raise ValueError(
                f"{group}.{unknown[0]} cannot be the length of a training of unknown length; set "
                f"{group}.{unknown[0]} itself, or trainer.max_epochs or trainer.max_steps (where the "
                f"data has no known length trainer.max_steps, with {group}.interval=step)."
            )
        return keywords
    ticks, rates = counts
    given = keywords.get("total_steps")
    if given is not None and given < rates:
        raise ValueError(
            f"{group}.total_steps={given} is shorter than the training, which ticks the "
            f"scheduler {rates} times; set {group}.total_steps=null."
        )
    # OneCycleLR counts the rates from its first to its last, the others the ticks between them.
    return keywords | {key: rates if key == "total_steps" else ticks for key in unknown}


def _fill_range(keywords: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """Returns ``base_lr`` and ``max_lr`` of each parameter group, where they are settings."""
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    filled: dict[str, Any] = {}
    for key, share in (("base_lr", 0.1), ("max_lr", 1.0)):
        if key in keywords and keywords[key] is None:
            filled[key] = [share * rate for rate in rates]
        elif isinstance(given := keywords.get(key), int | float):
            base = float(optimizer.defaults["lr"])
            filled[key] = [given * rate / base if base else given for rate in rates]
    return filled


def _fill_momentum(group: str, keywords: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    if "cycle_momentum" not in keywords:
        return {}
    # torch checks for the key alone, and would enable a momentum of 0.
    defaults = optimizer.defaults
    has_momentum = "betas" in defaults or defaults.get("momentum", 0) > 0
    if keywords["cycle_momentum"] and not has_momentum:
        raise ValueError(
            f"{group}.cycle_momentum=true needs momentum, which this {type(optimizer).__name__} "
            f"does not have; set {group}.cycle_momentum=null, or choose an optimizer such as momentum."
        )
    return {"cycle_momentum": has_momentum and keywords["cycle_momentum"] is not False}


def _check_phases(group: str, keywords: dict[str, Any]) -> None:
    """Raises ValueError for a OneCycleLR with an empty phase; torch would divide by its length."""
    share, ticks = keywords.get("pct_start"), keywords.get("total_steps")
    if share is None or ticks is None:
        return
    beyond_half = keywords.get("three_phase", False) and share > 0.5
    if share == 1 or share * ticks == 1 or beyond_half:
        raise ValueError(
            f"{group}.pct_start={share} leaves a phase of the {ticks} ticks empty; "
            "set another share, such as 0.3."
        )


def preview(
    schedules: Sequence[Schedule], optimizer: Optimizer, total_steps: int, steps_per_epoch: float
) -> list[float]:
    """Returns the first group's learning rates at the first, middle and last optimizer step.

    The schedules of the optimizer must be new. They tick as in a training, except for plateau schedulers.
    """
    configs = [(schedule, config) for schedule in schedules for config in schedule.configs]
    wanted = (0, total_steps // 2, total_steps - 1)
    rates: dict[int, float] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: the optimizer should step first
        for step in range(total_steps):
            if step in wanted:
                rates[step] = float(optimizer.param_groups[0]["lr"])
            for schedule, config in configs:
                scheduler = config["scheduler"]
                epoch, rest = divmod(step + 1, steps_per_epoch)
                ends = config["interval"] == "step" or not (rest or epoch % config["frequency"])
                due = scheduler is schedule.warmup or schedule.due(step + 1)
                if ends and due and not isinstance(scheduler, ReduceLROnPlateau):
                    scheduler.step()
    return [rates[step] for step in wanted]
