"""The command line: help, and the run that it continues. Without Hydra and torch."""

import sys
from collections.abc import Sequence
from pathlib import Path

from quartet.config.overrides import key_of, unquote
from quartet.core.files import CONF
from quartet.core.problems import abort
from quartet.core.processes import find_interrupted_run

FLAGS = {"-h", "--help"}
MORE = """
python train.py optimizer=adam --help      what an option sets
python train.py optimizer=adam --cfg job   the value of every setting
python train.py --hydra-help               flags
"""


def find_resumed_run(arguments: Sequence[str]) -> tuple[Path, list[str], bool] | None:
    """The run that a command line continues, further overrides, and whether a sweep started it.

    That is the run of ``resume=DIR``, or the one that the same line began before Slurm started this
    job again. None if it starts a new run. Exits with 2 if a run cannot have all that the line sets.
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


def print_help() -> None:
    """Prints the help that the command line asks for, if it does, and exits with 0.

    The help is the files of conf/, which describe each setting; of options that are named beside
    ``--help``, the files of those options. Anything else beside it is left to Hydra, whose own help
    takes a second and leaves the comments out.
    """
    rest = [each for each in sys.argv[1:] if each not in FLAGS]
    own = CONF / f"{Path(sys.argv[0]).stem}.yaml"
    if len(rest) == len(sys.argv) - 1 or not own.is_file():
        return
    if own.stem != "train":
        print(without_modeline(own), end="")
    elif rest:
        files = [CONF / f"{each.replace('=', '/', 1)}.yaml" for each in rest]
        if not all(file.is_file() for file in files):
            return
        texts = [f"# {file.relative_to(CONF.parent)}\n{without_modeline(file)}" for file in files]
        print("\n".join(texts), end="")
    else:
        print("Groups and their options, as in python train.py optimizer=rmsprop scheduler=step:\n")
        groups = {file.parent for file in CONF.glob("[!.]*/**/*.yaml")} - {CONF / "hydra"}
        for group in sorted(groups):
            options = sorted(file.stem for file in group.glob("*.yaml"))
            print(f"{group.relative_to(CONF)}: {', '.join(options)}")
        print(f"\n{without_modeline(own)}{MORE}", end="")
    raise SystemExit(0)


def without_modeline(file: Path) -> str:
    """The text of a file without the line for editors."""
    lines = file.read_text().splitlines(keepends=True)
    return "".join(line for line in lines if "yaml-language-server" not in line)
