"""Batches, outputs and targets of any form, own tasks, and what is refused of them."""

import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made import assert_refused, composed, rejections
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchmetrics import Accuracy, MeanMetric, MeanSquaredError, Metric, MetricCollection
from torchmetrics.wrappers import BinaryTargetTransformer, MinMaxMetric

import quartet
from quartet.build import build
from quartet.config import allow
from quartet.core.problems import TrainingError
from quartet.data import nest
from quartet.data.loader import Batches, TensorLoader, make_normalizer, prepare_batch
from quartet.data.task import Multiclass, Regression
from quartet.run import train
from quartet.training.metric_buffer import MetricBuffer, name_values
from quartet.training.module import find_extras, model_losses

CPU = torch.device("cpu")


@dataclass
class Pair:
    left: Tensor
    right: Tensor


# Nests


def test_a_nest_is_mapped_counted_and_concatenated() -> None:
    rows = torch.arange(6.0).view(3, 2)
    whole = {"a": rows, "b": (rows[:, 0], [rows[0], rows[1, :1], rows[2]])}
    assert nest.size(whole) == 3
    assert nest.count_values(whole) == 6 + 3 + 5
    assert [tensor.shape for tensor in nest.leaves(whole)] == [(3, 2), (3,), (2,), (1,), (2,)]
    parts = [nest.select(whole, torch.tensor(index)) for index in ([0, 1], [2])]
    joined = nest.concatenate(parts)
    assert torch.equal(joined["a"], rows)
    assert torch.equal(joined["b"][0], rows[:, 0])
    assert [len(each) for each in joined["b"][1]] == [2, 1, 2]
    pair = nest.select(Pair(rows, rows[:, 1]), torch.tensor([2]))
    assert (pair.left.tolist(), pair.right.tolist()) == ([[4, 5]], [5])
    assert nest.is_plain(whole)
    assert not nest.is_plain([Pair(rows, rows)])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"a": torch.zeros(1)}, {"b": torch.zeros(1)}),
        ((torch.zeros(1),), (torch.zeros(1), torch.zeros(1))),
        ("train", "val"),
        (torch.zeros(1, 2), torch.zeros(1, 3)),
    ],
)
def test_nests_that_differ_are_not_concatenated(first: Any, second: Any) -> None:
    with pytest.raises((ValueError, RuntimeError)):
        nest.concatenate([first, second])


def test_a_nest_in_memory_is_served_row_by_row() -> None:
    rows = torch.arange(10)
    data = quartet.Tensors({"inputs": (rows.float(), -rows), "targets": {"t": rows * 2}})
    assert len(data) == 10
    order, prepare = Batches(10, 4, seed=3, shuffle=True), lambda batch, rows, epoch: batch
    batches = list(TensorLoader(data.tensors, order, CPU, prepare))
    assert [nest.size(batch) for batch in batches] == [4, 4, 2]
    seen = torch.cat([batch["targets"]["t"] for batch in batches])
    assert torch.equal(seen.sort().values, rows * 2)
    assert torch.equal(torch.cat([batch["inputs"][1] for batch in batches]) * -2, seen)
    with pytest.raises(ValueError, match=r"one number of samples, got \[2, 3\]"):
        quartet.Tensors((torch.zeros(2), torch.zeros(3)))


# What is taken for what


def test_only_the_bytes_of_images_are_pixels() -> None:
    # Worker processes that are not forked get it pickled.
    normalize = pickle.loads(pickle.dumps(make_normalizer(None, None, CPU)))
    images = torch.full((2, 1, 3, 3), 255, dtype=torch.uint8)
    assert normalize(images).unique().tolist() == [1.0]
    for values in (torch.tensor([[65, 66]], dtype=torch.uint8), torch.tensor([[7]])):
        assert torch.equal(normalize(values), values)
        assert normalize(values).dtype == values.dtype


def test_batches_of_every_form_are_split() -> None:
    task, x, y = quartet.Task(), torch.zeros(2), torch.ones(2)
    assert task.split([x, y]) == (x, y, {})
    assert task.split((x,)) == (x, x, {})
    assert task.split(x) == (x, x, {})
    assert task.split({"inputs": x, "targets": y, "weights": 1}) == (x, y, {"weights": 1})


