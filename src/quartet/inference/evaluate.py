"""What a run is good for afterwards: to be scored, to predict, to be exported."""

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, open_dict

from quartet.compat.lightning import quieten
from quartet.core import redaction
from quartet.core.files import unique_path
from quartet.records import result
from quartet.validation.data import load_data

if TYPE_CHECKING:
    from quartet.build import Run


def evaluate(
    cfg: DictConfig, directory: str | Path, *, split: str = "test", checkpoint: str = "best"
) -> dict[str, float]:
    """Scores a run again.

    Args:
        cfg: The configuration it was trained with, data settings perhaps changed.
        directory: Of the run.
        split: test or val.
        checkpoint: best, last, or the path or URL of a file.

    Returns:
        The figures, also written to ``evaluation-SPLIT.json`` in the directory.

    Raises:
        quartet.core.problems.ConfigError: there is no such split or checkpoint, or the data cannot be had.
    """
    from quartet.checkpoints import storage
    from quartet.core.problems import ConfigError
    from quartet.records.loggers import shorten_float
    from quartet.reports import picture, text
    from quartet.training.callbacks.predictions import PredictionCollector

    run, path = existing(cfg, Path(directory), split, checkpoint, splits=("test", "val"))
    try:
        run.module.load_state_dict(storage.load(path)["state_dict"])
    except RuntimeError as error:
        reason = " ".join(str(error).partition(":\n")[2].split())
        fault = f"checkpoint={checkpoint} is of another model, or of other data: {reason}"
        raise ConfigError([fault]) from None
    run.trainer.callbacks.append(seen := PredictionCollector())  # type: ignore[attr-defined]
    play = run.trainer.test if split == "test" else run.trainer.validate
    play(run.module, datamodule=run.data, ckpt_path=path, weights_only=True, verbose=False)
    values = run.trainer.callback_metrics.items()
    figures = {name: shorten_float(float(value)) for name, value in values}
    if not run.trainer.is_global_zero:
        return figures
    file = result.write_new(
        Path(directory),
        f"evaluation-{split}.json",
        {"checkpoint": redaction.redact(path), "split": split, "metrics": figures},
    )
    pictures = picture.of_evaluation(run, seen, file)
    print(text.columns(figures), "written:", *(f"  {each}" for each in [file, *pictures]), sep="\n")
    return figures


def predict(
    cfg: DictConfig,
    directory: str | Path,
    *,
    split: str = "test",
    checkpoint: str = "best",
    input: str | Path | None = None,  # noqa: A002 (the key of the command)
    id: str | None = None,  # noqa: A002
    output: str | Path | None = None,
) -> Path:
    """Writes a run's predictions, one row a sample, in memory that does not grow with their number.

    Columns: sample, the number of the row, the path of a picture or the value of the column `id`;
    query, for ranking; target, if it is known; prediction; and for classification the probability
    of every class.

    Args:
        cfg: The configuration it was trained with, data settings perhaps changed.
        directory: Of the run.
        split: train, val or test, of the run's own data.
        checkpoint: best, last, or the path or URL of a file.
        input: A csv table, a picture or a folder of pictures to predict instead; None for `split`.
        id: The column of that table that names its rows; None for their numbers.
        output: The file, ``.csv`` or ``.parquet``; None for ``predictions-SPLIT.csv`` (of the
            input's name, if there is one) in the directory, with a number if that is there.

    Returns:
        The path of the file.

    Raises:
        quartet.core.problems.ConfigError: there is no such split or checkpoint, the data cannot be had, the
            input does not fit what the model was trained on, or the output is there already.
    """
    from quartet.core.problems import ConfigError
    from quartet.inference import inputs, predictor
    from quartet.inference import predict as prediction

    quieten()
    source = Path(input).expanduser() if input else None
    name = source.stem if source else split
    default = unique_path(Path(directory) / f"predictions-{name}.csv")
    output = Path(output).expanduser() if output else default
    if faults := prediction.faults(output):
        raise ConfigError(faults)
    if source is None:
        splits = ("test", "val", "train")
        run, path = existing(cfg, Path(directory), split, checkpoint, splits=splits)
        model = predictor.from_run(run, path)
        count = prediction.write(model, prediction.of_part(run, split, model.names), output)
    else:
        path = checkpoint_path(Path(directory), checkpoint)
        model = predictor.from_checkpoint(cfg, Path(directory), path)
        try:
            batches = inputs.batches(source, model.facts, model.names, id)
            count = prediction.write(model, batches, output)
        except (ValueError, OSError) as error:
            raise ConfigError([f"input={source}: {error}"]) from None
    print(f"{count:,} predictions in {output}")
    return output


