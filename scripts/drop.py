"""What `python scripts/rename.py NAME --examples=drop` takes away: all examples but one of each kind.

Of the tests go those that name a dropped part, and the rest stays: a whole test, one case of it, or
one entry of a table.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

LEFT = {"data": "digits", "model": "mlp", "experiment": "optimizers"}
# These measure the examples.
SCRIPTS = ("scripts/benchmark.py", "scripts/defaults.py")
# Names of dropped options that mean nothing else, within a text and alone.
WITHIN = ("breast_cancer", "wine", "diabetes", "fashion_mnist", "mnist", "cifar10", "image_folder")
ALONE = ("cnn", "torchvision")


def drop(root: Path) -> None:
    """Removes the options of conf/, the code that only they name, and the tests of both."""
    names: dict[str, list[str]] = {}
    targets: set[str] = set()
    for group, left in LEFT.items():
        for path in sorted((root / "conf" / group).glob("*.yaml")):
            if path.stem != left:
                names.setdefault(group, []).append(path.stem)
                targets.update(re.findall(r"^_target_: (\S+)", path.read_text(), re.MULTILINE))
                path.unlink()
    for path in (root / "conf/data/task").glob("*.yaml"):
        path.unlink()
    (root / "conf/data/task").rmdir()
    kept = "\n".join(path.read_text() for path in (root / "conf").rglob("*.yaml"))
    modules = {target.rpartition(".")[0] for target in targets}
    needed = imported(root / "src")
    gone = {module for module in modules if f" {module}." not in kept} - needed
    for module in gone:
        (root / "src" / f"{module.replace('.', '/')}.py").unlink()
    for module in modules - gone - needed:
        functions = {target.rpartition(".")[2] for target in targets if module in target}
        without(root / "src" / f"{module.replace('.', '/')}.py", functions)
    for script in SCRIPTS:
        (root / script).unlink(missing_ok=True)
    told = [rf"\b{group}=({'|'.join(options)})\b" for group, options in names.items()]
    told += [r"\bdata/task\b", *(rf"{re.escape(module)}\b" for module in gone)]
    told += [rf"\A{module.partition('.')[2].replace('.', '/')}\.py" for module in gone]
    told += [rf"\b({'|'.join(WITHIN)})\b", rf"\A({'|'.join(ALONE)})\Z"]
    dropped = re.compile("|".join(told))
    files = sorted((root / "tests").glob("test_*.py"))
    dead: dict[str, set[str]] = {}
    # What takes from another file of tests comes after it.
    for path in sorted(files, key=lambda path: "\nfrom test_" in path.read_text()):
        dead[path.stem] = prune(path, dropped, names, dead)
    readme = root / "README.md"
    readme.write_text(shorter(readme.read_text(), names, dropped))


def imported(source: Path) -> set[str]:
    """Modules that files below `source` import by name."""
    nodes = (
        node for path in source.rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))
    )
    found = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    return {f"{node.module}.{alias.name}" for node in found for alias in node.names} | {
        str(node.module) for node in found
    }


def without(path: Path, functions: set[str]) -> None:
    """A module without some of its functions, and without the private ones that only they call."""
    text = path.read_text()
    body = ast.parse(text).body
    cut = [node for node in body if getattr(node, "name", None) in functions]
    left = [node for node in body if node not in cut]
    cut += [
        node
        for node in left
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("_")
        and not any(node.name in used(other) for other in left if other is not node)
    ]
    path.write_text(cut_out(text, [span(text, node) for node in cut]))


def prune(
    path: Path,
    dropped: re.Pattern[str],
    names: dict[str, list[str]],
    elsewhere: dict[str, set[str]],
) -> set[str]:
    """Takes out of a file of tests what needs a dropped part; without a test left, the file.

    Args:
        path: Of the file.
        dropped: Finds what a text says of a dropped part.
        names: Of the dropped options, by group.
        elsewhere: The names that other files lost.

    Returns:
        The names that this one lost.
    """
    text = path.read_text()
    left = ast.parse(text).body
    dead: set[str] = set()
    cuts: list[tuple[int, int]] = []
    for node in left:
        if isinstance(node, ast.ImportFrom) and (lost := elsewhere.get(str(node.module))):
            gone = [alias for alias in node.names if alias.name in lost]
            dead |= {alias.name for alias in gone}
            if len(gone) == len(node.names):
                left = [other for other in left if other is not node]
                cuts.append(span(text, node))
            else:
                cuts += [element(text, alias, alias) for alias in gone]
    while True:
        found = False
        for node in list(left):
            spans = needs(text, node, dropped, names, dead)
            if spans is None:
                found, left = True, [other for other in left if other is not node]
                cuts.append(span(text, node))
                dead |= names_of(node)
            elif new := [each for each in spans if each not in cuts]:
                cuts += new
        if not found:
            break
    if any(getattr(node, "name", "").startswith("test_") for node in left):
        path.write_text(cut_out(text, cuts))
        return dead
    path.unlink()
    return dead.union(*map(names_of, left))


def needs(
    text: str,
    node: ast.stmt,
    dropped: re.Pattern[str],
    names: dict[str, list[str]],
    dead: set[str],
) -> list[tuple[int, int]] | None:
    """Spans to cut out of a statement; None if it must go as a whole."""

    def hit(inner: ast.AST) -> bool:
        return any(tells(one, dropped, dead) for one in ast.walk(inner))

    if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
        keys = zip(node.value.keys, node.value.values, strict=True)
        pairs = [(key, value) for key, value in keys if hit(value) or (key and hit(key))]
        if 0 < len(pairs) < len(node.value.keys) and all(key for key, _ in pairs):
            return [element(text, key, value) for key, value in pairs if key]
        return None if pairs else []
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
        return None if hit(node) else []
    spans = []
    for decorator in node.decorator_list:
        cases = list(cases_of(decorator))
        values = {getattr(case, "value", None) for case in cases}
        others = {name for group in names if LEFT[group] in values for name in names[group]}
        wrong = [case for case in cases if hit(case) or getattr(case, "value", None) in others]
        if wrong and len(wrong) == len(cases):
            return None
        spans += [element(text, case, case) for case in wrong]
        if not cases and hit(decorator):
            return None
    inner = [*node.body, getattr(node, "args", ast.Pass())]
    return None if any(hit(one) for one in inner) else spans


def cases_of(decorator: ast.expr) -> Iterator[ast.expr]:
    """The cases of a `pytest.mark.parametrize`, where they stand in it one by one."""
    if isinstance(decorator, ast.Call) and "parametrize" in ast.unparse(decorator.func):
        values = decorator.args[1]
        if isinstance(values, ast.List | ast.Tuple):
            yield from values.elts


def tells(node: ast.AST, dropped: re.Pattern[str], dead: set[str]) -> bool:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return bool(dropped.search(node.value))
    if isinstance(node, ast.ImportFrom):
        return bool(dropped.search(str(node.module)))
    name = getattr(node, "id", None) or getattr(node, "arg", None)
    return name in dead


def names_of(node: ast.stmt) -> set[str]:
    """What a statement at the top of a file defines."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    return {
        one.id
        for one in ast.walk(node)
        if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)
    }


