"""Freezes parameters, and makes the optimizer with its parameter groups."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from quartet.core.messages import closest_name, shorten

_NORMS = (nn.LayerNorm, nn.RMSNorm)  # the weights of other norms are vectors


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Freezes the parameters with matching names, and returns these names.

    A module that is frozen as a whole does not change at all: it is put into evaluation mode, in
    which Lightning leaves it in training.

    Args:
        model: Changed in place.
        patterns: Shell patterns of parameter names, such as ``layers.0.*``.

    Raises:
        ValueError: a pattern matches no parameter, or nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    matches = {pattern: match_names("freeze", pattern, parameters) for pattern in patterns}
    frozen = [name for name in parameters if any(name in names for names in matches.values())]
    if frozen and not any(
        parameter.requires_grad for name, parameter in parameters.items() if name not in frozen
    ):
        raise ValueError(
            f"freeze must leave a parameter to train, got {list(patterns)}, which match all of "
            f"{shorten(parameters, 30)}; drop a pattern."
        )
    for name in frozen:
        parameters[name].requires_grad_(False)
    for module in find_frozen_modules(model, {parameters[name] for name in frozen}):
        module.training = False
    return frozen


def find_frozen_modules(model: nn.Module, frozen: Collection[nn.Parameter]) -> list[nn.Module]:
    """Returns the modules that train nothing, because of the frozen parameters, and all within them.

    A module without parameters, such as dropout, is frozen with the module that contains it.
    """
    found: dict[nn.Module, None] = {}
    for module in model.modules():
        parameters = list(module.parameters())
        trains = any(parameter.requires_grad for parameter in parameters)
        if not trains and any(parameter in frozen for parameter in parameters):
            found |= dict.fromkeys(module.modules())
    return list(found)


def create(
    factory: Callable[..., Optimizer],
    model: nn.Module,
    trained: Mapping[str, nn.Parameter] | None = None,
    *,
    lr_factors: Mapping[str, float],
    decay_bias_and_norm: bool,
) -> Optimizer:
    """Makes an optimizer of trainable parameters.

    The optimizer gets one list of parameters, in the order of the model, unless some of them need
    another learning rate or weight decay.

    Args:
        factory: An optimizer class with its hyperparameters bound (``functools.partial``).
        model: Has the parameters.
        trained: Parameters by their names; those that require gradients are trained. None for all
            of the model.
        lr_factors: Shell pattern of parameter names -> factor of the learning rate, above 0. The last
            matching pattern counts; names without a match keep the learning rate.
        decay_bias_and_norm: Whether parameters of at most one dimension, and those of normalization
            layers, get weight decay too.

    Raises:
        ValueError: nothing is left to train, a pattern matches no trainable parameter, a factor is
            not positive, or the optimizer has no parameter groups (LBFGS) or no ``lr`` and there are
            factors.
    """
    named = dict(model.named_parameters()) if trained is None else trained
    parameters = {name: each for name, each in named.items() if each.requires_grad}
    if not parameters:
        raise ValueError(
            f"freeze must leave the optimizer a parameter to train, and froze {shorten(named, 30)}; "
            "drop a pattern."
        )
    factors = _factors(lr_factors, parameters)
    undecayed: set[str] = set()
    if not decay_bias_and_norm and _bound(factory, "weight_decay"):
        undecayed = _biases_and_norms(model, parameters)
    if not lr_factors and not undecayed:
        return factory(list(parameters.values()))

    optimizer_class = getattr(factory, "func", factory)
    if isinstance(optimizer_class, type) and issubclass(optimizer_class, torch.optim.LBFGS):
        raise ValueError(
            f"lr_factors must be empty for LBFGS, got {dict(lr_factors)}; it has one group of "
            "parameters. Freeze some of them instead, or choose another optimizer."
        )
    lr = _bound(factory, "lr")
    if lr_factors and lr is None:
        raise ValueError(
            f"lr_factors must be empty for an optimizer without lr, got {dict(lr_factors)}; "
            "choose another optimizer."
        )
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in parameters.items():
        group = groups.setdefault((factors[name], name in undecayed), {"params": []})
        group["params"].append(parameter)
        if factors[name] != 1:
            group["lr"] = lr * factors[name]
        if name in undecayed:
            group["weight_decay"] = 0.0
    return factory(list(groups.values()))


def _factors(
    lr_factors: Mapping[str, float], parameters: Mapping[str, nn.Parameter]
) -> dict[str, float]:
    """Returns the factor of each parameter's learning rate."""
    factors = dict.fromkeys(parameters, 1.0)
    for pattern, factor in lr_factors.items():
        if not factor > 0:
            raise ValueError(
                f"lr_factors[{pattern!r}] must be above 0, got {factor}; to train nothing of it, put "
                "the pattern into freeze."
            )
        factors |= dict.fromkeys(match_names("lr_factors", pattern, parameters), factor)
    return factors


def _biases_and_norms(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> set[str]:
    # Compares identities: a parameter that two modules share has one name.
    norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, _NORMS)
        for parameter in module.parameters(recurse=False)
    }
    return {name for name, p in parameters.items() if p.ndim <= 1 or id(p) in norms}


def _bound(factory: Callable[..., Optimizer], argument: str) -> Any:
    """Returns the bound value of an argument of the factory, or else its default."""
    parameter = inspect.signature(factory).parameters.get(argument)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def match_names(argument: str, pattern: str, parameters: Mapping[str, nn.Parameter]) -> list[str]:
    """Returns the names that a pattern matches.

    Raises:
        ValueError: the pattern matches no name.
    """
    names = [name for name in parameters if fnmatchcase(name, pattern)]
    if not names:
        modules = dict.fromkeys(
            ".".join(name.split(".")[:depth]) + ".*"
            for name in parameters
            for depth in range(1, name.count(".") + 1)
        )
        close = closest_name(pattern, [*modules, *parameters])
        hint = f" Did you mean {close!r}?" if close else ""
        raise ValueError(
            f"{argument}: {pattern!r} matches no trainable parameter.{hint} They are "
            f"{shorten(parameters, 4 if close else 30)}."
        )
    return names
