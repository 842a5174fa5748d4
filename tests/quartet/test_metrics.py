"""Metrics of whole parts of the data, against scikit-learn and definitions in plain numpy."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import LambdaCallback
from made import composed, labelled_table, project_part
from numpy.typing import NDArray
from sklearn import metrics as sklearn_metrics
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from quartet.build import Run, build
from quartet.data import nest
from quartet.data.loader import make_normalizer
from quartet.data.task import Multiclass, Ranking, Regression
from quartet.parts.auroc import AUROC
from quartet.training.metric_buffer import MetricBuffer, copy_metrics

pytestmark = pytest.mark.usefixtures("quiet")
Array = NDArray[Any]
MeanReciprocalRank = project_part("metrics.MeanReciprocalRank")
# Neither divides the number of samples of a part of any data below.
SHORT = (
    *("trainer=cpu", "trainer.max_epochs=2", "model.hidden=[16]"),
    *("data.batch_size=32", "data.eval_batch_size=16"),
)


class Epoch(Callback):
    """Keeps what goes through the model in the last epoch of each part, sample by sample.

    Attributes:
        parts: For train, val and test the batches: raw outputs, targets and, for ranking, queries.
    """

    def __init__(self, module: Any) -> None:
        self.parts: dict[str, list[tuple[Tensor, ...]]] = {}
        module.model.register_forward_hook(self.keep)

    def keep(self, model: nn.Module, inputs: Any, outputs: Tensor) -> None:
        self.outputs = outputs.detach()

    def begin(self, part: str) -> None:
        self.parts[part] = []

    def end(self, part: str, batch: list[Tensor]) -> None:
        self.parts[part].append((self.outputs, *batch[1:]))

    def on_train_epoch_start(self, *_: Any) -> None:
        self.begin("train")

    def on_validation_epoch_start(self, *_: Any) -> None:
        self.begin("val")

    def on_test_epoch_start(self, *_: Any) -> None:
        self.begin("test")

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.end("train", arguments[3])

    def on_validation_batch_end(self, *arguments: Any) -> None:
        self.end("val", arguments[3])

    def on_test_batch_end(self, *arguments: Any) -> None:
        self.end("test", arguments[3])


def figures(overrides: Sequence[str], directory: Path) -> tuple[Run, Epoch, dict[str, float]]:
    """A run, what went through its model, and all that it logged."""
    run = build(composed([*SHORT, *overrides]), directory)
    epoch = Epoch(run.module)
    run.trainer.callbacks.append(epoch)  # type: ignore[attr-defined]
    run.trainer.fit(run.module, run.data)
    logged = dict(run.trainer.callback_metrics)
    logged |= run.trainer.test(run.module, run.data, verbose=False)[0]
    return run, epoch, {name: float(value) for name, value in logged.items()}


def check(
    overrides: Sequence[str],
    directory: Path,
    expected: Callable[..., dict[str, float]],
    rel: float | None = None,
) -> None:
    """Every logged figure is what `expected` makes of all samples of the part at once."""
    run, epoch, logged = figures(overrides, directory)
    for part in ("train", "val", "test"):
        sizes = [len(targets) for _, targets, *_ in epoch.parts[part]]
        everything = [torch.cat(tensors) for tensors in zip(*epoch.parts[part], strict=True)]
        inputs, targets, *_ = getattr(run.data.parts, part)[:]
        assert sizes[-1] < sizes[0], "the last batch should be smaller"
        assert len(everything[0]) == len(targets)
        if part != "train":
            convert = make_normalizer(run.data.mean, run.data.std, inputs.device)
            outputs = run.module.model.eval()(convert(inputs))
            torch.testing.assert_close(everything[0], outputs)
            assert torch.equal(everything[1], targets)
        for name, value in expected(*everything).items():
            got = logged.pop(f"{part}/{name}")
            assert got == pytest.approx(value, rel=rel or 0, abs=1e-6), f"{part}/{name}"
    del logged["lr"]
    assert not logged, "logged and not checked"


def classification(
    targets: Array, labels: Array, probabilities: Array, **how: Any
) -> dict[str, float]:
    """scikit-learn's figures; `labels` are the predicted ones."""
    auroc = {"multi_class": "ovr"} if probabilities.shape[1:] and targets.ndim == 1 else {}
    return {
        "accuracy": sklearn_metrics.accuracy_score(targets.ravel(), labels.ravel()),
        "precision": sklearn_metrics.precision_score(targets, labels, zero_division=0, **how),
        "recall": sklearn_metrics.recall_score(targets, labels, zero_division=0, **how),
        "f1": sklearn_metrics.f1_score(targets, labels, zero_division=0, **how),
        "auroc": sklearn_metrics.roc_auc_score(targets, probabilities, average="macro", **auroc),
    }


