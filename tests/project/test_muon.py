"""Muon as an optimizer of torch: copies, groups, ranges; test_plain_loop.py trains with it."""

import copy
import functools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from made import project_part, rejections
from torch import nn
from training_by_hand import assert_equal_models, settings, small_model, train

from quartet.training.parameters import create

Muon = project_part("optimizer.Muon")


MUON: dict[str, Any] = {
    "lr": 0.01,
    "weight_decay": 0.1,
    "momentum": 0.9,
    "nesterov": True,
    "ns_steps": 5,
    "adjust_lr_fn": "match_rms_adamw",
    "betas": [0.8, 0.99],
    "eps": 1e-7,
}


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))]
)
def test_muon_continues_as_a_copy(duplicate: Callable[[Any], Any]) -> None:
    model = small_model()
    optimizer = Muon(model.parameters(), **MUON)
    train(model, optimizer, 2)
    model_copy, optimizer_copy = duplicate((model, optimizer))
    train(model, optimizer, 2)
    train(model_copy, optimizer_copy, 2)
    assert_equal_models(model, model_copy)


def test_muon_keeps_the_settings_of_groups() -> None:
    model = small_model()
    optimizer = create(
        functools.partial(Muon, **MUON), model, lr_factors={"0.*": 0.1}, decay_bias_and_norm=False
    )
    assert settings(model, optimizer) == {
        "0.weight": (pytest.approx(0.001), 0.1),
        "0.bias": (pytest.approx(0.001), 0.0),
        "1.weight": (0.01, 0.0),
        "1.bias": (0.01, 0.0),
        "3.weight": (0.01, 0.1),
        "3.bias": (0.01, 0.0),
    }
    algorithms = {p: g["algorithm"] for g in optimizer.param_groups for p in g["params"]}
    for parameter in model.parameters():
        assert algorithms[parameter] == ("muon" if parameter.ndim == 2 else "adamw")
    before = [parameter.clone() for parameter in model.parameters()]
    train(model, optimizer, 1)
    for start, parameter in zip(before, model.parameters(), strict=True):
        assert not torch.equal(start, parameter)


def test_muon_takes_further_parameters_later() -> None:
    model = small_model()
    optimizer = Muon(model[3].parameters(), **MUON)
    optimizer.add_param_group({"params": model[0].parameters(), "lr": 0.5})
    optimizer.add_param_group({"params": model[1].weight})
    found = [(group["algorithm"], group["lr"]) for group in optimizer.param_groups]
    later = [("muon", 0.5), ("adamw", 0.5), ("adamw", 0.01)]
    assert found == [("muon", 0.01), ("adamw", 0.01), *later]


def test_muon_without_a_matrix_is_refused() -> None:
    model = nn.Conv2d(1, 2, 3)
    with pytest.raises(ValueError, match=r"hold a matrix .* \[\(2, 1, 3, 3\), \(2,\)\]; .* adamw"):
        Muon(model.parameters(), **MUON)


test_muon_leaves_ranges_to_torch = rejections(
    lambda key, value: Muon(small_model().parameters(), **MUON | {key: value}),
    ("lr", -1.0, "Learning rate"),
    ("adjust_lr_fn", "none", "not supported"),
    ("betas", [2.0, 0.9], "beta"),
)
