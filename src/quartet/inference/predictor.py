"""A trained run, built again: with its data, or its model alone, ready to predict."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor, nn

from quartet.build import Run, build, rebuild, rebuild_model, recorded_config
from quartet.checkpoints import storage
from quartet.compat import quieten
from quartet.config.configuration import DictConfig, replace_values, to_container
from quartet.config.instantiate import POLICY_KEYS
from quartet.config.records import changed_settings, check_division, read_record
from quartet.core.messages import format_value, shorten
from quartet.core.problems import ConfigError, Problem, as_problems, collect_problems, refuse
from quartet.data import nest
from quartet.data.loader import seeded
from quartet.data.split import count_trained
from quartet.data.task import Task
from quartet.records.run_directory import checkpoint_path, list_configs
from quartet.validation.data import check_part, load_data

log = logging.getLogger(__name__)

# Metadata of the data that a predictor needs.
METADATA = {
    *("task", "input_shape", "num_classes", "num_outputs"),
    *("class_names", "feature_names", "encoding"),
}


@dataclass(frozen=True)
class Predictor:
    """A trained model.

    Attributes:
        model: Maps inputs to raw outputs.
        task: Maps raw outputs to predictions.
        trainer: Trainer of the run; knows the device and the precision.
        metadata: `quartet.data.datamodule.DataModule.metadata`, and ``config``, the data group.
    """

    model: nn.Module
    task: Task
    trainer: Trainer
    metadata: Mapping[str, Any]

    @property
    def device(self) -> torch.device:
        return self.trainer.strategy.root_device

    @property
    def names(self) -> list[str]:
        """Names of the classes, labels or values."""
        return self.task.names(self.metadata)

    def to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device)

    @torch.inference_mode()
    def __call__(self, inputs: Any) -> Any:
        """Predictions of the inputs, in the precision of the training."""
        plugin = self.trainer.precision_plugin
        inputs = plugin.convert_input(nest.map_tensors(self.to_device, inputs))
        with plugin.forward_context():
            outputs = self.model(inputs)
        return self.task(outputs)


class FrozenModel(nn.Module):
    """A trained model within another module: it is not trained, averaged, or saved in checkpoints.

    It stays in evaluation mode, and moves to the device of the module that has it. A gradient passes
    through it to its inputs.

    Args:
        model: The model; is frozen.
    """

    model: Any
    place: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # Not a submodule: its weights are those of another run, which has a checkpoint of them.
        self.__dict__["model"] = model.requires_grad_(False).eval()
        self.register_buffer("place", torch.zeros(1), persistent=False)
        self.device, self.dtype = self.place.device, self.place.dtype

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.place.device != self.device:
            self.device = self.place.device
            self.model.to(self.device)
        if self.place.dtype != self.dtype:
            self.dtype = self.place.dtype
            self.model.to(self.dtype)
        return self.model(*args, **kwargs)


def load_model(run: str | Path, checkpoint: str = "best") -> FrozenModel:
    """Loads the trained model of a run, for use in a model, a loss or a module of another one.

    It is built from the record of the run, of classes that conf/allow.yaml permits; nothing is
    written, and no random number is drawn. What is tested of a run is what is loaded.

    Example::

        class Distillation(Module):
            def __init__(self, *, teacher, **parts):
                super().__init__(**parts)
                self.teacher = quartet.load_model(teacher)

    Args:
        run: Directory of the run.
        checkpoint: best, last, or the path or URL of a file.

    Raises:
        ValueError: there is no such run or checkpoint, or the model cannot be built.
    """
    directory = Path(run).expanduser()
    if not list_configs(directory):
        raise ValueError(f"{directory} holds no run: there is no .hydra/config.yaml.")
    try:
        cfg, _ = read_record(directory)
        path = find_checkpoint(directory, checkpoint)
        content = storage.load(path, entries={"state_dict": dict})
        metadata = metadata_of(content)
        if metadata is None:
            message = "its checkpoint does not describe the data, as that of a quartet.Module does."
            raise ConfigError(Problem("", message))
        with seeded(0):
            model = rebuild_model(recorded_config(cfg, metadata, directory))
        load_part("model", model, content, path)
    except (ConfigError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{directory}: no model can be loaded of this run: {reason}") from None
    return FrozenModel(model)


def from_run(run: Run, checkpoint: str) -> Predictor:
    """The predictor of a run that was built with its data."""
    content = storage.load(checkpoint)
    metadata = run.data.metadata() | (metadata_of(content) or {}) | {"config": run.config["data"]}
    task: Any = run.module.task
    predictor = Predictor(run.module.model, task, run.trainer, metadata)
    return load_weights(predictor, content, checkpoint)


def from_checkpoint(cfg: DictConfig, directory: Path, checkpoint: str) -> Predictor:
    """The predictor of a run without its data, which the checkpoint describes.

    Raises:
        ConfigError: the checkpoint cannot be used, or does not fit the configuration.
    """
    checkpoint = find_checkpoint(directory, checkpoint)
    content = storage.load(checkpoint)
    metadata = metadata_of(content)
    if not metadata or not metadata.keys() >= METADATA:
        message = f"{checkpoint} does not describe the data that it was trained on; "
        message += "train the run again, or continue it, resume=DIR trainer.max_epochs=N."
        raise ConfigError(Problem("checkpoint", message))
    model, task, trainer = rebuild(cfg, metadata, directory)
    metadata = metadata | {"config": to_container(cfg)["data"]}
    return load_weights(Predictor(model, task, trainer, metadata), content, checkpoint)


def metadata_of(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """The description of the data in a checkpoint; version 0.1 called it ``data``."""
    metadata = content.get("metadata", content.get("data"))
    return metadata if isinstance(metadata, dict) else None


def load_weights(predictor: Predictor, content: Mapping[str, Any], checkpoint: str) -> Predictor:
    """The predictor with the weights of a checkpoint, on its device.

    Raises:
        ConfigError: they do not fit.
    """
    for name, part in (("model", predictor.model), ("task", predictor.task)):
        load_part(name, part, content, checkpoint)
        part.to(predictor.device).eval()
    predictor.trainer.precision_plugin.convert_module(predictor.model)
    return predictor


def load_part(name: str, part: nn.Module, content: Mapping[str, Any], checkpoint: str) -> None:
    """Loads the weights of a part of a LightningModule, such as its model.

    Raises:
        ConfigError: they do not fit.
    """
    weights = {
        key.removeprefix(f"{name}."): value
        for key, value in content["state_dict"].items()
        if key.startswith(f"{name}.")
    }
    storage.load_state(part, weights, "checkpoint", checkpoint)


def find_checkpoint(directory: Path, checkpoint: str) -> str:
    """The path or URL of a run's checkpoint (best, last, a file or URL), once it could be loaded.

    Raises:
        ConfigError: it is missing or damaged.
    """
    path = checkpoint
    if checkpoint in ("best", "last"):
        path = str(checkpoint_path(directory, checkpoint))
    if "://" not in path and not Path(path).is_file():
        message = f"{path} is missing; name best, last or a file."
        raise ConfigError(Problem("checkpoint", message, checkpoint))
    with as_problems(f"checkpoint={checkpoint}"):
        storage.load(path, entries=storage.WEIGHTS)  # before the data, which may take long
    return path


def read_input(run: Run, source: Path, content: Mapping[str, Any]) -> None:
    """Makes the samples of a file the test part of a run that was built again.

    The content of the checkpoint describes the data of the training.

    Raises:
        ConfigError: the data reads no file, cannot read this one, or has changed since then.
    """
    parts = run.data.load() if run.is_known else None
    if parts is None or parts.read is None:
        message = "nothing tells how this data reads a file, which Parts(read=...) does; split=test"
        raise ConfigError(Problem("input", f"{message} is its own.", str(source)))
    mean = content["state_dict"].get("task.mean")
    scale = parts.target_scale
    is_scaled_alike = mean is None or scale is None or torch.equal(mean.cpu(), scale[0].float())
    before = metadata_of(content) or {}
    now = run.data.metadata()
    ignored = {"identity"} if run.data.is_prepared or "identity" not in before else set()
    is_alike = all(before.get(key) == now[key] for key in now.keys() - ignored)
    if not is_alike or not is_scaled_alike:
        message = "the run's own data has changed since the training, by which it would be prepared"
        raise ConfigError(Problem("input", f"{message}; restore it.", str(source)))
    with collect_problems([], "input") as problems:
        dataset = parts.read(source)
        problems += check_part("test", dataset, parts, run.config["data"])
    refuse(Problem("input", each.message, str(source)) for each in problems)
    run.data.parts = parts._replace(test=dataset)


def check_samples(
    run: Run, metadata: Mapping[str, Any], split: str, source: Path | None, is_elsewhere: bool
) -> None:
    """Says whether the samples to score are those of the training, or were trained on.

    `metadata` is that of the checkpoint; `source` a table that is scored whole, or None. Files that
    are elsewhere may only look like those of the training.

    Raises:
        ConfigError: a good part of the samples was trained on.
    """
    before, now = metadata.get("identity"), getattr(run.data, "identity", None)
    if not before or not now or (source is None and now["fingerprint"] == before["fingerprint"]):
        return
    changed = "the data or its division is not that of the training"
    if before["trained"] is None or now["trained"] is None:
        log.warning("Caution: %s; samples to score may have been trained on.", changed)
        return
    hashes = run.data.parts.hashes[split]
    count, size = count_trained(hashes, before["trained"]), len(hashes)
    told = f"{count:,} of the {size:,} samples to score were trained on"
    if source is None and split != "train" and count > size / 10 and not is_elsewhere:
        message = f"{told}, for {changed}; restore both, or score other samples, input=FILE."
        raise ConfigError(Problem("data.path", message, run.config["data"]["path"]))
    if source is None:
        log.warning("Caution: %s; it is prepared alike.", changed)
    if count:
        log.warning(f"Caution: {told}.")


def rebuild_run(
    cfg: DictConfig,
    directory: Path,
    split: str,
    checkpoint: str,
    splits: tuple[str, ...],
    source: Path | None = None,
) -> tuple[Run, str]:
    """A trained run, built again with its data, and the path or URL of one of its checkpoints.

    The data is prepared by the metadata of the checkpoint, if its source can. `split`, of `splits`,
    is the part that is wanted; the samples of `source`, if there is one, become the test part.

    Raises:
        ConfigError: there is no such split, checkpoint or file, or the data cannot be read.
    """
    quieten()
    with collect_problems([], "checkpoint") as problems:
        path = find_checkpoint(directory, checkpoint)
    if source is not None and not source.exists():
        message = f"{source} is missing; name a file or a folder."
        problems.append(Problem("input", message, str(source)))
    if split not in splits:
        problems.append(Problem("split", f"must be one of {', '.join(splits)}.", split))
    refuse(problems)
    content = storage.load(path)
    metadata = metadata_of(content) or {}
    known = metadata.get("class_names")
    changes: dict[str, Any] = {"callbacks": {}, "logger": {}}
    is_table = "scale" in (metadata.get("encoding") or {})
    if source is not None and is_table:
        changes["data.path"] = str(source)
        metadata |= {"whole": True}
    changed = {} if is_table else changed_settings(cfg, directory)  # rows of a table are recognised
    refuse(check_division(changed))
    run = build(replace_values(cfg, changes), directory, metadata)
    policy = {f"data.{key}" for key in POLICY_KEYS["data"]}
    own = {key for key in changed.keys() - policy if key.startswith("data.")}
    if own and "data.path" not in own:
        words = shorten(f"{key}={format_value(changed[key])}" for key in sorted(own))
        log.warning("Caution: which samples were trained on is not known with %s.", words)
    run.trainer.loggers = []  # metrics.csv is that of the training
    load_data(run)
    now = run.data.metadata()["class_names"] if run.is_known else known
    if known and now != known:
        message = f"the data has the classes {shorten(now or ())}, and the run was trained on {shorten(known)}."
        raise ConfigError(Problem("data", message))
    for note in run.data.parts.notes if is_table else ():
        log.warning("%s.", note)
    if source is not None and not is_table:
        read_input(run, source, content)
    else:
        is_elsewhere = "data.path" in changed
        check_samples(run, metadata, split if source is None else "test", source, is_elsewhere)
    if not run.has_part(split):
        raise ConfigError(Problem("split", "this data has no such part.", split))
    return run, path
