"""A configuration names parts of a training, and nothing else is ever called."""

import ast
import gc
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from made import PROJECT
from omegaconf import DictConfig, OmegaConf, open_dict

from quartet import build
from quartet.checkpoints import storage
from quartet.config import allow, foreign
from quartet.config.instantiate import make
from quartet.core.files import CONF
from quartet.core.problems import ConfigError
from quartet.inference.evaluate import evaluate

ROOT = CONF.parent

HOSTILE = [
    *("os.system", "posix.system", "os.popen", "os.execv", "os.remove", "os.fork", "os.kill"),
    *("nt.system", "shutil.rmtree", "pathlib.Path", "tempfile.mkstemp", "io.open", "codecs.open"),
    *("builtins.open", "builtins.eval", "builtins.exec", "builtins.compile", "builtins.getattr"),
    *("builtins.__import__", "builtins.print", "builtins.dict", "getattr", "eval"),
    *("subprocess.Popen", "subprocess.run", "subprocess.check_output", "multiprocessing.Process"),
    *("importlib.import_module", "runpy.run_path", "pkgutil.resolve_name", "pydoc.locate"),
    *("pickle.loads", "pickle.load", "marshal.loads", "joblib.load", "numpy.load"),
    *("pandas.read_pickle", "cloudpickle.loads", "dill.loads", "yaml.unsafe_load"),
    *("code.interact", "pdb.set_trace", "socket.socket", "webbrowser.open", "ctypes.CDLL"),
    *("urllib.request.urlretrieve", "antigravity.fly", "signal.alarm", "threading.Thread"),
    *("functools.partial", "functools.reduce", "operator.methodcaller", "operator.attrgetter"),
    *("hydra.utils.instantiate", "hydra.utils.call", "hydra.utils.get_object", "hydra.main"),
    *("hydra.utils.get_method", "hydra.utils.get_class", "hydra._internal.utils._locate"),
    *("omegaconf.OmegaConf.load", "omegaconf.OmegaConf.register_new_resolver"),
    *("torch.load", "torch.save", "torch.hub.load", "torch.compile", "torch.jit.load"),
    *("torch.utils.cpp_extension.load", "torch.ops.load_library", "torch.classes.load_library"),
    *("torch.package.PackageImporter", "torch.utils.data.DataLoader", "torch.tensor", "torch.nn"),
    *("torch.nn.modules.module.torch.load", "torch.nn.modules.module.functools.partial"),
    *("torch.nn.functional.relu", "torch.nn.Module.load_state_dict", "torch.optim.Optimizer.step"),
    *("torch.nn.parallel.distributed.os.system", "torch.optim.optimizer.torch.load"),
    *(
        "torch.optim.lr_scheduler.partial",
        "torch.multiprocessing.spawn",
        "torch.serialization.load",
    ),
    *("torchvision.datasets.MNIST", "torchvision.datasets.utils.download_url"),
    *("torchvision.io.write_file", "torchvision.models.resnet18", "torchvision.ops.MLP.torch.load"),
    *("torchmetrics.utilities.imports.os.system", "torchmetrics.metric.torch.load"),
    *("lightning.pytorch.cli.LightningCLI", "lightning.pytorch.cli.instantiate_class"),
    *("lightning.LightningModule.load_from_checkpoint", "lightning.fabric.Fabric"),
    *("lightning.pytorch.core.saving.load_from_checkpoint", "lightning.seed_everything"),
    *("lightning.pytorch.callbacks.model_checkpoint.shutil.rmtree",),
    *("lightning.pytorch.trainer.trainer.os.system", "lightning.pytorch.Trainer.fit"),
    *(
        "quartet.config.instantiate.hydra.utils.get_method",
        "quartet.config.instantiate.hydra.utils.instantiate",
    ),
    *(
        "quartet.config.instantiate.make",
        "quartet.build.compose",
        "quartet.config.allow.locate",
        "quartet.config.allow.guard",
    ),
    *(
        "quartet.checkpoints.storage.save",
        "quartet.checkpoints.storage.torch.load",
        "quartet.checkpoints.storage.os.system",
    ),
    *(
        "quartet.records.result.subprocess.run",
        "quartet.records.result.write_result",
        "quartet.cli.commands.remove_empty",
    ),
    *(
        "quartet.training.module.Module.load_from_checkpoint",
        "quartet.core.signals.shutdown",
        "quartet.core.signals.shutdown.handle",
    ),
    *(
        f"{PROJECT}.loss.F.cross_entropy",
        "quartet.config.instantiate.functools.partial",
        "quartet.__init__.x",
    ),
    *(
        "quartet.config.instantiate.make.__globals__",
        f"{PROJECT}.loss.FocalLoss.__subclasses__",
        "quartet.build",
    ),
    *("hydra_plugins.quartet.GridSweeper", "hydra_plugins.quartet.GridSweeper.sweep"),
    *(
        "quartet.sweeps.cluster.Work",
        "quartet.sweeps.local.Program",
        "quartet.records.sweep_table.Job",
    ),
    *(
        "quartet.data.datamodule.DataModule",
        "quartet.data.datamodule.DataModule.load",
        "quartet.sweeps.search.Search",
    ),
    *(f"{PROJECT}.data.vision._download", "quartet.data.loader.Batches"),
    *("logging.FileHandler", "quartet", "", ".", "os..system", "..os.system", "os.system "),
]

