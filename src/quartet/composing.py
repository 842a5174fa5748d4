"""Less of Hydra's own time in composing a configuration, with the same result.

Imported at every start.
"""

from typing import Any

import yaml
from hydra._internal import defaults_list

of_all = defaults_list._create_interpolation_map


def hasten() -> None:
    """Replaces two parts of Hydra's; the shares are of what ``python train.py --cfg job`` computes."""
    yaml.SafeLoader = yaml.CSafeLoader  # OmegaConf's, of the same language (a tenth)
    defaults_list._create_interpolation_map = of_references  # type: ignore[assignment]


def of_references(overrides: Any, defaults: Any, self_added: bool) -> Any:
    """What references within a list of defaults mean, for lists that hold any alone (a tenth)."""
    if any(default.is_interpolation() for default in defaults):
        return of_all(overrides, defaults, self_added)
    return None
