"""Jobs that the engine does not know, as forks: they train as plain loops, with every feature."""

import copy
import functools
import importlib
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import examples
import made
import pandas as pd
import pytest
import torch
from made import assert_refused, composed, weights
from processes import ROOT, Cli, wait_for
from test_resume import assert_resumes, assert_same, marked
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, mse_loss, one_hot, softplus
from torch.optim.lr_scheduler import CosineAnnealingLR

from quartet.build import Run, build
from quartet.checkpoints.storage import load
from quartet.config.compose import evaluation_config
from quartet.core.files import CONF
from quartet.core.problems import ConfigError
from quartet.data import nest
from quartet.data.task import OWN_TASKS, StandardTask
from quartet.inference.evaluate import evaluate
from quartet.inference.export import export
from quartet.inference.predict import predict
from quartet.reports.page import report
from quartet.run import train

pytestmark = pytest.mark.usefixtures("quiet")
SHORT = ("data.batch_size=128", "trainer.max_epochs=2")
TINY = ("trainer=cpu", "callbacks.progress_bar=null", "logger=csv")


@dataclass(frozen=True)
class Job:
    """An example, and what it offers.

    Attributes:
        options: What chooses it, with tiny data; BEFORE is the run before it.
        loss: Of a batch, as a plain loop computes it; of the model of the run before it, too. None:
            its loop is `train_gan_by_hand`.
        predict: Columns of predictions, given outputs.
        monitor: A value of its own, and whether its best is the min or max.
        logged: Names of its losses and metrics, in training and validation.
        once: Names of those in one of them alone, such as ``train/loss``.
        rates: Names of its learning rates.
        frozen: Pattern of a part of the model.
        knob: Two values of a setting of its own.
        pictures: Names of files, beside curves.png.
        no_export: Why its model is not exported, or None.
        before: Options of the run before it, or empty.
        unchecked: What is not checked; None: the values, since the task does not look at them.
    """

    options: tuple[str, ...]
    loss: Callable[[nn.Module, Any], Tensor] | None
    predict: Callable[[Any], dict[str, Any]]
    monitor: tuple[str, str]
    logged: tuple[str, ...]
    frozen: str
    knob: str
    once: tuple[str, ...] = ()
    rates: tuple[str, ...] = ("lr",)
    pictures: tuple[str, ...] = ()
    no_export: str | None = None
    before: tuple[str, ...] = ()
    unchecked: str | None = None


def segmentation_loss(model: nn.Module, batch: Any) -> Tensor:
    images, masks = batch
    outputs = model(images)
    probabilities, truth = outputs.softmax(1), one_hot(masks, 3).permute(0, 3, 1, 2)
    shared, size = (probabilities * truth).sum((0, 2, 3)), (probabilities + truth).sum((0, 2, 3))
    return cross_entropy(outputs, masks) + 1 - ((2 * shared + 1) / (size + 1)).mean()


def language_loss(model: nn.Module, batch: Any) -> Tensor:
    ids, following = batch
    return cross_entropy(model(ids).view(-1, 28), following.long().view(-1))


def heads_loss(model: nn.Module, batch: Any) -> Tensor:
    outputs, targets = model(batch["inputs"]), batch["targets"]
    digit = cross_entropy(outputs["digit"], targets["digit"])
    return digit + 10 * mse_loss(outputs["ink"], targets["ink"])


def detection_loss(model: nn.Module, batch: Any) -> Tensor:
    losses: dict[str, Tensor] = model(*batch)
    return losses["classification"] + losses["bbox_regression"]


def spell_boxes(outputs: Any) -> dict[str, Any]:
    return {
        "prediction": [
            "; ".join(
                " ".join([("disc", "square")[label], *map(str, box)])
                for label, box in zip(
                    each["labels"].tolist(), each["boxes"].round().int().tolist(), strict=True
                )
            )
            for each in outputs
        ]
    }


