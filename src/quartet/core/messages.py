"""Words of messages: what was meant, enumerations, values as YAML writes them."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from quartet.core import redaction


def nearest(name: str, names: Iterable[str], most: int = 10) -> str:
    """The end of a sentence about an unknown name: what was meant, or else what there is."""
    names = list(dict.fromkeys(names))
    if close := close_to(name, names):
        return f"did you mean {close}?"
    if len(names) < 2:
        return f"there is {names[0] if names else 'nothing to set'}{' only' if names else ''}."
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"there are {', '.join(names[:most])}{more}."


def close_to(name: str, names: Sequence[str]) -> str | None:
    """The name that was probably meant, or None."""
    alike = difflib.get_close_matches(name, names, 1, cutoff=0.6)
    if len(name) > 2:
        alike = [one for one in names if one.startswith(name) or one.endswith(name)] or alike
    return alike[0] if alike else None


def either(words: Sequence[str], most: int = 10) -> str:
    """The words as an enumeration: a, b or c."""
    if len(words) > most:
        words = [*words[:most], f"one of {len(words) - most} more"]
    return " or ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def both(words: Sequence[str]) -> str:
    """The words as an enumeration: a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def show(value: Any, most: int = 60) -> str:
    """A value as YAML has it, cut where it is long."""
    if value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    elif isinstance(value, Mapping):
        text = "{" + ", ".join(f"{show(k)}: {show(v)}" for k, v in value.items()) + "}"
    elif isinstance(value, list | tuple):
        text = "[" + ", ".join(map(show, value)) + "]"
    else:
        text = redaction.redact(str(value))  # before it is cut
    return text if len(text) <= most else f"{text[: most - 3]}..."