PLACES: dict[str, Callable[[str], dict[str, Any]]] = {
    "top": lambda target: {"loss": {"_target_": target}},
    "partial": lambda target: {"loss": {"_target_": target, "_partial_": True}},
    "nested": lambda target: {"model.activation": {"_target_": target, "command": "touch canary"}},
    "args": lambda target: {"loss._args_": [{"a": [{"_target_": target, "_partial_": True}]}]},
    "not_recursive": lambda target: {"loss._recursive_": False, "loss.a": {"_target_": target}},
    "callback": lambda target: {"callbacks.mine": {"_target_": target, "_args_": ["touch canary"]}},
    "driving": lambda target: {"optimizer.lr_factors": {"a": {"_target_": target}}},
    "interpolated": lambda target: {"evil": target, "loss._target_": "${evil}"},
    "interpolated_node": lambda target: {"evil": {"_target_": target}, "loss.a": "${evil}"},
    "decoded": lambda target: {"loss.a": f"${{oc.decode:'{{_target_: \"{target}\"}}'}}"},
    "escaped": lambda target: {"loss.a": f"\\${{oc.decode:'{{_target_: \"{target}\"}}'}}"},
    "unused": lambda target: {"evil": {"_target_": target}, "seed": 0, "other": "${evil}"},
}

# Where it is refused, for the messages.
KEYS = {
    "top": "loss._target_",
    "partial": "loss._target_",
    "nested": "model.activation._target_",
    "args": "loss._args_.0.a.0._target_",
    "not_recursive": "loss.a._target_",
    "callback": "callbacks.mine._target_",
    "driving": "optimizer.lr_factors.a._target_",
    "interpolated": "loss._target_",
    "interpolated_node": "loss.a._target_",
    "decoded": "loss.a._target_",
    "escaped": "loss.a",
    "unused": "evil._target_",
}


@pytest.fixture(scope="module")
def composed() -> DictConfig:
    return build.compose(["trainer.accelerator=cpu"])


