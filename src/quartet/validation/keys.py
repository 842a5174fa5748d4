"""Keys and values of a configuration: names that nothing reads, wrong types, numbers out of range."""

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

from lightning import LightningDataModule
from lightning.pytorch.strategies import StrategyRegistry

from quartet.config import allow, instantiate, signatures
from quartet.config.configuration import Configuration
from quartet.config.overrides import NAMED_GROUPS, NAMED_PARTS, base_group, find_groups
from quartet.core.messages import suggest_name
from quartet.core.problems import Config, Problem, Problems, refuse
from quartet.training.module import Module

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
        *("EarlyStopping.patience", "trainer.log_every_n_steps", "data.num_workers"),
        *("scheduler.warmup_steps", "scheduler.warmup_epochs", "SmoothL1Loss.beta"),
    ),
    "(0, inf)": (
        *("data.std", "Rprop.step_sizes", "CyclicLR.max_lr", "OneCycleLR.div_factor"),
        *("OneCycleLR.final_div_factor", "OneCycleLR.max_lr", "PolynomialLR.power"),
        *("HuberLoss.delta", "scheduler.gamma"),
    ),
    "[1, inf)": (
        *("data.eval_batch_size", "data.input_shape", "data.num_outputs", "Adafactor.d"),
        "data.train_samples",
        *("LBFGS.history_size", "LBFGS.max_eval", "LBFGS.max_iter", "scheduler.step_size"),
        *("CosineAnnealingWarmRestarts.T_0", "CyclicLR.step_size_down", "CyclicLR.step_size_up"),
        *("MultiStepLR.milestones", "EMA.every_n_steps", "trainer.num_nodes"),
        *("CosineAnnealingWarmRestarts.T_mult", "scheduler.frequency"),
        "trainer.accumulate_grad_batches",
    ),
    "[0, 1)": (
        *("optimizer.betas", "optimizer.momentum", "CyclicLR.base_momentum"),
        *("CyclicLR.max_momentum", "OneCycleLR.base_momentum", "OneCycleLR.max_momentum"),
        *("EMA.decay", "SWA.start"),
    ),
    "[0, 1]": (
        *("optimizer.dampening", "Adadelta.rho", "RMSprop.alpha", "LinearLR.end_factor"),
        *("OneCycleLR.pct_start", "CrossEntropyLoss.label_smoothing"),
    ),
    "(0, 1)": ("ReduceLROnPlateau.factor",),
    "(0, 1]": ("LinearLR.start_factor",),
    "[1, 100)": ("Muon.ns_steps",),
    "[2, inf)": ("data.num_classes",),
    "[0, 4294967295]": ("seed", "data.split_seed"),
}
# Those with a special value are explained behind the range.
RANGES = {name: interval for interval, names in INTERVALS.items() for name in names} | {
    "FSDP2.unit_size": "[1, inf)",
    "LastCheckpoint.every_minutes": "(0, inf); null saves epochs alone",
    "LastCheckpoint.every_n_steps": "(0, inf); null saves epochs alone",
    "LastCheckpoint.min_seconds": "[0, inf); 0 saves every epoch",
    "data.batch_size": "[1, inf); full is the whole training set",
    "data.val_fraction": "[0, 1); 0 trains without validation",
    "data.test_fraction": "[0, 1); 0 leaves out the test, and evaluate.py run=DIR input=FILE scores a whole file",
    "data.folds": "[2, inf); null divides by data.val_fraction",
    "data.mixup": "[0, inf); 0 does not mix",
    "data.cutmix": "[0, inf); 0 does not mix",
    "scheduler.T_max": "[1, inf); null is the whole training",
    "scheduler.total_iters": "[1, inf); null is the whole training",
    "scheduler.total_steps": "[1, inf); null is the whole training",
    "trainer.gradient_clip_val": "(0, inf); null does not clip",
    "trainer.max_epochs": "[-1, inf); -1 needs trainer.max_steps or trainer.max_time",
    "trainer.max_steps": "[-1, inf); -1 leaves the length to trainer.max_epochs",
}


