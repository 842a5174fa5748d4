"""Overrides as text, names of groups, ranges of a search. Without torch."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from quartet.core.files import CONF
from quartet.core.problems import ConfigError, Problem, Problems

# A module may have several of these, under names of their own: critic_optimizer.
NAMED_GROUPS = ("optimizer", "scheduler")
# Groups of any number of parts, each under a name of its own.
NAMED_PARTS = ("metrics", "callbacks", "logger")


@cache
def base_group(key: str) -> str:
    """The folder of conf/ with the options of a group: for critic_optimizer it is optimizer."""
    return next((group for group in NAMED_GROUPS if re.fullmatch(rf"\w+_{group}", key)), key)


def find_groups(config: Mapping[str, Any], base: str) -> list[str]:
    """The groups whose options are those of a folder of conf/: optimizer, critic_optimizer."""
    found = [key for key, node in config.items() if key == base or node is not None]
    return [key for key in found if base_group(key) == base]


def config_key(group: str) -> str:
    """The key of a group in the configuration: critic_optimizer of optimizer@critic_optimizer."""
    return group.rpartition("@")[2]


def quote(directory: str | Path) -> str:
    """A path as an override's value, in which Hydra finds nothing but itself."""
    escaped = re.sub(
        r"(\\*)('|$)", lambda found: found[1] * 2 + found[2].replace("'", "\\'"), str(directory)
    )
    return f"'{escaped}'"


def is_quoted(text: str) -> bool:
    return len(text) > 1 and text[0] == text[-1] and text[0] in "'\""


