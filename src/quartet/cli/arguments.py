"""Commands on a run that exists: its own record becomes the configuration they start from."""

import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from quartet.cli.help import print_and_exit
from quartet.config import allow, foreign
from quartet.config.overrides import quote, unquote
from quartet.core import processes
from quartet.core.files import CONF
from quartet.core.problems import abort
from quartet.records.run_directory import STARTING, newest_record, read_result, records


def argv_for_run(own: Sequence[str]) -> None:
    """Rewrites the command line so that Hydra reads the configuration of ``run=DIR``.

    What the run was trained with thus stays, whatever has become of the files in conf/; further
    overrides apply to its values. Of whole options only another trainer is taken.

    Args:
        own: Keys that the command adds to the run's configuration.
    """
    let_hydra_start()
    print_and_exit()
    if any(argument.startswith("-") for argument in sys.argv[1:]):
        return  # --cfg and the like, or a command line that was rewritten before
    given = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    if "run" not in given:
        abort(f"Which run? python {sys.argv[0]} run=outputs/DATE/TIME")
    directory = Path(given["run"])
    if not (directory / ".hydra" / "config.yaml").is_file():
        abort(f"run={directory} holds no run: {directory}/.hydra/config.yaml is missing.")
    refuse(directory, directory / ".hydra" / "config.yaml")
    options = {key: given.pop(key) for key in list(given) if is_option(key, given[key])}
    again = [f"+trainer={options.pop('trainer')}"] if "trainer" in options else []
    chosen = read_result(directory).get("choices", {})
    for group, option in options.items():
        if chosen.get(group) != option:  # else it is what the run has anyway
            abort(
                f"{group}={option}: the run in {directory} was trained with {group}="
                f"{chosen.get(group)}, and stays what it is; leave it out. Other data of the same "
                "kind: data.path=FILE, or data.KEY=VALUE."
            )
    sys.argv[1:] = [
        "--config-dir",
        str((directory / ".hydra").resolve()),
        "--config-name",
        "config",
        "hydra/job_logging=none",
        "hydra.output_subdir=null",
        f"hydra.run.dir={quote(directory)}",
        *again,
        *(f"{'+' if key in own else ''}{key}={value}" for key, value in given.items()),
    ]


def let_hydra_start() -> None:
    """Lets Hydra 1.3 read a command line on Python 3.14.

    That checks the help of each flag when it is added, and one of Hydra's is no text until shown.
    """
    ArgumentParser._check_help = lambda *_: None  # type: ignore[attr-defined]


def is_option(group: str, option: str) -> bool:
    """Whether conf/ has such an option of such a group, or all of a list of them: ``[a,b]``."""
    files = (CONF / group).glob("*.yaml")
    names = option.removeprefix("[").removesuffix("]").split(",")
    return {name.strip() for name in names} <= {path.stem for path in files}


def refuse(directory: Path, record: Path) -> None:
    """Exits with 2 if a run, which may be someone else's, would direct Hydra or write elsewhere."""
    faults = foreign.links(directory)
    faults += [f"{record}: {fault}" for fault in allow.in_record(record.read_text())]
    if faults:
        abort("\n  ".join(["Refused:", *faults]))


def argv_for_resume() -> None:
    """Rewrites the command line so that ``resume=DIR`` starts from that run's own configuration.

    Hydra then applies the further overrides to what the run was trained with, whatever has become
    of the files in conf/, and keeps a record of its own, ``.hydra/resume-1`` and so on. A job that
    Slurm started again goes on with the run that the same line began.
    """
    let_hydra_start()
    arguments = sys.argv[1:]
    # Further processes of a run repeat the rewritten line.
    if "--config-dir" in arguments or processes.started_by_lightning():
        return
    named = [each for each in arguments if each.startswith("resume=")]
    if not named and (begun := processes.find_interrupted_run(arguments)):
        arguments = named = [f"resume={begun}"]
    if not named:
        return
    directory = Path(unquote(named[-1].removeprefix("resume=")))
    if str(directory) in ("", "null"):
        return
    flags = [each for each in arguments if each.startswith("-")]
    if "-m" in flags or "--multirun" in flags:
        abort(f"resume={directory} goes on with one run; leave out -m.")
    if not records(directory):
        abort(
            f"resume={directory} holds no run: {directory}/.hydra/config.yaml is missing; name "
            "the directory that the run printed, such as outputs/DATE/TIME."
        )
    newest = newest_record(directory)
    refuse(directory, newest / "config.yaml")
    sys.argv[1:] = [
        *flags,
        *("--config-dir", str(newest.resolve()), "--config-name", "config"),
        *("+hydra=default", f"++resume={quote(directory)}", f"hydra.run.dir={quote(directory)}"),
        f"hydra.output_subdir=.hydra/{STARTING}-{os.getpid()}",
        *(
            check_resume_override(each, directory)
            for each in arguments
            if each not in (*flags, *named)
        ),
    ]


def check_resume_override(override: str, directory: Path) -> str:
    """An override of a run that goes on. Exits with 2 if it cannot be one."""
    group, _, option = override.partition("=")
    if group.startswith(("hydra.run.", "hydra.output_subdir")):
        abort(f"resume={directory} goes on in that directory; leave out {override}.")
    if not is_option(group, option):
        return override
    if group not in ("callbacks", "logger"):
        abort(
            f"resume={directory} goes on with the same training, which {override} would change; "
            "leave it out, or start a run of its own without resume."
        )
    return f"+{override}"
