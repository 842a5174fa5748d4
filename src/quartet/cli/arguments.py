"""The command line of train.py where it names a run to continue."""

from collections.abc import Sequence
from pathlib import Path

from quartet.config.overrides import key_of, unquote
from quartet.core.problems import abort
from quartet.core.processes import find_interrupted_run


def find_resumed_run(arguments: Sequence[str]) -> tuple[Path, list[str], bool] | None:
    """The run that a command line continues, further overrides, and whether a sweep started it.

    That is the run of ``resume=DIR``, or the one that the same line began before Slurm started this
    job again. None if it starts a new run. Exits with 2 if the line says more than a run can take.
    """
    named = [each for each in arguments if each.startswith("resume=")]
    if not named and (begun := find_interrupted_run(arguments)):
        return begun, [], False
    place = unquote(named[-1].removeprefix("resume=")) if named else ""
    if place in ("", "null"):
        return None
    rest = [each for each in arguments if not each.startswith("resume=")]
    flags = [each for each in rest if each.startswith("-")]
    settings = [each for each in rest if key_of(each).startswith("hydra")]
    in_sweep = any(each.startswith("hydra.job.num=") for each in settings)
    if flags or (settings and not in_sweep):
        wrong = " ".join(flags or settings)
        abort(f"resume={place} continues that run in its directory; leave out {wrong}.")
    return Path(place), [each for each in rest if each not in settings], in_sweep
