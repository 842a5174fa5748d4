"""Mixup and CutMix: training on mixtures of two samples and of their targets."""

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2


class Mixing:
    """Mixes each sample of a batch with its neighbour, by torchvision's MixUp and CutMix.

    What is drawn for a batch is a function of the seed, the epoch, the batch and the process alone.

    Args:
        mixup: Alpha of the Beta distribution of the shares; 0 for none. Zhang et al., "mixup: Beyond
            Empirical Risk Minimization", 2018.
        cutmix: The same for patches of images; with both, each batch draws one of them. Yun et al.,
            "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features",
            2019.
        num_outputs: Classes (or labels).
        seed: Of the run.
    """

    def __init__(self, *, mixup: float, cutmix: float, num_outputs: int, seed: int) -> None:
        kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        made = [kind(alpha=alpha, num_classes=num_outputs) for kind, alpha in kinds if alpha]
        self.mix = v2.RandomChoice(made) if len(made) > 1 else made[0]
        self.seed = seed

    def __call__(
        self, inputs: Tensor, targets: Tensor, *, epoch: int, batch: int, rank: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mixed inputs, mixed targets, and the targets of the larger shares.

        Targets are class indices ``(batch,)`` or floats ``(batch, labels)``; mixed ones are floats
        ``(batch, num_outputs)``, those of the larger shares are as they were given.
        """
        words = np.random.SeedSequence((self.seed, epoch, batch, rank)).generate_state(1)
        # As an image of one pixel a feature, which is what MixUp takes.
        images = inputs if inputs.ndim == 4 else inputs.reshape(len(inputs), -1, 1, 1)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(words[0]))
            images, mixed = self.mix(images, targets)
        larger = mixed.argmax(1) if targets.ndim == 1 else mixed.round()
        return images.view_as(inputs), mixed.to(inputs.dtype), larger
