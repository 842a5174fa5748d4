"""Tasks: the form of targets, the meaning of outputs, and everything that depends on them.

Models return raw outputs, which losses expect. A task turns them into predictions, which metrics
expect. A task of your own is a subclass of `Task`, which ``data.task`` names by its path, such as
``project.segmentation.Segmentation``; the five of `TASKS` have names of one word.
"""

import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.utils.data import IterableDataset, TensorDataset

from quartet.core.messages import cut, shorten
from quartet.core.problems import Problem, Problems
from quartet.records.loggers import shorten_float

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[Any]
Columns = dict[str, list[Any]]
# Name of a picture -> name of a drawing function of `quartet.reports`, and its arguments.
Figures = dict[str, tuple[Any, ...]]
Wrong = list[tuple[int, str]]
Names = Sequence[str]
Tensors = Sequence[Tensor]
Scale = tuple[Tensor, Tensor]
# Tasks of projects, by the path of the class.
OWN_TASKS: dict[str, "type[Task]"] = {}

OTHER_ROWS = "choose another data.split_seed, or add rows"


class Task(nn.Module):
    """What the engine has to know of a kind of data, and of outputs for it.

    Every member has a default, and what a task leaves out is not offered: not checked, not drawn.
    Inputs, targets, outputs and predictions are nests of tensors (`quartet.data.nest`).

    Example::

        class Segmentation(quartet.Task):
            def predictions(self, outputs):  # (batch, classes, height, width) logits
                return outputs.argmax(1)

    Args:
        num_outputs: ``data.num_outputs``, or 1.

    Attributes:
        name: What ``tasks`` of an option of loss or metrics names; by default that of the class, such as
            ``semantic_segmentation`` for ``SemanticSegmentation``.
        extras: Names of the third and further items of a batch that is a tuple.
        has_classes: Whether every sample has exactly one class. Then splits are stratified, and the
            classes can be balanced.
        has_positive: Whether there are two classes, and ``data.positive`` chooses the second one.
        has_queries: Whether a batch has ``indexes``, the query of each row, and holds whole queries.
        has_probabilities: Whether predictions are probabilities.
        has_scale: Whether predictions undo the standardization of targets.
        outputs_text: Describes the predictions of an exported model.
        raw_outputs_text: Describes the raw outputs.
    """

    name: ClassVar[str]
    extras: ClassVar[tuple[str, ...]] = ()
    has_classes: ClassVar[bool] = False
    has_positive: ClassVar[bool] = False
    has_queries: ClassVar[bool] = False
    has_probabilities: ClassVar[bool] = False
    has_scale: ClassVar[bool] = False
    outputs_text: ClassVar[str] = "predictions"
    raw_outputs_text: ClassVar[str] = "raw outputs of the model"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in vars(cls):
            cls.name = re.sub(r"(?<=[a-z\d])(?=[A-Z])", "_", cls.__name__).lower()
        OWN_TASKS[f"{cls.__module__}.{cls.__qualname__}"] = cls

    def __init__(self, num_outputs: int = 1) -> None:
        super().__init__()
        self.num_outputs = num_outputs

    def split(self, batch: Any) -> tuple[Any, Any, dict[str, Any]]:
        """Splits a batch into inputs, targets, and further items by their names.

        A tuple holds inputs, targets and the items that `extras` names; a dict has ``inputs`` and
        ``targets``, and all of its other items are extras. Anything else is its own target.
        """
        if isinstance(batch, Mapping):
            rest = {key: each for key, each in batch.items() if key not in ("inputs", "targets")}
            return batch["inputs"], batch.get("targets", batch["inputs"]), rest
        if not isinstance(batch, tuple | list):
            return batch, batch, {}
        inputs, *others = batch
        extras = dict(zip(self.extras, others[1:], strict=False))
        return inputs, others[0] if others else inputs, extras

    def forward(self, outputs: Any) -> Any:
        """Returns the predictions."""
        return self.predictions(outputs)

    def predictions(self, outputs: Any) -> Any:
        """Returns raw outputs in the form that metrics compare with labels."""
        return outputs

    def labels(self, targets: Any) -> Any:
        """Returns targets in the form that metrics compare with predictions."""
        return targets

    def metadata(self, parts: Any) -> dict[str, Any]:
        """Returns what the data tells of itself, for the keys of the data group that are null.

        By default: ``input_shape`` if the inputs of a batch are a tensor, ``num_classes`` and ``num_outputs`` if
        the data names classes.

        Args:
            parts: `quartet.Parts`.
        """
        sample = first_sample(parts.train)
        inputs = self.split(sample)[0]
        batch = inputs if parts.collate is None else self.split(parts.collate([sample]))[0]
        stacked = isinstance(inputs, Tensor) and isinstance(batch, Tensor)
        shape = list(inputs.shape) if stacked else None
        count = len(parts.class_names) if parts.class_names else None
        return {"input_shape": shape, "num_classes": count, "num_outputs": count}

    def set_scale(self, mean: Tensor, std: Tensor) -> None:
        """Sets the mean and standard deviation by which targets are standardized."""
        for buffer, value in zip(self.buffers(), (mean, std), strict=True):
            buffer.copy_(value)

    def expected_outputs(self, num_classes: int | None) -> int | None:
        """Returns the number of outputs that the task requires; None if any number is valid."""
        return None

    def names(self, metadata: Mapping[str, Any]) -> list[str]:
        """Returns the names of the classes, labels or values, given `DataModule.metadata`."""
        return list(metadata["class_names"] or ())

    def problems(self, part: str, dataset: Any) -> Problems:
        """Yields what is wrong with a part of the data: train, val or test."""
        yield from ()

    def target_columns(self, labels: Any, names: Names) -> Columns:
        """Returns columns of targets for predict.py, from the labels of a batch."""
        return {}

    def prediction_columns(self, predictions: Any, names: Names) -> Columns | None:
        """Returns columns of predictions for predict.py; None writes them as tensors, to a .pt file."""
        return None

    def summary(self, dataset: Any, names: Names, scale: Scale | None) -> str:
        """Describes a part in one line, for ``check=only``; empty for nothing.

        Args:
            dataset: The part of the data.
            names: Names of the classes, labels or values.
            scale: Mean and standard deviation by which the targets were standardized, or None.
        """
        return ""

    def figures(self, collected: Any, names: Names, metrics: Mapping[str, Any]) -> Figures:
        """Returns the pictures of the predictions of a part, by name.

        Args:
            collected: `quartet.training.callbacks.predictions.PredictionCollector`, with
                ``predictions`` and ``labels``, arrays or nests of arrays, and ``dataset[rows[i]]``.
            names: Names of the classes, labels or values.
            metrics: The metrics group of the configuration.

        Returns:
            Name of the file -> a function that returns a matplotlib figure.
        """
        return {}

    def most_wrong(self, predictions: Array, labels: Array, names: Names, most: int) -> Wrong:
        """Returns the indices of samples with the largest errors, in order, and their captions."""
        return []


