"""Signatures of `_target_`s: the names of their arguments, and the values that fit them."""

import collections.abc
import importlib
import inspect
import json
import pkgutil
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import PurePath
from typing import Any, Literal, Union, get_args, get_origin

from quartet.core.messages import closest_name, format_value, join_or, suggest_name
from quartet.core.problems import Problem, Problems


def check_arguments(
    key: str,
    target: Callable[..., Any],
    given: Iterable[str],
    *,
    positional: int = 0,
    reserved: Mapping[str, str] | None = None,
    partial: bool = False,
) -> Problems:
    """Yields the unknown and the missing arguments of `target`, which stands at a key.

    The caller passes the first `positional` arguments and the `reserved` ones, each with the place to
    set it instead; with `partial` also others, whose names are not known.
    """
    given, reserved = list(given), reserved or {}
    named, takes_all = parameters(target)
    free = [name for name in list(named)[positional:] if name not in reserved]
    title = getattr(target, "__name__", str(target))
    for name in given:
        if name in free or takes_all:
            continue
        if reserved.get(name):
            yield Problem(f"{key}.{name}", f"cannot be set here; {reserved[name]}.")
        else:
            way_out = suggest_name(name, free)
            yield Problem(f"{key}.{name}", f"{title} has no such argument; {way_out}")
    for name in free:
        required = named[name].default is inspect.Parameter.empty
        if required and name not in given and not partial:
            yield Problem(f"{key}.{name}", f"is missing, and {title} needs it.")


