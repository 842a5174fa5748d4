"""The stages of a build: each checks or makes something, once what it needs is right and there."""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning import seed_everything

from quartet.checkpoints.callbacks import check_directories
from quartet.config import allow, search_ranges
from quartet.config.configuration import Configuration
from quartet.config.groups import (
    KEY_TYPES,
    PART_GROUPS,
    POLICY_KEYS,
    argument_names,
    find_options,
    split_node,
)
from quartet.config.instantiate import (
    build_data,
    build_metrics,
    build_model,
    build_module,
    build_optimizer,
    build_scheduler,
    build_trainer,
    make,
)
from quartet.core.problems import Context, Problem, collect_problems, wrong_keys
from quartet.data.task import Task, find_task
from quartet.parts.fsdp import check_sharding
from quartet.training import parameters
from quartet.training.callbacks.averaging import check_averages
from quartet.validation import data, dry_run, keys, length, monitor, settings

SHAPES = ("data.task", "data.input_shape", "data.num_outputs", "data.num_classes")
# Settings of the loader: the data can be read though they are wrong.
LOADER_KEYS = {
    f"data.{key}" for key in POLICY_KEYS["data"] if key not in ("task", "dir", "folds", "fold")
}


@dataclass
class Build:
    """What the stages of a build share.

    Attributes:
        config: The configuration; facts of the data and the monitor are filled in.
        problems: Those found so far.
        parts: What was made, by name: the groups, ``shapes`` and ``steps``.
    """

    config: Configuration
    problems: list[Problem] = field(default_factory=list)
    parts: dict[str, Any] = field(default_factory=dict)

    def is_valid(self, *names: str) -> bool:
        """Whether these keys, and all below them, have no problem."""
        return wrong_keys(self.problems).isdisjoint(names)

    def find_wrong(self) -> set[str]:
        """The keys that have problems, and those whose values refer to them."""
        return self.config.find_dependents(wrong_keys(self.problems))


@dataclass(frozen=True)
class Stage:
    """One step of a build.

    Attributes:
        name: What it checks or makes.
        run: Yields problems, and may put what it makes into the parts of the build.
        valid: Keys that must be free of problems before it can run.
        made: Parts that must be there.
    """

    name: str
    run: Callable[[Build], Iterable[Problem]]
    valid: tuple[str, ...] = ()
    made: tuple[str, ...] = ()


def run_stages(build: Build, stages: Sequence[Stage]) -> None:
    """Runs the stages whose needs are met, in order, and collects their problems."""
    for stage in stages:
        if build.is_valid(*stage.valid) and build.parts.keys() >= set(stage.made):
            for problem in stage.run(build):
                build.problems.append(problem)


# Keys and values


def check_keys(build: Build) -> Iterator[Problem]:
    yield from keys.check_keys(build.config)


def check_targets(build: Build) -> Iterator[Problem]:
    yield from allow.find_problems(build.config.to_dict())


def check_data_settings(build: Build) -> Iterator[Problem]:
    yield from keys.check_policy(build.config, "data", build.find_wrong())
    yield from settings.check_folds(build.config["data"], wrong_keys(build.problems))
    yield from keys.check_parts(build.config, "data", build.find_wrong())


def make_data(build: Build) -> Iterator[Problem]:
    wrong = {key for key in wrong_keys(build.problems) if re.fullmatch(r"data\.\w+", key)}
    if not wrong - LOADER_KEYS:
        names = [*build.config["data"], *KEY_TYPES["data"]]
        yield from make_part(build, "data", lambda: build_data(build.config), names)


def find_shapes(build: Build) -> Iterator[Problem]:
    group = build.config["data"]
    yield from settings.check_outputs(group)
    if build.is_valid(*SHAPES) and None not in (group["input_shape"], group["num_outputs"]):
        build.parts["shapes"] = (group["input_shape"], group["num_outputs"])


def check_tasks(build: Build) -> Iterator[Problem]:
    name = build.config["data"]["task"]
    for group in ("loss", "metrics"):
        node = build.config[group]
        option = build.config.options.get(group) or node.get("_target_", group)
        others = find_options(group, name)
        yield from settings.check_task(group, option, node.get("tasks"), name, others)


