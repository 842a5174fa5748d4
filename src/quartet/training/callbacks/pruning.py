"""Pruning: stops unpromising trials of an Optuna search early. Imports Optuna where it is used."""

import json
import os
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from quartet.records.sweep import SEARCH, make_pruner, make_storage


def make_pruning_callbacks(directory: Path, metric: str | None) -> "list[Pruning]":
    """Makes the pruning callback if a run is a trial of a search with a pruner; else no callback.

    Args:
        directory: The run directory; a trial has a ``trial.json`` there.
        metric: Name of the monitored metric.
    """
    path = directory / "trial.json"
    # A trial.json may be left from another search.
    ours = os.environ.get(SEARCH) == str(directory.parent.resolve())
    trial = json.loads(path.read_text()) if ours and path.exists() else {}
    if trial.get("pruner", "none") == "none" or not metric:
        return []
    return [Pruning(directory, trial, metric)]


class Pruning(Checkpoint):
    """Reports the monitored metric after each epoch, and stops the training if Optuna prunes the trial.

    It is a Checkpoint because Lightning calls these last, when the training metrics are known.

    Args:
        directory: The run directory.
        trial: The content of its trial.json.
        metric: Name of the monitored metric.

    Attributes:
        epoch: The epoch, counted from 1, after which the trial was pruned; None if it was not.
    """

    def __init__(self, directory: Path, trial: dict[str, Any], metric: str) -> None:
        self.directory, self.trial, self.metric = directory, trial, metric
        self.epoch: int | None = None
        self.loaded: Any = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch, prune = trainer.current_epoch + 1, False
        value = trainer.callback_metrics.get(self.metric)
        if trainer.is_global_zero and value is not None:
            self.loaded = self.loaded or self.load_trial(trainer.max_epochs)
            self.loaded.report(float(value), epoch)
            prune = epoch != trainer.max_epochs and self.loaded.should_prune()
        if trainer.strategy.reduce_boolean_decision(prune, all=False):
            trainer.should_stop = True
            self.epoch = epoch

    def load_trial(self, max_epochs: int | None) -> Any:
        """Loads the trial from the search's storage."""
        import optuna

        study = optuna.load_study(
            study_name=self.trial["study"],
            storage=make_storage(self.trial["storage"], self.directory.parent),
            sampler=optuna.samplers.RandomSampler(),  # never used: the trial has its values
            pruner=make_pruner(self.trial["pruner"], self.trial["warmup_epochs"], max_epochs),
        )
        return optuna.Trial(study, self.trial["id"])
