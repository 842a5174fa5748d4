"""Builds the parts of a configuration one after the other, and collects what is wrong with them."""

import copy
import inspect
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import seed_everything

from quartet.checkpoints.callbacks import check_checkpoints
from quartet.config import allow, instantiate
from quartet.config.configuration import Configuration
from quartet.config.overrides import base_group, check_search_ranges, find_groups
from quartet.core.messages import join_and, join_or
from quartet.core.problems import (
    Config,
    ConfigError,
    Context,
    Problem,
    Problems,
    TrainingError,
    collect_problems,
    describe_exception,
    wrong_keys,
)
from quartet.data.loader import seeded
from quartet.data.task import StandardTask, create_task
from quartet.parts.fsdp import check_sharding
from quartet.training import parameters
from quartet.training.callbacks.averaging import check_averages
from quartet.training.metric_buffer import copy_metrics
from quartet.training.module import MissingLossError, Module
from quartet.validation import data, dry_run, keys, length, settings
from quartet.validation.data import check_augmentation

SHAPES = ("data.task", "data.input_shape", "data.num_outputs", "data.num_classes")
# Settings of the loader: the data can be read though they are wrong.
LOADER_KEYS = {
    f"data.{key}"
    for key in instantiate.POLICY_KEYS["data"]
    if key not in ("task", "dir", "folds", "fold")
}

# Callbacks of which the values that they log are known.
SHIPPED_CALLBACK = re.compile(r"(quartet|lightning)\.")