def check_part_settings(build: Build) -> Iterator[Problem]:
    config, unsuited = build.config, wrong_keys(build.problems)
    for group in ("", "monitor", *PART_GROUPS):
        if group in unsuited and group in PART_GROUPS:
            continue
        yield from keys.check_policy(config, group, build.find_wrong())
        if "search" in POLICY_KEYS.get(group, ()):
            yield from search_ranges.check_search_ranges(group, config[group])
        if group in PART_GROUPS:
            known = "shapes" in build.parts
            yield from keys.check_parts(config, group, build.find_wrong(), known)


def check_contradictions(build: Build) -> Iterator[Problem]:
    yield from settings.check_settings(build.config, wrong_keys(build.problems))


# Parts


def make_part(
    build: Build, name: str, create: Callable[[], Any], names: Iterable[str]
) -> Iterator[Problem]:
    """Makes a part; what it says of its arguments are problems."""
    problems: list[Problem] = []
    with collect_problems(problems, name, names):
        build.parts[name] = create()
    yield from problems


def part_stage(
    group: str,
    create: Callable[[Configuration], Any],
    valid: tuple[str, ...] = (),
    made: tuple[str, ...] = (),
) -> Stage:
    """The stage that makes the part of a group, which must have no problem."""

    def run(build: Build) -> Iterator[Problem]:
        names = argument_names(build.config, group)
        yield from make_part(build, group, lambda: create(build.config), names)

    return Stage(group, run, (group, *valid), made)


def seed(build: Build) -> Iterator[Problem]:
    seed_everything(build.config["seed"], workers=True, verbose=False)
    yield from ()


def build_loss(config: Configuration) -> Any:
    return make(split_node(config, "loss")[0])


def resolve_monitor(build: Build) -> Iterator[Problem]:
    countable = build.is_valid("data", "trainer")
    validates = length.validates(build.config, build.parts.get("data"), countable)
    wrong = wrong_keys(build.problems)
    yield from monitor.resolve_monitor(build.config, build.parts["metrics"], validates, wrong)


def freeze(build: Build) -> Iterator[Problem]:
    problems: list[Problem] = []
    with collect_problems(problems, "optimizer", ["freeze"]):
        parameters.freeze(build.parts["model"], build.config["optimizer"]["freeze"])
    yield from problems


def make_module(build: Build) -> Iterator[Problem]:
    if not build.problems:
        names = argument_names(build.config, "module")
        create = functools.partial(build_module, build.config, build.parts)
        yield from make_part(build, "module", create, names)


# Whether the parts suit the data and each other


def make_task(build: Build) -> Task:
    return find_task(build.config["data"]["task"])(build.config["data"]["num_outputs"])


def try_loss(build: Build) -> Iterator[Problem]:
    loss, task = build.parts["loss"], make_task(build)
    yield from dry_run.check_loss(loss, task, argument_names(build.config, "loss"))
    if build.is_valid("loss"):
        yield from dry_run.check_mixing(build.config["data"], loss, task)


def try_metrics(build: Build) -> Iterator[Problem]:
    for name, metric in build.parts["metrics"].items():
        yield from dry_run.check_metric(f"metrics.{name}", metric, make_task(build))


def try_model(build: Build) -> Iterator[Problem]:
    yield from dry_run.check_model(build.parts["model"], *build.parts["shapes"])
    if build.config["trainer"]["channels_last"] is True:
        yield from dry_run.check_channels_last(build.parts["model"])


def check_own_problems(build: Build) -> Iterator[Problem]:
    """Asks the parts that have a method ``problems``, and looks at those of Lightning."""
    trainer, directory = build.parts["trainer"], Path(build.config["directory"])
    context = Context(build.parts["model"], trainer, build.config, directory)
    for check in (check_averages, check_directories, check_sharding):
        yield from check(context)
    parts = [build.parts[name] for name in ("model", "loss") if name in build.parts]
    for part in (*parts, *trainer.callbacks, *trainer.loggers, trainer.strategy):
        if callable(method := getattr(part, "problems", None)):
            yield from method(context)


