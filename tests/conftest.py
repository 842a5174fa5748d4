"""What holds for every test."""

import os
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core for each of pytest's processes

import processes
import pytest
from hydra.core.hydra_config import HydraConfig


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    """A test that fails leaves its processes behind.

    Lightning leaves LOCAL_RANK behind, which would make a later test a second process.

    Hydra leaves the config of a sweep's last job behind.
    """
    before = dict(os.environ)
    yield
    processes.end_all()
    HydraConfig.instance().cfg = None
    for name in os.environ.keys() - before:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="module")
def no_pictures() -> Iterator[None]:
    """Training draws none, which would take longer than it; they have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("quartet.reports.picture.of_training", lambda run, seen: [])
        yield