class Builder:
    """Checks a configuration and makes its parts.

    Attributes:
        config: The configuration; metadata of the data and the monitor are filled in.
        prepared: Metadata of the data of the run that is built again; None for a new one.
        problems: Those found so far.
        unchecked: What could not be checked, and why.
        cautions: What a user should know of the data.
        unused: Groups whose parts a foreign module does not take.
        logged: Names of the values that loss and metrics log, such as accuracy.
        trial: The steps of the module, if they can be tried.
        parts: What was made, by name: the groups, ``shapes`` and ``steps``.
    """

    def __init__(self, config: Configuration, prepared: Mapping[str, Any] | None = None) -> None:
        self.config, self.prepared = config, prepared
        self.problems: list[Problem] = []
        self.unchecked: list[str] = []
        self.cautions: list[str] = []
        self.unused: list[str] = []
        self.logged: list[str] = []
        self.trial: dry_run.StepTrial | None = None
        self.parts: dict[str, Any] = {}

    def run(self) -> None:
        """Runs each check and makes each part, where all that it needs is there and valid."""
        config, parts = self.config, self.parts
        problems = list(keys.check_keys(config))
        self.unused = instantiate.unused_groups(config)
        required = list(settings.check_requirements(config, self.unused))
        # Options of these groups may refer to what other data does not have.
        apart = {*self.unused, *(problem.key for problem in required)}
        self.problems += [p for p in problems if p.key.partition(".")[0] not in apart] + required
        self.problems += allow.find_problems(config.to_dict())
        self.problems += settings.check_unused(config, self.unused) if self.unused else []
        self.unchecked += settings.describe_unchecked(config)
        self.check_data_settings()
        self.make_data()
        self.check_settings()
        if self.is_valid("seed"):
            seed_everything(config["seed"], workers=True, verbose=False)
        if instantiate.is_foreign(config, "module"):
            self.make_foreign_module()
        else:
            self.make_module_parts()
        if self.has("data", "trainer") and self.is_valid("data", "trainer"):
            world_size = parts["trainer"].world_size
            module, share = parts.get("module"), None
            if module is not None and not module.automatic_optimization:
                share = getattr(module, "batches_per_step", 1)  # else the trainer says it
            parts["steps"] = length.count_steps(config, parts["data"], world_size, share)
        if self.has("trainer", "model") and self.is_valid(*find_groups(config, "optimizer")):
            self.problems += self.ask_parts()
        if "module" in parts:
            self.problems += check_manual_optimization(config["trainer"], parts["module"])
        if self.has("module", "steps") and not instantiate.is_foreign(config, "module"):
            self.try_optimizers()
        if "steps" in parts:
            self.problems += length.check_limits(config, parts["data"], world_size)
        if self.has("steps", "model"):
            self.problems += length.check_smallest_batch(
                config, parts["data"], parts["model"], world_size, self.trial
            )
        if self.has("data", "shapes"):
            if parts["data"].loaded:
                self.problems += data.check_contents(parts["data"], config)
            self.unchecked += data.list_unchecked(parts["data"])
            if not self.problems and parts["data"].loaded:
                self.cautions += data.list_cautions(parts["data"], config)

    def make_module_parts(self) -> None:
        """Makes and tries what the engine's own module takes, and the trainer."""
        if "shapes" in self.parts:
            data = self.parts.get("data")
            self.make("model", lambda config: instantiate.build_model(config, data))
            for group in find_groups(self.config, "optimizer"):
                if "model" in self.parts and self.is_valid(f"{group}.freeze"):
                    with self.collect(group, ["freeze"]):
                        parameters.freeze(self.parts["model"], self.config[group]["freeze"])
            self.make("loss", instantiate.build_loss)
            self.make("metrics", instantiate.build_metrics)
            self.try_parts()
            self.try_steps()
        if "metrics" in self.parts and self.is_valid("module._target_"):
            self.resolve_monitor()
            schedulers = find_groups(self.config, "scheduler")
            for group in schedulers if self.is_valid("monitor") else ():
                self.make(group, partial(instantiate.build_scheduler, group=group))
            if self.is_valid("monitor", "callbacks", "logger", *schedulers):
                self.make("trainer", instantiate.build_trainer)
        for group in find_groups(self.config, "optimizer"):
            self.make(group, partial(instantiate.build_optimizer, group=group))
        if self.has("trainer", *instantiate.module_groups(self.config)) and self.is_valid("data"):
            self.make("module", lambda config: instantiate.build_module(config, self.parts))
        if "module" in self.parts:
            self.problems += check_hooks(type(self.parts["module"]))

    def make_foreign_module(self) -> None:
        """Makes a module that knows nothing of this engine, and its trainer."""
        config = self.config
        taken = [g for g in instantiate.module_groups(config) if g not in self.unused]
        self.problems += settings.resolve_foreign_monitor(config)
        made = {}
        for group in taken:
            if self.is_valid(group):
                with self.collect(group):
                    made[group] = instantiate.build_foreign_part(config, group)
        if self.is_valid("module", *taken):
            create = instantiate.make(instantiate.split_node(config, "module")[0], partial=True)
            self.make("module", lambda _: create(**made))
        if self.is_valid("monitor", "callbacks", "logger"):
            self.make("trainer", instantiate.build_trainer)

    def is_valid(self, *names: str) -> bool:
        """Whether these keys, and all below them, have no problem."""
        return wrong_keys(self.problems).isdisjoint(names)

    def has(self, *names: str) -> bool:
        """Whether these parts were made."""
        return self.parts.keys() >= set(names)

    def find_wrong(self) -> set[str]:
        """The keys that have problems, and those whose values refer to them."""
        return self.config.find_dependents(wrong_keys(self.problems))

    def collect(self, group: str, names: list[str] | None = None) -> AbstractContextManager[Any]:
        """Collects what a part says of its arguments."""
        names = instantiate.argument_names(self.config, group) if names is None else names
        return collect_problems(self.problems, group, names)

    def make(self, group: str, create: Callable[[Configuration], Any]) -> None:
        """Makes the part of a group, if no problem is known of it."""
        if self.is_valid(group):
            with self.collect(group):
                self.parts[group] = create(self.config)

    def check_data_settings(self) -> None:
        is_own = not instantiate.is_foreign(self.config, "data")
        self.problems += keys.check_policy(self.config, "data", self.find_wrong())
        self.problems += [] if is_own else settings.check_foreign_data(self.config)
        if (is_own or not self.unused) and self.is_valid("data.task"):
            self.problems += settings.check_task(self.config["data"]["task"])
        if is_own:
            self.problems += settings.check_folds(self.config["data"], wrong_keys(self.problems))
        self.problems += keys.check_parts(self.config, "data", self.find_wrong())

    def make_data(self) -> None:
        """Makes the data, and finds the shapes of its samples."""
        if instantiate.is_foreign(self.config, "data"):
            if self.is_valid("data"):
                with self.collect("data"):
                    node = instantiate.split_node(self.config, "data")[0]
                    self.parts["foreign_data"] = instantiate.make(node)
            if self.unused:
                return
        else:
            wrong = {key for key in wrong_keys(self.problems) if re.fullmatch(r"data\.\w+", key)}
            if not wrong - LOADER_KEYS:
                with self.collect("data", [*self.config["data"], *instantiate.KEY_TYPES["data"]]):
                    self.parts["data"] = instantiate.build_data(self.config, self.prepared)
        group = self.config["data"]
        if self.is_valid(*SHAPES):
            self.problems += settings.check_outputs(group)
        if self.is_valid("data", *SHAPES):
            self.problems += settings.check_shapes(group)
        shapes = group["input_shape"], group["num_outputs"]
        made = self.parts.keys() & {"data", "foreign_data"} and "." in group["task"]
        if self.is_valid(*SHAPES) and (None not in shapes or made):
            self.parts["shapes"] = shapes

    def check_settings(self) -> None:
        """Checks the settings of all groups but data, and whether they agree."""
        config = self.config
        if self.is_valid("data.task") and not self.unused:
            self.problems += self.check_tasks(config["data"]["task"])
            task = create_task(config["data"]["task"])
            self.problems += settings.check_thresholds(config["metrics"], task)
        unsuited = wrong_keys(self.problems)
        bases = [group for group in allow.PART_GROUPS if group != "data"]
        groups = [group for base in bases for group in find_groups(config, base)]
        groups = [group for group in groups if group not in self.unused]
        for group in ("", "monitor", *groups):
            if group in unsuited and group in groups:
                continue
            self.problems += keys.check_policy(config, group, self.find_wrong())
            if "search" in instantiate.POLICY_KEYS.get(base_group(group), ()):
                self.problems += check_search_ranges(group, config[group])
            if group in groups:
                known = "shapes" in self.parts
                problems = keys.check_parts(config, group, self.find_wrong(), known)
                self.problems += map(self.explain_unknown, problems)
        unused = [*self.unused, *(["data"] if instantiate.is_foreign(config, "data") else [])]
        self.problems += settings.check_settings(config, wrong_keys(self.problems), unused)

    def explain_unknown(self, problem: Problem) -> Problem:
        """Says of a null that refers to the data that the data does not know it."""
        for key in ("input_shape", "num_classes", "num_outputs"):
            unknown = problem.value is None and self.config["data"][key] is None
            if unknown and problem.key in self.config.find_dependents([f"data.{key}"]):
                message = f"{problem.message} The data does not tell it; set data.{key}."
                return replace(problem, message=message)
        return problem

    def check_tasks(self, task: str) -> Problems:
        """Yields options that are made for other tasks than that of the data."""
        name = create_task(task).name
        for group in ("loss", "metrics"):
            tasks = self.config[group].get("tasks")
            if tasks is not None and name not in tasks and self.is_valid(group):
                default = self.config[group].get("_target_", group)
                options = instantiate.find_options(group, name)
                way_out = f"use {group}={join_or(options)}"
                if not options:
                    option = self.config.options.get(group) or "OPTION"
                    way_out = f"add {name} to tasks in conf/{group}/{option}.yaml"
                message = f"is for {join_and(tasks)} tasks, and the data's is {name}; {way_out}."
                yield Problem(group, message, self.config.options.get(group) or default)

    def try_parts(self) -> None:
        """Tries loss, metrics and model on made-up samples."""
        config, parts = self.config, self.parts
        task = create_task(config["data"]["task"], config["data"]["num_outputs"])
        trial = dry_run.PartTrial(task, instantiate.metric_heads(config), self.class_names())
        self.logged = trial.logged
        if not isinstance(task, StandardTask):
            self.try_own_task(trial)
        elif parts.get("loss"):  # with loss=none the model has it
            names = instantiate.argument_names(config, "loss")
            self.problems += trial.check_loss(parts["loss"], task.example(), names)
        if trial.adds_up:
            message = "the loss is a sum over the samples of a batch, so its values depend on"
            others = "data.batch_size and data.eval_batch_size; those of a mean do not"
            self.cautions.append(f"{message} {others}")
        if not isinstance(task, StandardTask):
            return
        if self.is_valid("loss"):
            self.problems += dry_run.check_mixing(config["data"], parts.get("loss"), task)
        for name, metric in parts.get("metrics", {}).items():
            self.problems += trial.check_metric(name, metric, task.example())
        if "model" in parts:
            shape, outputs = parts["shapes"]
            inputs = torch.zeros(2, *shape)
            self.problems += dry_run.check_model(parts["model"], inputs, outputs)
            has_channels = any(parameter.ndim == 4 for parameter in parts["model"].parameters())
            if config["trainer"]["channels_last"] is True and not has_channels:
                message = "the model has no convolutions of images; leave it false."
                self.problems.append(Problem("trainer.channels_last", message, True))

    def class_names(self) -> list[str]:
        """Names of the classes, if the data is there."""
        data = self.parts.get("data")
        if data is None or not data.loaded:
            return []
        return create_task(data.task).names(data.metadata())

    def try_own_task(self, trial: dry_run.PartTrial) -> None:
        """Tries model, loss and metrics on two samples of the training part, if it is at hand."""
        loss = self.parts.get("loss")
        self.problems += dry_run.check_mixing(self.config["data"], loss, trial.task)
        data = self.parts.get("data")
        if data is None or not data.loaded:
            self.unchecked.append("model, loss and metrics: they are tried on data that is there")
            return
        problems: list[Problem] = []
        with self.collect("data"):
            is_wrong = any(check_augmentation(data))
            batch = data.first_batch(2, augment=None if is_wrong else data.parts.augment)
            problems += trial.check_batch(batch, self.parts)
            again = partial(dry_run.PartTrial, trial.task, trial.heads, trial.names)
            if not trial.is_finite and not problems:  # a larger batch may have a loss
                size = self.config["data"]["batch_size"]
                larger, whole = again(), data.first_batch(512 if size == "full" else size)
                if not any(larger.check_batch(whole, self.parts)) and not larger.is_finite:
                    message = "is NaN or infinite for the first batch, before any training"
                    problems.append(Problem("loss", f"{message}; check its settings and the data."))
            for part in ("val", "test"):
                if getattr(data.parts, part) is not None and not problems:
                    problems += again().check_batch(data.first_batch(2, part), self.parts, part)
        self.problems += problems

    def try_steps(self) -> None:
        """Tries the steps of the module on two samples of the training part, if it is at hand."""
        data = self.parts.get("data")
        optimizers = find_groups(self.config, "optimizer")
        groups = ["data", "model", "loss", "metrics", "module"]
        groups += [f"{group}.freeze" for group in optimizers]
        if data is None or not data.loaded or not self.is_valid(*groups):
            return
        copies = {name: copy.deepcopy(self.parts[name]) for name in ("model", "loss")}
        copies["metrics"] = copy_metrics(self.parts["metrics"])
        with self.collect("module"), seeded(0):
            factories = dict.fromkeys([*optimizers, *find_groups(self.config, "scheduler")])
            module = instantiate.build_module(self.config, copies | factories)
            if hasattr(module.loss, "fit") and data.knows_targets():
                module.loss.fit(data.targets())
            trial = dry_run.StepTrial(module, self.class_names())
        if not self.is_valid("module"):
            return
        try:
            trial.find_names(data.first_batch(2))
        except MissingLossError as error:
            self.problems.append(describe_exception("loss", error, []))
        except ConfigError as error:
            self.problems += error.problems
        except TrainingError as error:
            self.problems.append(describe_exception("module", error, []))
        except Exception as error:  # of the project's code, which may need its trainer
            cause = describe_exception("module", error, []).message.rstrip(".")
            self.unchecked.append(f"the steps of the module, which need a training: {cause}")
        else:
            self.trial = trial

    def resolve_monitor(self) -> None:
        if self.is_valid("data", "trainer") and self.has("data"):
            length.resolve_interval(self.config, self.parts["data"])
        if self.is_valid("monitor"):
            validates = length.validates(self.config, self.parts.get("data"))
            logged = self.find_logged(validates)
            wrong = wrong_keys(self.problems)
            self.problems += settings.resolve_monitor(self.config, logged, wrong)

    def find_logged(self, validates: bool) -> settings.Logged:
        """Returns what is known of the values that the training will log."""
        losses, metrics = ["loss", *self.logged], self.parts["metrics"]
        if self.trial:
            names = sorted(self.trial.logged, key=lambda name: name.startswith("train/"))
        else:
            tried = [f"{name}_" for name in self.logged]  # accuracy_cat is of accuracy
            untried = [m for m in metrics if not any(name.startswith(f"{m}_") for name in tried)]
            both = dict.fromkeys(["loss", *untried, *self.logged])
            names = [f"{part}/{name}" for part in ("val", "train") for name in both]
        module: Any = allow.locate(self.config["module"]["_target_"])
        names += getattr(module, "logs", ())
        # Hooks of the module's own may log, and are not tried.
        hooks = [name for name in dir(module) if name.startswith("on_")]
        own = any(getattr(module, name) is not getattr(Module, name, None) for name in hooks)
        nodes = self.config["callbacks"].values()
        callbacks = [str(node.get("_target_")) for node in nodes if node]
        shipped = all(map(SHIPPED_CALLBACK.match, callbacks))
        complete = self.trial is not None and not own and shipped
        return settings.Logged(metrics, losses, names, complete, validates, self.unchecked)

    def ask_parts(self) -> Problems:
        """Yields what the parts that have a method ``problems`` find, and looks at Lightning's."""
        trainer, directory = self.parts["trainer"], Path(self.config["directory"])
        steps = self.parts.get("steps", (1, 1))[1]  # without them the data or the trainer is wrong
        context = Context(self.parts["model"], trainer, self.config, directory, steps)
        for check in (check_averages, check_checkpoints, check_sharding, settings.check_cores):
            yield from check(context)
        parts = [self.parts[name] for name in ("model", "loss") if name in self.parts]
        for part in (*parts, *trainer.callbacks, *trainer.loggers, trainer.strategy):
            if callable(method := getattr(part, "problems", None)):
                yield from method(context)

    def try_optimizers(self) -> None:
        """Makes the optimizers and schedulers of the module on trial."""
        module = self.parts["module"]
        buffers = (module.train_metrics, module.val_metrics, module.test_metrics)
        module = copy.deepcopy(module, {id(each): each for each in buffers})  # which are not used
        for factories in (module.optimizer_factories, module.scheduler_factories):
            for group, factory in factories.items():
                factories[group] = partial(self.try_factory, group, factory)
        steps, total = self.parts["steps"]
        with suppress(StopTrial), self.collect("module"):
            try:
                module.try_optimizers(steps, total, self.config["trainer"])
            except RuntimeError as error:
                if "not attached" not in str(error):
                    raise
                self.unchecked.append("optimizers: configure_optimizers needs the trainer")
                return
            self.problems += check_optimizers(self.config, module, self.unchecked)

    def try_factory(self, group: str, factory: Any, *args: Any, **kwargs: Any) -> Any:
        with self.collect(group):
            return factory(*args, **kwargs)
        raise StopTrial


