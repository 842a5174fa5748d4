"""Random flips and crops of whole batches of images, on their device."""

import torch
from torch import Tensor
from torch.nn.functional import pad


def draw(index: Tensor, *, seed: int, epoch: int, stream: int) -> Tensor:
    """Random whole numbers from 0 to 2**31 - 1, one for each sample.

    A function of its arguments alone, so that a sample is changed in the same way whatever batch,
    process or device it is in, and after a resume. SplitMix64: Steele et al., "Fast Splittable
    Pseudorandom Number Generators", 2014.

    Args:
        index: Numbers of the samples in the training set, int64 ``(batch,)``.
        seed: Of the run.
        epoch: From 0.
        stream: Which of several draws for a sample.
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
    """Mirrors about half of the images ``(batch, channels, height, width)`` left to right."""
    mirrored = draw(index, seed=seed, epoch=epoch, stream=0) & 1
    return torch.where(mirrored.bool().view(-1, 1, 1, 1), images.flip(-1), images)


def crop(images: Tensor, index: Tensor, *, padding: int, seed: int, epoch: int) -> Tensor:
    """Shifts each image by up to `padding` pixels in both directions, zeros coming in.

    Args:
        images: ``(batch, channels, height, width)``.
        index: Numbers of the samples in the training set.
        padding: Pixels.
        seed: Of the run.
        epoch: From 0.
    """
    batch, _, height, width = images.shape
    span = 2 * padding + 1
    top, left = (draw(index, seed=seed, epoch=epoch, stream=s) % span for s in (1, 2))
    rows = (top[:, None] + torch.arange(height, device=images.device))[:, :, None]
    columns = (left[:, None] + torch.arange(width, device=images.device))[:, None, :]
    samples = torch.arange(batch, device=images.device)[:, None, None]
    # Indexing around the slice puts the channels last.
    return pad(images, [padding] * 4)[samples, :, rows, columns].movedim(-1, 1).contiguous()


def images(
    batch: Tensor, index: Tensor, epoch: int, *, mirror: bool, shift: int, seed: int
) -> Tensor:
    """Images as an epoch shows them: mirrored if `mirror`, shifted by up to `shift` pixels."""
    if shift:
        batch = crop(batch, index, padding=shift, seed=seed, epoch=epoch)
    return flip(batch, index, seed=seed, epoch=epoch) if mirror else batch
