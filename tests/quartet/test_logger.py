"""Loggers: their records of a run, read back by their own readers."""

import json
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import MLFlowLogger
from made import composed
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

from quartet.config.configuration import to_container
from quartet.config.overrides import is_option
from quartet.records.loggers import hyperparameters, logged_run
from quartet.records.run_directory import group_choices
from quartet.run import train

SHORT = ("data=linear", "data.batch_size=20", "model.hidden=[16]", "trainer=cpu")
SHORT += ("trainer.max_epochs=2", "callbacks.progress_bar=null")


def in_tensorboard(folder: Path) -> list[tuple[dict[str, Any], dict[str, float]]]:
    """What its HParams tab shows: settings and figures of each run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the reader's own parts
        runs = EventMultiplexer().AddRunsFromDirectory(str(folder))
        runs.Reload()
    provider = MultiplexerDataProvider(runs, str(folder))
    context = backend_context.Context(base_plugin.TBContext(data_provider=provider))
    wanted = api_pb2.ListSessionGroupsRequest(
        start_index=0, slice_size=99, allowed_statuses=[0, 1, 2, 3]
    )
    shown = list_session_groups.Handler(RequestContext(), context, "", wanted).run()
    found = []
    for group in shown.session_groups:
        settings = {k: getattr(v, v.WhichOneof("kind")) for k, v in group.hparams.items()}
        found.append((settings, {each.name.tag: each.value for each in group.metric_values}))
    return found


def in_wandb(path: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Name, settings and summary of an offline run."""
    from wandb.proto.wandb_internal_pb2 import Record

    def records(content: bytes, at: int = 7, record: bytes = b"") -> Iterator[Any]:
        while at + 7 <= len(content):  # pieces in blocks of 32 KiB, as LevelDB's log has them
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
                continue
            size, kind = struct.unpack("<HB", content[at + 4 : at + 7])
            record += content[at + 7 : at + 7 + size]
            at += 7 + size
            if kind in (1, 4):  # whole, or the last piece
                yield Record.FromString(record)
                record = b""

    name, settings, summary = "", {}, {}
    for record in records(path.read_bytes()):
        name = record.run.run_id or name
        settings |= {each.key: json.loads(each.value_json) for each in record.config.update}
        summary |= {
            each.key or ".".join(each.nested_key): json.loads(each.value_json)
            for each in record.summary.update
        }
    return name, settings, summary


def best(result: dict[str, Any]) -> dict[str, float]:
    figures = {f"best/{k}": v for k, v in result["metrics"].items() if not k.startswith("test/")}
    tested = {k: v for k, v in result["metrics"].items() if k.startswith("test/")}
    return {**figures, **tested, "best/epoch": result["monitor"]["epoch"]}


def test_settings_are_flat_and_readable() -> None:
    cfg = composed(["optimizer.lr_factors={layers.0.*: 0.5}", "callbacks=early_stopping"])
    choices = group_choices(cfg.hydra.runtime.choices)
    listed = hyperparameters(OmegaConf.to_container(cfg), cfg, choices)
    wanted = {
        "optimizer": "adam",
        "optimizer.lr": 0.002,
        "optimizer.lr_factors": "{'layers.0.*': 0.5}",
        "model.hidden": "[128]",
        "callbacks.early_stopping.patience": 5,
        "data.shuffle": True,
        "seed": 0,
    }
    assert wanted.items() <= listed.items()
    assert {type(value) for value in listed.values()} == {str, float, int, bool}
    others = ("callbacks.best", "metrics", "logger", "directory", "hydra", "sweep", "launcher")
    assert not [name for name in listed if name.startswith(others) or "search" in name]


def test_settings_name_a_secret_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "short")
    monkeypatch.setenv("MY_TOKEN", "a long one")
    cfg = composed(["+model.key=${oc.env:MINE}", "+model.other=with a long one"])
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    listed = hyperparameters(settings, to_container(cfg, resolve=False), {})
    assert listed["model.key"] == "${oc.env:MINE}"
    assert listed["model.other"] == "with ${oc.env:MY_TOKEN}"