class StandardTask(Task):
    """The base class of the tasks that the engine knows, and checks before the first batch.

    Outputs are ``(batch, num_outputs)``; by default they are values, and nothing is drawn.

    Attributes:
        target_dtype: Type of the targets of a batch.
        has_one_output: Whether the model has a single output.
        reads_tables: Whether the targets can be columns of a csv file.
        column_type: Type of the columns ``target`` and ``prediction`` that predict.py writes.
        mixing_losses: Losses that accept mixed targets; None if samples cannot be mixed.
    """

    target_dtype: ClassVar[torch.dtype] = torch.float32
    has_one_output: ClassVar[bool] = False
    reads_tables: ClassVar[bool] = True
    column_type: ClassVar[type] = float
    mixing_losses: ClassVar[str | None] = None

    # Numbers and names

    def metadata(self, parts: Any) -> dict[str, Any]:
        """Returns the shape of inputs and the numbers of classes and outputs.

        Raises:
            ValueError: a sample is no tuple of tensors.
        """
        sample = first_sample(parts.train)
        if not isinstance(sample, tuple | list) or not isinstance(sample[0], Tensor):
            kind = type(sample).__name__
            raise ValueError(f"a sample is a {kind}, and must be a tuple of tensors.")
        inputs, targets, _ = self.split(sample)
        classes, outputs = self.count_outputs(torch.as_tensor(targets), parts.class_names)
        return {"input_shape": list(inputs.shape), "num_classes": classes, "num_outputs": outputs}

    def count_outputs(self, target: Tensor, class_names: Names | None) -> tuple[int | None, int]:
        """Returns the number of classes, or None, and of outputs, given the target of a sample."""
        return None, target.numel()

    def expected_outputs(self, num_classes: int | None) -> int | None:
        return 1 if self.has_one_output else None

    def target_shape(self) -> tuple[int, ...]:
        """Returns the shape of the target of one sample."""
        return (self.num_outputs,)

    def names(self, metadata: Mapping[str, Any]) -> list[str]:
        return list(metadata["class_names"] or map(str, range(metadata["num_outputs"])))

    # The check before the training

    def example(self) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Returns outputs and targets of a few made-up samples, and their extras."""
        targets, *others = self.example_targets()
        size = len(targets)
        outputs = torch.arange(1.0 * size * self.num_outputs).sin().view(size, self.num_outputs)
        return outputs, targets, dict(zip(self.extras, others, strict=True))

    def example_targets(self) -> tuple[Tensor, ...]:
        """Returns the targets of the made-up samples, and their queries for ranking."""
        return (torch.arange(3.0 * self.num_outputs).view(3, self.num_outputs),)

    def mixable_targets(self, targets: Tensor) -> Tensor:
        """Returns targets as floats ``(batch, outputs)``, which can be mixed."""
        return targets

    def value_problems(self, part: str, targets: Tensor) -> Problems:
        """Yields a problem if targets of a part are out of range."""
        yield from ()

    def part_problems(self, part: str, tensors: Tensors, names: Names) -> Problems:
        """Yields a problem if a part cannot be trained on or scored, with all targets in range.

        Args:
            part: train, val or test.
            tensors: Targets and, if the task has them, queries.
            names: Names of the classes, labels or values.
        """
        yield from ()

    def captions(self, names: Names, predictions: Array) -> Iterator[str]:
        """Yields lines below the figures, without which they could be misread."""
        yield from ()

    def one_sided(self, targets: Tensor, names: Names) -> list[str]:
        """Returns the classes or labels that all or none of the targets have: no AUROC exists for them."""
        return []

    # Tables

    def read_targets(
        self, columns: "pd.DataFrame", classes: Names | None = None
    ) -> tuple[Array, tuple[str, ...] | None]:
        """Returns the targets of all rows of a table, and the names of the classes or None.

        Args:
            columns: The target columns: numbers, or texts where not all values are numbers, and for
                a task of classes.
            classes: Names of the classes, in their order; None for those of the column.

        Raises:
            ValueError: a column does not hold what the task needs.
        """
        for name in columns:
            if columns[name].dtype.kind == "O":
                texts = columns[name]
                text = next((each for each in texts if as_number(each) is None), texts.iloc[0])
                message = f"target column {name!r} is not numeric (it holds {text!r}); for classes"
                raise ValueError(f"{message} choose data/task=multiclass or data/task=binary.")
        return columns.to_numpy(dtype=np.float64), None

    def known_targets(self, columns: "pd.DataFrame", names: Names) -> Columns:
        """Returns columns of targets for predict.py from a table; None where a target is missing."""
        titles, found = self.titles("target", [*map(str, columns)]), {}
        for title, name in zip(titles, columns, strict=True):
            pairs = zip(columns[name], columns[name].isna(), strict=True)
            found[title] = [None if lacks else self.parse_target(v, names) for v, lacks in pairs]
        return found

    def parse_target(self, value: Any, names: Names) -> Any:
        """Converts a target of a table to the value that predict.py writes."""
        return as_written(value) if self.column_type is float else self.column_type(value)

    def target_columns(self, labels: Tensor, names: Names) -> Columns:
        return make_columns(self.titles("target", names), labels)

    def prediction_columns(self, predictions: Tensor, names: Names) -> Columns:
        """Returns columns of predictions for predict.py."""
        return make_columns(self.titles("prediction", names), predictions)

    def titles(self, kind: str, names: Names) -> list[str]:
        """Returns the titles of columns, with the names if there are several."""
        return [f"{kind}_{name}" for name in names] if len(names) > 1 else [kind]

    # Reports

    def summary(self, dataset: Any, names: Names, scale: Scale | None) -> str:
        """Describes the targets of a part, if they are known without reading files."""
        tensors = known_targets(dataset)
        return self.describe_targets(tensors, names, scale) if tensors else ""

    def describe_targets(self, tensors: Tensors, names: Names, scale: Scale | None) -> str:
        """Describes targets and, if the task has them, queries."""
        values = tensors[0].double()
        if scale is not None:
            values = values * scale[1] + scale[0]
        columns = values.reshape(len(values), -1).unbind(1)
        return shorten(
            f"{f'{name} ' if len(names) > 1 else ''}mean {float(one.mean()):.4g} and sd "
            f"{float(one.std(correction=0)):.4g} within {one.min():.4g} to {one.max():.4g}"
            for name, one in zip(names, columns, strict=False)
        )


class Classification(StandardTask):
    """The base class of tasks in which every sample has one class."""

    has_classes = True
    has_probabilities = True
    column_type = str

    def captions(self, names: Names, predictions: Array) -> Iterator[str]:
        if len(predictions) > 1:
            chosen = self.class_probabilities(predictions).argmax(1)
            if (chosen == chosen[0]).all():
                yield f"every prediction is the same class, {names[chosen[0]]}"

    def read_targets(
        self, columns: "pd.DataFrame", classes: Names | None = None
    ) -> tuple[Array, tuple[str, ...] | None]:
        """Returns class indices and names. The classes are the sorted values of the column."""
        values = columns.iloc[:, 0]
        title, given = f"target column {values.name!r}", list(values.unique())
        numbers = [as_number(text) for text in given]
        if classes is None:
            by_number = None not in numbers
            alike = set(numbers if by_number else map(str.strip, given))
            if len(alike) < len(given):
                raise ValueError(f"{title} writes one class in two ways; spell each class alike.")
            names = sorted(given, key=Decimal if by_number else None)
            self.check_classes(values, names)
        else:
            names = list(classes)
            given = [self.parse_target(text, names) for text in given]
            if strange := [text for text in given if text not in names]:
                message = f"holds {shorten(strange)}, and the classes of the training are"
                raise ValueError(f"{title} {message} {shorten(names, 10)}; leave these rows out.")
        codes, texts = values.factorize()
        dtype = np.float64 if self.target_dtype.is_floating_point else np.int64
        places = [names.index(self.parse_target(text, names)) for text in texts]
        targets = np.array(places, dtype)[codes].reshape(len(codes), *self.target_shape())
        return targets, tuple(names)

    def check_classes(self, values: "pd.Series[Any]", classes: Names) -> None:
        """Raises ValueError if the values of a column cannot be the classes of the task."""

    def parse_target(self, value: Any, names: Names) -> str:
        """Returns the name of the class in the training, if it has one; 1.0 is a class 1, TRUE a true."""
        text = str(value)
        if text in names:
            return text

        def key(name: str) -> Any:
            number, lower = as_number(name), name.lower()
            return number if number is not None else lower if lower in ("true", "false") else name

        return next((name for name in names if key(name) == key(text)), text)

    def target_columns(self, labels: Tensor, names: Names) -> Columns:
        return {"target": [names[label] for label in labels.tolist()]}

    def prediction_columns(self, predictions: Tensor, names: Names) -> Columns:
        """Returns columns of the most probable class and of the probability of every class."""
        predictions = self.class_probabilities(predictions)
        chosen = predictions.argmax(1).tolist()
        columns = probability_columns(predictions, names)
        return {"prediction": [names[each] for each in chosen]} | columns

    def class_probabilities(self, predictions: Any) -> Any:
        """Returns the probability of every class, ``(samples, classes)``."""
        return predictions

    def describe_targets(self, tensors: Tensors, names: Names, scale: Scale | None) -> str:
        counts = tensors[0].flatten().long().bincount(minlength=len(names))
        return format_shares(counts, names, len(tensors[0]))

    def most_wrong(self, predictions: Array, labels: Array, names: Names, most: int) -> Wrong:
        """Returns misclassified samples, those with the least probable true class first."""
        predictions = self.class_probabilities(predictions)
        truth, predicted = labels.astype(int), predictions.argmax(1)
        of_truth = predictions[np.arange(len(truth)), truth]
        order = np.argsort(of_truth, kind="stable")
        return [
            (
                int(i),
                f"true {cut(names[truth[i]], 14)} ({of_truth[i]:.2g})\n"
                f"predicted {cut(names[predicted[i]], 14)} ({predictions[i, predicted[i]]:.2g})",
            )
            for i in order[(predicted != truth)[order]][:most]
        ]


class Multiclass(Classification):
    """One of several classes: outputs ``(batch, classes)`` logits, targets ``(batch,)`` indices."""

    name = "multiclass"
    target_dtype = torch.int64
    mixing_losses = "cross_entropy or label_smoothing"
    outputs_text = "probability of each class"
    raw_outputs_text = "logits; their softmax are the probabilities of the classes"

    def predictions(self, outputs: Tensor) -> Tensor:
        """Probabilities ``(batch, classes)``."""
        return outputs.softmax(dim=1)

    def count_outputs(self, target: Tensor, class_names: Names | None) -> tuple[int | None, int]:
        return len(class_names or ()), len(class_names or ())

    def expected_outputs(self, num_classes: int | None) -> int | None:
        return num_classes

    def target_shape(self) -> tuple[int, ...]:
        return ()

    def example_targets(self) -> tuple[Tensor, ...]:
        classes = {*range(min(self.num_outputs, 64)), self.num_outputs - 1}
        return (torch.tensor([0, *sorted(classes)]),)

    def mixable_targets(self, targets: Tensor) -> Tensor:
        return one_hot(targets, self.num_outputs).float()

    def value_problems(self, part: str, targets: Tensor) -> Problems:
        wrong = targets[(targets < 0) | (targets >= self.num_outputs)]
        if len(wrong):
            place = f"lie outside 0..{self.num_outputs - 1}, such as {wrong[0]}"
            way_out = "set data.num_classes, or correct them"
            yield Problem("data", f"{len(wrong)} {part} targets {place}; {way_out}.")

    def one_sided(self, targets: Tensor, names: Names) -> list[str]:
        counts = torch.bincount(targets, minlength=len(names)).tolist()
        return [name for name, n in zip(names, counts, strict=True) if n in (0, len(targets))]

    def part_problems(self, part: str, tensors: Tensors, names: Names) -> Problems:
        present = torch.bincount(tensors[0], minlength=len(names)) > 0
        if part == "train" and not present.all():
            absent = [names[i] for i in (~present).nonzero().flatten().tolist()]
            message = (
                f"no training sample of class {shorten(absent)}; add some, leave the class out"
            )
            way_out = "divide the data otherwise, data.split_seed=N if that is by chance"
            yield Problem("data", f"{message} of the other parts, or {way_out}.")

    def check_classes(self, values: "pd.Series[Any]", classes: Names) -> None:
        title = f"target column {values.name!r} holds"
        if len(classes) < 2:
            message = f"{classes[0]!r} only; multiclass needs at least 2 classes"
            raise ValueError(f"{title} {message}, name another data.target.")
        if as_number(classes[0]) is not None and len(classes) > len(values) / 2:
            message = f"{len(classes)} different numbers in {len(values)} rows, too many for"
            raise ValueError(f"{title} {message} classes; choose data/task=regression.")

    def figures(self, collected: Any, names: Names, metrics: Mapping[str, Any]) -> Figures:
        scores, labels = collected.predictions, collected.labels
        predicted, title = scores.argmax(1), f"Confusion of {len(labels):,} {collected.describe()}"
        truth = labels[:, None] == np.arange(scores.shape[1])
        return {
            "confusion": ("confusion", predicted, labels, names, title),
            "predictions": ("quality", scores, truth, names, scores.max(1), predicted == labels),
        }


class SigmoidTask(StandardTask):
    """The base class of tasks whose outputs are logits, and whose targets are 0.0 and 1.0."""

    has_probabilities = True
    mixing_losses = "bce"

    def example_targets(self) -> tuple[Tensor, ...]:
        return (torch.tensor([[1.0], [0.0], [1.0]]).expand(3, self.num_outputs).contiguous(),)

    def value_problems(self, part: str, targets: Tensor) -> Problems:
        wrong = targets[(targets != 0) & (targets != 1)]
        if len(wrong):
            message = f"{len(wrong)} {part} targets of a {self.name} task are neither 0 nor 1, such"
            yield Problem("data", f"{message} as {wrong[0]:g}; correct them.")


class Binary(SigmoidTask, Classification):
    """Yes or no: outputs ``(batch, 1)`` logits, targets ``(batch, 1)`` of 0.0 and 1.0."""

    name = "binary"
    has_positive = True
    has_one_output = True
    outputs_text = "probability of the second class"
    raw_outputs_text = "logit; its sigmoid is the probability of the second class"

    def predictions(self, outputs: Tensor) -> Tensor:
        """Probabilities of class 1, ``(batch,)``."""
        return outputs.sigmoid().squeeze(1)

    def labels(self, targets: Tensor) -> Tensor:
        """Integers 0 and 1, ``(batch,)``."""
        return targets.int().squeeze(1)

    def count_outputs(self, target: Tensor, class_names: Names | None) -> tuple[int | None, int]:
        return 2, target.numel()

    def names(self, metadata: Mapping[str, Any]) -> list[str]:
        return list(metadata["class_names"] or ("0", "1"))

    def captions(self, names: Names, predictions: Array) -> Iterator[str]:
        """Yields the class that precision, recall and F1 are about, and the setting for the other."""
        other = shlex.quote(f"data.positive={names[0]}")
        yield f"the positive class is {names[1]}; {other} makes it {names[0]}"
        yield from super().captions(names, predictions)

    def one_sided(self, targets: Tensor, names: Names) -> list[str]:
        return list(names) if (targets == targets[0]).all() else []

    def part_problems(self, part: str, tensors: Tensors, names: Names) -> Problems:
        if part == "train" and self.one_sided(tensors[0], names):
            yield Problem("data", f"in the train part the target has one value only; {OTHER_ROWS}.")

    def check_classes(self, values: "pd.Series[Any]", classes: Names) -> None:
        if len(classes) != 2:
            message = f"has {len(classes)} classes, binary needs exactly 2; for more choose"
            raise ValueError(f"target column {values.name!r} {message} data/task=multiclass.")

    def class_probabilities(self, predictions: Any) -> Any:
        stack = torch.stack if isinstance(predictions, Tensor) else np.stack
        return stack([1 - predictions, predictions], 1)

    def figures(self, collected: Any, names: Names, metrics: Mapping[str, Any]) -> Figures:
        scores, labels = collected.predictions[:, None], collected.labels
        title = f"Confusion of {len(labels):,} {collected.describe()}"
        return {
            "confusion": ("confusion", scores[:, 0] > 0.5, labels, names, title),
            "predictions": ("quality", scores, labels[:, None].astype(bool), names[-1:]),
        }


class Multilabel(SigmoidTask):
    """Several yes-or-no answers: outputs and targets (0.0 and 1.0) ``(batch, labels)``."""

    name = "multilabel"
    column_type = int
    outputs_text = "probability of each label"
    raw_outputs_text = "logits; their sigmoids are the probabilities of the labels"

    def predictions(self, outputs: Tensor) -> Tensor:
        """Probabilities ``(batch, labels)``."""
        return outputs.sigmoid()

    def labels(self, targets: Tensor) -> Tensor:
        """Integers 0 and 1, ``(batch, labels)``."""
        return targets.int()

    def count_outputs(self, target: Tensor, class_names: Names | None) -> tuple[int | None, int]:
        return target.numel(), target.numel()

    def one_sided(self, targets: Tensor, names: Names) -> list[str]:
        is_constant = (targets == targets[0]).all(0).tolist()
        return [name for name, same in zip(names, is_constant, strict=True) if same]

    def part_problems(self, part: str, tensors: Tensors, names: Names) -> Problems:
        if part == "train" and (constant := self.one_sided(tensors[0], names)):
            message = f"in the train part label {shorten(constant)} has one value only"
            yield Problem("data", f"{message}; {OTHER_ROWS}, or leave it out.")

    def read_targets(
        self, columns: "pd.DataFrame", classes: Names | None = None
    ) -> tuple[Array, tuple[str, ...] | None]:
        """Returns zeros and ones, and the names of the columns as names of the labels."""
        targets, _ = super().read_targets(columns, classes)
        for name in columns:
            if not columns[name].isin((0, 1)).all():
                message = f"target column {name!r} holds values other than 0 and 1, which"
                raise ValueError(f"{message} multilabel needs; choose data/task=multiclass.")
        return targets, tuple(map(str, columns))

    def prediction_columns(self, predictions: Tensor, names: Names) -> Columns:
        """Returns columns of 1 for a probability above 0.5, else 0, and of the probabilities."""
        guesses = super().prediction_columns((predictions > 0.5).int(), names)
        return guesses | probability_columns(predictions, names)

    def titles(self, kind: str, names: Names) -> list[str]:
        return [f"{kind}_{name}" for name in names]

    def describe_targets(self, tensors: Tensors, names: Names, scale: Scale | None) -> str:
        return format_shares(tensors[0].sum(0), names, len(tensors[0]))

    def figures(self, collected: Any, names: Names, metrics: Mapping[str, Any]) -> Figures:
        scores, labels = collected.predictions, collected.labels
        title = f"Outcomes of {len(labels):,} {collected.describe()}"
        return {
            "confusion": ("outcomes", scores > 0.5, labels, names, title),
            "predictions": ("quality", scores, labels.astype(bool), names),
        }

    def most_wrong(self, predictions: Array, labels: Array, names: Names, most: int) -> Wrong:
        """Returns samples with a wrong label, by the largest error of a probability."""
        errors = np.abs(predictions - labels)
        is_wrong = ((predictions > 0.5) != labels.astype(bool)).any(1)
        largest = errors.max(1) * is_wrong
        order = np.argsort(-largest, kind="stable")[:most]
        found = []
        for i in order[largest[order] != 0]:
            k = int(errors[i].argmax())
            kind = "missed" if labels[i, k] else "false"
            found.append((int(i), f"{kind}: {cut(names[k], 14)}\n({predictions[i, k]:.2g})"))
        return found


class Regression(StandardTask):
    """Real values: outputs and targets ``(batch, values)``, possibly standardized.

    Predictions are in the units of the data: the standardization is undone, in 64 bits.
    """

    name = "regression"
    has_scale = True
    outputs_text = "values, in the units of the data"
    raw_outputs_text = "values; times target_std plus target_mean in the units of the data"
    mean: Tensor
    mean_rest: Tensor
    std: Tensor

    def __init__(self, num_outputs: int = 1) -> None:
        super().__init__(num_outputs)
        self.register_buffer("mean", torch.zeros(num_outputs))
        self.register_buffer("mean_rest", torch.zeros(num_outputs))  # of 64 bits, what mean lacks
        self.register_buffer("std", torch.ones(num_outputs))
        self.register_load_state_dict_pre_hook(add_mean_rest)  # type: ignore[no-untyped-call]

    def set_scale(self, mean: Tensor, std: Tensor) -> None:
        self.mean.copy_(mean)
        self.mean_rest.copy_(mean.double() - self.mean.cpu().double())
        self.std.copy_(std)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Values ``(batch, values)`` in the units of the data."""
        # R2 is a difference of sums of squares, which cancels in 32 bits for values far from zero.
        exact = outputs if outputs.device.type == "mps" else outputs.double()  # MPS has no 64 bits
        return exact * self.std + (self.mean.to(exact.dtype) + self.mean_rest)

    def labels(self, targets: Tensor) -> Tensor:
        """Values ``(batch, values)`` in the units of the data."""
        return self.predictions(targets)

    def prediction_columns(self, predictions: Tensor, names: Names) -> Columns:
        """Returns columns of values, with the digits that 32 bits give to what differs from the mean."""
        columns = super().prediction_columns(predictions, names)
        if not self.mean_rest.any():
            return columns
        places = [8 - math.floor(math.log10(std)) for std in self.std.tolist()]
        values = zip(predictions.T.tolist(), places, strict=True)
        rounded = ([round(value, digits) for value in each] for each, digits in values)
        return dict(zip(columns, rounded, strict=True))

    def names(self, metadata: Mapping[str, Any]) -> list[str]:
        """Returns the names of the values: those of a table's columns, if the data is a table."""
        columns = (metadata.get("encoding") or {}).get("targets")
        return list(columns or super().names(metadata))

    def figures(self, collected: Any, names: Names, metrics: Mapping[str, Any]) -> Figures:
        return {"predictions": ("scatter", collected.predictions, collected.labels, names)}

    def most_wrong(self, predictions: Array, labels: Array, names: Names, most: int) -> Wrong:
        """Returns samples by the sum of their absolute errors."""
        errors = np.abs(predictions - labels).sum(1)
        return [
            (int(i), f"true {labels[i, 0]:.4g}\npredicted {predictions[i, 0]:.4g}")
            for i in np.argsort(-errors, kind="stable")[:most]
        ]


