"""A job with two optimizers, as a fork: it trains as a plain loop, resumes exactly, is evaluated."""

import copy
from collections.abc import Iterator
from pathlib import Path

import examples
import pandas as pd
import pytest
import torch
from made import composed, weights
from test_resume import assert_same, crash, resume
from torch.nn.functional import softplus
from torch.optim.lr_scheduler import CosineAnnealingLR

from quartet.build import build
from quartet.config.compose import evaluation_config
from quartet.inference.evaluate import evaluate
from quartet.reports.run import describe_run
from quartet.run import train

pytestmark = pytest.mark.usefixtures("quiet", "no_pictures")
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


def test_resumed_run_is_the_uninterrupted_one_and_is_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, whole = [*TINY, "callbacks=ema", "callbacks.last.every_n_steps=1"], tmp_path / "whole"
    result = train(composed(words), whole)
    crash(words, tmp_path / "run", "on_train_batch_end", 6, monkeypatch)
    resume(tmp_path / "run")
    assert_same(whole, tmp_path / "run")
    figures = evaluate(evaluation_config(whole, []), whole, split="val")
    assert figures == {"val/distance": result["monitor"]["best"]}
    rates = pd.read_csv(whole / "metrics.csv")["lr/discriminator_optimizer"]
    assert rates.tolist() == pytest.approx([0.001, 0.00075, 0.00025])
    assert len(torch.load(whole / "samples" / "2.pt")) == 100


def test_check_names_both_optimizers() -> None:
    text = describe_run(composed(TINY))
    assert "0.002 at the end, of 82 parameters" in text
    assert "0.00025 at the end, of 65 parameters" in text
