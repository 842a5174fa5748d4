"""The kinds of task: what targets look like, what outputs predict, and all that follows from it.

Models end in raw outputs, losses take raw outputs, metrics take predictions. A task stands between.
A further kind is one more subclass of `Task`, added to `TASKS`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import one_hot

from quartet.core.messages import cut, shorten
from quartet.core.problems import Problem
from quartet.records.loggers import shorten_float

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[Any]
Columns = dict[str, list[Any]]
# Of each picture the name of a drawing function of `quartet.reports`, and its arguments.
Figures = dict[str, tuple[Any, ...]]
Wrong = list[tuple[int, str]]
Names = Sequence[str]
Tensors = Sequence[Tensor]
Scale = tuple[Tensor, Tensor]
Problems = Iterator[Problem]

ONE_VALUE = (
    "for it there is no AUROC; choose another data.split_seed, a larger part, or metrics=none."
)


class Task(nn.Module):
    """The base of all kinds of task; by itself, outputs are values and nothing is drawn of them.

    Attributes:
        name: What ``data.task`` calls it.
        target_dtype: Of the targets of a batch.
        has_classes: Whether every sample is of exactly one class; then splits are stratified and
            the classes can be balanced.
        has_one_output: Whether the model has a single output.
        has_queries: Whether the rows of a batch belong to queries, which a third tensor names.
        has_probabilities: Whether predictions are probabilities.
        has_scale: Whether it undoes the standardisation of targets.
        reads_tables: Whether the targets can be columns of a csv file.
        column_type: Of the columns ``target`` and ``prediction`` that predict.py writes.
        mixing_losses: Losses that take the targets of mixed samples; None if none can be mixed.
        outputs_text: What an exported model gives.
        raw_outputs_text: What the raw outputs are.
    """

    name: ClassVar[str]
    target_dtype: ClassVar[torch.dtype] = torch.float32
    has_classes: ClassVar[bool] = False
    has_one_output: ClassVar[bool] = False
    has_queries: ClassVar[bool] = False
    has_probabilities: ClassVar[bool] = False
    has_scale: ClassVar[bool] = False
    reads_tables: ClassVar[bool] = True
    column_type: ClassVar[type] = float
    mixing_losses: ClassVar[str | None] = None
    outputs_text: ClassVar[str]
    raw_outputs_text: ClassVar[str]

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.num_outputs = num_outputs

    def forward(self, outputs: Tensor) -> Tensor:
        """Predictions in the form that metrics compare with labels."""
        return outputs

    def labels(self, targets: Tensor) -> Tensor:
        """Targets in the form that metrics compare with predictions."""
        return targets

    # Numbers and names

    @classmethod
    def count_outputs(cls, target: Tensor, class_names: Names | None) -> tuple[int | None, int]:
        """Numbers of classes (None if there are none) and of outputs, given a sample's target."""
        return None, target.numel()

    @classmethod
    def expected_outputs(cls, num_classes: int | None) -> int | None:
        """The only number of outputs that the task can have; None if there are several."""
        return 1 if cls.has_one_output else None

    @classmethod
    def target_shape(cls, num_outputs: int) -> tuple[int, ...]:
        """Shape of the target of one sample."""
        return (num_outputs,)

    @classmethod
    def names(cls, metadata: Mapping[str, Any]) -> list[str]:
        """Names of the classes, labels or values, by `DataModule.metadata`."""
        return list(metadata["class_names"] or map(str, range(metadata["num_outputs"])))

    # Trials before the training

    def example(self) -> tuple[Tensor, ...]:
        """Outputs and targets of a few made-up samples, and for ranking their queries."""
        targets = self.example_targets()
        size = len(targets[0])
        outputs = torch.arange(1.0 * size * self.num_outputs).sin().view(size, self.num_outputs)
        return outputs, *targets

    def example_targets(self) -> tuple[Tensor, ...]:
        """Targets of the made-up samples, and their queries if there are any."""
        return (torch.arange(3.0 * self.num_outputs).view(3, self.num_outputs),)

    def mixable_targets(self, targets: Tensor) -> Tensor:
        """Targets as floats ``(batch, outputs)``, of which mixtures can be made."""
        return targets

    @classmethod
    def value_problems(cls, part: str, targets: Tensor, num_outputs: int) -> Problems:
        """Targets that are out of range, one problem for all of them."""
        yield from ()

    @classmethod
    def part_problems(cls, part: str, tensors: Tensors, names: Names, has_auroc: bool) -> Problems:
        """Parts that cannot be trained on or scored, though every target is in range.

        Args:
            part: train, val or test.
            tensors: Targets and, if the task has them, queries.
            names: Names of the classes, labels or values.
            has_auroc: Whether the AUROC will be computed.
        """
        yield from ()

    # Tables

    @classmethod
    def read_targets(cls, columns: "pd.DataFrame") -> tuple[Array, tuple[str, ...] | None]:
        """Targets of all rows of a table, and the names of the classes.

        Raises:
            ValueError: a column does not hold what the task needs.
        """
        import pandas as pd

        for name in columns:
            if not pd.api.types.is_numeric_dtype(columns[name]):
                raise ValueError(
                    f"target column {name!r} is not numeric (its first value is "
                    f"{columns[name].iloc[0]!r}); for classes choose data/task=multiclass or "
                    "data/task=binary."
                )
        return columns.to_numpy(dtype=np.float64), None

    @classmethod
    def known_targets(cls, columns: "pd.DataFrame", names: Names) -> Columns:
        """Columns of targets for predict.py, from a table that holds them; None where one is missing."""
        import pandas as pd

        titles = cls.titles("target", list(map(str, columns)))
        return {
            title: [None if pd.isna(value) else cls.column_type(value) for value in columns[name]]
            for title, name in zip(titles, columns, strict=True)
        }

    @classmethod
    def target_columns(cls, labels: Tensor, names: Names) -> Columns:
        """Columns of targets for predict.py, from the labels of a batch."""
        titles = cls.titles("target", names)
        return dict(zip(titles, shortened(labels), strict=True))

    @classmethod
    def prediction_columns(cls, predictions: Tensor, names: Names) -> Columns:
        """Columns of predictions for predict.py."""
        titles = cls.titles("prediction", names)
        return dict(zip(titles, shortened(predictions), strict=True))

    @classmethod
    def titles(cls, kind: str, names: Names) -> list[str]:
        """Titles of columns, one for each of several values."""
        return [f"{kind}_{name}" for name in names] if len(names) > 1 else [kind]

    # Reports

    @classmethod
    def summary(cls, tensors: Tensors, names: Names, scale: Scale | None) -> str:
        """One line on the targets of a part, for ``check=only``.

        Args:
            tensors: Targets and, if the task has them, queries.
            names: Names of the classes, labels or values.
            scale: Mean and standard deviation by which the targets were standardised, or None.
        """
        values = tensors[0].double()
        if scale is not None:
            values = values * scale[1] + scale[0]
        columns = values.reshape(len(values), -1).unbind(1)
        return shorten(
            f"{f'{name} ' if len(names) > 1 else ''}mean {float(one.mean()):.4g} and sd "
            f"{float(one.std(correction=0)):.4g} within {one.min():.4g} to {one.max():.4g}"
            for name, one in zip(names, columns, strict=False)
        )

    @classmethod
    def figures(cls, collected: Any, names: Names, metrics: Mapping[str, Any]) -> Figures:
        """Pictures of the predictions of a part, by name.

        Args:
            collected: A `PredictionCollector` that has seen the part.
            names: Names of the classes, labels or values.
            metrics: The metrics group of the configuration.
        """
        return {}

    @classmethod
    def most_wrong(cls, predictions: Array, labels: Array, names: Names, most: int) -> Wrong:
        """Numbers of the samples with the largest errors, largest first, and their captions."""
        return []


