"""Hydra overrides as text: quoting of values."""

import re
from pathlib import Path
from typing import Any


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
    r"(\+\+|\+|~)?(?!(hydra|sweep|launcher)\b|(resume|directory|run|check)(=|$))\w[\w./@:-]*(=|$)"
)


def is_job_override(override: Any) -> bool:
    """Whether an override is a setting of one training, and no address that gets an environment variable.

    It names no flag, no directory, and nothing of Hydra, a sweep or a launcher.
    """
    return (
        isinstance(override, str)
        and bool(JOB_OVERRIDE.match(override))
        and not ("${" in override and "://" in override)
    )
