"""Points on a ring without labels, and a module that learns to generate such points."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

import quartet


class Points(quartet.Task):
    """Points ``(batch, 2)``; outputs are logits of whether they are real."""

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()

    def prediction_columns(self, predictions: Tensor, names: Any) -> dict[str, list[Any]]:
        return {"realness": predictions.flatten().tolist()}


def ring(*, count: int, noise: float) -> quartet.Parts:
    """Points near the unit circle; a fifth each is for validation and for the test."""
    random = torch.Generator().manual_seed(0)
    angles = 2 * math.pi * torch.rand(count, generator=random)
    points = torch.stack([angles.cos(), angles.sin()], 1)
    points += noise * torch.randn(count, 2, generator=random)
    rows = quartet.split(count, val_fraction=0.2, test_fraction=0.2, split_seed=0)
    return quartet.Parts(*(quartet.Tensors(points[torch.from_numpy(part)]) for part in rows))


class GANModule(quartet.Module):
    """Trains discriminator and generator in turn, each with its own optimizer."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        generator = self.make_optimizer(self.model.generator)
        discriminator = self.make_optimizer(self.model.discriminator, "discriminator_optimizer")
        return [generator, discriminator], [
            *self.make_scheduler(generator),
            *self.make_scheduler(discriminator, "discriminator_scheduler"),
        ]

    def training_step(self, points: Tensor, batch_idx: int) -> None:
        generator, discriminator = self.optimizers()
        made = self.model.generate(len(points))

        loss = (softplus(-self.model(points)) + softplus(self.model(made.detach()))).mean()
        discriminator.zero_grad()
        self.manual_backward(loss)
        discriminator.step()

        deception = softplus(-self.model(made)).mean()
        generator.zero_grad()
        self.manual_backward(deception)
        generator.step()
        losses = {"train/discriminator_loss": loss, "train/generator_loss": deception}
        self.log_dict(losses, on_step=False, on_epoch=True)

    def validation_step(self, points: Tensor, batch_idx: int) -> Tensor:
        return self.evaluate("val", points)

    def test_step(self, points: Tensor, batch_idx: int) -> Tensor:
        return self.evaluate("test", points)

    def evaluate(self, stage: str, points: Tensor) -> Tensor:
        """Logs the energy distance of generated and real points (Szekely and Rizzo, 2013)."""
        made = self.model.generate(len(points), seed=0)
        apart = [
            torch.cdist(a, b).mean() for a, b in ((points, made), (made, made), (points, points))
        ]
        self.log(f"{stage}/distance", 2 * apart[0] - apart[1] - apart[2])
        return self.model(points)

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        folder = Path(self.trainer.default_root_dir) / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            torch.save(self.model.generate(100, seed=0).cpu(), folder / f"{self.current_epoch}.pt")
