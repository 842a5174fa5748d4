"""Hydra: private names."""

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