def export(
    cfg: DictConfig,
    directory: str | Path,
    *,
    format: str = "onnx",  # noqa: A002 (the key of the command)
    checkpoint: str = "best",
    output: str | Path | None = None,
    tolerance: float = 1e-4,
) -> Path:
    """Writes a run's model as a file that needs no Quartet, and FILE.json, which describes it.

    Args:
        cfg: The configuration it was trained with.
        directory: Of the run.
        format: onnx or torch_export, which give predictions; safetensors, the weights alone.
        checkpoint: best, last, or the path or URL of a file.
        output: The file; None for ``model.*`` in the directory.
        tolerance: Largest difference to the original's predictions on samples of the run's data.

    Returns:
        The path of the file.

    Raises:
        quartet.core.problems.ConfigError: a package, the checkpoint or the data is missing, or the file is
            there already.
        quartet.inference.export.Different: the exported model predicts something else.
    """
    from quartet.inference import export as exporting
    from quartet.inference import predictor

    suffix = exporting.SUFFIXES.get(format, "")
    output = Path(output).expanduser() if output else Path(directory) / f"model{suffix}"
    exporting.refuse(format, output)
    with open_dict(cfg):
        cfg.trainer.compile = False  # it is compiled where it will run
    run, path = existing(cfg, Path(directory), "train", checkpoint, splits=("train",))
    part = "val" if run.data.parts.test is None else "test"
    part = "train" if getattr(run.data.parts, part) is None else part
    inputs = exporting.samples(run.data.part_loader(part))
    found = exporting.write(predictor.from_run(run, path), inputs, format, output, float(tolerance))
    print(
        f"{output} and {exporting.beside(output).name}: largest difference {found:.2g} on "
        f"{len(inputs)} samples of the {part} part"
    )
    return output


def checkpoint_path(directory: Path, checkpoint: str) -> str:
    """The path or URL of a run's checkpoint that can be loaded.

    Raises:
        quartet.core.problems.ConfigError: it cannot.
    """
    from quartet.checkpoints import storage
    from quartet.core.problems import ConfigError, collect_problems

    named = {name: str(directory / f"checkpoints/{name}.ckpt") for name in ("best", "last")}
    path = named.get(checkpoint, checkpoint)
    faults: list[str] = []
    if "://" not in path and not Path(path).is_file():
        faults.append(f"checkpoint={checkpoint}: {path} is missing; name best, last or a file.")
    else:
        with collect_problems(faults, f"checkpoint={checkpoint}"):
            storage.load(path)  # before the data, which may take long
    if faults:
        raise ConfigError(faults)
    return path


def existing(
    cfg: DictConfig, directory: Path, split: str, checkpoint: str, splits: tuple[str, ...]
) -> tuple["Run", str]:
    """A trained run, built again with its data, and the path or URL of one of its checkpoints."""
    from quartet.build import build
    from quartet.core.problems import ConfigError, collect_problems

    quieten()
    faults: list[str] = []
    with collect_problems(faults, "checkpoint"):
        path = checkpoint_path(directory, checkpoint)
    if split not in splits:
        faults.append(f"split={split}: must be one of {', '.join(splits)}.")
    if faults:
        raise ConfigError(faults)
    with open_dict(cfg):
        cfg.callbacks, cfg.logger = {}, {}
    run = build(cfg, directory)
    run.trainer.loggers = []  # metrics.csv is that of the training
    load_data(run)
    if getattr(run.data.parts, split) is None:
        raise ConfigError([f"split={split}: this data has no such part."])
    return run, path
