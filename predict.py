"""Write a run's predictions: python predict.py run=outputs/DATE/TIME input=FILE output=predictions.csv."""

import hydra
from omegaconf import DictConfig

from quartet import ending
from quartet.allow import guard
from quartet.command import start_from


@hydra.main(version_base="1.3", config_path="conf", config_name="predict")
def main(cfg: DictConfig) -> None:
    from quartet.job import prediction

    prediction(cfg)


if __name__ == "__main__":
    guard()
    start_from(own=("run", "split", "checkpoint", "input", "id", "output"))
    ending.after(main)
