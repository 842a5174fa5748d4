"""Values of the environment that must not be written anywhere.

A configuration keeps ``${oc.env:NAME}`` as it is, and so does every record of it. What is left are
messages that show a value.
"""

import logging
import os
import re
import sys
import traceback
from collections.abc import Iterable
from urllib.parse import quote

# Names of variables that are nobody's business, whether a configuration names them or not.
PRIVATE = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS)$", re.IGNORECASE)
NAMED = re.compile(r"\$\{\s*oc\.env:\s*['\"\\]*(\w+)")
SHORTEST = 8  # "1" or "gpu" is no secret, and hiding it would spoil every message

named: set[str] = set()  # by the configurations of this process


def register(cfg: object) -> None:
    """Has the values that a configuration takes by ``${oc.env:NAME}`` hidden from here on."""
    named.update(NAMED.findall(str(cfg)))  # which shows references as they are written


def redact(text: str) -> str:
    """The text, with values of the environment as the references that stand for them.

    Characters that would direct a terminal are written out.
    """
    text = replace(text, find_secrets())
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def replace(text: str, found: Iterable[tuple[str, str]]) -> str:
    """The text with references in the place of secrets, as `secrets` finds them."""
    for name, value in found:
        # As it is; in a traceback, a sentence, a path, an address.
        spaced, path = " ".join(value.split()), os.path.normpath(value)
        for spelling in dict.fromkeys((value, repr(value)[1:-1], spaced, path, quote(value))):
            if len(spelling) >= SHORTEST:
                text = text.replace(spelling, f"${{oc.env:{name}}}")
    return text


def find_secrets() -> list[tuple[str, str]]:
    """Names and values, the longest value first: it may hold another."""
    known = named.union(NAMED.findall(" ".join(sys.argv)))
    found = [
        (name, value)
        for name, value in os.environ.items()
        if len(value) >= SHORTEST and (name in known or PRIVATE.search(name))
    ]
    return sorted(found, key=lambda pair: len(pair[1]), reverse=True)


class RedactingFilter(logging.Filter):
    """Lets a log say nothing of them, in tracebacks neither."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), None
        if record.exc_info:
            record.exc_text = redact("".join(traceback.format_exception(*record.exc_info)).rstrip())
        return True


def install_log_filter() -> None:
    """Has every handler of the root logger hide them; those of a job are made for it."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(RedactingFilter())
