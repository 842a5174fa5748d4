"""Train a model: python train.py optimizer=rmsprop scheduler=step."""

import hydra
from omegaconf import DictConfig

from quartet import command, sweep
from quartet.allow import guard


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> None:
    from quartet.job import job

    job(cfg)


if __name__ == "__main__":
    guard()
    sweep.go_on()
    command.go_on()
    main()
