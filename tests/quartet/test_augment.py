"""Random flips and crops: per sample, reproducible, and what they say."""

import torch

from quartet.data.augment import crop, draw, flip

IMAGES = torch.arange(64 * 2 * 5 * 4, dtype=torch.float32).view(64, 2, 5, 4)
INDEX = torch.arange(64)


def test_draw_depends_on_sample_seed_epoch_and_stream_but_not_on_the_batch():
    first = draw(INDEX, seed=0, epoch=0, stream=0)
    assert torch.equal(first[10:20], draw(INDEX[10:20], seed=0, epoch=0, stream=0))
    for other in ({"seed": 1}, {"epoch": 1}, {"stream": 1}):
        assert not torch.equal(first, draw(INDEX, **{"seed": 0, "epoch": 0, "stream": 0, **other}))


def test_draw_is_even_over_its_range():
    numbers = draw(torch.arange(100_000), seed=3, epoch=5, stream=1)
    assert (numbers >= 0).all()
    counts = torch.bincount(numbers % 10, minlength=10)
    assert (counts - 10_000).abs().max() < 400  # four standard deviations
    assert abs((numbers.double() / 2**31).mean() - 0.5) < 0.01


def test_flip_mirrors_about_half_of_the_images_and_leaves_the_rest():
    flipped = flip(IMAGES, INDEX, seed=0, epoch=0)
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(flipped, IMAGES, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(flipped, IMAGES, strict=True)]
    assert all(m != s for m, s in zip(mirrored, same, strict=True))
    assert 20 < sum(mirrored) < 44


def test_crop_shifts_each_image_by_its_own_offset_within_the_padding():
    cropped = crop(IMAGES, INDEX, padding=1, seed=0, epoch=0)
    padded = torch.nn.functional.pad(IMAGES, [1] * 4)
    seen = set()
    for image, source in zip(cropped, padded, strict=True):
        offsets = [
            (i, j)
            for i in range(3)
            for j in range(3)
            if torch.equal(image, source[:, i : i + 5, j : j + 4])
        ]
        assert offsets
        seen.update(offsets)
    assert len(seen) == 9


def test_crop_keeps_bytes_as_bytes():
    assert crop(IMAGES.byte(), INDEX, padding=2, seed=0, epoch=0).dtype == torch.uint8