def readings(name: str, monitor: str, unchecked: str) -> Job:
    return Job(
        options=(f"data={name}", "trainer.max_epochs=2"),
        loss=lambda model, batch: cross_entropy(model(batch[0]), batch[1]),
        predict=lambda outputs: {
            "prediction": [("calm", "rising", "wavy")[i] for i in outputs.argmax(1)]
        },
        monitor=(monitor, "max"),
        logged=("loss", "accuracy", "auroc", "f1", "precision", "recall"),
        frozen="layers.0.*",
        knob="data.noise=0.1,0.2",
        pictures=("confusion.png", "predictions.png"),
        unchecked=unchecked,
    )


def forecasts(outputs: Tensor) -> dict[str, Any]:
    past = pd.read_csv(LOAD)["load"][:216]  # the training hours, three fifths of all
    values = outputs.double() * past.std(ddof=0) + past.mean()
    hours = enumerate(values.T.tolist(), start=1)
    return {f"prediction_{hour}h": pytest.approx(column, rel=1e-6) for hour, column in hours}


LOAD = examples.EXAMPLES / "forecasting/load.csv"


def contrastive_loss(model: nn.Module, batch: Any) -> Tensor:
    points = torch.cat(model(batch).unbind(1))
    cosines, count = points @ points.T / 0.5, len(batch[0])
    cosines = cosines.masked_fill(torch.eye(2 * count).bool(), -torch.inf)
    return cross_entropy(cosines, torch.cat([torch.arange(count, 2 * count), torch.arange(count)]))


def distillation_loss(model: nn.Module, batch: Any, teacher: nn.Module) -> Tensor:
    outputs = model(batch[0])
    with torch.no_grad():
        taught = (teacher(batch[0]) / 2).log_softmax(1)
    learnt = (outputs / 2).log_softmax(1)
    divergence = 4 * kl_div(learnt, taught, reduction="batchmean", log_target=True)
    return cross_entropy(outputs, batch[1]) + divergence


DIGITS: dict[str, Any] = {
    "predict": lambda outputs: {"prediction": outputs.argmax(1).tolist()},
    "logged": ("loss", "accuracy", "auroc", "f1", "precision", "recall"),
    "pictures": ("confusion.png", "predictions.png", "samples.png", "worst.png"),
    "unchecked": "",
}
MAP_NAMES = """50 75 small medium large mar_1 mar_10 mar_100 mar_small mar_medium mar_large per_class
    mar_100_per_class classes_disc classes_square"""
