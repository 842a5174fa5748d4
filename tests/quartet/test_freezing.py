"""What is frozen stands still, for the whole training or at first, as in a plain loop."""

from pathlib import Path
from typing import Any

import pytest
import torch
from made import composed, refusals
from torch import Tensor, nn
from training_by_hand import assert_equal_models

from quartet.build import build
from quartet.reports.run import describe_run
from quartet.training.parameters import freeze
from quartet.validation.dry_run import pass_through

pytestmark = pytest.mark.usefixtures("quiet")
# The first hidden layer is 0 to 3: linear, batch normalisation, activation, dropout; the next 4 to 7.
DEEP = (
    *("data=diabetes", "model.hidden=[16,8]", "model.norm=batch", "model.dropout=0.5"),
    *("optimizer=sgd", "optimizer.lr=0.01", "trainer=cpu", "trainer.max_epochs=3"),
    *("callbacks.progress_bar=null", "logger=csv"),
)
NAMES = (
    *("data=diabetes", "model.hidden=[16]", "optimizer=adamw", "optimizer.weight_decay=0.1"),
    *("optimizer.lr_factors={layers.0.*: 0.5}", "scheduler=exponential", "trainer=cpu"),
    *("trainer.max_epochs=4", "callbacks=unfreeze", "callbacks.progress_bar=null"),
    "callbacks.unfreeze.epochs={2: ['layers.0.bias'], 3: ['*.0.weight']}",
)


def test_unfreezing_equals_the_plain_loop_bit_for_bit() -> None:
    run = build(composed(NAMES))
    run.data.load()
    model, loader = build(composed(NAMES)).module.model, run.data.train_dataloader()
    weight, bias, *others = model.parameters()
    groups = [{"params": [weight, bias], "lr": 0.5 * run.config["optimizer"]["lr"]}]
    lr, gamma = run.config["optimizer"]["lr"], run.config["scheduler"]["gamma"]
    optimizer = torch.optim.AdamW([*groups, {"params": others}], lr=lr, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=gamma)
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
    assert_equal_models(run.module.model, model)


FIRST = "callbacks.unfreeze.epochs={2: ['layers.0.*']}"
test_unfreezing_that_cannot_be_is_refused = refusals(
    (
        ["callbacks.unfreeze.epochs=null"],
        r"^callbacks.unfreeze.epochs: must be a mapping .*such as \{3: \[layers.0.\*\]\}",
    ),
    (
        ["callbacks.unfreeze.epochs={1: ['layers.0.*']}"],
        "whole numbers from 2, got 1; all other parameters",
    ),
    (["callbacks.unfreeze.epochs={2: 'layers.0.*'}"], r"epochs\[2\] must be a list of patterns"),
    (
        ["callbacks.unfreeze.epochs={2: ['layer.0.*']}"],
        r"'layer.0.\*' matches no trainable parameter. Did you mean",
    ),
    (["callbacks.unfreeze.epochs={2: ['*']}"], "must leave a parameter to train in epoch 1"),
    ([FIRST, "optimizer.freeze=['layers.0.*']"], r"'layers.0.\*' matches no trainable parameter"),
    (
        [FIRST, "trainer=ddp", "trainer.accelerator=cpu"],
        r"^callbacks.unfreeze: several .*; set trainer.devices=1",
    ),
    given=["callbacks=unfreeze"],
)