def add_mean_rest(task: nn.Module, state: dict[str, Any], prefix: str, *args: Any) -> None:
    """Adds what checkpoints before version 2 do not have."""
    if f"{prefix}mean" in state:
        state.setdefault(f"{prefix}mean_rest", torch.zeros_like(state[f"{prefix}mean"]))


class Ranking(StandardTask):
    """An order of documents within each query.

    Outputs ``(batch, 1)`` are scores, targets ``(batch, 1)`` are graded relevance, and indexes
    ``(batch,)`` are the query of each row. A batch holds whole queries.
    """

    name = "ranking"
    has_one_output = True
    extras = ("indexes",)
    has_queries = True
    reads_tables = False
    outputs_text = "scores; a higher one comes first within its query"
    raw_outputs_text = outputs_text

    def predictions(self, outputs: Tensor) -> Tensor:
        """Scores ``(batch,)``; only their order within a query counts."""
        return outputs.squeeze(1)

    def labels(self, targets: Tensor) -> Tensor:
        """Graded relevance ``(batch,)``."""
        return targets.squeeze(1)

    def example_targets(self) -> tuple[Tensor, ...]:
        return torch.tensor([[1.0], [0.0], [2.0], [0.0]]), torch.tensor([0, 0, 1, 1])

    def describe_targets(self, tensors: Tensors, names: Names, scale: Scale | None) -> str:
        sizes = tensors[1].unique_consecutive(return_counts=True)[1]
        relevant = (tensors[0] > 0).float().mean()
        return (
            f"{len(sizes):,} queries of {sizes.min()} to {sizes.max()} documents, "
            f"{relevant:.1%} of them relevant"
        )

    def figures(self, collected: Any, names: Names, metrics: Mapping[str, Any]) -> Figures:
        top = (metrics.get("ndcg") or {}).get("top_k")
        arrays = collected.predictions, collected.labels, collected.queries
        return {"predictions": ("orders", *arrays, top)}