class Classification(Task):
    """The base of tasks in which every sample is of one class."""

    has_classes = True
    has_probabilities = True
    column_type = str

    @classmethod
    def read_targets(cls, columns: "pd.DataFrame") -> tuple[Array, tuple[str, ...] | None]:
        """Numbers of the classes, which are the sorted values of the column, and their names."""
        import pandas as pd

        name, values = columns.columns[0], columns.iloc[:, 0]
        classes, labels = np.unique(values.to_numpy(), return_inverse=True)
        is_numeric = pd.api.types.is_numeric_dtype(values)
        cls.check_classes(name, classes, is_numeric and len(classes) > len(values) / 2, len(values))
        targets = labels.reshape(len(labels), *cls.target_shape(1))
        dtype = np.float64 if cls.target_dtype.is_floating_point else np.int64
        return targets.astype(dtype), tuple(map(str, classes))

    @classmethod
    def check_classes(cls, name: str, classes: Array, is_continuous: bool, count: int) -> None:
        """Raises ValueError where a column's values are not the classes of such a task."""

    @classmethod
    def known_targets(cls, columns: "pd.DataFrame", names: Names) -> Columns:
        """The target of each row under the name that the training gave it, where it has one."""
        import pandas as pd

        numbers = {as_number(name): name for name in names}

        def name_of(value: Any) -> str:
            text = str(value)  # 1 may be written as 1.0
            number = None if text in names else as_number(text)
            return text if number is None else numbers.get(number, text)

        values = columns.iloc[:, 0]
        return {"target": [None if pd.isna(value) else name_of(value) for value in values]}

    @classmethod
    def target_columns(cls, labels: Tensor, names: Names) -> Columns:
        return {"target": [names[label] for label in labels.tolist()]}

    @classmethod
    def prediction_columns(cls, predictions: Tensor, names: Names) -> Columns:
        """The most probable class, and the probability of every class."""
        predictions = cls.of_all_classes(predictions)
        chosen = predictions.argmax(1).tolist()
        return {"prediction": [names[each] for each in chosen]} | probabilities(predictions, names)

    @classmethod
    def of_all_classes(cls, predictions: Any) -> Any:
        """Probabilities ``(samples, classes)``."""
        return predictions

    @classmethod
    def summary(cls, tensors: Tensors, names: Names, scale: Scale | None) -> str:
        counts = tensors[0].flatten().long().bincount(minlength=len(names))
        return shares(counts, names, len(tensors[0]))

    @classmethod
    def most_wrong(cls, predictions: Array, labels: Array, names: Names, most: int) -> Wrong:
        """The samples of which another class was predicted, the least probable truth first."""
        predictions = cls.of_all_classes(predictions)
        truth, predicted = labels.astype(int), predictions.argmax(1)
        of_truth = predictions[np.arange(len(truth)), truth]
        order = np.argsort(of_truth, kind="stable")
        return [
            (
                int(i),
                f"true {cut(names[truth[i]], 14)} ({of_truth[i]:.2g})\n"
                f"predicted {cut(names[predicted[i]], 14)} ({predictions[i, predicted[i]]:.2g})",
            )
            for i in [i for i in order if predicted[i] != truth[i]][:most]
        ]


