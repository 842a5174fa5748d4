"""Augmentation of whole batches on their device: flips, crops, mixup and CutMix."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms import v2


def draw(index: Tensor, *, seed: int, epoch: int, stream: int) -> Tensor:
    """Draws random integers from 0 to 2**31 - 1, one for each sample.

    They are a function of the arguments alone: a sample is changed in the same way in every batch,
    process and device, also after a resume. SplitMix64: Steele et al., "Fast Splittable
    Pseudorandom Number Generators", 2014.

    Args:
        index: Numbers of the samples in the training set, int64 ``(batch,)``.
        seed: Seed of the run.
        epoch: Number of the epoch, from 0.
        stream: Number of the draw, where a sample needs several.
    """
    for value in (seed, epoch, stream):
        index = _mix(index + value * 0x9E3779B9 + 0x7F4A7C15)
    return index & 0x7FFFFFFF


def _mix(x: Tensor) -> Tensor:
    # The constants of SplitMix64 as signed numbers; the masks make the shifts unsigned ones.
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def flip(images: Tensor, index: Tensor, *, seed: int, epoch: int) -> Tensor:
    """Mirrors half of the images on average, ``(batch, channels, height, width)``, left to right."""
    mirrored = draw(index, seed=seed, epoch=epoch, stream=0) & 1
    return torch.where(mirrored.bool().view(-1, 1, 1, 1), images.flip(-1), images)


def crop(images: Tensor, index: Tensor, *, padding: int, seed: int, epoch: int) -> Tensor:
    """Shifts each image by up to `padding` pixels in both directions, zeros coming in.

    Args:
        images: ``(batch, channels, height, width)``.
        index: Numbers of the samples in the training set.
        padding: Largest shift in pixels.
        seed: Seed of the run.
        epoch: Number of the epoch, from 0.
    """
    batch, _, height, width = images.shape
    span = 2 * padding + 1
    top, left = (draw(index, seed=seed, epoch=epoch, stream=s) % span for s in (1, 2))
    rows = (top[:, None] + torch.arange(height, device=images.device))[:, :, None]
    columns = (left[:, None] + torch.arange(width, device=images.device))[:, None, :]
    samples = torch.arange(batch, device=images.device)[:, None, None]
    # Indexing around the slice puts the channels last.
    return pad(images, [padding] * 4)[samples, :, rows, columns].movedim(-1, 1).contiguous()


def augment_images(
    batch: Tensor, index: Tensor, epoch: int, *, mirror: bool, shift: int, seed: int
) -> Tensor:
    """Returns the images of an epoch: mirrored if `mirror`, shifted by up to `shift` pixels."""
    if shift:
        batch = crop(batch, index, padding=shift, seed=seed, epoch=epoch)
    return flip(batch, index, seed=seed, epoch=epoch) if mirror else batch


class Mixing:
    """Mixes each sample of a batch with its neighbour, by torchvision's MixUp and CutMix.

    The random numbers of a batch are a function of the seed, the epoch, the batch and the process.

    Args:
        mixup: Alpha of the Beta distribution of the shares; 0 disables it. Zhang et al., "mixup: Beyond
            Empirical Risk Minimization", 2018.
        cutmix: Alpha for patches of images; with both, each batch draws one of them. Yun et al.,
            "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features",
            2019.
        num_outputs: Number of classes or labels.
        seed: Seed of the run.
    """

    def __init__(self, *, mixup: float, cutmix: float, num_outputs: int, seed: int) -> None:
        kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
        transforms = [kind(alpha=alpha, num_classes=num_outputs) for kind, alpha in kinds if alpha]
        self.mix = v2.RandomChoice(transforms) if len(transforms) > 1 else transforms[0]
        self.seed = seed

    def __call__(
        self, inputs: Tensor, targets: Tensor, *, epoch: int, batch: int, rank: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns mixed inputs, mixed targets, and the targets of the larger shares.

        Targets are class indices ``(batch,)`` or floats ``(batch, labels)``; mixed ones are floats
        ``(batch, num_outputs)``, those of the larger shares are as they were given.
        """
        words = np.random.SeedSequence((self.seed, epoch, batch, rank)).generate_state(1)
        # MixUp needs images: each feature becomes an image of one pixel.
        images = inputs if inputs.ndim == 4 else inputs.reshape(len(inputs), -1, 1, 1)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(words[0]))
            images, mixed = self.mix(images, targets)
        larger = mixed.argmax(1) if targets.ndim == 1 else mixed.round()
        return images.view_as(inputs), mixed.to(inputs.dtype), larger
