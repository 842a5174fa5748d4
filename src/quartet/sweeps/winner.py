"""The winner of a sweep, for commands that take a run. Without torch."""

import sys
from pathlib import Path

from quartet.config.overrides import unquote
from quartet.core import redaction
from quartet.core.problems import abort
from quartet.sweeps.jobs import Table


def take() -> None:
    """Rewrites ``run=SWEEP`` on the command line to the winner of that sweep, and says so."""
    for number, argument in enumerate(sys.argv):
        key, _, value = argument.partition("=")
        directory = Path(unquote(value))
        if key == "run" and (directory / "sweep.json").is_file():
            winner, told = find(directory)
            print(redaction.redact(told))
            sys.argv[number] = f"run={winner}"


def find(directory: Path) -> tuple[Path, str]:
    """The best job of the setting that the report ranks first, and what to say of it.

    Exits with 2 if there is none.
    """
    from quartet.reports.results import rank, read

    try:
        jobs = {str(job.number): job for job in Table(directory).current}
        results = read([directory])
        metric, mode, _ = next(results.by_monitor(), (None, "", None))
        ranking = None if metric is None else rank(results, metric)
        if ranking is None or ranking["winner"].isna().all():
            abort(f"run={directory} is a sweep without a finished job that has a value to rank by.")
        winner = results.jobs.loc[ranking["winner"].iloc[0]]
    # Its files may be another one's, or half written.
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        abort(f"run={directory} is a sweep that cannot be ranked: {error}; name one of its jobs.")
    name = Path(str(winner["directory"])).name
    if name not in jobs or not (directory / name / ".hydra").is_dir():
        abort(f"run={directory}: its winner {name} is none of its jobs; name one of them.")
    knobs = ", ".join(f"{knob}={winner[knob]}" for knob in [*results.knobs, "seed"])
    return directory / name, (
        f"The winner of {directory} by {metric} ({mode}) is job {name}, {winner['best']:.4g}: {knobs}"
    )
