"""Compose a configuration from conf/ and overrides."""

from collections.abc import Sequence

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict

from quartet.config import allow
from quartet.core.files import CONF
from quartet.core.problems import ConfigError
from quartet.records.run_directory import newest_record


def compose(overrides: Sequence[str] = (), config_name: str = "train") -> DictConfig:
    """The configuration that the command line would give for these overrides.

    Its `hydra` node tells the chosen options and the overrides. With ``resume=DIR`` the overrides
    apply to what that run was trained with.

    Raises:
        Refusal: the record of that run would direct Hydra.
    """
    if not CONF.is_dir():
        raise FileNotFoundError(f"{CONF} is missing: install from a checkout, pip install -e .")
    GlobalHydra.instance().clear()
    folder, overrides = CONF, list(overrides)
    resumed = [override for override in overrides if override.startswith("resume=")]
    if resumed and resumed[-1] != "resume=null":
        config_name, folder = "config", newest_record(resumed[-1].removeprefix("resume="))
        if faults := allow.in_record((folder / "config.yaml").read_text()):
            raise ConfigError([f"{folder}/config.yaml: {fault}" for fault in faults])
        overrides = [f"++{each}" if each in resumed else each for each in overrides]
        overrides.append(f"hydra.searchpath=[file://{CONF}]")
    with hydra.initialize_config_dir(str(folder.resolve()), version_base="1.3"):
        cfg = hydra.compose(config_name, overrides, return_hydra_config=True)
    choices = OmegaConf.to_container(cfg.hydra.runtime.choices)
    overridden = OmegaConf.to_container(cfg.hydra.overrides.task)
    with open_dict(cfg):
        cfg.hydra = {"runtime": {"choices": choices}, "overrides": {"task": overridden}}
    return cfg
