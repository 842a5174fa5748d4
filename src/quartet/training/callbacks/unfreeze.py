"""Gradual unfreezing: trains parameters only from a later epoch on."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn

from quartet.core.problems import Context, Problem, collect_problems
from quartet.training.parameters import find_frozen_modules, match_names


class Unfreeze(Callback):
    """Freezes parameters until their epoch, and modules until the first epoch of a parameter of theirs.

    The optimizer has them from the start, with the learning rate of their group. (Lightning's
    BaseFinetuning adds parameter groups later, which a scheduler ignores.) A module is in evaluation
    mode while it is frozen as a whole. Howard and Ruder, "Universal Language Model Fine-tuning for
    Text Classification", 2018, section 3.3.

    Args:
        epochs: Epoch, counted from 1, -> list of shell patterns; parameters with matching names are
            trained from that epoch on. The latest epoch counts if several match a parameter.

    Raises:
        ValueError: there is no epoch, or an epoch is not an integer of at least 2.
    """

    def __init__(self, *, epochs: Mapping[int, Any] | None) -> None:
        if not epochs:
            raise ValueError(
                "epochs must be a mapping from epochs to patterns, such as {3: [layers.0.*]}; "
                "callbacks=default trains all parameters from the first epoch."
            )
        for epoch, patterns in epochs.items():
            if not isinstance(epoch, int) or epoch < 2:
                raise ValueError(
                    f"epochs must be whole numbers from 2, got {epoch!r}; all other parameters are "
                    "trained from epoch 1."
                )
            if isinstance(patterns, str):
                raise ValueError(
                    f"epochs[{epoch}] must be a list of patterns, got {patterns!r}; write "
                    f"[{patterns}]."
                )
        self.epochs = dict(sorted(epochs.items()))
        self.first_epochs: dict[nn.Parameter, int] = {}
        self.frozen: list[nn.Module] = []

    def find_first_epochs(self, model: nn.Module) -> dict[nn.Parameter, int]:
        """Returns the first epoch, from 1, of each parameter that is frozen at first.

        Raises:
            ValueError: a pattern matches no trainable parameter, or all of them are frozen at first.
        """
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        first_epochs = {
            trainable[name]: epoch
            for epoch, patterns in self.epochs.items()
            for pattern in patterns
            for name in match_names(f"epochs[{epoch}]", pattern, trainable)
        }
        if len(first_epochs) == len(trainable):
            raise ValueError(
                "epochs must leave a parameter to train in epoch 1, and freeze all of them; drop a "
                "pattern."
            )
        return first_epochs

    def problems(self, context: Context) -> Iterator[Problem]:
        """Yields problems of patterns without a match, or of several processes."""
        found: list[Problem] = []
        with collect_problems(found, "callbacks.unfreeze", ["epochs"]):
            self.find_first_epochs(context.model)
        yield from found
        if context.trainer.world_size > 1:
            yield Problem(
                "callbacks.unfreeze",
                "several processes agree on what is trained before they begin; set "
                "trainer.devices=1, or optimizer.freeze for the whole training.",
            )

    def freeze(self, model: Any, epoch: float) -> None:
        """Freezes the parameters whose first epoch is later, and unfreezes the others."""
        for parameter, first in self.first_epochs.items():
            parameter.requires_grad_(epoch >= first)
        for module in self.frozen:
            module.training = True
        # Others are in evaluation mode for another reason, and stay so.
        modules = find_frozen_modules(model, self.first_epochs)
        self.frozen = [module for module in modules if module.training]
        for module in self.frozen:
            module.training = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.first_epochs = self.find_first_epochs(pl_module.model)  # type: ignore[arg-type]
        # A resumed training may not begin an epoch.
        self.freeze(pl_module.model, trainer.current_epoch + 1)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.freeze(pl_module.model, trainer.current_epoch + 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.freeze(pl_module.model, math.inf)