def is_whole(value: Any, least: float) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


LIMIT = (
    lambda value: is_whole(value, 0) or (isinstance(value, float) and 0 <= value <= 1),
    "must be a number of batches, or a share of them from 0.0 to 1.0.",
)
# Values whose annotation is too loose: whether one fits, and the message.
CONDITIONS: dict[str, tuple[Callable[[Any], bool], str]] = {
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
            is_whole(value, 1) or value is None or (isinstance(value, float) and 0 < value <= 1)
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


def check_keys(config: Configuration) -> Problems:
    """Yields keys that nothing reads, and values that cannot be resolved, which become null.

    Raises:
        ConfigError: a key that the engine reads is absent.
    """
    refuse([*find_absent(config), *find_absent_settings(config)])
    interpolated = re.findall(r"\$\{\.*([A-Za-z_]\w*)", str(config.raw))
    known = sorted({*instantiate.TOP_LEVEL, *interpolated})
    for key in config.raw:
        if key not in known and base_group(key) == key:
            yield Problem(key, f"nothing reads this key; {suggest_name(key, known)}")
    for name in map(str, config.node["monitor"]):
        if name not in instantiate.KEY_TYPES["monitor"]:
            yield Problem(f"monitor.{name}", "nothing reads this key; it has metric and mode.")
    yield from config.clear_unresolved()


def find_absent(config: Configuration) -> Problems:
    """Yields keys that the engine reads and that are not there."""
    message = "is missing; conf/ sets it, leave it there."
    for key in instantiate.TOP_LEVEL:
        if key != "hydra" and key not in config.raw:
            yield Problem(key, message)
    read = {**instantiate.POLICY_KEYS, "monitor": tuple(instantiate.KEY_TYPES["monitor"])}
    read["trainer"] += instantiate.TRAINER_KEYS
    for group, keys in read.items():
        present = config.node[group] if group in config.raw else keys
        for key in keys:
            if key not in present and key not in instantiate.OPTIONAL_KEYS:
                yield Problem(f"{group}.{key}", message)


def find_absent_settings(config: Configuration) -> Problems:
    """Yields further optimizers and schedulers that are written without an option of conf/."""
    for base in NAMED_GROUPS:
        required = [
            key for key in instantiate.POLICY_KEYS[base] if key not in instantiate.OPTIONAL_KEYS
        ]
        for group in find_groups(config.raw, base):
            node = config.raw[group]
            keys = node if isinstance(node, dict) else {}
            if group != base and (missing := [key for key in required if key not in keys]):
                option = f"`- /{base}@{group}: {instantiate.DEFAULT_OPTION[base]}` in defaults"
                message = f"has no {missing[0]}, which every {base} has; begin with an option,"
                yield Problem(group, f"{message} such as {option}.")


def check_policy(config: Configuration, group: str, wrong: Collection[str]) -> Problems:
    """Yields wrong values of the keys that say how to use a part; "" is the top level."""
    base = base_group(group)
    hints = instantiate.KEY_TYPES.get(base, {})
    values = config[group] if group else config
    keys = [
        key
        for key in instantiate.POLICY_KEYS.get(base, hints)
        if key in values and f"{group}.{key}".strip(".") not in wrong
    ]
    yield from check_values(group, {key: values[key] for key in keys}, hints)


def check_parts(
    config: Configuration, group: str, wrong: Collection[str], shapes_known: bool = True
) -> Problems:
    """Yields wrong names and values of the arguments of a group's parts.

    `wrong` keys have problems already, or refer to such. While the shapes of the data are not known,
    null may stand for them.
    """
    node, base = instantiate.split_node(config, group)[0], base_group(group)
    if group in NAMED_PARTS:
        for name, part in node.items():
            if isinstance(part, Mapping) and part.get("_target_"):
                yield from check_tree(f"{group}.{name}", part, wrong, shapes_known)
            elif part is not None:
                message = "has no _target_, the class to make it of; null leaves it out."
                yield Problem(f"{group}.{name}", message)
    elif node.get("_target_"):
        yield from check_tree(group, node, wrong, shapes_known)
    elif base in instantiate.MAY_BE_NONE:
        for key in node:
            if key != "_target_":
                yield Problem(f"{group}.{key}", f"{base}=none does not read it.")
    else:
        name = group if group == base else f"{base}@{group}"
        option = f"{name}={instantiate.DEFAULT_OPTION[base]}"
        yield Problem(f"{group}._target_", f"is missing; choose an option, such as {option}.")


def check_tree(key: str, node: Any, wrong: Collection[str], shapes_known: bool) -> Problems:
    """Checks the arguments of a node that has a ``_target_``, and of all such nodes within it."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    if not isinstance(node, dict):
        return
    if node.get("_target_"):
        if f"{key}._target_" in wrong:
            return
        target = allow.locate(node["_target_"])
        given = {name: value for name, value in node.items() if name not in instantiate.HYDRA_KEYS}
        if re.fullmatch(r"metrics\.\w+", key):
            given.pop("of", None)
        reserved = instantiate.RESERVED_ARGUMENTS.get(key)
        named, _ = signatures.parameters(target)
        if key == "module" and not (isinstance(target, type) and issubclass(target, Module)):
            taken = [name for name in named if base_group(name) in instantiate.MODULE_GROUPS]
            reserved = {name: "" for name in taken if name not in given}
        elif key == "data" and isinstance(target, type) and issubclass(target, LightningDataModule):
            reserved = None
        yield from signatures.check_arguments(
            key,
            target,
            given,
            positional=instantiate.N_POSITIONAL.get(base_group(key), len(node.get("_args_", ()))),
            reserved=reserved,
            partial=node.get("_partial_", False),
        )
        filled = instantiate.AUTO_FILLED if shapes_known else given
        given = {
            name: value
            for name, value in given.items()
            if f"{key}.{name}" not in wrong and not (value is None and name in filled)
        }
        title = getattr(target, "__name__", "")
        yield from check_values(key, given, signatures.type_hints(target), title)
    for name, child in node.items():
        yield from check_tree(f"{key}.{name}", child, wrong, shapes_known)


def check_values(key: str, given: Config, hints: Config, title: str = "") -> Problems:
    """Yields values of a wrong type or out of range.

    `hints` has an annotation for each; any value fits where there is none. `title` is the class.
    """
    for name, value in given.items():
        path, hint = f"{key}.{name}" if key else name, hints.get(name, Any)
        known = (f"{base_group(key)}.{name}" if key else name, f"{title}.{name}")
        condition = next((CONDITIONS[one] for one in known if one in CONDITIONS), None)
        words = next((WORDS[one] for one in known if one in WORDS), None)
        interval = next((RANGES[one] for one in known if one in RANGES), None)
        if words and isinstance(value, str):
            hint = Literal.__getitem__(tuple(words))
        if condition:
            if not condition[0](value):
                yield Problem(path, condition[1], value)
        elif not signatures.fits(value, hint):
            yield signatures.describe_mismatch(path, value, hint)
        elif interval and not is_inside(value, interval):
            each = "each " if isinstance(value, list) else ""
            finite = "finite and " if value in (math.inf, -math.inf) else ""
            yield Problem(path, f"{each}must be {finite}{describe_interval(interval)}.", value)


def describe_interval(interval: str) -> str:
    """The interval in words where it has no end: "at least 0" for ``[0, inf)``."""
    text = re.sub(r"^\[(.+?), inf\)", r"at least \1", interval)
    text = re.sub(r"^\((.+?), inf\)", r"above \1", text)
    return f"in {text}" if text == interval else text


def is_inside(value: Any, interval: str) -> bool:
    """Whether a number, or each in a list, lies in a range such as ``[0, 1)``."""
    if isinstance(value, list):
        return all(is_inside(element, interval) for element in value)
    if not isinstance(value, int | float):  # null, or a word with a meaning of its own
        return True
    low, high = map(float, re.findall(r"[-\w.]+", interval)[:2])
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if "]" in interval else value < high)
