"""Nests of tensors: tuples, dicts and dataclasses of tensors, and lists with an item for each sample.

A tensor alone is a nest, too. The first dimension of each tensor counts the samples; a list holds
what cannot be stacked, such as the boxes of each image.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor


def map_tensors(function: Callable[[Tensor], Any], nest: Any) -> Any:
    """Returns the nest with a function applied to each tensor; other leaves stay."""
    if isinstance(nest, Tensor):
        return function(nest)
    if type(nest) in (tuple, list):  # quicker than the call below
        return type(nest)(map_tensors(function, each) for each in nest)
    if type(nest) is dict:
        return {key: map_tensors(function, each) for key, each in nest.items()}
    return apply_to_collection(nest, Tensor, function)


def leaves(nest: Any) -> list[Tensor]:
    """Returns the tensors of a nest."""
    found: list[Tensor] = []
    map_tensors(found.append, nest)
    return found


def count_values(nest: Any) -> int:
    """Counts the numbers in all tensors."""
    if isinstance(nest, Tensor):
        return nest.numel()
    return sum(tensor.numel() for tensor in leaves(nest))


def size(nest: Any) -> int:
    """Counts the samples of a nest.

    Raises:
        ValueError: there is no tensor with a first dimension, and no list.
    """
    if isinstance(nest, list):
        return len(nest)
    if isinstance(nest, Tensor) and nest.ndim:
        return len(nest)
    for child in children(nest):
        try:
            return size(child)
        except ValueError:
            continue
    raise ValueError("no tensor of the batch has a dimension for its samples.")


def sizes(nest: Any) -> set[int]:
    """Returns the numbers of samples of all tensors and lists; there is one, if they agree."""
    if isinstance(nest, list) or (isinstance(nest, Tensor) and nest.ndim):
        return {len(nest)}
    return {each for child in children(nest) for each in sizes(child)}


def form(nest: Any) -> Any:
    """Describes the types of a nest and its keys, and the number of samples of each tensor or list."""
    if isinstance(nest, Tensor | list):
        return type(nest).__name__, len(nest) if isinstance(nest, list) or nest.ndim else None
    kind = "tuple" if isinstance(nest, tuple) else type(nest).__name__
    keys = list(nest) if isinstance(nest, Mapping) else kind
    return keys, [form(child) for child in children(nest)]


def children(nest: Any) -> Sequence[Any]:
    if isinstance(nest, Mapping):
        return list(nest.values())
    if isinstance(nest, tuple | list):
        return nest
    if is_dataclass(nest):
        return [getattr(nest, field.name) for field in fields(nest)]
    return ()


def is_plain(nest: Any) -> bool:
    """Whether a nest consists of tensors, numbers, texts, tuples, lists and dicts alone."""
    if type(nest) in (tuple, list, dict):
        return all(map(is_plain, children(nest)))
    return nest is None or isinstance(nest, Tensor | int | float | str)


def concatenate(nests: Sequence[Any]) -> Any:
    """Concatenates the samples of plain nests of one structure.

    Raises:
        ValueError: their structures differ.
        RuntimeError: the shapes of their samples differ.
    """
    first = nests[0]
    if isinstance(first, Tensor):
        return torch.cat(nests) if first.ndim else torch.stack(nests)  # type: ignore[arg-type]
    if isinstance(first, list):
        return [sample for nest in nests for sample in nest]
    if isinstance(first, dict):
        if any(nest.keys() != first.keys() for nest in nests):
            raise ValueError("the batches have different keys.")
        return {key: concatenate([nest[key] for nest in nests]) for key in first}
    if isinstance(first, tuple):
        return tuple(concatenate(each) for each in zip(*nests, strict=True))
    if any(nest != first for nest in nests):
        raise ValueError("the batches hold different values.")
    return first


def describe(nest: Any) -> str:
    """Describes the shapes and types of a sample: ``1 x 8 x 8 float32``."""
    if isinstance(nest, Tensor):
        shape = " x ".join(map(str, nest.shape)) or "scalar"
        return f"{shape} {str(nest.dtype).removeprefix('torch.')}"
    if isinstance(nest, Mapping):
        return ", ".join(f"{key}: {describe(each)}" for key, each in nest.items())
    if isinstance(nest, tuple | list):
        return f"({', '.join(map(describe, nest))})"
    return type(nest).__name__


def sample(nest: Any, row: int) -> Any:
    """Returns one sample."""
    if isinstance(nest, Tensor | list):
        return nest[row]
    return map_children(lambda child: sample(child, row), nest)


def select(nest: Any, rows: Tensor) -> Any:
    """Returns the samples with these numbers, int64 ``(count,)``."""
    if isinstance(nest, Tensor):
        return nest[rows.to(nest.device)]
    if isinstance(nest, list):
        return [nest[row] for row in rows.tolist()]
    return map_children(lambda child: select(child, rows), nest)


def lists_to_tuples(nest: Any) -> Any:
    """Returns what `torch.utils.data.default_collate` made, with its lists as the tuples they were."""
    if isinstance(nest, list):
        return tuple(map(lists_to_tuples, nest))
    return map_children(lists_to_tuples, nest)


def map_children(function: Callable[[Any], Any], nest: Any) -> Any:
    """Returns a tuple, dict or dataclass with a function applied to each item."""
    if isinstance(nest, Mapping):
        return {key: function(child) for key, child in nest.items()}
    if isinstance(nest, tuple):
        items = list(map(function, nest))
        return type(nest)(*items) if hasattr(nest, "_fields") else tuple(items)
    if is_dataclass(nest) and not isinstance(nest, type):
        made = {field.name: function(getattr(nest, field.name)) for field in fields(nest)}
        return replace(nest, **made)
    return nest
