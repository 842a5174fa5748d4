"""Configurations: composed from conf/, or those with which a run is evaluated or continues."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from quartet.config.records import (
    apply_overrides,
    find_targets,
    is_option,
    leaves,
    read_choices,
    read_record,
)
from quartet.core.files import CONF
from quartet.core.problems import ConfigError, Problem


def compose(overrides: Sequence[str] = (), config_name: str = "train") -> DictConfig:
    """The configuration that the command line would give for these overrides.

    Its `hydra` node holds the chosen options and the overrides. With ``resume=DIR`` the overrides
    apply to the configuration that the run in DIR was trained with.

    Raises:
        quartet.ConfigError: the record of that run cannot be used.
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
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        cfg = hydra.compose(config_name, list(overrides), return_hydra_config=True)
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


def evaluation_config(directory: str | Path, overrides: Sequence[str]) -> DictConfig:
    """The configuration with which a run is evaluated, predicts or is exported.

    Args:
        directory: Of the run.
        overrides: Values to change; of whole options only another trainer.

    Raises:
        ConfigError: as `read_record` and `apply_overrides`, or an option differs from the run's.
    """
    cfg, _ = read_record(directory)
    chosen, problems, values = read_choices(directory), [], []
    for text in overrides:
        group, _, option = text.partition("=")
        if not is_option(group, option):
            values.append(text)
        elif group == "trainer":
            cfg.trainer = compose_conf([text]).trainer
        elif chosen.get(group) != option:  # else it is what the run has anyway
            problems.append(
                Problem(
                    group,
                    f"the run in {directory} was trained with {group}={chosen.get(group)}, and stays "
                    "what it is; leave it out. Other data of the same kind: data.path=FILE, or "
                    "data.KEY=VALUE.",
                    option,
                )
            )
    if problems:
        raise ConfigError(problems)
    cfg.callbacks, cfg.logger = {}, {}
    apply_overrides(cfg, values)
    return cfg


def resume_config(directory: str | Path, overrides: Sequence[str]) -> DictConfig:
    """The configuration with which a run continues: its record, and what may change.

    Callbacks are the record's, if conf/callbacks names their classes. Loggers are those of conf/ by
    the names of the recorded options, with the overrides of the command line; a value that the run
    was started with and that would be lost is a problem.

    Raises:
        ConfigError: as `read_record` and `apply_overrides`; version 0.1 wrote the run; an option
            would change the training.
    """
    cfg, is_old = read_record(directory)
    if is_old:
        raise ConfigError(
            [
                f"resume={directory}: version 0.1 trained this run, and this version does not read "
                "the state of its training. evaluate.py, predict.py and scripts/export.py do; train it again."
            ]
        )
    options = {}
    values: list[str] = []
    problems = []
    for text in overrides:
        group, _, option = text.removeprefix("+").partition("=")
        if not is_option(group, option):
            values.append(text)
        elif group in ("callbacks", "logger"):
            options[group] = option
        else:
            problems.append(
                f"resume={directory} goes on with the same training, which {text} would change; "
                "leave it out, or start a run of its own without resume."
            )
    if problems:
        raise ConfigError(problems)
    recorded = OmegaConf.to_container(cfg.logger, resolve=False) if cfg.get("logger") else {}
    logger = options.get("logger") or str(read_choices(directory).get("logger") or "default")
    if not is_option("logger", logger):
        raise ConfigError(
            [Problem("logger", "conf/logger has no such option. Name one, logger=csv.", logger)]
        )
    composed = compose_conf(
        [
            f"logger={logger}",
            *([f"callbacks={options['callbacks']}"] if "callbacks" in options else []),
        ]
    )
    cfg.logger = composed.logger
    if "callbacks" in options:
        cfg.callbacks = composed.callbacks
    else:
        refuse_foreign_callbacks(cfg)
    apply_overrides(cfg, values)
    cfg.resume = str(directory)
    if "logger" not in options:
        refuse_lost_settings(recorded, cfg, values)
    return cfg


def refuse_foreign_callbacks(cfg: DictConfig) -> None:
    """Refuses callbacks whose classes no option of conf/callbacks names: they may write anywhere."""
    files = (CONF / "callbacks").glob("*.yaml")
    known = {target for file in files for target in find_targets(yaml.safe_load(file.read_text()))}
    container: Any = OmegaConf.to_container(
        cfg.get("callbacks") or OmegaConf.create(), resolve=False
    )
    problems = [
        Problem(
            f"callbacks.{name}._target_",
            "a record may name the classes of conf/callbacks/ alone. Add an option with it there, and "
            "name that, callbacks=[default,OPTION].",
            node.get("_target_"),
        )
        for name, node in container.items()
        if isinstance(node, dict) and node.get("_target_") not in known
    ]
    if problems:
        raise ConfigError(problems)


def refuse_lost_settings(recorded: Any, cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Refuses to continue where a logger would get other settings than the run was started with."""
    given = {text.lstrip("+~").partition("=")[0] for text in overrides}
    before = dict(leaves(recorded, "logger"))
    now = dict(leaves(OmegaConf.to_container(cfg.logger, resolve=False), "logger"))
    lost = [key for key, value in before.items() if now.get(key) != value and key not in given]
    if lost:
        words = " ".join(f"{'' if key in now else '+'}{key}={before[key]}" for key in lost)
        raise ConfigError(
            [
                "logger: the run was started with other settings, and a record says nothing of where "
                f"to log. Repeat them on the command line: {words}"
            ]
        )


def save_config(cfg: DictConfig, folder: Path) -> None:
    """Writes a configuration as Hydra keeps it, config.yaml and hydra.yaml, references unresolved."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = [str(key) for key in cfg if key != "hydra"]
    OmegaConf.save(OmegaConf.masked_copy(cfg, keys), folder / "config.yaml")
    if "hydra" in cfg:
        OmegaConf.save(OmegaConf.masked_copy(cfg, ["hydra"]), folder / "hydra.yaml")


def unresolved(cfg: DictConfig) -> dict[str, Any]:
    """Plain containers with references as they are written."""
    return OmegaConf.to_container(cfg, resolve=False)  # type: ignore[return-value]
