"""A search: its space of settings, and trials for which Optuna chooses values. Without torch."""

import itertools
import json
import math
import os
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig, OmegaConf

from quartet.compat import format_value
from quartet.config.overrides import Range, base_group, check_range, check_search_ranges, config_key
from quartet.core.files import lock
from quartet.core.messages import suggest_name
from quartet.core.problems import ConfigError, abort
from quartet.records import sweep as records
from quartet.sweeps import grid
from quartet.sweeps.grid import list_values
from quartet.sweeps.launch import SWEEP_GROUPS

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

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
            elif each.key_or_group in records.REPEATED and each.is_sweep_override():
                repeated.append(list_values(each))
            elif each.is_sweep_override():
                self.ranges[each.get_key_element()] = parse_range(each)
            else:
                self.fixed[each.get_key_element()] = each.input_line or ""
        self.repeats = list(map(list, itertools.product(*repeated)))
        for option in self.ranges.get("experiment", [None]):
            chosen = [] if option is None else [f"experiment={option}"]
            if self.compose(*chosen).hydra.sweeper.get("params"):
                name = option or self.choice("experiment")
                message = f"experiment={name} names values to combine"
                raise ValueError(f"{message}, which sweep=grid does; leave it out.")
        self.add_user_ranges()
        if named := {*records.REPEATED} & {*self.ranges, *(sweeper.over or ())}:
            message = f"{min(named)} is no setting to search, as the luckiest value would win; name"
            values = f"its values on the command line, {min(named)}=0,1,2, and it is their mean"
            raise ValueError(f"sweep: {message} {values}.")
        over = sweeper.over
        if over is None:
            composed = self.compose()
            choices = composed.hydra.runtime.choices
            groups = [each for each in choices if list_ranges(composed, config_key(each))]
            over = [] if self.ranges else groups
        for key in over:
            self.add(key)
        if not any(len(each) > 1 for each in (*self.ranges.values(), *self.own.values())):
            wanted = "name groups such as sweep.over=[optimizer,scheduler]"
            one = "a range, such as 'optimizer.lr=tag(log,interval(1e-4,1e-1))'"
            raise ValueError(f"There is nothing to search: {wanted}, or {one}.")

    def add_user_ranges(self) -> None:
        """Adds the ranges of ``sweep.space``."""
        for key, range_ in (self.sweeper.space or {}).items():
            if problem := check_range(range_):
                raise ValueError(f"sweep.space: {key}={range_}: {problem}")
            if key in self.fixed or key in self.ranges:
                other = self.fixed.get(key) or self.ranges[key]
                message = f"{key} is on the command line too, as {other}; leave one of them out."
                raise ValueError(f"sweep.space: {message}")
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
            message = f"{key} is neither a group nor a setting for which {group} names a range"
            message += f": {', '.join(ranges)}" if ranges else ""
            own = f"'sweep.space={{{key}: {{low: 0.1, high: 1.0}}}}'"
            raise ValueError(f"sweep.over: {message}; give it one: {own}.")
        self.ranges[key] = ranges[name]

    def compose(self, *further: str) -> DictConfig:
        """The configuration with the first value of each range so far."""
        first = [
            f"{key}={next(values(range_))}"
            for key, range_ in self.ranges.items()
            if not any(each.startswith(f"{key}=") for each in further)
        ]
        own = [*self.fixed.values(), *self.repeats[0], *first, *further]
        overrides = [*own, *self.sweeper.sweep_overrides]
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


