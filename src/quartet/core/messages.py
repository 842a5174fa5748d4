"""Texts of messages: suggestions, enumerations, values as YAML writes them."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from quartet.core import redaction


def suggest_name(name: str, names: Iterable[str], most: int = 10) -> str:
    """Ends a sentence about an unknown name: suggests the closest name, or lists all names."""
    names = list(dict.fromkeys(names))
    if close := closest_name(name, names):
        return f"did you mean {close}?"
    if len(names) < 2:
        return f"there is {names[0] if names else 'nothing to set'}{' only' if names else ''}."
    return f"there are {shorten(names, most)}."


def closest_name(name: str, names: Iterable[str]) -> str | None:
    """Returns the most similar name, or None if no name is similar."""
    names = list(names)
    close = difflib.get_close_matches(name, names, 1, cutoff=0.6)
    if len(name) > 2:
        close = [one for one in names if one.startswith(name) or one.endswith(name)] or close
    return close[0] if close else None


def shorten(words: Iterable[Any], most: int = 5) -> str:
    """Joins the first words and the number of the others: ``a, b and 3 more``."""
    words = list(map(str, words))
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def cut(name: object, length: int = 18) -> str:
    """A text in one line, of at most so many characters."""
    text = " ".join(str(name).split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def join_or(words: Sequence[str], most: int = 10) -> str:
    """Joins the words: ``a, b or c``."""
    if len(words) > most:
        words = [*words[:most], f"one of {len(words) - most} more"]
    return " or ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def join_and(words: Sequence[str]) -> str:
    """Joins the words: ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def format_value(value: Any, most: int = 60) -> str:
    """Formats a value as YAML does, redacted, and truncated if it is long and not a path."""
    if value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    elif isinstance(value, Mapping):
        items = (f"{format_value(key)}: {format_value(item)}" for key, item in value.items())
        text = "{" + ", ".join(items) + "}"
    elif isinstance(value, list | tuple):
        text = "[" + ", ".join(map(format_value, value)) + "]"
    else:
        text = redaction.redact(str(value))  # before it is cut
    whole = isinstance(value, PurePath) or len(text) <= most
    return text if whole else f"{text[: most - 3]}..."
