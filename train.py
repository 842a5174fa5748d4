"""Train a model: python train.py optimizer=rmsprop scheduler=step."""

import hydra
from omegaconf import DictConfig

from quartet.allow import guard
from quartet.command import go_on


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> None:
    from quartet.job import job

    job(cfg)


if __name__ == "__main__":
    guard()
    go_on()
    main()
