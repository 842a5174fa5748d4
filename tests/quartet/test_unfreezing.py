"""Gradual unfreezing against a plain loop, and what is refused."""

import pytest
import torch
from torch import nn

from quartet.build import build, compose
from quartet.core.problems import ConfigError

pytestmark = pytest.mark.usefixtures("quiet")
NAMES = (
    *("data=diabetes", "model.hidden=[16]", "optimizer=adamw", "optimizer.weight_decay=0.1"),
    *("optimizer.lr_factors={layers.0.*: 0.5}", "scheduler=exponential", "trainer=cpu"),
    *("trainer.max_epochs=4", "callbacks=unfreeze", "callbacks.progress_bar=null"),
    "callbacks.unfreeze.epochs={2: ['layers.0.bias'], 3: ['*.0.weight']}",
)


def test_unfreezing_equals_the_plain_loop_bit_for_bit() -> None:
    run = build(compose(NAMES))
    run.data.load()
    model, loader = build(compose(NAMES)).module.model, run.data.train_dataloader()
    weight, bias, *others = model.parameters()
    groups = [{"params": [weight, bias], "lr": 0.5 * run.config["optimizer"]["lr"]}]
    optimizer = torch.optim.AdamW(
        [*groups, {"params": others}], lr=run.config["optimizer"]["lr"], weight_decay=0.1
    )
    schedule = torch.optim.lr_scheduler.ExponentialLR(
        optimizer, gamma=run.config["scheduler"]["gamma"]
    )
    start = weight.clone()
    for epoch in range(4):
        bias.requires_grad_(epoch >= 1)
        weight.requires_grad_(epoch >= 2)
        loader.batch_sampler.set_epoch(epoch)
        for inputs, targets in loader:
            optimizer.zero_grad()
            nn.functional.mse_loss(model(inputs), targets).backward()
            optimizer.step()
        schedule.step()
        assert torch.equal(weight, start) == (epoch < 2)
    run.trainer.fit(run.module, run.data)
    for one, other in zip(run.module.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("epochs", "words"),
    [
        ("null", r"^callbacks.unfreeze.epochs: must be a mapping .*such as \{3: \[layers.0.\*\]\}"),
        ("{1: ['layers.0.*']}", r"whole numbers from 2, got 1; all other parameters"),
        ("{2: 'layers.0.*'}", r"epochs\[2\] must be a list of patterns"),
        ("{2: ['layer.0.*']}", r"'layer.0.\*' matches no trainable parameter. Did you mean"),
        ("{2: ['*']}", r"must leave a parameter to train in epoch 1"),
    ],
)
def test_unfreezing_that_cannot_be_is_refused(epochs: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(compose(["callbacks=unfreeze", f"callbacks.unfreeze.epochs={epochs}"]))


def test_frozen_parameters_stay_so_and_several_processes_are_refused() -> None:
    names = ["callbacks=unfreeze", "callbacks.unfreeze.epochs={2: ['layers.0.*']}"]
    with pytest.raises(ConfigError, match=r"'layers.0.\*' matches no trainable parameter"):
        build(compose([*names, "optimizer.freeze=['layers.0.*']"]))
    with pytest.raises(
        ConfigError, match=r"^callbacks.unfreeze: several .*; set trainer.devices=1"
    ):
        build(compose([*names, "trainer=ddp", "trainer.accelerator=cpu"]))