@pytest.fixture
def instantiated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What reaches Hydra's instantiate, as text."""
    seen: list[str] = []
    instantiate = hydra.utils.instantiate

    def record(node: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(str(node))
        return instantiate(node, *args, **kwargs)

    monkeypatch.setattr(hydra.utils, "instantiate", record)
    return seen


def hostile(cfg: DictConfig, place: str, target: str) -> DictConfig:
    cfg = cfg.copy()
    with open_dict(cfg):
        for key, value in PLACES[place](target).items():
            OmegaConf.update(cfg, key, value, force_add=True, merge=False)
    return cfg


def refused(cfg: DictConfig, place: str, target: str, run: Callable[[DictConfig], Any]) -> None:
    with pytest.raises(ConfigError) as raised:
        run(cfg)
    faults = [fault for fault in raised.value.faults if fault.startswith(f"{KEYS[place]}=")]
    assert len(faults) == 1, raised.value.faults
    assert target.strip() in faults[0]


@pytest.mark.parametrize("target", HOSTILE)
def test_a_hostile_target_is_refused(target: str) -> None:
    with pytest.raises(
        ValueError, match=r"no part of a training that a conf|must be a class|has no"
    ):
        allow.locate(target)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "target", ["os.system", "torch.load", "quartet.config.instantiate.hydra.utils.call"]
)
def test_it_is_refused_wherever_it_stands(
    composed: DictConfig,
    instantiated: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    target: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = hostile(composed, place, target)
    refused(cfg, place, target, lambda cfg: build.build(cfg, tmp_path / "run"))
    assert not [node for node in instantiated if target in node]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["top", "nested", "args", "partial", "interpolated"])
def test_every_hostile_target_is_refused_in_a_configuration(
    composed: DictConfig, place: str
) -> None:
    resolved = OmegaConf.to_container(composed, resolve=True)
    small = OmegaConf.create({group: resolved[group] for group in ("loss", "model")})
    for target in HOSTILE:
        tree = OmegaConf.to_container(hostile(small, place, target), resolve=True)
        faults = allow.faults({k: v for k, v in tree.items() if k in ("loss", "model")})
        assert [fault.partition("=")[0] for fault in faults] == [KEYS[place]], target


