"""Distillation: a model that learns the outputs of a trained one (Hinton et al., 2015)."""

from typing import Any

from torch import Tensor
from torch.nn.functional import kl_div

import quartet
from project.module import Module


class Distillation(Module):
    """Adds the divergence from the teacher's probabilities to the loss of a classification.

    Args:
        teacher: Directory of the run that trained it.
        temperature: By which outputs are divided before their softmax.
        weight: Of the divergence.
    """

    def __init__(self, *, teacher: str, temperature: float, weight: float, **parts: Any) -> None:
        super().__init__(**parts)
        self.teacher = quartet.load_model(teacher)
        self.temperature, self.weight = temperature, weight

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, targets, extras = self.task.split(batch)
        outputs = self.model(inputs)
        hard_loss = self.compute_loss(outputs, targets, extras)
        soft_loss = self.diverge(outputs, self.teacher(inputs))
        loss: Tensor = hard_loss + self.weight * soft_loss
        losses = {"loss": loss, "hard_loss": hard_loss, "soft_loss": soft_loss}
        self.record("train", losses, outputs, targets, extras)
        return loss

    def diverge(self, outputs: Tensor, taught: Tensor) -> Tensor:
        """Mean divergence of the probabilities, times the squared temperature."""
        learnt = (outputs / self.temperature).log_softmax(1)
        taught = (taught / self.temperature).log_softmax(1)
        return self.temperature**2 * kl_div(learnt, taught, reduction="batchmean", log_target=True)
