"""Configurations: composed from conf/, or those of a run; names that nothing has."""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from quartet.compat import compose_once, merge_callback_options, share_settings
from quartet.config import allow
from quartet.config.configuration import to_container
from quartet.config.overrides import NAMED_GROUPS, base_group, is_option, key_of, quote_values
from quartet.config.records import apply_overrides, read_choices, read_record, split_overrides
from quartet.core.files import CONF
from quartet.core.messages import closest_name, format_value, join_or, shorten, suggest_name
from quartet.core.problems import UNSET, ConfigError, Problem, Problems, refuse
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


def prepare_hydra() -> None:
    """Changes how Hydra composes conf/: each option once, callbacks together, groups by name."""
    merge_callback_options()
    share_settings(NAMED_GROUPS)
    compose_once(CONF.resolve())


def compose_conf(overrides: Sequence[str], config_name: str = "train") -> DictConfig:
    """As `compose`, from conf/ alone."""
    prepare_hydra()
    check_words(overrides)
    words = quote_values(overrides)
    try:
        cfg = compose_options(words, config_name, return_hydra_config=True)
    except HydraException as error:
        raise explain(error, words) from None
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
    others = "Other data of the same kind: data.path=FILE, or data.KEY=VALUE."
    problems = []
    for group, option in options.items():
        if (own := chosen.get(group)) != option:
            message = (
                f"the run in {directory} was trained with {group}={own}; leave it out. {others}"
            )
            problems.append(Problem(group, message, option))
    message = "is a setting of the training; leave it out, or train another run with it."
    for text in values:
        key, (_, equals, value) = key_of(text), text.partition("=")
        # The command line replaces references that a record must not hold.
        if base_group(key.partition(".")[0]) in trained and "${" not in str(recorded.get(key)):
            problems.append(Problem(key, message, value if equals else UNSET))
    refuse(problems)
    cfg.callbacks, cfg.logger = {}, {}
    apply_overrides(cfg, values)
    now = dict(flatten(to_container(cfg, resolve=False)))
    changed = [key for key in FITTED if now.get(key) != recorded.get(key)]
    refuse(Problem(key, message, now[key]) for key in changed)
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
        message = "version 0.1 trained this run, which this version cannot continue; evaluate.py"
        message += ", predict.py and scripts/export.py take it."
        raise ConfigError(Problem("resume", message, directory))
    options, values = split_overrides(overrides)
    message = f"would change the training that resume={directory} continues; leave one of them out."
    fixed = options.keys() - {"callbacks", "logger"}
    refuse(Problem(group, message, options[group]) for group in options if group in fixed)
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
    kept = {name: node for name, node in unknown.items() if cfg.callbacks.get(name) is not None}
    message = "a record may name the classes of callbacks in conf/ alone. Add an option with it, or"
    refuse(
        Problem(f"callbacks.{name}", f"{message} leave it out, callbacks.{name}=null.", node)
        for name, node in kept.items()
    )
    cfg.resume = str(directory)
    if "logger" not in options:
        refuse_lost_settings(recorded, cfg, values)
    return cfg


def find_unknown_callbacks(cfg: DictConfig) -> dict[str, Any]:
    """Finds callbacks whose classes no file of conf/ names: they may write anywhere."""
    known: set[str] = set()
    groups = ("callbacks", "data", "experiment")
    for file in (file for group in groups for file in CONF.glob(f"{group}/*.yaml")):
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
        message = "the run had other settings, and a record does not decide where to log"
        raise ConfigError(Problem("logger", f"{message}. Repeat them on the command line: {words}"))


def save_config(cfg: DictConfig, folder: Path) -> None:
    """Writes a configuration as Hydra keeps it, config.yaml and hydra.yaml, references unresolved."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = [str(key) for key in cfg if key != "hydra"]
    OmegaConf.save(OmegaConf.masked_copy(cfg, keys), folder / "config.yaml")
    if "hydra" in cfg:
        OmegaConf.save(OmegaConf.masked_copy(cfg, ["hydra"]), folder / "hydra.yaml")


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
    refuse(problems)


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
    """Turns an error of Hydra about overrides, without flags, into the unknown keys and options."""
    problems: list[Problem] = []
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        folders = [CONF]  # and that of --config-dir
        if GlobalHydra.instance().is_initialized():
            elements = GlobalHydra.instance().config_loader().get_search_path().get_path()
            paths = [str(each.path) for each in elements]
            folders += [Path(p.removeprefix("file://")) for p in paths if p.startswith("file://")]
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


def compose_options(words: Sequence[str], config_name: str = "train", **options: Any) -> DictConfig:
    """Composes conf/ by Hydra. What it keeps of another one, as of a notebook, stays."""
    other = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
            return hydra.compose(config_name, list(words), **options)
    finally:
        GlobalHydra.instance().hydra = other


def find_missing(override: Override, config: DictConfig, option: str) -> Problems:
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
