"""Train a model: python train.py optimizer=rmsprop scheduler=step."""

import gc

from quartet import usage
from quartet.stop import stop

gc.disable()  # until Hydra has composed: looking for garbage, which there is none of, takes a twentieth
usage.answer()
stop.listen()
stop.hold()  # until the run begins: Hydra, broken off, would make an error of its own of it

import hydra  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from quartet import command, ending  # noqa: E402
from quartet.allow import guard  # noqa: E402
from quartet.sweep import directory  # noqa: E402


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> None:
    from quartet.job import job

    job(cfg)


if __name__ == "__main__":
    guard()
    directory.go_on()
    command.go_on()
    ending.after(main)
