"""A configuration names parts of a training, and nothing else is ever called."""

import ast
import pydoc
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from made import PROJECT
from omegaconf import DictConfig, OmegaConf, open_dict
from processes import Cli

from quartet import build
from quartet.checkpoints import storage
from quartet.config import allow, instantiate
from quartet.config.compose import evaluation_config
from quartet.config.instantiate import make
from quartet.core.files import CONF
from quartet.core.problems import ConfigError
from quartet.inference.evaluate import evaluate
from quartet.inference.export import export
from quartet.inference.predict import predict
from quartet.records.run_directory import find_outside_links
from quartet.run import train

ROOT = CONF.parent

HOSTILE = """
os.system posix.system os.popen os.execv os.remove os.fork os.kill nt.system shutil.rmtree
pathlib.Path tempfile.mkstemp io.open codecs.open builtins.open builtins.eval builtins.exec
builtins.compile builtins.getattr builtins.__import__ builtins.print builtins.dict getattr eval
subprocess.Popen subprocess.run subprocess.check_output multiprocessing.Process
importlib.import_module runpy.run_path pkgutil.resolve_name pydoc.locate pickle.loads pickle.load
marshal.loads joblib.load numpy.load pandas.read_pickle cloudpickle.loads dill.loads
yaml.unsafe_load code.interact pdb.set_trace socket.socket webbrowser.open ctypes.CDLL
urllib.request.urlretrieve antigravity.fly signal.alarm threading.Thread functools.partial
functools.reduce operator.methodcaller operator.attrgetter hydra.utils.instantiate
hydra.utils.call hydra.utils.get_object hydra.main hydra.utils.get_method hydra.utils.get_class
hydra._internal.utils._locate omegaconf.OmegaConf.load omegaconf.OmegaConf.register_new_resolver
torch.load torch.save torch.hub.load torch.compile torch.jit.load torch.utils.cpp_extension.load
torch.ops.load_library torch.classes.load_library torch.package.PackageImporter
torch.utils.data.DataLoader torch.tensor torch.nn torch.nn.modules.module.torch.load
torch.nn.modules.module.functools.partial torch.nn.functional.relu torch.nn.Module.load_state_dict
torch.optim.Optimizer.step torch.nn.parallel.distributed.os.system
torch.optim.optimizer.torch.load torch.optim.lr_scheduler.partial torch.multiprocessing.spawn
torch.serialization.load torchvision.datasets.MNIST torchvision.datasets.utils.download_url
torchvision.io.write_file torchvision.models.resnet18 torchvision.ops.MLP.torch.load
torchmetrics.utilities.imports.os.system torchmetrics.metric.torch.load
lightning.pytorch.cli.LightningCLI lightning.pytorch.cli.instantiate_class
lightning.LightningModule.load_from_checkpoint lightning.fabric.Fabric
lightning.pytorch.core.saving.load_from_checkpoint lightning.seed_everything
lightning.pytorch.callbacks.model_checkpoint.shutil.rmtree
lightning.pytorch.trainer.trainer.os.system lightning.pytorch.Trainer.fit
quartet.config.compose.hydra.utils.get_method
quartet.config.compose.hydra.utils.instantiate quartet.config.instantiate.make
quartet.build.compose quartet.config.allow.locate quartet.checkpoints.storage.save
quartet.checkpoints.storage.torch.load quartet.checkpoints.storage.os.system
quartet.records.run_directory.subprocess.run quartet.records.run_directory.write_result
quartet.cli.withdraw quartet.training.module.Module.load_from_checkpoint
quartet.core.processes.shutdown quartet.core.processes.shutdown.handle
quartet.config.instantiate.functools.partial quartet.__init__.x
quartet.config.instantiate.make.__globals__ quartet.build hydra_plugins.quartet.GridSweeper
hydra_plugins.quartet.GridSweeper.sweep quartet.sweeps.launch.Work quartet.sweeps.launch.Program
quartet.sweeps.launch.Job quartet.data.datamodule.DataModule
quartet.data.datamodule.DataModule.load quartet.sweeps.search.Search quartet.data.loader.Batches
logging.FileHandler quartet . os..system ..os.system
""".split()  # noqa: SIM905
HOSTILE += [
    f"{PROJECT}.loss.F.cross_entropy",
    f"{PROJECT}.loss.FocalLoss.__subclasses__",
    f"{PROJECT}.data.vision._download",
    "",
    "os.system ",
]

