"""The groups of a configuration: their keys, the types of these, the arguments of their parts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning import LightningDataModule, LightningModule
from omegaconf import OmegaConf

from quartet.config import allow, signatures
from quartet.config.overrides import NAMED_GROUPS, base_group, find_groups
from quartet.core.files import CONF
from quartet.data.datamodule import DataModule
from quartet.training import parameters, schedule
from quartet.training.module import Module

TOP_LEVEL = [
    *("loss", "metrics", "model", "module", "optimizer", "scheduler", "trainer", "callbacks"),
    *("logger", "data", "monitor", "seed", "check", "pictures", "resume", "directory"),
    "hydra",
]
# Keys of a group that say how to use its part; all others are arguments of its `_target_`.
POLICY_KEYS: dict[str, tuple[str, ...]] = {
    "data": (
        *("task", "input_shape", "num_classes", "num_outputs", "train_samples", "dir"),
        *("batch_size", "eval_batch_size", "shuffle", "balance", "drop_last", "num_workers"),
        *("mean", "std", "folds", "fold", "positive"),
        *("flip", "crop", "mixup", "cutmix"),
    ),
    "loss": ("tasks", "search"),
    "metrics": ("tasks",),
    "model": ("weights", "weights_keys", "strict", "search"),
    "module": (),
    "optimizer": ("freeze", "lr_factors", "decay_bias_and_norm", "search"),
    "scheduler": ("interval", "frequency", "warmup_steps", "warmup_epochs", "monitor", "search"),
    "trainer": ("compile", "channels_last"),
}
# Any option may say with which options of other groups it goes: {data: shapes}.
POLICY_KEYS = {group: (*keys, "requires") for group, keys in POLICY_KEYS.items()}
# Groups whose parts a module takes.
MODULE_GROUPS = ("model", "loss", "metrics", "optimizer", "scheduler")
# Groups whose part may be none, which ``_target_: null`` says.
MAY_BE_NONE = ("loss", "scheduler")
# Types of these keys, where the annotation of the part that gets them is too loose.
KEY_TYPES: dict[str, dict[str, Any]] = {
    "": {
        **{"seed": int, "directory": str},
        **{"check": Literal["only"] | None, "pictures": bool | None},
    },
    "monitor": {"metric": str | None, "mode": Literal["min", "max"] | None},
    "data": signatures.type_hints(DataModule)
    | {
        "task": str | None,
        "input_shape": Sequence[int] | None,
        "num_classes": int | None,
        "num_outputs": int | None,
        "train_samples": int | None,
        "dir": str,
        "folds": int | None,
        "fold": int,
        "positive": str | int | float | bool | None,
        "mixup": float,
        "cutmix": float,
        "batch_size": int | Literal["full"],
    },
    "loss": {"tasks": Sequence[str] | None},
    "metrics": {"tasks": Sequence[str] | None},
    "model": {
        "weights": str | None,
        "weights_keys": Sequence[str] | Mapping[str, str] | None,
        "strict": bool,
    },
    "optimizer": signatures.type_hints(parameters.create)
    | {"freeze": Sequence[str], "lr_factors": Mapping[str, float] | None},
    "scheduler": signatures.type_hints(schedule.create) | {"interval": Literal["step", "epoch"]},
    "trainer": {"compile": bool, "channels_last": bool},
}
for group in POLICY_KEYS:
    KEY_TYPES.setdefault(group, {})["requires"] = Mapping[str, str | Sequence[str]] | None
# Keys that may be absent.
OPTIONAL_KEYS = ("tasks", "monitor", "search", "requires", "weights_keys", "positive")
# Keys of the trainer that are read before there is one.
TRAINER_KEYS = (
    *("max_epochs", "max_steps", "max_time", "accelerator", "devices", "num_nodes"),
    *("strategy", "precision", "profiler"),
    *("accumulate_grad_batches", "check_val_every_n_epoch", "val_check_interval"),
    *("limit_train_batches", "limit_val_batches", "limit_test_batches", "overfit_batches"),
)
# Keys of a node that are no arguments of its `_target_`, as Hydra defines them.
HYDRA_KEYS = ("_target_", "_partial_", "_args_", "_convert_", "_recursive_")
# Number of arguments that are passed by position when the part is called.
N_POSITIONAL = {"optimizer": 1, "scheduler": 1}
# Arguments that the engine passes, and where to set them instead.
RESERVED_ARGUMENTS: dict[str, dict[str, str]] = {
    "data": dict.fromkeys(POLICY_KEYS["data"], ""),
    "module": {name: f"the {name} group sets it" for name in ("model", "loss", "metrics")}
    | {f"{name}s": f"the {name} group sets it" for name in NAMED_GROUPS}
    | {"task": "data.task names it", "mixing": "set data.mixup or data.cutmix"}
    | {"heads": "of names the head of each metric, such as metrics.iou.of=mask"},
    "trainer": {
        "callbacks": "the callbacks group sets them",
        "logger": "the logger group sets them",
        "default_root_dir": "hydra.run.dir names the run's directory",
        "enable_checkpointing": "callbacks.best=null and callbacks.last=null switch it off",
        "enable_model_summary": "check=only counts the parameters",
        "enable_progress_bar": "callbacks.progress_bar=null switches it off",
        "fast_dev_run": "trainer=smoke tries two batches of everything",
        "num_sanity_val_steps": "a trial would move the random numbers",
        "use_distributed_sampler": "the data divides itself",
    },
}
# Arguments that are filled in where they are null.
AUTO_FILLED = (
    *("T_max", "total_iters", "total_steps", "max_lr", "base_lr", "cycle_momentum"),
    *("monitor", "mode"),
)
DEFAULT_OPTION = {
    **{"data": "digits", "model": "mlp", "loss": "mse", "optimizer": "adam"},
    **{"scheduler": "cosine", "module": "default", "trainer": "default"},
}


def split_node(config: Mapping[str, Any], group: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits a group into the arguments of its ``_target_`` and the keys that say how to use it."""
    arguments = dict(config[group])
    keys = POLICY_KEYS.get(base_group(group), ())
    policy = {key: arguments.pop(key) for key in keys if key in arguments}
    policy.pop("requires", None)
    if group == "data" and is_foreign(config, "data"):
        accepted = signatures.parameters(allow.locate(arguments["_target_"]))[0]
        arguments |= {
            key: policy[key] for key in policy if key in accepted and key not in arguments
        }
    elif group == "data":
        policy["facts"] = [key for key in find_facts(arguments) if arguments.pop(key) is None]
    name = policy.get("weights") if group == "model" else None
    if isinstance(name, str) and is_pretrained_name(name, arguments["_target_"]):
        arguments["weights"] = name  # torchvision's models have names for their weights
    return arguments, policy


