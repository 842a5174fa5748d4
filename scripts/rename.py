"""Make a fresh fork yours: python scripts/rename.py my_project [--examples=drop].

Later, a newer version of the template under your name: the same with --take=template/main.
"""

import argparse
import importlib.util
import keyword
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[1]
OLD = "quartet"
# The noun in a sentence, and the label in checkpoints, which stay readable.
WORD = re.compile(rf'(?<!the )(?<!b")\b{OLD}(?=\b|_)', re.IGNORECASE)
# The notice that the licence asks to keep, the template's history, and this script: run again on a
# later version of the template, it gives what can be merged into the fork.
KEPT = ("LICENSE", ".github/CHANGELOG.md", "scripts/rename.py")
BRANCH = "renamed-template"
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
    parser.add_argument(
        "--take",
        metavar="COMMIT",
        help="of a later version of the template: bring it under the name, ready to be merged",
    )
    parser.add_argument(
        "--since",
        metavar="COMMIT",
        help="of the template that the fork has; needed once, where git does not know it",
    )
    parser.add_argument("--again", action="store_true", help=argparse.SUPPRESS)  # from `take`
    options = parser.parse_args()
    if options.take:
        take(options)
        return
    if reason := refusal(options.name, again=options.again):
        leave(f"{options.name}: {reason}")
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


def refusal(name: str, again: bool) -> str | None:
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
    # Again: the module is that of the fork.
    if name in sys.stdlib_module_names or (importlib.util.find_spec(name) and not again):
        return "is the name of a module that is installed; take another, such as my_project."
    return uncommitted()


def uncommitted() -> str | None:
    """What is not committed; None on a clean tree, where `git reset --hard` takes all back."""
    changes = git("status", "--porcelain")
    if not changes:
        return None
    more = f" and {len(changes) - 5} more" if len(changes) > 5 else ""
    return (
        f"there are changes that are not committed ({', '.join(changes[:5])}{more}); commit "
        "or stash them, so that git can take this back."
    )


def take(options: argparse.Namespace) -> None:
    """Makes a branch of a later version of the template, renamed as the fork was.

    It goes on from the fork's own version of the template, renamed likewise. So a merge compares
    files that have the same names and words, and what is left are changes.
    """
    name, version = options.name, options.take
    if not (ROOT / "src" / name).is_dir():
        leave(f"{name}: there is no src/{name}; name the fork as it is called.")
    if changed := uncommitted():
        leave(changed)
    if git("rev-parse", "--verify", "--quiet", f"{version}^{{commit}}") is None:
        leave(f"--take={version}: no such commit; git remote add template URL, git fetch template.")
    known = [options.since] if options.since else git("merge-base", "HEAD", version)
    if not known:
        leave(
            f"--take={version} has no commit in common with the fork, as where a site copied the "
            "files; name the template's version that was copied, --since=v0.1.0."
        )
    before = renamed(known[0], options)
    # The commit that the fork began with, or took last, if it is that and nothing else.
    history = (line.split() for line in git("log", "--format=%T %H") or ())
    base = next((commit for tree, commit in history if tree == before), None)
    if base is None:
        base = commit_tree(before, f"The template as it was, called {name}", known[0])
        told = f"Know the template as it was, called {name}"
        git("merge", "--quiet", "--strategy=ours", "--allow-unrelated-histories", "-m", told, base)
    made = commit_tree(renamed(version, options), f"The template, called {name}", base, version)
    git("branch", "--force", BRANCH, made)
    print(
        f"{BRANCH} is {version}, called {name}. Take it, look at it, test it:\n"
        f"  git merge {BRANCH}\n"
        "  python -m pytest\n"
        "Back to where you were: git merge --abort, or after it git reset --hard ORIG_HEAD"
    )


def renamed(commit: str, options: argparse.Namespace) -> str:
    """The tree of files of a commit of the template under the fork's name."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "template"
        git("worktree", "add", "--quiet", "--detach", str(place), commit)
        try:
            script = [sys.executable, place / "scripts/rename.py", options.name, "--again"]
            done = subprocess.run(
                [*script, f"--examples={options.examples}"], capture_output=True, text=True
            )
            if done.returncode:
                leave(f"{commit} could not be renamed:\n{done.stderr}")
            subprocess.run(["git", "-C", place, "add", "--all"], check=True)
            return (git("-C", str(place), "write-tree") or [""])[0]
        finally:
            git("worktree", "remove", "--force", str(place))


def commit_tree(tree: str, message: str, *parents: str) -> str:
    named = [word for parent in parents for word in ("-p", parent)]
    made = git("commit-tree", tree, *named, "-m", message)
    if not made:
        leave("git makes no commit; git config user.name and user.email.")
    return made[0]


def leave(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(2)


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