# Where a target may stand: the key with which it is refused, and the settings that bring it there.
PLACES: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
    "top": ("loss._target_", lambda target: {"loss": {"_target_": target}}),
    "partial": ("loss._target_", lambda target: {"loss": {"_target_": target, "_partial_": True}}),
    "nested": (
        "model.activation._target_",
        lambda target: {"model.activation": {"_target_": target, "command": "touch canary"}},
    ),
    "args": (
        "loss._args_.0.a.0._target_",
        lambda target: {"loss._args_": [{"a": [{"_target_": target, "_partial_": True}]}]},
    ),
    "not_recursive": (
        "loss.a._target_",
        lambda target: {"loss._recursive_": False, "loss.a": {"_target_": target}},
    ),
    "callback": (
        "callbacks.mine._target_",
        lambda target: {"callbacks.mine": {"_target_": target, "_args_": ["touch canary"]}},
    ),
    "policy": (
        "optimizer.lr_factors.a._target_",
        lambda target: {"optimizer.lr_factors": {"a": {"_target_": target}}},
    ),
    "interpolated": ("loss._target_", lambda target: {"evil": target, "loss._target_": "${evil}"}),
    "interpolated_node": (
        "loss.a._target_",
        lambda target: {"evil": {"_target_": target}, "loss.a": "${evil}"},
    ),
    "decoded": (
        "loss.a._target_",
        lambda target: {"loss.a": f"${{oc.decode:'{{_target_: \"{target}\"}}'}}"},
    ),
    "escaped": (
        "loss.a",
        lambda target: {"loss.a": f"\\${{oc.decode:'{{_target_: \"{target}\"}}'}}"},
    ),
    "unused": (
        "evil._target_",
        lambda target: {"evil": {"_target_": target}, "seed": 0, "other": "${evil}"},
    ),
}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def composed() -> DictConfig:
    return build.compose(["trainer.accelerator=cpu"])


