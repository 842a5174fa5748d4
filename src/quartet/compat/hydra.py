"""Hydra: private names."""

from argparse import ArgumentParser
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn


def job_error(returned: JobReturn) -> BaseException:
    """What ended a job that failed. The public `return_value` would print a line and raise it."""
    error: BaseException = returned._return_value
    return error


def format_value(value: Any) -> str:
    """A value as an override on the command line. The public method takes a parsed override alone."""
    return Override._get_value_element_as_str(value)


def allow_lazy_help() -> None:
    """Lets Hydra 1.3 read a command line on Python 3.14.

    That checks the help of each flag when it is added, and one of Hydra's is no text until shown.
    """
    ArgumentParser._check_help = lambda *_: None  # type: ignore[attr-defined]