CHARACTERS = " .abcdefghijklmnopqrstuvwxyz"
JOBS = {
    "segmentation": Job(
        options=("data=shapes", "data.batch_size=16", "trainer.max_epochs=3"),
        loss=segmentation_loss,
        predict=lambda outputs: {"prediction": outputs.argmax(1)},
        monitor=("val/iou", "max"),
        logged=(
            *("loss", "cross_entropy", "dice", "iou"),
            *(f"class_iou_{name}" for name in ("background", "disc", "square")),
        ),
        frozen="encoder.*",
        knob="loss.dice_weight=0.5,1",
        pictures=("masks.png",),
    ),
    "language_model": Job(
        options=("experiment=language_model", "trainer.max_steps=12"),
        loss=language_loss,
        predict=lambda outputs: {
            "prediction": ["".join(CHARACTERS[i] for i in row) for row in outputs.argmax(2)]
        },
        monitor=("val/perplexity", "min"),
        logged=("loss", "perplexity"),
        frozen="embedding.*",
        knob="data.length=16,20",
    ),
    "vae": Job(
        options=("data=unlabelled_digits", "trainer.max_epochs=3"),
        loss=lambda model, images: model(images)["loss"],
        predict=lambda outputs: {"prediction": outputs["reconstructions"]},
        monitor=("val/error", "min"),
        logged=("loss", "error", "divergence", "mse"),
        frozen="encoder.1.*",
        knob="model.beta=0.5,1",
        pictures=("reconstructions.png",),
    ),
    "detection": Job(
        options=("data=boxes", "data.batch_size=8", "trainer.max_epochs=3"),
        loss=detection_loss,
        predict=spell_boxes,
        monitor=("val/map_50", "max"),
        logged=(),
        frozen="net.backbone.0.*",
        knob="model.width=8,16",
        once=(
            *("train/loss", "train/classification", "train/bbox_regression", "val/map"),
            *(f"val/map_{name}" for name in MAP_NAMES.split()),
        ),
        pictures=("boxes.png",),
        no_export="inputs of the task detection are a list; predict.py writes",
    ),
    "two_heads": Job(
        options=("data=digits_and_profiles", "trainer.max_epochs=3"),
        loss=heads_loss,
        predict=lambda outputs: {
            "digit": outputs["digit"].argmax(1).tolist(),
            "ink": outputs["ink"].tolist(),
        },
        monitor=("val/accuracy", "max"),
        logged=("loss", "digit_loss", "ink_loss", "accuracy", "ink_error"),
        frozen="image.*",
        knob="loss.ink_weight=1,10",
        no_export="inputs of the task digit_and_ink are a dict; predict.py writes",
    ),
    "simclr": Job(
        options=("data=views", "data.batch_size=16", "trainer.max_epochs=2"),
        loss=contrastive_loss,
        predict=lambda outputs: {"prediction": outputs},
        monitor=("val/alignment", "min"),
        logged=("loss", "alignment"),
        frozen="encoder.0.*",
        knob="loss.temperature=0.2,0.5",
        no_export="inputs of the task contrastive are a list; predict.py writes",
    ),
    "linear_probe": Job(
        options=("experiment=linear_probe", "model.weights='BEFORE'", *SHORT),
        loss=lambda model, batch: cross_entropy(model(batch[0]), batch[1]),
        monitor=("val/f1", "max"),
        frozen="encoder.*",
        knob="optimizer.lr=0.01,0.1",
        before=("data=views", "trainer.max_epochs=2"),
        **DIGITS,
    ),
    "distillation": Job(
        options=("experiment=distillation", "module.teacher='BEFORE'", *SHORT),
        loss=distillation_loss,
        monitor=("train/soft_loss", "min"),
        frozen="layers.0.*",
        knob="module.temperature=1,2",
        once=("train/hard_loss", "train/soft_loss"),
        before=("model.hidden=[64]", *SHORT),
        **DIGITS,
    ),
    "gan": Job(
        options=("experiment=gan", "data.batch_size=30", "trainer.max_epochs=3"),
        loss=None,
        predict=lambda outputs: {"realness": pytest.approx(outputs.sigmoid().flatten().tolist())},
        monitor=("val/distance", "min"),
        logged=(),
        once=("train/discriminator_loss", "train/generator_loss", "val/distance"),
        rates=("lr", "lr/discriminator_optimizer"),
        frozen="discriminator.0.*",
        knob="discriminator_optimizer.lr=0.001,0.01",
    ),
    "mapped": readings("mapped", "val/accuracy", "data: the values of inputs, which are read as"),
    "sharded": readings("sharded", "val/f1", "data: the values of inputs and targets, which are"),
    "forecasting": Job(
        options=("data=load", f"data.path={LOAD}", "trainer.max_epochs=3"),
        loss=lambda model, batch: mse_loss(model(batch[0]), batch[1]),
        predict=forecasts,
        monitor=("val/mae", "min"),
        logged=("loss", "mae", *(f"hourly_{hour}h" for hour in range(1, 13))),
        frozen="encoder.*",
        knob="data.history=12,24",
        pictures=("predictions.png",),
        unchecked="",
    ),
}


FOLDERS = {"mapped": "stream", "sharded": "stream", "linear_probe": "simclr"}
# A task of its own, several optimizers, a stream: with these each feature is tried at every push, and
# with the others in the slow tests. All are trained at every push.
QUICK = ("segmentation", "gan", "sharded")
of_quick_jobs = pytest.mark.parametrize("job", marked(JOBS, QUICK), indirect=True)


@pytest.fixture(params=list(JOBS))
def job(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wholes: dict[str, Path],
) -> Iterator[Job]:
    monkeypatch.chdir(tmp_path)
    if request.param == "detection":
        pytest.importorskip("pycocotools")
    with examples.installed(FOLDERS.get(request.param, request.param), tmp_path):
        made = JOBS[request.param]
        yield start_from(made, wholes[""] / f"before {request.param}") if made.before else made


