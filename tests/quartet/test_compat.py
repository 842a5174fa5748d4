"""Private names of other libraries: each is still there and does what its function says."""

import inspect
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import hydra
import pytest
import torch
import yaml
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric
from made import composed
from torchmetrics import MeanMetric

from quartet import compat
from quartet.build import Run, build, compose
from quartet.compat.lightning_loop import log_in_place
from quartet.core.files import CONF

pytestmark = pytest.mark.usefixtures("quiet")
SHORT = [
    *("data=wine", "data.batch_size=32", "trainer=cpu", "trainer.max_epochs=1", "logger=none"),
    *("callbacks.best=null", "callbacks.last=null", "callbacks.progress_bar=null"),
    *("metrics=none", "model.hidden=[4]"),
]


class Look(Callback):
    """Keeps what a function says of the trainer after each training batch."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.seen: list[Any] = []

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self.seen.append(self.function(trainer))


def trained(directory: Path, *overrides: str, callbacks: tuple[Callback, ...] = ()) -> Run:
    run = build(composed([*SHORT, *overrides]), directory)
    run.trainer.callbacks += callbacks  # type: ignore[attr-defined]
    run.trainer.fit(run.module, run.data)
    return run


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (compat.is_last_batch_done, [False, False, False, True]),
        (compat.is_accumulating, [True, False, True, False]),
        (compat.is_validation_due, [False, True, False, True]),
        (compat.logger_step, [-1, -1, 0, 0]),  # the validation comes after the batch
    ],
)
def test_place_in_the_epoch(function: Any, expected: list[Any], tmp_path: Path) -> None:
    look = Look(function)
    within = ("trainer.accumulate_grad_batches=2", "trainer.val_check_interval=2")
    trained(tmp_path, *within, callbacks=(look,))
    assert look.seen == expected


MINE = {"_target_": "lightning.pytorch.callbacks.LearningRateMonitor"}


@pytest.mark.parametrize("option", ["default", "ema", "[ema,early_stopping]", "[quiet,swa]"])
@pytest.mark.parametrize(
    "brought",
    [
        {"callbacks": {"mine": MINE}},
        {"defaults": [{"override /callbacks": "mine"}]},
        {"defaults": [{"override /callbacks": ["default", "mine"]}]},
    ],
    ids=["body", "option", "options"],
)
def test_callbacks_of_files_and_of_the_command_line_add_up(
    brought: dict[str, Any], option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf, ignore=shutil.ignore_patterns(".schema"))
    monkeypatch.setattr("quartet.config.compose.CONF", conf)
    files = {"callbacks/mine": {"mine": MINE}, "callbacks/quiet": {"progress_bar": None}}
    files["data/shown"] = {
        "defaults": ["digits", {"override /callbacks@_global_.callbacks": "seen"}]
    }
    files |= {"callbacks/seen": {"seen": MINE}, "experiment/brings": brought}
    for name, content in files.items():
        header = "# @package _global_\n" if name == "experiment/brings" else ""
        (conf / f"{name}.yaml").write_text(header + yaml.safe_dump(content))
    found = compose(["data=shown", "experiment=brings", f"callbacks={option}"]).callbacks
    names = {*option.strip("[]").split(",")} - {"default", "quiet"}
    assert found.keys() == {"best", "last", "progress_bar", "mine", "seen"} | names
    assert (found.progress_bar is None) == ("quiet" in option)
    assert "mine" not in compose([f"callbacks={option}"]).callbacks
    assert compose(["experiment=brings", "callbacks.mine=null"]).callbacks.mine is None


def test_options_are_composed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(CONF, tmp_path / "conf", ignore=shutil.ignore_patterns(".schema"))
    monkeypatch.setattr("quartet.config.compose.CONF", tmp_path / "conf")
    first = compose(["model=linear", "seed=3"])
    assert first.seed == 3
    first.model._target_ = "changed"
    parse = Mock(side_effect=AssertionError)
    with monkeypatch.context() as patch:
        patch.setattr("yaml.load", parse)
        again = compose(["model=linear", "optimizer.lr=0.5"])
    assert again.model._target_ != "changed"
    assert (again.optimizer.lr, again.seed) == (0.5, 0)
    assert again.hydra.overrides.task == ["model=linear", "optimizer.lr=0.5"]
    file = tmp_path / "conf/model/linear.yaml"
    file.write_text(file.read_text().replace("_target_: ", "_target_: other."))
    assert compose(["model=linear"]).model._target_ == f"other.{again.model._target_}"
    # In a folder that is a link, and chosen by a variable.
    (tmp_path / "own").mkdir()
    (tmp_path / "conf/own").symlink_to(tmp_path / "own")
    (tmp_path / "conf/model/mine.yaml").write_text("defaults: [{/own@_here_: '${oc.env:MINE}'}]")
    for name, value in (("a", 1), ("b", 1), ("a", 20), ("b", 1)):
        (tmp_path / f"own/{name}.yaml").write_text(f"{name}: {value}")
        monkeypatch.setenv("MINE", name)
        assert compose(["model=mine"]).model[name] == value


def test_another_application_sees_what_it_registers(tmp_path: Path) -> None:
    compose()
    (tmp_path / "config.yaml").write_text("defaults: [made]")
    for value in (1, 2):
        ConfigStore.instance().store("made", {"value": value})
        with initialize_config_dir(str(tmp_path), version_base="1.3"):
            assert hydra.compose("config") == {"value": value}


def test_packages_are_searched_once_for_callbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    compat.read_entry_points_once()
    Trainer(logger=False)
    monkeypatch.setattr("importlib.metadata.distributions", Mock(side_effect=AssertionError))
    Trainer(logger=False)


def test_values_of_an_epoch_are_logged_after_its_hooks(tmp_path: Path) -> None:
    class AtEnd(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
            pl_module.log("own", torch.tensor(0.5))

        def on_save_checkpoint(self, trainer: Trainer, *args: Any) -> None:
            self.values = compat.logged_values(trainer)

    callback = AtEnd()
    saves = ModelCheckpoint(tmp_path / "checkpoints", save_on_train_epoch_end=True)
    trained(tmp_path, callbacks=(callback, saves))
    assert {"own", "train/loss", "lr"} <= callback.values.keys()
    assert callback.values["own"] == 0.5


def test_trained_run_tells_its_trainer_saves_counts_and_is_left(tmp_path: Path) -> None:
    run = build(composed(SHORT), tmp_path)
    assert compat.get_trainer(run.module) is None
    run.trainer.fit(run.module, run.data)
    trainer = run.trainer
    assert compat.get_trainer(run.module) is trainer
    compat.save_checkpoint(ModelCheckpoint(tmp_path), trainer, str(tmp_path / "own.ckpt"))
    assert (tmp_path / "own.ckpt").is_file()
    state = trainer.fit_loop.state_dict()["epoch_loop.state_dict"]
    assert state["_batches_that_stepped"] == 4
    compat.add_logger_step(state)
    assert state["_batches_that_stepped"] == 5
    trainer.fit_loop.restarting = True
    compat.start_new_epoch(trainer)
    assert not trainer.fit_loop.restarting
    assert not trainer.fit_loop.epoch_loop.restarting


def test_average_of_the_weights_and_its_last_update(tmp_path: Path) -> None:
    averaging = WeightAveraging()
    assert compat.get_average(averaging) is None
    trained(tmp_path, callbacks=(averaging,))
    average = compat.get_average(averaging)
    assert average is not None
    assert average.n_averaged == 4
    assert compat.last_update(averaging) == 4
    compat.set_last_update(averaging, 7)
    assert averaging.state_dict() == {"latest_update_step": 7}


def test_processes_that_shard_a_model_are_counted() -> None:
    strategy: Any = ModelParallelStrategy()
    compat.set_data_parallel_size(strategy, 3)
    assert strategy._data_parallel_size == 3
    assert ModelParallelStrategy()._data_parallel_size == "auto"  # another name would be new


def test_adam_does_not_look_for_a_gpu_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # as Lightning does
    compat.skip_nvml()
    assert "PYTORCH_NVML_BASED_CUDA_CHECK" not in os.environ


def test_update_count_of_a_metric_is_set() -> None:
    metric = MeanMetric()
    compat.set_update_count(metric, 3)
    assert metric.update_count == 3
    metric.compute()  # does not warn that there was no update


def test_hydra_returns_the_error_of_a_job() -> None:
    error = ValueError("no")
    returned = JobReturn(status=JobStatus.FAILED)
    returned.return_value = error
    assert compat.job_error(returned) is error


def test_hydra_formats_values_as_overrides() -> None:
    values = (3, 0.5, "sgd", True, None, [16, 8], {"a": 1})
    assert [compat.format_value(value) for value in values] == [
        *("3", "0.5", "sgd", "True", "null", "[16,8]", "{a:1}")
    ]


def test_logger_is_started_by_its_experiment() -> None:
    logger: Any = SimpleNamespace(_experiment=None)
    assert not compat.was_started(logger)
    logger._experiment = object()
    assert compat.was_started(logger)
    assert "_experiment" in inspect.getsource(WandbLogger)


def test_data_module_says_its_parts() -> None:
    assert str(build(composed(["data=wine"])).data) == "DataModule(train 124, val 18, test 36)"


def test_logged_value_is_copied_only_to_another_device() -> None:
    log_in_place()
    value = _ResultMetric(_Metadata("training_step", "loss"), is_tensor=True)
    known = value.meta
    assert value.to(torch.device("cpu")).meta is known
    assert value.to(torch.device("meta")).value.device.type == "meta"
    assert value.meta is not known
