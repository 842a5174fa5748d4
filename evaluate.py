"""Score a run, or the winner of a sweep, again: python evaluate.py run=outputs/DATE/TIME split=val."""

import hydra
from omegaconf import DictConfig

from quartet import ending
from quartet.allow import guard
from quartet.command import start_from
from quartet.sweep import winner


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    from quartet.job import evaluation

    evaluation(cfg)


if __name__ == "__main__":
    guard()
    winner.take()
    start_from(own=("run", "split", "checkpoint"))
    ending.after(main)
