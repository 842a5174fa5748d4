"""Every option of every group, found from the listing of conf/: a new YAML is tested by existing."""

import csv
import io
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made
import pytest
import torch
from made import composed, options, paint, pairs, refusals, weights
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from quartet.build import build
from quartet.config.configuration import Configuration
from quartet.core.files import CONF
from quartet.run import train

pytestmark = pytest.mark.usefixtures("quiet")
GROUPS = ("loss", "metrics", "model", "module", "trainer", "callbacks", "logger", "data")
YAMLS = sorted(CONF.rglob("*.yaml"))
TABLE = ["data=csv", "data/task=multilabel", "data.target=[red,round]"]
FILE = "data.path='{tmp}/table.csv'"
DATA_OF = {
    "multiclass": ["data=digits"],
    "binary": ["data=breast_cancer"],
    "multilabel": [*TABLE, FILE],
    "regression": ["data=diabetes"],
    "ranking": ["data=ranking", "data.queries=80"],
}
if "diabetes" not in options("data"):  # a fork that dropped the examples
    DATA_OF["binary"] = ["data=csv", "data/task=binary", "data.target=red", FILE]
    DATA_OF["regression"] = ["data=csv", "data/task=regression", "data.target=a", FILE]
    del DATA_OF["ranking"]
# Batches large enough to hold every class: AUROC warns without.
TWO_STEPS = ["trainer.max_epochs=1", "trainer.limit_train_batches=2", "data.batch_size=45"]
EXTRAS = ("mlflow", "wandb")
LONG = ("compile",)  # tests/test_trainer.py has a test that shows more
NEEDS = {  # what an option cannot do without
    "callbacks": {"unfreeze": ["callbacks.unfreeze.epochs={2: ['layers.0.*']}"]},
    "data": {
        "csv": [*TABLE[1:], FILE],
        "image_folder": ["data.path='{tmp}/pictures'", "data.image_size=8"],
    },
    "model": {"torchvision": ["model.name=shufflenet_v2_x0_5"]},  # a small one
    "trainer": {
        **{one: ["trainer.accelerator=cpu", "trainer.devices=1"] for one in ("ddp", "fsdp")},
        "overfit": ["trainer.max_epochs=2"],
    },
    "logger": {
        "mlflow": ["logger.mlflow.tracking_uri='sqlite:///{tmp}/mlflow.db'"],
        "wandb": ["logger.wandb.offline=true"],
    },
}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def tasks_of(group: str, option: str) -> list[str]:
    """The tasks that an option of loss or metrics is for; one for a group that suits all."""
    tasks = OmegaConf.select(OmegaConf.load(CONF / group / f"{option}.yaml"), "tasks")
    return [str(task) for task in tasks] if tasks else ["multiclass"]


def required(group: str, option: str) -> dict[str, str]:
    """The options of other groups with which an option goes, the first of several."""
    requires: Any = OmegaConf.load(CONF / group / f"{option}.yaml").get("requires") or {}
    return {key: name if isinstance(name, str) else name[0] for key, name in requires.items()}


