"""Brings another version of the engine into a fork: python scripts/update.py VERSION.

Takes the engine's files of a tag or commit of the template; conf/ and your package stay yours. Nothing
is merged: if the fork has edited the engine, it is refused with the names of the edited files.
"""

import argparse

from rename import ROOT, git, leave, uncommitted

# The engine: its package, its tests and their helpers, tools, checks, and the three commands.
ENGINE = (
    *("src/quartet", "src/hydra_plugins", "tests/quartet", ":(glob)tests/*.py"),
    *("scripts", ".ci", ":(glob)*.py"),
)
# The template's own, on which the fork decides.
YOURS = ("conf", ":(exclude)conf/.schema", "src/project", "pyproject.toml")
# Holds the commit of the template that the engine comes from.
RECORD = ROOT / ".github/engine.txt"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version", help="tag, branch or commit of the template")
    parser.add_argument(
        "--from",
        dest="source",
        default="template",
        help="path or URL; default: git's remote template",
    )
    parser.add_argument("--since", help="version that the fork was made of; once, without history")
    options = parser.parse_args()
    if changed := uncommitted():
        leave(changed)
    new = fetch(options.source, options.version)
    base = find_base(options.source, options.since, new)
    refuse_edits(base, new)
    for path in sorted(files(base) - files(new)):
        git("rm", "--quiet", "--", path)
    git("checkout", new, "--", *sorted(files(new)))
    RECORD.write_text(f"{new}\n")
    git("add", "--", str(RECORD))
    describe(base, new, options.version)


def fetch(source: str, version: str) -> str:
    """The commit of a version of the template."""
    if git("fetch", "--quiet", "--no-tags", source, version) is None:
        leave(
            f"{version}: cannot be fetched from {source}. Check both: git remote add template URL, "
            "git ls-remote template; or name a place, --from=PATH_OR_URL."
        )
    return (git("rev-parse", "FETCH_HEAD^{commit}") or [""])[0]


def find_base(source: str, since: str | None, new: str) -> str:
    """The commit of the template that the fork's engine comes from now."""
    if RECORD.exists():
        known = [RECORD.read_text().strip()]
    else:
        known = [since] if since else git("merge-base", "HEAD", new) or []
    if not known:
        leave("The fork shares no history with the template. Name its version: --since=VERSION.")
    return fetch(source, known[0])


def files(commit: str) -> set[str]:
    """The engine's files in a commit."""
    empty = (git("hash-object", "-t", "tree", "/dev/null") or [""])[0]
    return set(changes(empty, commit, "A", *ENGINE))


def changes(base: str, new: str, kinds: str, *paths: str) -> list[str]:
    """Files that differ between two commits; kinds: A added, M modified, T type, D deleted."""
    options = ("--no-renames", "--name-only", f"--diff-filter={kinds}")
    return git("diff", *options, base, new, "--", *paths) or []


def refuse_edits(base: str, new: str) -> None:
    """Ends with a message if the fork has edited the engine, or has files where it needs its own."""
    edited = changes(base, "HEAD", "MTD", *ENGINE)
    edited += sorted(set(changes(base, "HEAD", "A", *ENGINE)) & files(new))
    if edited:
        leave(
            "The fork has edited the engine:\n  " + "\n  ".join(edited) + "\nMove each change into "
            "your own package (a subclass, a callback, an option of conf/), then undo it here:\n"
            f"  git checkout {base[:12]} -- FILE && git commit\n"
            "A file that the template did not have: git mv it elsewhere."
        )


def describe(base: str, new: str, version: str) -> None:
    """Prints what the new version says of itself, and what is left to do by hand."""
    log = git("diff", "--unified=0", base, new, "--", ".github/CHANGELOG.md") or []
    print(*(line[1:] for line in log if line.startswith("+") and line[:3] != "+++"), sep="\n")
    if added := changes(base, new, "A", *YOURS):
        print("\nNew options and parts, not taken; copy those that you want:")
        print(*(f"  git show {new[:12]}:{path} > {path}" for path in added), sep="\n")
    if changed := changes(base, new, "MTD", *YOURS):
        print("\nChanged in the template, not here; decide on each:")
        print(*(f"  git diff {base[:12]} {new[:12]} -- {path}" for path in changed), sep="\n")
    print(
        f"\nThe engine was that of commit {base[:12]}, and is that of {version} ({new[:12]}) now. "
        "Test it, keep it:\n"
        '  python -m pip install -e ".[test]" && python scripts/schema.py && python -m pytest\n'
        f'  git add -A && git commit -m "Engine of {version}"\n'
        "Back to where you were: git reset --hard"
    )


if __name__ == "__main__":
    main()
