"""Problems that only the data shows: values that cannot be trained on, parts that cannot be scored."""

import copy
import difflib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset, default_collate

from quartet.config import allow
from quartet.core.messages import join_and, shorten
from quartet.core.problems import Config, ConfigError, Problem, Problems, collect_problems, refuse
from quartet.data import nest
from quartet.data.datamodule import DataModule
from quartet.data.nest import leaves
from quartet.data.split import Parts
from quartet.data.stream import Stream, count_samples
from quartet.data.task import StandardTask, Task, create_task, first_sample, known_targets
from quartet.validation.length import count_processes


def find_problems(data: DataModule, whole: Config) -> Problems:
    """Yields the problems of the parts of the data; its shapes are filled in."""
    parts, config, metrics = data.load(), whole["data"], whole["metrics"]
    names = list(parts.class_names or ())
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        message = f"class_names has {twice[0]!r} twice; give each class a name of its own."
        yield Problem("data", message)
    for part in ("train", "val", "test"):
        dataset: Dataset[Any] | None = getattr(parts, part)
        if dataset is None or (data.is_rebuilt and part == "train"):
            continue
        size = count_samples(dataset)
        if not size:
            message = f"the {part} part is empty; change data.val_fraction or data.test_fraction."
            yield Problem("data", message)
            continue
        if "r2" in metrics and size == 1:
            message = f"the {part} part holds one sample, for which there is no R2; enlarge it"
            message += ", or set metrics=none."
            yield Problem("data", message)
        found = list(check_part(part, dataset, parts, config))
        yield from found
        is_monitored = whole["monitor"]["metric"] == f"{part}/auroc"
        if is_monitored and not found and find_one_sided(part, data, config)[1]:
            message = "the part holds one class only, so it has no AUROC; choose another"
            message += " data.split_seed, or monitor another value."
            yield Problem("monitor.metric", message, f"{part}/auroc")
        if found and part == "train":  # the other parts would say the same
            break
    size, count = config["batch_size"], data.count("train")
    if config["drop_last"] and size != "full" and count < size:
        message = f"leaves no batch, for data.batch_size={size} is more than the {count} samples"
        yield Problem("data.drop_last", f"{message}; use a smaller one.", True)


def check_augmentation(data: DataModule) -> Problems:
    """An augmentation of the data set must give a batch of the form and size that it gets."""
    batches: list[Any] = []

    def augment(batch: Any, rows: Tensor, epoch: int) -> Any:
        batches.append(tuple(batch) if isinstance(batch, list) else copy.deepcopy(batch))
        after = data.parts.augment(batch, rows, epoch)  # type: ignore[misc]
        batches.append(tuple(after) if isinstance(after, list) else after)
        return batches[0]

    if data.parts.augment is None:
        return
    data.first_batch(2, augment=augment)
    before, after = batches
    if nest.form(before) != nest.form(after):
        message = f"Parts(augment=...) gives {nest.describe(after)} for {nest.describe(before)}"
        yield Problem("data", f"{message}; it must keep the form of the batch, and all samples.")


def check_members(task: Task) -> Problems:
    """A public method of a task that is nearly called as one of `Task` is misspelt."""
    if isinstance(task, StandardTask):
        return
    known = [name for name in {**vars(Task), **Task.__annotations__} if name[0] != "_"]
    for kind in type(task).__mro__[: type(task).__mro__.index(Task)]:
        for name in (name for name in vars(kind) if name[0] != "_" and name not in known):
            close = difflib.get_close_matches(name, known, 1, cutoff=0.85)
            if close and close[0] not in vars(kind):
                message = f"{kind.__name__}.{name} is no method of a task; did you mean {close[0]}?"
                yield Problem("data.task", message)