def cases() -> Iterator[Any]:
    """Options but those that the data brings, which train with it; optimizers with schedulers."""
    every = [(group, option) for group in GROUPS for option in options(group)]
    for group, option in every:
        if (group, option) == ("loss", "none"):  # needs a model that has one: test_examples.py
            continue
        if "???" in (CONF / group / f"{option}.yaml").read_text():  # of a fork; its owner sets it
            continue
        needed = required(group, option)
        # A fork's option that goes with the fork's own data is tried with that alone.
        for task in ["own"] if "data" in needed else filter(DATA_OF.get, tasks_of(group, option)):
            data = [] if group == "data" else DATA_OF.get(task, [])
            data = [*data, *(f"{key}={name}" for key, name in needed.items())]
            if data and composed(data).hydra.runtime.choices[group] == option:
                continue
            overrides = [*data, f"{group}={option}", *NEEDS.get(group, {}).get(option, [])]
            # These libraries warn of what they do themselves, and a fork's parts may warn.
            loud = option in EXTRAS or needed
            marks = [pytest.mark.filterwarnings("ignore")] if loud else []
            marks += [pytest.mark.slow] if option in LONG else []
            yield pytest.param(option, overrides, id=f"{group}-{option}-{task}", marks=marks)
    for optimizer, scheduler in pairs("optimizer", "scheduler"):
        overrides = [f"optimizer={optimizer}", f"scheduler={scheduler}"]
        yield pytest.param(optimizer, overrides, id=f"optimizer-{optimizer}-{scheduler}")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Small stand-ins for all data that lies on disk."""
    folder = tmp_path_factory.mktemp("files")
    made.write(folder / "MNIST" / "raw", made.idx_files(100, seed=0))
    made.write(folder / "FashionMNIST" / "raw", made.idx_files(100, seed=1))
    paint(folder / "pictures", cat=40, dog=40)
    made.labelled_table(folder / "table.csv")
    with pytest.MonkeyPatch.context() as patch:
        made.cifar_files(folder, patch)
        yield folder


def on_files(overrides: list[str], files: Path) -> list[str]:
    """The overrides with the places of the files."""
    return [text.replace("{tmp}", str(files)) for text in overrides]


@pytest.mark.parametrize(("option", "overrides"), list(cases()))
def test_each_option_trains(option: str, overrides: list[str], files: Path, tmp_path: Path) -> None:
    if option in ("gpu", "fp16") and not torch.cuda.is_available():
        pytest.skip("no GPU: test_check.py shows that it is refused")
    if option == "mps" and not torch.backends.mps.is_available():
        pytest.skip("no Mac: test_check.py shows that it is refused")
    if option in EXTRAS:
        pytest.importorskip(option)
    directory = tmp_path / "run"
    overrides = on_files([*TWO_STEPS, "data.dir='{tmp}'", *overrides], files)
    result = train(composed(overrides), directory)
    assert json.loads((directory / "result.json").read_text()) == result
    assert (result["status"], result["error"]) == ("finished", None)
    assert all(math.isfinite(value) for value in result["metrics"].values())
    # A module of a fork may log no loss.
    assert "test/loss" in result["metrics"] or result["choices"].get("loss", "none") == "none"
    for name in ("environment.json", "checkpoints/best.ckpt", "checkpoints/last.ckpt"):
        assert (directory / name).exists()
        if name.endswith(".ckpt"):
            step = torch.load(directory / name, weights_only=True)["global_step"]
            # Data of a fork may be smaller than two batches.
            assert step == 2 or step == build(composed(overrides), tmp_path / "built").total_steps


# These look at values, as do losses and metrics of ranking, which depend on the documents of a query.
WAITING = ("adafactor", "asgd", "lbfgs")


@pytest.mark.parametrize(
    "overrides",
    [
        *(pytest.param(data, id=task) for task, data in DATA_OF.items() if task != "ranking"),
        *(
            pytest.param(case.values[1], id=case.id, marks=pytest.mark.slow)
            for case in cases()
            if case.id.startswith(("loss", "metrics", "model", "optimizer"))
            and case.values[0] not in WAITING
            and not case.id.endswith(("-ranking", "-own"))
        ),
    ],
)
def test_no_step_waits_for_the_device(overrides: list[str], files: Path) -> None:
    run = build(composed(on_files([*TWO_STEPS, *overrides], files)))
    module, buffer = run.module, run.module.train_metrics
    run.data.setup("fit")
    if hasattr(module.loss, "fit"):
        module.loss.fit(run.data.targets())
    inputs, targets = (tensor[:45] for tensor in run.data.parts.train.tensors)
    batch = [inputs.float(), targets]
    # A tensor of the meta device has no values: looking at one fails, where a GPU would be waited for.
    module.to("meta")
    optimizer = module.make_optimizer()
    batch = [tensor.to("meta") for tensor in batch]
    for step in range(4):
        optimizer.zero_grad()
        module.training_step(batch, step).backward()
        optimizer.step()
    assert buffer.samples == 4 * len(inputs)


# The files


def opening(path: Path) -> str:
    header = r"\A(# yaml-language-server: \S+\n)?(# @package \S+\n)?"
    return re.sub(header, "", path.read_text()).partition("\n")[0]


@pytest.mark.parametrize(
    "path",
    # A fork's may be a line, or not have gone through scripts/schema.py.
    [path for path in YAMLS if "$schema" in path.read_text() and not opening(path).startswith("{")],
    ids=lambda path: str(path.relative_to(CONF))[:-5],
)
def test_every_file_opens_with_what_it_is(path: Path) -> None:
    assert opening(path).startswith("# ")
    assert len(opening(path).split()) >= 3


# What choosing data brings along


@pytest.mark.parametrize(
    ("overrides", "loss", "metrics"),
    [
        ([], "cross_entropy", "classification"),
        (["data=breast_cancer"], "bce", "classification"),
        (["data=diabetes"], "mse", "regression"),
        (["data=ranking"], "ranknet", "ranking"),
        (["data=csv", "data/task=multilabel"], "bce", "classification"),
        (["data=csv", "data/task=regression"], "mse", "regression"),
        (["data=diabetes", "loss=huber"], "huber", "regression"),
        (["loss=huber", "data=diabetes"], "huber", "regression"),
        (["data=diabetes", "metrics=none"], "mse", "none"),
        (["data=ranking", "loss=mse", "metrics=regression"], "mse", "regression"),
    ],
)
def test_data_brings_its_loss_and_metrics(overrides: list[str], loss: str, metrics: str) -> None:
    choices = composed(overrides).hydra.runtime.choices
    assert (choices.loss, choices.metrics) == (loss, metrics)


# Batches and seeds


@pytest.mark.parametrize(("size", "steps"), [(1, 398), (128, 4), ("full", 1)])
def test_batch_size_gives_the_steps_of_an_epoch(size: int | str, steps: int) -> None:
    run = build(composed(["data=breast_cancer", f"data.batch_size={size}", "trainer.max_epochs=2"]))
    assert (run.steps_per_epoch, run.total_steps) == (steps, 2 * steps)
    run.trainer.fit(run.module, run.data)
    assert run.trainer.global_step == 2 * steps


def test_builds_of_one_seed_hold_equal_weights_and_of_two_do_not() -> None:
    zero, again, one = (build(composed([f"seed={seed}"])) for seed in (0, 0, 1))
    assert torch.equal(weights(zero), weights(again))
    assert not torch.equal(weights(zero), weights(one))


def trained(directory: Path, *overrides: str) -> tuple[bytes, dict[str, Any]]:
    """metrics.csv and the model's weights in both checkpoints."""
    train(composed([*overrides]), directory)
    states = {}
    for name in ("best", "last"):
        saved = torch.load(directory / f"checkpoints/{name}.ckpt", weights_only=True)
        states |= {f"{name}.{key}": value for key, value in saved["state_dict"].items()}
    return (directory / "metrics.csv").read_bytes(), states


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_seed_decides_the_run_to_the_last_bit(tmp_path: Path) -> None:
    overrides = ["trainer.max_epochs=3", "model.dropout=0.1", "data=breast_cancer"]
    first, again = (trained(tmp_path / name, *overrides) for name in ("first", "again"))
    assert first[0] == again[0]
    assert equal(first[1], again[1])
    rows = list(csv.DictReader(io.StringIO(first[0].decode())))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    other = trained(tmp_path / "other", *overrides, "seed=1")
    assert other[0] != first[0]
    assert not equal(other[1], first[1])


