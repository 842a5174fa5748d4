"""What ``--help`` prints: the files of conf/, which say what each setting is.

Imported before Hydra, whose own help takes a second, composes all and leaves the comments out.
"""

import sys
from pathlib import Path

from quartet.core.files import CONF

FLAGS = {"-h", "--help"}
MORE = """
python train.py optimizer=adam --help      what an option sets
python train.py optimizer=adam --cfg job   the value of every setting
python train.py --hydra-help               flags
"""


def print_and_exit() -> None:
    """Prints the help that the command line asks for, if it does, and exits with 0.

    That of options named beside it is their files. What stands there otherwise is left to Hydra.
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
        told = [f"# {file.relative_to(CONF.parent)}\n{without_modeline(file)}" for file in files]
        print("\n".join(told), end="")
    else:
        print("Groups and their options, as in python train.py optimizer=rmsprop scheduler=step:\n")
        groups = {file.parent for file in CONF.glob("[!.]*/**/*.yaml")} - {CONF / "hydra"}
        for group in sorted(groups):
            options = sorted(file.stem for file in group.glob("*.yaml"))
            print(f"{group.relative_to(CONF)}: {', '.join(options)}")
        print(f"\n{without_modeline(own)}{MORE}", end="")
    raise SystemExit(0)


def without_modeline(file: Path) -> str:
    """A file's text without what it tells an editor."""
    lines = file.read_text().splitlines(keepends=True)
    return "".join(line for line in lines if "yaml-language-server" not in line)
