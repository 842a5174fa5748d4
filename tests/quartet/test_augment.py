"""Flips and crops, Mixup and CutMix: what they make of a batch, and a plain loop with them."""

from typing import Any

import numpy as np
import pytest
import torch
from made import composed, refusals
from torch import Tensor, nn
from torchvision.transforms import v2
from training_by_hand import assert_equal_models

from quartet.build import build
from quartet.data.augment import Mixing, crop, draw, flip

pytestmark = pytest.mark.usefixtures("quiet")
SMALL = ("trainer=cpu", "trainer.max_epochs=2", "callbacks.progress_bar=null", "metrics=none")
PICTURES = torch.arange(64 * 2 * 5 * 4, dtype=torch.float32).view(64, 2, 5, 4)
INDEX = torch.arange(64)


def test_draw_depends_on_sample_seed_epoch_and_stream_but_not_on_the_batch() -> None:
    first = draw(INDEX, seed=0, epoch=0, stream=0)
    assert torch.equal(first[10:20], draw(INDEX[10:20], seed=0, epoch=0, stream=0))
    for other in ({"seed": 1}, {"epoch": 1}, {"stream": 1}):
        assert not torch.equal(first, draw(INDEX, **{"seed": 0, "epoch": 0, "stream": 0, **other}))


def test_draw_is_even_over_its_range() -> None:
    numbers = draw(torch.arange(100_000), seed=3, epoch=5, stream=1)
    assert (numbers >= 0).all()
    counts = torch.bincount(numbers % 10, minlength=10)
    assert (counts - 10_000).abs().max() < 400  # four standard deviations
    assert abs((numbers.double() / 2**31).mean() - 0.5) < 0.01


def test_flip_mirrors_about_half_of_the_images_and_leaves_the_rest() -> None:
    flipped = flip(PICTURES, INDEX, seed=0, epoch=0)
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(flipped, PICTURES, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(flipped, PICTURES, strict=True)]
    assert all(m != s for m, s in zip(mirrored, same, strict=True))
    assert 20 < sum(mirrored) < 44


def test_crop_shifts_each_image_by_its_own_offset_within_the_padding() -> None:
    cropped = crop(PICTURES, INDEX, padding=1, seed=0, epoch=0)
    padded = torch.nn.functional.pad(PICTURES, [1] * 4)
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


def test_crop_keeps_bytes_as_bytes() -> None:
    assert crop(PICTURES.byte(), INDEX, padding=2, seed=0, epoch=0).dtype == torch.uint8


# Mixtures


def by_hand(names: tuple[str, ...], transform: Any, loss: Any) -> nn.Module:
    """The model of a plain loop, with torchvision's transform on every batch."""
    run = build(composed(names))
    run.data.load()
    model, loader = run.module.model, run.data.train_dataloader()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(2):
        loader.batch_sampler.set_epoch(epoch)
        for number, (inputs, targets) in enumerate(loader):
            seed = np.random.SeedSequence((0, epoch, number, 0)).generate_state(1)[0]
            with torch.random.fork_rng():
                torch.manual_seed(int(seed))
                images = inputs if inputs.ndim == 4 else inputs[:, :, None, None]
                mixed, wanted = transform(images, targets)
            optimizer.zero_grad()
            loss(model(mixed.reshape(inputs.shape)), wanted).backward()
            optimizer.step()
    return model