def test_pictures_are_standardised_and_worker_processes_change_nothing(tmp_path: Path) -> None:
    paint(tmp_path / "pictures", cat=20, dog=20)
    overrides = ["data=image_folder", f"data.path='{tmp_path}/pictures'", "data.image_size=8"]
    overrides += ["trainer.max_epochs=2", "data.batch_size=8"]
    none, two = (
        trained(tmp_path / f"workers{count}", *overrides, f"data.num_workers={count}")
        for count in (0, 2)
    )
    assert none[0] == two[0]
    assert equal(none[1], two[1])
    plain, scaled = (
        build(composed([*overrides, "data.shuffle=false", *more])).data
        for more in ([], ["data.mean=[0.1,0.2,0.3]", "data.std=[0.5,0.5,0.25]"])
    )
    (before, _), (after, _) = (next(iter(data.train_dataloader())) for data in (plain, scaled))
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.5, 0.25])
    torch.testing.assert_close(after, (before - mean.view(3, 1, 1)) / std.view(3, 1, 1))


# Trainings of another length


def test_training_limited_by_steps_alone_counts_its_epochs(tmp_path: Path) -> None:
    overrides = ["data=linear", "data.batch_size=16", "trainer.max_epochs=-1"]
    run = build(composed([*overrides, "trainer.max_steps=12", "scheduler=one_cycle"]), tmp_path)
    run.trainer.fit(run.module, run.data)
    assert (run.trainer.global_step, run.trainer.current_epoch) == (12, 3)
    assert run.module.schedules[0].ticks == 12


