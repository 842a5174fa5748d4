"""Write a run's predictions: python predict.py run=outputs/DATE/TIME input=FILE output=predictions.csv."""

import hydra
from omegaconf import DictConfig

from quartet.cli.arguments import argv_for_run
from quartet.cli.exit import run_and_exit
from quartet.config.allow import guard


@hydra.main(version_base="1.3", config_path="conf", config_name="predict")
def main(cfg: DictConfig) -> None:
    from quartet.cli.commands import predict_command

    predict_command(cfg)


if __name__ == "__main__":
    guard()
    argv_for_run(own=("run", "split", "checkpoint", "input", "id", "output"))
    run_and_exit(main)
