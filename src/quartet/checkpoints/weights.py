"""Initial weights from the checkpoint of another run."""

from pathlib import Path

from torch import Tensor, nn

from quartet.checkpoints import storage

PREFIX = "model."  # of the model's weights in a checkpoint


def find_checkpoint(place: str) -> str | Path:
    """Returns the checkpoint of a run's directory, the best or else the last; or a path or URL as it is.

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
    """Loads the weights of a checkpoint into a model, and returns a description of what fits.

    Args:
        model: Changed in place.
        place: A run's directory, or the path or URL of a checkpoint.
        strict: Whether every parameter and buffer must be there with its shape, and nothing else.
            Otherwise those that fit are loaded.

    Raises:
        ValueError: there is no checkpoint, nothing fits, or with ``strict`` something does not.
        quartet.checkpoints.storage.CheckpointError: it is damaged or holds more than plain data.
    """
    path = find_checkpoint(place)
    saved: dict[str, Tensor] = {
        name.removeprefix(PREFIX): value
        for name, value in storage.load(path).get("state_dict", {}).items()
        if name.startswith(PREFIX)
    }
    own = model.state_dict()
    fitting = {k: v for k, v in saved.items() if k in own and v.shape == own[k].shape}
    mismatches = [
        *(
            f"{k} {describe_shape(saved[k])} there, {describe_shape(own[k])} here"
            for k in saved
            if k in own.keys() - fitting.keys()
        ),
        *(f"{k} only there" for k in saved if k not in own),
        *(f"{k} only here" for k in own if k not in saved),
    ]
    differences = "; ".join(mismatches[:8]) + (
        f"; and {len(mismatches) - 8} more" if len(mismatches) > 8 else ""
    )
    if not fitting:
        raise ValueError(
            f"weights={place}: nothing in {path} fits this model: {differences or 'it is empty'}; choose "
            "the model that it is of."
        )
    if strict and mismatches:
        raise ValueError(
            f"weights={place}: {path} does not fit this model: {differences}; choose the model that it is "
            "of, or take what fits with model.strict=false."
        )
    model.load_state_dict(fitting, strict=False)
    rest = f"; left out: {differences}" if mismatches else ""
    return f"{len(fitting)} of {len(own)} tensors from {path}{rest}."


def describe_shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"