def test_multiclass_figures_are_those_of_scikit_learn(tmp_path: Path) -> None:
    def expected(outputs: Tensor, targets: Tensor) -> dict[str, float]:
        probabilities = outputs.softmax(dim=1).numpy()
        labels = probabilities.argmax(axis=1)
        loss = sklearn_metrics.log_loss(targets, outputs.double().softmax(dim=1))
        return {"loss": loss} | classification(
            targets.numpy(), labels, probabilities, average="macro"
        )

    check(["data=wine"], tmp_path, expected)


def test_binary_figures_are_those_of_scikit_learn(tmp_path: Path) -> None:
    def expected(outputs: Tensor, targets: Tensor) -> dict[str, float]:
        probabilities = outputs.sigmoid().squeeze(1).numpy()
        truth = targets.squeeze(1).numpy()
        loss = sklearn_metrics.log_loss(truth, outputs.double().sigmoid())
        return {"loss": loss} | classification(truth, probabilities > 0.5, probabilities)

    check(["data=breast_cancer"], tmp_path, expected)


def test_multilabel_figures_are_those_of_scikit_learn(tmp_path: Path) -> None:
    labelled_table(tmp_path / "table.csv")

    def expected(outputs: Tensor, targets: Tensor) -> dict[str, float]:
        probabilities, truth = outputs.sigmoid().numpy(), targets.numpy()
        exact = outputs.double().sigmoid()
        losses = [sklearn_metrics.log_loss(truth[:, i], exact[:, i]) for i in range(2)]
        return {"loss": float(np.mean(losses))} | classification(
            truth, probabilities > 0.5, probabilities, average="macro"
        )

    overrides = ["data=csv", "data/task=multilabel", "data.target=[red,round]"]
    check([*overrides, f"data.path={tmp_path}/table.csv"], tmp_path / "run", expected)


def regression(targets: Array, predictions: Array) -> dict[str, float]:
    return {
        "mae": sklearn_metrics.mean_absolute_error(targets, predictions),
        "mse": sklearn_metrics.mean_squared_error(targets, predictions),
        "rmse": sklearn_metrics.root_mean_squared_error(targets.ravel(), predictions.ravel()),
        "r2": sklearn_metrics.r2_score(targets, predictions),
    }


@pytest.mark.parametrize("standardized", [True, False])
def test_regression_figures_are_scikit_learns_in_units(standardized: bool, tmp_path: Path) -> None:
    source = build(composed(["data=diabetes", "data.standardize_targets=false"]), tmp_path).data
    original = [values[:][1].double() for values in source.load()[:3]]
    mean, std = original[0].mean(), original[0].std(correction=0)
    if not standardized:
        mean, std = torch.tensor(0.0), torch.tensor(1.0)

    def expected(outputs: Tensor, targets: Tensor) -> dict[str, float]:
        truth, predictions = targets.double() * std + mean, outputs.double() * std + mean
        whole = next(values for values in original if len(values) == len(truth))
        torch.testing.assert_close(truth.sort(0)[0], whole.sort(0)[0], rtol=1e-6, atol=0)
        loss = sklearn_metrics.mean_squared_error(targets, outputs)
        return {"loss": loss} | regression(truth.numpy(), predictions.numpy())

    overrides = ["data=diabetes", f"data.standardize_targets={standardized}"]
    check(overrides, tmp_path / "run", expected, rel=1e-6)


