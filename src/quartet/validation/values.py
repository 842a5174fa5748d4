"""What values a setting may have: numbers in their range, names that there are."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch.strategies import StrategyRegistry

from quartet.config import signatures
from quartet.core.messages import format_value

Config = Mapping[str, Any]

# The range of a number (or of each in a list) and, where it is no matter of course, the way out.
# A name in capitals is that of the class, wherever it stands.
RANGES = {
    "data.batch_size": "[1, inf) full is the whole training set",
    "data.eval_batch_size": "[1, inf)",
    "data.num_workers": "[0, inf) 0 reads in this process",
    "data.input_shape": "[1, inf)",
    "data.num_classes": "[2, inf)",
    "data.num_outputs": "[1, inf)",
    "data.val_fraction": "[0, 1) 0 trains without validation",
    "data.test_fraction": "[0, 1) 0 goes without a test",
    "data.split_seed": "[0, 4294967295]",
    "data.std": "(0, inf)",
    "data.folds": "[2, inf) null divides by data.val_fraction",
    "data.fold": "[0, inf)",
    "data.mixup": "[0, inf) 0 does not mix",
    "data.cutmix": "[0, inf) 0 does not mix",
    "optimizer.lr": "[0, inf)",
    "optimizer.betas": "[0, 1)",
    "optimizer.momentum": "[0, 1)",
    "optimizer.dampening": "[0, 1]",
    "optimizer.weight_decay": "[0, inf)",
    "optimizer.eps": "[0, inf)",
    "Adadelta.rho": "[0, 1]",
    "Adafactor.d": "[1, inf)",
    "Adagrad.lr_decay": "[0, inf)",
    "Adagrad.initial_accumulator_value": "[0, inf)",
    "ASGD.alpha": "[0, inf)",
    "ASGD.lambd": "[0, inf)",
    "ASGD.t0": "[0, inf)",
    "LBFGS.history_size": "[1, inf)",
    "LBFGS.max_eval": "[1, inf)",
    "LBFGS.max_iter": "[1, inf)",
    "LBFGS.tolerance_change": "[0, inf)",
    "LBFGS.tolerance_grad": "[0, inf)",
    "Muon.ns_steps": "[1, 100)",
    "NAdam.momentum_decay": "[0, inf)",
    "RMSprop.alpha": "[0, 1]",
    "Rprop.step_sizes": "(0, inf)",
    "scheduler.frequency": "[1, inf) 1 is every step or epoch",
    "scheduler.warmup_steps": "[0, inf) 0 is no warm-up",
    "scheduler.warmup_epochs": "[0, inf) 0 is no warm-up",
    "scheduler.gamma": "(0, inf) 1 changes nothing",
    "scheduler.T_max": "[1, inf) null is the whole training",
    "scheduler.total_iters": "[1, inf) null is the whole training",
    "scheduler.total_steps": "[1, inf) null is the whole training",
    "scheduler.step_size": "[1, inf)",
    "scheduler.eta_min": "[0, inf)",
    "CosineAnnealingWarmRestarts.T_0": "[1, inf)",
    "CosineAnnealingWarmRestarts.T_mult": "[1, inf) 1 keeps all falls as long as the first",
    "CyclicLR.base_lr": "[0, inf)",
    "CyclicLR.base_momentum": "[0, 1)",
    "CyclicLR.max_lr": "(0, inf)",
    "CyclicLR.max_momentum": "[0, 1)",
    "CyclicLR.step_size_down": "[1, inf)",
    "CyclicLR.step_size_up": "[1, inf)",
    "LinearLR.start_factor": "(0, 1]",
    "LinearLR.end_factor": "[0, 1]",
    "MultiStepLR.milestones": "[1, inf)",
    "OneCycleLR.base_momentum": "[0, 1)",
    "OneCycleLR.div_factor": "(0, inf)",
    "OneCycleLR.final_div_factor": "(0, inf)",
    "OneCycleLR.max_lr": "(0, inf)",
    "OneCycleLR.max_momentum": "[0, 1)",
    "OneCycleLR.pct_start": "[0, 1]",
    "PolynomialLR.power": "(0, inf)",
    "ReduceLROnPlateau.cooldown": "[0, inf)",
    "ReduceLROnPlateau.eps": "[0, inf)",
    "ReduceLROnPlateau.factor": "(0, 1)",
    "ReduceLROnPlateau.min_lr": "[0, inf)",
    "ReduceLROnPlateau.patience": "[0, inf)",
    "ReduceLROnPlateau.threshold": "[0, inf)",
    "CrossEntropyLoss.label_smoothing": "[0, 1] 0 is plain cross-entropy",
    "HuberLoss.delta": "(0, inf)",
    "SmoothL1Loss.beta": "[0, inf) 0 is the absolute error",
    "EMA.decay": "[0, 1)",
    "EMA.every_n_steps": "[1, inf)",
    "EMA.start_step": "[0, inf)",
    "SWA.start": "[0, 1)",
    "EarlyStopping.min_delta": "[0, inf)",
    "EarlyStopping.patience": "[0, inf)",
    "trainer.accumulate_grad_batches": "[1, inf) 1 is a step a batch",
    "trainer.gradient_clip_val": "(0, inf) null does not clip",
    "trainer.log_every_n_steps": "[0, inf)",
    "trainer.max_epochs": "[-1, inf) -1 goes with trainer.max_steps or trainer.max_time",
    "trainer.max_steps": "[-1, inf) -1 is no limit but that of the epochs",
    "trainer.num_nodes": "[1, inf)",
}


def whole(value: Any, least: float) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def share(value: Any) -> bool:
    return whole(value, 0) or (isinstance(value, float) and 0 <= value <= 1)


BATCHES = (share, "must be a number of batches, or a share of them from 0.0 to 1.0.")
# Values that annotations describe too loosely.
KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": (
        lambda value: whole(value, 0) and value < 2**32,
        f"must be a whole number from 0 to {2**32 - 1}.",
    ),
    "trainer.check_val_every_n_epoch": (
        lambda value: whole(value, 1),
        "must be a whole number of at least 1; data.val_fraction=0 trains without validation.",
    ),
    "trainer.devices": (
        lambda value: whole(value, 1) or value in (-1, "auto") or isinstance(value, list),
        "must be a number of devices from 1, a list of their indices, or auto.",
    ),
    "trainer.val_check_interval": (
        lambda value: (
            whole(value, 1)
            or value is None
            or (0 < value <= 1 if isinstance(value, float) else not isinstance(value, int))
        ),
        "must be a number of batches, or a share of the epoch above 0.0 and at most 1.0.",
    ),
    "trainer.limit_train_batches": BATCHES,
    "trainer.limit_val_batches": BATCHES,
    "trainer.limit_test_batches": BATCHES,
    "trainer.overfit_batches": BATCHES,
}

# Names of which an annotation says no more than that they are text.
NAMES = {
    "trainer.accelerator": ["auto", "cpu", "gpu", "cuda", "mps", "tpu"],
    "trainer.gradient_clip_algorithm": ["norm", "value"],
    "trainer.profiler": ["simple", "advanced", "pytorch"],
    "trainer.precision": [
        *("32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true"),
        *("32", "16", "bf16", "64", "transformer-engine", "transformer-engine-float16"),
    ],
    "trainer.strategy": ["auto", *sorted(StrategyRegistry.available_strategies(), key=len)],
    "LBFGS.line_search_fn": ["strong_wolfe"],
    "Muon.adjust_lr_fn": ["match_rms_adamw", "original", "spectral_unclamped"],
    "EarlyStopping.mode": ["min", "max"],
    "Best.mode": ["min", "max"],
}


def check(key: str, given: Config, hints: Config, title: str = "") -> list[str]:
    """Values of a wrong kind or out of range.

    Args:
        key: Where they stand in the configuration.
        given: The values, by name.
        hints: An annotation for each; any value fits where there is none.
        title: Of the class that takes them.
    """
    faults = []
    for name, value in given.items():
        path = f"{key}.{name}" if key else name
        known = [path, f"{title}.{name}"]
        kind = next((KINDS[one] for one in known if one in KINDS), None)
        names = next((NAMES[one] for one in known if one in NAMES), None)
        interval = next((RANGES[one] for one in known if one in RANGES), None)
        if kind:
            if not kind[0](value):
                faults.append(f"{path}={format_value(value)}: {kind[1]}")
        elif names and isinstance(value, str):
            if value not in names:
                faults.append(signatures.choice(path, value, names))
        elif not signatures.fits(value, hints.get(name, Any)):
            faults.append(signatures.mismatch(path, value, hints[name]))
        elif interval and not inside(value, interval):
            several = "each " if isinstance(value, list) else ""
            finite = "finite and " if value in (float("inf"), float("-inf")) else ""
            faults.append(
                f"{path}={format_value(value)}: {several}must be {finite}{in_words(interval)}."
            )
    return faults


def inside(value: Any, interval: str) -> bool:
    """Whether a number, or each in a list, lies in a range such as ``[0, 1)``."""
    if isinstance(value, list):
        return all(inside(element, interval) for element in value)
    if not isinstance(value, int | float):  # null, or a word of its own meaning
        return True
    low, high = map(float, re.findall(r"[-\w.]+", interval)[:2])
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if "]" in interval else value < high)


def in_words(interval: str) -> str:
    """The range ``[0, 1)`` as "at least 0 and below 1", and what stands behind it."""
    low, high, way_out = re.findall(r"^.([^,]+), ([^\])]+).\s*(.*)", interval)[0]
    closed = interval[0] == "[", "]" in interval
    if all(closed):
        text = f"from {low} to {high}"
    else:
        text = f"at least {low}" if closed[0] else f"above {low}"
        if high != "inf":
            text += f" and at most {high}" if closed[1] else f" and below {high}"
    return f"{text}; {way_out}" if way_out else text