@pytest.mark.parametrize(
    "overrides",
    [
        ["loss._target_=os.system", "+loss.command='touch canary'"],
        ["+loss.a={_target_:os.system,command:touch canary}"],
        ["+evil={_target_:os.system,command:touch canary}", "+loss.a=${evil}"],
        ["+callbacks.a._target_=subprocess.run", "+callbacks.a.args=[touch,canary]"],
        ["+logger.a._target_=os.mkdir", "+logger.a.path=canary"],
        ["+metrics.a._target_=builtins.open", "+metrics.a.file=canary", "+metrics.a.mode=w"],
        ["+trainer.plugins=[{_target_:os.mkdir,path:canary}]"],
        ["trainer.profiler={_target_:os.mkdir,path:canary}"],
        ["data._target_=pickle.load"],
        ["optimizer._target_=torch.load", "+optimizer.f=canary"],
        ["scheduler._target_=torch.hub.load", "+scheduler.repo_or_dir=x"],
    ],
    ids=" ".join,
)
def test_it_is_refused_from_the_command_line(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no part of a training that a configuration may name"):
        build.build(build.compose(overrides), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_all_hostile_targets_are_told_at_once(composed: DictConfig) -> None:
    cfg = hostile(hostile(composed, "callback", "os.system"), "top", "torch.load")
    with pytest.raises(ConfigError) as raised:
        build.build(cfg)
    told = [fault.partition(":")[0] for fault in raised.value.faults]
    assert {"loss._target_=torch.load", "callbacks.mine._target_=os.system"} <= set(told)


@pytest.mark.parametrize(
    "place", [place for place in PLACES if place != "callback"]
)  # evaluating makes no callbacks
def test_it_is_refused_in_the_record_of_a_run(
    composed: DictConfig, instantiated: list[str], tmp_path: Path, place: str
) -> None:
    cfg = hostile(composed, place, "os.system")
    with open_dict(cfg):
        cfg.pop("hydra")
    (tmp_path / "checkpoints").mkdir()
    storage.save({"state_dict": {}}, tmp_path / "checkpoints" / "best.ckpt")
    refused(cfg, place, "os.system", lambda cfg: evaluate(cfg, tmp_path))
    assert not [node for node in instantiated if "os.system" in node]


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
def test_the_choke_point_itself_refuses(
    node: Any, partial: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError):
        make(node, partial)
    assert list(tmp_path.iterdir()) == []


def test_a_module_outside_the_families_is_not_even_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath('canary').touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
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


@pytest.mark.parametrize("target", sorted(set(targets())))
def test_every_target_of_the_options_is_allowed(target: str) -> None:
    assert callable(allow.locate(target))


@pytest.mark.parametrize(
    "target",
    [
        *("torch.nn.CrossEntropyLoss", "torch.nn.modules.loss.L1Loss", "torch.nn.ReLU"),
        *("torch.optim.SGD", "torch.optim.lr_scheduler.StepLR", "torch.optim.swa_utils.SWALR"),
        *("torchmetrics.Accuracy", "torchmetrics.classification.MulticlassAUROC"),
        *("torchmetrics.MetricCollection", "torchvision.transforms.v2.RandomCrop"),
        *("lightning.Trainer", "lightning.pytorch.Trainer", f"{PROJECT}.loss.FocalLoss"),
        *("lightning.pytorch.callbacks.EarlyStopping", "lightning.pytorch.loggers.CSVLogger"),
        *("lightning.pytorch.profilers.SimpleProfiler", "lightning.pytorch.strategies.DDPStrategy"),
        *("lightning.pytorch.plugins.MixedPrecision", f"{PROJECT}.data.digits.digits"),
        "lightning.pytorch.plugins.environments.LightningEnvironment",
    ],
)
def test_parts_of_a_training_are_allowed(target: str) -> None:
    assert callable(allow.locate(target))


def test_a_fork_allows_more_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allow, "FAMILIES", list(allow.FAMILIES))
    with pytest.raises(ValueError, match=r"allow it in FAMILIES of quartet/allow.py"):
        allow.locate("torchvision.models.ResNet")
    allow.FAMILIES.append(("torchvision.models", "torch.nn.Module"))
    assert allow.locate("torchvision.models.ResNet").__name__ == "ResNet"
    with pytest.raises(ValueError, match="no part of a training"):
        allow.locate("torchvision.models.resnet18")


# What Hydra makes by itself

HYDRA = {
    "callback": ["+hydra.callbacks.a._target_=os.mkdir", "+hydra.callbacks.a.path=canary"],
    "callback_args": ["+hydra.callbacks.a={_target_:os.mkdir,_args_:[canary]}"],
    "own_callback_nested": ["+hydra.callbacks.directory.a={_target_:os.mkdir,path:canary}"],
    "pieces": [
        "+hydra.callbacks.a._target_=${evil}",
        "+evil=os.mkdir",
        "+hydra.callbacks.a.path=c",
    ],
    "node": ["+hydra.callbacks.a=${evil}", "+evil={_target_:os.mkdir,path:canary}"],
    "function": ["+hydra.callbacks.a._target_=quartet.core.files.make_unique_directory"],
    "launcher": ["+hydra.launcher.a={_target_:os.mkdir,path:canary}", "hydra.mode=MULTIRUN"],
    "launcher_itself": ["hydra.launcher._target_=os.system", "hydra.mode=MULTIRUN"],
    "sweeper": ["+hydra.sweeper.a={_target_:os.mkdir,path:canary}", "hydra.mode=MULTIRUN"],
    "handler": ["+hydra.job_logging.handlers.a={class:subprocess.Popen,args:[touch,canary]}"],
    "handler_node": [
        "+hydra.job_logging.handlers.a=${hydra.help.a}",
        "+hydra.help.a={class:subprocess.Popen,args:[touch,canary]}",
    ],
    "handler_node_late": [
        "+hydra.job_logging.handlers.a=${hydra:help.a}",
        "+hydra.help.a={class:subprocess.Popen,args:[touch,canary]}",
    ],
    "queue": ["+hydra.job_logging.handlers.a={class:logging.handlers.QueueHandler}"],
    "socket": ["+hydra.job_logging.handlers.a={class:logging.handlers.SocketHandler}"],
    "file": ["hydra.job_logging.handlers.file.filename=canary"],
    "another_file": ["+hydra.job_logging.handlers.a={class:logging.FileHandler,filename:canary}"],
    "log_elsewhere": ["hydra.job.name=../canary"],
    "log_elsewhere_late": ["hydra.job.name=${data.dir}"],
    "attributes": ["+hydra.job_logging.handlers.a={class:logging.NullHandler,.:{a:b}}"],
    "record_elsewhere": ["hydra.output_subdir=../canary"],
    "environment": ["+hydra.job.env_set.GIT_CONFIG_COUNT='1'"],
    "import": ["hydra.job_logging.handlers.console.stream=ext://os.system"],
}


# The command line has no words for these, files have.
IN_FILES = {
    "decoded": {"callbacks": {"a": "${oc.decode:'{_target_: os.mkdir, path: canary}'}"}},
    "decoded_list": {"sweeper": {"a": "${oc.decode:'[{_target_: os.mkdir, path: canary}]'}"}},
    "escaped": {"callbacks": {"a": {"b": "\\${oc.decode:'{_target_: os.mkdir, path: canary}'}"}}},
    "late": {"callbacks": {"a": {"b": "${oc.decode:'{_target_: ${hydra:job.id}}'}"}}},
    "late_target": {"callbacks": {"a": {"_target_": "${hydra:job.id}"}}},
    "no_text": {"callbacks": {"a": {"_target_": ["os.mkdir"]}}},
    "list": {"launcher": {"a": [[{"_target_": "os.mkdir", "path": "canary"}]]}},
    "formatter": {"job_logging": {"formatters": {"a": {"()": "os.mkdir", "path": "canary"}}}},
    "filter": {"hydra_logging": {"filters": {"a": {"()": "subprocess.Popen", "args": ["touch"]}}}},
    "late_class": {"job_logging": {"handlers": {"a": {"class": "${hydra:job.id}"}}}},
    "late_file": {"job_logging": {"handlers": {"a": {"filename": "${hydra.job.id}/../canary"}}}},
    "itself": {"callbacks": {"a": {"b": "${..c}"}, "c": {"d": "${..a}"}}},
}


@pytest.mark.parametrize("name", IN_FILES)
def test_hydras_own_settings_are_checked_when_files_set_them(name: str) -> None:
    cfg = OmegaConf.create({"hydra": IN_FILES[name]})
    assert list(allow.found_in_hydra(cfg.hydra, "hydra"))


def test_overrides_that_nobody_typed_are_refused() -> None:
    cfg = OmegaConf.create(
        {
            "job": {"name": "train", "env_set": {}},
            "output_subdir": ".hydra",
            "overrides": {"hydra": ["hydra.run.dir=a"], "task": ["lr=${b}"]},
        }
    )
    assert list(allow.elsewhere(cfg, ["hydra.run.dir=a", "lr=${b}"])) == []
    (fault,) = allow.elsewhere(cfg, ["lr=${b}"])
    assert fault.startswith("hydra.overrides: hydra.run.dir=a is not on the command line")


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", ConfigLoaderImpl.load_configuration)
    allow.guard()


@pytest.mark.usefixtures("guarded")
def test_garbage_is_collected_from_the_composed_configuration_on() -> None:
    gc.disable()
    try:
        build.compose([])
        assert gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize("name", HYDRA)
@pytest.mark.usefixtures("guarded")
def test_hydras_own_settings_are_checked_when_composed(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        build.compose(HYDRA[name])
    assert raised.value.code == 2
    assert "Refused:\n  hydra." in capsys.readouterr().err


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["hydra/job_logging=disabled"],
        ["hydra/job_logging=stdout", "hydra/hydra_logging=none"],
        ["hydra.mode=MULTIRUN", "hydra.sweeper.max_batch_size=2"],
        ["hydra.run.dir=a", "hydra.job.name=b", "hydra.verbose=true"],
        ["+hydra.callbacks.a._target_=hydra.experimental.callbacks.LogJobReturnCallback"],
        ["loss.label_smoothing=${data.crop}"],
    ],
    ids=lambda node: str(node).split(" at 0x")[0],
)
def test_usual_settings_of_hydra_pass(overrides: list[str]) -> None:
    build.compose(overrides)


