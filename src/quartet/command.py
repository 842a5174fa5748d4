"""Commands on a run that exists: its own record becomes the configuration they start from."""

import json
import os
import re
import shutil
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from quartet import CONF, allow, foreign, rank, secret, slurm, usage

STARTING = "starting"  # the folder of Hydra's record of a run that may go on, until it does


def start_from(own: Sequence[str]) -> None:
    """Rewrites the command line so that Hydra reads the configuration of ``run=DIR``.

    What the run was trained with thus stays, whatever has become of the files in conf/; further
    overrides apply to its values. Of whole options only another trainer is taken.

    Args:
        own: Keys that the command adds to the run's configuration.
    """
    let_hydra_start()
    usage.answer()
    if any(argument.startswith("-") for argument in sys.argv[1:]):
        return  # --cfg and the like, or a command line that was rewritten before
    given = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    if "run" not in given:
        leave(f"Which run? python {sys.argv[0]} run=outputs/DATE/TIME")
    directory = Path(given["run"])
    if not (directory / ".hydra" / "config.yaml").is_file():
        leave(f"run={directory} holds no run: {directory}/.hydra/config.yaml is missing.")
    refuse(directory, directory / ".hydra" / "config.yaml")
    options = {key: given.pop(key) for key in list(given) if is_option(key, given[key])}
    again = [f"+trainer={options.pop('trainer')}"] if "trainer" in options else []
    chosen = result_of(directory).get("choices", {})
    for group, option in options.items():
        if chosen.get(group) != option:  # else it is what the run has anyway
            leave(
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
        f"hydra.run.dir={quoted(directory)}",
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
        leave("\n  ".join(["Refused:", *faults]))


def go_on() -> None:
    """Rewrites the command line so that ``resume=DIR`` starts from that run's own configuration.

    Hydra then applies the further overrides to what the run was trained with, whatever has become
    of the files in conf/, and keeps a record of its own, ``.hydra/resume-1`` and so on. A job that
    Slurm started again goes on with the run that the same line began.
    """
    let_hydra_start()
    arguments = sys.argv[1:]
    # Further processes of a run repeat the rewritten line.
    if "--config-dir" in arguments or rank.by_lightning():
        return
    named = [each for each in arguments if each.startswith("resume=")]
    if not named and (begun := slurm.interrupted_run(arguments)):
        arguments = named = [f"resume={begun}"]
    if not named:
        return
    directory = Path(unquoted(named[-1].removeprefix("resume=")))
    if str(directory) in ("", "null"):
        return
    flags = [each for each in arguments if each.startswith("-")]
    if "-m" in flags or "--multirun" in flags:
        leave(f"resume={directory} goes on with one run; leave out -m.")
    if not records(directory):
        leave(
            f"resume={directory} holds no run: {directory}/.hydra/config.yaml is missing; name "
            "the directory that the run printed, such as outputs/DATE/TIME."
        )
    newest = newest_record(directory)
    refuse(directory, newest / "config.yaml")
    sys.argv[1:] = [
        *flags,
        *("--config-dir", str(newest.resolve()), "--config-name", "config"),
        *("+hydra=default", f"++resume={quoted(directory)}", f"hydra.run.dir={quoted(directory)}"),
        f"hydra.output_subdir=.hydra/{STARTING}-{os.getpid()}",
        *(further(each, directory) for each in arguments if each not in (*flags, *named)),
    ]


def further(override: str, directory: Path) -> str:
    """An override of a run that goes on. Exits with 2 if it cannot be one."""
    group, _, option = override.partition("=")
    if group.startswith(("hydra.run.", "hydra.output_subdir")):
        leave(f"resume={directory} goes on in that directory; leave out {override}.")
    if not is_option(group, option):
        return override
    if group not in ("callbacks", "logger"):
        leave(
            f"resume={directory} goes on with the same training, which {override} would change; "
            "leave it out, or start a run of its own without resume."
        )
    return f"+{override}"


def leave(message: str) -> NoReturn:
    print(secret.hide(message), file=sys.stderr)
    raise SystemExit(2)


def records(directory: str | Path) -> list[Path]:
    """The configurations of a run: that of its start, then those of each time it went on."""
    folder = Path(directory) / ".hydra"
    later = [path / "config.yaml" for _, path in sorted(numbered(folder))]
    # A process killed while it began leaves an empty one.
    found = [path for path in (folder / "config.yaml", *later) if is_filled(path)]
    return found if found[:1] == [folder / "config.yaml"] else []


def numbered(folder: Path) -> list[tuple[int, Path]]:
    """The records of a run's later starts, ``resume-1`` and so on, with their numbers."""
    found = ((re.fullmatch(r"resume-(\d+)", path.name), path) for path in folder.glob("resume-*"))
    return [(int(match[1]), path) for match, path in found if match]


def is_filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def newest_record(directory: str | Path) -> Path:
    """The folder with the newest configuration of a run.

    Raises:
        FileNotFoundError: there is no run.
    """
    told = records(directory)
    if not told:
        raise FileNotFoundError(f"resume={directory} holds no run: there is no .hydra/config.yaml.")
    return told[-1].parent


def accept(record: Path) -> None:
    """Counts Hydra's record of a start as one of its run, now that it is known to go on."""
    if record.name.startswith(STARTING):
        last = max((number for number, _ in numbered(record.parent)), default=0)
        record.rename(record.with_name(f"resume-{last + 1}"))


def forget(record: Path) -> None:
    """Removes Hydra's record of a start that came to nothing."""
    if record.name.startswith(STARTING):
        shutil.rmtree(record, ignore_errors=True)


def result_of(directory: str | Path) -> dict[str, Any]:
    """A run's result.json; empty if it has none, or something has damaged it."""
    try:
        content = json.loads((Path(directory) / "result.json").read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return content if isinstance(content, dict) and "status" in content else {}


def quoted(directory: str | Path) -> str:
    """A path as an override's value, in which Hydra finds nothing but itself."""
    escaped = re.sub(
        r"(\\*)('|$)", lambda found: found[1] * 2 + found[2].replace("'", "\\'"), str(directory)
    )
    return f"'{escaped}'"


def unquoted(text: str) -> str:
    """A value without the quotes that it was given for Hydra's sake."""
    whole = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if whole else text
