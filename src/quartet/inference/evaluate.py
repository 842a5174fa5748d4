"""Evaluate a trained run again, on its own data or on other samples; draw its pictures."""

from pathlib import Path

from quartet.build import Run
from quartet.checkpoints import storage
from quartet.config.compose import evaluation_config
from quartet.config.configuration import DictConfig
from quartet.config.records import changed_settings
from quartet.core.messages import cut, format_value, redact
from quartet.inference.predictor import rebuild_run
from quartet.records.loggers import shorten_float
from quartet.records.run_directory import finite_figures, read_result, write_new
from quartet.reports.run import columns, describe_captions, draw_evaluation, draw_training
from quartet.training.callbacks.predictions import PredictionCollector


def evaluate(
    cfg: DictConfig,
    directory: str | Path,
    *,
    split: str = "test",
    checkpoint: str = "best",
    input: str | Path | None = None,  # noqa: A002 (the key of the command)
) -> dict[str, float | None]:
    """Computes loss and metrics of a run's checkpoint.

    Args:
        cfg: The configuration it was trained with, data settings perhaps changed.
        directory: Directory of the run.
        split: test or val.
        checkpoint: best, last, or the path or URL of a file.
        input: A file or folder that the data can read, to score instead; None for `split`.

    Returns:
        The figures, also written to ``evaluation-SPLIT.json`` (of the input's name, if there is one) in
        the directory.

    Raises:
        quartet.core.problems.ConfigError: there is no such split or checkpoint, or the data cannot
            be read.
    """
    source = Path(input).expanduser() if input else None
    run, path, collector = score(cfg, Path(directory), split, checkpoint, source)
    values = run.trainer.callback_metrics.items()
    figures = finite_figures({name: shorten_float(float(value)) for name, value in values})
    if not run.trainer.is_global_zero:
        return figures
    changed = changed_settings(cfg, Path(directory)).items()
    head = cut(source.stem) if source else "test"
    print(columns(figures, head), *describe_captions(run, collector), sep="\n")
    file = write_new(
        Path(directory) / f"evaluation-{source.stem if source else split}.json",
        {
            "checkpoint": redact(path),
            "split": str(source or split),
            "overrides": [f"{key}={format_value(value, 200)}" for key, value in changed],
            "metrics": figures,
        },
    )
    pictures = draw_evaluation(run, collector, file)
    print("written:", *(f"  {each}" for each in [file, *pictures]), sep="\n")
    return figures


def score(
    cfg: DictConfig, directory: Path, split: str, checkpoint: str, source: Path | None = None
) -> tuple[Run, str, PredictionCollector]:
    """The run, scored on a part or a file, the place of its checkpoint, and its predictions."""
    part, splits = (split, ("test", "val")) if source is None else ("train", ("train",))
    run, path = rebuild_run(cfg, directory, part, checkpoint, splits, source)
    weights = storage.load(path)["state_dict"]
    storage.load_state(run.module, weights, "checkpoint", checkpoint)
    collector = PredictionCollector()
    run.trainer.callbacks.append(collector)  # type: ignore[attr-defined]
    compute = run.trainer.test if source or split == "test" else run.trainer.validate
    compute(run.module, datamodule=run.data, ckpt_path=path, weights_only=True, verbose=False)
    return run, path, collector


def draw(directory: Path) -> list[Path]:
    """Draws the pictures of a finished run, as its training would have done.

    Raises:
        quartet.core.problems.ConfigError: it cannot be built again.
    """
    cfg = evaluation_config(directory, [], "evaluate")
    result = read_result(directory)
    checkpoint = "best" if result["checkpoints"]["best"] else "last"
    parts = {name.partition("/")[0] for name in result["metrics"]}
    if part := next((part for part in ("test", "val") if part in parts), None):
        run, _, collector = score(cfg, directory, part, checkpoint)
    else:
        run, _ = rebuild_run(cfg, directory, "train", checkpoint, ("train",))
        collector = PredictionCollector()
    return draw_training(run, collector)
