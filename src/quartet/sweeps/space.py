"""The space of a search: ranges of settings, and which of them belong together. Without torch."""

import itertools
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig, OmegaConf

from quartet.compat import format_value
from quartet.config.overrides import (
    Range,
    base_group,
    check_range,
    check_search_ranges,
    config_key,
)
from quartet.core.messages import suggest_name
from quartet.records.sweep import REPEATED
from quartet.sweeps.grid import list_values
from quartet.sweeps.launch import SWEEP_GROUPS

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.samplers import BaseSampler

    from hydra_plugins.quartet import SearchSweeper


# Not CMA-ES: Optuna pickles its state in the study, and a study from elsewhere could run code.
SAMPLERS = ("tpe", "random", "qmc", "nsgaii", "gp")


def suggest(trial: "Trial", name: str, range_: Range) -> Any:
    """The value of a range that the trial suggests."""
    if isinstance(range_, list):
        return range_[0] if len(range_) == 1 else trial.suggest_categorical(name, range_)
    whole = all(isinstance(range_[end], int) for end in ("low", "high"))
    return (trial.suggest_int if whole else trial.suggest_float)(name, **range_)


class Space:
    """The settings that a search varies, and those that it fixes.

    Each option of a searched group adds the ranges of its own settings. In a trial their names end in
    the option, since the ranges differ: ``optimizer.lr@sgd``.

    Attributes:
        fixed: Overrides of every job.
        repeats: Overrides of each job of a trial: every combination of the seeds and folds.
        ranges: By key; of a group, the names of its options.
        own: By option of a searched group (``optimizer=sgd``), the ranges of its own settings.

    Raises:
        ValueError: a range is wrong or missing, or there is nothing to search.
    """

    def __init__(self, sweeper: "SearchSweeper", arguments: Sequence[str]) -> None:
        self.sweeper = sweeper
        self.loader = sweeper.hydra_context.config_loader
        self.fixed: dict[str, str] = {}
        self.ranges: dict[str, Range] = {}
        self.own: dict[str, dict[str, Range]] = {}
        repeated: list[list[str]] = []
        parser = OverridesParser.create(config_loader=self.loader)
        for each in parser.parse_overrides(list(arguments)):
            if each.key_or_group in SWEEP_GROUPS:
                sweeper.sweep_overrides.append(each.input_line or "")
            elif each.key_or_group in REPEATED and each.is_sweep_override():
                repeated.append(list_values(each))
            elif each.is_sweep_override():
                self.ranges[each.get_key_element()] = parse_range(each)
            else:
                self.fixed[each.get_key_element()] = each.input_line or ""
        self.repeats = list(map(list, itertools.product(*repeated)))
        for option in self.ranges.get("experiment", [None]):
            chosen = [] if option is None else [f"experiment={option}"]
            if self.compose(*chosen).hydra.sweeper.get("params"):
                raise ValueError(
                    f"experiment={option or self.choice('experiment')} names values to combine, which sweep=grid "
                    "does; leave it out, or repeat what it sets on the command line."
                )
        self.add_user_ranges()
        if named := {*REPEATED} & {*self.ranges, *(sweeper.over or ())}:
            raise ValueError(
                f"sweep: {min(named)} is no setting to search, as the luckiest value would win; name its "
                f"values on the command line, {min(named)}=0,1,2, and each trial is the mean over them."
            )
        over = sweeper.over
        if over is None:
            composed = self.compose()
            choices = composed.hydra.runtime.choices
            groups = [each for each in choices if list_ranges(composed, config_key(each))]
            over = [] if self.ranges else groups
        for key in over:
            self.add(key)
        if not any(len(each) > 1 for each in (*self.ranges.values(), *self.own.values())):
            raise ValueError(
                "There is nothing to search: name groups such as sweep.over=[optimizer,scheduler], "
                "or a range, such as 'optimizer.lr=tag(log,interval(1e-4,1e-1))'."
            )

    def add_user_ranges(self) -> None:
        """Adds the ranges of ``sweep.space``."""
        for key, range_ in (self.sweeper.space or {}).items():
            if problem := check_range(range_):
                raise ValueError(f"sweep.space: {key}={range_}: {problem}")
            if key in self.fixed or key in self.ranges:
                raise ValueError(
                    f"sweep.space: {key} is on the command line too, as "
                    f"{self.fixed.get(key) or self.ranges[key]}; leave one of them out."
                )
            if isinstance(range_, list):
                range_ = [format_value(value) for value in range_]
            self.ranges[key] = range_

    def add(self, key: str) -> None:
        """Adds a group with the ranges of its options, or one key with the range of its option."""
        base, name = key.partition("@")[0], config_key(key)
        if base == name != base_group(name):  # critic_optimizer of optimizer@critic_optimizer
            base = base_group(name)
            key = f"{base}@{name}"
        key = next((given for given in self.fixed if given.lstrip("+") == key), key)
        options = self.loader.get_group_options(base, results_filter=ObjectType.CONFIG)
        if not options:
            self.add_key(key)
            return
        if key in self.fixed:
            options = [self.fixed.pop(key).partition("=")[2]]
        elif self.sweeper.over is None:
            options = [self.choice(key)]
        chosen = self.ranges.setdefault(key, sorted(options))
        for option in map(str, chosen):
            composed = self.compose(f"{key}={option}")
            self.own[f"{key}={option}"] = {
                f"{name}.{setting}": range_
                for setting, range_ in checked_ranges(composed, name, option).items()
            }

    def add_key(self, key: str) -> None:
        """Adds one key with the range that the chosen option of its group has for it."""
        group, _, name = key.partition(".")
        if key in self.ranges or key in self.fixed or (name and group in (self.sweeper.over or ())):
            return
        composed = self.compose()
        ranges = checked_ranges(composed, group, self.choice(group)) if group in composed else {}
        if name not in ranges:
            raise ValueError(
                f"sweep.over: {key} is neither a group nor a setting for which {group} names a range"
                f"{': ' + ', '.join(ranges) if ranges else ''}; give it one: "
                f"'sweep.space={{{key}: {{low: 0.1, high: 1.0}}}}'."
            )
        self.ranges[key] = ranges[name]

    def compose(self, *further: str) -> DictConfig:
        """The configuration with the first value of each range so far."""
        first = [
            f"{key}={next(values(range_))}"
            for key, range_ in self.ranges.items()
            if not any(each.startswith(f"{key}=") for each in further)
        ]
        overrides = [
            *self.fixed.values(),
            *self.repeats[0],
            *first,
            *further,
            *self.sweeper.sweep_overrides,
        ]
        return self.loader.load_sweep_config(self.sweeper.config, overrides)

    def choice(self, group: str) -> str:
        """The chosen option of a group."""
        return str(self.compose().hydra.runtime.choices.get(group))

    def draw(self, trial: "Trial") -> list[str]:
        """The overrides of a job."""
        drawn: dict[str, Any] = {}
        for key, range_ in self.ranges.items():
            drawn[key] = suggest(trial, key, range_)
            for name, inner in self.own.get(f"{key}={drawn[key]}", {}).items():
                if name not in self.fixed and name not in self.ranges:
                    drawn[name] = suggest(trial, f"{name}@{drawn[key]}", inner)
        return [*self.fixed.values(), *(f"{key}={value}" for key, value in drawn.items())]

    def draw_random(self, seed: int, number: int) -> list[str]:
        """The overrides of a random job, outside the search."""
        import optuna

        sampler = make_sampler("random", seed, number)
        return self.draw(optuna.create_study(sampler=sampler).ask())

    @property
    def named_ranges(self) -> dict[str, Range]:
        """Every range by its name in a trial."""
        every = dict(self.ranges)
        for choice, ranges in self.own.items():
            option = choice.partition("=")[2]
            every |= {f"{name}@{option}": range_ for name, range_ in ranges.items()}
        return every


