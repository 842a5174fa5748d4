"""Gradual unfreezing: parameters that are trained from a later epoch on."""

from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn

from quartet.training.parameters import matching


class Unfreeze(Callback):
    """Holds parameters as they are until their epoch; gradients are not computed for them before.

    The optimizer and its schedule know them from the start, with the learning rate of their group.
    (Lightning's own finetuning adds groups as it goes, which a scheduler does not follow.) The
    running statistics of a held batch normalisation still follow the data. Howard and Ruder,
    "Universal Language Model Fine-tuning for Text Classification", 2018, section 3.3.

    Args:
        epochs: Epoch, counted from 1, -> list of shell patterns of the names of parameters that are trained
            from that epoch on. Of several that match a parameter, the latest epoch counts.

    Raises:
        ValueError: there is no epoch, or one is none after the first.
    """

    def __init__(self, *, epochs: Mapping[int, Any] | None) -> None:
        if not epochs:
            raise ValueError(
                "epochs must name what is trained from which epoch on, such as {3: [layers.0.*]}; "
                "callbacks=default trains everything from the first."
            )
        for epoch, patterns in epochs.items():
            if not isinstance(epoch, int) or epoch < 2:
                raise ValueError(
                    f"epochs must be whole numbers from 2, got {epoch!r}; everything that is not "
                    "named is trained from epoch 1."
                )
            if isinstance(patterns, str):
                raise ValueError(
                    f"epochs[{epoch}] must be a list of patterns, got {patterns!r}; write "
                    f"[{patterns}]."
                )
        self.epochs = dict(sorted(epochs.items()))
        self.begins: dict[nn.Parameter, int] = {}

    def beginnings(self, model: nn.Module) -> dict[nn.Parameter, int]:
        """The epoch, from 1, from which each parameter that is held at first is trained.

        Raises:
            ValueError: a pattern matches no trainable parameter, or all of them are held.
        """
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        begins = {
            trainable[name]: epoch
            for epoch, patterns in self.epochs.items()
            for pattern in patterns
            for name in matching(f"epochs[{epoch}]", pattern, trainable)
        }
        if len(begins) == len(trainable):
            raise ValueError(
                "epochs must leave a parameter to train in epoch 1, and hold all of them; drop a "
                "pattern."
            )
        return begins

    def hold(self, epoch: int) -> None:
        for parameter, begin in self.begins.items():
            parameter.requires_grad_(epoch >= begin)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.begins = self.beginnings(pl_module.model)  # type: ignore[arg-type]
        self.hold(trainer.current_epoch + 1)  # a training that goes on may not begin an epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.hold(trainer.current_epoch + 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for parameter in self.begins:
            parameter.requires_grad_(True)
