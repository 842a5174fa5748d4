"""The house: a README that says what is there, files that say what they are, nothing too long."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import quartet

ROOT = Path(__file__).parents[1]
SOURCE = Path(quartet.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
PYTHON = sorted(
    path for folder in ("src", "tests", "scripts") for path in (ROOT / folder).rglob("*.py")
)
PYTHON += sorted(ROOT.glob("*.py"))
TOP = {
    *("README.md", "LICENSE", "pyproject.toml", "conf", "src", "tests", "scripts"),
    *("train.py", "evaluate.py", "predict.py"),
    *(".ci", ".github", ".gitignore", ".pre-commit-config.yaml"),
}
# Lines that a file of src may have, docstrings left out, and why some have more.
LINES = 250
LONG: dict[str, tuple[int, str]] = {
    "data/csv.py": (262, "reading, and refusing what cannot be read"),
    "checkpoint.py": (260, "what checkpoints hold: saving and going on mirror each other"),
}
# The same for functions.
FUNCTION_LINES = 40
LONG_FUNCTIONS: dict[str, tuple[int, str]] = {
    "build/__init__.py:build": (95, "the order in which faults are looked for, group by group"),
    "check/settings.py:device": (42, "a refusal for each way in which devices can be absent"),
    "data/ranking.py:_read": (50, "a refusal for each way in which the file can be wrong"),
    "data/split.py:split": (46, "straight"),
    "inputs.py:rows": (50, "straight"),
    "job.py:attempt": (75, "the exit status of each way in which a run can end"),
    "run.py:play": (86, "a run from start to end, straight"),
}


def tree() -> list[tuple[list[str], str]]:
    """The README's tree: the names of each line, below src/quartet without it, and its caption."""
    readme = (ROOT / "README.md").read_text()
    block = readme.partition("## The house\n")[2].partition("\n## ")[0]
    found = []
    for line in re.findall(r"^    (\S.*|  \S.*)$", block, re.MULTILINE):
        names, _, caption = re.sub(r"^  ", "@", line).partition("  ")
        inner = names.startswith("@")
        paths = [
            f"src/{SOURCE.name}/{name}" if inner else name for name in names.strip("@").split()
        ]
        found.append((paths, caption.strip()))
    return found


def test_tree_is_captioned_and_names_what_is_there_alone() -> None:
    for paths, caption in tree():
        assert caption or paths == [f"src/{SOURCE.name}/"], f"{paths} has no caption"
        for path in paths:
            there = ROOT / path
            assert there.is_dir() if path.endswith("/") else there.is_file(), f"{path} is not there"


def test_every_file_and_package_of_the_source_is_in_the_tree() -> None:
    named = {path for paths, _ in tree() for path in paths}
    there = {
        f"src/{SOURCE.name}/{path.name}{'/' if path.is_dir() else ''}"
        for path in SOURCE.iterdir()
        if path.name not in ("__init__.py", "__pycache__")
    }
    assert there <= named, there - named
    assert {"conf/", "tests/", "scripts/", *(path.name for path in ROOT.glob("*.py"))} <= named


def test_tree_captions_every_script() -> None:
    (caption,) = (caption for paths, caption in tree() if paths == ["scripts/"])
    assert set(re.findall(r"\w+\.py", caption)) == {p.name for p in (ROOT / "scripts").glob("*.py")}


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_first_line_says_what_it_is(path: Path) -> None:
    first = path.read_text().partition("\n")[0]
    assert first.startswith('"""')
    assert len(first.split()) >= 3


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_file_is_long_without_a_reason(path: Path) -> None:
    name = path.relative_to(SOURCE).as_posix()
    most, _ = LONG.get(name, (LINES, ""))
    text = path.read_text()
    lines = len(text.splitlines()) - sum(map(docstring_lines, ast.walk(ast.parse(text))))
    assert lines <= most
    assert name not in LONG or lines > LINES, "it is short by now; take it off the list"


def docstring_lines(node: ast.AST) -> int:
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return 0
    if ast.get_docstring(node) is None:
        return 0
    assert node.body[0].end_lineno is not None
    return node.body[0].end_lineno - node.body[0].lineno + 1


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Every function of a file with the number of its lines, its docstring left out."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.body[0].lineno + 1 - docstring_lines(node)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_function_is_long_without_a_reason(path: Path) -> None:
    for function, lines in functions(path):
        name = f"{path.relative_to(SOURCE).as_posix()}:{function}"
        most, _ = LONG_FUNCTIONS.get(name, (FUNCTION_LINES, ""))
        assert lines <= most, name
        assert name not in LONG_FUNCTIONS or lines > FUNCTION_LINES, f"{name} is short by now"


def test_lists_of_the_long_name_what_is_there() -> None:
    assert LONG.keys() <= {path.relative_to(SOURCE).as_posix() for path in FILES}
    every = {
        f"{p.relative_to(SOURCE).as_posix()}:{name}" for p in FILES for name, _ in functions(p)
    }
    assert LONG_FUNCTIONS.keys() <= every


def test_top_level_holds_nothing_else() -> None:
    ignored = {line.strip("/\n") for line in (ROOT / ".gitignore").read_text().splitlines()}
    there = {path.name for path in ROOT.iterdir()} - {".git"}
    assert {name for name in there if name not in ignored} <= TOP