class StopTrial(Exception):
    """A trial ends, and its problem is known."""


def check_hooks(kind: type[Module]) -> Problems:
    """Hooks of a project's module must call those of the base, which do more than Lightning's."""
    classes = kind.__mro__[: kind.__mro__.index(Module)]
    for name in (name for name in vars(Module) if name == "setup" or name.startswith("on_")):
        for each in classes:
            code = getattr(inspect.unwrap(vars(each).get(name, print)), "__code__", None)
            if code and name not in code.co_names:
                message = f"{each.__name__}.{name} leaves out what quartet.Module does there; call super().{name}"
                arguments = ", ".join(list(inspect.signature(getattr(Module, name)).parameters)[1:])
                yield Problem("module", f"{message}({arguments}) in it.")


def check_manual_optimization(trainer: Config, module: Any) -> Problems:
    """A module that takes the optimizer steps itself also clips and accumulates gradients itself."""
    if module.automatic_optimization:
        return
    own = "the module takes its optimizer steps itself"
    if (value := trainer["gradient_clip_val"]) is not None:
        call = "self.clip_gradients(optimizer, gradient_clip_val=1)"
        message = f"{own}; leave it out, and call {call} before optimizer.step()."
        yield Problem("trainer.gradient_clip_val", message, value)
    if (value := trainer["accumulate_grad_batches"]) != 1:
        message = f"{own}; set 1, or a larger data.batch_size, or batches_per_step of it."
        yield Problem("trainer.accumulate_grad_batches", message, value)


