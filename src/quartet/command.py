"""Commands on a run that exists: its own record becomes the configuration they start from."""

import json
import shutil
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from quartet import allow, rank, secret, slurm

CONF = Path(__file__).parents[2] / "conf"


def start_from(own: Sequence[str]) -> None:
    """Rewrites the command line so that Hydra reads the configuration of ``run=DIR``.

    What the run was trained with thus stays, whatever has become of the files in conf/; further
    overrides apply to its values. Of whole options only another trainer is taken.

    Args:
        own: Keys that the command adds to the run's configuration.
    """
    let_hydra_start()
    if {"-h", "--help"} & set(sys.argv[1:]):
        print((CONF / f"{Path(sys.argv[0]).stem}.yaml").read_text(), end="")
        raise SystemExit(0)
    if any(argument.startswith("-") for argument in sys.argv[1:]):
        return  # --cfg and the like, or a command line that was rewritten before
    given = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    if "run" not in given:
        print(f"Which run? python {sys.argv[0]} run=outputs/DATE/TIME", file=sys.stderr)
        raise SystemExit(2)
    directory = Path(given["run"])
    if not (directory / ".hydra" / "config.yaml").is_file():
        print(
            f"run={directory} holds no run: {directory}/.hydra/config.yaml is missing.",
            file=sys.stderr,
        )
        raise SystemExit(2)
    refuse(directory, directory / ".hydra" / "config.yaml")
    options = {key: given.pop(key) for key in list(given) if is_option(key, given[key])}
    again = [f"+trainer={options.pop('trainer')}"] if "trainer" in options else []
    told = directory / "result.json"
    chosen = json.loads(told.read_text())["choices"] if told.is_file() else {}
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
        f"hydra.run.dir='{directory}'",
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
    faults = links(directory)
    faults += [f"{record}: {fault}" for fault in allow.in_record(record.read_text())]
    if faults:
        leave("\n  ".join(["Refused:", *faults]))


def links(directory: Path) -> list[str]:
    """What of the files of a run or a sweep leads out of it, where another file would be written."""
    folders = [directory, *(directory / name for name in (".hydra", "checkpoints", "optuna"))]
    return [
        f"{path} is a link to {path.readlink()}; put the file itself there."
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.is_symlink()
    ]


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
    directory = Path(named[-1].removeprefix("resume=").strip("'\""))
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
    overrides = []
    for each in arguments:
        if each in flags or each in named:
            continue
        group, _, option = each.partition("=")
        if is_option(group, option):
            if group not in ("callbacks", "logger"):
                leave(
                    f"resume={directory} goes on with the same training, which {each} would "
                    "change; leave it out, or start a run of its own without resume."
                )
            each = f"+{each}"
        overrides.append(each)
    number = len(records(directory))
    sys.argv[1:] = [
        *flags,
        *("--config-dir", str(newest.resolve()), "--config-name", "config"),
        *("+hydra=default", f"++resume='{directory}'", f"hydra.run.dir='{directory}'"),
        f"hydra.output_subdir=.hydra/resume-{number}",
        *overrides,
    ]


def leave(message: str) -> NoReturn:
    print(secret.hide(message), file=sys.stderr)
    raise SystemExit(2)


def records(directory: str | Path) -> list[Path]:
    """The configurations of a run: that of its start, then those of each time it went on."""
    folder = Path(directory) / ".hydra"
    first = folder / "config.yaml"
    # A process killed while it began leaves an empty one.
    later = [path for path in folder.glob("resume-*/config.yaml") if path.stat().st_size]
    by_number = sorted(later, key=lambda path: int(path.parent.name.removeprefix("resume-")))
    return [first, *by_number] if first.is_file() else []


def newest_record(directory: str | Path) -> Path:
    """The folder with the newest configuration of a run.

    Raises:
        FileNotFoundError: there is no run.
    """
    told = records(directory)
    if not told:
        raise FileNotFoundError(f"resume={directory} holds no run: there is no .hydra/config.yaml.")
    return told[-1].parent


def forget(record: Path) -> None:
    """Removes Hydra's record of a start that came to nothing, so that none goes on from it."""
    if record.name.startswith("resume-"):
        shutil.rmtree(record, ignore_errors=True)
