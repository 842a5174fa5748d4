"""Search before a training: python scripts/find.py lr|batch_size [overrides]."""

import argparse
import shlex
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from quartet.build import compose
from quartet.cli import run_and_exit
from quartet.core.files import unique_path
from quartet.core.problems import ConfigError, abort
from quartet.inference import find


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("lr", "batch_size"))
    parser.add_argument("overrides", nargs="*", help="as train.py takes them")
    parser.add_argument(
        "--into", type=Path, help="the picture of lr; by default outputs/find-lr.png"
    )
    options = parser.parse_args()
    key = "optimizer.lr" if options.what == "lr" else "data.batch_size"
    into = options.into or unique_path(Path("outputs/find-lr.png"))
    try:
        if options.what == "lr":
            found: float = find.find_learning_rate(compose(options.overrides), into)
        else:
            found = find.find_batch_size(compose(options.overrides))
    except (ConfigError, HydraException, OmegaConfBaseException) as error:
        abort("\n  ".join(["Refused:", *str(error).splitlines()]))
    kept = [each for each in options.overrides if not each.startswith(f"{key}=")]
    if options.what == "lr":
        print(into)
    print(shlex.join(["python", "train.py", *kept, f"{key}={found}"]))


if __name__ == "__main__":
    run_and_exit(main)
