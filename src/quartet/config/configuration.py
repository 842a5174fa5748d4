"""A composed configuration in plain containers, without the types of OmegaConf."""

import functools
import operator
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from omegaconf import DictConfig as DictConfig  # the type, for rooms that do not know OmegaConf
from omegaconf import ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from quartet.config import allow
from quartet.core.problems import Problem, Problems

# To a key of the whole; other references have resolvers, or dots before them.
REFERENCE = re.compile(r"\$\{(\w+(?:\.\w+)*)\}")


def to_container(cfg: DictConfig | None, resolve: bool = True) -> dict[str, Any]:
    """Plain containers, with references resolved or as they are written."""
    return {} if cfg is None else OmegaConf.to_container(cfg, resolve=resolve)  # type: ignore[return-value]


def copy_config(cfg: DictConfig) -> DictConfig:
    """A copy of a configuration, in a tenth of the time of `DictConfig.copy`."""
    copied: DictConfig = pickle.loads(pickle.dumps(cfg))
    return copied


def replace_values(cfg: DictConfig, values: Mapping[str, Any]) -> DictConfig:
    """A copy of a configuration with other values at dotted keys."""
    cfg = copy_config(cfg)
    for key, value in values.items():
        OmegaConf.update(cfg, key, value, merge=False, force_add=True)
    return cfg


class Configuration(Mapping[str, Any]):
    """A configuration whose values are read as plain containers, with references resolved.

    A value that is filled in reaches the values that refer to it.

    Args:
        cfg: As `compose` gives it; is copied.
        directory: Where the run writes.

    Attributes:
        node: The configuration as OmegaConf has it, without Hydra's own settings.
        options: The chosen option of each group.
        overrides: Those of the command line.
    """

    def __init__(self, cfg: DictConfig, directory: str) -> None:
        self.node = copy_config(cfg)
        with open_dict(self.node):
            hydra = to_container(self.node.pop("hydra", None), resolve=False)
            self.node.directory = directory
        self.options: Mapping[str, str] = hydra.get("runtime", {}).get("choices", {})
        self.overrides: list[str] = hydra.get("overrides", {}).get("task", [])
        self.raw = to_container(self.node, resolve=False)
        items = allow.walk(self.raw)
        found = {key: re.fullmatch(r"\$\{([\w.]+)\}", str(value)) for key, value in items}
        self._references = {key: match[1] for key, match in found.items() if match}
        self._written = self.raw  # of `node` as it is now
        self._values: dict[str, Any] | None = None

    def __getitem__(self, key: str) -> Any:
        return self.to_dict()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_dict())

    def __len__(self) -> int:
        return len(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The whole configuration in plain containers; do not change them."""
        if self._values is None:
            try:
                self._values = resolve(self._written, self._written)
            except (LookupError, TypeError, RecursionError):
                self._values = to_container(self.node)
        return self._values

    def fill(self, values: Mapping[str, Any]) -> None:
        """Sets values by their dotted keys."""
        for key, value in values.items():
            OmegaConf.update(self.node, key, value, merge=False)
        self._update()

    def find_dependents(self, keys: Iterable[str]) -> set[str]:
        """The keys, and those whose values refer to one of them."""
        found = set(keys)
        while more := {path for path, key in self._references.items() if key in found} - found:
            found |= more
        return found

    def clear_unresolved(self) -> Problems:
        """Yields values that must be set and references that lead nowhere; they become null."""
        with suppress(LookupError, TypeError, RecursionError):
            self._values = resolve(self._written, self._written)
            if "???" not in str(self._values):
                return  # each reference leads to a value
        yield from clear_unresolved(self.node, "")
        self._update()

    def _update(self) -> None:
        """Reads `node` again, after it has changed."""
        self._written = to_container(self.node, resolve=False)
        self._values = None


def resolve(node: Any, tree: Any) -> Any:
    """Plain containers with references to other keys resolved, in a fraction of OmegaConf's time.

    Raises:
        LookupError, TypeError, RecursionError: OmegaConf must resolve them, or say what is wrong.
    """
    if isinstance(node, dict):
        return {key: resolve(value, tree) for key, value in node.items()}
    if isinstance(node, list):
        return [resolve(value, tree) for value in node]
    if not isinstance(node, str) or "${" not in node:
        return node

    def find(match: re.Match[str]) -> Any:
        found = resolve(functools.reduce(operator.getitem, match[1].split("."), tree), tree)
        if found == "???" or (found is None and not whole):
            raise LookupError(node)
        return found

    whole = REFERENCE.fullmatch(node)
    made = find(whole) if whole else REFERENCE.sub(find, node)  # texts alone go into a text
    if "\\" in node or "${" in REFERENCE.sub("", node):
        raise LookupError(node)
    return made


def clear_unresolved(
    node: DictConfig | ListConfig, prefix: str, above: tuple[Any, ...] = ()
) -> Problems:
    above = (*above, node)
    for key in list(node) if isinstance(node, DictConfig) else range(len(node)):
        path = f"{prefix}{key}"
        if OmegaConf.is_missing(node, key):
            yield Problem(path, "must be set.", "???")
        else:
            try:
                child = node[key]
            except OmegaConfBaseException as error:
                reason = str(error).partition("\n")[0]
                way_out = f"{reason}; name a key that is there, or give a value."
                yield Problem(path, way_out, find_raw(node, key))
            else:
                if not any(child is each for each in above):
                    if isinstance(child, DictConfig | ListConfig):
                        yield from clear_unresolved(child, f"{path}.", above)
                    continue
                yield Problem(path, "contains itself; give a value.", find_raw(node, key))
        node[key] = None


def find_raw(node: DictConfig | ListConfig, key: Any) -> Any:
    """A value as it is written, with its references."""
    return OmegaConf.to_container(node, resolve=False)[key]  # type: ignore[index]
