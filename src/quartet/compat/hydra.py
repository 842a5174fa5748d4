"""Hydra: private names."""

from argparse import ArgumentParser
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn


def job_error(returned: JobReturn) -> BaseException:
    """Returns the error of a failed job. The public `return_value` would print a line and raise it."""
    error: BaseException = returned._return_value
    return error


def format_value(value: Any) -> str:
    """Formats a value as an override. The public method needs a parsed override."""
    return Override._get_value_element_as_str(value)


def allow_lazy_help() -> None:
    """Skips a check of Python 3.14 that rejects the lazy help texts of Hydra 1.3."""
    ArgumentParser._check_help = lambda *_: None  # type: ignore[attr-defined]