CASES: dict[str, tuple[list[str], Any, Any]] = {
    "mixup": (
        ["data=digits", "data.mixup=0.2"],
        v2.MixUp(alpha=0.2, num_classes=10),
        nn.CrossEntropyLoss(),
    ),
    "cutmix, smoothed": (
        ["data=digits", "data.cutmix=1.0", "loss=label_smoothing", "model=cnn"],
        v2.CutMix(alpha=1.0, num_classes=10),
        nn.CrossEntropyLoss(label_smoothing=0.1),
    ),
    "both": (
        ["data=digits", "data.mixup=0.4", "data.cutmix=1.0"],
        v2.RandomChoice([v2.MixUp(alpha=0.4, num_classes=10), v2.CutMix(num_classes=10)]),
        nn.CrossEntropyLoss(),
    ),
    "mixup of a table": (
        ["data=wine", "data.mixup=1.0"],
        v2.MixUp(alpha=1.0, num_classes=3),
        nn.CrossEntropyLoss(),
    ),
    "mixup of two classes": (
        ["data=breast_cancer", "data.mixup=1.0"],
        v2.MixUp(alpha=1.0),
        nn.BCEWithLogitsLoss(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_training_on_mixtures_equals_the_plain_loop_bit_for_bit(case: str) -> None:
    overrides, transform, loss = CASES[case]
    names = (*SMALL, "optimizer=sgd", "optimizer.lr=0.1", *overrides)
    expected = by_hand(names, transform, loss)
    run = build(composed(names))
    run.trainer.fit(run.module, run.data)
    assert_equal_models(run.module.model, expected)


IMAGES = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 2, 8, 8).contiguous()
CLASSES = torch.tensor([0, 1, 2, 2, 1, 0])


def test_mixup_draws_again_for_every_batch_and_epoch_and_leaves_the_random_numbers_alone() -> None:
    mix = Mixing(mixup=1.0, cutmix=0.0, num_outputs=3, seed=0)
    before = torch.get_rng_state()

    def share(**place: int) -> float:
        inputs, targets, _ = mix(IMAGES, CLASSES, **{"epoch": 0, "batch": 0, "rank": 0, **place})
        lam = float(targets[2, 2])  # the neighbour before is of class 1
        torch.testing.assert_close(inputs[2], (2 * lam + 1 * (1 - lam)) * torch.ones(2, 8, 8))
        return lam

    shares = [share(), share(epoch=1), share(batch=1), share(rank=1)]
    assert len(set(shares)) == 4
    assert share() == shares[0]
    assert torch.equal(torch.get_rng_state(), before)


def test_cutmix_shares_are_those_of_the_pixels() -> None:
    mix = Mixing(mixup=0.0, cutmix=1.0, num_outputs=3, seed=0)
    for batch in range(10):
        inputs, targets, larger = mix(IMAGES, CLASSES, epoch=0, batch=batch, rank=0)
        kept = (inputs[2] == 2).float().mean()
        torch.testing.assert_close(targets[2], torch.stack([0 * kept, 1 - kept, kept]))
        assert larger[2] == (2 if kept > 0.5 else 1)


@pytest.mark.parametrize("task", ["indices", "labels"])
def test_metrics_compare_with_the_target_of_the_larger_share(task: str) -> None:
    mix = Mixing(mixup=1.0, cutmix=0.0, num_outputs=3, seed=0)
    targets = CLASSES if task == "indices" else nn.functional.one_hot(CLASSES, 3).float()
    neighbours = targets.roll(1, 0)
    for batch in range(10):
        _, mixed, larger = mix(IMAGES, targets, epoch=0, batch=batch, rank=0)
        own = mixed[2, 2] > 0.5
        assert torch.equal(larger, targets if own else neighbours)
        assert larger.dtype == targets.dtype


def test_evaluation_mixes_nothing() -> None:
    plain, mixed = (
        build(composed([*SMALL, *more])) for more in ([], ["data.mixup=0.2", "data.cutmix=1.0"])
    )
    values: list[dict[str, Tensor]] = []
    for run in (plain, mixed):
        run.trainer.test(run.module, run.data, verbose=False)
        values.append(dict(run.trainer.callback_metrics))
    assert values[0] == values[1]


test_mixtures_that_cannot_be_are_refused = refusals(
    ("data.mixup=-1", r"^data.mixup=-1: must be at least 0; 0 does not mix\.$"),
    ("data=diabetes data.mixup=1", r"mixes classes, and the task is regression; set data.mixup=0"),
    ("data=wine data.cutmix=1", r"inputs have shape \[13\]; set data.cutmix=0, data.mixup mixes"),
    ("loss=nll data.mixup=1", r"NLLLoss has no value .*; use loss=cross_entropy or label_smoo"),
    ("loss=focal data.cutmix=1", r"^data.cutmix=1: FocalLoss has no .*set data.cutmix=0\.$"),
    ("loss=weighted_cross_entropy data.mixup=1", r"WeightedCrossEntropy has no value"),
    ("data=breast_cancer loss=focal data.mixup=1", r"FocalLoss has .*; use loss=bce, or set"),
)
