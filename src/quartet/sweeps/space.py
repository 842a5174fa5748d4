"""What a search may try: ranges of settings, and which of them belong together. Without torch."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig, OmegaConf

from quartet.compat.hydra import format_value
from quartet.config.search_ranges import Range, faults, wrong
from quartet.sweeps.jobs import SWEEP_GROUPS

if TYPE_CHECKING:
    from optuna import Trial

    from hydra_plugins.quartet import SearchSweeper


def unread(group: str, node: Mapping[str, Any]) -> list[str]:
    """Ranges that a group's option names for what it has no setting of.

    A fault of a search alone: a run may put another class in the option's place.
    """
    from quartet.core.messages import suggest_name

    settings = [key for key in node if key not in ("search", "_target_")]
    return [
        f"{group}.search.{name}: {group} has no such setting; {suggest_name(name, settings)}"
        for name in node.get("search") or {}
        if name not in settings
    ]


def suggest(trial: "Trial", name: str, range_: Range) -> Any:
    """A value out of a range, as the trial has it."""
    if isinstance(range_, list):
        return range_[0] if len(range_) == 1 else trial.suggest_categorical(name, range_)
    whole = all(isinstance(range_[end], int) for end in ("low", "high"))
    return (trial.suggest_int if whole else trial.suggest_float)(name, **range_)


class Space:
    """What a search tries, and what it leaves as it is.

    An option of a group that is searched brings the ranges of its own settings along. In a trial
    their names have the option behind them, as each has another range: ``optimizer.lr@sgd``.

    Args:
        sweeper: Its settings ``over`` and ``space``.
        arguments: Overrides of the command line, some of them in Hydra's syntax for sweeps.

    Attributes:
        fixed: Overrides of every job.
        ranges: By key; of a group, the names of its options.
        own: Of each option of a group that is searched (``optimizer=sgd``), the ranges of its own.

    Raises:
        ValueError: a range has the wrong form, is missing or is none; or there is nothing to search.
    """

    def __init__(self, sweeper: "SearchSweeper", arguments: Sequence[str]) -> None:
        self.sweeper = sweeper
        self.loader = sweeper.hydra_context.config_loader
        self.fixed: dict[str, str] = {}
        self.ranges: dict[str, Range] = {}
        self.own: dict[str, dict[str, Range]] = {}
        parser = OverridesParser.create(config_loader=self.loader)
        for each in parser.parse_overrides(list(arguments)):
            if each.key_or_group in SWEEP_GROUPS:
                sweeper.sweep_overrides.append(each.input_line or "")
            elif each.is_sweep_override():
                self.ranges[each.get_key_element()] = of_sweep(each)
            else:
                self.fixed[each.get_key_element()] = each.input_line or ""
        self.add_given()
        over = sweeper.over
        if over is None:
            composed = self.compose()
            groups = [key for key in composed.hydra.runtime.choices if search_of(composed, key)]
            over = [] if self.ranges else groups
        for key in over:
            self.add(key)
        if not any(len(each) > 1 for each in (*self.ranges.values(), *self.own.values())):
            raise ValueError(
                "There is nothing to search: name groups such as sweep.over=[optimizer,scheduler], "
                "or a range, such as 'optimizer.lr=tag(log,interval(1e-4,1e-1))'."
            )

    def add_given(self) -> None:
        """Takes the user's own ranges."""
        for key, range_ in (self.sweeper.space or {}).items():
            if fault := wrong(range_):
                raise ValueError(f"sweep.space: {key}={range_}: {fault}")
            if key in self.fixed or key in self.ranges:
                raise ValueError(
                    f"sweep.space: {key} stands on the command line too, as "
                    f"{self.fixed.get(key) or self.ranges[key]}; leave one of them out."
                )
            if isinstance(range_, list):
                range_ = [format_value(value) for value in range_]
            self.ranges[key] = range_

    def add(self, key: str) -> None:
        """Takes a group with the ranges of its options, or one key with the range of its option."""
        options = self.loader.get_group_options(key, results_filter=ObjectType.CONFIG)
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
                f"{key}.{name}": range_ for name, range_ in checked(composed, key, option).items()
            }

    def add_key(self, key: str) -> None:
        group, _, name = key.partition(".")
        if key in self.ranges or key in self.fixed or (name and group in (self.sweeper.over or ())):
            return
        composed = self.compose()
        ranges = checked(composed, group, self.choice(group)) if group in composed else {}
        if name not in ranges:
            raise ValueError(
                f"sweep.over: {key} is neither a group nor a setting for which {group} names a range"
                f"{': ' + ', '.join(ranges) if ranges else ''}; give it one: "
                f"'sweep.space={{{key}: {{low: 0.1, high: 1.0}}}}'."
            )
        self.ranges[key] = ranges[name]

    def compose(self, *further: str) -> DictConfig:
        """The configuration with the first value of what is searched so far."""
        first = [
            f"{key}={next(values(range_))}"
            for key, range_ in self.ranges.items()
            if not any(each.startswith(f"{key}=") for each in further)
        ]
        overrides = [*self.fixed.values(), *first, *further, *self.sweeper.sweep_overrides]
        return self.loader.load_sweep_config(self.sweeper.config, overrides)

    def choice(self, group: str) -> str:
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

    @property
    def named(self) -> dict[str, Range]:
        """Every range under the name that a trial has for it."""
        every = dict(self.ranges)
        for choice, ranges in self.own.items():
            option = choice.partition("=")[2]
            every |= {f"{name}@{option}": range_ for name, range_ in ranges.items()}
        return every


def search_of(cfg: DictConfig, group: str) -> dict[str, Range]:
    """The ranges that the chosen option of a group names for its settings."""
    found: Any = OmegaConf.select(cfg, f"{group}.search") if group in cfg else None
    return OmegaConf.to_container(found) if found else {}  # type: ignore[return-value]


def checked(cfg: DictConfig, group: str, option: str) -> dict[str, Range]:
    """As `search_of`, with values as Hydra takes them.

    Raises:
        ValueError: they are no ranges of the option's settings.
    """
    node: Any = OmegaConf.to_container(cfg[group]) if group in cfg else {}
    node = node if isinstance(node, dict) else {}
    if found := faults(group, node) or unread(group, node):
        raise ValueError("\n".join(f"{group}={option}: {fault}" for fault in found))
    ranges = search_of(cfg, group)
    return {
        name: [format_value(value) for value in range_] if isinstance(range_, list) else range_
        for name, range_ in ranges.items()
    }


def values(range_: Range) -> Iterator[Any]:
    """The values to choose from, or the ends of the range."""
    yield from range_ if isinstance(range_, list) else (range_["low"], range_["high"])


def of_sweep(override: Override) -> Range:
    """The range that Hydra's syntax for sweeps describes."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        return {"low": value.start, "high": value.end, "log": "log" in value.tags}
    if isinstance(value, RangeSweep):
        span = list(value.range())
        return {"low": min(span), "high": max(span), "step": abs(value.step)}
    return list(override.sweep_string_iterator())
