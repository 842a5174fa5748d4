"""A training run from start to end: build, fit, test, report."""

import json
import logging
import warnings
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, open_dict

from quartet import record, secret
from quartet.stop import stop
from quartet.sweep import jobs

if TYPE_CHECKING:
    from quartet.build import Run
    from quartet.report.seen import Seen


def train(cfg: DictConfig, directory: str | Path | None = None) -> dict[str, Any]:
    """Trains what `cfg` describes, tests the best checkpoint and writes the run's directory.

    Args:
        cfg: As `quartet.build.compose` gives it. With ``cfg.resume`` set, goes on with that run.
        directory: Where to write; None for a new one under ``outputs/``, or that of ``cfg.resume``.

    Returns:
        The content of ``result.json``.

    Raises:
        quartet.check.Refusal: the configuration cannot train; nothing was written.
        quartet.module.NonFiniteLossError: the loss became NaN or infinite.
    """
    with ExitStack() as locks:
        return play(cfg, directory, locks)


def play(cfg: DictConfig, directory: str | Path | None, locks: ExitStack) -> dict[str, Any]:
    """As `train`, with the lock of the directory that it takes."""
    start = perf_counter()
    from quartet import resume
    from quartet.build import build
    from quartet.check import Refusal
    from quartet.checkpoint import Continuation
    from quartet.logger import begin_anew, shortest
    from quartet.progress import StopAtBatchEnd, Timer
    from quartet.report import picture, text
    from quartet.report.seen import Seen
    from quartet.search import pruning

    quieten()
    place: resume.Place | None = None
    if not cfg.get("resume") and directory and record.is_taken(Path(directory)):
        raise Refusal(
            [
                f"{directory} already holds a run, and nothing in it was touched; name another "
                "directory, or go on with that run, resume=DIR."
            ]
        )
    if cfg.get("resume"):
        directory = Path(cfg.resume)
        hold(directory, locks)
        place = resume.place_of(cfg)
        if place is None:
            print(f"{directory} has finished; trainer.max_epochs=N would train it for longer.")
            return dict(json.loads((directory / "result.json").read_text()))
    run = build(cfg, directory)
    if place and (faults := resume.check_length(run, cfg, place.epoch)):
        raise Refusal(faults)
    load_data(run)
    hold(run.directory, locks)
    trainer, main = run.trainer, run.trainer.is_global_zero
    timer = Timer()
    hopeless = [] if place else pruning.of(run)
    trainer.callbacks += [timer, StopAtBatchEnd(stop), *hopeless]  # type: ignore[attr-defined]
    result = record.blank(cfg)
    if place:
        result["choices"] = record.own(resume.choices(run.directory))
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Continuation):
                callback.extended = place.extended
    try:
        if main:
            record.write_environment(cfg, run)
            (run.directory / "result.json").unlink(missing_ok=True)  # of what went before
        fit_start = perf_counter()
        with stop.held():
            record.write_logged_runs(run)
            path = place.checkpoint if place else None
            if place and not path:
                print(f"{run.directory} holds no checkpoint yet; it starts from the beginning.")
                begin_anew(trainer.loggers)
            trainer.fit(run.module, run.data, ckpt_path=path, weights_only=True)
        result["seconds"]["fit"] = perf_counter() - fit_start
        # The first process alone holds the history.
        summary: Any = record.summary(run) if main else {}
        result |= trainer.strategy.broadcast(summary)
        best = result["checkpoints"]["best"]
        path = run.directory / best if best else None  # None: the weights as they are now
        trainer.callbacks.append(seen := Seen())  # type: ignore[attr-defined]
        if run.data.parts.test is not None:
            trainer.test(run.module, run.data, ckpt_path=path, weights_only=True, verbose=False)
            for name, value in trainer.callback_metrics.items():
                if name.startswith("test/"):
                    result["metrics"][name] = shortest(float(value))
        result |= {"status": "finished", "samples_per_second": timer.samples_per_second()}
        if hopeless and hopeless[0].epoch:
            result["pruned"] = hopeless[0].epoch
    except (KeyboardInterrupt, SystemExit) as error:
        result |= record.failure("interrupted", error, cfg)
        raise
    except BaseException as error:
        result |= record.failure("failed", error, cfg)
        raise
    finally:
        result["seconds"]["total"] = perf_counter() - start
        if main:
            record.write_result(run.directory, result)
    if run.data.parts.test is None and run.data.parts.val is not None:
        see_validation(run, seen, path)
    if main:
        picture.of_training(run, seen)
        print(text.table(result, run.directory))
    return result


