"""A sweep that searches: Optuna says which values to try next."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quartet.config.search_ranges import Range
from quartet.core.files import remove_empty_directories
from quartet.core.problems import abort
from quartet.core.signals import shutdown
from quartet.records import locks
from quartet.sweeps import grid
from quartet.sweeps.identity import fingerprint, refuse_changes
from quartet.sweeps.jobs import Job, Table
from quartet.sweeps.objective import objectives, outcome
from quartet.sweeps.space import Space
from quartet.sweeps.study import make_pruner, make_sampler, make_storage, mend, require

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

    from hydra_plugins.quartet import SearchSweeper


def search(sweeper: "SearchSweeper", arguments: Sequence[str]) -> None:
    """Trains what Optuna asks for until the sweep's directory holds `n_trials` jobs.

    Raises:
        SystemExit: the search is refused (2), or a signal came.
    """
    shutdown.install()
    assert sweeper.config is not None
    directory = Path(sweeper.config.hydra.sweep.dir)
    try:
        require(sweeper)
        space = Space(sweeper, arguments)
        if sweeper.config.get("check") == "only":
            check(sweeper, space)
            remove_empty_directories(directory)
            return
        wanted = objectives(sweeper, space)
        with locks.lock(directory / "optuna"):
            trials = Search(sweeper, space, wanted, directory)
            trials.run()
            trials.summarise()
    except (ValueError, locks.DirectoryLocked) as error:
        remove_empty_directories(directory)
        abort(str(error))
    except BaseException:
        remove_empty_directories(directory)
        if shutdown.exit_code and (directory / "sweep.json").exists():
            again = f"python {sys.argv[0]} sweep.resume={shlex.quote(str(directory))}"
            print(f"Interrupted; go on with\n{again}", file=sys.stderr)
        raise


def check(sweeper: "SearchSweeper", space: Space) -> None:
    """Says of a few first jobs what would run, and leaves nothing behind."""
    import optuna

    trials = []
    for number in range(min(5, sweeper.n_trials)):
        sampler = make_sampler("random", sweeper.seed, number)
        trials.append(space.draw(optuna.create_study(sampler=sampler).ask()))
    grid.check(sweeper, trials)


class Search:
    """A study of Optuna's beside the table of a sweep's jobs, one of which each trial is.

    The study knows what was tried and what came of it; the jobs count. Both outlive a kill: a trial
    whose job came to no end is told as failed, and its values are tried again as another one.

    Args:
        sweeper: Its settings.
        space: What to try.
        objectives: Figures of result.json, and whether to min or max each.
        directory: Of the sweep.

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
        self.conf = fingerprint(sweeper)
        self.slots: int = getattr(sweeper.launcher, "n_jobs", 1)
        suspects = [job for job in self.table.current if job.conf != self.conf]
        refuse_changes(sweeper, suspects, directory)
        self.study = self.open(directory)

    def open(self, directory: Path) -> "Study":
        """The directory's study, or a new one."""
        import optuna

        mend(directory)
        url, modes = self.sweeper.storage, self.objectives.values()
        self.storage = make_storage(url, directory)
        name = str(directory.resolve()) if url else "search"
        # Hyperband's trials are told apart when they are asked for.
        pruner = make_pruner(self.sweeper.pruner, self.sweeper.warmup_epochs, None)
        try:  # to create what is there would leave a line in the journal
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
            "fixed": sorted(self.space.fixed.values()),
            "objectives": self.objectives,
            "ranges": self.space.named,
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
        """Trains until there are enough jobs."""
        again = self.settle()
        with self.table.changing():
            assert self.sweeper.config
            self.table.command = grid.command(self.sweeper.config)
        wanted = self.sweeper.n_trials
        while again or len(self.table.current) < wanted:
            batch = [(job, self.ask(job)) for job in again[: self.slots]]
            again = again[self.slots :]
            asked = [new for _, new in batch]
            while not again and len(asked) < self.slots and len(self.table.current) < wanted:
                asked.append(self.ask())
            try:
                grid.train(self.sweeper, self.table, [job for job, _ in asked])
            finally:
                for job, trial in asked:
                    self.tell(job, trial)

    def settle(self) -> list[Job]:
        """Tells what became of trials that an earlier start left, and which jobs to try again.

        Waits for those that processes of an earlier start still train.
        """
        from optuna.trial import TrialState

        known = {trial_of(job).get("number"): job for job in self.table.current}
        for trial in self.study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING)):
            if job := known.get(trial.number):
                with locks.lock(job.directory, wait=True):
                    pass
            self.tell(job, trial)
        return [job for job in self.table.current if job.open]

    def ask(self, again: Job | None = None) -> "tuple[Job, Trial]":
        """The next trial and its job.

        Args:
            again: A job to try again; None for values of the sampler's.
        """
        number = trial_of(again).get("number") if again else None
        # Anew for each, so that a search that goes on asks what one in a single piece would.
        self.study.sampler = make_sampler(
            self.sweeper.sampler,
            self.sweeper.seed,
            len(self.table.current),
            fixed=None if number is None else self.study.trials[number].params,
        )
        trial = self.study.ask()
        overrides = self.space.draw(trial)
        with self.table.changing():
            job = self.table.add(overrides, self.conf)
            job.directory.mkdir()
            told = {
                "number": trial.number,
                "id": trial._trial_id,
                "study": self.study.study_name,
                "storage": self.sweeper.storage,
                "pruner": self.sweeper.pruner,
                "warmup_epochs": self.sweeper.warmup_epochs,
            }
            (job.directory / "trial.json").write_text(json.dumps(told) + "\n")
            if again:
                self.table.jobs[again.number].retried_as = job.number
        return job, trial

    def tell(self, job: Job | None, trial: "Trial | FrozenTrial") -> None:
        """Tells the study what came of a trial's job."""
        from optuna.trial import TrialState

        result = (job.result if job else None) or {"status": "interrupted", "error": None}
        values, reason = outcome(result, list(self.objectives))
        if job:
            self.storage.set_trial_user_attr(trial._trial_id, "job", job.number)
        if result.get("pruned"):
            self.study.tell(trial.number, state=TrialState.PRUNED)
        elif reason:
            self.storage.set_trial_user_attr(trial._trial_id, "reason", reason)
            self.study.tell(trial.number, state=TrialState.FAIL)
        else:
            self.study.tell(trial.number, values)

    def summarise(self) -> None:
        """Prints the best trials, and how many were pruned or failed."""
        from optuna.trial import TrialState

        numbers = {trial_of(job).get("number"): job for job in self.table.current}
        trials = [trial for trial in self.study.trials if trial.number in numbers]
        for state, word in ((TrialState.PRUNED, "pruned"), (TrialState.FAIL, "failed")):
            if count := sum(trial.state == state for trial in trials):
                print(f"{count} of {len(trials)} trials {word}")
        if all(trial.state != TrialState.COMPLETE for trial in trials):
            return
        best = [trial for trial in self.study.best_trials if trial.number in numbers]
        if len(self.objectives) > 1:
            print(f"{len(best)} trials that none surpasses in everything:")
        else:
            best = best[:1]
        for trial in best:
            pairs = zip(self.objectives, trial.values or (), strict=True)
            figures = ", ".join(f"{name} {value:.4g}" for name, value in pairs)
            job = numbers[trial.number]
            print(f"best: job {job.number}, {figures}\n  {shlex.join(job.overrides)}")


def trial_of(job: Job) -> dict[str, Any]:
    """Which trial a job is."""
    path = job.directory / "trial.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of a search has changed that must not."""
    told = [
        f"{key}: {before[key]} -> {now[key]}"
        for key in ("objectives", "fixed")
        if before[key] != now[key]
    ]
    return told + [
        f"{name}: {before['ranges'][name]} -> {range_}"
        for name, range_ in now["ranges"].items()
        if name in before["ranges"] and kind(before["ranges"][name]) != kind(range_)
    ]


def kind(range_: Range) -> Any:
    """What of a range must stay: choices all, of numbers not the ends."""
    if isinstance(range_, list):
        return range_
    whole = all(isinstance(range_[end], int) for end in ("low", "high"))
    return whole, bool(range_.get("log"))
