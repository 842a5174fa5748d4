"""Small forks: the files of an example laid over the template, in this process or as a folder.

An example is what the owner of a fork would write, in ``tests/project/examples/NAME``: ``project/``
holds modules of the package, ``conf/`` options. Within the block everything sees them, as in a fork:

    with installed("segmentation", tmp_path):
        result = train(composed(["data=shapes", "model=unet"]), tmp_path / "run")

`made.composed`, `quartet.compose` and the commands in this process (the fixture `train_py`) compose
the example's options; ``project.NAME`` is imported from its folder, and forgotten at the end.
`write_fork` makes a folder of the same for commands in processes of their own.
"""

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import made

from quartet.config import allow
from quartet.core import files
from quartet.data.task import OWN_TASKS

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "tests" / made.PROJECT / "examples"


@contextmanager
def installed(name: str, folder: Path) -> Iterator[Path]:
    """Lays an example over the template until the end of the block.

    Args:
        name: Of the example.
        folder: Gets the merged conf/.

    Yields:
        The folder of the example.
    """
    example, template = EXAMPLES / name, files.CONF
    merged = merge_conf(example, folder / "conf")
    paths = [*extend_packages(example / "project")]
    replace_conf(template, merged)
    clear_caches()
    try:
        yield example
    finally:
        replace_conf(merged, template)  # also of modules that were imported meanwhile
        for package, path in paths:
            package.__path__.remove(path)
        forget_modules(example)
        clear_caches()


def merge_conf(example: Path, to: Path) -> Path:
    """Copies conf/, and the options of an example over it."""
    shutil.copytree(files.CONF, to, ignore=shutil.ignore_patterns(".schema"))
    shutil.copytree(example / "conf", to, dirs_exist_ok=True)
    return to


def extend_packages(folder: Path) -> Iterator[tuple[ModuleType, str]]:
    """Adds an example's modules to the package of the project and to those within it."""
    for path in sorted({file.parent for file in folder.rglob("*.py")}):
        name = ".".join([made.PROJECT, *path.relative_to(folder).parts])
        package = importlib.import_module(name)
        package.__path__.append(str(path))
        yield package, str(path)


def replace_conf(old: Path, new: Path) -> None:
    """Replaces the path of conf/ wherever a module holds it."""
    for module in list(sys.modules.values()):
        if getattr(module, "__dict__", {}).get("CONF") == old:
            module.CONF = new


def forget_modules(example: Path) -> None:
    """Removes the modules of an example, and the tasks that they define."""
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").is_relative_to(example):
            parent, _, child = name.rpartition(".")
            delattr(sys.modules[parent], child)
            del sys.modules[name]
            for task in [task for task in OWN_TASKS if task.startswith(f"{name}.")]:
                del OWN_TASKS[task]


def clear_caches() -> None:
    importlib.invalidate_caches()
    made._base.cache_clear()
    allow.extra_families.cache_clear()


def write_fork(name: str, folder: Path) -> Path:
    """Makes a fork with an example: a folder in which ``python train.py`` runs."""
    place = folder / "fork"
    merge_conf(EXAMPLES / name, place / "conf")
    shutil.copytree(ROOT / "src" / made.PROJECT, place / "src" / made.PROJECT)
    shutil.copytree(EXAMPLES / name / "project", place / "src" / made.PROJECT, dirs_exist_ok=True)
    for engine in ("quartet", "hydra_plugins"):
        (place / "src" / engine).symlink_to(ROOT / "src" / engine)
    shutil.copy(ROOT / "train.py", place)
    return place


def start(fork: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    """Starts ``python train.py`` in a fork that `write_fork` made; its output goes to ``log``."""
    with (fork / "log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "train.py", *arguments],
            cwd=fork,
            env=os.environ | {"PYTHONPATH": str(fork / "src"), "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