@pytest.fixture
def instantiated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The nodes that become objects, as text."""
    seen: list[str] = []
    make = instantiate.instantiate

    def record(node: Any) -> Any:
        seen.append(str(node))
        return make(node)

    monkeypatch.setattr(instantiate, "instantiate", record)
    return seen


def hostile(cfg: DictConfig, place: str, target: str) -> DictConfig:
    cfg = cfg.copy()
    with open_dict(cfg):
        for key, value in PLACES[place][1](target).items():
            OmegaConf.update(cfg, key, value, force_add=True, merge=False)
    return cfg


@pytest.mark.parametrize("target", HOSTILE)
def test_a_hostile_target_is_refused(target: str) -> None:
    words = r"no part of a training that a conf|must be a class|has no"
    with pytest.raises(ValueError, match=words):
        allow.locate(target)


@pytest.mark.parametrize("place", PLACES)
def test_it_is_refused_wherever_it_stands(
    composed: DictConfig, instantiated: list[str], tmp_path: Path, place: str
) -> None:
    target = "quartet.config.compose.hydra.utils.call"
    with pytest.raises(ConfigError) as raised:
        build.build(hostile(composed, place, target), tmp_path / "run")
    messages = [each for each in raised.value.messages if each.startswith(f"{PLACES[place][0]}=")]
    assert len(messages) == 1, raised.value.messages
    assert target[:30] in messages[0]
    assert not [node for node in instantiated if target in node]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["top", "nested", "args", "partial", "interpolated"])
def test_every_hostile_target_in_a_config_is_refused(composed: DictConfig, place: str) -> None:
    resolved = OmegaConf.to_container(composed, resolve=True)
    small = OmegaConf.create({group: resolved[group] for group in ("loss", "model")})
    for target in HOSTILE:
        tree = OmegaConf.to_container(hostile(small, place, target), resolve=True)
        problems = allow.find_problems({k: v for k, v in tree.items() if k in ("loss", "model")})
        assert [problem.key for problem in problems] == [PLACES[place][0]], target


@pytest.mark.parametrize(
    "overrides",
    [
        ["loss._target_=os.system", "+loss.command='touch canary'"],
        ["+evil={_target_:os.system,command:touch canary}", "+loss.a=${evil}"],
        ["+callbacks.a._target_=subprocess.run", "+callbacks.a.args=[touch,canary]"],
        ["+trainer.plugins=[{_target_:os.mkdir,path:canary}]"],
        ["data._target_=pickle.load"],
        ["optimizer._target_=torch.load", "+optimizer.f=canary"],
    ],
    ids=" ".join,
)
def test_it_is_refused_from_the_command_line(overrides: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no part of a training that a configuration may name"):
        build.build(build.compose(overrides), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_all_hostile_targets_are_named_at_once(composed: DictConfig) -> None:
    cfg = hostile(hostile(composed, "callback", "os.system"), "top", "torch.load")
    with pytest.raises(ConfigError) as raised:
        build.build(cfg)
    named = {message.partition(":")[0] for message in raised.value.messages}
    assert {"loss._target_=torch.load", "callbacks.mine._target_=os.system"} <= named


@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "os.mkdir", "path": "canary"},
        {"a": [{"_target_": "os.mkdir", "path": "canary"}]},
        [{"_target_": "os.mkdir", "path": "canary"}],
        {"_target_": "torch.nn.L1Loss", "a": "${oc.decode:'{_target_: os.mkdir, path: canary}'}"},
        {"_target_": "${oc.decode:os.mkdir}", "path": "canary"},
        {"_target_": torch.load},  # an object, not its name
        {"_target_": 1},
        {"_target_": ["os.mkdir"]},
    ],
    ids=lambda node: str(node).split(" at 0x")[0],
)
@pytest.mark.parametrize("partial", [False, True])
def test_the_choke_point_itself_refuses(node: Any, partial: bool, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        make(node, partial)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", [None, "math.pi"])
def test_uncallable_target_is_named(monkeypatch: pytest.MonkeyPatch, target: str | None) -> None:
    monkeypatch.setattr("quartet.config.allow.locate", pydoc.locate)
    words = f"_target_ within it is {target or 'null'}, and must name"
    with pytest.raises(ValueError, match=words):
        instantiate.instantiate([{"_target_": target}])


def test_keys_of_hydra_are_kept_where_nothing_is_made() -> None:
    node = {"_recursive_": False, "_args_": [1], "x": {"_partial_": True}}
    assert instantiate.instantiate(node) == node


def test_foreign_module_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath('canary').touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="no part of a training"):
        allow.locate("evil.Model")
    assert not (tmp_path / "canary").exists()


# What is allowed


def targets() -> Iterator[str]:
    def within(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if node.get("_target_"):
                yield node["_target_"]
            for child in node.values():
                yield from within(child)

    for path in sorted(CONF.rglob("*.yaml")):
        if path.parent.name != "hydra":
            yield from within(OmegaConf.to_container(OmegaConf.load(path)))


ALLOWED = (
    *("torch.nn.CrossEntropyLoss", "torch.nn.modules.loss.L1Loss", "torch.nn.ReLU"),
    *("torch.optim.SGD", "torch.optim.lr_scheduler.StepLR", "torch.optim.swa_utils.SWALR"),
    *("torchmetrics.Accuracy", "torchmetrics.classification.MulticlassAUROC"),
    *("torchmetrics.MetricCollection", "torchvision.transforms.v2.RandomCrop"),
    *("lightning.Trainer", "lightning.pytorch.Trainer", f"{PROJECT}.loss.FocalLoss"),
    *("lightning.pytorch.callbacks.EarlyStopping", "lightning.pytorch.loggers.CSVLogger"),
    *("lightning.pytorch.profilers.SimpleProfiler", "lightning.pytorch.strategies.DDPStrategy"),
    *("lightning.pytorch.plugins.MixedPrecision", f"{PROJECT}.data.digits.digits"),
    "lightning.pytorch.plugins.environments.LightningEnvironment",
)


@pytest.mark.parametrize("target", sorted({*targets(), *ALLOWED}))
def test_targets_of_the_options_and_parts_of_a_training_are_allowed(target: str) -> None:
    assert callable(allow.locate(target))


def test_allow_yaml_allows_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"if you trust its package, add that to conf/allow.yaml"):
        allow.locate("torchvision.models.ResNet")
    (tmp_path / "allow.yaml").write_text("packages: [torchvision.models]")
    monkeypatch.setattr(allow, "CONF", tmp_path)
    allow.extra_families.cache_clear()
    try:
        assert allow.locate("torchvision.models.ResNet").__name__ == "ResNet"
        with pytest.raises(ValueError, match="no part of a training"):
            allow.locate("torchvision.models.resnet18")  # a function
        with pytest.raises(ValueError, match=r"^must be a subclass of torch.nn.Module, torch"):
            allow.locate("torchvision.models.ResNet18_Weights")
    finally:
        allow.extra_families.cache_clear()


# Records of runs and sweeps, which may be someone else's

RECORD = (
    "{data: {}, model: {}, loss: {}, metrics: {}, optimizer: {}, scheduler: {}, module: {}, "
    "trainer: {}, monitor: {}, callbacks: {}, logger: {}}"
)
RECORDS = {
    "no configuration": "hydra:\n  callbacks:\n    a:\n      _target_: os.mkdir\n      path: canary\n",
    "defaults": "defaults:\n  - hydra/callbacks: evil\n  - _self_\n",
    "python": f"{RECORD}\n---\n",
    "object": "data: !!python/object/apply:os.mkdir [canary]\n",
    "object_name": "data: !!python/name:os.system\n",
    "list": "[1, 2]",
    "group that is a text": RECORD.replace("trainer: {}", "trainer: x"),
    "cycle": RECORD.replace("data: {}", "data: &a {b: *a}"),
    "empty": " ",
    "aliases of aliases": RECORD
    + "\na: &a [x, x]\n"
    + "\n".join(
        f"{new}: &{new} [{', '.join(10 * [f'*{old}'])}]"
        for old, new in zip("abcdefghij", "bcdefghijk", strict=True)
    ),
    "deep": f"a: {'[' * 100_000}",
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_read_as_plain_data(name: str, tmp_path: Path, command: Cli) -> None:
    record = tmp_path / "run" / ".hydra"
    record.mkdir(parents=True)
    (record / "config.yaml").write_text(RECORDS[name])
    for line in (("evaluate.py", "run=run"), ("train.py", "resume=run")):
        assert command(*line) == 2
        err = command.err
        assert "run/.hydra/config.yaml: " in err
        assert "Traceback" not in err
    assert [path.name for path in tmp_path.rglob("*")] == ["run", ".hydra", "config.yaml"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step."""
    folder = tmp_path_factory.mktemp("trained")
    words = ["trainer.max_epochs=1", "trainer.limit_train_batches=1", "logger=csv", "data=wine"]
    train(build.compose([*words, "trainer.accelerator=cpu"]), folder)
    return folder


