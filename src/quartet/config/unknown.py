"""Finds the names of a command line that nothing has, where Hydra composes nothing."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from quartet.config.overrides import base_group
from quartet.core.files import CONF
from quartet.core.messages import closest_name, format_value, suggest_name
from quartet.core.problems import ConfigError, Problem


def explain(error: Exception, overrides: Sequence[str]) -> ConfigError:
    """Turns an error of Hydra about a command line into the unknown keys, groups and options.

    Args:
        error: What Hydra raised.
        overrides: The command line; without flags.
    """
    problems: list[Problem] = []
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        folders = list(conf_folders())
        problems += find_unknown(parsed, folders)
    except (HydraException, OmegaConfBaseException):
        pass  # Hydra's own words are left
    if not problems:
        if own := re.search(r"'hydra\.(sweeper|launcher)\.([\w.]+)'", str(error)):
            group = {"sweeper": "sweep"}.get(own[1], own[1])
            message = f"the chosen {group} has no such setting; {group}=NAME chooses another one."
            return ConfigError(Problem(f"{group}.{own[2]}", message))
        said = str(error).partition("\nSee https")[0].partition("\nConfig search path")[0]
        problems.append(Problem("", " ".join(said.split())))
    return ConfigError(*problems)


def conf_folders() -> Iterator[Path]:
    """The folders in which Hydra looks for options: conf/, and that of ``--config-dir``."""
    yield CONF
    if GlobalHydra.instance().is_initialized():
        for element in GlobalHydra.instance().config_loader().get_search_path().get_path():
            if element.path and element.path.startswith("file://"):
                yield Path(element.path.removeprefix("file://"))


def find_unknown(overrides: Sequence[Override], folders: Sequence[Path]) -> list[Problem]:
    problems, chosen, swept, keys = [], [], [""], []
    for override in overrides:
        group, text = override.key_or_group, str(override.input_line)
        found = [folder / base_group(group) for folder in folders]
        if group.startswith("hydra"):
            continue
        if not any(folder.is_dir() for folder in found):
            keys.append(override)
            continue
        names = sorted({file.stem for folder in found for file in folder.glob("*.yaml")})
        options = [] if override.is_delete() else list(options_of(override.value()))
        for option in (wrong := [each for each in options if each not in names]):
            message = f"there is no such option; {suggest_name(option, names, len(names))}"
            problems.append(Problem(group, message, option))
        if override.package is not None and text[0] not in "+~":
            problems.append(Problem(text, f"there is no such group; +{text} adds one."))
        elif override.is_sweep_override():
            swept += [f"{group}={option}" for option in options if option not in wrong]
        elif not wrong:
            chosen.append(text)
    for option in swept if keys else ():
        config = compose_options([*chosen, *filter(None, [option])])
        missing = [p for override in keys for p in find_missing(override, config, option)]
        problems += [p for p in missing if p.key not in [known.key for known in problems]]
    return problems


def options_of(value: Any) -> Iterator[str]:
    """The options that a value names: of a list or a sweep all of them."""
    if isinstance(value, ChoiceSweep):
        value = value.list
    if isinstance(value, list):
        for each in value:
            yield from options_of(each)
    else:
        yield "null" if value is None else str(getattr(value, "text", value))


def compose_options(chosen: Sequence[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        return hydra.compose("train", list(chosen))


def find_missing(override: Override, config: DictConfig, option: str) -> Iterator[Problem]:
    """Yields the problem of a key that a configuration with this option of a sweep does not have."""
    if override.is_add() or override.is_force_add():
        return
    text, node, place = str(override.input_line), config, ""
    unknown = f"there is no such key{f' with {option}' if option else ''}"
    for part in override.key_or_group.split("."):
        if not OmegaConf.is_dict(node):
            message = f"is {format_value(node)}, which has no keys; set it as a whole."
            yield Problem(place.rstrip("."), message)
        elif part in node:
            node, place = node[part], f"{place}{part}."
            continue
        elif near := closest_name(part, map(str, node)):
            yield Problem(text, f"{unknown}; did you mean {place}{near}?")
        else:
            names = [str(name) for name in node if name != "_target_"]
            message = f"{unknown}; {suggest_name('', names)}"
            if "_target_" in node and not override.is_delete():
                message += f" +{text} gives the class an argument that its file leaves out."
            yield Problem(text, message)
        return