def make_sampler(name: str, seed: int, number: int, fixed: Any = None) -> "BaseSampler":
    """A sampler for one trial of a search; no two trials use the same random numbers.

    `fixed` are values that the trial must have.
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


def search(sweeper: "SearchSweeper", arguments: Sequence[str]) -> None:
    """Trains the jobs that Optuna asks for until the sweep's directory holds `n_trials` of them.

    Raises:
        SystemExit: the search is refused (2), or a signal came.
    """
    directory = Path(sweeper.config.hydra.sweep.dir)
    with grid.handled_errors(directory):
        check_settings(sweeper)
        space = Space(sweeper, arguments)
        if sweeper.pruner != "none" and len(space.repeats) > 1:
            message = "a trial of several seeds or folds is not pruned; leave it out."
            raise ValueError(f"sweep.pruner={sweeper.pruner}: {message}")
        if sweeper.config.get("check") == "only":
            numbers = range(min(5, sweeper.n_trials))
            drawn = [space.draw_random(sweeper.seed, number) for number in numbers]
            grid.check(sweeper, [[*each, *space.repeats[0]] for each in drawn])
            return
        wanted = choose_objectives(sweeper, space)
        with lock(directory / "optuna"):
            trials = Search(sweeper, space, wanted, directory)
            # For jobs in processes of their own, too.
            os.environ[records.SEARCH] = str(directory.resolve())
            try:
                trials.run()
            finally:
                del os.environ[records.SEARCH]
            trials.print_summary()


class Search:
    """An Optuna study beside the table of a sweep's jobs; each trial is a job, or one a seed and fold.

    The study knows the values and results of the trials, the means over their jobs; the number of
    trials that have jobs decides when to stop. Both outlive a kill: a trial of which a job did not end
    fails, and its values are tried again as another one, with the jobs that have ended. The objectives
    are figures of result.json, with ``min`` or ``max`` for each.

    Raises:
        ValueError: the directory holds another search.
    """

    def __init__(
        self,
        sweeper: "SearchSweeper",
        space: Space,
        objectives: dict[str, str],
        directory: Path,
    ) -> None:
        self.sweeper, self.space, self.objectives = sweeper, space, objectives
        self.table = records.Table(directory)
        self.conf = grid.fingerprint(sweeper)
        self.repeats = space.repeats
        self.slots = max(1, getattr(sweeper.launcher, "n_jobs", 1) // len(self.repeats))
        sweeper.total = sweeper.n_trials * len(self.repeats)
        suspects = [job for job in self.table.current if job.conf != self.conf]
        grid.refuse_changes(sweeper, suspects, directory)
        self.study = self.load_study(directory)

    def load_study(self, directory: Path) -> "Study":
        """The directory's study, or a new one."""
        import optuna

        records.repair_journal(directory)
        url, modes = self.sweeper.storage, self.objectives.values()
        self.storage = records.make_storage(url, directory)
        name = str(directory.resolve()) if url else "search"
        # Hyperband assigns trials to brackets when they are asked for.
        pruner = records.make_pruner(self.sweeper.pruner, self.sweeper.warmup_epochs, None)
        try:  # create_study would add a line to the journal of an existing study
            study = optuna.load_study(study_name=name, storage=self.storage, pruner=pruner)
        except KeyError:
            study = optuna.create_study(
                study_name=name,
                storage=self.storage,
                directions=["minimize" if mode == "min" else "maximize" for mode in modes],
                pruner=pruner,
                load_if_exists=True,
            )
        now = {
            "fixed": sorted(
                [*self.space.fixed.values(), *map(" ".join, filter(None, self.repeats))]
            ),
            "objectives": self.objectives,
            "ranges": self.space.named_ranges,
        }
        if before := study.user_attrs.get("search"):
            if changes := differences(before, now):
                message = "\n  ".join([f"{directory} holds another search:", *changes])
                way_out = "Leave them as they were, or name another hydra.sweep.dir."
                raise ValueError(f"{message}\n{way_out}")
            now["ranges"] = before["ranges"] | now["ranges"]
        study.set_user_attr("search", now)
        return study

    def run(self) -> None:
        """Trains until there are enough trials."""
        again = self.close_unfinished_trials()
        with self.table.changing():
            self.table.command = grid.recorded_command(self.sweeper.config)
        wanted = self.sweeper.n_trials
        while again or len(self.trials()) < wanted:
            asked = [self.ask(jobs) for jobs in again[: self.slots]]
            again = again[self.slots :]
            while not again and len(asked) < self.slots and len(self.trials()) < wanted:
                asked.append(self.ask())
            try:
                jobs = [job for jobs, _ in asked for job in jobs if job.is_pending]
                grid.train(self.sweeper, self.table, jobs)
            finally:
                for jobs, trial in asked:
                    self.end_trial(jobs, trial)

    def trials(self) -> dict[int | None, list[records.Job]]:
        """The jobs of each trial, by its number."""
        found: dict[int | None, list[records.Job]] = {}
        for job in self.table.current:
            found.setdefault(read_trial(job).get("number"), []).append(job)
        return found

    def close_unfinished_trials(self) -> list[list[records.Job]]:
        """Ends trials that an earlier start left running; returns the jobs of those to try again.

        Waits for jobs that processes of an earlier start still train.
        """
        from optuna.trial import TrialState

        known = self.trials()
        for trial in self.study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING)):
            jobs = known.get(trial.number, [])
            for job in jobs:
                with lock(job.directory, wait=True):
                    pass
            self.end_trial(jobs, trial)
        return [
            jobs
            for jobs in known.values()
            if len(jobs) < len(self.repeats) or any(job.is_pending for job in jobs)
        ]

    def ask(self, again: Sequence[records.Job] = ()) -> "tuple[list[records.Job], Trial]":
        """The next trial and its jobs.

        Args:
            again: The jobs of a trial whose values are tried again; those that have ended stay.
        """
        number = read_trial(again[0]).get("number") if again else None
        # A new one for each trial, so that a resumed search asks what an uninterrupted one would.
        self.study.sampler = make_sampler(
            self.sweeper.sampler,
            self.sweeper.seed,
            len(self.trials()),
            fixed=None if number is None else self.study.trials[number].params,
        )
        trial = self.study.ask()
        overrides = self.space.draw(trial)
        with self.table.changing():
            jobs = [self.add_job([*overrides, *each], trial, again) for each in self.repeats]
        return jobs, trial

    def add_job(
        self, overrides: list[str], trial: "Trial", again: Sequence[records.Job]
    ) -> records.Job:
        """A job of a trial: that of the same overrides if it has ended, else a new one."""
        key = tuple(sorted(overrides))
        before = next((job for job in again if job.key == key), None)
        job = before if before and not before.is_pending else None
        if job is None:
            job = self.table.add(overrides, self.conf)
            job.directory.mkdir()
            if before:
                self.table.jobs[before.number].retried_as = job.number
        content = {
            "number": trial.number,
            "id": self.trial_id(trial),
            "study": self.study.study_name,
            "storage": self.sweeper.storage,
            "pruner": self.sweeper.pruner,
            "warmup_epochs": self.sweeper.warmup_epochs,
        }
        (job.directory / "trial.json").write_text(json.dumps(content) + "\n")
        return job

    def trial_id(self, trial: "Trial | FrozenTrial") -> int:
        """The number of a trial among those of all studies in the storage."""
        study = self.storage.get_study_id_from_name(self.study.study_name)
        return self.storage.get_trial_id_from_study_id_trial_number(study, trial.number)

    def end_trial(self, jobs: Sequence[records.Job], trial: "Trial | FrozenTrial") -> None:
        """Records in the study the means of the results of a trial's jobs."""
        from optuna.trial import TrialState

        missing = {"status": "interrupted", "error": None}
        results = [job.result or missing for job in jobs]
        results += [missing] * (len(self.repeats) - len(jobs))
        found = [read_objectives(result, list(self.objectives)) for result in results]
        reason = next((reason for _, reason in found if reason), None)
        if jobs:
            self.storage.set_trial_user_attr(self.trial_id(trial), "job", jobs[0].number)
        if any(result.get("pruned") for result in results):
            self.study.tell(trial.number, state=TrialState.PRUNED)
        elif reason:
            self.storage.set_trial_user_attr(self.trial_id(trial), "reason", reason)
            self.study.tell(trial.number, state=TrialState.FAIL)
        else:
            means = [sum(each) / len(each) for each in zip(*(v for v, _ in found), strict=True)]
            self.study.tell(trial.number, means)

    def print_summary(self) -> None:
        """Prints the best trials, and how many were pruned or failed."""
        from optuna.trial import TrialState

        numbers = self.trials()
        trials = [trial for trial in self.study.trials if trial.number in numbers]
        for state, word in ((TrialState.PRUNED, "pruned"), (TrialState.FAIL, "failed")):
            if count := sum(trial.state == state for trial in trials):
                print(f"{count} of {len(trials)} trials {word}")
        if all(trial.state != TrialState.COMPLETE for trial in trials):
            return
        best = [trial for trial in self.study.best_trials if trial.number in numbers]
        if len(self.objectives) > 1:
            print(f"{len(best)} trials on the Pareto front:")
        else:
            best = best[:1]
        for trial in best:
            pairs = zip(self.objectives, trial.values or (), strict=True)
            figures = ", ".join(f"{name} {value:.4g}" for name, value in pairs)
            jobs = numbers[trial.number]
            names = ", ".join(str(job.number) for job in jobs)
            which = f"job {names}" if len(jobs) == 1 else f"mean of jobs {names}"
            repeated = {each for repeat in self.repeats for each in repeat}
            shown = [each for each in jobs[0].overrides if each not in repeated]
            print(f"best: {which}, {figures}\n  {shlex.join(shown)}")


