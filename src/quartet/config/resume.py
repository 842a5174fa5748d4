"""Where a run continues, and what may change: its length and how it is watched, nothing else."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from quartet.config.configuration import to_container
from quartet.config.records import flatten
from quartet.core.problems import ConfigError, Problem
from quartet.records.run_directory import list_configs, read_result

LENGTH = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time")
CHANGEABLE = (
    *("resume", "check", "directory", *LENGTH, "callbacks", "logger"),
    *("data.num_workers", "data.eval_batch_size", "data.dir"),
    *("trainer.log_every_n_steps", "trainer.profiler", "trainer.limit_test_batches"),
)
# Callbacks that change what is trained, or which of its checkpoints there are.
TRAINING = (
    *("callbacks.ema", "callbacks.swa", "callbacks.unfreeze", "callbacks.best"),
    *("callbacks.last.dirpath", "callbacks.last.filename"),
)
# Ranges for a search.
SEARCH = re.compile(r"(loss|model|optimizer|scheduler)\.search(\.|$)")
HORIZONS = ("T_max", "total_iters", "total_steps")


@dataclass(frozen=True)
class Place:
    """The checkpoint with which a run continues.

    Attributes:
        checkpoint: The file; None for the beginning, if the run was cut off before its first one.
        epoch: Its epoch, from 0.
        extended: Whether the training continues beyond the end that it had.
    """

    checkpoint: Path | None
    epoch: int
    extended: bool


def place_of(cfg: DictConfig) -> Place | None:
    """Where ``resume=DIR`` continues; None if there is nothing left to do.

    Raises:
        quartet.core.problems.ConfigError: there is no such run, it has finished without a checkpoint, all of
            them are damaged, or `cfg` would train something else.
    """
    from quartet.checkpoints.storage import CheckpointError, find_newest, load

    directory = Path(cfg.resume)
    begun = list_configs(directory)
    if not begun:
        message = f"holds no run: {directory}/.hydra is missing."
        raise ConfigError(Problem("resume", message, directory))
    if problems := changes(flat(begun[0]), flat(cfg), str(directory)):
        raise ConfigError(*problems)
    finished = read_result(directory).get("status") == "finished"
    if not finished and not any(directory.glob("checkpoints/*.ckpt")):
        return Place(None, 0, extended=False)
    try:
        path = find_newest(directory / "checkpoints")
        saved = load(path)
    except FileNotFoundError:  # none but within a step, whose gradients no checkpoint holds
        return Place(None, 0, extended=False)
    except CheckpointError as error:
        raise ConfigError(Problem("resume", f"{error} Start it anew.", directory)) from None
    # By the checkpoint and not by the records: a start that was killed at once left one, too.
    extended = saved.get("resume_state", {}).get("end") != end(cfg)
    if finished and not extended:
        return None
    longer = directory / "checkpoints" / "mid_epoch.ckpt"
    if extended and longer.exists():
        try:
            return Place(longer, load(longer)["epoch"], extended)
        except CheckpointError as error:
            message = (
                f"{error} The run ended within an epoch, and only this checkpoint could continue "
                "it; start a run of its own without resume."
            )
            raise ConfigError(Problem("resume", message, directory)) from None
    return Place(path, saved["epoch"], extended)


def end(cfg: DictConfig) -> str:
    """What decides when a training ends: its length, and callbacks that may stop it."""
    callbacks = to_container(cfg.callbacks, resolve=False)
    stopping = {k: v for k, v in callbacks.items() if k not in ("best", "last", "progress_bar")}
    length = {key: OmegaConf.select(cfg, key) for key in LENGTH}
    return json.dumps({**length, "callbacks": stopping}, sort_keys=True, default=str)


def changes(before: Mapping[str, Any], now: Mapping[str, Any], directory: str) -> list[Problem]:
    """The changes that would make the run another one, a problem for each key."""

    def within(key: str, names: tuple[str, ...]) -> bool:
        return any(key == name or key.startswith(f"{name}.") for name in names)

    problems = [
        Problem(key, change)
        for key, change in list_changes(before, now).items()
        if within(key, TRAINING) or not within(key, CHANGEABLE)
    ]
    if problems:
        message = (
            "continues the same training, which this would change; leave it out, or start a run of "
            f"its own without resume. These may change: {', '.join(CHANGEABLE[3:])}."
        )
        problems.append(Problem("resume", message, directory))
    return problems


def list_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """The keys whose values differ, each with ``OLD -> NEW``."""
    return {
        key: f"{before.get(key)} -> {now.get(key)}"
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key)
    }


def check_length(
    cfg: DictConfig, reached: int, steps_per_epoch: int, total_steps: float
) -> Iterator[Problem]:
    """Checks whether a training that has reached an epoch can have its new length."""
    length = cfg.trainer.max_epochs
    if length not in (None, -1) and length < reached:
        message = (
            f"lies before epoch {reached + 1}, which the run has reached; leave it out, or set a "
            "larger number."
        )
        yield Problem("trainer.max_epochs", message, length)
        return
    before = OmegaConf.load(list_configs(Path(cfg.resume))[0]).trainer
    unset = [
        f"scheduler.{key}"
        for key in HORIZONS
        if key in cfg.scheduler and cfg.scheduler[key] is None
    ]
    unset += ["callbacks.swa.start"] if cfg.callbacks.get("swa") else []
    epochs, steps = before.max_epochs, before.max_steps
    planned = math.inf if epochs in (None, -1) else epochs * steps_per_epoch
    planned = planned if steps == -1 else min(planned, steps)
    if unset and planned != total_steps:
        message = (
            f"was derived from the length of the training, {planned:g} steps, and would be another "
            f"for {total_steps:g}; leave the length as it was, or start a run of its own "
            "without resume."
        )
        yield Problem(unset[0], message)


def flat(source: Path | DictConfig) -> dict[str, Any]:
    """Dotted keys and resolved values of a configuration, less where a search may look."""
    cfg: Any = (OmegaConf.load(source) if isinstance(source, Path) else source).copy()
    with open_dict(cfg):
        cfg.pop("hydra", None)
    return {key: value for key, value in flatten(to_container(cfg)) if not SEARCH.match(key)}