def test_a_batch_is_augmented_whole_and_then_normalized() -> None:
    def mirror(batch: Any, rows: Tensor, epoch: int) -> Any:
        return tuple(part.flip(-1) + epoch for part in batch)

    images = torch.arange(4.0).view(1, 1, 2, 2)
    normalize = make_normalizer([1.0], [2.0], CPU)
    made = prepare_batch(
        (images, images[:, 0]), torch.tensor([0]), 3, normalize=normalize, augment=mirror
    )
    assert made[1].tolist() == [[[4, 3], [6, 5]]]
    assert made[0].flatten().tolist() == [1.5, 1, 2.5, 2]


class WeightedLoss(nn.Module):
    def forward(self, outputs: Tensor, targets: Tensor, weights: Tensor, power: int = 1) -> Tensor:
        return ((outputs - targets).squeeze(1) ** 2 * weights**power).mean()


def test_a_loss_gets_the_extras_that_it_names() -> None:
    assert find_extras(WeightedLoss()) == ["weights", "power"]
    assert find_extras(WeightedLoss(), required=True) == ["weights"]
    assert find_extras(nn.MSELoss()) == find_extras(None) == []


class OptionalWeights(nn.Module):
    def forward(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        return (outputs - targets).mean() if weights is None else weights.sum()


class KeywordWeights(nn.Module):
    def forward(self, outputs: Tensor, targets: Tensor, *, weights: Tensor) -> Tensor:
        return weights.sum()


class AllExtras(nn.Module):
    def forward(self, outputs: Tensor, targets: Tensor, **extras: Tensor) -> Tensor:
        return extras["weights"].sum()


@pytest.mark.parametrize("loss", [OptionalWeights(), KeywordWeights(), AllExtras()])
def test_a_loss_gets_the_extras_of_each_kind_of_argument(loss: nn.Module) -> None:
    nothing = {"optimizers": {}, "schedulers": {}, "metrics": MetricCollection({})}
    module = quartet.Module(model=nn.Identity(), task=quartet.Task(), loss=loss, **nothing)
    extras = {"weights": torch.tensor([2.0, 3.0]), "names": ["a", "b"]}
    assert module.compute_loss(torch.zeros(2), torch.zeros(2), extras) == 5


@pytest.mark.parametrize("outputs", [torch.zeros(2), {}, {"loss": torch.zeros(2)}, {"kl": 1.0}])
def test_a_model_without_a_loss_is_refused(outputs: Any) -> None:
    with pytest.raises(
        ValueError, match="loss=none needs a model that returns a dict with its loss"
    ):
        model_losses(outputs)


# Metrics


class Counting(Metric):
    """Counts the samples, and the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.calls = 0

    def update(self, predictions: Any, labels: Any) -> None:
        self.total += nest.size(predictions)
        self.calls += 1

    def compute(self) -> Tensor:
        return self.total


@pytest.mark.parametrize(
    ("steps", "calls"),
    [
        ([torch.zeros(2, 3), torch.zeros(4, 3)], 1),
        ([torch.zeros(2, 3), torch.zeros(4, 5)], 2),  # sentences of different lengths
        ([[torch.zeros(1), torch.zeros(5)], [torch.zeros(2)]], 1),  # boxes of images
        ([Pair(torch.zeros(2), torch.zeros(2)), Pair(torch.zeros(1), torch.zeros(1))], 2),
    ],
)
def test_the_buffer_joins_what_has_one_form(steps: list[Any], calls: int) -> None:
    buffer = MetricBuffer(quartet.Task(), MetricCollection({"n": Counting()}, compute_groups=False))
    for outputs in steps:
        buffer.append(torch.ones(()), outputs, outputs)
    assert nest.is_plain(buffer.state()["chunks"])
    samples = sum(map(nest.size, steps))
    assert buffer.samples == samples
    assert buffer.compute() == {"n": samples}
    assert buffer.metrics["n"].calls == calls
    assert buffer.loss_sums()["loss"].tolist() == [samples, samples]


class Peak(MeanMetric):
    """The largest prediction of a batch, the mean over the batches."""

    each_batch = True

    def update(self, predictions: Tensor, labels: Tensor, weights: Tensor) -> None:
        assert len(predictions) == len(labels) == len(weights)
        super().update(predictions.max())


def test_a_metric_may_ask_for_each_batch() -> None:
    metrics = MetricCollection({"peak": Peak(), "mse": MeanSquaredError()}, compute_groups=False)
    buffer = MetricBuffer(quartet.Task(), metrics)
    for outputs in (torch.tensor([1.0, 5.0]), torch.tensor([2.0]), torch.tensor([0.0, 1.0, 2.0])):
        buffer.append(torch.ones(()), outputs, outputs, {"weights": outputs})
    assert buffer.compute() == {"peak": 3.0, "mse": 0.0}  # of 5, 2 and 2
    buffer.append(torch.ones(()), outputs, outputs, {"weights": outputs}, size=2)
    with pytest.raises(
        TrainingError, match=r"^metrics\.peak takes each batch alone; leave out size="
    ):
        buffer.compute()


@pytest.mark.parametrize(
    ("losses", "sums"),
    [
        # Means over the samples of their own: 4 and 3.
        (
            [{"loss": torch.tensor(1.0), "dice": 3.0}, {"loss": 5.0}],
            {"loss": [16, 4], "dice": [3, 1]},
        ),
        (
            [{"loss": torch.tensor([1.0]), "kl": 0.5, "none": None}, {"loss": 3.0, "kl": 1.5}],
            {"loss": [10, 4], "kl": [5, 4]},
        ),
    ],
    ids=["one that is not always there", "numbers and None"],
)
def test_named_losses_are_summed_over_their_samples(losses: Any, sums: dict[str, Any]) -> None:
    buffer = MetricBuffer(quartet.Task(), MetricCollection({}))
    for size, step in zip((1, 3), losses, strict=True):
        buffer.append(step, size=size)
    assert {name: values.tolist() for name, values in buffer.loss_sums().items()} == sums


test_losses_that_are_no_scalars_are_refused = rejections(
    lambda losses: MetricBuffer(quartet.Task(), MetricCollection({})).append(losses, size=2),
    (torch.zeros(2), r"a tensor of shape \[2\] as 'loss'"),
    ({"loss": torch.zeros(()), "parts": {"a": 1.0}}, "a dict as 'parts'"),
    ({"loss": torch.zeros(()), "kl": torch.zeros(2)}, r"a tensor of shape \[2\] as 'kl'"),
    error=TrainingError,
    words="^the loss gives %s; every entry must be a",
)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.array(0.5), torch.tensor([0.5])])
def test_a_metric_may_give_a_number(value: Any) -> None:
    assert [each.item() for each in name_values("m", value, ["a"]).values()] == [0.5]


test_a_metric_that_gives_no_numbers_is_refused = rejections(
    lambda value: name_values("m", value, []),
    (None, "m gives None"),
    ((torch.zeros(()), torch.zeros(())), "m gives a tuple"),
    ({"a": 1.0, "b": "high"}, "m_b gives a str"),
    (torch.zeros(2, 2), r"m gives a tensor of shape \[2, 2\]"),
    error=TrainingError,
    words="^the metric %s, and must give a number, a vec",
)


def test_metrics_compare_their_heads() -> None:
    metrics = MetricCollection({"far": MeanSquaredError(), "near": MeanSquaredError()})
    heads = {"far": "a", "near": "b"}
    buffer = MetricBuffer(quartet.Task(), metrics, "val/", heads)
    outputs = {"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([2.0, 2.0])}
    buffer.append(torch.ones(()), outputs, {"a": torch.zeros(2), "b": torch.zeros(2)})
    assert {k: v.item() for k, v in buffer.compute().items()} == {"val/far": 5, "val/near": 4}


def test_a_metric_of_each_class_logs_each_by_its_name() -> None:
    metrics = MetricCollection({"recall": Accuracy("multiclass", num_classes=2, average="none")})
    buffer = MetricBuffer(Multiclass(2), metrics)
    outputs = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    buffer.append(torch.ones(()), outputs, torch.tensor([0, 1, 1]))
    found = {name: value.item() for name, value in buffer.compute(["cat", "dog"]).items()}
    assert found == {"recall_cat": 1.0, "recall_dog": 0.5}


@pytest.mark.parametrize(
    "metric",
    [BinaryTargetTransformer(MeanSquaredError(), threshold=1.5), MinMaxMetric(MeanSquaredError())],
    ids=lambda metric: type(metric).__name__,
)
def test_metrics_within_metrics_go_on_where_they_were(metric: Metric) -> None:
    steps = [(torch.tensor([[v], [v + 1]]), torch.tensor([[v * 2], [v]])) for v in (0.0, 1.0, 2.0)]

    def fed(buffer: MetricBuffer, some: list[tuple[Tensor, Tensor]]) -> MetricBuffer:
        for outputs, targets in some:
            buffer.append(torch.ones(()), outputs, targets)
            buffer.update_metrics()
        return buffer

    def new() -> MetricBuffer:
        return MetricBuffer(Regression(1), MetricCollection({"m": metric.clone()}))

    whole = fed(new(), steps).compute()
    resumed = new()
    resumed.load_state(fed(new(), steps[:2]).state(), CPU)
    assert fed(resumed, steps[2:]).compute() == whole


# From the configuration to the training


class Caching(nn.Module):
    """Keeps positions outside its buffers, as some models do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(10, 1)
        self.positions: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        if self.positions is None:
            self.positions = torch.ones(inputs.shape[1], device=inputs.device)
        outputs: Tensor = self.linear(inputs * self.positions)
        return outputs


def weighted(extra: bool = True) -> quartet.Parts:
    """Regression with a third tensor, the weight of each sample."""
    numbers = torch.randn(40, 12, generator=torch.Generator().manual_seed(0))
    rows = numbers.split([10, 1, 1], dim=1)
    data = TensorDataset(*rows[:2], *([rows[2].flatten().abs()] if extra else []))
    return quartet.Parts(data, None, None)


def masks() -> quartet.Parts:
    images = torch.rand(20, 1, 8, 8)
    return quartet.Parts(quartet.Tensors((images, images[:, 0] > 0.5)), None, None)


@pytest.fixture(autouse=True)
def _allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    families = [(__name__, None), (__name__, "torch.nn.Module")]
    monkeypatch.setattr(allow, "FAMILIES", [*allow.FAMILIES, *families])


OWN = [
    *("data=linear", "~data.rows", "~data.features", "~data.outputs", "~data.seed"),
    *("~data.val_fraction", "~data.test_fraction", "~data.split_seed", "data.input_shape=null"),
    *("data.num_outputs=null", "model=linear", "metrics=none", "trainer=cpu", "logger=csv"),
    *("monitor.metric=train/loss", "trainer.max_epochs=1", "callbacks.progress_bar=null"),
]


def test_a_third_tensor_is_no_query() -> None:
    words = [*OWN, f"data._target_={__name__}.weighted"]
    assert_refused(words, "has 3 items, and a regression task takes inputs and targ")
    run = build(composed([*words, "+data.extra=false"]))
    assert run.steps_per_epoch == 2


class Weighted(quartet.Task):
    extras = ("weights",)


def test_a_task_names_its_extras_for_the_loss(tmp_path: Path) -> None:
    words = [*OWN, f"data._target_={__name__}.weighted", f"data.task={__name__}.Weighted"]
    words += ["model.input_shape=[10]", "model.num_outputs=1", "~loss.tasks"]
    missing = r"^loss: needs indexes of a batch, and a batch has .* weigh"
    assert_refused([*words, "loss=ranknet"], missing)
    words += ["loss=mse", f"loss._target_={__name__}.WeightedLoss", "data.shuffle=false"]
    run = build(composed(words), tmp_path)
    inputs, targets, weights = run.data.parts.train.tensors
    with torch.no_grad():
        expected = ((run.module.model(inputs) - targets).squeeze(1) ** 2 * weights).mean()
    result = train(composed([*words, "optimizer=sgd", "optimizer.lr=0"]), tmp_path / "r")
    assert result["metrics"]["train/loss"] == pytest.approx(expected.item(), rel=1e-5)


class NamedLikeAMetric(nn.Module):
    def forward(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"loss": (outputs - targets).square().mean(), "mae": torch.ones(())}


def ambiguous() -> quartet.Parts:
    return weighted()._replace(class_names=("cat", "dog", "cat"))


def test_two_values_of_one_name_are_refused() -> None:
    words = [*OWN, f"data.task={__name__}.Weighted", "model.input_shape=[10]", "~loss.tasks"]
    words += ["model.num_outputs=1", "metrics=regression", "~metrics.tasks"]
    loss, data = f"loss._target_={__name__}.NamedLikeAMetric", f"data._target_={__name__}.ambiguous"
    words[words.index("metrics=none")] = "loss=mse"
    named = [*words, loss, f"data._target_={__name__}.weighted"]
    assert_refused(named, r"metrics\.mae: logs mae, as the loss or another metric")
    assert_refused([*words, data], "data: class_names has 'cat' twice; give each class a")


def faulty(kind: str) -> quartet.Parts:
    """Regression with a fault that shows in some part only, or when a batch is augmented."""
    inputs = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    targets = inputs[:, :2] * (math.inf if kind == "infinite" else 1)
    val = TensorDataset(inputs[:, :3] if kind == "narrow" else inputs, targets)
    augment: Any = {
        "nothing": lambda batch, rows, epoch: None,
        "fewer": lambda batch, rows, epoch: tuple(each[:1] for each in batch),
        "flat": lambda batch, rows, epoch: (batch[0], batch[1][:, :1]),
        "fine": lambda batch, rows, epoch: [batch[0] + 1, batch[1]],
    }.get(kind)
    return quartet.Parts(TensorDataset(inputs, targets), val, None, augment=augment)


class Misspelt(quartet.Task):
    name = "misspelt"

    def prediction_column(self, predictions: Any, names: Any) -> Any:
        raise AssertionError


class Pictureless(quartet.Task):
    def problems(self, part: str, dataset: Any) -> Any:
        return None


FAULTS = [
    ("nothing", "Weighted", r"^data: Parts\(augment=...\) gives NoneType for \(2 x 4 float32, 2 x"),
    ("fewer", "Weighted", r"gives \(1 x 4 .* for \(2 x 4 .*; it must keep the form of the batch"),
    ("flat", "Weighted", r"^loss: .*model gives 2 x 2 float32; targets are 2 x 1 float32\.$"),
    ("narrow", "Weighted", r"^data: the val inputs are 2 x 3 float32, of two samples: mat1 and"),
    ("infinite", "Weighted", r"^loss: is NaN or infinite for the first batch, before any train"),
    ("fine", "Misspelt", r"^data.task: Misspelt.prediction_column is no .* prediction_columns\?$"),
    ("fine", "Pictureless", None),
]


@pytest.mark.parametrize(("kind", "task", "message"), FAULTS)
def test_faults_of_parts_are_refused(kind: str, task: str, message: str | None) -> None:
    data = [f"data._target_={__name__}.faulty", f"data.task={__name__}.{task}", "loss=mse"]
    words = [*OWN, *data, f"+data.kind={kind}", "model.num_outputs=2", "~loss.tasks"]
    if message is None:
        assert build(composed(words)).unchecked[-2:] == [
            "pictures: there are none, since the task pictureless has no method figures",
            "predict.py: it writes tensors, since the task has no method prediction_columns",
        ]
    else:
        assert_refused(words, message)


def test_the_trial_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    words = ["data=linear", "~model.input_shape", "~model.num_outputs", "trainer=cpu"]
    run = build(composed(["model=linear", *words, f"model._target_={__name__}.Caching"]), tmp_path)
    assert run.module.model.positions is None


def test_flips_of_inputs_alone_are_refused() -> None:
    data = [f"data._target_={__name__}.masks", f"data.task={__name__}.Weighted", "data.flip=true"]
    words = [*OWN, *data, "model.input_shape=[64]", "model.num_outputs=1"]
    assert_refused(words, "(?m)^data.flip=true: moves images, and noth")