def read_trial(job: records.Job) -> dict[str, Any]:
    """The trial that a job is, as its trial.json says; empty if it is none."""
    path = job.directory / "trial.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Changes of a search that its trials do not allow, one line each."""
    changed = [
        f"{key}: {before[key]} -> {now[key]}"
        for key in ("objectives", "fixed")
        if before[key] != now[key]
    ]
    return changed + [
        f"{name}: {before['ranges'][name]} -> {range_}"
        for name, range_ in now["ranges"].items()
        if name in before["ranges"] and kind(before["ranges"][name]) != kind(range_)
    ]


def kind(range_: Range) -> Any:
    """What must stay of a range: all choices of a list; of an interval its type and scale, not its ends."""
    if isinstance(range_, list):
        return range_
    whole = all(isinstance(range_[end], int) for end in ("low", "high"))
    return whole, bool(range_.get("log"))


def check_settings(sweeper: "SearchSweeper") -> None:
    """Checks the settings of a search, and that Optuna is installed.

    Raises:
        ValueError: a setting is wrong.
        SystemExit: Optuna is not installed.
    """
    for name, known in (("sampler", SAMPLERS), ("pruner", records.PRUNERS)):
        if getattr(sweeper, name) not in known:
            way_out = "; sweep=grid tries every combination" if sweeper.sampler == "grid" else ""
            message = f"must be one of {', '.join(known)}{way_out}."
            raise ValueError(f"sweep.{name}={getattr(sweeper, name)}: {message}")
    for name, least in (("n_trials", 1), ("seed", 0), ("warmup_epochs", 0)):
        value = getattr(sweeper, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"sweep.{name}={value}: must be a whole number of at least {least}.")
    if sweeper.pruner != "none" and len(sweeper.objectives or ()) > 1:
        message = "Optuna prunes with one objective only; leave it out."
        raise ValueError(f"sweep.pruner={sweeper.pruner}: {message}")
    if sweeper.mode and len(sweeper.mode) != len(sweeper.objectives or ("monitor",)):
        raise ValueError(f"sweep.mode={sweeper.mode}: must name min or max for each objective.")
    if sweeper.mode and not {"min", "max"}.issuperset(sweeper.mode):
        raise ValueError(f"sweep.mode={sweeper.mode}: each must be min or max.")
    records.refuse_pickles(sweeper.storage)
    try:
        import optuna
    except ImportError:
        abort("sweep=optuna needs optuna: pip install -e '.[optuna]'")
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # a line per job says more