def test_overfitted_batches_stay_the_same() -> None:
    run = build(composed(["trainer.overfit_batches=1", "trainer.max_epochs=2"]))
    seen: list[torch.Tensor] = []
    step = run.module.training_step

    def spy(batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        seen.append(batch[0])
        return step(batch, batch_idx)

    run.module.training_step = spy  # type: ignore[method-assign]
    run.trainer.fit(run.module, run.data)
    assert len(seen) == 2
    assert torch.equal(*seen)


def test_runs_begun_in_the_same_second_have_a_directory_each() -> None:
    directories = set()
    for _ in range(3):
        run = build(composed(["data=linear"]))
        run.directory.mkdir(parents=True)
        directories.add(run.directory)
    assert len(directories) == 3


def test_run_without_checkpoints_tests_the_weights_it_has(tmp_path: Path) -> None:
    overrides = ["callbacks.best=null", "callbacks.last=null", "trainer.max_epochs=1"]
    result = train(composed(overrides), tmp_path)
    assert result["checkpoints"] == {"best": None, "last": None}
    assert "test/accuracy" in result["metrics"]


test_settings_that_leave_nothing_to_compute_are_refused = refusals(
    ("seed=4294967296", r"seed=4294967296: must be in \[0, 4294967295\]"),
    ("optimizer.lr=null", r"optimizer.lr=null: must be a number"),
    ("trainer.limit_train_batches=0", r"leaves none of the 40 train batches"),
    ("trainer.limit_train_batches=0.01", r"a share of them is at least 0.025"),
    ("trainer.limit_val_batches=0.5", r"limit_val_batches=0.5: leaves none of the 1 val"),
    ("trainer.limit_val_batches=many", r"limit_val_batches=many: must be a number of batches"),
    ("trainer.val_check_interval=100", r"val_check_interval=100: an epoch has 40 batches only"),
    ("data.batch_size=1 model.norm=batch", r"batch_size=1: leaves a batch of one sample"),
    ("data.batch_size=3 data=wine model.norm=batch", r"batch_size=3: leaves a batch of one"),
    (
        "data=linear data.rows=10 data.val_fraction=0.1",
        r"the val part holds one sample, for which there is no R2",
    ),
    ("data=wine data.mean=[0.5] data.std=[0.5]", r"need a number for each channel of images"),
    ("data.mean=[0.5,0.5] data.std=[1,1]", r"the inputs have shape \[1, 8, 8\]"),
)


TEXTS = [
    *("${known}", "${empty}", "${unset}", "${gone}", "${list}", "${list.0}", "${number}"),
    *("${through}", "${of.itself}", "\\\\${known}", "${oc.env:HOME}", "${of.${known}}", "???", ""),
]


@pytest.mark.parametrize("end", ["", "/x", "${known}", "${empty}", "${unset}", "\\\\"])
@pytest.mark.parametrize("text", TEXTS)
def test_references_are_resolved_as_omegaconf_does(text: str, end: str) -> None:
    known = {"known": "a", "empty": None, "unset": "???", "number": 1.5, "list": [1, "${known}"]}
    cfg = OmegaConf.create(
        {**known, "through": "${list}", "of": {"a": "b", "itself": "${of.itself}"}, "v": text + end}
    )
    del cfg.of[("a" if "itself" in text else "itself")]
    expected: Any
    try:
        expected = OmegaConf.to_container(OmegaConf.merge(cfg, {"directory": "."}), resolve=True)
    except OmegaConfBaseException as error:
        expected = type(error)
    try:
        found: Any = Configuration(cfg, ".").to_dict()
    except OmegaConfBaseException as error:
        found = type(error)
    assert found == expected
