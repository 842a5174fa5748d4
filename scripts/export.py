"""Export a run's model: python scripts/export.py run=outputs/DATE/TIME format=onnx."""

import hydra
from omegaconf import DictConfig

from quartet.cli.arguments import argv_for_run
from quartet.cli.exit import run_and_exit
from quartet.config.allow import guard


@hydra.main(version_base="1.3", config_path="../conf", config_name="export")
def main(cfg: DictConfig) -> None:
    from quartet.cli.commands import export_command

    export_command(cfg)


if __name__ == "__main__":
    guard()
    argv_for_run(own=("run", "format", "checkpoint", "output", "tolerance"))
    run_and_exit(main)
