"""What may know what: read off the import statements of every file."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import quartet

SOURCE = Path(quartet.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
PARTS = ("loss", "optimizer", "scheduler", "metrics", "model", "data")
# Those that speak with Hydra; all others take plain values.
HYDRA = (
    *("build", "build.fit", "build.groups", "build.keys", "build.parts", "build.steps"),
    *("after", "allow", "composing", "find", "foreign", "job", "launch.processes", "record"),
    *("report.text", "resume", "run"),
    *("search.space", "secret", "sweep.directory", "sweep.grid", "sweep.identity"),
)
STARTERS = (
    *("allow", "command", "job", "launch.processes", "record", "resume", "run", "secret", "slurm"),
    *("stop", "sweep.directory", "sweep.grid", "sweep.identity", "sweep.jobs", "sweep.live"),
)


DRAWING = [f"report.{name}" for name in ("canvas", "classes", "curves", "images", "values")]
HEAVY = ("torch", "lightning", "torchmetrics", "torchvision")


def name_of(file: Path) -> str:
    parts = file.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for file in FILES}


def imports(file: Path) -> Iterator[str]:
    """Full names of what is imported anywhere in a file, except for type checkers only."""
    stack: list[ast.AST] = [ast.parse(file.read_text())]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        stack += ast.iter_child_nodes(node)


def module_of(name: str) -> str | None:
    """The module of this package that a full name lies in."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or None


def own_imports(name: str) -> set[str]:
    found = {module_of(one) for one in imports(MODULES[name])}
    return {one for one in found if one and one not in (name, "quartet")}


@pytest.mark.parametrize("name", MODULES)
def test_the_configuration_stops_in_few_files(name: str) -> None:
    names = list(imports(MODULES[name]))
    package = {one.partition(".")[0] for one in names}
    short = name.removeprefix("quartet.")
    if short not in HYDRA:
        assert not package & {"hydra", "omegaconf"}
    makes = [one for one in names if one.startswith("hydra.utils")]
    calls = "instantiate(" in MODULES[name].read_text()
    assert not makes
    assert not calls or short == "build.parts"


def test_the_module_knows_no_part_it_plays() -> None:
    known = own_imports("quartet.module")
    assert not [one for one in known if one.split(".")[1] in (*PARTS, "task", "build", "check")]


@pytest.mark.parametrize("name", [one for one in MODULES if {*one.split(".")[1:2]} & {*PARTS}])
def test_parts_know_nothing_of_each_other_or_of_what_plays_them(name: str) -> None:
    others = {one.split(".")[1] for one in own_imports(name)} - {name.split(".")[1]}
    assert others <= {"schema", "lean"}


def test_imports_flow_one_way() -> None:
    order = TopologicalSorter({name: own_imports(name) for name in MODULES}).static_order()
    assert set(order) == set(MODULES)  # a cycle raises CycleError, which names it


@pytest.mark.parametrize(
    ("names", "heavy"),
    [(STARTERS, (*HEAVY, "numpy", "pandas", "sklearn", "matplotlib")), (DRAWING, HEAVY)],
    ids=["what starts before the handlers of signals", "what draws in a process of its own"],
)
def test_is_quick_to_import(names: Sequence[str], heavy: Sequence[str]) -> None:
    code = f"""
import importlib, sys
for name in {names}:
    importlib.import_module(f"quartet.{{name}}")
    print(name, sorted(sys.modules.keys() & {set(heavy)}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{name} []" for name in names]
