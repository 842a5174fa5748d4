"""Problems of a configuration, each with its key, its cause and its solution."""

import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from quartet.core.messages import format_value, redact, suggest_name

Config = Mapping[str, Any]
UNSET: Any = object()

ENGINE = Path(__file__).parents[1]
# Parts and data sources that the engine ships: their errors are about their arguments.
SHIPPED = [ENGINE / f"data/{name}.py" for name in ("csv", "image_folder", "pictures")]
SHIPPED.append(ENGINE / "parts")
# Errors about a value, a file or a library; others that the engine raises are its own errors.
REPORTED = (ValueError, OSError, ImportError, RuntimeError, Warning)
SIGNATURE = re.compile(
    r"unexpected keyword argument|missing \d+ required|positional arguments? but|multiple values for"
)
# A message about an argument: "gamma must be at least 0, ...", "folds=3: ...", "epochs: ..."
STATEMENT = re.compile(
    r"(?P<path>\w[\w.]*?)(=(?P<value>\[[^\]]*\]|\{[^}]*\}|\S+?))?:?\s(?P<message>[^\s+].*)"
)


@dataclass(frozen=True)
class Problem:
    """A problem of a configuration or its data, with its solution.

    Attributes:
        key: The configuration key, such as ``optimizer.lr``; empty if no key is wrong.
        message: The cause and the solution, in two short sentences.
        value: The wrong value, shown after the key; UNSET shows none.
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
    """The argument of the method ``problems`` of a part, callback or strategy.

    Attributes:
        model: The model, with its frozen parameters.
        trainer: Lightning's Trainer.
        config: The configuration, in plain containers.
        directory: The run directory.
        total_steps: Optimizer steps of the training; infinite if they are not known.
    """

    model: Any
    trainer: Any
    config: Config
    directory: Path
    total_steps: float


Problems = Iterator[Problem]  # as checks yield them


class ConfigError(Exception):
    """A configuration that cannot train, with its problems and their messages."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)
        self.problems = list({str(each): each for each in problems}.values())
        self.messages = list(map(str, self.problems))

    def __str__(self) -> str:
        return "\n".join(self.messages)


class TrainingError(RuntimeError):
    """A training that cannot go on. The message says why and what to do."""


def refuse(problems: Iterable[Problem]) -> None:
    """Raises a ConfigError of the problems, if there are any."""
    if found := list(problems):
        raise ConfigError(*found)


@contextmanager
def as_problems(key: str, names: Iterable[str] = ()) -> Iterator[None]:
    """Raises a ConfigError of what `collect_problems` finds within the block."""
    with collect_problems([], key, names) as problems:
        yield
    refuse(problems)


@contextmanager
def collect_problems(
    problems: list[Problem], key: str, names: Iterable[str] = ()
) -> Iterator[list[Problem]]:
    """Converts an error of a part or a library into a problem, and appends it to `problems`.

    An error in the engine's own code is not a problem of the configuration; it propagates. `key` is
    that of the part, and `names` are those of its arguments. Notes of an error are further problems.
    """
    try:
        yield problems
    except ConfigError as error:
        problems += error.problems
    except Exception as error:
        if is_engine_error(error):
            raise
        notes = map(ValueError, getattr(error, "__notes__", ()))
        problems += [describe_exception(key, each, list(names)) for each in (error, *notes)]


def is_engine_error(error: Exception) -> bool:
    """Whether an error shows a bug in the engine's own code."""
    if isinstance(error, REPORTED) or SIGNATURE.search(str(error)):
        return False
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(files) and is_engine(files[-1])


def is_engine(file: str | Path) -> bool:
    """Whether a file belongs to the engine, and is not one of `SHIPPED`."""
    path = Path(file)
    return path.is_relative_to(ENGINE) and not any(map(path.is_relative_to, SHIPPED))


def describe_exception(key: str, error: Exception, names: Sequence[str]) -> Problem:
    """Converts an error into a problem of `key`, or of the argument that its message names first."""
    text = " ".join(redact(str(error)).split())
    if isinstance(error, Warning):
        cause = text.partition(". ")[0]
        return Problem(key, f"{cause}, so torch would broadcast; give both one shape.")
    if missing := re.search(r"Requirement '([\w-]+)[^']*' not met", text):
        package = missing[1]
        return Problem(key, f"needs {package}, which is not installed; pip install {package}.")
    if unknown := re.search(r"[Uu]nexpected keyword arguments?:? ['`](\w+)", text):
        others = [name for name in names if name != unknown[1]]
        solution = suggest_name(unknown[1], others) if others else "remove it, or correct its name."
        return Problem(f"{key}.{unknown[1]}", f"nothing uses this argument; {solution}")
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
    place = find_place(error)
    return Problem(key, f"{kind}{text.rstrip('.') if place else text}{place}")


def find_place(error: Exception) -> str:
    """Returns the last line of the user's own code in a traceback: `` (model.py, line 3)``."""
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        path = Path(frame.f_code.co_filename)
        if "site-packages" not in path.parts and not is_engine(path):
            place = f" ({path.name}, line {line})"
    return place


def wrong_keys(problems: Iterable[Problem]) -> set[str]:
    """The keys that have problems, and the keys above them."""
    paths = [problem.key.split(".") for problem in problems if problem.key]
    return {".".join(path[:length]) for path in paths for length in range(1, len(path) + 1)}


def abort(message: str) -> NoReturn:
    """Prints a message and exits with status 2, the status of an invalid configuration."""
    print(redact(message), file=sys.stderr)
    raise SystemExit(2)
