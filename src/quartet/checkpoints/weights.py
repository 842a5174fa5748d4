"""Initial weights from the checkpoint of another run."""

from pathlib import Path

from torch import Tensor, nn

from quartet.checkpoints import storage
from quartet.core.messages import shorten

PREFIX = "model."  # of the names of the model's weights in a checkpoint


def find_checkpoint(place: str) -> str | Path:
    """Finds the best or else the last checkpoint of a run directory; returns a file or URL unchanged.

    Raises:
        ValueError: there is no such checkpoint.
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
    """Loads the weights of a checkpoint into a model, and returns a message about them.

    Args:
        model: Changed in place.
        place: A run directory, or the path or URL of a checkpoint.
        strict: Whether names and shapes of all parameters and buffers must be equal. Otherwise those
            that fit are loaded.

    Raises:
        ValueError: there is no checkpoint, no tensor fits, or with ``strict`` some tensor does not.
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
    mismatches = [
        *(
            f"{k} {tuple(v.shape)} there, {tuple(own[k].shape)} here"
            for k, v in saved.items()
            if k in own and k not in fitting
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
