"""Every problem of a configuration or of its data, and the words with which it is refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from made import PROJECT, assert_refused, composed, labelled_table
from omegaconf import open_dict
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from quartet.build import build
from quartet.config import allow, signatures
from quartet.config.instantiate import POLICY_KEYS
from quartet.core.files import CONF
from quartet.core.messages import format_value, suggest_name
from quartet.core.problems import ConfigError
from quartet.data.split import Parts
from quartet.data.task import Task
from quartet.validation import keys
from quartet.validation.dry_run import check_model
from quartet.validation.settings import check_device, check_optimizer

HERE = Path(__file__).stem


@pytest.fixture(autouse=True)
def _parts_of_this_file(monkeypatch: pytest.MonkeyPatch) -> None:
    own = [(HERE, None), (HERE, "builtins.object")]
    monkeypatch.setattr(allow, "FAMILIES", [*allow.FAMILIES, *own])


# What a fork may bring


class Inner(nn.Module):
    def __init__(self, *, input_shape: list[int], num_outputs: int, width: int = 4) -> None:
        super().__init__()
        self.layer = nn.Linear(input_shape[0], num_outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs)


class PassesOn(Inner):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class WrongSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(7, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs)


class Ordered(Task):
    """A kind of task of the fork's own."""


class Raises(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        {}["width"]


class Mistyped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.width = "3" + 1  # type: ignore[operator]


class Untrainable(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs[:, :3]


class Convolution(nn.Module):
    """Has no matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 10, 8)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs).flatten(1)


class LooksAtValues(Inner):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs) * (1 if inputs.sum().item() > 0 else 2)


class HoldsPlainTensor(Inner):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = torch.ones(13)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layer(inputs * self.scale)


class Untyped(Inner):
    def __init__(self, size, part, normal: Callable[..., nn.Module], **kwargs) -> None:  # type: ignore[no-untyped-def]
        super().__init__(**kwargs)
        self.part, self.normal = part, normal(size)


class FlatTargets(nn.Module):
    """Squeezes the outputs alone, so that torch broadcasts."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.mse_loss(outputs.squeeze(1), targets)


class EachSample(nn.Module):
    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return ((outputs - targets) ** 2).mean(dim=1)


class Indifferent(nn.Module):
    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (0 * outputs).sum()


class Pairs(Dataset[Any]):
    def __init__(self, inputs: Tensor, targets: list[Any]) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        return self.inputs[index], self.targets[index]


FORK = f"data=wine ~model.hidden ~model.activation ~model.dropout ~model.norm model._target_={HERE}"
ALONE = "~model.input_shape ~model.num_outputs"

# What is chosen, and what is said of it; @ at the start is the last override.
REFUSED = [
    # Names
    ("+model.hiden=[3]", r"^model.hiden: MLP has no such argument; did you mean hidden\?$"),
    ("+optimizer.wieght_decay=1", "^optimizer.wieght_decay: Adam has .*did you mean weight_decay"),
    ("+data.val_frac=0.1", r"^data.val_frac: digits has no .*did you mean val_fraction\?$"),
    ("+data.bacth_size=3", "^data.bacth_size: digits has no such argument; there are val_frac"),
    ("+callbacks.best.montor=x", r"^callbacks.best.montor: .*did you mean monitor\?$"),
    ("+scheduler.gamma=3", r"^scheduler.gamma: scheduler=none does not read it\.$"),
    (f"{FORK}.PassesOn +model.widht=3", "^model.widht: nothing uses this .*did you mean width"),
    (f"{FORK}.PassesOn ~model.num_outputs", "model: TypeError: .*missing .* 'num_outputs'"),
    ("~model.hidden", r"^model.hidden: is missing, and MLP needs it\.$"),
    ("~optimizer", r"^optimizer._target_: is missing; .*optimizer=adam\.$"),
    ("~trainer.max_epochs", "^trainer.max_epochs: is missing"),
    ("+callbacks.foo.patience=3", r"^callbacks.foo: has no _target_, .*; null leaves it out\.$"),
    ("+trainer.logger=true", "^trainer.logger: cannot be set here; the logger group sets them"),
    ("+lr=0.1", r"^lr: nothing reads this key; there are callbacks, .* and \d more\.$"),
    ("+optimiser.lr=0.1", r"^optimiser: nothing reads this key; did you mean optimizer\?$"),
    ("+monitor.metrics=x", r"^monitor.metrics: nothing reads this key; it has metric and mode\.$"),
    (
        f"model._target_={PROJECT}.model.mlp.MPL",
        rf"^model._target_={PROJECT}.model.mlp.MPL: {PROJECT}.model.mlp has no MPL; did you mean MLP\?$",
    ),
    (f"data.task={HERE}.Ordered data.balance=true", "=true: .*, and the task is ordered; leave"),
    (f"data._target_={HERE}.digit", rf"^data._target_={HERE}.digit: {HERE} has no digit; "),
    (f"data.task={HERE}.Inner", r"Inner: must be a subclass of quartet.Task\.$"),
    ("metrics.f1._target_=torch.nn.ReLU", "U: must be a subclass of torchmetrics.Metric or torchm"),
    ("module._target_=torch.nn.ReLU", "U: must be a subclass of lightning.pytorch.LightningModule"),
    (f"optimizer._target_={HERE}.Inner", r"must be a subclass of torch.optim.Optimizer\.$"),
    (f"data._target_={HERE}.Inner", r"Module, or a function that returns quartet.Parts\.$"),
    (f"+callbacks.x._target_={HERE}.nothing", "^callbacks.x: _target_ gives a NoneType, and must"),
    ("optimizer._target_=torch.optm.Adam", r": torch has no optm; did you mean optim\?$"),
    ("loss._target_=torch.nn", "@: torch.nn is a module, and must be"),
    ("model.hidden=${foo}", "@: Interpolation key 'foo' not found; name a"),
    ("optimizer.lr=${data.rate}", "@: Interpolation key 'data.rate'"),
    ("model.hidden=???", r"@: must be set\.$"),
    ("data.val_fraction=???", r"@: must be set\.$"),
    # Kinds
    ("seed=abc", r"@: must be a whole number\.$"),
    ("data.batch_size=abc", r"@: must be a whole number or full\.$"),
    ("data.shuffle=abc", r"@: must be true or false\.$"),
    ("data.mean=[a] data.std=[1]", r"^data.mean=\[a\]: must be a list of numbers or null\.$"),
    (
        "model.norm=2024",
        r"^model.norm=2024: must be text; quotes make it text: 'model.norm=\"2024\"'\.$",
    ),
    ("optimizer.lr='0.1'", "^optimizer.lr=0.1: is text, and must be a number; leave out its quot"),
    ("data.keep=[1]", r"@: must be a mapping of names to numbers or null\.$"),
    ("model.hidden=abc", r"@: must be a list of whole numbers\.$"),
    ("model.hidden=3", r"@: must be a list of whole numbers, such as \[3\]\.$"),
    ("+width=abc model.hidden=[${width}]", r"^model.hidden=\[abc\]: must be a list of whole"),
    ("optimizer.lr=abc", r"@: must be a number\.$"),
    ("optimizer.lr_factors=3", "@: must be a mapping of names to numbers"),
    ("scheduler=cyclic scheduler.mode=foo", "mode=foo: must be triangular, triangular2 or exp_r"),
    ("scheduler.interval=stpe", r"@: did you mean step\?$"),
    ("loss=weighted_cross_entropy loss.weight=foo", r"must be a list of numbers or balanced\.$"),
    ("metrics.f1.average=foo", r"average=foo: must be micro, macro, weighted, none or null\.$"),
    ("trainer.max_epochs=abc", r"@: must be a whole number or null\.$"),
    ("trainer.deterministic=abc", r"deterministic=abc: must be true, false, warn or null\.$"),
    ("trainer.devices=abc", "@: must be a number of devices from 1, a list of their indices"),
    ("trainer.precision=bf16-mixd", r"@: did you mean bf16-mixed\?$"),
    ("trainer.precision=half", r"@: must be 32-true, .* or one of 2 more\.$"),
    ("monitor.metric=3", "@: must be text or null; quotes make it text"),
    ("monitor.mode=foo", r"@: must be min, max or null\.$"),
    ("check=foo", r"@: must be only or null\.$"),
    # Ranges
    ("data.batch_size=0", "@: must be at least 1; full is the whole training se"),
    ("data.val_fraction=2", r"@: must be in \[0, 1\); 0 trains witho"),
    (
        "data.val_fraction=0.9",
        r"^data.val_fraction: val_fraction \+ test_fraction must be below 1, got 0.9 \+ 0",
    ),
    ("data.val_fraction=0.0001", "@: makes an empty part of 1797 rows"),
    ("data.keep={0:3}", "^data.keep: must be above 0 and at most 1 for each class, got 3"),
    ("model.dropout=2", r"^model.dropout: must be in \[0, 1\), got 2; 0 is no dropout\.$"),
    ("model=cnn model.channels=[1,2,3,4]", r"^model.channels=\[1, 2, 3, 4\]: halves images of 8x8"),
    ("optimizer.lr=inf", r"@: must be finite and at least 0\.$"),
    ("optimizer.betas=[0.9,1.5]", r"^optimizer.betas=\[0.9, 1.5\]: each must be in \[0, 1\)\.$"),
    ("loss=focal loss.alpha=0.3", "^loss.alpha: must be a list of one weight for each of the 10"),
    ("data.train_samples=0", r"@: must be at least 1\.$"),
    ("data=ranking data.train_samples=9", "^data.input_shape=null: is not known before the data"),
    ("trainer.max_epochs=0", r"@: must be at least 1\.$"),
    ("trainer.max_epochs=-1", "@: the training would never end; set a num"),
    ("trainer.max_time=foo", r"^trainer: `Timer\(duration='foo'\)` is not a valid duration"),
    ("trainer.check_val_every_n_epoch=0", "n_epoch=0: must be a whole number of at least 1; data"),
    ("trainer.val_check_interval=2.5", "interval=2.5: must be a number of batches, or a share"),
    ("trainer.val_check_interval=00:01:00:00", "must be a number of batches, or a share"),
    ("callbacks=early_stopping callbacks.early_stopping.patience=-1", r"@: must be at least 0\.$"),
    # Contradictions
    (
        "optimizer=sgd optimizer.nesterov=true",
        "^optimizer.nesterov: Nesterov momentum requires a momentum and zero",
    ),
    ("optimizer=lbfgs trainer.accumulate_grad_batches=2", "=2: LBFGS evaluates one batch several"),
    ("optimizer.freeze=[layer]", "^optimizer.freeze: 'layer' matches no trainable parameter"),
    ("optimizer.lr_factors={layers.9.*:2}", r"^optimizer.lr_factors: 'layers.9.\*' matches no"),
    ("trainer.channels_last=true", "@: the model has no convolutions"),
    ("data.std=null", r"^data.mean=\[0.305\]: needs data.std too; give both or none\.$"),
    ("data.num_outputs=3", "@: must be 10 in this multiclass task; leave it out"),
    ("data.drop_last=true data.batch_size=5000", "^data.drop_last=true: leaves no batch, .* 1258"),
    ("data.input_shape=[64]", r"@: the train inputs have shape \[1, 8, 8\]"),
    ("data.num_classes=3", "^data: 882 train targets lie outside 0..2, such as 3; set data.num_"),
    ("scheduler.warmup_steps=100000", "A warm-up of 100000 optimizer steps leaves nothing of a tr"),
    (
        "scheduler.warmup_steps=1 scheduler.warmup_epochs=1",
        "^scheduler.warmup_steps=1: sets the warm-up, and so does .*=1; set one of them",
    ),
    ("scheduler=cosine scheduler.T_max=5", "@: ends before the training, .*30 ti"),
    ("scheduler=cosine scheduler.eta_min=1", "eta_min=1: is above optimizer.lr=0"),
    ("scheduler=one_cycle scheduler.total_steps=5", "total_steps=5: is shorter than the training"),
    (
        "scheduler=cyclic scheduler.base_lr=1 scheduler.max_lr=0.1",
        r"base_lr=1: is above scheduler.max_lr=0.1; exchange them\.$",
    ),
    # What is monitored
    ("monitor.metric=accuracy", r"will not be logged while training; did you mean val/accuracy\?$"),
    ("monitor.metric=test/accuracy", r"will not be logged while .*; did you mean val/accuracy\?$"),
    ("monitor.mode=max", "@: contradicts val/loss, which is better when lower; l"),
    ("monitor.metric=val/f1 monitor.mode=min", "@: contradicts val/f1, .*better when higher"),
    (  # both ends of a correlation may be the best
        "data=linear +metrics.r._target_=torchmetrics.PearsonCorrCoef monitor.metric=val/r",
        "^monitor.mode=null: is not known for val/r, whose metric has no higher_is_better; set it",
    ),
    (
        "data.val_fraction=0 monitor.metric=val/accuracy",
        "^monitor: monitors val/accuracy, and there is no validation; set monitor.metric=train/loss",
    ),
    (
        "scheduler=plateau trainer.limit_val_batches=0",
        "^scheduler: monitors val/loss, and there is",
    ),
    ("scheduler=plateau scheduler.monitor=null", "scheduler needs a value to monitor; set it"),
    ("scheduler=plateau scheduler.monitor=val/f", r"scheduler.monitor=val/f: will not .*val/f1\?$"),
    ("callbacks=early_stopping data.val_fraction=0", "^callbacks.early_stopping: monitors val/los"),
    ("callbacks=early_stopping callbacks.early_stopping.mode=max", "@: contradicts val/loss"),
    # Parts that do not fit the task
    ("data=wine data.flip=true", r"@: needs images .*\[13\]; leave it out"),
    ("data=wine data.crop=2", "@: needs images"),
    (
        "loss=bce",
        r"use loss=cross_entropy, focal, label_smoothing, nll or weighted_cross_entropy\.$",
    ),
    ("data=diabetes loss=listnet", "@: is for ranking tasks, .*regression; use loss=hu"),
    ("metrics=regression", r"@: is for .*multiclass; use metrics=classification\.$"),
    ("data.task=regression", r"targets are torch.int64 of shape \[1258\]; a regression task takes"),
    (
        "data.task=foo",
        "@: must be multiclass, binary, multilabel, regression or ranking, or the path of a task of your own",
    ),
    ("data.task=os.path", "@: is no part of a training"),
    ("metrics.f1.num_classes=3", "^metrics.f1: .*must suit this multiclass task with num_outputs="),
    ("+metrics.mae._target_=torchmetrics.MeanAbsoluteError", "^metrics.mae: .*same shape, .*suit"),
    (
        "model.num_outputs=3",
        r"^model: gives \[2, 3\] for a batch of 2, and the task needs \[2, 10\]",
    ),
    (
        f"{FORK}.WrongSize {ALONE}",
        r"^model: .*\(2x13 and 7x3\) \(test_check.py, line \d+\); it must",
    ),
    (f"{FORK}.Raises {ALONE}", r"^model: KeyError: 'width' \(test_check.py, line \d+\)$"),
    (f"{FORK}.Mistyped {ALONE}", r"^model: TypeError: can only .* \(test_check.py, line \d+\)$"),
    (f"{FORK}.Untrainable {ALONE}", "^model: has no parameter that requires a gradient"),
    (
        "data=linear loss={TARGET}.FlatTargets",
        "^loss: Using a target size .* so torch would broadcast; give",
    ),
    (
        "data=linear loss={TARGET}.EachSample",
        r"^loss: gives \[3\], and must give a scalar, or a dict with one under 'loss'",
    ),
    ("data=linear loss={TARGET}.Indifferent", r"^loss: does not depend on outputs \[3, 1\]"),
    ("data=linear loss={TARGET}.EachSampel", "test_check has no EachSampel; did you mean EachSamp"),
    (f"{FORK}.Convolution {ALONE} data=digits optimizer=muon", "^optimizer: params must hold a ma"),
    # The machine
    ("trainer.precision=16-mixed trainer=cpu", "precision=16-mixed: the processor has no 16-bit"),
    (
        "trainer=cpu trainer.devices=[0,1]",
        "^trainer.devices: `devices` selected with `CPUAccelerator` should be an int",
    ),
    ("trainer.accelerator=mps", "@: this machine is no Mac with a GPU; use trainer="),
    ("trainer=cpu trainer.strategy=fsdp", "^trainer: The strategy `fsdp` requires a GPU"),
]


def overrides(text: str) -> list[str]:
    """Splits at spaces; ``loss={TARGET}.X`` stands for a loss of this file without arguments."""
    words = []
    for word in text.split():
        if word.startswith("loss={TARGET}"):
            word = f"loss._target_={HERE}.{word.rpartition('.')[2]}"
            words.append("~loss.tasks")
        words.append(word)
    return words


def nothing() -> None: ...


def messages(*words: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        build(composed(words))
    return list(map(str, refused.value.problems))


@pytest.mark.parametrize(("text", "words"), REFUSED, ids=[text for text, _ in REFUSED])
def test_problem_is_refused_with_the_way_out(text: str, words: str) -> None:
    *_, last = given = overrides(text)
    found = messages(*given)
    words = f"^{re.escape(last)}{words[1:]}" if words[0] == "@" else words
    assert any(re.search(words, message) for message in found), found
    assert len(set(found)) == len(found) <= 3  # one problem is not reported many times over
    for message in found:
        assert len(message) < 260
        assert message.endswith((".", "?", ")"))
        assert not re.search(r"[a-z]{2}\. [a-z]", message)  # a sentence starts in upper case


def test_error_of_the_engine_is_no_problem_of_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quartet.checkpoints.storage.load_weights", None)  # which the engine calls
    with pytest.raises(TypeError, match="'NoneType' object is not callable") as raised:
        build(composed(["model.weights=best.ckpt"]))
    assert raised.traceback[-1].path.name == "instantiate.py"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("choice", ["trainer.accelerator=cuda", "trainer=gpu", "trainer=fp16"])
def test_gpu_is_refused_where_there_is_none(choice: str) -> None:
    words = r"trainer.accelerator=\w+: this machine has no GPU .*; use trainer=cpu"
    (message,) = messages(choice)
    assert re.match(words, message)


@pytest.mark.parametrize(
    "overrides",
    [
        ["+a=${b}", "+b=${a}"],
        ["+a.x=${b}", "+b.x=${a}"],
        ["+model.x=${loss}", "+loss.x=${model}"],
        ["+model.x.y=${model}"],
        ["+model.x=${model.x}"],
        ["+loss.a._target_=torch.nn.ReLU", "+loss.a.b=${model}", "+model.c=${loss.a}"],
    ],
    ids=" ".join,
)
def test_values_that_lead_to_themselves_are_refused(overrides: list[str]) -> None:
    assert_refused(overrides, r"contains itself; give a value|Recursive|parent node detected")


def test_half_precision_is_refused_on_a_gpu_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    settings = {"accelerator": "auto", "devices": 1, "precision": "bf16-mixed"}
    assert "this GPU has no bfloat16; use 16-mixed" in str(next(check_device(settings, wrong=())))
    assert not list(check_device(settings | {"precision": "16-mixed"}, wrong=()))


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        ({"_target_": "torch.optim.LBFGS"}, "LBFGS cannot scale gradients; use bf16-mixed"),
        ({"_target_": "torch.optim.Adam", "fused": True}, "set optimizer.fused=null"),
    ],
)
def test_optimizer_is_refused_for_half_precision(optimizer: dict[str, Any], words: str) -> None:
    trainer = {"precision": "16-mixed", "gradient_clip_val": 1, "accumulate_grad_batches": 1}
    found = list(map(str, check_optimizer("optimizer", optimizer, trainer, ())))
    assert len(found) == 1
    assert words in found[0]
    trainer["precision"] = "bf16-mixed"
    assert not list(check_optimizer("optimizer", optimizer, trainer, ()))


def test_all_problems_come_in_one_message() -> None:
    found = messages(
        *("data.batch_size=0", "model.dropout=2", "loss.label_smoothing=2", "optimizer.lr=-1"),
        *("scheduler=step", "scheduler.gamma=abc", "trainer.max_epochs=0", "+foo=1", "seed=x"),
        *("monitor.metric=val/acc", "+callbacks.best.montor=1", "metrics.f1.average=big"),
        "+optimizer.beta=1",
    )
    named = sorted(message.replace(":", "=").partition("=")[0].split(" ")[0] for message in found)
    expected = ["data.batch_size", "foo", "loss.label_smoothing", "metrics.f1.average"]
    expected += ["model.dropout", "optimizer.beta", "optimizer.lr", "scheduler.gamma", "seed"]
    assert named == [*expected, "trainer.max_epochs"]


def test_problems_of_built_parts_and_of_the_data_come_together_too() -> None:
    given = ["data=wine", "data.input_shape=[12]", "monitor.metric=val/acc", "model.dropout=-1"]
    given += ["loss=focal", "loss.gamma=-1", "optimizer.freeze=[x]", "trainer.precision=16-mixed"]
    given += ["trainer=cpu", "+metrics.mae._target_=torchmetrics.MeanAbsoluteError"]
    found = "\n".join(messages(*given))
    for words in (
        "data.input_shape=[12]: the train inputs have shape [13]",
        "did you mean val/accuracy?",
        "model.dropout: must be in",
        "loss.gamma: must be at least 0",
        "trainer.precision=16-mixed",
        "metrics.mae: ",
    ):
        assert words in found


def test_problems_are_found_though_the_data_cannot_be_read() -> None:
    assert messages("data=csv", "optimizer.lr=-1", "trainer.precision=half", "model.dropout=a") == [
        "data.path: is not set; data.path=table.csv names the table.",
        "model.dropout=a: must be a number.",
        "optimizer.lr=-1: must be at least 0.",
        "trainer.precision=half: must be 32-true, 16-mixed, bf16-mixed, 16-true, bf16-true, "
        "64-true, 32, 16, bf16, 64 or one of 2 more.",
    ]


def test_nothing_is_downloaded_or_written(tmp_path: Path) -> None:
    messages("data=fashion_mnist", f"data.dir={tmp_path}/data", "optimizer.lr=-1")
    build(composed(["data=fashion_mnist", f"data.dir={tmp_path}/data"]), tmp_path / "run")
    assert not list(tmp_path.iterdir())


# Data


def cut(task: str, seed: int = 0) -> dict[str, list[Tensor]]:
    """Flawless tensors of twelve training, six validation and six test samples."""
    random = torch.Generator().manual_seed(seed)
    parts = {}
    for part, count in (("train", 12), ("val", 6), ("test", 6)):
        targets = {
            "multiclass": torch.arange(count) % 3,
            "binary": (torch.arange(count) % 2).float().view(-1, 1),
            "multilabel": torch.stack([torch.arange(count) % 2, torch.arange(count) % 3 > 0], 1),
            "regression": torch.randn(count, 1, generator=random),
            "ranking": (torch.arange(count) % 3).float().view(-1, 1),
        }[task]
        targets = targets if task == "multiclass" else targets.float()
        parts[part] = [torch.randn(count, 2, generator=random), targets]
        if task == "ranking":
            parts[part].append(torch.arange(count) // 3)
    return parts


def put(part: str, index: int, where: tuple[Any, ...], value: float) -> Callable[..., None]:
    def change(parts: dict[str, list[Tensor]]) -> None:
        parts[part][index][where] = value

    return change


def swap(part: str, index: int, new: Callable[[Tensor], Tensor]) -> Callable[..., None]:
    def change(parts: dict[str, list[Tensor]]) -> None:
        parts[part][index] = new(parts[part][index])

    return change


def shorten(part: str, count: int) -> Callable[..., None]:
    def change(parts: dict[str, list[Tensor]]) -> None:
        parts[part] = [tensor[:count] for tensor in parts[part]]

    return change


FLAWS: dict[str, tuple[str, Callable[..., None], str]] = {
    "label too large": (
        "multiclass",
        put("train", 1, (0,), 3),
        r"^data: 1 train targets lie outside 0..2, such as 3; set data.num_classes, or correct",
    ),
    "label below 0": ("multiclass", put("val", 1, (0,), -1), r"1 val targets lie outside 0..2"),
    "nan": (
        "multiclass",
        put("train", 0, (slice(0, 2), 1), float("nan")),
        r"^data: 2 train inputs are NaN or infinite, in column height; correct or remove these",
    ),
    "inf": ("regression", put("test", 0, (3, 0), float("inf")), r"1 test inputs are .*column age;"),
    "nan target": (
        "regression",
        put("val", 1, (2, 0), float("nan")),
        r"^data: 1 val targets are NaN or infinite, in column 0; correct",
    ),
    "missing class": (
        "multiclass",
        swap("train", 1, lambda targets: targets.clamp(max=1)),
        r"^data: no training sample of class c; add some, leave the class out",
    ),
    "constant label": (
        "multilabel",
        put("train", 1, (slice(None), 1), 1),
        r"^data: in the train part label b has one value only",
    ),
    "neither 0 nor 1": (
        "binary",
        put("train", 1, (3, 0), 2),
        r"^data: 1 train targets of a binary task are neither 0 nor 1, such as 2; correct them",
    ),
    "empty": (
        "regression",
        shorten("val", 0),
        r"^data: the val part is empty; change data.val_fraction",
    ),
    "one sample": ("regression", shorten("test", 1), r"holds one sample, for which there is no R2"),
    "flat targets": (
        "regression",
        swap("train", 1, lambda targets: targets.squeeze(1)),
        r"targets are torch.float32 of shape \[12\]; a regression task takes .*shape \[12, 1\]\.$",
    ),
    "float classes": (
        "multiclass",
        swap("train", 1, Tensor.float),
        r"targets are torch.float32 of shape \[12\]; a multiclass task takes torch.int64",
    ),
    "doubles": ("regression", swap("train", 1, Tensor.double), r"targets are torch.float64 of"),
    "other shape": (
        "regression",
        swap("train", 0, lambda inputs: inputs[:, :1]),
        r"^data.input_shape=\[2\]: the train inputs have shape \[1\]; null reads it off the data",
    ),
}

# Parts that lack an AUROC, for all or for some of the outputs.
ONE_SIDED: dict[str, tuple[str, Callable[..., None], str]] = {
    "one class": (
        "multiclass",
        swap("val", 1, torch.zeros_like),
        "the val part has all or nothing of a, b, c; it has no auroc",
    ),
    "one value": (
        "binary",
        swap("test", 1, torch.ones_like),
        "the test part has all or nothing of 0, 1; it has no auroc",
    ),
    "a rare label": (
        "multilabel",
        put("test", 1, (slice(None), 1), 0),
        "the test part has all or nothing of b; auroc is the mean over the others",
    ),
}


def source(task: str, flaw: str | None, pairs: bool) -> Parts:
    parts = cut(task)
    if flaw:
        (FLAWS | ONE_SIDED)[flaw][1](parts)
    make: Callable[..., Any] = TensorDataset
    if pairs:
        make = lambda inputs, targets: Pairs(inputs, list(targets))  # noqa: E731
    sets = {part: make(*tensors) for part, tensors in parts.items()}
    names = {"multiclass": ("a", "b", "c"), "multilabel": ("a", "b")}.get(task)
    return Parts(**sets, class_names=names, feature_names=("age", "height"))


def built(task: str, flaw: str | None, *words: str, pairs: bool = False) -> Any:
    like = {"multiclass": "wine", "binary": "breast_cancer", "regression": "diabetes"}
    brings = ["data=csv", "data/task=multilabel"] if task == "multilabel" else []
    cfg = composed([*(brings or [f"data={like.get(task, task)}"]), *words])
    outputs = {"multiclass": 3, "multilabel": 2}.get(task, 1)
    with open_dict(cfg):
        for key in list(cfg.data):
            if key not in POLICY_KEYS["data"]:
                cfg.data.pop(key)
        cfg.data.update({"_target_": f"{HERE}.source", "flaw": flaw, "pairs": pairs})
        classes = {"multiclass": 3, "binary": 2, "multilabel": 2}.get(task)
        cfg.data.update({"input_shape": [2], "num_outputs": outputs, "num_classes": classes})
    return build(cfg)


@pytest.mark.parametrize("flaw", FLAWS)
def test_flaw_of_the_data_is_refused(flaw: str) -> None:
    task, _, words = FLAWS[flaw]
    with pytest.raises(ConfigError, match=words) as refused:
        built(task, flaw)
    assert len(refused.value.messages) == 1


@pytest.mark.parametrize(
    ("task", "more"),
    [
        *((task, {}) for task in ("multiclass", "binary", "multilabel", "regression", "ranking")),
        ("multiclass", {"pairs": True}),
    ],
)
def test_flawless_data_passes(task: str, more: dict[str, bool]) -> None:
    built(task, None, **more)


def test_part_that_cannot_be_scored_passes_without_metrics() -> None:
    built(FLAWS["one sample"][0], "one sample", "metrics=none")


@pytest.mark.parametrize("flaw", ONE_SIDED)
def test_part_without_auroc_passes_with_a_caution_unless_it_is_monitored(flaw: str) -> None:
    task, _, words = ONE_SIDED[flaw]
    assert [re.search(words, each) is None for each in built(task, flaw).cautions] == [False]
    assert built(task, flaw, "metrics=none").cautions == []
    if words.startswith("the val part"):
        with pytest.raises(ConfigError, match="so it has no AUROC; choose another"):
            built(task, flaw, "monitor.metric=val/auroc")


@pytest.mark.parametrize(
    "flaw", ["label too large", "missing class", "flat targets", "doubles", "other shape"]
)
def test_data_read_sample_by_sample_is_looked_at_too(flaw: str) -> None:
    task, _, words = FLAWS[flaw]
    with pytest.raises(ConfigError, match=words.replace("12", "1")):
        built(task, flaw, pairs=True)


COLUMNS = [
    ("a", [None], r"column 'a' has 1 missing values; data.missing=mean replaces them by the mean"),
    ("a", [float("inf")], r"column 'a' has infinite values; correct them"),
    ("red", [None], r"data.target: column 'red' has 1 missing or infinite values"),
    ("red", [7], r"data.target: column 'red' has 3 classes, binary needs exactly 2"),
]


@pytest.mark.parametrize(("column", "values", "words"), COLUMNS)
def test_flaw_names_the_column(column: str, values: list[Any], words: str, tmp_path: Path) -> None:
    labelled_table(tmp_path / "table.csv")
    table = pd.read_csv(tmp_path / "table.csv")
    table[column] = table[column].astype(float)
    table.loc[0, column] = values[0]
    table.to_csv(tmp_path / "table.csv", index=False)
    data = ["data=csv", "data/task=binary", f"data.path={tmp_path}/table.csv"]
    assert_refused([*data, "data.target=red", "data.drop=[round]"], words)


def test_flaws_of_all_columns_come_at_once(tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(10)]
    table = pd.DataFrame({"who": [f"w{row}" for row in range(400)], "y": ["a", "b"] * 200})
    table[names] = 1.0
    table.loc[0, names] = None
    table.to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(ConfigError) as refusal:
        build(composed(["data=csv", f"data.path={tmp_path}/table.csv", "data.target=y"]))
    first, *others, last = map(str, refusal.value.problems)
    assert "column 'who' is text with 280 different values in the training part, more" in first
    assert [each.split("'")[1] for each in others] == names[:7]
    assert last.endswith(f"to leave these 11 columns out, data.drop=[who,{','.join(names)}].")


# What must pass


@pytest.mark.parametrize(
    "text",
    [
        f"{FORK}.PassesOn +model.width=8",
        f"{FORK}.LooksAtValues",
        f"{FORK}.HoldsPlainTensor",
        "+width=64 model.hidden=[${width}]",
        "model.hidden=[]",
        "data.batch_size=full data.drop_last=true",
        "data.val_fraction=0",
        "data.val_fraction=0 callbacks=early_stopping monitor.metric=train/loss",
        "data.val_fraction=0 data.test_fraction=0",
        "monitor.metric=null",
        "monitor.metric=val/accuracy monitor.mode=max scheduler=plateau callbacks=early_stopping",
        "data=linear +metrics.r._target_=torchmetrics.PearsonCorrCoef monitor.metric=val/r "
        "monitor.mode=max",
        "scheduler=cosine scheduler.T_max=500",
        "scheduler=one_cycle optimizer=sgd",
        "trainer.max_epochs=-1 trainer.max_time=00:00:01:00",
        "trainer.max_epochs=null trainer.max_steps=10",
        "trainer.limit_val_batches=0 metrics=none",
        "optimizer=adafactor optimizer.eps=[null,0.1]",
        "optimizer.lr=0",
        "optimizer.freeze=['layers.0.*'] optimizer.lr_factors={layers.2.*:0.1}",
        "loss=weighted_cross_entropy loss.weight=[1,1,1,1,1,1,1,1,1,2]",
        "~loss.tasks",
        "callbacks.best=null callbacks.last=null",
        "logger=tensorboard",
    ],
)
def test_unusual_choice_passes(text: str) -> None:
    build(composed(text.split()))


def test_nested_parts_of_a_fork_are_looked_into() -> None:
    cfg = composed(f"{FORK}.Untyped".split())
    with open_dict(cfg):
        cfg.model.update(
            {
                "size": 5,
                "part": {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3},
                "normal": {"_target_": "torch.nn.BatchNorm1d", "_partial_": True, "eps": 0.1},
            }
        )
    build(cfg)
    with open_dict(cfg):
        cfg.model.part.in_feature = cfg.model.part.pop("in_features")
        cfg.model.normal.epps = cfg.model.normal.pop("eps")
    with pytest.raises(ConfigError) as refused:
        build(cfg)
    assert refused.value.messages == [
        "model.part.in_feature: Linear has no such argument; did you mean in_features?",
        "model.part.in_features: is missing, and Linear needs it.",
        "model.normal.epps: BatchNorm1d has no such argument; did you mean eps?",
    ]


def test_looking_at_a_model_leaves_it_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    assert list(check_model(model, torch.zeros(2, 3), 2)) == []
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


# The words


@pytest.mark.parametrize(
    ("interval", "within", "beyond"),
    [
        ("[0, 1)", [0, 0.5], [-1, 1, float("nan")]),
        ("(0, 1]", [0.1, 1], [0, 2]),
        ("[0, 1]", [0, 1], [-0.1, 1.1]),
        ("(0, inf); null is none", [0.1, 1e30], [0, float("inf")]),
        ("[-1, inf)", [-1], [-2]),
    ],
)
def test_ranges(interval: str, within: list[float], beyond: list[float]) -> None:
    assert keys.is_inside(within, interval)
    assert not any(keys.is_inside(value, interval) for value in beyond)


def test_every_limit_is_that_of_an_argument_and_refuses() -> None:
    known = {"seed"} | {f"{group}.{key}" for group, keys in POLICY_KEYS.items() for key in keys}
    for path in CONF.glob("[!.h]*/**/*.yaml"):
        for key, target in allow.find_targets(yaml.safe_load(path.read_text())):
            made = allow.locate(target)
            names = signatures.type_hints(made)
            group = path.parent.name if key == "_target_" else ""
            known |= {f"{title}.{name}" for title in (group, made.__name__) for name in names}
    assert {*keys.RANGES, *keys.CONDITIONS, *keys.WORDS} <= known
    for name, interval in keys.RANGES.items():
        group, _, key = name.rpartition(".")
        for value in (float("nan"), float("-inf"), [-2.0]):
            (problem,) = keys.check_values(group, {key: value}, {}, title=group)
            assert keys.describe_interval(interval) in problem.message


@pytest.mark.parametrize(
    ("value", "hint", "fit"),
    [
        (3, float, True),
        (True, float, False),
        (True, int, False),
        (1.0, int, False),
        ("a", list[str], False),
        (["a"], list[str], True),
        ([1, 2.5], tuple[float, float], True),
        ([1], tuple[float, float], False),
        ([1, 2, 3], tuple[int, ...], True),
        ({"a": 1}, dict[str, int], True),
        ({"a": "b"}, dict[str, int], False),
        (None, int | None, True),
        (None, int, False),
        ("x", int | Tensor, False),
        ({"_target_": "torch.ones"}, Tensor, True),
        ("x", Callable[[], int], True),
        ("x", Path, True),
        (3, Any, True),
    ],
)
def test_values_that_fit_annotations(value: Any, hint: Any, fit: bool) -> None:
    assert signatures.fits(value, hint) == fit


def test_long_lists_are_cut_and_close_names_stand_alone() -> None:
    names = [f"name{index}" for index in range(30)]
    assert suggest_name("x", names).endswith("name9 and 20 more.")
    assert suggest_name("naem3", ["name3", "other"]) == "did you mean name3?"
    assert suggest_name("x", ["one"]) == "there is one only."
    assert suggest_name("x", []) == "there is nothing to set."
    assert format_value([0.1] * 40).endswith("...")


@pytest.mark.parametrize(
    ("words", "warns"),
    [
        ("loss=cross_entropy +loss.reduction=sum", True),
        ("loss=cross_entropy", False),
        ("loss=focal", False),
        ("data=wine loss=weighted_cross_entropy", False),
        ("data=diabetes loss=mae", False),
        ("data=breast_cancer", False),
        ("data=ranking loss=ranknet", False),
        ("data=ranking loss=listnet", False),
    ],
)
def test_loss_that_is_a_sum_is_told(words: str, warns: bool) -> None:
    cautions = build(composed(["metrics=none", *words.split()])).cautions
    assert [each for each in cautions if each.startswith("the loss is a sum over")] == (
        [cautions[0]] if warns else []
    )
