"""Every command and every example of the README and of the pages in .github, as they stand there."""

import json
import re
import shlex
import sys
import types
from contextlib import nullcontext
from pathlib import Path

import examples
import numpy as np
import pytest
import yaml
from made import PROJECT
from processes import Cli

from quartet.build import build, compose
from quartet.checkpoints.storage import load
from quartet.config import allow
from quartet.core.problems import ConfigError

if PROJECT != "project":
    pytest.skip("a fork has documents of its own", allow_module_level=True)
ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = ("EXTENDING", "MIGRATING", "GUARANTEES", "SPEED", "SWEEPS", "EXPORT", "SECURITY")
TEXT = "\n".join([README, *((ROOT / f".github/{page}.md").read_text() for page in PAGES)])


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


LINES = [line.split("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
LINES += re.findall(r"`(python train\.py (?!resume)[^`]*)`", TEXT)
# Those of the contributors' page are no examples, and one needs a third package.
COMMANDS = [line for line in dict.fromkeys(LINES) if "sweep=optuna" not in line]
# Files that a block holds, each after a line with its path.
PARTS: dict[str, str] = {}
for block in blocks("python") + blocks("yaml"):
    _, *pieces = re.split(r"^# ((?:src|conf)/\S+)\n", block, flags=re.MULTILINE)
    PARTS |= dict(zip(pieces[::2], pieces[1::2], strict=True))
ALLOWED = PARTS.pop("conf/allow.yaml")
OPTIONS = [path[5:-5].replace("/", "=") for path in PARTS if path.startswith("conf/")]
EXAMPLES = ROOT / "tests/project/examples"
MIGRATED = "lightning_hydra_template"
SHOWN = ("segmentation", "language_model", "gan")
FILES = {  # of the jobs that are shown whole
    (path if path.startswith("conf") else f"src/{path}"): file.read_text()
    for job in SHOWN
    for file in (EXAMPLES / job).rglob("*.*")
    for path in [file.relative_to(EXAMPLES / job).as_posix()]
    if file.suffix in (".py", ".yaml")
}


@pytest.fixture(autouse=True)
def _without_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in one fails no command, and they have tests of their own."""
    monkeypatch.setattr("quartet.sweeps.directory.write_report", lambda directory: None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the tables that the commands name."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    size, kind = random.normal(100, 20, 60), random.choice(["flat", "house"], 60)
    rows = [f"{s:.1f},{k},{3 * s:.0f}" for s, k in zip(size, kind, strict=True)]
    Path("houses.csv").write_text("\n".join(["size,kind,price", *rows]))
    species = np.repeat(["setosa", "virginica"], 30)
    rows = [f"{s:.1f},{k}" for s, k in zip(size, species, strict=True)]
    Path("flowers.csv").write_text("\n".join(["petal,species", *rows]))
    return tmp_path


@pytest.mark.filterwarnings("ignore:Attribute 'net' is an instance")
@pytest.mark.parametrize("line", COMMANDS)
def test_command_ends_well(
    line: str, folder: Path, command: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "export.py" in line:
        pytest.importorskip("onnxscript")
    if "DATE/TIME" in line:
        assert command("train.py", "trainer=smoke", "hydra.run.dir=outputs/DATE/TIME") == 0
    if set(OPTIONS) & set(line.split()):
        add_parts(folder, monkeypatch)
        line = line.replace("train.py", "train.py --config-dir conf")
    line = line.replace("max_epochs=60", "max_epochs=2")
    words = set(line.split())
    alone = "train.py" in words and not {"-m", "--help", "check=only"} & words
    alone &= "resume=" not in line
    if (alone or "-m" in words) and "trainer=smoke" not in words:
        line += f" trainer.max_epochs={1 if '-m' in words else 3}"
    if "-m experiment" in line:  # two of its 51 jobs
        line += " optimizer=sgd,adam seed=0"
    if alone:
        line += " hydra.run.dir=run"
    with examples.installed(MIGRATED, folder) if "mnist_lit" in line else nullcontext():
        assert command(*shlex.split(line)[1:]) == 0, command.err
    if alone:
        result = json.loads((folder / "run/result.json").read_text())
        assert result["status"] == "finished"
        assert (folder / "run/checkpoints/best.ckpt").exists()
    if "metrics=calibration" in words:  # beside those that it extends
        assert {"test/accuracy", "test/confidence", "test/ece"} <= set(result["metrics"])
    if "module=adversarial" in words:
        assert "clean_loss" in (folder / "run/metrics.csv").read_text().splitlines()[0]
    if "module=loss_training" in words:
        assert load(folder / "run/checkpoints/last.ckpt")["state_dict"]["loss.temperature"] != 1


@pytest.mark.parametrize("option", OPTIONS)
def test_example_of_a_part_is_trained_by_a_command(option: str) -> None:
    whole = f"conf/{option.replace('=', '/')}.yaml" in FILES  # which test_examples.py trains
    assert whole or any(option in line.split() for line in COMMANDS)


@pytest.mark.parametrize("path", FILES)
def test_jobs_are_shown_whole(path: str) -> None:
    assert PARTS[path].strip() == FILES[path].strip()


def test_python_example_runs(folder: Path) -> None:
    (example,) = (block for block in blocks("python") if "import build" in block)
    scope: dict[str, object] = {}
    exec(example, scope)
    assert scope["result"]["status"] == "finished"


def add_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the examples what they are in a fork: files of conf/ and modules of the package."""
    for path, content in PARTS.items():
        if path.startswith("conf/"):
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content)
        else:
            name = path.removeprefix("src/").removesuffix(".py").replace("/", ".")
            module = types.ModuleType(name)
            exec(content, module.__dict__)
            monkeypatch.setitem(sys.modules, name, module)
            parent, child = name.rsplit(".", 1)
            __import__(parent)
            monkeypatch.setattr(sys.modules[parent], child, module, raising=False)
    names = yaml.safe_load(ALLOWED)["packages"]
    families = [*allow.FAMILIES, *((name, "torch.optim.Optimizer") for name in names)]
    monkeypatch.setattr(allow, "FAMILIES", families)


REFUSALS = re.findall(r"^    \$ python train.py (.*)\n((?:    (?!\$).+\n)+)", README, re.MULTILINE)


@pytest.mark.parametrize(("overrides", "message"), REFUSALS)
def test_refusal_reads_as_quoted(overrides: str, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        build(compose(shlex.split(overrides)))
    printed = f"Refused, before the first batch: {refusal.value}"
    assert printed.split() == message.split()


def test_every_quoted_refusal_is_tried() -> None:
    assert len(REFUSALS) == README.count("    $ python train.py")


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 160


def test_paths_and_links_exist() -> None:
    """Paths in code and links to files, of all pages but the one that names those of others."""
    pages = TEXT.replace((ROOT / ".github/MIGRATING.md").read_text(), "")
    paths = re.findall(r"`((?:src|conf|tests|scripts|\.github)/[\w./]+)`", pages)
    paths += re.findall(r"^    ((?:src|conf|tests|scripts)/\S+)", README, re.MULTILINE)
    links = re.findall(r"\]\((?!http)([^)#]+)", README)
    assert len(paths) > 20
    named = {path for path in [*paths, *links] if "NAME" not in path and "my_project" not in path}
    assert {path for path in named if not (ROOT / path).exists()} <= set(PARTS)
