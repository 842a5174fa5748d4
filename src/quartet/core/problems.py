"""What refuses a configuration before the first batch, with the reason and the way out.

Every function of this package returns faults, one sentence each: the key, the value, why, and what
to do instead.
"""

import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from quartet.core import redaction
from quartet.core.messages import format_value, suggest_name

Config = Mapping[str, Any]
UNSET: Any = object()


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a configuration or its data, with the way out.

    Attributes:
        key: The configuration key it is about, such as ``optimizer.lr``; empty if there is none.
        message: What is wrong, and what to do: two short sentences.
        value: The value that is wrong, shown behind the key; UNSET shows none.
    """

    key: str
    message: str
    value: Any = UNSET

    def __str__(self) -> str:
        if not self.key:
            return self.message
        shown = "" if self.value is UNSET else f"={format_value(self.value)}"
        return f"{self.key}{shown}: {self.message}"


class ConfigError(Exception):
    """A configuration that cannot train.

    Attributes:
        problems: What is wrong with it, each with the way out.
    """

    def __init__(self, problems: Sequence[Problem | str]) -> None:
        self.problems = [
            each if isinstance(each, Problem) else Problem("", each) for each in problems
        ]
        super().__init__("\n".join(map(str, self.problems)))

    @property
    def faults(self) -> list[str]:
        return list(map(str, self.problems))


@contextmanager
def collect_problems(faults: list[str], key: str, names: Iterable[str] = ()) -> Iterator[None]:
    """Adds what a part says of its arguments to `faults`, with the key before it.

    Args:
        faults: Grows.
        key: Where the part stands in the configuration.
        names: Of its arguments.
    """
    try:
        yield
    except ConfigError as refusal:
        faults += refusal.faults
    except Exception as error:
        faults.append(describe_exception(key, error, list(names)))


def describe_exception(key: str, error: Exception, names: Sequence[str]) -> str:
    """What an error says, as a fault of `key`."""
    text = " ".join(redaction.redact(str(error)).split())
    if isinstance(error, Warning):
        return f"{key}: {text.partition('. ')[0]}, so torch would broadcast; give both one shape."
    if missing := re.search(r"Requirement '([\w-]+)[^']*' not met", text):
        return f"{key}: needs {missing[1]}, which is not installed; pip install {missing[1]}."
    if unknown := re.search(r"[Uu]nexpected keyword arguments?:? ['`](\w+)", text):
        others = [name for name in names if name != unknown[1]]
        way_out = suggest_name(unknown[1], others) if others else "remove it, or correct its name."
        return f"{key}.{unknown[1]}: nothing takes this argument; {way_out}"
    if re.match(rf"{re.escape(key)}[.= ]", text):
        return text
    if (word := re.match(r"\w+", text)) and word[0] in names:  # "gamma must be at least 0, ..."
        return f"{key}.{text}"
    # Lightning's, which is not imported for its name alone.
    misconfigured = type(error).__name__ == "MisconfigurationException"
    if isinstance(error, ValueError | OSError) or misconfigured:
        return f"{key}: {text}"
    # An error of the program: where, for whoever wrote it.
    frames = traceback.extract_tb(error.__traceback__)
    paths = [(Path(frame.filename), frame.lineno) for frame in frames]
    package = Path(__file__).parents[1]
    machinery = [package / "build", package / "check", package / "meter.py"]
    own = [
        (path, line)
        for path, line in paths
        if "site-packages" not in path.parts and not any(map(path.is_relative_to, machinery))
    ]
    place = f" ({own[-1][0].name}, line {own[-1][1]})" if own else ""
    kind = "" if isinstance(error, RuntimeError) else f"{type(error).__name__}: "
    return f"{key}: {kind}{text}{place}"


def keys(faults: Iterable[str]) -> set[str]:
    """The keys that faults are about, those above them included."""
    named = (re.match(r"[\w.]+", fault) for fault in faults)
    paths = [match[0].rstrip(".").split(".") for match in named if match]
    return {".".join(path[:length]) for path in paths for length in range(1, len(path) + 1)}


def abort(message: str) -> NoReturn:
    print(redaction.redact(message), file=sys.stderr)
    raise SystemExit(2)