def check_streams(parts: Parts, config: Config) -> Problems:
    """Yields settings that need more of a data set than a stream, which is read in order, gives."""
    data, task = config["data"], create_task(config["data"]["task"])
    world_size = count_processes(config["trainer"])
    uncounted = []
    for part in ("train", "val", "test"):
        dataset = getattr(parts, part)
        if task.has_queries and not isinstance(dataset, TensorDataset | None):
            message = f"the {part} part must be a TensorDataset, to keep queries whole; return one."
            yield Problem("data", message)
        if isinstance(dataset, Stream) and dataset.counts is None:
            uncounted.append(part)
    if uncounted and world_size > 1:
        message = f"the number of {join_and(uncounted)} samples is not known; state it"
        message += ", Stream(counts=...), or set trainer.devices=1."
        yield Problem("trainer.devices", message, config["trainer"]["devices"])
    if not isinstance(parts.train, IterableDataset):
        return
    stream = "and the training part is a stream"
    if data["batch_size"] == "full":
        message = f"needs all samples at once, {stream}; set a number."
        yield Problem("data.batch_size", message, "full")
    if data["balance"]:
        message = f"draws from all samples, {stream}; set data.balance=false."
        yield Problem("data.balance", message, True)
    if data["shuffle"] and not isinstance(parts.train, Stream):
        kind = type(parts.train).__name__
        message = f"a {kind} has its own order; set data.shuffle=false, or return a quartet.Stream."
        yield Problem("data.shuffle", message, True)
    target = config["loss"]["_target_"]
    if target and hasattr(allow.locate(target), "fit"):
        yield Problem("loss", f"{target} reads all training targets, {stream}; use another loss.")


def find_one_sided(part: str, data: DataModule, config: Config) -> tuple[list[str], bool]:
    """The classes or labels of a part that have no AUROC, as far as it is known; whether all have none."""
    task = create_task(data.task, config["num_outputs"])
    dataset, names = getattr(data.parts, part), task.names(data.metadata())
    if not isinstance(task, StandardTask) or not (tensors := known_targets(dataset)):
        return [], False
    found = task.one_sided(tensors[0], names)
    return found, len(found) == len(names)


def list_cautions(data: DataModule, config: Config) -> Iterator[str]:
    """Yields what a user should know of data that is there, though it can be trained on."""
    yield from data.parts.notes
    for part in ("val", "test") if "auroc" in config["metrics"] else ():
        names, every = find_one_sided(part, data, config["data"])
        rest = "it has no auroc" if every else "auroc is the mean over the others"
        if names:
            yield f"the {part} part has all or nothing of {shorten(names)}; {rest}"


def check_part(part: str, dataset: Dataset[Any], parts: Parts, config: Config) -> Problems:
    """Checks shapes first, then the range of targets, then all that needs both to be right."""
    task = create_task(config["task"], config["num_outputs"])
    yield from task.problems(part, dataset) or ()
    if not isinstance(task, StandardTask):
        if part == "train":
            yield from check_preparation(dataset, config, task)
        return
    tensors: Sequence[Tensor] = ()
    if isinstance(dataset, TensorDataset):
        tensors = dataset.tensors
    first = tensors or default_collate([first_sample(dataset)])
    wrong = list(check_shapes(part, first, config, task))
    if not wrong and not tensors and hasattr(dataset, "targets"):
        targets = torch.as_tensor(dataset.targets)  # known without opening a file
        if targets.shape[1:] == task.target_shape():
            tensors = torch.empty(0), targets
    if tensors and not wrong:
        wrong = list(task.value_problems(part, tensors[1]))
    yield from wrong
    if wrong or not tensors:
        return
    yield from check_finite(part, "inputs", tensors[0], parts.feature_names)
    yield from check_finite(part, "targets", tensors[1], None)
    names = task.names({"class_names": parts.class_names, "num_outputs": task.num_outputs})
    yield from task.part_problems(part, tensors[1:], names)


def check_preparation(dataset: Any, config: Config, task: Task) -> Problems:
    """What the engine does to inputs must be known of them, and leave no masks or boxes behind."""
    inputs, targets, _ = task.split(first_sample(dataset))
    shape, stated = list(getattr(inputs, "shape", ())), config["input_shape"]
    if isinstance(inputs, Tensor) and stated is not None and shape != list(stated):
        message = f"the train inputs have shape {shape}; null reads it off the data."
        yield Problem("data.input_shape", message, stated)
    if not isinstance(inputs, Tensor) and config["mean"] is not None:
        kind = type(inputs).__name__
        message = f"is for images, and the inputs are a {kind}; null leaves them as they are."
        yield Problem("data.mean", message, config["mean"])
    key = "flip" if config["flip"] else "crop"
    images = isinstance(inputs, Tensor) and inputs.ndim == 3
    if config[key] and not (images and all(tensor.ndim < 2 for tensor in leaves(targets))):
        off = f"data.{key}={'false' if key == 'flip' else '0'}"
        message = f"moves images, and nothing of their targets; set {off}, and change both together"
        yield Problem(f"data.{key}", f"{message}, in Parts(augment=...).", config[key])