def test_default_is_the_file_and_tensorboard(tmp_path: Path) -> None:
    for name in ("adam", "sgd"):
        result = train(composed([*SHORT, f"optimizer={name}"]), tmp_path / name)
    assert (tmp_path / "sgd/metrics.csv").exists()
    runs = sorted(in_tensorboard(tmp_path), key=lambda run: run[0]["optimizer"])
    (adam, _), (sgd, figures) = runs
    assert sgd["optimizer"] == "sgd"
    assert adam["optimizer.betas"] == "[0.9, 0.999]"  # of no consequence for the other
    assert sgd["trainer.max_epochs"] == 2
    assert {k: figures[k] for k in best(result)} == pytest.approx(best(result), rel=1e-6)


def test_csv_writes_no_other_log(tmp_path: Path) -> None:
    train(composed([*SHORT, "trainer.max_epochs=1", "logger=csv"]), tmp_path / "run")
    assert (tmp_path / "run/metrics.csv").exists()
    assert not (tmp_path / "run/tensorboard").exists()


def test_several_loggers_are_a_list_in_a_resumed_run_too() -> None:
    assert list(composed(["logger=[tensorboard,mlflow]"]).logger) == ["tensorboard", "mlflow"]
    assert is_option("logger", "[tensorboard,mlflow]")
    assert not is_option("logger", "[tensorboard,mlflo]")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of MLflow and W&B themselves
def test_all_at_once_log_the_same_and_continue(tmp_path: Path) -> None:
    mlflow, _ = pytest.importorskip("mlflow"), pytest.importorskip("wandb")
    store = f"sqlite:///{tmp_path}/mlflow.db"
    places = ["logger.wandb.offline=true", f"logger.mlflow.tracking_uri={store}"]
    for run in ("one", "two"):  # in one process, as a sweep has them
        train(composed([*SHORT, "logger=[default,mlflow,wandb]", *places]), tmp_path / run)
    result = train(composed([f"resume={tmp_path / 'one'}", "trainer.max_epochs=3", *places]))

    wanted = best(result)
    (shown,) = in_tensorboard(tmp_path / "one")
    assert {k: shown[1][k] for k in wanted} == pytest.approx(wanted, rel=1e-6)
    assert shown[0]["optimizer.lr"] == 0.002

    client = mlflow.MlflowClient(store)
    logged = client.search_runs([client.get_experiment_by_name("quartet").experiment_id])
    ids = json.loads((tmp_path / "one/loggers.json").read_text())
    assert len(logged) == 2
    (one,) = (each for each in logged if each.info.run_id == ids["mlflow"]["run_id"])
    assert {k: one.data.metrics[k] for k in wanted} == pytest.approx(wanted, rel=1e-6)
    assert one.data.params["optimizer"] == "adam"
    assert one.data.params["trainer.max_epochs"] == "2"
    assert one.data.tags["trainer.max_epochs"] == "3"
    assert one.info.status == "FINISHED"

    files = sorted((tmp_path / "one/wandb").glob("offline-run-*/*.wandb"))
    (begun, before, _), (name, settings, summary) = map(in_wandb, files)
    assert begun == name == ids["wandb"]["id"]
    assert (before["trainer.max_epochs"], settings["trainer.max_epochs"]) == (2, 3)
    assert settings["optimizer"] == "adam"
    assert {k: summary[k] for k in result["metrics"]} == pytest.approx(result["metrics"], rel=1e-6)
    assert summary["best/epoch"] == result["monitor"]["epoch"]
    (other,) = (tmp_path / "two/wandb").glob("offline-run-*/*.wandb")
    assert in_wandb(other)[0] not in ("", name)


@pytest.mark.parametrize("option", ["none", "[none]", "tensorboard", "[csv,tensorboard]"])
def test_a_resumed_run_logs_where_it_did(tmp_path: Path, option: str) -> None:
    cfg = composed([*SHORT, f"logger={option}"])
    train(cfg, tmp_path)
    assert composed([f"resume={tmp_path}", "trainer.max_epochs=3"]).logger == cfg.logger


@pytest.mark.parametrize("content", ["", "[1]", '{"mlflow": "x"}'])
def test_damaged_logged_runs_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "loggers.json").write_text(content)
    with pytest.raises(ValueError, match=r"loggers.json(: cannot be read| names no logged runs)"):
        logged_run(tmp_path, "mlflow", {}, MLFlowLogger)
