"""A fork takes its name, drops the examples, and takes other versions of the engine."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from made import PROJECT, options

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(PROJECT != "project", reason="this fork has its name")


def git(place: Path, *arguments: str) -> str:
    author = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(place), *author, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def write(place: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(content)


def commit(place: Path, message: str = "Change") -> None:
    git(place, "add", "--all")
    git(place, "commit", "--quiet", "--message", message)


def run(place: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(place / "src")}
    line = [sys.executable, *command]
    return subprocess.run(line, cwd=place, env=environment, capture_output=True, text=True)


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A template of a few small files, in git, with the tag v1."""
    place = tmp_path / "template"
    empty = "src/quartet/__init__.py src/project/__init__.py src/project/model/cnn.py tests/made.py"
    empty += " src/project/data/tables.py src/project/data/digits.py tests/quartet/test_core.py"
    write(place, dict.fromkeys(f"{empty} tests/project/test_cnn.py train.py .ci/run".split(), ""))
    write(
        place,
        {
            "README.md": "# Quartet\n\nA model is src/project/model/mlp.py.\n",
            "pyproject.toml": 'name = "quartet"\ntest = ["quartet[optuna]"]\n"quartet.reports" = 1\n',
            ".github/CHANGELOG.md": "# Changelog\n\n## 1\n\n- project.loss.A is new.\n",
            ".gitignore": "__pycache__/\n",
            "src/quartet/old.py": "x = 1\n",
            "src/quartet/core.py": '"""Reaches the project. Never imports project.loss."""\n',
            "src/project/model/mlp.py": "from project.model import other\n",
            "tests/project/test_mlp.py": "from project.model.mlp import MLP\n",
            "conf/model/mlp.yaml": "_target_: project.model.mlp.MLP\n",
            "conf/model/cnn.yaml": "_target_: project.model.cnn.CNN\n",
            "conf/model/torchvision.yaml": "_target_: quartet.parts.torchvision.classifier\n",
            "conf/data/digits.yaml": "_target_: project.data.digits.digits\n",
            "conf/data/wine.yaml": "_target_: project.data.tables.wine\n",
            "conf/experiment/optimizers.yaml": "seed: 0\n",
            "conf/experiment/ranking.yaml": "seed: 0\n",
        },
    )
    (place / "scripts").mkdir()
    for script in ("rename.py", "update.py"):
        shutil.copy(ROOT / "scripts" / script, place / "scripts")
    git(place, "init", "--quiet")
    commit(place, "One")
    git(place, "tag", "v1")
    return place


def test_rename_writes_the_name_where_the_package_is_named(template: Path) -> None:
    done = run(template, "scripts/rename.py", "my_fork")
    assert done.returncode == 0, done.stderr
    assert "This is my_fork now." in done.stdout
    read = lambda name: (template / name).read_text()  # noqa: E731
    assert read("README.md") == "# my_fork\n\nA model is src/my_fork/model/mlp.py.\n"
    assert 'name = "my_fork"\ntest = ["my_fork[optuna]"]\n"quartet.re' in read("pyproject.toml")
    assert read("src/my_fork/model/mlp.py") == "from my_fork.model import other\n"
    assert read("tests/my_fork/test_mlp.py") == "from my_fork.model.mlp import MLP\n"
    assert read("conf/model/cnn.yaml") == "_target_: my_fork.model.cnn.CNN\n"
    assert not (template / "src/project").exists()
    untouched = ("src/quartet", "scripts", "tests/quartet", ".github/CHANGELOG.md")
    assert git(template, "status", "--porcelain", "--", *untouched) == ""


def test_dropped_examples_leave_what_other_options_need(template: Path) -> None:
    own = {
        "conf/data/people.yaml": "_target_: project.people.load.people\n",
        "conf/model/own.yaml": "_target_: project.own.Own\n",
        "src/project/people/load.py": "from project.data.linear import linear\n",
        "src/project/own.py": "",
        "src/project/data/linear.py": "",
        "conf/data/linear.yaml": "_target_: project.data.linear.linear\n",
    }
    write(template, own)
    commit(template)
    done = run(template, "scripts/rename.py", "mine", "--examples=drop")
    assert done.returncode == 0
    words = "Dropped: data=linear, data=wine, model=cnn, experiment=ranking, src"
    assert done.stdout.startswith(words)
    kept = {name.replace("project", "mine") for name in own} - {"conf/data/linear.yaml"}
    assert all((template / name).exists() for name in kept)
    left = {str(path.relative_to(template)) for path in template.rglob("*.*")}
    assert {"conf/model/torchvision.yaml", "conf/model/mlp.yaml", "conf/data/digits.yaml"} <= left
    assert {"src/mine/model/mlp.py", "tests/mine/test_mlp.py", "src/mine/data/digits.py"} <= left
    ours = [name for name in left if name.startswith(("conf", "src", "tests"))]
    assert not [name for name in ours if re.search("cnn|wine|tables|ranking", name)]


def test_examples_to_drop_are_those_of_the_template() -> None:
    text = (ROOT / "scripts/rename.py").read_text()
    named = ast.literal_eval(re.search(r"EXAMPLES = ({.*?\n})", text, re.DOTALL)[1])  # type: ignore[index]
    left = {"data": "csv digits image_folder", "model": "mlp torchvision"}
    left["experiment"] = "optimizers"
    for group, names in named.items():
        assert {*names.split(), *left[group].split()} == {*options(group)}


