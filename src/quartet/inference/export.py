"""A trained model as a file that needs none of this package, checked against the original."""

import copy
import importlib.util
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quartet.core.problems import ConfigError
from quartet.inference.predictor import Predictor

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors"}
NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "safetensors": ("safetensors",)}
OUTPUTS = {
    "multiclass": "probability of each class",
    "binary": "probability of the second class",
    "multilabel": "probability of each label",
    "regression": "values, in the units of the data",
    "ranking": "scores; a higher one comes first within its query",
}
RAW = {
    "multiclass": "logits; their softmax are the probabilities of the classes",
    "binary": "logit; its sigmoid is the probability of the second class",
    "multilabel": "logits; their sigmoids are the probabilities of the labels",
    "regression": "values; times target_std plus target_mean in the units of the data",
    "ranking": OUTPUTS["ranking"],
}


class Predicting(nn.Module):
    """Predictions of inputs, in one step."""

    def __init__(self, model: nn.Module, task: nn.Module) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, inputs: Tensor) -> Tensor:
        return self.task(self.model(inputs)).float()  # type: ignore[no-any-return]


class Different(Exception):
    """An exported model does not predict what the original does."""


def beside(output: Path) -> Path:
    """The file that says what the model takes and gives."""
    return output.with_name(f"{output.name}.json")


def write(trained: Predictor, inputs: Tensor, form: str, output: Path, tolerance: float) -> float:
    """Writes the model, and beside it what it takes and gives.

    Args:
        trained: The original.
        inputs: Real ones, at least two, on which both must predict the same.
        form: A key of SUFFIXES.
        output: The file.
        tolerance: Largest difference allowed, as a share of the largest prediction if that is
            above 1.

    Returns:
        The largest difference.

    Raises:
        Different: it is larger than the tolerance; nothing was written.
    """
    inputs = inputs.float().cpu()
    model, task = (part.cpu() for part in (trained.model, trained.task))
    part = Predicting(model.float(), task).eval()
    raw = form == "safetensors"
    original = part.model if raw else part
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as folder:
        file = Path(folder) / output.name
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporters speak of their own affairs
            again = FORMS[form](original, inputs, file)
            found = 0.0
            for samples in (inputs, inputs[:1]):  # a batch of any size
                expected = original(samples)
                difference = (again(samples) - expected).abs().max() / max(1, expected.abs().max())
                found = max(found, float(difference))
        if not found <= tolerance:
            raise Different(
                f"{output} was not written: its predictions differ by {found:.2g} from the "
                f"original's, more than tolerance={tolerance:g}."
            )
        shape = ["batch", *expected.shape[1:]]
        told = card(trained.facts, trained.names, inputs, shape, raw, task)
        told |= {"format": form, "largest_difference": found, "checked_on": len(inputs)}
        (Path(folder) / "card").write_text(json.dumps(told, indent=2, allow_nan=False) + "\n")
        (Path(folder) / "card").rename(beside(output))
        file.rename(output)
    return found


def to_onnx(model: nn.Module, inputs: Tensor, file: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    for name in ("onnxscript", "onnx_ir"):  # they tell each step of theirs
        logging.getLogger(name).setLevel(logging.WARNING)
    with torch.no_grad():
        torch.onnx.export(
            model,
            (inputs,),
            file,
            dynamo=True,
            verbose=False,
            external_data=False,
            input_names=["inputs"],
            output_names=["predictions"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(None, {"inputs": inputs.numpy()})[0])


def to_program(model: nn.Module, inputs: Tensor, file: Path) -> Callable[[Tensor], Tensor]:
    shapes = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(model, (inputs,), dynamic_shapes=shapes), file)
    return torch.export.load(file).module()


def to_weights(model: nn.Module, inputs: Tensor, file: Path) -> Callable[[Tensor], Tensor]:
    from safetensors.torch import load_file, save_file

    save_file({name: value.clone() for name, value in model.state_dict().items()}, file)
    empty = copy.deepcopy(model)
    for value in empty.state_dict().values():
        value.zero_()
    empty.load_state_dict(load_file(file))
    return empty


FORMS = {"onnx": to_onnx, "torch_export": to_program, "safetensors": to_weights}


def card(
    facts: Mapping[str, Any],
    names: list[str],
    inputs: Tensor,
    shape: list[Any],
    raw: bool,
    task: nn.Module,
) -> dict[str, Any]:
    """What the model takes and gives, and how samples become what it takes."""
    config, kind = facts["config"], facts["task"]
    told: dict[str, Any] = {
        "task": kind,
        "inputs": {"name": "inputs", "dtype": "float32", "shape": ["batch", *inputs.shape[1:]]},
        "outputs": {
            "name": "predictions",
            "shape": shape,
            "holds": (RAW if raw else OUTPUTS)[kind],
            "names": names,
        },
        "preprocessing": {"features": facts["feature_names"]},
    }
    if kind == "regression" and raw:
        mean, std = (buffer.tolist() for buffer in task.buffers())
        told["outputs"] |= {"target_mean": mean, "target_std": std}
    if facts["encoding"]:
        encoding = {key: facts["encoding"][key] for key in ("numeric", "categories")}
        told["preprocessing"] |= {
            "order": "numeric columns as (value - mean) / std, missing ones as fill; then for each "
            "column of categories a 1 in the place of its value, null being a missing one",
            **encoding,
        }
    elif inputs.ndim == 4:
        told["preprocessing"] |= {
            "order": "channels first; resized and cut, scaled, (value - mean) / std by channel",
            "scale": 1 / 255,
            "resize_shorter_side": config.get("image_size"),
            "center_crop": config.get("image_size"),
            "mean": config["mean"] or [0.0] * inputs.shape[1],
            "std": config["std"] or [1.0] * inputs.shape[1],
        }
    return told


def samples(loader: Any, most: int = 64) -> Tensor:
    """Inputs of the first batch, at least two: an export takes 1 for a size that never changes."""
    inputs: Tensor = next(iter(loader))[0][:most]
    return inputs if len(inputs) > 1 else inputs.repeat(2, *[1] * (inputs.ndim - 1))


def refuse(form: str, output: Path) -> None:
    """Refuses what cannot be exported.

    Raises:
        Refusal: a package is missing, or the file is there.
    """
    if form not in SUFFIXES:
        raise ConfigError([f"format={form}: must be one of {', '.join(SUFFIXES)}."])
    missing = [name for name in NEEDS.get(form, ()) if importlib.util.find_spec(name) is None]
    found = [f"format={form}: needs {name}; pip install -e '.[export]'." for name in missing]
    if output.suffix != SUFFIXES[form]:
        found.append(f"output={output}: must end in {SUFFIXES[form]} for format={form}.")
    taken = [path for path in (output, beside(output)) if path.exists()]
    found += [f"output={path}: is there already; name another file." for path in taken]
    if found:
        raise ConfigError(found)
