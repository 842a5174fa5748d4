"""The structure: which room may import which, what stays out of the engine, budgets of lines."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from made import PROJECT

import quartet

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
# Each room may import those before it, never the other way round.
ORDER = (
    *("compat", "core", "records", "data", "parts", "checkpoints", "training"),
    *("config", "validation", "build", "reports", "run", "inference", "sweeps", "cli"),
)
# Lines of Python as `wc -l` counts them; see .github/CONTRIBUTING.md. Lowered by each deletion.
BUDGETS = {
    "src/project": 1_300,
    # 2,900 of them for what the engine does not know: tasks, batches, streams, modules, optimizers.
    # 700 read plain tables quickly, notice data that has changed, and answer slips of the command line.
    # 250 keep figures right: means over all of a part, changed files of a sweep, moved data, memory.
    # 120 copy metrics quickly, fit columns in threads, and say more ways out.
    "src/quartet": 20_314,
    "tests": 19_993,  # the forks in tests/project/examples apart
    "scripts": 817,  # 80 of them measure a GPU, files and the ends of epochs
}
FILES = 80  # in src/quartet
TOP = {
    *("README.md", "LICENSE", "pyproject.toml", "conf", "src", "tests", "scripts"),
    *("train.py", "evaluate.py", "predict.py"),
    *(".ci", ".github", ".gitignore", ".pre-commit-config.yaml"),
}
# Of named tuples, of Python's os, and the key of a configuration.
PUBLIC = ("_replace", "_asdict", "_fields", "_exit", "_target_")
HEAVY = ("torch", "lightning", "torchmetrics", "torchvision", "numpy", "pandas", "sklearn")
# What is imported before torch, so that a signal finds its handler.
QUICK = ("core.processes", "cli", "sweeps.directory", "sweeps.grid", "run")
# Debts: they may only become fewer.
HYDRA_OUTSIDE: set[str] = set()
UPWARDS: set[tuple[str, str]] = set()
PRIVATE_OUTSIDE: set[str] = set()


def module_name(file: Path) -> str:
    parts = file.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in sorted(SOURCE.rglob("*.py"))}
ENGINE = [name for name in MODULES if name.startswith("quartet.")]
PROJECT_MODULES = [name for name in MODULES if name.partition(".")[0] == PROJECT]
# A fork may have any number of lines, and files of its own beside ours.
template_only = pytest.mark.skipif(PROJECT != "project", reason="this is a fork")


def imports(name: str) -> Iterator[str]:
    """Full names of what a module imports anywhere, except for type checkers only."""
    stack: list[ast.AST] = [ast.parse(MODULES[name].read_text())]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        stack += ast.iter_child_nodes(node)


def own_imports(name: str) -> set[str]:
    """The modules of this repository that a module imports."""
    found = set()
    for full in imports(name):
        while full and full not in MODULES:
            full = full.rpartition(".")[0]
        found.add(full)
    return found - {"", name, "quartet"}


def room(name: str) -> str:
    return name.split(".")[1]


def test_rooms_import_one_way() -> None:
    wrong = {
        (name, other)
        for name in ENGINE
        for other in own_imports(name)
        if other.startswith("quartet.") and ORDER.index(room(other)) > ORDER.index(room(name))
    }
    assert wrong == UPWARDS


def test_no_module_imports_itself_through_others() -> None:
    order = TopologicalSorter({name: own_imports(name) for name in MODULES}).static_order()
    assert set(order) == set(MODULES)  # a cycle raises CycleError, which names it


def test_engine_never_imports_the_project() -> None:
    assert not [n for n in ENGINE for other in own_imports(n) if other.partition(".")[0] == PROJECT]


@pytest.mark.parametrize("name", PROJECT_MODULES)
def test_project_imports_public_names_alone(name: str) -> None:
    for full in imports(name):
        top, _, rest = full.partition(".")
        if top == "quartet":
            assert rest in ("", *quartet.__all__), f"{full} is no public name"


def test_public_names_are_there() -> None:
    assert all(getattr(quartet, name) is not None for name in quartet.__all__)
    with pytest.raises(AttributeError, match="quartet has no public name splitt; it has"):
        _ = quartet.splitt


def test_configuration_stops_at_the_door() -> None:
    doors = ("compat", "config", "cli", "sweeps")
    knowing = {
        name
        for name in ENGINE
        if {full.partition(".")[0] for full in imports(name)} & {"hydra", "omegaconf"}
    }
    assert {name for name in knowing if room(name) not in doors} == HYDRA_OUTSIDE


def strings(file: Path) -> set[str]:
    """The string literals of a module, docstrings apart (which are whole statements)."""
    tree = ast.parse(file.read_text())
    statements = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = {node for node in ast.walk(tree) if isinstance(node, ast.Constant)} - statements
    return {node.value for node in constants if isinstance(node.value, str)}


def test_only_the_task_classes_name_the_kinds_of_task() -> None:
    kinds = {"multiclass", "binary", "multilabel", "regression", "ranking"}
    naming = {name for name in ENGINE if kinds & strings(MODULES[name])}
    assert naming == {"quartet.data.task"}


@cache
def own_attributes() -> set[str]:
    """Names of all functions, classes and attributes that this repository defines."""
    return {
        node.attr if isinstance(node, ast.Attribute) else node.name
        for file in MODULES.values()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        or (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
    }


def private_names(name: str) -> Iterator[str]:
    """Private names of other libraries that a module imports or reaches into."""
    for full in imports(name):
        parts = full.split(".")
        if parts[0] not in ("quartet", PROJECT) and any(
            part.startswith("_") and not part.startswith("__") for part in parts
        ):
            yield full
    own = own_attributes()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            mine = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            known = node.attr in own and mine
            public = node.attr.startswith("__") or node.attr in PUBLIC
            if not known and not public:
                yield node.attr


def test_private_names_of_other_libraries_stay_in_compat() -> None:
    touching = {name for name in ENGINE if room(name) != "compat" and list(private_names(name))}
    assert touching == PRIVATE_OUTSIDE


@template_only
@pytest.mark.parametrize("folder", BUDGETS)
def test_budget_of_lines_holds(folder: str) -> None:
    folders = [folder, "src/hydra_plugins"] if folder == "src/quartet" else [folder]
    files = [file for each in folders for file in (ROOT / each).rglob("*.py")]
    # Examples are what forks write; the tests of them count.
    files = [file for file in files if not file.is_relative_to(ROOT / "tests/project/examples")]
    lines = sum(len(file.read_text().splitlines()) for file in files)
    assert lines <= BUDGETS[folder]


def test_engine_has_few_files() -> None:
    assert len(list((SOURCE / "quartet").rglob("*.py"))) <= FILES


@template_only
def test_top_level_holds_nothing_else() -> None:
    ignored = {line.strip("/\n") for line in (ROOT / ".gitignore").read_text().splitlines()}
    there = {path.name for path in ROOT.iterdir()} - {".git"}
    assert {name for name in there if name not in ignored} <= TOP


@pytest.mark.parametrize(
    "path",
    [
        path
        for folder in ("src", "tests", "scripts")
        for path in sorted((ROOT / folder).rglob("*.py"))
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_first_line_says_what_it_is(path: Path) -> None:
    first = path.read_text().partition("\n")[0]
    assert first.startswith('"""')
    assert len(first.split()) >= 3
    assert len(first) <= 103