class Multiclass(Classification):
    """One of several classes: outputs ``(batch, classes)`` logits, targets ``(batch,)`` indices."""

    name = "multiclass"
    target_dtype = torch.int64
    mixing_losses = "cross_entropy or label_smoothing"
    outputs_text = "probability of each class"
    raw_outputs_text = "logits; their softmax are the probabilities of the classes"

    def forward(self, outputs: Tensor) -> Tensor:
        """Probabilities ``(batch, classes)``."""
        return outputs.softmax(dim=1)

    @classmethod
    def count_outputs(cls, target: Tensor, class_names: Names | None) -> tuple[int | None, int]:
        return len(class_names or ()), len(class_names or ())

    @classmethod
    def expected_outputs(cls, num_classes: int | None) -> int | None:
        return num_classes

    @classmethod
    def target_shape(cls, num_outputs: int) -> tuple[int, ...]:
        return ()

    def example_targets(self) -> tuple[Tensor, ...]:
        classes = {*range(min(self.num_outputs, 64)), self.num_outputs - 1}
        return (torch.tensor([0, *sorted(classes)]),)

    def mixable_targets(self, targets: Tensor) -> Tensor:
        return one_hot(targets, self.num_outputs).float()

    @classmethod
    def value_problems(cls, part: str, targets: Tensor, num_outputs: int) -> Problems:
        wrong = targets[(targets < 0) | (targets >= num_outputs)]
        if len(wrong):
            yield Problem(
                "data",
                f"{len(wrong)} {part} targets lie outside 0..{num_outputs - 1}, such as {wrong[0]}; "
                "set data.num_classes, or correct them.",
            )

    @classmethod
    def part_problems(cls, part: str, tensors: Tensors, names: Names, has_auroc: bool) -> Problems:
        present = torch.bincount(tensors[0], minlength=len(names)) > 0
        if part == "train" and not present.all():
            absent = [names[i] for i in (~present).nonzero().flatten().tolist()]
            yield Problem(
                "data",
                f"no training sample of class {shorten(absent)}; choose another data.split_seed, "
                "add samples, or set data.num_classes to the classes there are.",
            )
        elif has_auroc and present.sum() == 1:
            yield Problem("data", f"the {part} part holds one class only; {ONE_VALUE}")

    @classmethod
    def check_classes(cls, name: str, classes: Array, is_continuous: bool, count: int) -> None:
        if len(classes) < 2:
            raise ValueError(
                f"target column {name!r} holds {str(classes[0])!r} only; multiclass needs at least "
                "2 classes, name another data.target."
            )
        if is_continuous:
            raise ValueError(
                f"target column {name!r} holds {len(classes)} different numbers in {count} rows, "
                "too many for classes; to predict the number choose data/task=regression."
            )

    @classmethod
    def figures(cls, collected: Any, names: Names, metrics: Mapping[str, Any]) -> Figures:
        scores, labels = collected.predictions, collected.labels
        predicted, title = scores.argmax(1), f"Confusion of {len(labels):,} {collected.describe()}"
        truth = labels[:, None] == np.arange(scores.shape[1])
        return {
            "confusion": ("confusion", predicted, labels, names, title),
            "predictions": ("quality", scores, truth, names, scores.max(1), predicted == labels),
        }