def with_record(trained: Path, folder: Path, **changes: Any) -> Path:
    """A copy of a run whose record names something else."""
    shutil.copytree(trained, folder)
    file = folder / ".hydra" / "config.yaml"
    cfg = OmegaConf.load(file)
    for key, value in changes.items():
        OmegaConf.update(cfg, key.replace("__", "."), value, force_add=True)
    OmegaConf.save(cfg, file)
    return folder


EVIL = {"_target_": "os.mkdir", "path": "canary"}
SPIKES = "lightning.pytorch.callbacks.spike_detection.SpikeDetection"
HOSTILE_RECORDS: dict[str, dict[str, Any]] = {
    "model": {"model": EVIL},
    "loss_argument": {"loss__a": EVIL},
    "trainer": {"trainer__plugins": [EVIL]},
    "data": {"data___target_": "os.mkdir"},
    "decoded": {"loss__a": "${oc.decode:'{_target_: os.mkdir, path: canary}'}"},
    "logger in a slot": {
        "metrics__accuracy__validate_args": {
            "_target_": "lightning.pytorch.loggers.CSVLogger",
            "save_dir": "canary",
        }
    },
    "secret in an address": {"model__weights": "http://127.0.0.1:9/${oc.env:HOME}.ckpt"},
    "split address": {"zz": "http:", "model__weights": "${zz}//127.0.0.1:9/x.ckpt"},
    "chained address": {"callbacks__best__dirpath": "zip://::http://127.0.0.1:9/x.zip"},
    "variable by a variable": {"b": "HOME", "model__activation": "${oc.env:${b}}"},
    "resolver by a variable": {"b": "env", "data__task": "${oc.${b}:HOME}"},
    "place of the data": {"data__dir": "canary"},
}
REFUSALS = "no part of a training|a record may not hold|for the group logger|does not decide where"


