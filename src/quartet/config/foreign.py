"""What a run or a sweep, which may be someone else's, must not bring about by its own record.

Nothing of it is written outside its directory, and nothing of this machine sent away, unless the
command line says the same.
"""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from quartet.core import redaction

# Arguments of loggers, callbacks and profilers that say where they write.
PLACES = ("save_dir", "dirpath", "root_dir", "log_dir", "directory", "dir", "default_root_dir")
NAMES = ("filename", "name", "version")
# Of a job in sweep.json: a job has settings of its training alone.
NO_SETTING = r"-|(resume|directory|run|check)$|(hydra|sweep|launcher)\b"


def links(directory: str | Path) -> list[str]:
    """Links that lead out of a directory, by which another file would be written.

    W&B has some of its own, which nothing here writes through.
    """
    directory, faults = Path(directory), []
    for folder, folders, files in os.walk(directory):
        for name in sorted([*folders, *files]):
            path = Path(folder, name)
            if path.is_symlink() and not path.resolve().is_relative_to(directory.resolve()):
                to = path.readlink()
                faults.append(f"{path} is a link to {to}; put the file itself there.")
        if "wandb" in folders:
            folders.remove("wandb")
    return faults


def faults(cfg: DictConfig, directory: str | Path) -> list[str]:
    """What a run's record would write elsewhere or send away, a sentence each.

    Args:
        cfg: Of a run that goes on, or is evaluated.
        directory: Of the run.
    """
    redaction.register(cfg)
    given = set(map(key_of, sys.argv[1:]))
    cfg = cfg.copy()
    with open_dict(cfg):
        cfg.directory = str(directory)
    try:
        told: Any = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException:  # a reference that leads nowhere, by which nothing is built
        return []
    leaves = [(key, text) for key, text in texts(told) if key not in given]
    found = [
        f"{key}={redaction.redact(text)}: lies outside {directory}; if it shall be so, repeat {key} "
        "on the command line."
        for key, text in leaves
        if key.startswith(("logger.", "callbacks.", "trainer.")) and leaves_it(key, text, directory)
    ]
    values = [value for _, value in redaction.find_secrets()]
    carriers = {node_of(key) for key, text in leaves if any(value in text for value in values)}
    return found + [
        f"{key}={redaction.redact(text)}: sends a value of your environment to an address in the "
        f"run's record; if it shall, repeat {key} on the command line."
        for key, text in leaves
        if "://" in text and text not in values and node_of(key) in carriers
    ]


def leaves_it(key: str, text: str, directory: str | Path) -> bool:
    """Whether an argument names a place outside a directory."""
    name = key.rpartition(".")[2]
    if name in NAMES:
        return text.startswith("/") or ".." in Path(text).parts
    return name in PLACES and not Path(text).resolve().is_relative_to(Path(directory).resolve())


def node_of(key: str) -> str:
    """The part that a key is of: logger.mlflow, model, ..."""
    group, _, rest = key.partition(".")
    return f"{group}.{rest.partition('.')[0]}" if group in ("logger", "callbacks") else group


def texts(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The dotted keys and values of all texts in a tree."""
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, dict | list):
        for name, item in node.items() if isinstance(node, dict) else enumerate(node):
            yield from texts(item, f"{key}.{name}".lstrip("."))


def directs(override: Any) -> bool:
    """Whether an override of a sweep has other files, machines or programs come into play."""
    if not isinstance(override, str) or re.search(r"\$\{.*://|://.*\$\{", override):
        return True
    key = key_of(override)
    if not key.startswith("hydra"):
        return False
    elsewhere = key in ("hydra.launcher.address", "hydra.launcher.env")
    own = key.startswith(("hydra.sweeper.", "hydra.launcher.")) and override.startswith("hydra")
    return elsewhere or not own


def is_setting(override: Any) -> bool:
    """Whether an override of a sweep's job is one of its training, and directs nothing."""
    return not directs(override) and not re.match(NO_SETTING, key_of(override))


def key_of(override: str) -> str:
    """The key that an override sets, adds or takes away."""
    return override.lstrip("+~").partition("=")[0]
