"""Evaluate a trained run again, on its own data or on other samples."""

from pathlib import Path
from typing import TYPE_CHECKING

from quartet.checkpoints import storage
from quartet.core.messages import redact
from quartet.core.problems import ConfigError, Problem
from quartet.inference.predictor import rebuild_run
from quartet.records.loggers import shorten_float
from quartet.records.run_directory import write_new
from quartet.reports.run import columns, draw_evaluation
from quartet.training.callbacks.predictions import PredictionCollector

if TYPE_CHECKING:
    from omegaconf import DictConfig


def evaluate(
    cfg: "DictConfig", directory: str | Path, *, split: str = "test", checkpoint: str = "best"
) -> dict[str, float]:
    """Computes loss and metrics of a run's checkpoint.

    Args:
        cfg: The configuration it was trained with, data settings perhaps changed.
        directory: Directory of the run.
        split: test or val.
        checkpoint: best, last, or the path or URL of a file.

    Returns:
        The figures, also written to ``evaluation-SPLIT.json`` in the directory.

    Raises:
        quartet.core.problems.ConfigError: there is no such split or checkpoint, or the data cannot
            be read.
    """
    run, path = rebuild_run(cfg, Path(directory), split, checkpoint, splits=("test", "val"))
    try:
        run.module.load_state_dict(storage.load(path)["state_dict"])
    except RuntimeError as error:
        reason = " ".join(str(error).partition(":\n")[2].split())
        message = f"is of another model, or of other data: {reason}"
        raise ConfigError(Problem("checkpoint", message, checkpoint)) from None
    collector = PredictionCollector()
    run.trainer.callbacks.append(collector)  # type: ignore[attr-defined]
    score = run.trainer.test if split == "test" else run.trainer.validate
    score(run.module, datamodule=run.data, ckpt_path=path, weights_only=True, verbose=False)
    values = run.trainer.callback_metrics.items()
    figures = {name: shorten_float(float(value)) for name, value in values}
    if not run.trainer.is_global_zero:
        return figures
    file = write_new(
        Path(directory) / f"evaluation-{split}.json",
        {"checkpoint": redact(path), "split": split, "metrics": figures},
    )
    pictures = draw_evaluation(run, collector, file)
    print(columns(figures), "written:", *(f"  {each}" for each in [file, *pictures]), sep="\n")
    return figures
