"""The weights that a training begins with, from the checkpoint of another run."""

from pathlib import Path

from torch import Tensor, nn

from quartet.checkpoints import storage

PREFIX = "model."  # of the model within the module that a checkpoint is of


def file_of(place: str) -> str | Path:
    """The checkpoint that a run's directory, a path or a URL names: of a run the best, else the last.

    Raises:
        ValueError: there is none.
    """
    if "://" in place:
        return place
    path = Path(place)
    folder = path / "checkpoints"
    known = [folder / "best.ckpt", folder / "last.ckpt"] if path.is_dir() else [path]
    found = next((file for file in known if file.is_file()), None)
    if found is None:
        what = (
            f"{folder} holds no best.ckpt or last.ckpt"
            if path.is_dir()
            else "there is no such file"
        )
        raise ValueError(
            f"weights={place}: {what}; name the directory of a run, or one of its checkpoints."
        )
    return found


def load(model: nn.Module, place: str, *, strict: bool) -> str:
    """Gives a model the weights of a checkpoint, and returns what it took and what did not fit.

    Args:
        model: Changed in place.
        place: A run's directory, or the path or URL of a checkpoint.
        strict: Whether every parameter and buffer must be there with its shape, and nothing else.
            Otherwise those are taken that fit.

    Raises:
        ValueError: there is no checkpoint, not all fits and must, or nothing does.
        quartet.checkpoints.storage.CheckpointError: it is damaged or holds more than plain data.
    """
    path = file_of(place)
    saved: dict[str, Tensor] = {
        name.removeprefix(PREFIX): value
        for name, value in storage.load(path).get("state_dict", {}).items()
        if name.startswith(PREFIX)
    }
    own = model.state_dict()
    fitting = {k: v for k, v in saved.items() if k in own and v.shape == own[k].shape}
    unfit = [
        *(
            f"{k} {shape(saved[k])} there, {shape(own[k])} here"
            for k in saved
            if k in own.keys() - fitting.keys()
        ),
        *(f"{k} only there" for k in saved if k not in own),
        *(f"{k} only here" for k in own if k not in saved),
    ]
    said = "; ".join(unfit[:8]) + (f"; and {len(unfit) - 8} more" if len(unfit) > 8 else "")
    if not fitting:
        raise ValueError(
            f"weights={place}: nothing in {path} fits this model: {said or 'it is empty'}; choose "
            "the model that it is of."
        )
    if strict and unfit:
        raise ValueError(
            f"weights={place}: {path} does not fit this model: {said}; choose the model that it is "
            "of, or take what fits with model.strict=false."
        )
    model.load_state_dict(fitting, strict=False)
    rest = f"; left out: {said}" if unfit else ""
    return f"{len(fitting)} of {len(own)} tensors from {path}{rest}."


def shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"