COMMANDS: dict[str, Callable[..., Any]] = {"evaluate": evaluate, "predict": predict}
COMMANDS["export"] = partial(export, format="torch_export")  # needs no other package


@pytest.mark.parametrize("name", HOSTILE_RECORDS)
def test_a_hostile_record_runs_nothing(trained: Path, name: str, tmp_path: Path) -> None:
    run = with_record(trained, tmp_path / "run", **HOSTILE_RECORDS[name])
    before = sorted(tmp_path.rglob("*"))
    for command in COMMANDS.values():
        with pytest.raises(ConfigError, match=REFUSALS):
            command(evaluation_config(run, []), run)
    with pytest.raises(ConfigError, match=REFUSALS):
        train(build.compose([f"resume={run}", "trainer.max_epochs=2"]))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"logger": {"a": EVIL}}, r"Repeat them on the command line: \+logger.a._target_=os.mkdir"),
        ({"logger": {"c": {"_target_": "x", "save_dir": "/"}}}, r"\+logger.c.save_dir=/"),
        (
            {"callbacks__a": EVIL},
            r"callbacks.a=.*os.mkdir.*: a record may name the classes of callbacks",
        ),
        (
            {"zz": {"_target_": SPIKES}, "callbacks__a": "${zz}"},
            r"callbacks.a=\${zz}: a record may name the classes of",
        ),
        (
            {"callbacks__a": {"_target_": SPIKES}},
            "a record may name the classes of callbacks in conf/ alone. .*, callbacks.a=null",
        ),
        ({"callbacks__best__dirpath": "/elsewhere"}, "dirpath=/elsewhere is outside the run"),
    ],
    ids=[
        "logger",
        "place of a logger",
        "callback",
        "callback by a reference",
        "class of a callback",
        "place of a callback",
    ],
)
def test_a_record_names_no_logger_and_no_place(
    trained: Path, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    run = with_record(trained, tmp_path / "run", **changes)
    with pytest.raises(ConfigError, match=words):
        train(build.compose([f"resume={run}", "trainer.max_epochs=2"]))


def change_checkpoint(run: Path, **entries: Any) -> None:
    """Replaces entries of both checkpoints of a run, or removes those that are None."""
    for path in (run / "checkpoints").glob("*.ckpt"):
        content = {**storage.load(path), **entries}
        path.write_bytes(storage.seal({k: v for k, v in content.items() if v is not None}))


ODD_ENTRIES: dict[str, dict[str, Any]] = {
    "state_dict": {"state_dict": None},
    "no dictionary of weights": {"state_dict": [1]},
    "weights of another model": {"state_dict": {"model.a": torch.zeros(2)}},
    "loops": {"loops": {}},
    "epoch": {"epoch": "x"},
    "global_step": {"global_step": None},
    "optimizer_states": {"optimizer_states": None},
    "resume_state": {"resume_state": {}},
}


@pytest.mark.parametrize("name", ODD_ENTRIES)
def test_checkpoint_without_an_entry_is_refused(trained: Path, name: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    change_checkpoint(run, **ODD_ENTRIES[name])
    entry = next(iter(ODD_ENTRIES[name]))
    words = rf"it has no {entry} as a training writes it|is of another model, or of other data: "
    if entry in ("state_dict", "loops"):
        for command in COMMANDS.values():
            with pytest.raises(ConfigError, match=rf"^checkpoint=.*({words})"):
                command(evaluation_config(run, []), run)
    with pytest.raises(ConfigError, match=rf"^resume=.*({words})"):
        train(build.compose([f"resume={run}", "trainer.max_epochs=2"]))
    if entry == "state_dict":
        words = r"it has no state_dict|nothing in .* fits this model"
        with pytest.raises(ConfigError, match=words):
            build.build(build.compose([f"model.weights={run}", "data=wine"]))


def test_data_that_a_checkpoint_describes_in_part_is_refused(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    change_checkpoint(run, metadata={"task": "multiclass"})
    (tmp_path / "table.csv").write_text("a\n1\n")
    with pytest.raises(ConfigError, match="does not describe the data that it was trained on"):
        predict(evaluation_config(run, []), run, input=tmp_path / "table.csv")


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (".hydra/config.yaml", "a: &a [1]\nb: [*a, *a]", "it refers to parts of itself by aliases"),
        (".hydra/config.yaml", "[1]", "is no configuration of a run"),
        (".hydra/config.yaml", None, "is a folder|holds no run"),
        ("result.json", None, "result.json: is a folder in the place of a file; move it away"),
        ("metrics.csv", None, "metrics.csv: is a folder in the place of a file; move it away"),
    ],
)
def test_odd_file_of_a_run_is_refused(
    trained: Path, file: str, content: str | None, words: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    if file.startswith(".hydra"):  # that of the start; the newest is read first
        shutil.copytree(run / ".hydra", run / ".hydra/resume-1")
    (run / file).unlink()
    if content is None:
        (run / file).mkdir()
    else:
        (run / file).write_text(content)
    with pytest.raises(ConfigError, match=words):
        train(build.compose([f"resume={run}", "trainer.max_epochs=2"]))


def test_resumed_run_keeps_its_callbacks_beside_new_ones(trained: Path, tmp_path: Path) -> None:
    changes = {"callbacks__a": {"_target_": SPIKES}, "callbacks__last__min_seconds": 7}
    run = with_record(trained, tmp_path / "run", **changes)
    options = ["callbacks.a=null", "callbacks.early_stopping.patience=2"]
    callbacks = build.compose([f"resume={run}", "callbacks=early_stopping", *options]).callbacks
    assert callbacks.keys() == {"best", "last", "progress_bar", "a", "early_stopping"}
    assert callbacks.last.min_seconds == 7
    assert callbacks.a is None
    assert callbacks.early_stopping.patience == 2
    with pytest.raises(ConfigError, match="a record may name the classes of callbacks"):
        build.compose([f"resume={run}", "+callbacks.a.mode=max"])


def test_recorded_profiler_with_a_place_is_left_out(trained: Path, tmp_path: Path) -> None:
    profiler = {"_target_": "lightning.pytorch.profilers.SimpleProfiler", "dirpath": "/elsewhere"}
    run = with_record(trained, tmp_path / "run", zz=profiler, trainer__profiler="${zz}")
    assert evaluation_config(run, []).trainer.profiler is None
    again = evaluation_config(run, ["trainer.profiler=simple"])
    assert again.trainer.profiler == "simple"


@pytest.mark.parametrize(("script", "key"), [("evaluate.py", "run"), ("train.py", "resume")])
def test_no_link_is_written_through(script: str, key: str, tmp_path: Path, command: Cli) -> None:
    for folder in ("run/.hydra", "run/checkpoints"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "run/.hydra/config.yaml").write_text(RECORD)
    (tmp_path / "mine").write_text("mine")
    for name in (".lock", "train.log", ".hydra/a", "checkpoints/.last.ckpt.part"):
        (tmp_path / "run" / name).symlink_to(tmp_path / "mine")
    assert command(script, f"{key}=run") == 2
    assert command.err.count(f"is a link to {tmp_path}/mine; put the file itself there.") == 4
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_value_that_is_no_text_or_number_is_refused(composed: DictConfig) -> None:
    cfg = composed.copy()
    with open_dict(cfg):
        cfg.model = OmegaConf.create("{_target_: torch.nn.Linear, _args_: [!!python/object/apply:pathlib.PosixPath [a]]}")  # fmt: skip
    metadata = dict.fromkeys(("task", "input_shape", "num_classes", "num_outputs"))
    words = r"model._args_.0=a: is a PosixPath. Write a text or a number"
    with pytest.raises(ConfigError, match=words):
        build.rebuild(cfg, metadata, CONF)


def test_a_record_may_refer_as_conf_does(trained: Path, tmp_path: Path) -> None:
    devices = OmegaConf.to_container(build.compose(["trainer=nodes"]))["trainer"]["devices"]
    run = with_record(trained, tmp_path / "run", trainer__devices=devices)
    evaluation_config(run, [])
    run = with_record(trained, tmp_path / "other", trainer__devices=devices.replace("LOCAL", "MY"))
    with pytest.raises(
        ConfigError, match=r"trainer.devices=.*is a reference that a record may not"
    ):
        evaluation_config(run, [])


def recorded(composed: DictConfig, run: Path, **model: str) -> DictConfig:
    """A configuration with another model, and a run of it with an empty checkpoint."""
    cfg = composed.copy()
    with open_dict(cfg):
        cfg.pop("hydra")
        cfg.model.update(model)
    (run / ".hydra").mkdir(parents=True)
    OmegaConf.save(cfg, run / ".hydra" / "config.yaml")
    loops = {name: {} for name in storage.NESTED["loops"]}
    content = {"state_dict": {}, "pytorch-lightning_version": "2.6.6", "loops": loops}
    storage.save(content, run / "checkpoints" / "best.ckpt")
    return cfg


def test_reference_that_leads_nowhere_is_refused(composed: DictConfig, tmp_path: Path) -> None:
    cfg = recorded(composed, tmp_path, hidden="${nowhere}")
    words = r"model.hidden=\$\{nowhere\}: .*; name a key that is there"
    with pytest.raises(ConfigError, match=words):
        evaluate(cfg, tmp_path)


def test_links_within_a_directory_and_those_of_wandb_are_none_of_ours(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in ("wandb/run-1/logs", "tensorboard", "0/.hydra/resume-1"):
        (run / name).mkdir(parents=True)
    (run / "latest").symlink_to("tensorboard")
    (run / "wandb/run-1/logs/core.log").symlink_to(tmp_path / "core.log")
    assert find_outside_links(run) == []
    for name in ("tensorboard/a", "0/.hydra/resume-1/b"):
        (run / name).symlink_to(tmp_path / "new")
    assert len(find_outside_links(run)) == 2


def test_terminal_codes_are_written_out(composed: DictConfig, tmp_path: Path, command: Cli) -> None:
    recorded(composed, tmp_path / "run", _target_="os.\x1b]0;x\a\u202e")
    assert "model._target_=os.\\x1b]0;x\\x07\\u202e: is no part of a training" in command.refuse(
        "evaluate.py", "run=run"
    )


# The only door

DOORS = {"instantiate", "call", "get_class", "get_method", "get_static_method", "get_object"}
DOORS |= {"locate", "_locate", "import_module", "__import__"}


def test_nothing_else_makes_objects_of_names() -> None:
    found = set()
    src = CONF.parent / "src"
    for path in [*src.rglob("*.py"), *ROOT.glob("*.py")]:
        for scope in ast.walk(ast.parse(path.read_text())):
            if not isinstance(scope, ast.FunctionDef | ast.Module | ast.ClassDef):
                continue
            for node in own_nodes(scope):
                names = []
                if isinstance(node, ast.Call):
                    names = [getattr(node.func, "attr", getattr(node.func, "id", None))]
                elif isinstance(node, ast.ImportFrom) and "quartet" not in str(node.module):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.Attribute):
                    names = [node.attr]
                for name in DOORS.intersection(filter(None, names)):
                    found.add((path.stem, getattr(scope, "name", ""), name, ast.unparse(node)))
    doors = {(file, scope, name) for file, scope, name, _ in found}
    assert doors - through_the_door(found) == {
        ("instantiate", "make", "instantiate"),
        ("instantiate", "instantiate", "instantiate"),
        ("signatures", "locate", "import_module"),
        ("allow", "locate", "locate"),  # signatures.locate, between two checks
        ("allow", "locate_bases", "locate"),  # of families
        ("allow", "check_target", "locate"),
        ("__init__", "__getattr__", "import_module"),  # of the public names
        ("__init__", "", "import_module"),
    }


def through_the_door(found: set[tuple[str, str, str, str]]) -> set[tuple[str, str, str]]:
    """Uses of allow.locate itself."""
    uses: dict[tuple[str, str, str], list[str]] = {}
    for file, scope, name, text in found:
        uses.setdefault((file, scope, name), []).append(text)
    return {key for key, texts in uses.items() if all("allow.locate" in text for text in texts)}


def own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """Nodes of a function, without those of functions within it."""
    for node in ast.iter_child_nodes(scope):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node
            yield from own_nodes(node)
