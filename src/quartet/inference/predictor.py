"""The model of a run with the weights of a checkpoint, ready to predict."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning import Trainer
from torch import Tensor, nn

from quartet.checkpoints import storage
from quartet.core.problems import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass(frozen=True)
class Predictor:
    """A model that has learnt.

    Attributes:
        model: Maps inputs to raw outputs.
        task: Maps raw outputs to predictions.
        trainer: Of the run; knows the device and the precision.
        facts: Of the data, `quartet.data.datamodule.DataModule.told`, and ``config``, the data group.
    """

    model: nn.Module
    task: nn.Module
    trainer: Trainer
    facts: Mapping[str, Any]

    @property
    def device(self) -> torch.device:
        return self.trainer.strategy.root_device

    @property
    def names(self) -> list[str]:
        """Of the classes, labels or values."""
        told = self.facts
        count = told["num_outputs"] if told["task"] != "binary" else 2
        targets = (told["encoding"] or {}).get("targets") if told["task"] == "regression" else None
        return list(told["class_names"] or targets or map(str, range(count)))

    @torch.inference_mode()
    def __call__(self, inputs: Tensor) -> Tensor:
        """Predictions of inputs as the model takes them, in the precision of the training."""
        plugin = self.trainer.precision_plugin
        inputs = plugin.convert_input(inputs.to(self.device))
        with plugin.forward_context():
            outputs = self.model(inputs)
        predictions: Tensor = self.task(outputs)
        return predictions


def from_run(run: Any, checkpoint: str) -> Predictor:
    """A run that was built with its data."""
    found = storage.load(checkpoint)
    facts = run.data.told() | found.get("data", {}) | {"config": run.config["data"]}
    return load_weights(
        Predictor(run.module.model, run.module.task, run.trainer, facts), found, checkpoint
    )


def from_checkpoint(cfg: "DictConfig", directory: Path, checkpoint: str) -> Predictor:
    """A run without its data, which may be gone: the checkpoint tells what it was.

    Raises:
        Refusal: the checkpoint cannot be used, or does not fit the configuration.
    """
    from quartet.build import rebuild
    from quartet.config.groups import to_container

    found = storage.load(checkpoint)
    told = found.get("data")
    if not isinstance(told, dict):
        raise ConfigError(
            [
                f"checkpoint: {checkpoint} tells nothing of the data that it was trained on; train "
                "the run again, or go on with it, resume=DIR trainer.max_epochs=N."
            ]
        )
    model, task, trainer = rebuild(cfg, told, directory)
    facts = told | {"config": to_container(cfg)["data"]}
    return load_weights(Predictor(model, task, trainer, facts), found, checkpoint)


def load_weights(trained: Predictor, found: Mapping[str, Any], checkpoint: str) -> Predictor:
    """With the weights of a checkpoint, on its device.

    Raises:
        Refusal: they do not fit.
    """
    plugin = trained.trainer.precision_plugin
    for name, part in (("model", trained.model), ("task", trained.task)):
        weights = {
            key.removeprefix(f"{name}."): value
            for key, value in found["state_dict"].items()
            if key.startswith(f"{name}.")
        }
        try:
            part.load_state_dict(weights)
        except RuntimeError as error:
            fault = " ".join(str(error).split())
            raise ConfigError([f"checkpoint: {checkpoint} does not fit the run: {fault}"]) from None
        part.to(trained.device).eval()
    plugin.convert_module(trained.model)
    return trained