def test_rename_refuses_names_uncommitted_changes_and_a_second_one(template: Path) -> None:
    for name, message in {
        "my-fork": "letters, digits and underscores",
        "fork_": "does not end in an underscore",
        "class": "is a word of Python or an",
        "Scripts": "is the name of a file or folder here",
        "torch": "or an installed module",
    }.items():
        done = run(template, "scripts/rename.py", name)
        assert (done.returncode, git(template, "status", "--porcelain")) == (2, "")
        assert message in done.stderr
    write(template, {"README.md": "Changed\n"})
    assert "not committed ( M README.md)" in run(template, "scripts/rename.py", "mine").stderr
    git(template, "checkout", "README.md")
    assert run(template, "scripts/rename.py", "mine").returncode == 0
    assert "was renamed before" in run(template, "scripts/rename.py", "other").stderr


@pytest.fixture
def fork(template: Path, tmp_path: Path) -> Path:
    """A renamed fork with a loss of its own; since then the template has a version v2."""
    place = tmp_path / "fork"
    git(tmp_path, "clone", "--quiet", str(template), str(place))
    git(place, "remote", "rename", "origin", "template")
    assert run(place, "scripts/rename.py", "mine").returncode == 0
    write(
        place, {"src/mine/loss.py": "mine = 1\n", "conf/loss/own.yaml": "_target_: mine.loss.Own\n"}
    )
    write(place, {"scripts/own.py": "", "tests/mine/test_a.py": ""})
    commit(place, "Mine")
    (template / "src/quartet/old.py").unlink()
    write(template, {"src/quartet/new.py": "y = 2\n", "src/quartet/core.py": '"""Better."""\n'})
    write(template, {"conf/loss/new.yaml": "_target_: torch.nn.L1Loss\n"})
    write(template, {"conf/model/mlp.yaml": "_target_: project.model.mlp.MLP\nwidth: 1\n"})
    write(template, {"tests/made.py": "z = 3\n"})
    log = "# Changelog\n\n## 2\n\n- The core is better.\n\n## 1\n\n- project.loss.A is new.\n"
    write(template, {".github/CHANGELOG.md": log})
    commit(template, "Two")
    git(template, "tag", "v2")
    return place


def test_update_takes_the_engine_and_leaves_the_rest(fork: Path) -> None:
    said = run(fork, "scripts/update.py", "v2").stdout
    assert "- The core is better." in said
    assert re.search(r"engine was that of commit \w{12}, and is that of v2 \(\w{12}\) now", said)
    assert "project.loss.A" not in said
    assert ":conf/loss/new.yaml > conf/loss/new.yaml" in said
    assert "-- conf/model/mlp.yaml" in said
    assert (fork / "src/quartet/core.py").read_text() == '"""Better."""\n'
    assert (fork / "src/quartet/new.py").exists()
    assert not (fork / "src/quartet/old.py").exists()
    assert (fork / "tests/made.py").read_text() == "z = 3\n"
    changed = git(fork, "diff", "--cached", "--name-only", "HEAD").split()
    assert changed == [
        ".github/engine.txt", "src/quartet/core.py", "src/quartet/new.py", "src/quartet/old.py",
        "tests/made.py",
    ]  # fmt: skip
    commit(fork, "Engine of v2")
    # And back, by the commit that was recorded.
    assert run(fork, "scripts/update.py", "v1").returncode == 0
    assert (fork / "src/quartet/old.py").exists()


EDITS = {
    "src/quartet/core.py": True,
    "tests/made.py": True,
    "src/quartet/new.py": True,  # where v2 has a file of its own
    "src/quartet/mine.py": False,
    "src/mine/loss.py": False,
}


def test_update_refuses_edits_changes_and_unknown_versions(fork: Path) -> None:
    for path, listed in EDITS.items():
        write(fork, {path: "edited = 1\n"})
        commit(fork)
        done = run(fork, "scripts/update.py", "v2")
        assert (done.returncode == 2) == listed
        assert (f"The fork has edited the engine:\n  {path}\n" in done.stderr) == listed
        assert (git(fork, "status", "--porcelain") == "") == listed
        git(fork, "reset", "--quiet", "--hard", "HEAD~1")
    assert "v9: cannot be fetched from template" in run(fork, "scripts/update.py", "v9").stderr
    write(fork, {"README.md": "Changed\n"})
    assert "not committed" in run(fork, "scripts/update.py", "v2").stderr


def test_fork_without_history_names_its_version(fork: Path, template: Path) -> None:
    shutil.rmtree(fork / ".git")
    git(fork, "init", "--quiet")
    commit(fork, "Copied")
    command = ("scripts/update.py", "v2", f"--from={template}")
    assert "shares no history with the template. Name its version" in run(fork, *command).stderr
    assert run(fork, *command, "--since=v1").returncode == 0
    assert (fork / "src/quartet/new.py").exists()


@pytest.mark.slow
def test_this_template_trains_under_another_name_without_its_examples(tmp_path: Path) -> None:
    place = tmp_path / "fork"
    for name in git(ROOT, "ls-files").splitlines():
        if (ROOT / name).is_file() and not name.startswith("tests/quartet"):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / name)
    git(place, "init", "--quiet")
    commit(place)
    directory = "outputs/before"
    assert run(place, "train.py", "trainer=smoke", f"hydra.run.dir={directory}").returncode == 0
    assert run(place, "scripts/rename.py", "mine", "--examples=drop").returncode == 0
    training = ("train.py", "trainer=smoke", "optimizer=muon", "loss=focal")
    for command in (training, ("evaluate.py", f"run={directory}")):
        done = run(place, *command)
        assert done.returncode == 0, done.stderr
    assert {path.stem for path in (place / "conf/model").iterdir()} - {"torchvision"} == {"mlp"}
