"""Make a fresh fork yours: python scripts/rename.py my_project [--examples=drop]."""

import argparse
import importlib.util
import keyword
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
OLD = "quartet"
# The noun in a sentence, and the label in checkpoints, which stay readable.
WORD = re.compile(rf'(?<!the )(?<!b")\b{OLD}(?=\b|_)', re.IGNORECASE)
# The notice that the licence asks to keep, the template's history, and this script: run again on a
# later version of the template, it gives what can be merged into the fork.
KEPT = ("LICENSE", ".github/CHANGELOG.md", "scripts/rename.py")
OWN_TEST = "tests/test_rename.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="of the package: letters, digits and underscores")
    parser.add_argument(
        "--examples",
        choices=["keep", "drop"],
        default="keep",
        help="drop: leave one data set, one model and one experiment",
    )
    options = parser.parse_args()
    if reason := refusal(options.name):
        print(f"{options.name}: {reason}", file=sys.stderr)
        raise SystemExit(2)
    (ROOT / OWN_TEST).unlink(missing_ok=True)
    if options.examples == "drop":
        from drop import drop

        drop(ROOT)
    rename(options.name)
    tidy()
    if options.examples == "drop":
        describe()
    print(
        f"This is {options.name} now. Look at it, install it, test it, keep it:\n"
        "  git status\n"
        '  python -m pip install -e ".[test]"\n'
        "  python -m pytest\n"
        f'  git add -A && git commit -m "Become {options.name}"'
    )


def refusal(name: str) -> str | None:
    """Why this fork cannot take the name; None if it can."""
    tracked = git("ls-files")
    if not (ROOT / "src" / OLD).is_dir():
        return f"there is no src/{OLD}; this fork was renamed before, and that is done once."
    if not re.fullmatch(r"[A-Za-z]([A-Za-z0-9_]*[A-Za-z0-9])?", name):
        return (
            "a package's name has letters, digits and underscores, begins with a letter and does "
            "not end in an underscore; such as my_project."
        )
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        return "is a word of Python's own; take another, such as my_project."
    if tracked is None:
        return "needs git, to know which files are yours: git init && git add -A && git commit."
    taken = {part for path in tracked for part in (*Path(path).parts, Path(path).stem)}
    if name.lower() in {part.lower() for part in taken} or (ROOT / "src" / name).exists():
        return "is what a file or folder here is called; take another, such as my_project."
    if name in sys.stdlib_module_names or importlib.util.find_spec(name):
        return "is the name of a module that is installed; take another, such as my_project."
    if changes := git("status", "--porcelain"):
        # On a clean tree `git reset --hard` takes all of it back.
        more = f" and {len(changes) - 5} more" if len(changes) > 5 else ""
        return (
            f"there are changes that are not committed ({', '.join(changes[:5])}{more}); commit "
            "or stash them, so that git can take this back."
        )
    return None


def git(*arguments: str) -> list[str] | None:
    """Lines that git answers; None without a repository."""
    done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True)
    return done.stdout.splitlines() if done.returncode == 0 else None


def rename(name: str) -> None:
    """Writes the name into every file of the project, and moves the two folders that carry it."""
    for path in map(ROOT.joinpath, git("ls-files") or ()):
        if not path.is_file() or str(path.relative_to(ROOT)) in KEPT:
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:  # a picture
            continue
        if (changed := WORD.sub(name, text)) != text:
            path.write_text(changed)
    for folder in ("src", "src/hydra_plugins"):
        (ROOT / folder / OLD).rename(ROOT / folder / name)
    shutil.rmtree(ROOT / f"src/{OLD}.egg-info", ignore_errors=True)


def describe() -> None:
    """Writes the schemas of conf/ anew, which list its options."""
    command = [sys.executable, ROOT / "scripts/schema.py"]
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True)
    if done.returncode:
        print("Once it is installed, for your editor: python scripts/schema.py")


def tidy() -> None:
    """Sorts imports and wraps lines anew, which the length of a name decides."""
    if not (importlib.util.find_spec("ruff") or shutil.which("ruff")):
        print(
            'ruff is not installed; later: pip install -e ".[dev]" && ruff check --fix . && ruff format .'
        )
        return
    ruff = [sys.executable, "-m", "ruff"] if importlib.util.find_spec("ruff") else ["ruff"]
    subprocess.run(
        [*ruff, "check", "--quiet", "--select=I,F401,W293", "--fix", "."], cwd=ROOT, check=True
    )
    subprocess.run([*ruff, "format", "--quiet", "."], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