def check_shapes(
    part: str, tensors: Sequence[Tensor], config: Config, task: StandardTask
) -> Problems:
    """Checks that inputs and targets have the shape and type that model and loss will meet."""
    inputs, targets, *others = tensors
    if len(others) != len(task.extras):
        given = f"a sample of the {part} part has {len(tensors)} items, and a {task.name} task"
        taken = join_and(["inputs", "targets", *task.extras])
        yield Problem("data", f"{given} takes {taken}; name others in your own task's extras.")
        return
    if (shape := list(inputs.shape[1:])) != list(config["input_shape"]):
        message = f"the {part} inputs have shape {shape}; null reads it off the data."
        yield Problem("data.input_shape", message, config["input_shape"])
        return
    shape = [len(inputs), *task.target_shape()]
    if list(targets.shape) != shape or targets.dtype != task.target_dtype:
        message = f"the {part} targets are {targets.dtype} of shape {list(targets.shape)}"
        taken = f"{task.target_dtype} of shape {shape}"
        yield Problem("data", f"{message}; a {task.name} task takes {taken}.")


def check_finite(part: str, what: str, values: Tensor, names: Sequence[str] | None) -> Problems:
    if not values.is_floating_point() or math.isfinite(values.sum()) or values.isfinite().all():
        return
    wrong = (~values.isfinite()).flatten(1).sum(0)
    columns = [names[i] if names else str(i) for i in wrong.nonzero().flatten().tolist()]
    message = f"{int(wrong.sum())} {part} {what} are NaN or infinite, in column {shorten(columns)}"
    yield Problem("data", f"{message}; correct or remove these rows.")


def check_contents(data: DataModule, config: Config) -> list[Problem]:
    """The problems of data that can be read, or the reason why they cannot."""
    with collect_problems([], "data", config["data"]) as problems:
        problems += check_members(create_task(data.task))
        problems += find_problems(data, config)
        problems += check_augmentation(data)
        problems += check_streams(data.parts, config)
    return problems


def list_unchecked(data: DataModule) -> Iterator[str]:
    """Yields what is not checked of the data, and why."""
    task = create_task(data.task)
    if not data.loaded:
        yield "data: it is not there yet; its values are checked before the first batch"
    elif not isinstance(task, StandardTask):
        if type(task).problems is Task.problems:
            yield f"data: its values, since the task {task.name} has no method problems"
        if type(task).figures is Task.figures:
            yield f"pictures: there are none, since the task {task.name} has no method figures"
        if type(task).prediction_columns is Task.prediction_columns:
            yield "predict.py: it writes tensors, since the task has no method prediction_columns"
    elif not isinstance(data.parts.train, TensorDataset):
        what = "inputs and targets" if isinstance(data.parts.train, IterableDataset) else "inputs"
        yield f"data: the values of {what}, which are read as the training goes"


def check_identity(run: Any, prepared: Config, directory: str) -> None:
    """Raises ConfigError if data, or its division, is not that with which a run began."""
    before, now = prepared.get("identity"), getattr(run.data, "identity", None)
    if before and before != now:
        message = f"{join_and(run.data.paths)} has changed since this training began; restore it"
        message += ", or start a run of its own without resume; python evaluate.py run=DIR scores"
        raise ConfigError(Problem("resume", f"{message} what this one has learnt.", directory))


def load_data(run: Any) -> None:
    """Reads the data, downloading it if need be, and checks it.

    Raises:
        quartet.core.problems.ConfigError: it cannot be read, or cannot be trained on.
    """
    if isinstance(run.data, DataModule) and not run.data.loaded:
        refuse(check_contents(run.data, run.config))
