"""Initial weights from the checkpoint of another run."""

from pathlib import Path

from torch import Tensor, nn

from quartet.checkpoints import storage
from quartet.core.messages import shorten

PREFIX = "model."  # of the model's weights in a checkpoint


def find_checkpoint(place: str) -> str | Path:
    """Returns the best or else the last checkpoint of a run's directory; a file or URL as it is.

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
        missing = f"no best.ckpt or last.ckpt in {folder}" if path.is_dir() else "no such file"
        raise ValueError(
            f"weights={place}: {missing}; name the directory of a run, or one of its checkpoints."
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
        quartet.checkpoints.storage.CheckpointError: it is damaged or has more than plain data.
    """
    path = find_checkpoint(place)
    saved: dict[str, Tensor] = {
        name.removeprefix(PREFIX): value
        for name, value in storage.load(path).get("state_dict", {}).items()
        if name.startswith(PREFIX)
    }
    own = model.state_dict()
    fitting = {k: v for k, v in saved.items() if k in own and v.shape == own[k].shape}
    shapes = {k: (tuple(saved[k].shape), tuple(own[k].shape)) for k in saved if k in own}
    mismatches = [
        *(
            f"{k} {there} there, {here} here"
            for k, (there, here) in shapes.items()
            if there != here
        ),
        *(f"{k} only there" for k in saved if k not in own),
        *(f"{k} only here" for k in own if k not in saved),
    ]
    differences = shorten(mismatches, 8)
    if not fitting:
        raise ValueError(
            f"weights={place}: nothing in {path} fits this model: {differences or 'it is empty'}; "
            "choose the model of that run."
        )
    if strict and mismatches:
        raise ValueError(
            f"weights={place}: {path} does not fit this model: {differences}; choose the model of "
            "that run, or load the tensors that fit with model.strict=false."
        )
    model.load_state_dict(fitting, strict=False)
    rest = f"; left out: {differences}" if mismatches else ""
    return f"{len(fitting)} of {len(own)} tensors from {path}{rest}."