def used(node: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def place(text: str, line: int | None, column: int | None) -> int:
    """Where a place that ast counts in lines and bytes lies in a text."""
    lines = text.splitlines(keepends=True)
    assert line is not None
    return sum(map(len, lines[: line - 1])) + len(lines[line - 1].encode()[:column].decode())


def element(text: str, first: ast.expr | ast.alias, last: ast.expr | ast.alias) -> tuple[int, int]:
    """Of a list or dictionary, with its comma."""
    stop = place(text, last.end_lineno, last.end_col_offset)
    comma = re.match(r"\s*,", text[stop:])
    return place(text, first.lineno, first.col_offset), stop + (comma.end() if comma else 0)


def span(text: str, node: ast.stmt) -> tuple[int, int]:
    """Whole lines of a statement, its decorators included."""
    first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", ()))])
    return place(text, first, 0), place(text, node.end_lineno, None)


def cut_out(text: str, spans: list[tuple[int, int]]) -> str:
    for start, stop in sorted(set(spans), reverse=True):
        text = text[:start] + text[stop:]
    return text


def shorter(readme: str, names: dict[str, list[str]], dropped: re.Pattern[str]) -> str:
    """The README without the lines that name what is gone, and with its tables shortened."""
    readme = re.sub(r"\*\*Fast\*\*.*?(?=^## )", "", readme, flags=re.DOTALL | re.MULTILINE)
    readme = re.sub(
        r"^    \$ (.*)\n((?:    (?!\$).+\n)+)",
        lambda quote: "" if dropped.search(quote[1]) else quote[0],
        readme,
        flags=re.MULTILINE,
    )
    every = re.compile(rf"`({'|'.join(name for each in names.values() for name in each)})`")
    scripts = re.compile("|".join(map(re.escape, SCRIPTS)))
    lines = []
    for line in readme.splitlines(keepends=True):
        if row := re.match(r"\| `(\w+)` \|", line):
            left = LEFT.get(row[1])
            line = f"| `{row[1]}` | `{left}` |\n" if left else line
        elif line.startswith("    scripts/"):
            for script in SCRIPTS:
                line = line.replace(f"{Path(script).name}, ", "")
        elif dropped.search(line) or scripts.search(line) or every.search(line):
            continue
        lines.append(line)
    return "".join(lines)