def start_from(job: Job, directory: Path) -> Job:
    """Returns the job with the directory of a finished run before it."""
    if not directory.exists():
        train(composed([*TINY, *job.before]), directory)
    options = tuple(word.replace("BEFORE", str(directory)) for word in job.options)
    loss = job.loss
    if loss and "teacher" in inspect.signature(loss).parameters:
        teacher = trained_model(replace(job, options=job.before), directory)
        loss = functools.partial(loss, teacher=teacher)
    return replace(job, options=options, loss=loss)


def everything(job: Job) -> list[str]:
    """A training with an own monitor, a frozen part, averaged weights, and checkpoints at each step."""
    own = [f"monitor.metric={job.monitor[0]}", f"optimizer.freeze=['{job.frozen}']"]
    own += ["callbacks=ema", "callbacks.last.every_n_steps=1", "callbacks.last.min_seconds=0"]
    return [*TINY, *job.options, *own]


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"": tmp_path_factory.mktemp("wholes")}


@pytest.fixture
def whole(job: Job, wholes: dict[str, Path], no_pictures: Any) -> Path:
    """The directory of a finished training of `everything`, which tests only read."""
    name = job.options[0]
    if name not in wholes:
        with pytest.MonkeyPatch.context() as patch:
            no_pictures(patch)
            train(composed(everything(job)), wholes[""] / name)
        wholes[name] = wholes[""] / name
    return wholes[name]


def trained_model(job: Job, whole: Path) -> nn.Module:
    """The model with the weights of the best checkpoint."""
    model: nn.Module = build(composed([*TINY, *job.options])).module.model
    states = load(whole / "checkpoints/best.ckpt")["state_dict"].items()
    model.load_state_dict({key[6:]: v for key, v in states if key.startswith("model.")})
    return model.eval()


# Training


def test_weights_are_those_of_a_plain_loop(job: Job) -> None:
    run = build(composed([*TINY, *job.options]))
    model, state = copy.deepcopy(run.module.model), torch.get_rng_state()
    run.trainer.fit(run.module, run.data)
    torch.set_rng_state(state)
    train_gan_by_hand(model, run) if job.loss is None else train_by_hand(model, job.loss, run)
    expected = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert torch.equal(weights(run), expected)


def train_gan_by_hand(model: Any, run: Run) -> None:
    generator = torch.optim.Adam(model.generator.parameters(), lr=0.002)
    discriminator = torch.optim.Adam(model.discriminator.parameters(), lr=0.001)
    cosine, batches = CosineAnnealingLR(discriminator, 3), run.data.train_dataloader()
    for epoch in range(3):
        batches.batch_sampler.set_epoch(epoch)
        for points in batches:
            made = model.generate(len(points))
            discriminator.zero_grad()
            (softplus(-model(points)) + softplus(model(made.detach()))).mean().backward()
            discriminator.step()
            generator.zero_grad()
            softplus(-model(made)).mean().backward()
            generator.step()
        cosine.step()
    assert run.trainer.global_step == 12


def train_by_hand(model: nn.Module, loss: Callable[..., Tensor], run: Run) -> None:
    """The loop of the tutorials, on the batches of the run."""
    optimizer = torch.optim.Adam(model.parameters(), lr=run.config["optimizer"]["lr"])
    ramp, steps = run.config["scheduler"]["warmup_steps"], int(run.total_steps)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / (ramp + 1), total_iters=ramp)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps - ramp)
    batches = run.data.train_dataloader()
    model.train()
    for child in model.children():
        parameters = list(child.parameters())
        if parameters and not any(each.requires_grad for each in parameters):
            child.eval()
    step = 0
    while step < steps:
        batches.batch_sampler.sampler.set_epoch(step // len(batches))
        for batch in batches:
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()
            step += 1
            if ramp:
                (warmup if step <= ramp else cosine).step()


@of_quick_jobs
def test_resumed_run_is_the_uninterrupted_one(job: Job, whole: Path, tmp_path: Path) -> None:
    assert_resumes(everything(job), tmp_path / "run", "on_train_batch_end", 3, whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*JOBS, "lightning_hydra_template"])