def see_validation(run: "Run", seen: "Seen", path: Path | None) -> None:
    """Has the best checkpoint predict the validation part, and nothing of it logged."""
    trainer: Any = run.trainer
    loggers, callbacks = trainer.loggers, trainer.callbacks
    trainer.loggers, trainer.callbacks = [], [seen]
    try:
        trainer.validate(run.module, run.data, ckpt_path=path, weights_only=True, verbose=False)
    except Exception as error:  # the run has finished, whatever becomes of its pictures
        logging.getLogger(__name__).warning(f"No predictions are drawn: {error}")
    finally:
        trainer.loggers, trainer.callbacks = loggers, callbacks


def hold(directory: Path, locks: ExitStack) -> None:
    """Keeps other processes from training in a directory as long as `locks` are open.

    Raises:
        quartet.check.Refusal: one does already.
    """
    from quartet.check import Refusal

    try:
        locks.enter_context(jobs.held(directory))
    except jobs.Taken as error:
        raise Refusal([str(error)]) from None


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
        quartet.check.Refusal: there is no such split or checkpoint, or the data cannot be had.
    """
    from quartet import storage
    from quartet.check import Refusal
    from quartet.logger import shortest
    from quartet.report import picture, text
    from quartet.report.seen import Seen

    run, path = existing(cfg, Path(directory), split, checkpoint, splits=("test", "val"))
    try:
        run.module.load_state_dict(storage.load(path)["state_dict"])
    except RuntimeError as error:
        reason = " ".join(str(error).partition(":\n")[2].split())
        fault = f"checkpoint={checkpoint} is of another model, or of other data: {reason}"
        raise Refusal([fault]) from None
    run.trainer.callbacks.append(seen := Seen())  # type: ignore[attr-defined]
    play = run.trainer.test if split == "test" else run.trainer.validate
    play(run.module, datamodule=run.data, ckpt_path=path, weights_only=True, verbose=False)
    values = run.trainer.callback_metrics.items()
    figures = {name: shortest(float(value)) for name, value in values}
    if not run.trainer.is_global_zero:
        return figures
    file = record.write_new(
        Path(directory),
        f"evaluation-{split}.json",
        {"checkpoint": secret.hide(path, cfg), "split": split, "metrics": figures},
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
        quartet.check.Refusal: there is no such split or checkpoint, the data cannot be had, the
            input does not fit what the model was trained on, or the output is there already.
    """
    from quartet import inputs, prediction, trained
    from quartet.check import Refusal

    quieten()
    source = Path(input).expanduser() if input else None
    name = source.stem if source else split
    default = prediction.free(Path(directory) / f"predictions-{name}.csv")
    output = Path(output).expanduser() if output else default
    if faults := prediction.faults(output):
        raise Refusal(faults)
    if source is None:
        splits = ("test", "val", "train")
        run, path = existing(cfg, Path(directory), split, checkpoint, splits=splits)
        model = trained.of_run(run, path)
        count = prediction.write(model, prediction.of_part(run, split, model.names), output)
    else:
        path = checkpoint_path(Path(directory), checkpoint)
        model = trained.alone(cfg, Path(directory), path)
        try:
            batches = inputs.batches(source, model.facts, model.names, id)
            count = prediction.write(model, batches, output)
        except (ValueError, OSError) as error:
            raise Refusal([f"input={source}: {error}"]) from None
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
        quartet.check.Refusal: a package, the checkpoint or the data is missing, or the file is
            there already.
        quartet.export.Different: the exported model predicts something else.
    """
    from quartet import export as exporting
    from quartet import trained

    suffix = exporting.SUFFIXES.get(format, "")
    output = Path(output).expanduser() if output else Path(directory) / f"model{suffix}"
    exporting.refuse(format, output)
    with open_dict(cfg):
        cfg.trainer.compile = False  # it is compiled where it will run
    run, path = existing(cfg, Path(directory), "train", checkpoint, splits=("train",))
    part = "val" if run.data.parts.test is None else "test"
    part = "train" if getattr(run.data.parts, part) is None else part
    inputs = exporting.samples(run.data.part_loader(part))
    found = exporting.write(trained.of_run(run, path), inputs, format, output, float(tolerance))
    print(
        f"{output} and {exporting.beside(output).name}: largest difference {found:.2g} on "
        f"{len(inputs)} samples of the {part} part"
    )
    return output


def checkpoint_path(directory: Path, checkpoint: str) -> str:
    """The path or URL of a run's checkpoint that can be loaded.

    Raises:
        quartet.check.Refusal: it cannot.
    """
    from quartet import storage
    from quartet.check import Refusal, collecting

    named = {name: str(directory / f"checkpoints/{name}.ckpt") for name in ("best", "last")}
    path = named.get(checkpoint, checkpoint)
    faults: list[str] = []
    if "://" not in path and not Path(path).is_file():
        faults.append(f"checkpoint={checkpoint}: {path} is missing; name best, last or a file.")
    else:
        with collecting(faults, f"checkpoint={checkpoint}"):
            storage.load(path)  # before the data, which may take long
    if faults:
        raise Refusal(faults)
    return path


def existing(
    cfg: DictConfig, directory: Path, split: str, checkpoint: str, splits: tuple[str, ...]
) -> tuple["Run", str]:
    """A trained run, built again with its data, and the path or URL of one of its checkpoints."""
    from quartet import storage
    from quartet.build import build
    from quartet.check import Refusal, collecting

    quieten()
    named = {name: str(directory / f"checkpoints/{name}.ckpt") for name in ("best", "last")}
    path = named.get(checkpoint, checkpoint)
    faults: list[str] = []
    if "://" not in path and not Path(path).is_file():
        faults.append(f"checkpoint={checkpoint}: {path} is missing; name best, last or a file.")
    else:
        with collecting(faults, f"checkpoint={checkpoint}"):
            storage.load(path)  # before the data, which may take long
    if split not in splits:
        faults.append(f"split={split}: must be one of {', '.join(splits)}.")
    if faults:
        raise Refusal(faults)
    with open_dict(cfg):
        cfg.callbacks, cfg.logger = {}, {}
    run = build(cfg, directory)
    run.trainer.loggers = []  # metrics.csv is that of the training
    load_data(run)
    if getattr(run.data.parts, split) is None:
        raise Refusal([f"split={split}: this data has no such part."])
    return run, path


def load_data(run: "Run") -> None:
    """Reads, downloads if need be, and checks the data.

    Raises:
        quartet.check.Refusal: it cannot be had, or cannot train.
    """
    from quartet.check import Refusal, collecting
    from quartet.data.check import check

    faults: list[str] = []
    if not run.data.loaded:
        with collecting(faults, "data", run.config["data"]):
            faults += check(run.data.load(), run.config["data"], run.config["metrics"])
    if faults:
        raise Refusal(faults)


def quieten() -> None:
    """Silences what Lightning says of itself; its real warnings stay."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()  # or every message comes twice under Hydra
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*LeafSpec.*",  # torch 2.15 renamed what Lightning 2.6 uses
        "The number of training batches",  # nothing is logged by step
        ".*sync_dist=True",  # the meters have synchronised already
        "Total length of `list`",  # no validation part
        "You're resuming from a checkpoint that ended before the epoch ended",  # the data knows where
        "Checkpoint directory .* exists and is not empty",  # going on with a run
        "Be aware that when using `ckpt_path`",  # evaluating needs no checkpoint callbacks
        ".*does not have many workers",  # small files are read faster without
        "A `OneCycleLR` scheduler is using",  # its length is counted in epochs, too
    ):
        warnings.filterwarnings("ignore", message)
