"""Forks: what becomes of the template under another name."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A quick part of the tests that has to do with every layer.
QUICK = ("allow", "imports", "loss", "optimizer", "scheduler", "house", "schema")


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=A fork", "-c", "user.email=fork@example.org")
    command = ["git", *identity, *arguments]
    return subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def committed(folder: Path) -> Path:
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=The template")
    return folder


def run(folder: Path, *command: str, path: str = "") -> subprocess.CompletedProcess[str]:
    variables = os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=variables, capture_output=True, text=True
    )


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A template of few files."""
    for name in ("src/quartet/loss.py", "src/hydra_plugins/quartet/__init__.py", "LICENSE"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("# quartet quartet.loss Quartet the quartet quartets\n")
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/rename.py", tmp_path / "scripts")
    return committed(tmp_path)


def rename(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(folder, "scripts/rename.py", *arguments)


def test_name_is_written_everywhere_but_where_it_is_no_name(small: Path) -> None:
    done = rename(small, "my_project")
    assert done.returncode == 0, done.stderr
    told = "# my_project my_project.loss my_project the quartet quartets\n"
    assert (small / "src/my_project/loss.py").read_text() == told
    assert (small / "src/hydra_plugins/my_project/__init__.py").exists()
    assert not (small / "src/quartet").exists()
    assert (small / "LICENSE").read_text().startswith("# quartet")  # the notice it asks to keep


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("my-project", "letters, digits and underscores"),
        ("3d", "letters, digits and underscores"),
        ("_mine", "letters, digits and underscores"),
        ("größe", "letters, digits and underscores"),
        ("class", "a word of Python's own"),
        ("match", "a word of Python's own"),
        ("torch", "the name of a module that is installed"),
        ("json", "the name of a module that is installed"),
        ("quartet", "what a file or folder here is called"),
        ("Quartet", "what a file or folder here is called"),
        ("loss", "what a file or folder here is called"),
        ("scripts", "what a file or folder here is called"),
    ],
)
def test_bad_name_is_refused(small: Path, name: str, reason: str) -> None:
    done = rename(small, name)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{name}: ")
    assert reason in done.stderr
    assert git(small, "status", "--porcelain") == ""


def test_second_time_is_refused(small: Path) -> None:
    assert rename(small, "my_project").returncode == 0
    git(small, "add", "--all")
    git(small, "commit", "--quiet", "--message=Become my_project")
    done = rename(small, "other")
    assert done.returncode == 2
    assert "this fork was renamed before" in done.stderr
    assert git(small, "status", "--porcelain") == ""


def test_changes_that_git_could_not_give_back_are_refused(small: Path) -> None:
    (small / "notes.txt").write_text("mine")
    done = rename(small, "my_project")
    assert done.returncode == 2
    assert "not committed (?? notes.txt); commit or stash" in done.stderr
    shutil.rmtree(small / ".git")
    assert "git init" in rename(small, "my_project").stderr


def test_later_version_is_taken_under_the_own_name(small: Path, tmp_path: Path) -> None:
    words = "# quartet quartet.loss Quartet the quartet quartets\n"
    template, fork, loss = small, tmp_path.parent / f"{tmp_path.name}-fork", "src/quartet/loss.py"
    (template / loss).write_text(3 * words)
    git(template, "commit", "--quiet", "--all", "--message=One")
    git(template, "clone", "--quiet", ".", str(fork))
    for name, value in (("name", "A fork"), ("email", "fork@example.org")):
        git(fork, "config", f"user.{name}", value)
    assert rename(fork, "my_project").returncode == 0
    mine = fork / "src/my_project/loss.py"
    renamed = mine.read_text().splitlines(keepends=True)
    mine.write_text("".join([*renamed, "mine = 1\n"]))  # before the fork's first commit
    git(fork, "add", "--all")
    git(fork, "commit", "--quiet", "--message=Become my_project")

    def take(commit: str = "origin/HEAD") -> subprocess.CompletedProcess[str]:
        return rename(fork, "my_project", f"--take={commit}")

    for number in (1, 2):
        first = f"# quartet.part{number}\n"
        (template / loss).write_text(first + 3 * words)
        git(template, "commit", "--quiet", "--all", f"--message=Version {number}")
        git(fork, "fetch", "--quiet", "origin")
        assert (done := take()).returncode == 0, done.stderr
        assert f"part{number}" not in mine.read_text()
        git(fork, "merge", "--quiet", "--no-edit", "renamed-template")
        told = f"# my_project.part{number}\n"
        assert mine.read_text() == "".join([told, *renamed, "mine = 1\n"])
    assert len(git(fork, "worktree", "list").splitlines()) == 1

    assert "--take=nothing: no such commit" in take("nothing").stderr
    mine.write_text("")
    assert "not committed" in take().stderr


@pytest.mark.slow
@pytest.mark.parametrize("examples", ["keep", "drop"])
def test_fork_is_green_and_trains(examples: str, tmp_path: Path) -> None:
    fork = tmp_path / "fork"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
        (fork / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, fork / name)
    done = rename(committed(fork), "my_project", f"--examples={examples}")
    assert done.returncode == 0, done.stderr

    # Installed as the README has it, beside what is here already: no network.
    pip = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation")
    place = tmp_path / "installed"
    done = run(fork, *pip, f"--target={place}", "--editable", ".")
    assert done.returncode == 0, done.stderr
    path = f"{place}:{fork / 'src'}"  # a folder's .pth files are read only where it is a site's

    left = {
        path.relative_to(fork).as_posix(): len(re.findall(r"(?i)\bquartet", path.read_text()))
        for path in (*fork.glob("conf/**/*.yaml"), *fork.glob("src/**/*.py"))
    }
    assert sum(left.values()) == 2, {name: count for name, count in left.items() if count}
    if examples == "drop":
        for group in ("data", "model", "experiment"):
            assert len(list((fork / "conf" / group).rglob("*.yaml"))) == 1
        assert not (fork / "src/my_project/model/cnn.py").exists()

    quick = (f"tests/test_{name}.py" for name in QUICK)
    done = run(fork, "-m", "pytest", "-q", *quick, path=path)
    assert done.returncode == 0, done.stdout[-5000:]
    kept = run(fork, "-m", "pytest", "--collect-only", "-q", path=path)
    assert kept.returncode == 0, kept.stdout[-5000:]

    training = ("train.py", "trainer.max_epochs=2", "hydra.run.dir=run")
    done = run(fork, *training, path=path)
    assert done.returncode == 0, done.stderr
    assert json.loads((fork / "run/result.json").read_text())["status"] == "finished"
    for command in ("evaluate.py", "predict.py"):
        done = run(fork, command, "run=run", path=path)
        assert done.returncode == 0, done.stderr
    sweep = ("train.py", "-m", "optimizer=sgd,adam", "trainer=smoke", "hydra.sweep.dir=sweep")
    done = run(fork, *sweep, path=path)
    assert done.returncode == 0, done.stderr
    assert (fork / "sweep/1/result.json").exists()
