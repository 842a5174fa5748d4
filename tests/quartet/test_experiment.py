"""The experiments of the template: each trains, and its header says how to run it."""

import math
import re
from pathlib import Path

import pytest
import torch
from made import composed, idx_files, options, write
from omegaconf import OmegaConf
from processes import Cli
from torch import nn

from hydra_plugins.quartet import GridSweeper
from quartet.build import Run, build
from quartet.core.files import CONF
from quartet.records import run_directory as record
from quartet.records.sweep import Job
from quartet.run import train

pytestmark = pytest.mark.usefixtures("quiet")
SHIPPED = (
    "batch_sizes fashion_mnist_mlp imbalanced_focal linear_regression optimizers ranking schedulers"
)
EXPERIMENTS = [name for name in options("experiment") if name in SHIPPED.split()]
FILES = {name: OmegaConf.load(CONF / f"experiment/{name}.yaml") for name in EXPERIMENTS}
PARAMS = {name: OmegaConf.select(file, "hydra.sweeper.params") for name, file in FILES.items()}
SWEEPS = {name: dict(params) for name, params in PARAMS.items() if params}


@pytest.fixture
def data_dir(tmp_path: Path) -> str:
    """The override that names a folder with 100 made-up images in place of Fashion-MNIST."""
    write(tmp_path / "data/FashionMNIST/raw", idx_files(100, seed=0))
    return f"data.dir='{tmp_path}/data'"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_is_built_without_its_data(name: str, tmp_path: Path) -> None:
    run = build(composed([f"experiment={name}", f"data.dir='{tmp_path}/nothing'"]))
    assert run.total_steps >= 100
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_trains(name: str, tmp_path: Path, data_dir: str) -> None:
    two_steps = ["trainer.max_steps=2", "trainer.limit_train_batches=2"]
    result = train(composed([f"experiment={name}", data_dir, *two_steps]), tmp_path / "run")
    assert result["status"] == "finished"
    assert math.isfinite(result["metrics"]["train/loss"])
    last = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 2


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_header_says_how_to_run_it(name: str) -> None:
    header = (CONF / f"experiment/{name}.yaml").read_text().partition("\ndefaults:")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    command = re.search(r"^# +python train\.py (.*)$", header, re.MULTILINE)
    assert command
    assert f"experiment={name}" in command[1].split()
    assert ("-m" in command[1].split()) == (name in SWEEPS)


# Sweeps


@pytest.mark.parametrize("name", SWEEPS)
def test_file_names_the_sweep(name: str, train_py: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = []

    def note(sweeper: GridSweeper, job: Job) -> None:
        jobs.append(dict(each.split("=", 1) for each in job.overrides))
        record.write_result(job.directory, record.initial_result() | {"status": "finished"})

    monkeypatch.setattr("quartet.sweeps.grid.train_job", note)
    # The seed on the command line wins over the file's.
    assert train_py("-m", f"experiment={name}", "seed=7") == 0
    assert {job["seed"] for job in jobs} == {"7"}
    (key,) = SWEEPS[name].keys() - {"seed"}
    values = SWEEPS[name][key].split(",")
    if values == ["glob(*)"]:
        values = options(key)
    assert sorted(job[key] for job in jobs) == sorted(values)


# What they promise


def linear_layers(run: Run) -> list[tuple[int, int]]:
    layers = [layer for layer in run.module.model.modules() if isinstance(layer, nn.Linear)]
    return [(layer.in_features, layer.out_features) for layer in layers]


def test_linear_regression_is_the_10_20_1_network_on_the_full_batch(tmp_path: Path) -> None:
    run = build(composed(["experiment=linear_regression"]))
    assert linear_layers(run) == [(10, 20), (20, 1)]
    assert (run.steps_per_epoch, run.total_steps) == (1, 100)
    losses = []
    for epochs in (1, 100):
        words = ["experiment=linear_regression", f"trainer.max_epochs={epochs}"]
        losses.append(train(composed(words), tmp_path / f"{epochs}")["metrics"]["train/loss"])
    assert losses[1] < 0.9 * losses[0]


def test_fashion_mnist_mlp_takes_all_images_in_their_order(tmp_path: Path, data_dir: str) -> None:
    run = build(composed(["experiment=fashion_mnist_mlp", data_dir]))
    assert linear_layers(run) == [(784, 512), (512, 512), (512, 10)]
    assert (run.steps_per_epoch, run.total_steps) == (938, 9380)
    parts = run.data.load()
    assert parts.val is None
    batches = list(run.data.train_dataloader())
    assert [len(targets) for _, targets in batches] == [64, 36]
    raw = (tmp_path / "data/FashionMNIST/raw/train-images-idx3-ubyte").read_bytes()[16:]
    images = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(100, 1, 28, 28)
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]), images / 255)


def test_imbalanced_focal_thins_the_training_part_alone() -> None:
    parts = build(composed(["experiment=imbalanced_focal"])).data.load()
    train_counts, test_counts = (part.tensors[1].bincount() for part in (parts.train, parts.test))
    assert train_counts[[1, 3, 8]].max() < 0.06 * train_counts[[0, 2, 4, 5, 6, 7, 9]].min()
    assert test_counts.min() >= 34
