"""Write a run's model as a file that needs no Quartet: python scripts/export.py run=outputs/DATE/TIME format=onnx."""

import hydra
from omegaconf import DictConfig

from quartet import ending
from quartet.allow import guard
from quartet.command import start_from


@hydra.main(version_base="1.3", config_path="../conf", config_name="export")
def main(cfg: DictConfig) -> None:
    from quartet.job import exporting

    exporting(cfg)


if __name__ == "__main__":
    guard()
    start_from(own=("run", "format", "checkpoint", "output", "tolerance"))
    ending.after(main)
