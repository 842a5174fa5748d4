"""Configurations: composed from conf/, or those with which a run is evaluated or continues."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from quartet.compat import compose_once, merge_callback_options, share_settings
from quartet.config import allow
from quartet.config.configuration import to_container
from quartet.config.overrides import NAMED_GROUPS, base_group, is_option, key_of, quote_values
from quartet.config.records import (
    apply_overrides,
    read_choices,
    read_record,
    split_overrides,
)
from quartet.config.unknown import check_words, explain
from quartet.core.files import CONF
from quartet.core.problems import UNSET, ConfigError, Problem
from quartet.records.run_directory import flatten

# What evaluate, predict and export do not read of a run.
UNREAD = (
    *("loss", "optimizer", "scheduler", "monitor", "callbacks", "logger"),
    *("check", "pictures", "resume", "directory"),
)
# What the preparation of a table was fitted with.
FITTED = (
    *("data.target", "data.features", "data.drop", "data.categories", "data.numbers"),
    *("data.missing", "data.max_categories", "data.standardize_targets"),
)


def compose(overrides: Sequence[str] = (), config_name: str = "train") -> DictConfig:
    """The configuration that the command line would give for these overrides.

    Its `hydra` node holds the chosen options and the overrides. With ``resume=DIR`` the overrides
    apply to the configuration that the run in DIR was trained with.

    Raises:
        quartet.ConfigError: a key, group or option is unknown, or the record of that run cannot be used.
    """
    if not CONF.is_dir():
        raise FileNotFoundError(f"{CONF} is missing: install from a checkout, pip install -e .")
    resumed = [each.removeprefix("resume=") for each in overrides if each.startswith("resume=")]
    if resumed and resumed[-1] != "null":
        rest = [each for each in overrides if not each.startswith("resume=")]
        return resume_config(resumed[-1], rest)
    return compose_conf(overrides, config_name)


def compose_conf(overrides: Sequence[str], config_name: str = "train") -> DictConfig:
    """As `compose`, from conf/ alone."""
    merge_callback_options()
    share_settings(NAMED_GROUPS)
    compose_once(CONF.resolve())
    check_words(overrides)
    words = quote_values(overrides)
    other = GlobalHydra.instance().hydra  # of a notebook, say
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
            cfg = hydra.compose(config_name, words, return_hydra_config=True)
    except HydraException as error:
        raise explain(error, words) from None
    finally:
        GlobalHydra.instance().hydra = other
    choices = OmegaConf.to_container(cfg.hydra.runtime.choices)
    overridden = OmegaConf.to_container(cfg.hydra.overrides.task)
    with open_dict(cfg):
        cfg.hydra = {"runtime": {"choices": choices}, "overrides": {"task": overridden}}
    return cfg


def hydra_record(directory: str | Path) -> Path | None:
    """Where Hydra keeps the record of its job that is under way in a directory; None without one."""
    # In a notebook that swept before, Hydra leaves the last job's config behind.
    job: Any = HydraConfig.instance().cfg or OmegaConf.create()
    output = OmegaConf.select(job, "hydra.runtime.output_dir")
    if output is None or Path(output).resolve() != Path(directory).resolve():
        return None
    return Path(directory) / (job.hydra.output_subdir or "")


def evaluation_config(
    directory: str | Path, overrides: Sequence[str], command: str = "evaluate"
) -> DictConfig:
    """The configuration with which a run is evaluated, predicts or is exported.

    The overrides change values, and of whole options the trainer alone.

    Raises:
        ConfigError: as `read_record` and `apply_overrides`, an option differs from the run's, or the
            command does not read a setting.
    """
    cfg, _ = read_record(directory, overrides)
    chosen = read_choices(directory)
    options, values = split_overrides(overrides)
    if "trainer" in options:
        cfg.trainer = compose_conf([f"trainer={options.pop('trainer')}"]).trainer
    trained = {*UNREAD, *(() if command == "evaluate" else ("metrics",))}
    recorded = dict(flatten(to_container(cfg, resolve=False)))
    problems = [
        Problem(
            group,
            f"the run in {directory} was trained with {group}={chosen.get(group)}; leave it out. "
            "Other data of the same kind: data.path=FILE, or data.KEY=VALUE.",
            option,
        )
        for group, option in options.items()
        if chosen.get(group) != option
    ]
    message = "is a setting of the training; leave it out, or train another run with it."
    problems += [
        Problem(key, message, value if equals else UNSET)
        for key, (_, equals, value) in ((key_of(text), text.partition("=")) for text in values)
        # The command line replaces references that a record must not hold.
        if base_group(key.partition(".")[0]) in trained and "${" not in str(recorded.get(key))
    ]
    if problems:
        raise ConfigError(*problems)
    cfg.callbacks, cfg.logger = {}, {}
    apply_overrides(cfg, values)
    now = dict(flatten(to_container(cfg, resolve=False)))
    changed = [key for key in FITTED if now.get(key) != recorded.get(key)]
    if problems := [Problem(key, message, now[key]) for key in changed]:
        raise ConfigError(*problems)
    return cfg


def resume_config(directory: str | Path, overrides: Sequence[str]) -> DictConfig:
    """The configuration with which a run continues: its record, and what may change.

    Callbacks are the record's, if conf/ names their classes, and those of an option. Loggers are those of conf/ by
    the names of the recorded options, with the overrides of the command line; a value that the run
    was started with and that would be lost is a problem.

    Raises:
        ConfigError: as `read_record` and `apply_overrides`; version 0.1 wrote the run; an option
            would change the training.
    """
    cfg, is_old = read_record(directory, overrides)
    if is_old:
        message = (
            "version 0.1 trained this run, and this version does not read the state of its "
            "training. evaluate.py, predict.py and scripts/export.py do; train it again."
        )
        raise ConfigError(Problem("resume", message, directory))
    options, values = split_overrides(overrides)
    message = f"would change the training that resume={directory} continues; leave one of them out."
    fixed = options.keys() - {"callbacks", "logger"}
    if problems := [Problem(group, message, options[group]) for group in options if group in fixed]:
        raise ConfigError(*problems)
    recorded = to_container(cfg.get("logger"), resolve=False)
    # Of a list of options Hydra keeps none; a logger is named as its option is.
    named = ",".join(name for name in recorded if is_option("logger", name)) or "none"
    logger = str(options.get("logger") or read_choices(directory).get("logger") or f"[{named}]")
    if not is_option("logger", logger):
        message = "conf/logger has no such option. Name one, logger=csv."
        raise ConfigError(Problem("logger", message, logger))
    composed = compose_conf([f"{group}={o}" for group, o in {**options, "logger": logger}.items()])
    cfg.logger = composed.logger
    cfg.callbacks = cfg.callbacks or {}
    unknown = find_unknown_callbacks(cfg)
    if "callbacks" in options:
        for name in composed.callbacks.keys() - cfg.callbacks.keys():
            cfg.callbacks[name] = composed.callbacks[name]
    apply_overrides(cfg, values)
    if problems := [
        Problem(
            f"callbacks.{name}",
            "a record may name the classes of callbacks in conf/ alone. Add an option with it to "
            f"conf/callbacks/, or leave the callback out, callbacks.{name}=null.",
            node,
        )
        for name, node in unknown.items()
        if cfg.callbacks.get(name) is not None
    ]:
        raise ConfigError(*problems)
    cfg.resume = str(directory)
    if "logger" not in options:
        refuse_lost_settings(recorded, cfg, values)
    return cfg


def find_unknown_callbacks(cfg: DictConfig) -> dict[str, Any]:
    """Finds callbacks whose classes no file of conf/ names: they may write anywhere."""
    files = [
        *CONF.glob("callbacks/*.yaml"),
        *CONF.glob("data/*.yaml"),
        *CONF.glob("experiment/*.yaml"),
    ]
    known: set[str] = set()
    for file in files:
        loaded = yaml.safe_load(file.read_text()) or {}
        node = loaded if file.parent.name == "callbacks" else loaded.get("callbacks")
        known |= {target for _, target in allow.find_targets(node)}
    return {
        name: node
        for name, node in to_container(cfg.callbacks, resolve=False).items()
        if node is not None and not (isinstance(node, dict) and node.get("_target_") in known)
    }


def refuse_lost_settings(recorded: Any, cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Refuses to continue where a logger would get other settings than the run was started with."""
    given = set(map(key_of, overrides))
    before = dict(flatten(recorded, "logger"))
    now = dict(flatten(to_container(cfg.logger, resolve=False), "logger"))
    lost = [key for key, value in before.items() if now.get(key) != value and key not in given]
    if lost:
        words = " ".join(f"{'' if key in now else '+'}{key}={before[key]}" for key in lost)
        message = (
            "the run was started with other settings, and a record does not decide where to log. "
            f"Repeat them on the command line: {words}"
        )
        raise ConfigError(Problem("logger", message))


def save_config(cfg: DictConfig, folder: Path) -> None:
    """Writes a configuration as Hydra keeps it, config.yaml and hydra.yaml, references unresolved."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = [str(key) for key in cfg if key != "hydra"]
    OmegaConf.save(OmegaConf.masked_copy(cfg, keys), folder / "config.yaml")
    if "hydra" in cfg:
        OmegaConf.save(OmegaConf.masked_copy(cfg, ["hydra"]), folder / "hydra.yaml")