# Objectives


def read_objectives(
    result: Mapping[str, Any], names: Sequence[str]
) -> tuple[list[float], str | None]:
    """The values of a job's objectives in its result.json, or why it has none."""
    if result["status"] == "interrupted":
        return [], "killed or interrupted"
    if result["status"] != "finished":
        return [], f"{result['status']}: {(result['error'] or {}).get('message')}"
    figures = {
        result["monitor"]["metric"]: result["monitor"]["best"],
        "samples_per_second": result["samples_per_second"],
        **{f"seconds/{name}": value for name, value in result["seconds"].items()},
        **result["metrics"],
    }
    values = [figures.get(name) for name in names]
    for name, value in zip(names, values, strict=True):
        if value is None:
            return [], f"has no {name}; it has {', '.join(map(str, figures))}"
        if not math.isfinite(value):
            return [], f"{name} is {value}"
    return [float(value) for value in values if value is not None], None


def choose_objectives(sweeper: "SearchSweeper", space: Space) -> dict[str, str]:
    """The names of the objectives, with ``min`` or ``max`` for each.

    Raises:
        ValueError: nothing is monitored.
    """
    monitor = space.compose().monitor
    names = list(sweeper.objectives or [monitor.metric])
    if None in names:
        raise ValueError("monitor.metric=null: name what to optimise, in it or sweep.objectives.")
    if sweeper.mode:
        return dict(zip(names, sweeper.mode, strict=True))
    lower = [n for n in names if n.endswith("/loss") or n.startswith("seconds/")]
    modes = {"samples_per_second": "max", **dict.fromkeys(lower, "min")}
    if monitor.mode:
        modes[monitor.metric] = monitor.mode
    return {name: modes.get(name) or choose_mode(name, sweeper, space) for name in names}


def choose_mode(name: str, sweeper: "SearchSweeper", space: Space) -> str:
    """Whether the best value of a metric is its ``min`` or ``max``, as the metric itself knows."""
    from quartet.build import build
    from quartet.validation.settings import find_mode

    drawn = space.draw_random(0, 0)
    try:
        run = build(grid.compose(sweeper, drawn))
    except ConfigError as error:
        raise ValueError("\n  ".join([f"{' '.join(drawn)}:", *error.messages])) from None
    if name == run.config["monitor"]["metric"]:
        return str(run.config["monitor"]["mode"])
    mode = find_mode(name, run.module.val_metrics.metrics, ()) if run.is_known else None
    if mode is None:
        raise ValueError(f"sweep.mode: is not known for {name}; set it to min or max.")
    return mode