def command(script: str, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", ["callback", "own_callback_nested", "launcher", "handler"])
def test_a_command_refuses_before_hydra_calls_anything(name: str, tmp_path: Path) -> None:
    done = command("train.py", tmp_path, *HYDRA[name])
    assert done.returncode == 2
    assert done.stderr.startswith("Refused:\n  hydra.")
    assert list(tmp_path.iterdir()) == []


RECORDS = {
    "hydra": "hydra:\n  callbacks:\n    a:\n      _target_: os.mkdir\n      path: canary\n",
    "defaults": "defaults:\n  - hydra/callbacks: evil\n  - _self_\n",
    "package": "# @package hydra.callbacks\na:\n  _target_: os.mkdir\n  path: canary\n",
    "search": "hydra:\n  searchpath: ['pkg://evil']\n",
    "environment": "hydra:\n  job:\n    env_set: {PATH: .}\n",
    # Python ends a line by more than a line feed.
    "separated": "# a\u2028# @package hydra\nverbose: true\n",
    "fed": "# a\x0c # @package hydra\nverbose: true\n",
    "repeated": "a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]\n",
}


@pytest.mark.parametrize("script", ["evaluate.py", "predict.py"])
@pytest.mark.parametrize("name", RECORDS)
def test_a_run_cannot_direct_hydra(script: str, name: str, tmp_path: Path) -> None:
    run = tmp_path / "run" / ".hydra"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(RECORDS[name])
    done = command(script, tmp_path, "run=run")
    assert done.returncode == 2
    assert done.stderr.startswith("Refused:\n  run/.hydra/config.yaml: ")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("script", "key"),
    [("evaluate.py", "run"), ("train.py", "resume")],
)
@pytest.mark.parametrize("name", [".lock", "train.log", ".hydra/a", "checkpoints/.last.ckpt.part"])
def test_nothing_is_written_through_a_link(
    script: str, key: str, name: str, tmp_path: Path
) -> None:
    for folder in ("run/.hydra", "run/checkpoints"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "run/.hydra/config.yaml").write_text("seed: 0\n")
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "run" / name).symlink_to(tmp_path / "mine")
    done = command(script, tmp_path, f"{key}=run")
    assert done.returncode == 2
    assert f"run/{name} is a link to {tmp_path}/mine; put the file itself there." in done.stderr
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_value_that_is_no_text_or_number_is_refused(composed: DictConfig) -> None:
    cfg = composed.copy()
    with open_dict(cfg):
        cfg.model = OmegaConf.create("{_target_: torch.nn.Linear, _args_: [!!python/object/apply:pathlib.PosixPath [a]]}")  # fmt: skip
    with pytest.raises(
        ConfigError, match=r"model._args_.0=a: is a PosixPath; write a text or a number"
    ):
        build.rebuild(
            cfg, dict.fromkeys(("task", "input_shape", "num_classes", "num_outputs")), CONF
        )


