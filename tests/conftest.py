"""What holds for every test."""

import functools
import gc
import logging
import os
import re
import runpy
import signal
import sys
import zlib
from collections.abc import Generator, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core for each of pytest's processes

import processes
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from quartet.core.files import PROJECTS


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", metavar="K/N", help="run the K-th of N parts of the tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps a part of the tests. The name of a test decides, and so each is in exactly one part."""
    if part := config.getoption("--part"):
        number, count = map(int, part.split("/"))
        others = [i for i in items if zlib.crc32(i.nodeid.encode()) % count != number % count]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]


def pytest_collection_finish() -> None:
    """What is imported by now stays: the collector of garbage need not look through it again."""
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, Any]:
    """In a fork, a test of the engine that needs a dropped example is skipped."""
    report = yield
    shown = "\n".join([str(report.longrepr), *(text for _, text in report.sections)])
    dropped = re.search(r"((?:data|model|experiment)=\w+): there is no such option", shown)
    if report.failed and dropped and "project" not in PROJECTS:
        report.outcome = "skipped"
        report.longrepr = (str(item.path), item.location[1], f"needs the example {dropped[1]}")
    return report


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


@pytest.fixture(scope="session", autouse=True)
def _no_flush() -> Iterator[None]:
    """Files are not flushed to disk, which takes longer than a training; test_storage tests that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_pictures() -> Iterator[Any]:
    """Training draws none, which would take longer than it; `pictures` are in tests of their own."""
    from quartet.reports import run
    from quartet.sweeps import directory

    with pytest.MonkeyPatch.context() as patch:
        drawing = {run: "save", directory: "draw_winner"}
        kept = {module: getattr(module, name) for module, name in drawing.items()}
        for module, name in drawing.items():
            patch.setattr(module, name, lambda *arguments: [])
        yield lambda patch: [patch.setattr(k, drawing[k], value) for k, value in kept.items()]


@pytest.fixture
def pictures(no_pictures: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run draws its pictures, as it does outside of tests."""
    no_pictures(monkeypatch)


@pytest.fixture
def quiet() -> None:
    """Lightning says nothing of itself."""
    from quartet.compat import quieten

    quieten()


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[processes.Cli]:
    """Runs a command in this process and in `tmp_path`. Gives its exit status."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.chdir(tmp_path)

    def run(script: str, *arguments: str) -> int:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [str(processes.ROOT / script), *arguments])
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        return 0

    yield processes.Cli(run, capsys)
    root = logging.getLogger()
    for handler in list(root.handlers):
        if str(tmp_path) in getattr(handler, "baseFilename", ""):  # its directory may be gone
            root.removeHandler(handler)
            handler.close()
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def train_py(command: processes.Cli, monkeypatch: pytest.MonkeyPatch) -> processes.Cli:
    """``python train.py`` in this process, without reports."""
    monkeypatch.setattr("quartet.sweeps.directory.write_report", lambda directory: None)
    return command.with_words("train.py")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address at which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *words: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
