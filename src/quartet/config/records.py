"""The record of a run: its configuration, overrides of it, and where the run continues.

A record may come from anyone. Hydra never composes it, and nothing that it names is called unless
the allow-list permits it.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from quartet.config import allow
from quartet.config.configuration import copy_config, to_container
from quartet.config.overrides import NAMES, find_groups, is_option, key_of, quote_values
from quartet.core.files import CONF, PROJECTS
from quartet.core.problems import ConfigError, Problem, Problems, refuse
from quartet.records import run_directory as record

# Targets of version 0.1 and where they are now.
MOVED = {
    "quartet.averaging": "quartet.training.callbacks.averaging",
    "quartet.checkpoint.Best": "quartet.checkpoints.callbacks.BestCheckpoint",
    "quartet.checkpoint.Last": "quartet.checkpoints.callbacks.LastCheckpoint",
    "quartet.data.linear": "project.data.linear",
    "quartet.data.ranking": "project.data.ranking",
    "quartet.data.sklearn.digits": "project.data.digits.digits",
    "quartet.data.sklearn": "project.data.tables",
    "quartet.data.torchvision": "project.data.vision",
    "quartet.loss": "project.loss",
    "quartet.metrics.AUROC": "quartet.parts.auroc.AUROC",
    "quartet.metrics": "project.metrics",
    "quartet.model.torchvision": "quartet.parts.torchvision",
    "quartet.model": "project.model",
    "quartet.module.Module": "project.module.Module",
    "quartet.optimizer.Muon": "project.optimizer.Muon",
    "quartet.progress.ProgressBar": "quartet.training.callbacks.progress.ProgressBar",
    "quartet.sharding.Sharded": "quartet.parts.fsdp.FSDP2",
    "quartet.unfreezing": "quartet.training.callbacks.unfreeze",
}


GROUPS = (*allow.PART_GROUPS, "monitor")
# Settings of a data set that earlier versions did not have; null is what they did.
ADDED = {
    "quartet.data.csv.csv": (
        *("order", "group", "division", "test_path", "categories", "numbers", "decimal"),
        *("thousands", "encoding", "comment", "header", "missing_values", "unseen"),
    ),
    "quartet.data.image_folder.image_folder": ("classes", "check_files"),
}
# References that a text of a record may hold: to other keys, or to a variable as the whole text.
REFERENCE = re.compile(r"\$\{\.*[\w.]+\}")
VARIABLE = re.compile(r"\$\{oc\.env:\w+(,[^${}]*)?\}")
PROFILERS = (None, "simple", "advanced", "pytorch")

# Where the data lies; a run knows its samples.
PATHS = ("data.path", "data.test_path")
# What may change when a run continues: its length and how it is watched, nothing else.
CHANGEABLE = (
    *("resume", "check", "pictures", "directory", *record.LENGTH, "callbacks", "logger"),
    *("data.num_workers", "data.eval_batch_size", "data.dir", *PATHS),
    *("trainer.log_every_n_steps", "trainer.profiler", "trainer.limit_test_batches"),
)
# Callbacks that change what is trained, or which of its checkpoints there are.
TRAINING = (
    *("callbacks.ema", "callbacks.swa", "callbacks.unfreeze", "callbacks.best"),
    *("callbacks.last.dirpath", "callbacks.last.filename"),
)
# Ranges for a search.
SEARCH = re.compile(r"(loss|model|(\w+_)?(optimizer|scheduler))\.search(\.|$)")
# Settings that divide the samples among the parts.
DIVISION = ["split_seed", "val_fraction", "test_fraction", "folds", "fold"]
DIVISION += ["order", "group", "division"]
HORIZONS = ("T_max", "total_iters", "total_steps")


def read_record(directory: str | Path, overrides: Sequence[str] = ()) -> tuple[DictConfig, bool]:
    """The newest configuration of a run, and whether version 0.1 wrote it.

    The overrides of the command line replace what a record must not decide.

    Raises:
        ConfigError: there is no run, its record cannot be read or decides where something is read,
            written or sent, or a link leads out of the directory.
    """
    configs = record.list_configs(directory)
    if not configs:
        message = "holds no run: there is no .hydra/config.yaml; name a run's directory."
        raise ConfigError(Problem("", f"{directory} {message}"))
    file = configs[-1]
    loaded = read_config(file)
    refuse(check_links(directory))
    try:
        renamed = rename_targets(loaded, moved_target)
        is_old, loaded = renamed != loaded, rename_targets(renamed, forked_target)
        added = ADDED.get(loaded["data"].get("_target_"), ())
        loaded["data"] = dict.fromkeys(added) | loaded["data"]
        for key in ("hydra", "defaults"):
            loaded.pop(key, None)
        loaded["resume"] = loaded["check"] = None
        if loaded["trainer"].get("profiler") not in PROFILERS:
            loaded["trainer"]["profiler"] = None  # it says where it writes
        cfg = OmegaConf.create(loaded)
    except (ValueError, TypeError, RecursionError, OmegaConfBaseException) as error:
        reason = f"cannot be read: {' '.join(str(error).split())}"
        raise ConfigError(Problem(str(file), reason)) from None
    given = set(map(key_of, overrides))
    checks = (check_places(loaded), check_references(loaded), check_addresses(cfg, loaded))
    refuse(problem for check in checks for problem in check if problem.key not in given)
    with open_dict(cfg):
        cfg.hydra = {"runtime": {"choices": read_choices(directory)}, "overrides": {"task": []}}
    return cfg, is_old


def read_config(file: Path) -> dict[str, Any]:
    """The groups of a configuration, from a file of a record.

    Raises:
        ConfigError: it cannot be read, or is no configuration.
    """
    try:
        loaded = record.read_file(file)
    except ValueError as error:
        raise ConfigError(Problem("", str(error))) from None
    if not isinstance(loaded, dict) or not set(GROUPS) <= set(loaded):
        raise ConfigError(Problem(str(file), "is no configuration of a run."))
    empty = {group for group in ("callbacks", "logger") if loaded[group] is None}
    wrong = [g for g in GROUPS if not isinstance(loaded[g], dict) and g not in empty]
    refuse(Problem(str(file), f"{group} must be a mapping.") for group in wrong)
    return loaded


def check_links(directory: str | Path) -> Problems:
    """No link may lead out of the directory: a write would follow it. Files must be files."""
    for file in (Path(directory) / "result.json", Path(directory) / "metrics.csv"):
        if file.is_dir():
            yield Problem(str(file), "is a folder in the place of a file; move it away.")
    for link, to in record.find_outside_links(directory):
        yield Problem(str(link), f"is a link to {to}; put the file itself there.")


def check_places(loaded: Any) -> Problems:
    """A record must not decide where data is downloaded."""
    usual = yaml.safe_load((CONF / "train.yaml").read_text())["data"]["dir"]
    if (place := loaded["data"].get("dir", usual)) != usual:
        message = "a record does not decide where data lies. Repeat it on the command line."
        yield Problem("data.dir", message, place)


def check_references(loaded: Any) -> Problems:
    """A record may refer to its own keys, to a variable as a whole value, and as conf/ does."""
    for key, text in allow.walk(loaded):
        if not isinstance(text, str) or key.startswith("logger."):  # those of conf/ are used
            continue
        if "${" not in REFERENCE.sub("", text) or VARIABLE.fullmatch(text):
            continue
        if not any(text in file.read_text() for file in CONF.rglob("*.yaml")):
            message = "is a reference that a record may not hold. Give a value on the command line."
            yield Problem(key, message, text)


def check_addresses(node: Any, loaded: Any, key: str = "") -> Problems:
    """No address in a record may hold another value, which could be a secret; few may be there.

    `node` resolves the references that `loaded` has.
    """
    for name, item in loaded.items() if isinstance(loaded, dict) else enumerate(loaded):
        path = f"{key}.{name}" if key else str(name)
        if path == "logger":  # that of conf/ is used
            continue
        try:
            child = node[name]
        except (OmegaConfBaseException, KeyError, IndexError, TypeError):
            continue  # a reference that leads nowhere is found later
        if isinstance(item, dict | list):
            yield from check_addresses(child, item, path)
        elif isinstance(child, str) and ("://" in child or "::" in child):
            usual = path == "model.weights" or path.startswith("data.")
            if "${" in str(item) or not usual:
                message = "is an address that a record may not hold. Give it on the command line."
                yield Problem(path, message, item)


def rename_targets(node: Any, rename: Callable[[str], str]) -> Any:
    """Plain containers with other names of targets, and of a task, which may be a class, too."""
    if isinstance(node, list):
        return [rename_targets(item, rename) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: rename(item)
        if key in ("_target_", "task") and isinstance(item, str)
        else rename_targets(item, rename)
        for key, item in node.items()
    }


def forked_target(target: str) -> str:
    """The name in this fork of a target of the template, which a run before the renaming names."""
    package, _, rest = target.partition(".")
    is_renamed = package == "project" and package not in PROJECTS[:1]
    return f"{PROJECTS[0]}.{rest}" if is_renamed and PROJECTS else target


def moved_target(target: str) -> str:
    """The name of today for a target of version 0.1."""
    for old in sorted(MOVED, key=len, reverse=True):
        if target == old or target.startswith(f"{old}."):
            return MOVED[old] + target.removeprefix(old)
    return target


def read_choices(directory: str | Path) -> dict[str, Any]:
    """The options of the groups with which a run was started, as its record has them."""
    file = Path(directory) / ".hydra" / "hydra.yaml"
    choices: Any = record.read_result(directory).get("choices", {})
    if record.is_filled(file):
        with suppress(ValueError, KeyError, TypeError):
            choices = record.read_file(file)["hydra"]["runtime"]["choices"]
    return {str(k): v for k, v in choices.items()} if isinstance(choices, Mapping) else {}


def split_overrides(overrides: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Splits overrides into options of groups, such as ``loss=mse``, and values."""
    options, values = {}, []
    for text in overrides:
        group, _, option = text.lstrip("+").partition("=")
        if is_option(group, option):
            options[group] = option
        else:
            values.append(text)
    return options, values


