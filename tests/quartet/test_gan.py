"""A job with two optimizers, as a fork: it trains as a plain loop."""

import copy
from collections.abc import Iterator
from pathlib import Path

import examples
import pandas as pd
import pytest
import torch
from made import composed, weights
from torch.nn.functional import softplus
from torch.optim.lr_scheduler import CosineAnnealingLR

from quartet.build import build
from quartet.run import train

pytestmark = pytest.mark.usefixtures("quiet")
TINY = ("experiment=gan", "trainer=cpu", "trainer.max_epochs=3", "callbacks.progress_bar=null")
TINY += ("logger=csv", "data.batch_size=30", "callbacks.last.min_seconds=0")


@pytest.fixture(autouse=True)
def _fork(tmp_path: Path) -> Iterator[None]:
    with examples.installed("gan", tmp_path):
        yield


def test_weights_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    run = build(composed(TINY), tmp_path / "run")
    model, state = copy.deepcopy(run.module.model), torch.get_rng_state()
    run.trainer.fit(run.module, run.data)
    torch.set_rng_state(state)
    generator = torch.optim.Adam(model.generator.parameters(), lr=0.002)
    discriminator = torch.optim.Adam(model.discriminator.parameters(), lr=0.001)
    cosine, batches = CosineAnnealingLR(discriminator, 3), run.data.train_dataloader()
    for epoch in range(3):
        batches.batch_sampler.set_epoch(epoch)
        for points in batches:
            made = model.generate(len(points))
            discriminator.zero_grad()
            (softplus(-model(points)) + softplus(model(made.detach()))).mean().backward()
            discriminator.step()
            generator.zero_grad()
            softplus(-model(made)).mean().backward()
            generator.step()
        cosine.step()
    assert torch.equal(weights(run), torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert run.trainer.global_step == 12


def test_rates_of_both_are_logged_and_samples_are_saved(tmp_path: Path) -> None:
    train(composed(TINY), tmp_path / "run")
    rates = pd.read_csv(tmp_path / "run/metrics.csv")["lr/discriminator_optimizer"]
    assert rates.tolist() == pytest.approx([0.001, 0.00075, 0.00025])
    assert len(torch.load(tmp_path / "run/samples/2.pt")) == 100
