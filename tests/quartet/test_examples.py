"""Jobs that the engine does not know, as forks: they train as plain loops, with every feature."""

import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import examples
import made
import pytest
import torch
from made import composed, weights
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from quartet.build import Run, build
from quartet.core.files import CONF
from quartet.data.task import OWN_TASKS

pytestmark = pytest.mark.usefixtures("quiet")


def segmentation_loss(model: nn.Module, batch: Any) -> Tensor:
    images, masks = batch
    outputs = model(images)
    probabilities, truth = outputs.softmax(1), one_hot(masks, 3).permute(0, 3, 1, 2)
    shared, size = (probabilities * truth).sum((0, 2, 3)), (probabilities + truth).sum((0, 2, 3))
    return cross_entropy(outputs, masks) + 1 - ((2 * shared + 1) / (size + 1)).mean()


@dataclass(frozen=True)
class Job:
    """An example, and what it offers.

    Attributes:
        options: What chooses it, with tiny data.
        loss: Of a batch, as a plain loop computes it.
    """

    options: tuple[str, ...]
    loss: Callable[[nn.Module, Any], Tensor]


TINY = ("trainer=cpu", "trainer.max_epochs=3", "callbacks.progress_bar=null", "logger=csv")
JOBS = {"segmentation": Job(("data=shapes", "model=unet", "data.batch_size=16"), segmentation_loss)}


@pytest.fixture(params=[name for name in JOBS if (examples.EXAMPLES / name).exists()])
def job(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Job]:
    with examples.installed(request.param, tmp_path):
        yield JOBS[request.param]


def test_weights_are_those_of_a_plain_loop(job: Job) -> None:
    run = build(composed([*TINY, *job.options]))
    model, state = copy.deepcopy(run.module.model), torch.get_rng_state()
    run.trainer.fit(run.module, run.data)
    torch.set_rng_state(state)
    train_by_hand(model, job.loss, run)
    expected = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert torch.equal(weights(run), expected)


def train_by_hand(model: nn.Module, loss: Callable[..., Tensor], run: Run) -> None:
    """The loop of the tutorials, on the batches of the run."""
    optimizer = torch.optim.Adam(model.parameters(), lr=run.config["optimizer"]["lr"])
    batches = run.data.train_dataloader()
    model.train()
    for epoch in range(run.config["trainer"]["max_epochs"]):
        batches.batch_sampler.set_epoch(epoch)
        for batch in batches:
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()


def test_examples_leave_nothing_behind(tmp_path: Path) -> None:
    before, paths = set(sys.modules), list(sys.modules[made.PROJECT].__path__)
    with examples.installed("segmentation", tmp_path):
        name = composed(["data=shapes"]).data.task
        build(composed(["data=shapes", "trainer=cpu"]))
        assert name in OWN_TASKS
        assert tmp_path / "conf" == sys.modules["made"].CONF
    assert name not in OWN_TASKS
    assert sys.modules["made"].CONF == CONF
    assert list(sys.modules[made.PROJECT].__path__) == paths
    assert not [n for n in set(sys.modules) - before if n.endswith(("segmentation", "unet"))]
    with pytest.raises(Exception, match="Could not find 'data/shapes'"):
        composed(["data=shapes"])


def test_flips_move_images_and_masks_together(tmp_path: Path) -> None:
    with examples.installed("segmentation", tmp_path):
        run = build(composed([*TINY, "data=shapes", "data.shuffle=false", "data.batch_size=full"]))
        (images, masks), *_ = run.data.train_dataloader()
    stored = run.data.parts.train.tensors
    mirrored = (images[:, 0] != stored[0][:, 0] / 255).any((1, 2))
    assert 20 < mirrored.sum() < 40  # of 60
    expected = torch.where(mirrored[:, None, None], stored[1].flip(2), stored[1])
    assert torch.equal(masks, expected)
