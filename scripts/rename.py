"""Makes a fresh fork yours: python scripts/rename.py NAME [--examples=drop].

src/project becomes src/NAME. The engine, src/quartet, keeps its name; update.py brings later versions.
"""

import argparse
import importlib.util
import keyword
import re
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import yaml

ROOT = Path(__file__).parents[1]
OLD = "project"
# The options that --examples=drop removes.
EXAMPLES = {
    "data": "breast_cancer cifar10 diabetes fashion_mnist linear mnist ranking wine",
    "model": "cnn linear",
    "experiment": "batch_sizes fashion_mnist_mlp imbalanced_focal linear_regression ranking schedulers",
}
# What names the package: its own files, conf/ and the documents that show how to extend it.
NAMING = ("src/project", "tests/project", "conf/*.yaml", "README.md", ".github/EXTENDING.md")
NAMED = re.compile(r"\bproject(?=\.[A-Za-z_])|(?<=src/)project\b|(?<=tests/)project\b")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="of the package: letters, digits and underscores")
    parser.add_argument("--examples", choices=["keep", "drop"], default="keep")
    options = parser.parse_args()
    if reason := problem(options.name):
        leave(f"{options.name}: {reason}")
    if options.examples == "drop":
        drop_examples()
    rename(options.name)
    print(
        f"This is {options.name} now. Look at it, install it, test it, keep it:\n"
        '  git status && python -m pip install -e ".[dev]"\n'
        "  python scripts/schema.py && ruff check --fix . && ruff format .\n"
        f"  python -m pytest tests/{options.name}\n"
        f'  git add -A && git commit -m "Become {options.name}"'
    )


def problem(name: str) -> str | None:
    """Why this fork cannot have the name; None if it can."""
    if not (ROOT / "src" / OLD).is_dir():
        return f"there is no src/{OLD}; this fork was renamed before, and that is done once."
    if not re.fullmatch(r"[A-Za-z]([A-Za-z0-9_]*[A-Za-z0-9])?", name):
        return (
            "a package's name has letters, digits and underscores, begins with a letter and does "
            "not end in an underscore; such as my_project."
        )
    tracked = git("ls-files")
    if tracked is None:
        return "needs git, to know which files are yours: git init && git add -A && git commit."
    taken = {part.lower() for path in tracked for part in (*Path(path).parts, Path(path).stem)}
    reserved = keyword.iskeyword(name) or keyword.issoftkeyword(name)
    if reserved or name in sys.stdlib_module_names or importlib.util.find_spec(name):
        return f"is a word of Python or an installed module; choose another, such as my_{name}."
    if name.lower() in taken:
        return f"is the name of a file or folder here; choose another, such as my_{name}."
    return uncommitted()


def uncommitted() -> str | None:
    """The problem of uncommitted changes; None if `git reset --hard` can undo everything."""
    changes = git("status", "--porcelain") or []
    if not changes:
        return None
    more = f" and {len(changes) - 5} more" if len(changes) > 5 else ""
    return (
        f"there are changes that are not committed ({', '.join(changes[:5])}{more}); commit "
        "or stash them, so that git can undo this."
    )


def drop_examples() -> None:
    """Removes the example options, and their modules and tests that nothing else names."""
    modules, dropped = set(), []
    for group, names in EXAMPLES.items():
        for name in names.split():
            path = ROOT / f"conf/{group}/{name}.yaml"
            if path.exists():
                target = yaml.safe_load(path.read_text()).get("_target_", "")
                modules |= {target.rpartition(".")[0]} if target.startswith(f"{OLD}.") else set()
                dropped.append(f"{group}={name}")
                path.unlink()
    files = {path: path.read_text() for path in ROOT.glob("conf/**/*.yaml")}
    files |= {path: path.read_text() for path in (ROOT / "src" / OLD).rglob("*.py")}
    for module in sorted(modules):
        own = ROOT / "src" / f"{module.replace('.', '/')}.py"
        if not any(module in text for path, text in files.items() if path != own):
            own.unlink(missing_ok=True)
            (ROOT / f"tests/{OLD}/test_{own.stem}.py").unlink(missing_ok=True)
            dropped.append(str(own.relative_to(ROOT)))
    print(f"Dropped: {', '.join(dropped)}.")


def rename(name: str) -> None:
    """Writes the name wherever the package is named, and moves the two folders that carry it."""
    for path in map(ROOT.joinpath, git("ls-files", "--", *NAMING) or ()):
        if path.is_file() and (changed := NAMED.sub(name, text := path.read_text())) != text:
            path.write_text(changed)
    readme, settings = ROOT / "README.md", ROOT / "pyproject.toml"
    readme.write_text(readme.read_text().replace("# Quartet\n", f"# {name}\n", 1))
    # The distribution, and its extras, which name each other.
    settings.write_text(re.sub(r'"quartet(?=["\[])', f'"{name}', settings.read_text()))
    for folder in ("src", "tests"):
        (ROOT / folder / OLD).rename(ROOT / folder / name)


def leave(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(2)


def git(*arguments: str) -> list[str] | None:
    """The lines that a git command prints; None if it fails."""
    done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True)
    return done.stdout.splitlines() if done.returncode == 0 else None


if __name__ == "__main__":
    main()
