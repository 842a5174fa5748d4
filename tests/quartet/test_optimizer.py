"""Optimizers: what is frozen, slowed and decayed, and what is refused."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer, Rprop
from training_by_hand import settings, small_model, train

from quartet.training.parameters import create, freeze

CONF = Path(__file__).parents[2] / "conf" / "optimizer"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))


def from_yaml(name: str) -> functools.partial[Optimizer]:
    node: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"), resolve=True)
    node.pop("search", None)
    partial = hydra.utils.instantiate(node, _partial_=True, _convert_="all")
    return functools.partial(partial.func, *partial.args, **partial.keywords)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NAMES)
def test_every_default_learning_rate_suits_a_small_network(name: str, seed: int) -> None:
    digits = load_digits()
    inputs = torch.tensor(digits.images / 16, dtype=torch.float32).flatten(1)
    targets = torch.tensor(digits.target)
    train_rows, test_rows = torch.randperm(
        len(inputs), generator=torch.Generator().manual_seed(0)
    ).split([1257, 540])
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = create(from_yaml(name), model, lr_factors={}, decay_bias_and_norm=True)

    def closure(rows: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs[rows]), targets[rows])
        loss.backward()
        return loss

    for _ in range(30):
        for rows in train_rows[torch.randperm(1257)].split(32):
            optimizer.step(functools.partial(closure, rows))
    right = model(inputs[test_rows]).argmax(1) == targets[test_rows]
    assert right.float().mean() > 0.95


def test_parameters_without_policy_are_one_list_in_the_models_order() -> None:
    # LBFGS and Rprop have no weight decay.
    for kind, decay in ((AdamW, True), (Adam, False), (LBFGS, False), (Rprop, False)):
        model = small_model()
        optimizer = create(functools.partial(kind), model, lr_factors={}, decay_bias_and_norm=decay)
        (group,) = optimizer.param_groups
        pairs = zip(group["params"], model.parameters(), strict=True)
        assert all(one is other for one, other in pairs)


def test_biases_and_norms_are_not_decayed_when_asked() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LayerNorm((2, 2)), nn.Flatten(), nn.Linear(16, 2))
    # AdamW's weight decay of 0.01 is its own default here, and not given.
    factory = functools.partial(AdamW, lr=0.1)
    optimizer = create(factory, model, lr_factors={}, decay_bias_and_norm=False)
    assert settings(model, optimizer) == {
        "0.weight": (0.1, 0.01),
        "3.weight": (0.1, 0.01),
        "0.bias": (0.1, 0.0),
        "1.weight": (0.1, 0.0),
        "1.bias": (0.1, 0.0),
        "3.bias": (0.1, 0.0),
    }


def test_last_matching_pattern_sets_the_learning_rate() -> None:
    model = small_model()
    factory = functools.partial(SGD, lr=0.1, weight_decay=0.2)
    factors = {"[01].*": 0.5, "*.bias": 2}
    optimizer = create(factory, model, lr_factors=factors, decay_bias_and_norm=False)
    assert settings(model, optimizer) == {
        "0.weight": (0.05, 0.2),
        "0.bias": (0.2, 0.0),
        "1.weight": (0.05, 0.0),
        "1.bias": (0.2, 0.0),
        "3.weight": (0.1, 0.2),
        "3.bias": (0.2, 0.0),
    }


def test_frozen_parameters_stay_and_are_not_given_to_the_optimizer() -> None:
    model, before = small_model(), small_model()
    assert freeze(model, ["0.*", "1.bias"]) == ["0.weight", "0.bias", "1.bias"]
    factory = functools.partial(SGD, lr=0.1)
    optimizer = create(factory, model, lr_factors={}, decay_bias_and_norm=True)
    assert list(settings(model, optimizer)) == ["1.weight", "3.weight", "3.bias"]
    train(model, optimizer, 2)
    for (name, parameter), start in zip(model.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(parameter, start) == (name in ("0.weight", "0.bias", "1.bias"))


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["0.wieght"], "'0.wieght' matches no trainable .* Did you mean '0.weight'?.* 0.bias,"),
        (["nothing like it"], "matches no trainable parameter. They are 0.weight, 0.bias, 1.w"),
        (["0.*", "*"], "must leave a parameter to train, got .*'0.*', '.*'.*; drop a pattern"),
    ],
)
def test_unsuitable_patterns_to_freeze_are_refused(patterns: Any, message: str) -> None:
    model = small_model()
    with pytest.raises(ValueError, match=message):
        freeze(model, patterns)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_module_named_without_its_parameters_is_explained() -> None:
    model = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
    with pytest.raises(ValueError, match=r"Did you mean 'body.\*'\?"):
        freeze(model, ["body"])


@pytest.mark.parametrize(
    ("factory", "lr_factors", "message"),
    [
        (SGD, {"2.*": 0.1}, "lr_factors: '2.*' matches no trainable parameter"),
        (SGD, {"0.*": 0.1}, "lr_factors: '0.*' matches no trainable .* They are 1.weight, 1.bias"),
        (SGD, {"3.*": 0}, r"lr_factors\['3.\*'\] must be above 0, got 0; .* into freeze"),
        (LBFGS, {"3.*": 0.1}, "lr_factors must be empty for LBFGS, .* choose another optimizer"),
        (lambda p: SGD(p), {"3.*": 0.1}, "must be empty for an optimizer without lr, got"),
    ],
)
def test_unsuitable_learning_rate_factors_are_refused(
    factory: Callable[..., Optimizer], lr_factors: dict[str, float], message: str
) -> None:
    model = small_model()
    freeze(model, ["0.*"])
    with pytest.raises(ValueError, match=message):
        create(functools.partial(factory), model, lr_factors=lr_factors, decay_bias_and_norm=True)
