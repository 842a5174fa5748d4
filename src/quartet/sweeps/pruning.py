"""Hopeless trials of a search end early: a job's process asks the search's storage."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

if TYPE_CHECKING:
    from quartet.build import Run


def of(run: "Run") -> "list[Pruning]":
    """The callback for a run that is a trial whose search prunes; else none."""
    path = run.directory / "trial.json"
    told = json.loads(path.read_text()) if path.exists() else {}
    if told.get("pruner", "none") == "none" or not run.config["monitor"]["metric"]:
        return []
    return [Pruning(run.directory, told, run.config["monitor"]["metric"])]


class Pruning(Checkpoint):
    """Reports the monitored value after each epoch, and ends the training if it is hopeless.

    A checkpoint only by name: Lightning calls those last, when training metrics are there as well.

    Args:
        directory: Of the run.
        told: Its trial.json.
        metric: That is monitored.

    Attributes:
        epoch: After which the training was ended, counted from 1; None if it was not.
    """

    def __init__(self, directory: Path, told: dict[str, Any], metric: str) -> None:
        self.directory, self.told, self.metric = directory, told, metric
        self.epoch: int | None = None
        self.trial: Any = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch, hopeless = trainer.current_epoch + 1, False
        value = trainer.callback_metrics.get(self.metric)
        if trainer.is_global_zero and value is not None:
            self.trial = self.trial or self.load(trainer.max_epochs)
            self.trial.report(float(value), epoch)
            hopeless = epoch != trainer.max_epochs and self.trial.should_prune()
        if trainer.strategy.reduce_boolean_decision(hopeless, all=False):
            trainer.should_stop = True
            self.epoch = epoch

    def load(self, max_epochs: int | None) -> Any:
        import optuna

        from quartet.sweeps.study import make_pruner, make_storage

        study = optuna.load_study(
            study_name=self.told["study"],
            storage=make_storage(self.told["storage"], self.directory.parent),
            sampler=optuna.samplers.RandomSampler(),  # its values are drawn
            pruner=make_pruner(self.told["pruner"], self.told["warmup_epochs"], max_epochs),
        )
        return optuna.Trial(study, self.told["id"])
