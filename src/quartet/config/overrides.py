"""Hydra overrides as text: quoting of values."""

import re
from pathlib import Path


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