def test_regression_figures_of_several_values_are_means_over_them(tmp_path: Path) -> None:
    def expected(outputs: Tensor, targets: Tensor) -> dict[str, float]:
        truth, predictions = targets.double().numpy(), outputs.double().numpy()
        loss = sklearn_metrics.mean_squared_error(truth, predictions)
        return {"loss": loss} | regression(truth, predictions)

    check(["data=linear", "data.rows=300", "data.outputs=3"], tmp_path, expected)


def test_r2_is_exact_where_targets_lie_far_from_zero() -> None:
    random = np.random.default_rng(0)
    targets = 2000 + 5 * random.standard_normal((200, 1))
    outputs = (targets - 2000) / 5 + 0.3 * random.standard_normal((200, 1))
    task = Regression(1)
    task.mean.fill_(2000)
    task.std.fill_(5)
    buffer = MetricBuffer(task, build_metrics("regression"))
    scaled = torch.tensor((targets - 2000) / 5, dtype=torch.float32)
    buffer.append(torch.tensor(0.0), torch.tensor(outputs, dtype=torch.float32), scaled)
    expected = regression(targets, outputs * 5 + 2000)
    assert {k: float(v) for k, v in buffer.compute().items()} == pytest.approx(expected, rel=1e-4)


def build_metrics(name: str) -> MetricCollection:
    from quartet.config.configuration import to_container
    from quartet.config.instantiate import make

    nodes = to_container(composed([f"metrics={name}"]).metrics)
    return MetricCollection({k: make(node) for k, node in nodes.items() if k != "tasks"})


def test_copies_of_metrics_share_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = build(composed(["trainer=cpu"]), tmp_path).module.val_metrics.metrics
    outputs, classes = torch.randn(50, 10), torch.arange(50) % 10
    with monkeypatch.context() as patch:
        patch.setattr("copy.deepcopy", Mock(side_effect=AssertionError))
        copied = copy_metrics(metrics)
    copied.update(outputs.softmax(1), classes)
    again = copy.deepcopy(metrics)
    again.update(outputs.softmax(1), classes)
    assert copied.compute() == again.compute()
    assert all(not metric.update_called for metric in metrics.values())
    assert copied.keys() == metrics.keys()
    for metric in metrics.values():
        metric.made = lambda: 1  # which has no name to pickle
    assert copy_metrics(metrics).keys() == metrics.keys()


def queries_of(outputs: Tensor, targets: Tensor, queries: Tensor) -> list[Array]:
    """For each query, the grades of its documents in the order of their scores, best first."""
    scores, grades = outputs.squeeze(1).numpy(), targets.squeeze(1).numpy()
    return [
        grades[queries == query][np.argsort(-scores[queries == query])]
        for query in np.unique(queries)
    ]


def reciprocal_rank(grades: Array) -> float:
    return 1 / (1 + int(np.argmax(grades >= 1))) if (grades >= 1).any() else 0.0


def ndcg_at_10(grades: Array) -> float:
    discounts = 1 / np.log2(np.arange(2, 12))[: len(grades)]
    ideal = np.sort(grades)[::-1][:10] @ discounts
    return float(grades[:10] @ discounts / ideal) if ideal else 0.0


def average_precision(grades: Array) -> float:
    relevant = grades >= 1
    precisions = relevant.cumsum() / np.arange(1, len(grades) + 1)
    return float(precisions[relevant].mean()) if relevant.any() else 0.0


def test_ranking_figures_are_those_of_their_definitions(tmp_path: Path) -> None:
    def expected(outputs: Tensor, targets: Tensor, queries: Tensor) -> dict[str, float]:
        orders = queries_of(outputs, targets, queries)
        return {
            "loss": float((outputs - targets).double().square().mean()),
            "mrr": float(np.mean([reciprocal_rank(grades) for grades in orders])),
            "ndcg": float(np.mean([ndcg_at_10(grades) for grades in orders])),
            "map": float(np.mean([average_precision(grades) for grades in orders])),
        }

    # 30 queries to validate and 60 to test: batches of 25 leave a smaller one.
    check(["data=ranking", "loss=mse", "data.eval_batch_size=25"], tmp_path, expected)


