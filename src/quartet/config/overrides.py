"""Hydra overrides as text: quoting of values."""

import re
from pathlib import Path
from typing import Any

from quartet.core.files import CONF


def quote(directory: str | Path) -> str:
    """A path as an override's value, in which Hydra finds nothing but itself."""
    escaped = re.sub(
        r"(\\*)('|$)", lambda found: found[1] * 2 + found[2].replace("'", "\\'"), str(directory)
    )
    return f"'{escaped}'"


def unquote(text: str) -> str:
    """A value without the quotes that it was given for Hydra's sake."""
    whole = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if whole else text


def key_of(override: str) -> str:
    """The key or group that an override sets, adds or removes."""
    return override.lstrip("+~").partition("=")[0]


JOB_OVERRIDE = re.compile(
    r"(\+\+|\+|~)?(?!(hydra|sweep|launcher)\b|(resume|directory|run|check)(=|$))\w[\w./-]*(=|$)"
)
# Keys that say where something is written, or to whom it is sent.
PLACE = re.compile(r"logger\.|callbacks\..*(dirpath|filename)|data\.dir$|trainer\.profiler")


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
    return removes or not (CONF / key).is_dir() or is_option(key, value)


def is_option(group: str, option: str) -> bool:
    """Whether conf/ has such an option of such a group, or all of a list of them: ``[a,b]``."""
    names = option.removeprefix("[").removesuffix("]").split(",")
    known = {path.stem for path in (CONF / group).glob("*.yaml")}
    return {name.strip() for name in names} <= known