class ZeroOrOne(Task):
    """The base of tasks with outputs that are logits, and targets of 0.0 and 1.0."""

    has_probabilities = True
    mixing_losses = "bce"

    def example_targets(self) -> tuple[Tensor, ...]:
        return (torch.tensor([[1.0], [0.0], [1.0]]).expand(3, self.num_outputs).contiguous(),)

    @classmethod
    def value_problems(cls, part: str, targets: Tensor, num_outputs: int) -> Problems:
        wrong = targets[(targets != 0) & (targets != 1)]
        if len(wrong):
            yield Problem(
                "data",
                f"{len(wrong)} {part} targets of a {cls.name} task are neither 0 nor 1, such as "
                f"{wrong[0]:g}; correct them, or choose another data.task.",
            )


class Binary(ZeroOrOne, Classification):
    """Yes or no: outputs ``(batch, 1)`` logits, targets ``(batch, 1)`` of 0.0 and 1.0."""

    name = "binary"
    has_one_output = True
    outputs_text = "probability of the second class"
    raw_outputs_text = "logit; its sigmoid is the probability of the second class"

    def forward(self, outputs: Tensor) -> Tensor:
        """Probabilities of class 1, ``(batch,)``."""
        return outputs.sigmoid().squeeze(1)

    def labels(self, targets: Tensor) -> Tensor:
        """Integers 0 and 1, ``(batch,)``."""
        return targets.int().squeeze(1)

    @classmethod
    def count_outputs(cls, target: Tensor, class_names: Names | None) -> tuple[int | None, int]:
        return 2, target.numel()

    @classmethod
    def names(cls, metadata: Mapping[str, Any]) -> list[str]:
        return list(metadata["class_names"] or ("0", "1"))

    @classmethod
    def part_problems(cls, part: str, tensors: Tensors, names: Names, has_auroc: bool) -> Problems:
        if (tensors[0] == tensors[0][0]).all() and (part == "train" or has_auroc):
            yield Problem("data", f"in the {part} part the target has one value only; {ONE_VALUE}")

    @classmethod
    def check_classes(cls, name: str, classes: Array, is_continuous: bool, count: int) -> None:
        if len(classes) != 2:
            raise ValueError(
                f"target column {name!r} has {len(classes)} classes, binary needs exactly 2; "
                "for more choose data/task=multiclass."
            )

    @classmethod
    def of_all_classes(cls, predictions: Any) -> Any:
        stack = torch.stack if isinstance(predictions, Tensor) else np.stack
        return stack([1 - predictions, predictions], 1)

    @classmethod
    def figures(cls, collected: Any, names: Names, metrics: Mapping[str, Any]) -> Figures:
        scores, labels = collected.predictions[:, None], collected.labels
        title = f"Confusion of {len(labels):,} {collected.describe()}"
        return {
            "confusion": ("confusion", scores[:, 0] > 0.5, labels, names, title),
            "predictions": ("quality", scores, labels[:, None].astype(bool), names[-1:]),
        }


