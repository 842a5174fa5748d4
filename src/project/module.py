"""The LightningModule of this project: its steps, its optimizer and its scheduler."""

from typing import Any

import quartet


class Module(quartet.Module):
    """A model with the chosen task, loss, optimizer, scheduler and metrics.

    This is plain Lightning: change a step, add hooks, or override anything else. `quartet.Module`
    holds the chosen parts as ``model``, ``task`` and ``loss``, logs what `record` is given, and
    makes the optimizer and the scheduler.

    Logged once an epoch for each of train, val and test: the loss (its mean over the samples) and the
    metrics, over all samples and all processes; also ``lr``, the learning rate at the start of the epoch
    (that of the first parameter group).
    """

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        inputs, targets, extras = self.task.split(batch)
        # With data.mixup or data.cutmix the loss takes mixed targets; the metrics take the target of
        # the sample with the larger weight.
        inputs, mixed_targets, targets = self.mix(inputs, targets, batch_idx)
        outputs = self.model(inputs)
        loss = self.compute_loss(outputs, mixed_targets, extras)
        self.record("train", loss, outputs, targets, extras)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return self.evaluate("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        return self.evaluate("test", batch)

    def evaluate(self, stage: str, batch: Any) -> Any:
        """Records the loss and the metrics of a batch; returns its raw outputs, which callbacks get."""
        if (
            isinstance(batch, list) and not batch
        ):  # one of several processes may have no share of the last batch
            return None
        inputs, targets, extras = self.task.split(batch)
        outputs = self.model(inputs)
        loss = self.compute_loss(outputs, targets, extras)
        self.record(stage, loss, outputs, targets, extras)
        return outputs

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer()
        # The second is Lightning's list of scheduler dictionaries: the schedule and, if chosen, its
        # warm-up.
        return [optimizer], self.make_scheduler(optimizer)
