"""Score a run, or the winner of a sweep, again: python evaluate.py run=outputs/DATE/TIME split=val."""

import hydra
from omegaconf import DictConfig

from quartet.cli.arguments import argv_for_run
from quartet.cli.exit import run_and_exit
from quartet.config.allow import guard
from quartet.sweeps.directory import replace_sweep_by_winner


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    from quartet.cli.commands import evaluate_command

    evaluate_command(cfg)


if __name__ == "__main__":
    guard()
    replace_sweep_by_winner()
    argv_for_run(own=("run", "split", "checkpoint"))
    run_and_exit(main)