def test_a_record_sends_no_secret_and_writes_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE", "https://a.example")
    monkeypatch.setenv("ACCESS", "0123456789")
    monkeypatch.setattr(sys, "argv", ["train.py", "resume=run", "logger.c.save_dir=/again"])
    cfg = OmegaConf.create(
        {
            "model": {"a": "${oc.env:SERVICE}", "weights": "http://b.example/${oc.env:ACCESS}"},
            "logger": {
                "a": {"uri": "http://c.example", "name": "of ${oc.env:ACCESS}"},
                "b": {"uri": "http://d.example", "save_dir": str(tmp_path), "name": ""},
                "c": {"key": "${oc.env:ACCESS}", "save_dir": "/again"},
                "d": {"save_dir": "/elsewhere", "version": "../../x"},
            },
            "trainer": {"profiler": {"dirpath": "/there", "filename": "/there"}},
            "data": {"dir": "/somewhere", "name": "../data"},
        }
    )
    told = [fault.partition(": ")[0] for fault in foreign.faults(cfg, tmp_path)]
    assert told == [
        "logger.d.save_dir=/elsewhere",
        "logger.d.version=../../x",
        "trainer.profiler.dirpath=/there",
        "trainer.profiler.filename=/there",
        "model.weights=http://b.example/${oc.env:ACCESS}",
        "logger.a.uri=http://c.example",
    ]


