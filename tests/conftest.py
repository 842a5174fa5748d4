"""What holds for every test."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _environment_stays() -> Iterator[None]:
    """Lightning leaves LOCAL_RANK behind, which would make a later test a second process."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before:
        del os.environ[name]
    os.environ.update(before)
