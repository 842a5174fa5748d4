"""Finds the names of a command line that nothing has, where Hydra composes nothing."""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from quartet.config.overrides import base_group
from quartet.core.files import CONF
from quartet.core.messages import closest_name, format_value, join_or, shorten, suggest_name
from quartet.core.problems import ConfigError, Problem
from quartet.records.run_directory import flatten

# Hydra's flags; the first ones take the next word.
VALUED = re.compile(r"-(c|p|cp|cn|cd|i)|--(cfg|package|config-\w+|experimental-rerun|info)")
PLAIN = r"-\w+|--(help|hydra-help|version|resolve|run|multirun|shell-completion)"
FLAG = re.compile(rf"({VALUED.pattern}|{PLAIN})(=.*)?")
TABLE = re.compile(r"\.(csv|tsv|txt|parquet)(\.(gz|bz2|zip|xz|zst))?$")


def check_words(words: Sequence[str]) -> None:
    """Raises ConfigError if a word of the command line is no ``KEY=VALUE``, and no flag of Hydra."""
    # Each is a word that may begin a setting, and the words that may belong to it.
    phrases: list[list[str]] = [[]]
    left = iter(words)
    for word in left:
        if FLAG.fullmatch(word):
            if VALUED.fullmatch(word):
                next(left, None)
            phrases.append([])
        elif "=" in word or word[:1] in ("-", "+", "~") or is_group(word):
            phrases.append([word])
        else:
            phrases[-1].append(word)
    problems = []
    for first, *rest in filter(None, phrases):
        is_setting = "=" in first and not first.startswith("--")
        if is_setting and rest:
            whole = shlex.quote(" ".join([first, *rest]))
            message = f"is no KEY=VALUE; a value with blanks needs quotes around all, {whole}."
            problems.append(Problem(" ".join(rest), message))
        elif not is_setting and not first.startswith("~"):
            problems.append(Problem(" ".join([first, *rest]), suggest_setting(first, rest)))
    if problems:
        raise ConfigError(*problems)


def is_group(word: str) -> bool:
    return re.fullmatch(r"\w[\w/]*", word) is not None and (CONF / word).is_dir()


def suggest_setting(word: str, rest: Sequence[str]) -> str:
    """The message about words such as ``--lr 0.1`` or ``optimizer sgd``."""
    key, _, value = word.lstrip("-").partition("=")
    wrong = "is no flag" if word.startswith("-") else "is no KEY=VALUE"
    value = value or " ".join(rest)
    if is_group(key) and not value:
        names = sorted(file.stem for file in (CONF / key).glob("*.yaml"))
        return f"{wrong}; {key}=NAME chooses one of {shorten(names, len(names))}."
    places = []
    if value:
        config = compose_options([])
        is_key = is_group(key) or "." in key or key in config
        places = [key] if is_key else find_leaves(config, key)
    if not places:
        return f"{wrong}; settings are typed such as optimizer=sgd or optimizer.lr=0.1."
    meant = [shlex.quote(f"{place}={value}") for place in places]
    return f"{wrong}; did you mean {join_or(meant, 3)}?"


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
            if "csv" in names and TABLE.search(option):
                message = f"is a file; type data=csv data.path={option} data.target=COLUMN."
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
    parts = override.key_or_group.split(".")
    for number, part in enumerate(parts):
        if not OmegaConf.is_dict(node):
            message = f"is {format_value(node)}, which has no keys; set it as a whole."
            yield Problem(place.rstrip("."), message)
            return
        if part in node:
            node, place = node[part], f"{place}{part}."
            continue
        near = closest_name(part, map(str, node))
        others = [] if override.is_delete() else find_leaves(config, parts[-1])
        owners = [] if option or override.is_delete() else find_owners(override.key_or_group)
        if owners:
            choice = owners[0] if len(owners) == 1 else "one of them"
            yield Problem(text, f"is a setting of {join_or(owners)}; add {choice}.")
        elif others:
            path = ".".join([f"{place}{near}", *parts[number + 1 :]])
            others = [path] if path in others else others
            meant = [f"{other}={text.partition('=')[2]}" for other in others]
            yield Problem(text, f"{unknown}; did you mean {join_or(meant, 3)}?")
        elif near:
            yield Problem(text, f"{unknown}; did you mean {place}{near}?")
        else:
            names = [str(name) for name in node if name != "_target_"]
            message = f"{unknown}; {suggest_name('', names)}"
            if "_target_" in node and not override.is_delete():
                message += f" +{text} gives the class an argument that its file leaves out."
            yield Problem(text, message)
        return


def find_leaves(config: DictConfig, name: str) -> list[str]:
    """The full keys of a configuration that end in a name; no references, no ranges of a search."""
    leaves = flatten(OmegaConf.to_container(config))
    keys = [key.split(".") for key, value in leaves if not str(value).startswith("${")]
    return [".".join(key) for key in keys if key[-1] == name and "search" not in key]


def find_owners(key: str) -> list[str]:
    """The options, as ``data=csv``, whose files have a setting such as ``data.path``."""
    group, _, name = key.partition(".")
    files = sorted((CONF / group).glob("*.yaml")) if name else []
    given = {file.stem: dict(flatten(yaml.safe_load(file.read_text()))) for file in files}
    return [f"{group}={option}" for option, settings in given.items() if name in settings]