@pytest.mark.parametrize("names", [QUICK], ids=["before the signal handlers"])
def test_is_quick_to_import(names: Sequence[str]) -> None:
    code = f"""
import importlib, sys
for name in {names}:
    importlib.import_module(f"quartet.{{name}}")
    print(name, sorted(sys.modules.keys() & {set(HEAVY)}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{name} []" for name in names]


def test_git_keeps_packages_that_a_usual_gitignore_leaves_out(tmp_path: Path) -> None:
    names = ["build", "data", "dist", "lib", "parts", "downloads", "env", "outputs", "var", "wandb"]
    (tmp_path / ".gitignore").write_text("".join(f"{name}/\n" for name in names) + "*.py[cod]\n")
    for top in ("conf", "src", "tests"):
        (tmp_path / top).mkdir()
        (tmp_path / top / ".gitignore").write_text((ROOT / top / ".gitignore").read_text())
    kept = [f"{top}/a/{name}/x.py" for top in ("conf", "src", "tests") for name in names]
    dropped = ["data/x.py", "src/a/__pycache__/x.pyc", "src/a.egg-info/x", "src/a/__pycache__/x"]
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    command = ["git", "check-ignore", "--no-index", *kept, *dropped]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert sorted(done.stdout.split()) == sorted(dropped)