class Multilabel(ZeroOrOne):
    """Several yes-or-no answers: outputs and targets (0.0 and 1.0) ``(batch, labels)``."""

    name = "multilabel"
    column_type = int
    outputs_text = "probability of each label"
    raw_outputs_text = "logits; their sigmoids are the probabilities of the labels"

    def forward(self, outputs: Tensor) -> Tensor:
        """Probabilities ``(batch, labels)``."""
        return outputs.sigmoid()

    def labels(self, targets: Tensor) -> Tensor:
        """Integers 0 and 1, ``(batch, labels)``."""
        return targets.int()

    @classmethod
    def count_outputs(cls, target: Tensor, class_names: Names | None) -> tuple[int | None, int]:
        return target.numel(), target.numel()

    @classmethod
    def part_problems(cls, part: str, tensors: Tensors, names: Names, has_auroc: bool) -> Problems:
        is_constant = (tensors[0] == tensors[0][0]).all(0).tolist()
        constant = [name for name, same in zip(names, is_constant, strict=False) if same]
        if constant and (part == "train" or has_auroc):
            yield Problem(
                "data",
                f"in the {part} part label {', '.join(constant)} has one value only; {ONE_VALUE}",
            )

    @classmethod
    def read_targets(cls, columns: "pd.DataFrame") -> tuple[Array, tuple[str, ...] | None]:
        """Zeros and ones, and the names of the columns, which are the labels."""
        targets, _ = super().read_targets(columns)
        for name in columns:
            if not columns[name].isin((0, 1)).all():
                raise ValueError(
                    f"target column {name!r} holds values other than 0 and 1, which multilabel "
                    "needs; for one column of classes choose data/task=multiclass."
                )
        return targets, tuple(map(str, columns))

    @classmethod
    def prediction_columns(cls, predictions: Tensor, names: Names) -> Columns:
        """Whether each label is more probable than not, and its probability."""
        guesses = super().prediction_columns((predictions > 0.5).int(), names)
        return guesses | probabilities(predictions, names)

    @classmethod
    def titles(cls, kind: str, names: Names) -> list[str]:
        return [f"{kind}_{name}" for name in names]

    @classmethod
    def summary(cls, tensors: Tensors, names: Names, scale: Scale | None) -> str:
        return shares(tensors[0].sum(0), names, len(tensors[0]))

    @classmethod
    def figures(cls, collected: Any, names: Names, metrics: Mapping[str, Any]) -> Figures:
        scores, labels = collected.predictions, collected.labels
        title = f"Outcomes of {len(labels):,} {collected.describe()}"
        return {
            "confusion": ("outcomes", scores > 0.5, labels, names, title),
            "predictions": ("quality", scores, labels.astype(bool), names),
        }

    @classmethod
    def most_wrong(cls, predictions: Array, labels: Array, names: Names, most: int) -> Wrong:
        """The samples with a wrong label, by the largest error of a probability."""
        errors = np.abs(predictions - labels)
        is_wrong = ((predictions > 0.5) != labels.astype(bool)).any(1)
        largest = errors.max(1) * is_wrong
        found = [i for i in np.argsort(-largest, kind="stable")[:most] if largest[i]]
        captions = []
        for i in found:
            k = int(errors[i].argmax())
            kind = "missed" if labels[i, k] else "false"
            captions.append(f"{kind}: {cut(names[k], 14)}\n({predictions[i, k]:.2g})")
        return list(zip(map(int, found), captions, strict=True))


class Regression(Task):
    """Real values: outputs and targets ``(batch, values)``, possibly standardised.

    Predictions are in the units of the data: the standardisation is undone, in 64 bits.
    """

    name = "regression"
    has_scale = True
    outputs_text = "values, in the units of the data"
    raw_outputs_text = "values; times target_std plus target_mean in the units of the data"
    mean: Tensor
    std: Tensor

    def __init__(self, num_outputs: int) -> None:
        super().__init__(num_outputs)
        self.register_buffer("mean", torch.zeros(num_outputs))
        self.register_buffer("std", torch.ones(num_outputs))

    def forward(self, outputs: Tensor) -> Tensor:
        """Values ``(batch, values)`` in the units of the data."""
        return _exact(outputs) * self.std + self.mean

    def labels(self, targets: Tensor) -> Tensor:
        """Values ``(batch, values)`` in the units of the data."""
        return _exact(targets) * self.std + self.mean

    @classmethod
    def names(cls, metadata: Mapping[str, Any]) -> list[str]:
        """Names of the values: those of the columns of a table, if they come from one."""
        columns = (metadata.get("encoding") or {}).get("targets")
        return list(metadata["class_names"] or columns or map(str, range(metadata["num_outputs"])))

    @classmethod
    def figures(cls, collected: Any, names: Names, metrics: Mapping[str, Any]) -> Figures:
        return {"predictions": ("scatter", collected.predictions, collected.labels, names)}

    @classmethod
    def most_wrong(cls, predictions: Array, labels: Array, names: Names, most: int) -> Wrong:
        """The samples by the sum of their absolute errors."""
        errors = np.abs(predictions - labels).sum(1)
        return [
            (int(i), f"true {labels[i, 0]:.4g}\npredicted {predictions[i, 0]:.4g}")
            for i in np.argsort(-errors, kind="stable")[:most]
        ]