def test_killed_run_resumes_in_a_fork(name: str, tmp_path: Path) -> None:
    fork = examples.write_fork(FOLDERS.get(name, name), tmp_path)
    longer = "trainer.max_steps=400" if name == "language_model" else "trainer.max_epochs=40"
    if name in JOBS:
        words, before = everything(JOBS[name]), JOBS[name].before
    else:
        every = ("callbacks.last.every_n_steps=1", "callbacks.last.min_seconds=0")
        words, before = [*TINY, "module=mnist_lit", "data=mnist_lit", *every], ()
    words = [*(word.replace("BEFORE", "before") for word in words), longer]
    for folder, options in (("before", [*TINY, *before]), ("whole", words)):
        if folder == "whole" or before:
            with examples.start(fork, *options, f"hydra.run.dir={folder}") as process:
                assert process.wait(120) == 0
    with examples.start(fork, *words, "hydra.run.dir=run") as killed:
        wait_for("run/metrics.csv", fork, killed)
        os.kill(killed.pid, signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
    with examples.start(fork, "resume=run") as resumed:
        assert resumed.wait(120) == 0
    assert len(list((fork / "run/.hydra").rglob("config.yaml"))) > 1  # it was killed before its end
    assert_same(fork / "whole", fork / "run")


@of_quick_jobs
def test_run_logs_its_values_and_freezes_its_part(job: Job, whole: Path) -> None:
    result = json.loads((whole / "result.json").read_text())
    history = pd.read_csv(whole / "metrics.csv")
    names = {f"{part}/{name}" for part in ("train", "val") for name in job.logged} | {*job.once}
    assert set(history) == {"epoch", "step", *job.rates, *names}
    metric, mode = job.monitor
    assert (result["monitor"]["metric"], result["monitor"]["mode"]) == (metric, mode)
    assert result["monitor"]["best"] == getattr(history[metric], mode)()
    assert names <= result["metrics"].keys()
    first = dict(build(composed([*TINY, *job.options])).module.model.named_parameters())
    last = dict(trained_model(job, whole).named_parameters())
    same = {name for name in first if torch.equal(first[name], last[name])}
    assert same == {name for name in first if fnmatch(name, job.frozen)} != set()
    pictures = {path.name for path in whole.glob("*.png")}
    assert pictures == {"curves.png", *job.pictures}


@of_quick_jobs
def test_early_stopping_ends_it(job: Job) -> None:
    words = ["callbacks=early_stopping", "callbacks.early_stopping.patience=1"]
    words += ["callbacks.early_stopping.min_delta=1000", f"monitor.metric={job.monitor[0]}"]
    train(composed([*TINY, *job.options, *words]), Path("run"))
    assert len(pd.read_csv("run/metrics.csv")) == 2


@of_quick_jobs
def test_training_starts_from_the_weights_of_another_run(job: Job, whole: Path) -> None:
    words = [f"model.weights='{whole}'", "model.weights_keys=null"]
    run = build(composed([*TINY, *job.options, *words]))
    states = trained_model(job, whole).state_dict()
    assert all(torch.equal(v, states[key]) for key, v in run.module.model.state_dict().items())


@pytest.mark.slow
def test_suite_of_a_fork_stays_green(tmp_path: Path) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    for name in filter(lambda name: (ROOT / name).is_file(), tracked.stdout.splitlines()):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in sorted(path.name for path in examples.EXAMPLES.iterdir()):
        example = examples.EXAMPLES / name
        shutil.copytree(example / "conf", tmp_path / "conf", dirs_exist_ok=True)
        package = tmp_path / "src" / made.PROJECT
        shutil.copytree(example / "project", package, dirs_exist_ok=True)
    own = [path.stem for path in examples.EXAMPLES.glob("*/conf/*/*.yaml")]
    names = ("options", "schema", "data_sources", "model")
    files = [f"tests/quartet/test_{name}.py" for name in names]
    words = " or ".join(["own", "schema", *own])
    command = [sys.executable, "-m", "pytest", "-q", "-n", "1", "-k", words, *files]
    path = os.environ | {"PYTHONPATH": str(tmp_path / "src")}
    done = subprocess.run(command, cwd=tmp_path, env=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# Commands


@of_quick_jobs
def test_sweep_of_two_values_has_a_report(job: Job, train_py: Cli) -> None:
    words = ["callbacks.best=null", "callbacks.last=null", job.knob]
    assert train_py("-m", *TINY, *job.options, *words, "hydra.sweep.dir=s") == 0
    report([Path("s")], None)
    knob, _, values = job.knob.partition("=")
    table = pd.read_csv("s/results.csv")
    assert sorted(table[knob]) == [float(value) for value in values.split(",")]
    assert set(table["status"]) == {"finished"}
    assert knob in Path("s/report.html").read_text()


@of_quick_jobs
def test_check_alone_ends_with_what_is_not_checked(job: Job, train_py: Cli) -> None:
    task = build(composed([*TINY, *job.options])).module.task
    assert train_py("check=only", *TINY, *job.options) == 0
    said = " ".join(train_py.out.split())  # columns are aligned
    words = f"data: its values, since the task {task.name} has no method problems"
    assert ("not checked data" in said) == (job.unchecked != "")
    assert f"not checked {job.unchecked or words}" in said or job.unchecked == ""
    drawn = isinstance(task, StandardTask) or bool(job.pictures)
    assert ("pictures: there are none, since" in said) == (not drawn)


@of_quick_jobs
def test_evaluation_gives_the_figures_of_the_training(job: Job, whole: Path) -> None:
    result = json.loads((whole / "result.json").read_text())["metrics"]
    for split in ("val", "test"):
        figures = evaluate(evaluation_config(whole, []), whole, split=split)
        assert figures == {key: v for key, v in result.items() if key.startswith(f"{split}/")}


@of_quick_jobs
def test_predictions_are_right(job: Job, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = predict(evaluation_config(whole, []), whole)
    said = capsys.readouterr().out
    model, run = trained_model(job, whole), build(composed([*TINY, *job.options]))
    (batch,) = run.data.part_loader("test")
    with torch.no_grad():
        expected = job.predict(model(run.module.task.split(batch)[0]))
    assert (": the task" in said and "has no columns" in said) == (file.suffix == ".pt")
    if file.suffix == ".pt":
        (block,) = torch.load(file, weights_only=True)
        assert all(torch.equal(block[key], values) for key, values in expected.items())
        return
    table = pd.read_csv(file)
    assert {key: table[key].tolist() for key in expected} == expected


@of_quick_jobs
def test_model_is_exported_or_a_sentence_says_why_not(job: Job, whole: Path) -> None:
    file = whole / "model.pt2"
    if job.no_export:
        with pytest.raises(ConfigError, match=f"^format=torch_export: .*{job.no_export}"):
            export(evaluation_config(whole, []), whole, format="torch_export")
    else:
        assert export(evaluation_config(whole, []), whole, format="torch_export") == file
    assert file.exists() == (not job.no_export)


# What one job alone has


MISTAKES = [
    ("two_heads", "metrics.accuracy.of=digits", r"of=digits: predictions .*did you mean digit\?"),
    ("two_heads", "metrics.accuracy.of=null", r"by metrics.accuracy.of: digit or ink\."),
    ("two_heads", "data.mean=[0.1] data.std=[1]", r"for images, and the inputs are a dict; null"),
    ("two_heads", "data.mixup=0.2", r"mixes classes, .*digit_and_ink; set data.mixup=0\."),
    ("vae", "data.mixup=0.2", r"mixes classes, and the task is reconstruction; set data.mixup=0"),
    ("vae", "loss=mse", r"^loss=mse: is for regression and ranking tasks, and the data's is rec"),
    ("two_heads", "loss=none", r"^loss=none: needs a model that returns a dict with its loss"),
    ("segmentation", "data.flip=true", r"moves images, .*; set data.flip=false, and change both"),
    ("segmentation", "+metrics.iou.of=x", r"metrics.iou.of=x: .*they are no dict, leave it out"),
    ("segmentation", "data.input_shape=[3,8,8]", r"have shape \[1, 16, 16\]; null reads it off"),
    ("segmentation", "monitor.metric=val/class_iou", r"did you mean val/class_iou_background\?"),
    (
        "segmentation",
        "model=mlp",
        r"Of two train samples the model gives 2 x 3 float32; targets are 2 x 16 x 16 int64\.",
    ),
    ("language_model", "loss=cross_entropy", r"use loss=token_cross_entropy\."),
]


@pytest.mark.parametrize(("name", "words", "message"), MISTAKES)
def test_mistake_is_refused(name: str, words: str, message: str, tmp_path: Path) -> None:
    with examples.installed(name, tmp_path), pytest.raises(ConfigError, match=message):
        build(composed([*TINY, *JOBS[name].options, *words.split()]))


REQUIREMENTS = [
    ("model=unet", r"^model=unet: goes with data=shapes; add data=shapes\.$"),
    ("loss=cross_entropy_dice", r"^loss=\w+: goes with data=shapes; add data=shapes\.$"),
    ("+optimizer.requires.scheduler=[step,cosine]", r"goes with .*=step or cosine; add .*=step"),
    ("+model.requires.optimiser=adam", r"^model.requires.optimiser: is no group; did you mean op"),
    ("+model.requires=3", r"^model.requires=3: must be a mapping of names to text"),
]


@pytest.mark.parametrize(("words", "message"), REQUIREMENTS)
def test_option_that_goes_with_another_says_so(words: str, message: str, tmp_path: Path) -> None:
    with examples.installed("segmentation", tmp_path), pytest.raises(ConfigError, match=message):
        build(composed([*TINY, *words.split()]))


def test_flips_move_images_and_masks_together(tmp_path: Path) -> None:
    with examples.installed("segmentation", tmp_path):
        run = build(composed([*TINY, "data=shapes", "data.shuffle=false", "data.batch_size=full"]))
        (images, masks), *_ = run.data.train_dataloader()
    stored = run.data.parts.train.tensors
    mirrored = (images[:, 0] != stored[0][:, 0] / 255).any((1, 2))
    assert 20 < mirrored.sum() < 40  # of 60
    expected = torch.where(mirrored[:, None, None], stored[1].flip(2), stored[1])
    assert torch.equal(masks, expected)


def test_characters_stay_numbers_and_text_is_written_after_each_validation(tmp_path: Path) -> None:
    with examples.installed("language_model", tmp_path):
        run = build(composed([*TINY, "experiment=language_model"]))
        ids, _ = next(iter(run.data.train_dataloader()))
        train(composed([*TINY, *JOBS["language_model"].options]), tmp_path / "run")
    assert (ids.dtype, int(ids.max())) == (torch.uint8, 27)
    assert run.config["data"]["vocab_size"] == len(CHARACTERS) == 28  # as the text has
    assert run.module.model.head.out_features == 28
    texts = {path.name: path.read_text() for path in (tmp_path / "run/texts").iterdir()}
    assert texts.keys() == {"4.txt", "8.txt", "12.txt"}
    assert all(text.startswith("the") and len(text) == 23 for text in texts.values())


def test_rates_of_both_are_logged_and_samples_are_saved(tmp_path: Path) -> None:
    with examples.installed("gan", tmp_path):
        train(composed([*TINY, *JOBS["gan"].options]), tmp_path / "run")
    rates = pd.read_csv(tmp_path / "run/metrics.csv")["lr/discriminator_optimizer"]
    assert rates.tolist() == pytest.approx([0.001, 0.00075, 0.00025])
    assert len(torch.load(tmp_path / "run/samples/2.pt")) == 100


def test_another_table_is_prepared_as_that_of_the_training(tmp_path: Path) -> None:
    run = tmp_path / "run"
    later = pd.read_csv(LOAD)[-96:]  # the last fifth from 72 hours on, and the 24 before them
    later.to_csv(tmp_path / "later.csv", index=False)
    pd.read_csv(LOAD)[:-96].to_csv(tmp_path / "shorter.csv", index=False)
    with examples.installed("forecasting", tmp_path):
        words = ["data=load", f"data.path={LOAD}", "trainer.max_epochs=1"]
        result = train(composed([*TINY, *words]), run)["metrics"]
        cfg = evaluation_config(run, [])
        figures = evaluate(cfg, run, input=tmp_path / "later.csv")
        table = pd.read_csv(predict(cfg, run, input=tmp_path / "later.csv"))
        own = pd.read_csv(predict(cfg, run))
        with pytest.raises(ConfigError, match=r"^input=none.csv: none.csv is missing; name a file"):
            evaluate(cfg, run, input="none.csv")
        for key, value, words in (
            ("val_fraction", 0.1, "^data.val_fraction=0.1: is not what the run was trained with"),
            ("path", str(tmp_path / "shorter.csv"), "own data has changed since the training"),
        ):
            cfg.data[key] = value
            with pytest.raises(ConfigError, match=words):
                evaluate(cfg, run, input=tmp_path / "later.csv")
    assert len(table) == 61
    pd.testing.assert_frame_equal(table, own, rtol=1e-5)
    tested = {key: value for key, value in result.items() if key.startswith("test/")}
    assert figures == pytest.approx(tested, rel=1e-5)


def test_examples_leave_nothing_behind(tmp_path: Path) -> None:
    package = importlib.import_module(made.PROJECT)
    before, paths = set(sys.modules), list(package.__path__)
    with examples.installed("segmentation", tmp_path):
        name = composed(["data=shapes"]).data.task
        build(composed(["data=shapes", "trainer=cpu"]))
        assert name in OWN_TASKS
        assert tmp_path / "conf" == sys.modules["made"].CONF
    assert name not in OWN_TASKS
    assert sys.modules["made"].CONF == CONF
    assert list(sys.modules[made.PROJECT].__path__) == paths
    assert not [n for n in set(sys.modules) - before if n.endswith(("segmentation", "unet"))]
    with pytest.raises(ConfigError, match=r"^data=shapes: there is no such option"):
        composed(["data=shapes"])


@pytest.fixture
def boxes(tmp_path: Path) -> Iterator[list[str]]:
    pytest.importorskip("pycocotools")
    with examples.installed("detection", tmp_path):
        yield [*TINY, "data=boxes"]


def test_detector_is_tried_without_a_trace_and_trained_to_the_last_image(boxes: list[str]) -> None:
    anchors = build(composed(boxes)).module.model.net.anchor_generator
    kinds = [(each.device.type, each.dtype) for each in anchors.cell_anchors]
    assert kinds == [("cpu", torch.float32)]
    fresh = type(anchors)(anchors.sizes, anchors.aspect_ratios)
    assert all(map(torch.equal, anchors.cell_anchors, fresh.cell_anchors))
    run = build(composed([*boxes, "data.batch_size=5", "trainer.max_epochs=1"]))  # of 36
    run.trainer.fit(run.module, run.data)
    assert run.trainer.global_step == 8
    assert_refused(
        [*boxes, "monitor.metric=val/loss"], r"metric=val/loss: will not be logged .*train/loss"
    )
    assert_refused([*boxes, "data.mean=[0.5]"], r"^data.mean=\[0.5\]: ")


def test_zipped_samples_are_lists(boxes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (expected, _), *_ = build(composed(boxes)).data.train_dataloader()
    zipped = lambda samples: tuple(zip(*samples, strict=True))  # noqa: E731
    monkeypatch.setattr(sys.modules["project.detection"], "collate", zipped)
    (images, targets), *_ = build(composed(boxes)).data.train_dataloader()
    assert type(images) is type(targets) is list
    assert len(images) == nest.size(targets) == 32
    assert all(map(torch.equal, images, expected))


@pytest.mark.parametrize("job", ["detection"], indirect=True)
def test_detections_of_a_file_are_refused_with_a_sentence(job: Job, whole: Path) -> None:
    with pytest.raises(ConfigError, match=r"^input=.*nothing tells how this data reads a file"):
        predict(evaluation_config(whole, []), whole, input=whole / "boxes.png")


def test_teacher_is_named_and_not_in_checkpoints(tmp_path: Path, wholes: dict[str, Path]) -> None:
    words = [*TINY, "experiment=distillation"]
    with examples.installed("distillation", tmp_path):
        assert_refused(words, r"^module.teacher=\?\?\?: must be set")
        assert_refused(
            [*words, f"module.teacher='{tmp_path}/nothing'"], r"^module: .*nothing holds no run"
        )
        job = start_from(JOBS["distillation"], wholes[""] / "before distillation")
        train(composed([*TINY, *job.options]), tmp_path / "run")
        state = load(tmp_path / "run/checkpoints/best.ckpt")["state_dict"]
        teacher = build(composed([*TINY, *job.options])).module.teacher
    assert {key.split(".")[0] for key in state} == {"model"}
    assert teacher.model.layers[0].out_features == 64
