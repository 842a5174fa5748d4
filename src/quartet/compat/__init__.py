"""Every private name of another library, each in one function with a reason and a test."""

import atexit
import builtins
import copy
import dataclasses
import logging
import os
import pickle
import re
import threading
import warnings
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydra.core.default_element import GroupDefault
    from hydra.core.utils import JobReturn
    from lightning import LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
    from lightning.pytorch.strategies import ModelParallelStrategy
    from torch import Tensor
    from torch.optim.swa_utils import AveragedModel
    from torchmetrics import Metric

# Python


def run_exit_handlers() -> None:
    """Joins threads and runs exit handlers, but does not unload torch, which takes seconds."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()


# Hydra


def job_error(returned: "JobReturn") -> BaseException:
    """Returns the error of a failed job. The public `return_value` would print a line and raise it."""
    error: BaseException = returned._return_value
    return error


def format_value(value: Any) -> str:
    """Formats a value as an override. The public method needs a parsed override."""
    from hydra.core.override_parser.types import Override

    return Override._get_value_element_as_str(value)


@cache
def merge_callback_options() -> None:
    """Adds up the options of callbacks that files of conf/ and the command line choose.

    Hydra would keep the command line's alone. `cache`: the method is replaced once.
    """
    from hydra._internal.defaults_list import Overrides

    add_override = Overrides.add_override

    def merge_override(self: Overrides, parent_config_path: str, default: "GroupDefault") -> None:
        key = default.get_override_key()
        if key == "callbacks" and key in self.override_choices:
            choices: tuple[Any, ...] = (default.value, self.override_choices[key])
            lists = [[each] if isinstance(each, str) else each or [] for each in choices]
            self.override_choices[key] = list(dict.fromkeys([*lists[0], *lists[1]]))
        else:
            add_override(self, parent_config_path, default)

    Overrides.add_override = merge_override  # type: ignore[method-assign]


@cache
def share_settings(groups: Sequence[str]) -> None:
    """Gives ``optimizer@critic_optimizer=adam`` what conf/train.yaml sets for every optimizer.

    Hydra would set it for the group of that very name alone. `cache`: the method is replaced once.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from omegaconf import OmegaConf

    load_config = ConfigLoaderImpl._load_single_config

    def load_with_settings(self: Any, default: Any, repo: Any) -> Any:
        loaded = load_config(self, default, repo)
        group, package = default.config_path.partition("/")[0], default.package or ""
        if group in groups and re.fullmatch(rf"\w+_{group}", package):
            # The repository itself has a copy with the chosen options in it.
            shared = repo.delegate.load_config("train").config[group]
            node = OmegaConf.merge(shared, loaded.config[package])
            OmegaConf.update(loaded.config, package, node, merge=False)
        return loaded

    ConfigLoaderImpl._load_single_config = load_with_settings  # type: ignore[method-assign]


@cache
def compose_once(conf: Path) -> None:
    """Composes each choice of options of a folder once, as long as none of its files changes.

    Hydra would read and merge 30 files for each job of a sweep, and parse each reference again.
    Values of the command line are set afterwards, as before. Other folders are left to Hydra.
    `cache`: all is replaced once.
    """
    from hydra._internal import config_loader_impl
    from hydra._internal.defaults_list import DefaultsList, Overrides
    from omegaconf import OmegaConf, base

    hydra: Any = config_loader_impl
    omegaconf: Any = base
    create_list = hydra.create_defaults_list
    compose_list = hydra.ConfigLoaderImpl._compose_config_from_defaults_list
    lists: dict[Any, DefaultsList] = {}
    # Pickled, as `copy.deepcopy` of a configuration takes ten times as long.
    composed: dict[int, bytes] = {}  # by the identity of a list in `lists`
    load, loaded = OmegaConf.load, dict[str, bytes]()

    def create_once(repo: Any, config_name: Any, overrides_list: Any, **how: Any) -> DefaultsList:
        folders = [source.path for source in repo.get_sources() if source.scheme() == "file"]
        if str(conf) not in map(os.path.realpath, folders):
            made: DefaultsList = create_list(repo, config_name, overrides_list, **how)
            return made
        values = Overrides(repo, overrides_list).config_overrides
        options = [o.input_line for o in overrides_list if not any(o is each for each in values)]
        found = tuple(stamps(repo.get_sources()))
        variables = ((name, os.environ.get(name)) for name in find_variables(found))
        key = (config_name, *options, *how.values(), found, *variables)
        if len(lists) > 200:
            lists.clear()
            composed.clear()
        if key not in lists:
            lists[key] = create_list(repo, config_name, overrides_list, **how)
            composed[id(lists[key].defaults)] = b""
        return dataclasses.replace(lists[key], config_overrides=values)

    def merge_once(self: Any, defaults: Any, repo: Any) -> Any:
        known = composed.get(id(defaults))
        if known:
            return pickle.loads(known)
        made = compose_list(self, defaults, repo)
        if known is not None:
            composed[id(defaults)] = pickle.dumps(made)
        return made

    def copy_repository(self: Any, delegate: Any) -> None:
        self.delegate, self.cache = copy.copy(delegate), {}  # whose list of sources is replaced

    def load_once(file: Any) -> Any:
        text = file.read() if hasattr(file, "read") else Path(file).read_text("utf-8")
        if text not in loaded:
            if hasattr(file, "seek"):
                file.seek(0)
            loaded[text] = pickle.dumps(load(file))
        return pickle.loads(loaded[text])

    hydra.create_defaults_list = create_once
    hydra.ConfigLoaderImpl._compose_config_from_defaults_list = merge_once
    hydra.CachingConfigRepository.__init__ = copy_repository
    OmegaConf.load = load_once  # type: ignore[method-assign, assignment]
    omegaconf.parse = lru_cache(10_000)(omegaconf.parse)  # of references: ${data.num_outputs}