@lru_cache
def parameters(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """Parameters of `target` that have a name, and whether it accepts arguments of any other name."""
    try:
        every = inspect.signature(target).parameters.values()
    except (ValueError, TypeError):  # some built-ins have no signature
        return {}, True
    named = {p.name: p for p in every if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return named, any(p.kind is p.VAR_KEYWORD for p in every)


@lru_cache
def type_hints(target: Callable[..., Any]) -> dict[str, Any]:
    """The annotation of each parameter, Any without one.

    Of a class with ``**kwargs``, those of its base classes too, to which it may pass them on.
    """
    named, takes_all = parameters(target)
    found: dict[str, Any] = {}
    if takes_all and inspect.isclass(target):
        for base in reversed(inspect.getmro(target)[1:]):
            inherited = parameters(vars(base).get("__init__", object))[0]
            found |= {name: resolve_hint(p, base.__module__) for name, p in inherited.items()}
    found |= {name: resolve_hint(p, target.__module__) for name, p in named.items()}
    found.pop("self", None)
    return found


def resolve_hint(parameter: inspect.Parameter, module: str) -> Any:
    hint = parameter.annotation
    if hint is parameter.empty:
        return Any
    if isinstance(hint, str):
        # torch imports some names of its annotations for type checkers only.
        names = {**vars(typing), **vars(collections.abc), **vars(sys.modules[module])}
        try:
            hint = eval(hint, names)
        except Exception:
            return Any
    return hint | None if parameter.default is None else hint


def fits(value: Any, hint: Any) -> bool:
    """Whether a value from YAML can be meant by an annotation. In doubt, it can."""
    origin, inner = get_origin(hint), get_args(hint)
    if isinstance(value, Mapping) and "_target_" in value:  # becomes any object
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in inner)
    kind = origin or hint
    if kind in (None, types.NoneType):
        return value is None
    if not isinstance(kind, type) or kind in (Any, object) or getattr(kind, "_is_protocol", False):
        return True
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (bool, str, bytes):
        return isinstance(value, kind)
    if issubclass(kind, PurePath):
        return isinstance(value, str)
    if issubclass(kind, Mapping):
        values = value.values() if isinstance(value, Mapping) and inner else ()
        return isinstance(value, Mapping) and all(fits(each, inner[-1]) for each in values)
    if is_sequence(kind):
        return isinstance(value, list) and elements_fit(value, kind, inner)
    return isinstance(value, kind) or inspect.isabstract(kind)


def is_sequence(kind: type) -> bool:
    plain = kind.__module__ in ("builtins", "collections.abc")
    return plain and issubclass(kind, collections.abc.Iterable)


def elements_fit(values: Sequence[Any], kind: type, inner: Sequence[Any]) -> bool:
    if kind is tuple and inner and Ellipsis not in inner:
        pairs = zip(values, inner, strict=False)
        return len(values) == len(inner) and all(fits(value, one) for value, one in pairs)
    return not inner or all(fits(value, inner[0]) for value in values)


SINGULAR = {
    float: ["a number"],
    int: ["a whole number"],
    bool: ["true", "false"],
    str: ["text"],
    types.NoneType: ["null"],
}
PLURAL = {float: "numbers", int: "whole numbers", bool: "true and false", str: "text"}


def describe_hint(hint: Any) -> list[str]:
    """What fits an annotation, in words: the alternatives."""
    origin, inner = get_origin(hint), get_args(hint)
    kind = origin or hint
    if origin in (Union, types.UnionType):
        words = [word for one in inner for word in describe_hint(one)]
        if "a number" in words and "a whole number" in words:
            words.remove("a whole number")
        return list(dict.fromkeys(words))
    if origin is Literal:
        return [format_value(one) for one in inner]
    if kind in SINGULAR:
        return SINGULAR[kind]
    if not isinstance(kind, type):
        return [str(hint)]
    if issubclass(kind, PurePath):
        return ["text"]
    if issubclass(kind, Mapping):
        return [f"a mapping of names to {describe_elements(inner[-1:])}"]
    if is_sequence(kind):
        number = f"{len(inner)} " if kind is tuple and inner and Ellipsis not in inner else ""
        return [f"a list of {number}{describe_elements(inner[:1])}"]
    return []  # no YAML makes one


def describe_elements(inner: Sequence[Any]) -> str:
    kinds = [kind for hint in inner for kind in (hint, *get_args(hint))]
    return next((word for kind, word in PLURAL.items() if kind in kinds), "values")


def describe_mismatch(key: str, value: Any, hint: Any) -> Problem:
    """The problem of a value that does not fit an annotation."""
    words = describe_hint(hint)
    if isinstance(value, str) and (close := closest_name(value, words)):
        return Problem(key, f"did you mean {close}?", value)
    with suppress(ValueError):
        if isinstance(value, str) and fits(json.loads(value), hint):
            message = f"is text, and must be {join_or(words)}; leave out its quotes."
            return Problem(key, message, value)
    way_out = f", such as {format_value([value])}" if fits([value], hint) else ""
    if isinstance(value, int | float) and "text" in words:
        way_out = f"; quotes make it text: '{key}=\"{value}\"'"
    return Problem(key, f"must be {join_or(words) or 'left out'}{way_out}.", value)


def locate(path: str) -> Callable[..., Any]:
    """What a `_target_` names.

    Raises:
        ValueError: there is nothing of this name, or its module cannot be imported.
    """
    found: Any = None
    names = path.split(".")
    for count in range(1, len(names) + 1):
        prefix, owner = ".".join(names[:count]), found
        if count > 1 and hasattr(owner, names[count - 1]):
            found = getattr(owner, names[count - 1])
            continue
        try:
            found = importlib.import_module(prefix)
        except Exception as error:
            if not isinstance(error, ModuleNotFoundError) or not prefix.startswith(str(error.name)):
                raise ValueError(
                    f"{prefix} cannot be imported: {type(error).__name__}: {error}."
                ) from error
            if owner is None:
                raise ValueError(f"there is no package {prefix}; is it installed?") from error
            folders = getattr(owner, "__path__", ())
            inner = [*dir(owner), *(module.name for module in pkgutil.iter_modules(folders))]
            public = [name for name in inner if not name.startswith("_")]
            raise ValueError(
                f"{'.'.join(names[: count - 1])} has no {names[count - 1]}; "
                f"{suggest_name(names[count - 1], public)}"
            ) from error
    if not callable(found):
        raise ValueError(f"{path} is a {type(found).__name__}, and must be a class or a function.")
    return found  # type: ignore[no-any-return]