class Encoder(nn.Module):
    """A positional encoding that is never trained, dropout, and statistics without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4, affine=False)
        self.dropout = nn.Dropout(0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.dropout(self.norm(self.linear(inputs)))  # type: ignore[no-any-return]


def evaluated(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if not module.training]


def test_modes_are_those_of_what_is_frozen_and_a_trial_leaves_them() -> None:
    fixed = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5))
    fixed.requires_grad_(False)
    model = nn.ModuleDict({"encoder": Encoder(), "fixed": fixed, "norm": nn.BatchNorm1d(4)})
    freeze(model, ["norm.weight"])
    assert evaluated(model) == []  # its bias is trained; what the model froze itself is left to it
    freeze(model, ["encoder.*"])
    assert evaluated(model) == ["encoder", "encoder.linear", "encoder.norm", "encoder.dropout"]
    model = nn.Sequential(Encoder(), nn.Linear(4, 1))
    model[0].eval()
    for training in (False, True):
        pass_through(model, torch.zeros(2, 4), training)
        assert evaluated(model) == ["0", "0.linear", "0.norm", "0.dropout"]


def by_hand(overrides: tuple[str, ...], first_epoch: dict[int, int]) -> nn.Module:
    """The model after a plain loop that freezes layers until an epoch."""
    run = build(composed(overrides))
    run.data.load()
    model: Any = run.module.model
    loader = run.data.train_dataloader()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    torch.manual_seed(1)
    for epoch in range(3):
        for number, first in first_epoch.items():
            model.layers[number].requires_grad_(epoch + 1 >= first).train(epoch + 1 >= first)
        loader.batch_sampler.set_epoch(epoch)
        for inputs, targets in loader:
            optimizer.zero_grad()
            nn.functional.mse_loss(model(inputs), targets).backward()
            optimizer.step()
    return model  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("names", "first_epoch"),
    [
        (["optimizer.freeze=['layers.[01].*']"], {0: 9, 1: 9}),
        (["callbacks=unfreeze", "callbacks.unfreeze.epochs={2: ['layers.[01].*']}"], {0: 2, 1: 2}),
        (
            [
                *("optimizer.freeze=['layers.1.*']", "callbacks=unfreeze"),
                "callbacks.unfreeze.epochs={2: ['layers.5.*'], 3: ['layers.0.*']}",
            ],
            {1: 9, 5: 2, 0: 3},
        ),
    ],
    ids=["freeze", "unfreeze", "both"],
)
def test_frozen_statistics_equal_those_of_the_plain_loop_bit_for_bit(
    names: list[str], first_epoch: dict[int, int], tmp_path: Path
) -> None:
    overrides = (*DEEP, *names)
    expected = by_hand(overrides, first_epoch).state_dict()
    run = build(composed(overrides), tmp_path)
    before = {name: value.clone() for name, value in run.module.model.state_dict().items()}
    torch.manual_seed(1)
    run.trainer.fit(run.module, run.data)
    after = run.module.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in expected.items())
    for number, first in first_epoch.items():
        layer = [name for name in after if name.startswith(f"layers.{number}.")]
        assert all(torch.equal(after[name], before[name]) for name in layer) == (first == 9)


def test_frozen_block_draws_no_dropout(tmp_path: Path) -> None:
    """With all in front of the head frozen, two seeds of the random numbers train the same head."""
    heads = []
    for seed in (1, 2):
        run = build(composed([*DEEP, "model.norm=none"]), tmp_path / str(seed))
        model: Any = run.module.model
        model.layers = nn.Sequential(nn.Sequential(*model.layers[:-1]), model.layers[-1])
        freeze(model, ["layers.0.*"])
        torch.manual_seed(seed)
        run.trainer.fit(run.module, run.data)
        heads.append(model.layers[1].weight)
    assert torch.equal(*heads)


def test_frozen_model_of_torchvision_keeps_its_statistics(tmp_path: Path) -> None:
    names = [
        *("data=digits", "model=torchvision", "optimizer.freeze=['layer1.*']", "trainer=cpu"),
        *("trainer.max_epochs=2", "trainer.limit_train_batches=2", "data.batch_size=4"),
        *("trainer.limit_val_batches=1", "data.eval_batch_size=4", "logger=csv"),
    ]
    run = build(composed(names), tmp_path)
    before = {name: value.clone() for name, value in run.module.model.state_dict().items()}
    run.trainer.fit(run.module, run.data)
    for name, value in run.module.model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("layer1."), name


def test_check_names_what_stands_still() -> None:
    words = describe_run(composed([*DEEP, "optimizer.freeze=['layers.[01].*']"]))
    assert "\nfrozen      layers.0, layers.1: in evaluation mode, so statistics stay\n" in words
    assert "\nfrozen" not in describe_run(composed(DEEP))