def stamps(sources: Sequence[Any]) -> Iterator[Any]:
    """Yields each folder from which Hydra composes, and names, times and sizes of its files."""
    for source in sources:
        found = []
        for path in yaml_files(source.path) if source.scheme() == "file" else ():
            state = path.stat()
            found.append((str(path), state.st_mtime_ns, state.st_size))
        yield source.path, tuple(sorted(found))


def yaml_files(path: str) -> Iterator[Path]:
    for folder, _, names in os.walk(path, followlinks=True):
        yield from (Path(folder, name) for name in names if name.endswith(".yaml"))


@lru_cache
def find_variables(found: Any) -> set[str]:
    """Returns the variables of the environment that files name, as `stamps` describes them."""
    texts = (Path(path).read_text("utf-8") for _, files in found for path, *_ in files)
    return {name for text in texts for name in re.findall(r"oc\.env:\s*(\w+)", text)}


def allow_lazy_help() -> None:
    """Skips a check of Python 3.14 that rejects the lazy help texts of Hydra 1.3."""
    ArgumentParser._check_help = lambda *_: None  # type: ignore[attr-defined]


def raise_errors() -> None:
    """Lets Hydra raise its errors, which it would print with its search path, and end the process."""
    from hydra._internal import utils

    utils.run_and_report = lambda func: func()


# torchmetrics


def set_update_count(metric: "Metric", count: int) -> None:
    """Sets the number of updates of a metric; at 0, as after a resume, `compute` would warn."""
    metric._update_count = count


# Lightning


def quieten() -> None:
    """Silences Lightning's messages about itself; its other warnings remain."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()  # Hydra would print every message twice
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*LeafSpec.*",  # torch 2.15 renamed what Lightning 2.6 uses
        r"Found \d+ module\(s\) in eval mode",  # frozen; check=only names them
        "The number of training batches",  # nothing is logged by step
        ".*sync_dist=True",  # the metric buffers have synchronized already
        "Total length of `list`",  # no validation part
        "You're resuming from a checkpoint that ended before the epoch ended",  # the data continues
        "Checkpoint directory .* exists and is not empty",  # a resumed run
        "Be aware that when using `ckpt_path`",  # evaluating needs no checkpoint callbacks
        ".*does not have many workers",  # small files are read faster without
        "A `OneCycleLR` scheduler is using",  # its length is counted in epochs, too
    ):
        warnings.filterwarnings("ignore", message)


@cache
def read_entry_points_once() -> None:
    """Lets trainers look once for callbacks that other packages add; it reads every package's list.

    `cache`: the function is replaced once.
    """
    from lightning.fabric.utilities import registry

    lightning: Any = registry
    lightning.entry_points = cache(lightning.entry_points)


def is_last_batch_done(trainer: "Trainer") -> bool:
    """Whether all batches of the epoch are done. Public names are wrong inside batch hooks."""
    return trainer.fit_loop.epoch_loop._num_ready_batches_reached()


def is_accumulating(trainer: "Trainer") -> bool:
    """Whether the gradients of a step are incomplete. Only Lightning counts its batches.

    In manual optimization they are, unless the first optimizer has stepped in the batch.
    """
    if trainer.lightning_module.automatic_optimization:
        return trainer.fit_loop._should_accumulate()
    has_stepped = getattr(trainer.fit_loop.epoch_loop.manual_optimization, "has_stepped", True)
    return not has_stepped and not is_last_batch_done(trainer)


def is_validation_due(trainer: "Trainer") -> bool:
    """Whether a validation after the current batch is scheduled. Only Lightning decides this."""
    loop: Any = trainer.fit_loop
    return loop.epoch_loop.is_validation_scheduled(loop._data_fetcher)  # type: ignore[no-any-return]


def is_last_step(trainer: "Trainer") -> bool:
    """Whether the training ends after the current batch."""
    loop: Any = trainer.fit_loop.epoch_loop
    return loop.is_last_step()  # type: ignore[no-any-return]


def is_step_unlogged(trainer: "Trainer") -> bool:
    """Whether the loggers will get values of a batch after its hooks, where checkpoints are saved."""
    loop = trainer.fit_loop.epoch_loop
    progress: Any = loop.batch_progress.current
    in_hook = progress.completed < progress.processed
    waits = loop._should_accumulate() and trainer.lightning_module.automatic_optimization
    return in_hook and not waits and trainer._logger_connector.should_update_logs


def logger_step(trainer: "Trainer") -> int:
    """The step that the loggers wrote last. It differs from ``global_step`` where batches skip."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped - 1