def unquote(text: str) -> str:
    """A value without the quotes that it was given for Hydra's sake: the reverse of `quote`."""
    if not is_quoted(text):
        return text
    mark, inner = text[0], text[1:-1]
    return re.sub(rf"(\\+)({mark}|$)", lambda found: "\\" * (len(found[1]) // 2) + found[2], inner)


def to_path(text: str) -> Path:
    """The path that a word of the command line names, in quotes or with ``~`` for the home."""
    return Path(unquote(text)).expanduser()


# Keys whose value is the name of a file, folder, column or run, and not a number.
NAMES = re.compile(
    r"data\.(path|test_path|dir|positive|target|drop|categories|numbers|order|group|division)|"
    r"data\.(classes|separator|decimal|thousands|comment|missing_values)|"
    r"model\.weights|hydra\.(run|sweep)\.(dir|subdir)|hydra\.sweeper\.(resume|storage)|"
    r"callbacks\.\w+\.(dirpath|filename)|logger\.\w+\.(\w*name|group|notes|project|entity|save_dir|tags)"
)
FOLDERS = re.compile(r"hydra\.(run|sweep)\.dir|hydra\.sweeper\.resume")  # never several
# Texts that Hydra reads as such, and does not change.
SIMPLE = re.compile(r"(?!(true|false|null|inf|nan)$)[A-Za-z_/][\w./-]*", re.IGNORECASE | re.ASCII)


def quote_values(overrides: Sequence[str], *, sweeping: bool = False) -> list[str]:
    """Overrides in which Hydra reads each value as it was typed, in quotes if need be; flags stay.

    With `sweeping` a value may stand for several, such as ``1,2`` or ``range(3)``.

    Raises:
        ConfigError: a list or mapping cannot be read, or a value stands for several.
    """
    return [quote_value(each, sweeping) for each in overrides]


def quote_value(override: str, sweeping: bool) -> str:
    """An override as `quote_values` returns it."""
    key, equals, value = override.partition("=")
    is_open = value in ("", "null", "???") or value.startswith("${") or SIMPLE.fullmatch(value)
    if not equals or override.startswith(("-", "~")) or is_open:
        return override
    name = key_of(override)
    if FOLDERS.fullmatch(name):
        return override if "${" in value else f"{key}={quote(to_path(value))}"
    if name == "data.separator":
        value = value.replace(r"\t", "\t")
    is_name = NAMES.fullmatch(name) is not None
    if re.fullmatch(r"\[[^'\"]+\]", value) and (is_name or name == "data.features"):
        parts = map(str.strip, value[1:-1].split(","))
        return f"{key}=[{','.join(e if SIMPLE.fullmatch(e) else quote(e) for e in parts)}]"
    parsed = parse_value(value)
    if parsed and parsed.is_sweep_override():
        if sweeping:
            return override
        if not is_name:
            message = "several values are trained by a sweep, python train.py -m"
            raise ConfigError(Problem(key, f"{message}; {suggest_one(key, value)}.", value))
    elif parsed and (not is_name or is_quoted(value) or parsed.value() == value or value[0] == "["):
        return f"{key}={value}"
    elif parsed is None and value[0] in "[{" and not is_name:
        message = "cannot be read; put quotes around texts within it, or around all"
        raise ConfigError(Problem(key, f"{message}: {key}={quote(value)}.", value))
    elif parsed is None and sweeping and not is_quoted(value):
        each = (one if parse_value(one) else quote(one) for one in value.split(","))
        return f"{key}={','.join(each)}"
    return f"{key}={quote(unquote(value))}"


def suggest_one(key: str, value: str) -> str:
    """The end of a message about a value such as ``64,32`` that stands for several: how to type one."""
    number = r"[+-]?\d+(\.\d+)?"
    if re.fullmatch(r"[+-]?0,\d+|[+-]?\d+,0\d*", value):
        return f"a number has a point: {key}={value.replace(',', '.')}"
    if re.fullmatch(f"{number}(,{number})+", value) or key in NAMED_PARTS:
        return f"a list has brackets: {key}=[{value}]"
    return f"one text has quotes: {key}={quote(value)}"


def parse_value(value: str) -> Any:
    """A value in Hydra's grammar; None if it is none."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_overrides([f"key={value}"])[0]
    except HydraException:
        return None


def key_of(override: str) -> str:
    """The key or group that an override sets, adds or removes."""
    return override.lstrip("+~").partition("=")[0]


JOB_OVERRIDE = re.compile(
    r"(\+\+|\+|~)?(?!(hydra|sweep|launcher)\b|(resume|directory|run|check)(=|$))\w[\w./-]*"
    rf"(@\w+_({'|'.join(NAMED_GROUPS)}))?(=|$)"
)
# Keys that say where something is written, or to whom it is sent.
PLACE = re.compile(r"logger\.|callbacks\..*(dirpath|filename)|data\.dir$|trainer\.profiler")


def find_places(overrides: Iterable[str]) -> list[str]:
    """The overrides that name places, which a resumed run does not take from its record."""
    return [each for each in overrides if PLACE.match(key_of(each))]


def is_plain(override: str) -> bool:
    """Whether an override names no class, no other value and no address."""
    return not any(each in override for each in ("_target_", "${", "://", "::"))


def is_job_override(override: Any) -> bool:
    """Whether an override in a record is a plain setting of one training.

    It names no flag, no directory, nothing of Hydra, a sweep or a launcher, no place that is written,
    and of a group an option of conf/ alone.
    """
    if not isinstance(override, str) or not JOB_OVERRIDE.match(override) or not is_plain(override):
        return False
    key, _, value = override.lstrip("+~").partition("=")
    if PLACE.match(key):
        return False
    removes = override.startswith("~")
    return removes or not (CONF / key.partition("@")[0]).is_dir() or is_option(key, value)


def is_option(group: str, option: str) -> bool:
    """Whether conf/ has such an option of such a group, or all of a list of them: ``[a,b]``."""
    names = option.removeprefix("[").removesuffix("]").split(",")
    known = {path.stem for path in (CONF / group.partition("@")[0]).glob("*.yaml")}
    return {name.strip() for name in names} <= known


# The ranges of a search

# A list of values to choose from, or the ends of a range: whole numbers if both ends are.
Range = list[Any] | dict[str, Any]

FORM = "{low: 0.001, high: 0.1, log: true}, or a list of values"


def check_search_ranges(group: str, node: Mapping[str, Any]) -> Problems:
    """Yields what is wrong with the ranges that a group's option names for its own settings."""
    ranges = node.get("search") or {}
    if not isinstance(ranges, Mapping):
        message = f"must be a range for each setting, such as lr: {FORM}."
        yield Problem(f"{group}.search", message, ranges)
        return
    for name, range_ in ranges.items():
        if reason := check_range(range_):
            yield Problem(f"{group}.search.{name}", reason, range_)


def check_range(range_: Any) -> str | None:
    """The reason why something is no range; None if it is one."""
    if isinstance(range_, list):
        return None if range_ else "has no value to choose from."
    if not isinstance(range_, Mapping) or not {"low", "high"} <= set(range_):
        return f"must be {FORM}."
    if others := set(range_) - {"low", "high", "log", "step"}:
        return f"{', '.join(sorted(others))}: a range has low, high, log and step."
    low, high, step = range_["low"], range_["high"], range_.get("step")
    for end in (low, high, *([] if step is None else [step])):
        if isinstance(end, bool) or not isinstance(end, int | float):
            return f"{end!r} is no number; write such as 1.0e-4."
    if low > high:
        return "low is above high; exchange them."
    if range_.get("log") and low <= 0:
        return "the logarithm needs a low above 0."
    if step is not None and (range_.get("log") or step <= 0):
        return "step must be above 0, and does not go with log."
    return None