TASKS: dict[str, type[StandardTask]] = {
    kind.name: kind for kind in (Multiclass, Binary, Multilabel, Regression, Ranking)
}


def create_task(name: str, num_outputs: int | None = None) -> Task:
    """Creates the task called `name`, or the one of a project whose module was imported.

    Raises:
        ValueError: there is no such task.
    """
    kind = TASKS.get(name) or OWN_TASKS.get(name)
    if kind is None:
        raise ValueError(f"data.task must be one of {', '.join(TASKS)}; got {name!r}.")
    return kind(num_outputs or 1)


def first_sample(dataset: Any) -> Any:
    """Returns the first sample of a map-style or an iterable data set."""
    return first_samples(dataset, 1)[0]


def first_samples(dataset: Any, most: int) -> list[Any]:
    """Returns the first samples of a data set; of a stream those of its first shard."""
    if isinstance(dataset, IterableDataset):
        return list(islice(dataset, most))
    return [dataset[row] for row in range(min(most, len(dataset)))]


def known_targets(dataset: Any) -> tuple[Tensor, ...]:
    """Returns targets, and queries if there are any; empty if files would have to be read."""
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[1:]
    return (torch.as_tensor(dataset.targets),) if hasattr(dataset, "targets") else ()


def as_number(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def as_written(value: float) -> float:
    """Returns a number as people write it: whole numbers without a point."""
    return int(value) if float(value).is_integer() else float(value)


def make_columns(titles: Iterable[str], values: Tensor) -> Columns:
    """Makes columns of ``(samples, ...)``; floats are as short as 32 bits allow."""
    columns: list[list[Any]] = values.reshape(len(values), -1).T.tolist()
    if values.is_floating_point():
        columns = [list(map(shorten_float, column)) for column in columns]
    return dict(zip(titles, columns, strict=True))


def probability_columns(predictions: Tensor, names: Names) -> Columns:
    return make_columns((f"probability_{name}" for name in names), predictions)


def format_shares(counts: Tensor, names: Names, total: int) -> str:
    """Formats numbers of samples and their shares: ``cat: 30 (60.0%), dog: 20 (40.0%)``."""
    pairs = zip(names, counts.tolist(), strict=False)
    return shorten((f"{name}: {int(n):,} ({n / total:.1%})" for name, n in pairs), 10)
