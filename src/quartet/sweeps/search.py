"""A search: Optuna chooses the values of each job."""

import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quartet.config.overrides import Range
from quartet.core.files import lock
from quartet.core.problems import ConfigError, abort
from quartet.records.sweep import (
    PRUNERS,
    SEARCH,
    Job,
    Table,
    make_pruner,
    make_storage,
    refuse_pickles,
    repair_journal,
)
from quartet.sweeps import grid
from quartet.sweeps.space import SAMPLERS, Space, make_sampler

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

    from hydra_plugins.quartet import SearchSweeper


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
            raise ValueError(
                f"sweep.pruner={sweeper.pruner}: a trial of several seeds or folds is not pruned; leave it out."
            )
        if sweeper.config.get("check") == "only":
            numbers = range(min(5, sweeper.n_trials))
            drawn = [space.draw_random(sweeper.seed, number) for number in numbers]
            grid.check(sweeper, [[*each, *space.repeats[0]] for each in drawn])
            return
        wanted = choose_objectives(sweeper, space)
        with lock(directory / "optuna"):
            trials = Search(sweeper, space, wanted, directory)
            os.environ[SEARCH] = str(directory.resolve())  # for jobs in processes of their own, too
            try:
                trials.run()
            finally:
                del os.environ[SEARCH]
            trials.print_summary()


class Search:
    """An Optuna study beside the table of a sweep's jobs; each trial is a job, or one a seed and fold.

    The study knows the values and results of the trials, the means over their jobs; the number of trials that
    have jobs decides when to stop. Both outlive a kill: a trial of which a job did not end fails, and its
    values are tried again as another one, with the jobs that have ended.

    Args:
        objectives: Figures of result.json, and whether to min or max each.

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
        self.table = Table(directory)
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

        repair_journal(directory)
        url, modes = self.sweeper.storage, self.objectives.values()
        self.storage = make_storage(url, directory)
        name = str(directory.resolve()) if url else "search"
        # Hyperband assigns trials to brackets when they are asked for.
        pruner = make_pruner(self.sweeper.pruner, self.sweeper.warmup_epochs, None)
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
                raise ValueError(
                    "\n  ".join([f"{directory} holds another search:", *changes])
                    + "\nLeave them as they were, or name another hydra.sweep.dir."
                )
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

    def trials(self) -> dict[int | None, list[Job]]:
        """The jobs of each trial, by its number."""
        found: dict[int | None, list[Job]] = {}
        for job in self.table.current:
            found.setdefault(read_trial(job).get("number"), []).append(job)
        return found

    def close_unfinished_trials(self) -> list[list[Job]]:
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

    def ask(self, again: Sequence[Job] = ()) -> "tuple[list[Job], Trial]":
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

    def add_job(self, overrides: list[str], trial: "Trial", again: Sequence[Job]) -> Job:
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

    def end_trial(self, jobs: Sequence[Job], trial: "Trial | FrozenTrial") -> None:
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


def read_trial(job: Job) -> dict[str, Any]:
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
    for name, known in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
        if getattr(sweeper, name) not in known:
            way_out = "; sweep=grid tries every combination" if sweeper.sampler == "grid" else ""
            raise ValueError(
                f"sweep.{name}={getattr(sweeper, name)}: must be one of {', '.join(known)}{way_out}."
            )
    for name, least in (("n_trials", 1), ("seed", 0), ("warmup_epochs", 0)):
        value = getattr(sweeper, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"sweep.{name}={value}: must be a whole number of at least {least}.")
    if sweeper.pruner != "none" and len(sweeper.objectives or ()) > 1:
        raise ValueError(
            f"sweep.pruner={sweeper.pruner}: Optuna prunes with one objective only; leave it out."
        )
    if sweeper.mode and len(sweeper.mode) != len(sweeper.objectives or ("monitor",)):
        raise ValueError(f"sweep.mode={sweeper.mode}: must name min or max for each objective.")
    if sweeper.mode and not {"min", "max"}.issuperset(sweeper.mode):
        raise ValueError(f"sweep.mode={sweeper.mode}: each must be min or max.")
    refuse_pickles(sweeper.storage)
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
    from quartet.validation.monitor import find_mode

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
