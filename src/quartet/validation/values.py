"""Values of settings: numbers in their range, words that there are."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from lightning.pytorch.strategies import StrategyRegistry

from quartet.config import signatures
from quartet.core.problems import Config, Problem

# Settings by the range of their number, or of each in their list. A name in capitals is that of the
# class, wherever it stands.
INTERVALS: dict[str, tuple[str, ...]] = {
    "[0, inf)": (
        *("data.fold", "optimizer.lr", "optimizer.weight_decay", "optimizer.eps"),
        *("Adagrad.lr_decay", "Adagrad.initial_accumulator_value", "ASGD.alpha", "ASGD.lambd"),
        *("ASGD.t0", "LBFGS.tolerance_change", "LBFGS.tolerance_grad", "NAdam.momentum_decay"),
        *("scheduler.eta_min", "CyclicLR.base_lr", "ReduceLROnPlateau.cooldown"),
        *("ReduceLROnPlateau.eps", "ReduceLROnPlateau.min_lr", "ReduceLROnPlateau.patience"),
        *("ReduceLROnPlateau.threshold", "EMA.start_step", "EarlyStopping.min_delta"),
        *("EarlyStopping.patience", "trainer.log_every_n_steps"),
    ),
    "(0, inf)": (
        *("data.std", "Rprop.step_sizes", "CyclicLR.max_lr", "OneCycleLR.div_factor"),
        *("OneCycleLR.final_div_factor", "OneCycleLR.max_lr", "PolynomialLR.power"),
        "HuberLoss.delta",
    ),
    "[1, inf)": (
        *("data.eval_batch_size", "data.input_shape", "data.num_outputs", "Adafactor.d"),
        *("LBFGS.history_size", "LBFGS.max_eval", "LBFGS.max_iter", "scheduler.step_size"),
        *("CosineAnnealingWarmRestarts.T_0", "CyclicLR.step_size_down", "CyclicLR.step_size_up"),
        *("MultiStepLR.milestones", "EMA.every_n_steps", "trainer.num_nodes"),
    ),
    "[0, 1)": (
        *("optimizer.betas", "optimizer.momentum", "CyclicLR.base_momentum"),
        *("CyclicLR.max_momentum", "OneCycleLR.base_momentum", "OneCycleLR.max_momentum"),
        *("EMA.decay", "SWA.start"),
    ),
    "[0, 1]": (
        *("optimizer.dampening", "Adadelta.rho", "RMSprop.alpha", "LinearLR.end_factor"),
        "OneCycleLR.pct_start",
    ),
    "(0, 1)": ("ReduceLROnPlateau.factor",),
    "(0, 1]": ("LinearLR.start_factor",),
    "[1, 100)": ("Muon.ns_steps",),
    "[2, inf)": ("data.num_classes",),
    "[0, 4294967295]": ("data.split_seed",),
}
# Those that have a special value, which is explained behind the range.
RANGES = {name: interval for interval, names in INTERVALS.items() for name in names} | {
    "data.batch_size": "[1, inf) full is the whole training set",
    "data.num_workers": "[0, inf) 0 reads in this process",
    "data.val_fraction": "[0, 1) 0 trains without validation",
    "data.test_fraction": "[0, 1) 0 leaves out the test",
    "data.folds": "[2, inf) null divides by data.val_fraction",
    "data.mixup": "[0, inf) 0 does not mix",
    "data.cutmix": "[0, inf) 0 does not mix",
    "scheduler.frequency": "[1, inf) 1 is every step or epoch",
    "scheduler.warmup_steps": "[0, inf) 0 is no warm-up",
    "scheduler.warmup_epochs": "[0, inf) 0 is no warm-up",
    "scheduler.gamma": "(0, inf) 1 changes nothing",
    "scheduler.T_max": "[1, inf) null is the whole training",
    "scheduler.total_iters": "[1, inf) null is the whole training",
    "scheduler.total_steps": "[1, inf) null is the whole training",
    "CosineAnnealingWarmRestarts.T_mult": "[1, inf) 1 keeps all periods as long as the first",
    "CrossEntropyLoss.label_smoothing": "[0, 1] 0 is plain cross-entropy",
    "SmoothL1Loss.beta": "[0, inf) 0 is the absolute error",
    "trainer.accumulate_grad_batches": "[1, inf) 1 is a step for each batch",
    "trainer.gradient_clip_val": "(0, inf) null does not clip",
    "trainer.max_epochs": "[-1, inf) -1 needs trainer.max_steps or trainer.max_time",
    "trainer.max_steps": "[-1, inf) -1 leaves the length to trainer.max_epochs",
}


def is_whole(value: Any, least: float) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_limit(value: Any) -> bool:
    return is_whole(value, 0) or (isinstance(value, float) and 0 <= value <= 1)


LIMIT = (is_limit, "must be a number of batches, or a share of them from 0.0 to 1.0.")
# Values whose annotation is too loose: whether one fits, and the message.
CONDITIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": (
        lambda value: is_whole(value, 0) and value < 2**32,
        f"must be a whole number from 0 to {2**32 - 1}.",
    ),
    "trainer.check_val_every_n_epoch": (
        lambda value: is_whole(value, 1),
        "must be a whole number of at least 1; data.val_fraction=0 trains without validation.",
    ),
    "trainer.devices": (
        lambda value: is_whole(value, 1) or value in (-1, "auto") or isinstance(value, list),
        "must be a number of devices from 1, a list of their indices, or auto.",
    ),
    "trainer.val_check_interval": (
        lambda value: (
            is_whole(value, 1)
            or value is None
            or (0 < value <= 1 if isinstance(value, float) else not isinstance(value, int))
        ),
        "must be a number of batches, or a share of the epoch above 0.0 and at most 1.0.",
    ),
    "trainer.limit_train_batches": LIMIT,
    "trainer.limit_val_batches": LIMIT,
    "trainer.limit_test_batches": LIMIT,
    "trainer.overfit_batches": LIMIT,
}

# Words, where the annotation says only that they are text.
WORDS = {
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
    "BestCheckpoint.mode": ["min", "max"],
}


def check_values(key: str, given: Config, hints: Config, title: str = "") -> Iterator[Problem]:
    """Yields values of a wrong type or out of range.

    Args:
        key: Where they stand in the configuration.
        given: The values, by name.
        hints: An annotation for each; any value fits where there is none.
        title: Name of the class that gets them.
    """
    for name, value in given.items():
        path = f"{key}.{name}" if key else name
        known = [path, f"{title}.{name}"]
        condition = next((CONDITIONS[one] for one in known if one in CONDITIONS), None)
        words = next((WORDS[one] for one in known if one in WORDS), None)
        interval = next((RANGES[one] for one in known if one in RANGES), None)
        if condition:
            if not condition[0](value):
                yield Problem(path, condition[1], value)
        elif words and isinstance(value, str):
            if value not in words:
                yield signatures.describe_unknown_word(path, value, words)
        elif not signatures.fits(value, hints.get(name, Any)):
            yield signatures.describe_mismatch(path, value, hints[name])
        elif interval and not is_inside(value, interval):
            several = "each " if isinstance(value, list) else ""
            finite = "finite and " if value in (float("inf"), float("-inf")) else ""
            must = f"{several}must be {finite}{describe_interval(interval)}."
            yield Problem(path, must, value)


def is_inside(value: Any, interval: str) -> bool:
    """Whether a number, or each in a list, lies in a range such as ``[0, 1)``."""
    if isinstance(value, list):
        return all(is_inside(element, interval) for element in value)
    if not isinstance(value, int | float):  # null, or a word with a meaning of its own
        return True
    low, high = map(float, re.findall(r"[-\w.]+", interval)[:2])
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if "]" in interval else value < high)


def describe_interval(interval: str) -> str:
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