def check_optimizers(config: Config, module: Any, unchecked: list[str]) -> Problems:
    """The optimizers and schedulers of a module must be those that the configuration sets."""
    made = {
        "optimizer": list(module.made_optimizers.values()),
        "scheduler": [schedule.group for schedule in module.schedules],
    }
    if module.automatic_optimization and len(made["optimizer"]) > 1:
        message = (
            f"makes {len(made['optimizer'])} optimizers, and automatic optimization has one; set "
            "self.automatic_optimization = False, and step them in training_step."
        )
        yield Problem("module", message)
    for base, used in made.items():
        for group in find_groups(config, base):
            if group == base and group not in used and config[group]["_target_"]:
                unchecked.append(f"{group}: the module makes none of it")
            elif group not in used and group != base:
                call = f"call self.make_{base}(..., name='{group}') in its configure_optimizers"
                message = f"the module makes no such {base}; {call}, or leave the group out."
                yield Problem(group, message)
    for schedule in module.schedules:
        horizon, ticks = getattr(schedule.main, "T_max", None), schedule.ticks
        if horizon is not None and ticks is not None and horizon < ticks:
            message = f"ends before the training, whose schedule has {ticks} ticks, and the rate"
            message += " would rise again; set null, or use cosine_restarts."
            yield Problem(f"{schedule.group}.T_max", message, horizon)