def test_a_reference_of_a_record_that_leads_nowhere_is_refused(
    composed: DictConfig, tmp_path: Path
) -> None:
    cfg = composed.copy()
    with open_dict(cfg):
        cfg.pop("hydra")
        cfg.model.hidden = "${nowhere}"
    storage.save({"state_dict": {}}, tmp_path / "checkpoints" / "best.ckpt")
    with pytest.raises(
        ConfigError, match=r"model.hidden=\$\{nowhere\}: .*; name a key that is there"
    ):
        evaluate(cfg, tmp_path)


def test_links_within_a_directory_and_those_of_wandb_are_none_of_ours(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in ("wandb/run-1/logs", "tensorboard", "0/.hydra/starting"):
        (run / name).mkdir(parents=True)
    (run / "latest").symlink_to("tensorboard")
    (run / "wandb/run-1/logs/core.log").symlink_to(tmp_path / "core.log")
    assert foreign.links(run) == []
    for name in ("tensorboard/a", "0/.hydra/starting/b"):
        (run / name).symlink_to(tmp_path / "new")
    assert len(foreign.links(run)) == 2


def test_what_would_direct_a_terminal_is_written_out(composed: DictConfig, tmp_path: Path) -> None:
    cfg = composed.copy()
    with open_dict(cfg):
        cfg.pop("hydra")
        cfg.model._target_ = "os.\x1b]0;x\a\u202e"
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    OmegaConf.save(cfg, tmp_path / "run" / ".hydra" / "config.yaml")
    storage.save({"state_dict": {}}, tmp_path / "run" / "checkpoints" / "best.ckpt")
    done = command("evaluate.py", tmp_path, "run=run")
    assert done.returncode == 2
    assert "model._target_=os.\\x1b]0;x\\x07\\u202e: is no part of a training" in done.stderr


def test_a_run_cannot_replace_the_options_of_hydra(tmp_path: Path) -> None:
    groups = tmp_path / "run" / ".hydra" / "hydra" / "job_logging"
    groups.mkdir(parents=True)
    (groups.parents[1] / "config.yaml").write_text("seed: 0\n")
    (groups / "disabled.yaml").write_text(
        "version: 1\nformatters: {a: {'()': os.mkdir, path: canary}}\n"
    )
    done = command("evaluate.py", tmp_path, "run=run")
    assert done.returncode
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not (tmp_path / "run" / "canary").exists()


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
        ("parts", "make", "instantiate"),
        ("schema", "locate", "import_module"),
        ("allow", "locate", "locate"),  # schema.locate, between two checks
        ("allow", "belongs", "locate"),  # the base of a family
        ("allow", "refused", "locate"),
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


def test_functions_of_every_file_but_those_of_parts_are_out_of_reach() -> None:
    source = Path(allow.__file__).parent
    conf = "".join(path.read_text() for path in CONF.rglob("*.yaml"))
    parts = {"metrics", "scheduler", "task", *re.findall(rf"_target_: {allow.OWN}\.(\w+)", conf)}
    own = {path.stem for path in source.iterdir()} - {"__init__", "__pycache__"}
    left = {f"{allow.OWN}.{name}" for name in own - parts} - allow.MACHINERY
    assert not left, "no option names them: MACHINERY of allow.py is where they belong"
    for name in ("after.predict", "find.learning_rate", "weights.load", "logger.rewind"):
        with pytest.raises(ValueError, match="is no part of a training"):
            allow.locate(f"{allow.OWN}.{name}")
