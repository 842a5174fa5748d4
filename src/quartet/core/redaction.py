"""Removes values of the environment from messages.

A configuration and its records keep ``${oc.env:NAME}`` unresolved, so only messages can show them.
"""

import logging
import os
import re
import sys
import traceback
from collections.abc import Iterable
from urllib.parse import quote

# Names of environment variables that are secret even if no configuration names them.
PRIVATE = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS)$", re.IGNORECASE)
NAMED = re.compile(r"\$\{\s*oc\.env:\s*['\"\\]*(\w+)")
SHORTEST = 8  # shorter values are not secrets, and occur in ordinary text

named: set[str] = set()  # by the configurations of this process


def register(cfg: object) -> None:
    """Registers the variables that a configuration names by ``${oc.env:NAME}`` for redaction."""
    named.update(NAMED.findall(str(cfg)))  # str does not resolve references


def redact(text: str) -> str:
    """Replaces the secrets of a text by references to them, and escapes control characters."""
    text = replace(text, find_secrets())
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def replace(text: str, found: Iterable[tuple[str, str]]) -> str:
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


class RedactingFilter(logging.Filter):
    """Redacts the messages and tracebacks of a log."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), None
        if record.exc_info:
            record.exc_text = redact("".join(traceback.format_exception(*record.exc_info)).rstrip())
        return True


def install_log_filter() -> None:
    """Adds the filter to every handler of the root logger."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(RedactingFilter())