def add_logger_step(loop_state: dict[str, Any]) -> None:
    """Adds the last batch to the count of a saved loop. Lightning adds it after the checkpoint."""
    loop_state["_batches_that_stepped"] += 1


def logged_values(trainer: "Trainer") -> "dict[str, Tensor]":
    """The values that the loggers get at the end of the epoch. ``logged_metrics`` rounds them."""
    values: Any = trainer._logger_connector.metrics["log"]
    return values  # type: ignore[no-any-return]


def logged_metrics(trainer: "Trainer", of_training: bool) -> set[int]:
    """The ids of metrics that were logged as objects, in validation and perhaps in training."""
    loop = trainer.fit_loop.epoch_loop
    results = [loop.val_loop._results, *([loop._results] if of_training else [])]
    return {id(result.value) for each in results if each for result in each.values()}


LOG_SETTINGS = (
    *("prog_bar", "logger", "on_step", "on_epoch", "enable_graph", "add_dataloader_idx"),
    "metric_attribute",
)


def save_logged(trainer: "Trainer") -> list[dict[str, Any]]:
    """Returns what ``self.log`` has gathered in the epoch, which Lightning leaves out of checkpoints.

    Without the states of metrics that were logged as objects.
    """
    from torch import Tensor

    saved = []
    for result in trainer.fit_loop.epoch_loop._results.values():
        if result.has_reset:  # of the epoch before
            continue
        meta, parts = result.meta, ("value", "cumulated_batch_size", "_forward_cache")
        tensors = {name: getattr(result, name, None) for name in parts}
        saved.append(
            {
                "fx": meta.fx,
                "name": meta.name,
                "settings": {name: getattr(meta, name) for name in LOG_SETTINGS},
                "reduce": (meta.reduce_fx.__name__, meta.reduce_fx in (max, min, sum)),
                "sync": (meta.sync.should, meta.sync.rank_zero_only),
                "is_metric": not result.is_tensor,
                "tensors": {k: v.detach() for k, v in tensors.items() if isinstance(v, Tensor)},
            }
        )
    return saved


def load_logged(trainer: "Trainer", saved: list[dict[str, Any]]) -> None:
    """Restores what `save_logged` returned, in the course of an epoch."""
    import torch

    module, results = trainer.lightning_module, trainer.fit_loop.epoch_loop._results
    for each in saved:
        name, settings = each["name"], each["settings"]
        reduce_name, is_builtin = each["reduce"]
        sync_dist, rank_zero_only = each["sync"]
        value: Any = torch.zeros(())
        if each["is_metric"]:
            value = module.get_submodule(settings["metric_attribute"])
        results.log(
            each["fx"],
            name,
            value,
            **settings,
            reduce_fx=getattr(builtins if is_builtin else torch, reduce_name),
            sync_dist=sync_dist,
            sync_dist_fn=trainer.strategy.reduce,
            rank_zero_only=rank_zero_only,
        )
        for key, tensor in each["tensors"].items():
            on_device = tensor if key == "cumulated_batch_size" else tensor.to(module.device)
            setattr(results[f"{each['fx']}.{name}"], key, on_device)
    # The next batch is not the first of its epoch, with which Lightning begins all values anew.
    trainer._logger_connector._first_loop_iter = True


def start_new_epoch(trainer: "Trainer") -> None:
    """Starts a new epoch after a resume. With ``max_steps`` a finished epoch would end again."""
    loop = trainer.fit_loop
    loop._restarting = loop.epoch_loop.restarting = False


def save_checkpoint(callback: "ModelCheckpoint", trainer: "Trainer", path: str) -> None:
    """Saves the checkpoint of a callback. ``trainer.save_checkpoint`` does not call the loggers."""
    callback._save_checkpoint(trainer, path)


def get_trainer(module: "LightningModule") -> "Trainer | None":
    """Returns the trainer of a module, or None, for which ``module.trainer`` raises an error."""
    return module._trainer


def get_average(callback: "WeightAveraging") -> "AveragedModel | None":
    """Returns the averaged model of a callback, None before the training. It has no public name."""
    return callback._average_model


def set_last_update(callback: "WeightAveraging", step: int) -> None:
    """Sets the optimizer step of the last update, for an update without Lightning's hook."""
    callback._latest_update_step = step


def last_update(callback: "WeightAveraging") -> int:
    """The optimizer step of the last update, so that no step is averaged twice."""
    return callback._latest_update_step


def set_data_parallel_size(strategy: "ModelParallelStrategy", size: int) -> None:
    """Sets the number of processes that shard a model. Lightning's default is that of the nodes."""
    strategy._data_parallel_size = size


def skip_nvml() -> None:
    """Removes the environment variable of Lightning for which Adam queries NVML in each step."""
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)


def was_started(logger: Any) -> bool:
    """Whether a W&B logger has started its run. The public `experiment` would start it."""
    return logger._experiment is not None