def count_steps(build: Build) -> Iterator[Problem]:
    world_size = build.parts["trainer"].world_size
    build.parts["steps"] = length.count_steps(build.config, build.parts["data"], world_size)
    yield from ()


def try_schedule(build: Build) -> Iterator[Problem]:
    """Makes an optimizer and, if the steps of the training are known, its schedule on trial."""
    problems: list[Problem] = []
    with collect_problems(problems, "optimizer", argument_names(build.config, "optimizer")):
        optimizer = build.parts["optimizer"](build.parts["model"])
    if not problems and build.parts.keys() >= {"steps", "scheduler"}:
        with collect_problems(problems, "scheduler", argument_names(build.config, "scheduler")):
            steps, total = build.parts["steps"]
            schedule = build.parts["scheduler"](
                optimizer,
                total_steps=total,
                steps_per_epoch=steps,
                validate_every=build.config["trainer"]["check_val_every_n_epoch"],
            )
            for main in schedule.configs[:1]:
                problems += check_horizon(main["scheduler"], schedule.ticks)
    yield from problems


def check_horizon(scheduler: Any, ticks: int | None) -> Iterator[Problem]:
    """A cosine must not end before the training: torch lets the rate rise again after it."""
    horizon = getattr(scheduler, "T_max", None)
    if horizon is not None and ticks is not None and horizon < ticks:
        yield Problem(
            "scheduler.T_max",
            f"ends before the training, whose schedule has {ticks} ticks, and the rate would rise "
            "again; null is the whole training, scheduler=cosine_restarts rises on purpose.",
            horizon,
        )


def check_limits(build: Build) -> Iterator[Problem]:
    world_size = build.parts["trainer"].world_size
    yield from length.check_limits(build.config, build.parts["data"], world_size)


def try_smallest_batch(build: Build) -> Iterator[Problem]:
    world_size = build.parts["trainer"].world_size
    loader, model = build.parts["data"], build.parts["model"]
    yield from length.check_smallest_batch(build.config, loader, model, world_size)


def check_contents(build: Build) -> Iterator[Problem]:
    if build.parts["data"].loaded:
        problems: list[Problem] = []
        with collect_problems(problems, "data"):
            loaded, metrics = build.parts["data"].load(), [*build.config["metrics"]]
            problems += data.find_problems(loaded, build.config["data"], metrics)
        yield from problems


TRAINER_NEEDS = ("monitor", "scheduler", "callbacks", "logger")
STAGES = (
    Stage("keys", check_keys),
    Stage("targets", check_targets),
    Stage("settings of the data", check_data_settings),
    Stage("data", make_data),
    Stage("shapes", find_shapes, valid=SHAPES),
    Stage("tasks", check_tasks, valid=("data.task",)),
    Stage("settings of the parts", check_part_settings),
    Stage("contradictions", check_contradictions),
    Stage("seed", seed, valid=("seed",)),
    part_stage("model", build_model, made=("shapes",)),
    part_stage("loss", build_loss, made=("shapes",)),
    part_stage("metrics", build_metrics, made=("shapes",)),
    Stage("trial of the loss", try_loss, made=("loss",)),
    Stage("trial of the metrics", try_metrics, made=("metrics",)),
    Stage("trial of the model", try_model, made=("model",)),
    Stage("monitor", resolve_monitor, valid=("monitor",), made=("metrics",)),
    part_stage("scheduler", build_scheduler, valid=("monitor",), made=("metrics",)),
    part_stage("trainer", build_trainer, valid=TRAINER_NEEDS, made=("metrics",)),
    part_stage("optimizer", build_optimizer),
    Stage("freezing", freeze, valid=("optimizer.freeze",), made=("model",)),
    Stage(
        "own problems",
        check_own_problems,
        valid=("optimizer._target_",),
        made=("trainer", "model"),
    ),
    Stage("steps", count_steps, valid=("data", "trainer"), made=("data", "trainer")),
    Stage("trial of the schedule", try_schedule, ("model", "optimizer"), ("model", "optimizer")),
    Stage("limits", check_limits, made=("steps",)),
    Stage("smallest batch", try_smallest_batch, made=("steps", "model")),
    Stage("contents of the data", check_contents, made=("data", "shapes")),
    Stage("module", make_module),
)
