"""Less of Hydra's own time in composing a configuration, with the same result."""

from typing import Any

import yaml


def hasten() -> None:
    """Replaces two parts of Hydra's; the shares are of what ``python train.py --cfg job`` computes."""
    from hydra._internal import defaults_list

    of_all = defaults_list._create_interpolation_map

    def of_references(overrides: Any, defaults: Any, self_added: bool) -> Any:
        if any(default.is_interpolation() for default in defaults):
            return of_all(overrides, defaults, self_added)
        return None

    # What references within a list of defaults mean, for lists that hold any alone (a tenth).
    defaults_list._create_interpolation_map = of_references  # type: ignore[assignment]
    yaml.SafeLoader = getattr(
        yaml, "CSafeLoader", yaml.SafeLoader
    )  # OmegaConf's, of the same language (a tenth)