def is_foreign(config: Mapping[str, Any], group: str) -> bool:
    """Whether the module or the data is any Lightning class, which knows nothing of this engine."""
    base, own = {
        "module": (LightningModule, Module),
        "data": (LightningDataModule, DataModule),
    }[group]
    try:
        found = allow.locate(config[group]["_target_"])
    except (KeyError, TypeError, ValueError):
        return False
    return isinstance(found, type) and issubclass(found, base) and not issubclass(found, own)


def unused_groups(config: Mapping[str, Any]) -> list[str]:
    """The groups of parts that a foreign module does not take, or brings along itself."""
    if not is_foreign(config, "module"):
        return []
    accepted, _ = signatures.parameters(allow.locate(config["module"]["_target_"]))
    return [g for g in module_groups(config) if g not in accepted or g in config["module"]]


def module_groups(config: Mapping[str, Any]) -> list[str]:
    """The groups whose parts a module takes."""
    return [group for base in MODULE_GROUPS for group in find_groups(config, base)]


def find_facts(arguments: Mapping[str, Any]) -> list[str]:
    """Keys of the data group without a value that its source does not take: the data tells them."""
    unset = [key for key, value in arguments.items() if value is None]
    try:
        accepted, takes_all = signatures.parameters(allow.locate(arguments["_target_"]))
    except (KeyError, ValueError):
        return []
    return [] if takes_all else [key for key in unset if key not in accepted]


def argument_names(config: Mapping[str, Any], group: str) -> list[str]:
    """Names of what a group accepts."""
    target = config[group].get("_target_")
    accepted = list(signatures.type_hints(allow.locate(target))) if target else []
    base = base_group(group)
    return [*POLICY_KEYS[base], *accepted[N_POSITIONAL.get(base, 0) :]]


def is_pretrained_name(name: str, target: str) -> bool:
    """Whether ``model.weights`` is a name that the model itself knows, and no path."""
    path = "/" in name or name.endswith(".ckpt") or Path(name).exists()
    return not path and "weights" in signatures.parameters(allow.locate(target))[0]


def find_options(group: str, task: str) -> list[str]:
    """Options of a group that are for `task`, from the listing of conf/."""
    files = (CONF / group).glob("*.yaml")
    tasks = {path.stem: OmegaConf.select(OmegaConf.load(path), "tasks") for path in files}
    return sorted(name for name, suited in tasks.items() if suited and task in suited)
