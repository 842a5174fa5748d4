"""Train a model: python train.py optimizer=rmsprop scheduler=step."""

import gc

from quartet.cli.help import print_and_exit
from quartet.core.signals import shutdown

gc.disable()  # until Hydra has composed: looking for garbage, which there is none of, takes a twentieth
print_and_exit()
shutdown.install()
shutdown.defer()  # until the run begins: Hydra, broken off, would make an error of its own of it

import hydra  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from quartet.cli import arguments  # noqa: E402
from quartet.cli.exit import run_and_exit  # noqa: E402
from quartet.config.allow import guard  # noqa: E402
from quartet.sweeps import directory  # noqa: E402


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> None:
    from quartet.cli.commands import train_command

    train_command(cfg)


if __name__ == "__main__":
    guard()
    directory.expand_sweep_arguments()
    arguments.argv_for_resume()
    run_and_exit(main)