# Two queries. By score the grades of the first read 1, 0, 2, 0 and those of the second 0, 1.
SCORES = torch.tensor([0.9, 0.1, 0.5, 0.7, 0.3, 0.6])
GRADES = torch.tensor([1.0, 0.0, 2.0, 0.0, 1.0, 0.0])
QUERIES = torch.tensor([0, 0, 0, 0, 1, 1])


# --- The buffer -----------------------------------------------------------------------------------


class Calls(Metric):
    """How often it was updated, and with how many rows."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("calls", torch.tensor(0), "sum")
        self.add_state("rows", torch.tensor(0), "sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        assert len(preds) == len(target)
        self.calls += 1
        self.rows += len(preds)

    def compute(self) -> Tensor:
        return self.rows


def counting_buffer() -> tuple[MetricBuffer, Calls]:
    buffer = MetricBuffer(Multiclass(3), MetricCollection({"calls": Calls()}))
    return buffer, buffer.metrics["calls"]


def step(rows: int, classes: int = 3, loss: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    return torch.tensor(loss), torch.zeros(rows, classes), torch.zeros(rows, dtype=torch.long)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32])
def test_auroc_in_bins_takes_classes_of_any_whole_number_type(kind: torch.dtype) -> None:
    scores, classes = torch.rand(50, 3).softmax(1), torch.arange(50) % 3
    options = {"task": "multiclass", "num_outputs": 3, "exact_values": 0, "bins": 4096}
    whole, other = AUROC(**options), AUROC(**options)
    whole.update(scores, classes)
    other.update(scores, classes.to(kind))
    assert torch.equal(whole.counts, other.counts)


@pytest.mark.parametrize(("task", "shape"), [("binary", (99,)), ("multiclass", (99, 3))])
def test_auroc_leaves_what_it_counts_in_bins(task: str, shape: tuple[int, ...]) -> None:
    scores = torch.rand(shape)
    given = scores.clone()
    auroc = AUROC(task=task, num_outputs=shape[1] if shape[1:] else 1, exact_values=0, bins=8)
    auroc.update(given, torch.arange(99) % 2)
    auroc.compute()
    assert torch.equal(given, scores)


@pytest.mark.parametrize("saves_every", [1_000, 5])
def test_buffer_updates_metrics_with_many_steps_at_once(saves_every: int) -> None:
    buffer, metric = counting_buffer()
    steps = 2 * MetricBuffer.max_steps + 2
    for number in range(1, steps + 1):
        buffer.append(*step(rows=2))
        assert metric.calls == number // MetricBuffer.max_steps
        assert buffer.steps == number % MetricBuffer.max_steps
        assert len(buffer.buffer) < MetricBuffer.chunk_size
        if number % saves_every == 0:  # which must not change what is counted together
            buffer.state()
            assert buffer.buffer == []
    assert buffer.samples == 2 * steps
    assert buffer.compute()["calls"] == 2 * steps
    assert metric.calls == 3


def test_buffer_holds_no_more_values_than_its_bound() -> None:
    buffer, metric = counting_buffer()
    for _ in range(2):
        buffer.append(*step(rows=1 << 10, classes=1 << 9))
    assert (metric.calls, buffer.values) == (0, 1 << 20)
    buffer.append(*step(rows=1, classes=1 << 9))
    assert (metric.calls, buffer.values, buffer.buffer, buffer.chunks) == (1, 0, [], [])


def test_buffer_without_samples_saves_no_metrics() -> None:
    buffer, _ = counting_buffer()
    fresh = buffer.state()
    buffer.append(*step(rows=2))
    assert buffer.state()["metrics"]
    buffer.compute()
    buffer.reset()
    assert buffer.state() == fresh
    assert fresh["metrics"] == {}
    buffer.append(*step(rows=3))
    buffer.update_metrics()
    buffer.load_state(fresh, torch.device("cpu"))
    buffer.append(*step(rows=1))
    assert (buffer.samples, buffer.compute()["calls"]) == (1, 1)


def test_buffer_keeps_no_graph() -> None:
    buffer, _ = counting_buffer()
    outputs = torch.zeros(2, 3, requires_grad=True)
    buffer.append(outputs.sum(), outputs, torch.zeros(2, dtype=torch.long))
    assert not any(tensor.requires_grad for tensor in nest.leaves(buffer.buffer[0]))


def test_loss_is_the_mean_over_samples_and_is_summed_in_32_bits() -> None:
    buffer, _ = counting_buffer()
    buffer.append(*step(rows=3, loss=1.0))
    buffer.append(*step(rows=1, loss=5.0))  # a smaller last batch
    total, samples = buffer.loss_sums()["loss"]
    assert total / samples == 2
    assert buffer.step_losses()["loss"].tolist() == [1, 5]
    buffer, _ = counting_buffer()
    for _ in range(257):  # the first whole number that bfloat16 does not have
        loss, outputs, targets = step(rows=1, loss=1.0)
        buffer.append(loss.bfloat16(), outputs.bfloat16(), targets)
    assert buffer.loss_sums()["loss"].tolist() == [257, 257]


def test_buffer_hands_queries_to_ranking_metrics() -> None:
    metrics = MetricCollection({"mrr": MeanReciprocalRank(relevant_from=1)})
    buffer = MetricBuffer(Ranking(1), metrics)
    for query in (0, 1):
        rows = query == QUERIES
        targets = GRADES[rows].unsqueeze(1)
        extras = {"indexes": QUERIES[rows]}
        buffer.append(torch.tensor(0.0), SCORES[rows].unsqueeze(1), targets, extras)
    assert buffer.compute()["mrr"].item() == pytest.approx(0.75)


def test_buffer_adds_nothing_to_a_checkpoint_but_the_task(tmp_path: Path) -> None:
    module: nn.Module = build(composed(["data=wine", "trainer=cpu"]), tmp_path).module
    assert all(name.startswith("model.") for name in module.state_dict())


def test_each_batch_counts_once_however_often_the_optimizer_evaluates_it(tmp_path: Path) -> None:
    overrides = ["data=wine", "trainer.max_epochs=2", "trainer=cpu", "data.batch_size=32"]
    run = build(composed([*overrides, "optimizer=lbfgs"]), tmp_path)
    samples: list[int] = []
    note = lambda trainer, module: samples.append(module.train_metrics.samples)  # noqa: E731
    run.trainer.callbacks.append(LambdaCallback(on_train_epoch_end=note))  # type: ignore[attr-defined]
    run.trainer.fit(run.module, run.data)
    assert samples == [len(run.data.parts.train)] * 2  # type: ignore[arg-type]


def test_lbfgs_counts_the_first_evaluation_of_a_batch(tmp_path: Path) -> None:
    # One batch an epoch: its first evaluation is at the weights before the step.
    overrides = ["data=wine", "trainer=cpu", "data.batch_size=full", "optimizer=lbfgs"]
    run = build(composed([*overrides, "trainer.max_epochs=1"]), tmp_path)
    inputs, targets = run.data.load().train[:]
    before = nn.functional.cross_entropy(run.module.model(inputs), targets).item()
    run.trainer.fit(run.module, run.data)
    after = nn.functional.cross_entropy(run.module.model(inputs), targets).item()
    assert run.trainer.callback_metrics["train/loss"].item() == pytest.approx(before, rel=1e-6)
    assert after < before


@pytest.mark.parametrize(("setting", "value"), [("bins", 1), ("exact_values", -1)])
def test_auroc_refuses_a_size_out_of_range(setting: str, value: int) -> None:
    options = {"exact_values": 0, "bins": 8, setting: value}
    given = f"got {options['exact_values']} and {options['bins']}"
    with pytest.raises(ValueError, match=rf"at least 0 and bins at least 2, {given}\.$"):
        AUROC(task="binary", num_outputs=1, **options)