def apply_overrides(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Sets values of a configuration by overrides in Hydra's grammar: ``data.path=FILE``, ``~key``.

    Raises:
        ConfigError: one cannot be read, names a key that is not there, or has several values.
    """
    problems = []
    OmegaConf.set_struct(cfg, True)
    for text in overrides:
        key = key_of(text)
        try:
            (text,) = quote_values([text], sweeping=not NAMES.fullmatch(key))
            (each,) = OverridesParser.create().parse_overrides([text])
            if each.is_sweep_override():
                raise ValueError("has several values, as for a sweep. Give one.")
            if each.is_delete():
                parent, _, name = key.rpartition(".")
                with open_dict(cfg):
                    del (OmegaConf.select(cfg, parent) if parent else cfg)[name]
                continue
            added = each.is_add() or each.is_force_add()
            OmegaConf.update(cfg, key, each.value(), merge=True, force_add=added)
        except (HydraException, OmegaConfBaseException, KeyError, TypeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            problems.append(Problem(key, f"{reason} Correct {text}."))
    OmegaConf.set_struct(cfg, False)
    refuse(problems)


# Where a run continues


@dataclass(frozen=True)
class Place:
    """The checkpoint with which a run continues.

    Attributes:
        checkpoint: The file; None for the beginning, if the run was cut off before its first one.
        epoch: Its epoch, from 0.
        extended: Whether the training continues beyond the end that it had.
    """

    checkpoint: Path | None
    epoch: int
    extended: bool


def place_of(cfg: DictConfig) -> Place | None:
    """Where ``resume=DIR`` continues; None if there is nothing left to do.

    Raises:
        ConfigError: there is no such run, it has finished without a checkpoint, all of them are
            damaged, or `cfg` would train something else.
    """
    from quartet.checkpoints.storage import TRAINING, CheckpointError, find_newest, load

    directory = Path(cfg.resume)
    begun = record.list_configs(directory)
    if not begun:
        raise ConfigError(Problem("resume", "holds no run, there is no .hydra in it.", directory))
    try:
        before = flat(OmegaConf.create(read_config(begun[0])))
    except (ValueError, OmegaConfBaseException) as error:
        reason = f"cannot be read: {' '.join(str(error).split())}"
        raise ConfigError(Problem(str(begun[0]), reason)) from None
    refuse(changes(before, flat(cfg), str(directory)))
    finished = record.read_result(directory).get("status") == "finished"
    if not finished and not any(directory.glob("checkpoints/*.ckpt")):
        return Place(None, 0, extended=False)
    try:
        path = find_newest(directory / "checkpoints")
        saved = load(path)
    except FileNotFoundError:  # none but within a step, whose gradients no checkpoint holds
        return Place(None, 0, extended=False)
    except CheckpointError as error:
        raise ConfigError(Problem("resume", f"{error} Start it anew.", directory)) from None
    moved = [key for key in PATHS if before.get(key) != OmegaConf.select(cfg, key)]
    if moved and not (saved.get("metadata") or {}).get("identity"):
        message = "must be where it was, as this run does not know its samples; put the data there."
        raise ConfigError(Problem(moved[0], message, before.get(moved[0])))
    # By the checkpoint and not by the records: a start that was killed at once left one, too.
    extended = saved.get("resume_state", {}).get("end") != end(cfg)
    if finished and not extended:
        return None
    longer = directory / "checkpoints" / "mid_epoch.ckpt"
    if extended and longer.exists():
        try:
            return Place(longer, load(longer, entries=TRAINING)["epoch"], extended)
        except CheckpointError as error:
            message = f"{error} The run ended within an epoch; start one of its own without resume."
            raise ConfigError(Problem("resume", message, directory)) from None
    return Place(path, saved["epoch"], extended)


def end(cfg: DictConfig) -> str:
    """What decides when a training ends: its length, and callbacks that may stop it."""
    callbacks = to_container(cfg.callbacks, resolve=False)
    stopping = {k: v for k, v in callbacks.items() if k not in ("best", "last", "progress_bar")}
    length = {key: OmegaConf.select(cfg, key) for key in record.LENGTH}
    return json.dumps({**length, "callbacks": stopping}, sort_keys=True, default=str)


def changes(before: Mapping[str, Any], now: Mapping[str, Any], directory: str) -> list[Problem]:
    """The changes that would make the run another one, a problem for each key."""

    def within(key: str, names: tuple[str, ...]) -> bool:
        return any(key == name or key.startswith(f"{name}.") for name in names)

    problems = [
        Problem(key, change)
        for key, change in list_changes(before, now).items()
        if within(key, TRAINING) or not within(key, CHANGEABLE)
    ]
    if problems:
        message = "continues the same training; leave these out, or start a run of its own without"
        message += f" resume. These may change: {', '.join(CHANGEABLE[4:])}."
        problems.append(Problem("resume", message, directory))
    return problems


def list_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """The keys whose values differ, each with ``OLD -> NEW``."""
    return {
        key: f"{before.get(key)} -> {now.get(key)}"
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key)
    }


def check_length(cfg: DictConfig, reached: int, per_epoch: float, total_steps: float) -> Problems:
    """Checks whether a training that has reached an epoch can have its new length."""
    length = cfg.trainer.max_epochs
    if length not in (None, -1) and length < reached:
        message = f"lies before epoch {reached + 1}, which the run has reached; set a larger one."
        yield Problem("trainer.max_epochs", message, length)
        return
    before = read_config(record.list_configs(Path(cfg.resume))[0])["trainer"]
    unset = [
        f"{group}.{key}"
        for group in find_groups(to_container(cfg, resolve=False), "scheduler")
        for key in HORIZONS
        if cfg[group].get(key, 0) is None
    ]
    unset += ["callbacks.swa.start"] if cfg.callbacks.get("swa") else []
    epochs, steps = before.get("max_epochs"), before.get("max_steps", -1)
    planned = math.inf if epochs in (None, -1) else epochs * per_epoch
    planned = planned if steps == -1 else min(planned, steps)
    if unset and planned != total_steps:
        message = f"was derived from the length, {planned:g} steps, and differs for {total_steps:g}"
        yield Problem(unset[0], f"{message}; leave it as it was, or start a run without resume.")


def changed_settings(cfg: DictConfig, directory: Path) -> dict[str, Any]:
    """The settings of a run that is built again and that are not those of its record, by their keys."""
    if not (configs := record.list_configs(directory)):
        return {}
    renamed = rename_targets(read_config(configs[-1]), moved_target)
    recorded = OmegaConf.create(rename_targets(renamed, forked_target))
    try:
        before, now = flat(recorded), flat(cfg)
    except OmegaConfBaseException:  # a variable of the environment is not set
        before, now = flat(recorded, resolve=False), flat(cfg, resolve=False)
    others = ("callbacks", "logger", "resume", "check", "pictures", "directory")
    return {
        key: value
        for key, value in now.items()
        if key.partition(".")[0] not in others and value != before.get(key)
    }


def check_division(changed: Mapping[str, Any]) -> Problems:
    """Checks that the samples of a run which is built again are divided as in its training."""
    if "data.path" in changed:
        return
    for key in (f"data.{name}" for name in DIVISION):
        if key in changed:
            message = (
                "is not what the run was trained with, and samples to score would be some of its"
            )
            way_out = "leave it out, or score others, input=FILE"
            yield Problem(key, f"{message} training; {way_out}.", changed[key])


def flat(cfg: DictConfig, resolve: bool = True) -> dict[str, Any]:
    """Dotted keys and values of a configuration, less where a search may look."""
    cfg = copy_config(cfg)
    with open_dict(cfg):
        cfg.pop("hydra", None)
    items = record.flatten(to_container(cfg, resolve))
    return {key: value for key, value in items if not SEARCH.match(key)}
