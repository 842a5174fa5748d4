"""Problems of a configuration: what is wrong, where, and what to do instead."""

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

ENGINE = Path(__file__).parents[1]
# Parts and data sources that the engine ships: their errors are about what they were given.
SHIPPED = (ENGINE / "parts", ENGINE / "data/csv.py", ENGINE / "data/image_folder.py")
# Errors about a value, a file or a library; others that the engine raises are its own errors.
REPORTED = (ValueError, OSError, ImportError, RuntimeError, Warning)
SIGNATURE = re.compile(
    r"unexpected keyword argument|missing \d+ required|positional arguments? but|multiple values for"
)
# What a part says of an argument: "gamma must be at least 0, ...", "folds=3: ...", "epochs: ..."
STATEMENT = re.compile(
    r"(?P<path>\w[\w.]*?)(=(?P<value>\[[^\]]*\]|\{[^}]*\}|\S+?))?:?\s(?P<message>[^\s+].*)"
)


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


@dataclass(frozen=True)
class Context:
    """What the method ``problems(context)`` of a part, callback or strategy may look at.

    Attributes:
        model: The network, with its frozen parameters.
        trainer: Lightning's Trainer.
        config: The configuration, in plain containers.
        directory: The directory of the run.
    """

    model: Any
    trainer: Any
    config: Config
    directory: Path


class ConfigError(Exception):
    """A configuration that cannot train.

    Attributes:
        problems: What is wrong with it, each with the way out.
        messages: The same as sentences, none of them twice.
    """

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)
        self.problems = list(problems)
        self.messages = list(dict.fromkeys(map(str, problems)))

    def __str__(self) -> str:
        return "\n".join(self.messages)


@contextmanager
def collect_problems(problems: list[Any], key: str, names: Iterable[str] = ()) -> Iterator[None]:
    """Appends what a part or a library says of its arguments to `problems`.

    An error in the engine's own code is no problem of the configuration: it is raised as it is.

    Args:
        problems: Grows.
        key: Where the part stands in the configuration.
        names: Names of its arguments.
    """
    try:
        yield
    except ConfigError as error:
        problems += error.problems
    except Exception as error:
        if is_engine_error(error):
            raise
        problems.append(describe_exception(key, error, list(names)))


def is_engine_error(error: Exception) -> bool:
    """Whether an error was raised by a mistake in the engine's own code."""
    if isinstance(error, REPORTED) or SIGNATURE.search(str(error)):
        return False
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(files) and is_engine(files[-1])


def is_engine(file: str | Path) -> bool:
    """Whether a file is of the engine, and neither a part nor a data source that it ships."""
    path = Path(file)
    return path.is_relative_to(ENGINE) and not any(map(path.is_relative_to, SHIPPED))


def describe_exception(key: str, error: Exception, names: Sequence[str]) -> Problem:
    """What an error says, as a problem of `key` or of the argument that its text begins with.

    Args:
        key: Where the part that raised it stands in the configuration.
        error: The error.
        names: Names of the part's arguments.
    """
    text = " ".join(redaction.redact(str(error)).split())
    if isinstance(error, Warning):
        shapes = f"{text.partition('. ')[0]}, so torch would broadcast; give both one shape."
        return Problem(key, shapes)
    if missing := re.search(r"Requirement '([\w-]+)[^']*' not met", text):
        way_out = f"needs {missing[1]}, which is not installed; pip install {missing[1]}."
        return Problem(key, way_out)
    if unknown := re.search(r"[Uu]nexpected keyword arguments?:? ['`](\w+)", text):
        others = [name for name in names if name != unknown[1]]
        way_out = suggest_name(unknown[1], others) if others else "remove it, or correct its name."
        return Problem(f"{key}.{unknown[1]}", f"nothing uses this argument; {way_out}")
    if found := STATEMENT.match(text):
        path, value = found["path"], found["value"] or UNSET
        if path in names:
            return Problem(f"{key}.{path}", found["message"], value)
        if path == key or path.startswith(f"{key}."):
            return Problem(path, found["message"], value)
    sentence = f"{text}." if text[-1:].isalnum() else text
    # "epochs[2] must be ...", "`devices` selected with ...", "Invalid eta values: ..."
    if word := re.match(r"(?:Invalid )?`?(\w+)", text):
        for name in (word[1], word[1].lower(), f"{word[1]}s"):
            if name in names:
                return Problem(f"{key}.{name}", sentence)
    # Lightning's class, which is not imported for its name alone.
    misconfigured = type(error).__name__ == "MisconfigurationException"
    if isinstance(error, ValueError | OSError) or misconfigured:
        return Problem(key, sentence)
    kind = "" if isinstance(error, RuntimeError) else f"{type(error).__name__}: "
    return Problem(key, f"{kind}{text}{find_place(error)}")


def find_place(error: Exception) -> str:
    """The last line of the user's own code in a traceback: `` (model.py, line 3)``."""
    places = [
        (Path(frame.f_code.co_filename), line)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    own = [
        (path, line)
        for path, line in places
        if "site-packages" not in path.parts and not is_engine(path)
    ]
    return f" ({own[-1][0].name}, line {own[-1][1]})" if own else ""


def wrong_keys(problems: Iterable[Problem]) -> set[str]:
    """The keys that have problems, and the keys above them."""
    paths = [problem.key.split(".") for problem in problems if problem.key]
    return {".".join(path[:length]) for path in paths for length in range(1, len(path) + 1)}


def abort(message: str) -> NoReturn:
    """Ends the command with exit status 2, as a configuration that is refused does."""
    print(redaction.redact(message), file=sys.stderr)
    raise SystemExit(2)