def list_ranges(cfg: DictConfig, group: str) -> dict[str, Range]:
    """The ranges that the chosen option of a group names for its settings."""
    found: Any = OmegaConf.select(cfg, f"{group}.search") if group in cfg else None
    return OmegaConf.to_container(found) if found else {}  # type: ignore[return-value]


def checked_ranges(cfg: DictConfig, group: str, option: str) -> dict[str, Range]:
    """As `list_ranges`, checked, with values as Hydra reads them.

    Raises:
        ValueError: one is wrong, or names no setting of the option. Only a search refuses the latter:
            a run may replace the class of the option.
    """
    node: Any = OmegaConf.to_container(cfg[group]) if group in cfg else {}
    node = node if isinstance(node, dict) else {}
    problems: list[Any] = [*check_search_ranges(group, node)]
    ranges = {} if problems else list_ranges(cfg, group)
    settings = [key for key in node if key not in ("search", "_target_")]
    problems += [
        f"{group}.search.{name}: {group} has no such setting; {suggest_name(name, settings)}"
        for name in ranges
        if name not in settings
    ]
    if problems:
        raise ValueError("\n".join(f"{group}={option}: {problem}" for problem in problems))
    return {
        name: [format_value(value) for value in range_] if isinstance(range_, list) else range_
        for name, range_ in ranges.items()
    }


def values(range_: Range) -> Iterator[Any]:
    """The values to choose from, or the ends of the range."""
    yield from range_ if isinstance(range_, list) else (range_["low"], range_["high"])


def parse_range(override: Override) -> Range:
    """The range that Hydra's syntax for sweeps describes."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        return {"low": value.start, "high": value.end, "log": "log" in value.tags}
    if isinstance(value, RangeSweep):
        span = list(value.range())
        return {"low": min(span), "high": max(span), "step": abs(value.step)}
    return list(override.sweep_string_iterator())


def make_sampler(
    name: str, seed: int, number: int, fixed: dict[str, Any] | None = None
) -> "BaseSampler":
    """A sampler for one trial.

    Args:
        name: One of SAMPLERS.
        seed: Of the search.
        number: Of the trial; no two use the same random numbers.
        fixed: Values that the trial must have.
    """
    import numpy as np
    from optuna import samplers
    from optuna.exceptions import ExperimentalWarning

    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        made: BaseSampler = samplers.RandomSampler(own)
        if name == "tpe":
            # Settings that occur together are searched together; each optimizer has its own.
            made = samplers.TPESampler(seed=own, multivariate=True, group=True)
        elif name == "gp":
            made = samplers.GPSampler(seed=own, warn_independent_sampling=False)
        elif name == "nsgaii":
            made = samplers.NSGAIISampler(seed=own)
        elif name == "qmc":  # the study counts its points
            made = samplers.QMCSampler(
                seed=seed, scramble=True, independent_sampler=made, warn_independent_sampling=False
            )
        return samplers.PartialFixedSampler(fixed, made) if fixed else made
