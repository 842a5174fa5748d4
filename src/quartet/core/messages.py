"""Texts of messages: suggestions, enumerations, values as YAML writes them, and no secrets.

A configuration and its records keep ``${oc.env:NAME}`` unresolved, so only messages can show the
values of environment variables.
"""

import difflib
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

# Names of environment variables that are secret even if no configuration names them.
PRIVATE = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS)$", re.IGNORECASE)
NAMED = re.compile(r"\$\{\s*oc\.env:\s*['\"\\]*(\w+)")
SHORTEST = 8  # shorter values are not secrets, and occur in ordinary text

named: set[str] = set()  # by the configurations of this process


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
        text = redact(str(value))  # before it is cut
    whole = isinstance(value, PurePath) or len(text) <= most
    return text if whole else f"{text[: most - 3]}..."


def register_secrets(cfg: object) -> None:
    """Registers the variables that a configuration names by ``${oc.env:NAME}`` for redaction."""
    named.update(NAMED.findall(str(cfg)))  # str does not resolve references


def redact(text: str) -> str:
    """Replaces the secrets of a text by references to them, and escapes control characters."""
    text = replace_secrets(text, find_secrets())
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def replace_secrets(text: str, found: Iterable[tuple[str, str]]) -> str:
    """Replaces secrets, as `find_secrets` returns them, by references."""
    for name, value in found:
        # As it is, and as a traceback, a sentence, a path or a URL shows it.
        spaced, path = " ".join(value.split()), os.path.normpath(value)
        for spelling in dict.fromkeys((value, repr(value)[1:-1], spaced, path, quote(value))):
            if len(spelling) >= SHORTEST:
                text = text.replace(spelling, f"${{oc.env:{name}}}")
    return text


def find_secrets() -> list[tuple[str, str]]:
    """Returns names and values of secrets, the longest value first, as it may contain another."""
    known = named.union(NAMED.findall(" ".join(sys.argv)))
    found = [
        (name, value)
        for name, value in os.environ.items()
        if len(value) >= SHORTEST and (name in known or PRIVATE.search(name))
    ]
    return sorted(found, key=lambda pair: len(pair[1]), reverse=True)


def redact_record(record: logging.LogRecord) -> bool:
    """A filter of a log's handler: redacts its messages and tracebacks."""
    record.msg, record.args = redact(record.getMessage()), None
    if record.exc_info:
        record.exc_text = redact("".join(traceback.format_exception(*record.exc_info)).rstrip())
    return True


def redact_logs() -> None:
    """Redacts what the handlers of the root logger write."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(redact_record)