def _exact(values: Tensor) -> Tensor:
    # R2 is a difference of sums of squares: in 32 bits nothing is left of it far from zero.
    return values if values.device.type == "mps" else values.double()  # MPS has no 64 bits


class Ranking(Task):
    """An order of documents within each query.

    Outputs ``(batch, 1)`` scores, targets ``(batch, 1)`` graded relevance; indexes ``(batch,)`` name
    the query of each row, and a batch holds whole queries.
    """

    name = "ranking"
    has_one_output = True
    has_queries = True
    reads_tables = False
    outputs_text = "scores; a higher one comes first within its query"
    raw_outputs_text = outputs_text

    def forward(self, outputs: Tensor) -> Tensor:
        """Scores ``(batch,)``; only their order within a query counts."""
        return outputs.squeeze(1)

    def labels(self, targets: Tensor) -> Tensor:
        """Graded relevance ``(batch,)``."""
        return targets.squeeze(1)

    def example_targets(self) -> tuple[Tensor, ...]:
        return torch.tensor([[1.0], [0.0], [2.0], [0.0]]), torch.tensor([0, 0, 1, 1])

    @classmethod
    def part_problems(cls, part: str, tensors: Tensors, names: Names, has_auroc: bool) -> Problems:
        sizes = tensors[1].unique_consecutive(return_counts=True)[1]
        if single := int((sizes == 1).sum()):
            yield Problem(
                "data",
                f"{single} of the {len(sizes)} queries of the {part} part have one document, which "
                "has no order; leave them out.",
            )

    @classmethod
    def summary(cls, tensors: Tensors, names: Names, scale: Scale | None) -> str:
        sizes = tensors[1].unique_consecutive(return_counts=True)[1]
        relevant = (tensors[0] > 0).float().mean()
        return (
            f"{len(sizes):,} queries of {sizes.min()} to {sizes.max()} documents, "
            f"{relevant:.1%} of them relevant"
        )

    @classmethod
    def figures(cls, collected: Any, names: Names, metrics: Mapping[str, Any]) -> Figures:
        top = (metrics.get("ndcg") or {}).get("top_k")
        arrays = collected.predictions, collected.labels, collected.queries
        return {"predictions": ("orders", *arrays, top)}


TASKS: dict[str, type[Task]] = {
    kind.name: kind for kind in (Multiclass, Binary, Multilabel, Regression, Ranking)
}


def find_task(name: str) -> type[Task]:
    """The class of the task called `name`.

    Raises:
        ValueError: there is no such task.
    """
    if name not in TASKS:
        raise ValueError(f"data.task must be one of {', '.join(TASKS)}; got {name!r}.")
    return TASKS[name]


def as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def shortened(values: Tensor) -> list[list[float]]:
    """The columns of ``(samples, ...)``; real numbers are as short as 32 bits allow."""
    columns: list[list[float]] = values.reshape(len(values), -1).T.tolist()
    if not values.is_floating_point():
        return columns
    return [[shorten_float(each) for each in column] for column in columns]


def probabilities(predictions: Tensor, names: Names) -> Columns:
    titles = [f"probability_{name}" for name in names]
    return dict(zip(titles, shortened(predictions), strict=True))


def shares(counts: Tensor, names: Names, total: int) -> str:
    """Numbers of samples and their shares: ``cat 30 (60.0%), dog 20 (40.0%)``."""
    pairs = zip(names, counts.tolist(), strict=False)
    return shorten((f"{name} {int(n):,} ({n / total:.1%})" for name, n in pairs), 10)
