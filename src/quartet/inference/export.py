"""Export a trained model to a file that needs none of this package, checked against the original."""

import copy
import importlib.util
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quartet.config.configuration import DictConfig, replace_values, to_container
from quartet.config.instantiate import is_foreign
from quartet.core import files
from quartet.core.problems import ConfigError, Problem, refuse
from quartet.data.nest import leaves, map_tensors
from quartet.inference.predictor import Predictor, from_run, rebuild_run

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors"}
NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "safetensors": ("safetensors",)}


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
        directory: Directory of the run.
        format: onnx or torch_export, which give predictions; safetensors, the weights alone.
        checkpoint: best, last, or the path or URL of a file.
        output: The file; None for ``model.*`` in the directory.
        tolerance: Largest difference to the original's predictions on samples of the run's data.

    Returns:
        The path of the file.

    Raises:
        quartet.core.problems.ConfigError: a package, the checkpoint or the data is missing, or the
            file exists.
        PredictionsDiffer: the exported model predicts something other than the original.
    """
    if is_foreign(to_container(cfg, resolve=False), "module"):
        message = "is no module of the model group, which is exported; use its own to_onnx()."
        raise ConfigError(Problem("module._target_", message, cfg.module._target_))
    suffix = SUFFIXES.get(format, "")
    output = Path(output).expanduser() if output else Path(directory) / f"model{suffix}"
    check_output(format, output)
    cfg = replace_values(cfg, {"trainer.compile": False})  # it is compiled where it will run
    run, path = rebuild_run(cfg, Path(directory), "train", checkpoint, splits=("train",))
    part = "val" if run.data.parts.test is None else "test"
    part = "train" if getattr(run.data.parts, part) is None else part
    inputs: Any = run.module.task.split(next(iter(run.data.part_loader(part))))[0]
    if not isinstance(inputs, Tensor):
        given = f"inputs of the task {run.module.task.name} are a {type(inputs).__name__}"
        message = f"exports models of one tensor, and {given}; predict.py writes its predictions."
        raise ConfigError(Problem("format", message, format))
    inputs = inputs[:64]
    if len(inputs) == 1:  # which an exporter treats as a constant
        inputs = inputs.repeat(2, *[1] * (inputs.ndim - 1))
    largest = write_model(from_run(run, path), inputs, format, output, float(tolerance))
    print(
        f"{output} and {description_path(output).name}: largest difference {largest:.2g} on "
        f"{len(inputs)} samples of the {part} part"
    )
    return output


class PredictingModel(nn.Module):
    """Model and task in one module, which maps inputs to predictions."""

    def __init__(self, model: nn.Module, task: nn.Module) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, inputs: Tensor) -> Any:
        return map_tensors(
            lambda each: each.float() if each.is_floating_point() else each,
            self.task(self.model(inputs)),
        )


class PredictionsDiffer(Exception):
    """An exported model predicts something other than the original."""


def description_path(output: Path) -> Path:
    """The file that describes the inputs and outputs of the model."""
    return output.with_name(f"{output.name}.json")


def write_model(
    predictor: Predictor, inputs: Tensor, form: str, output: Path, tolerance: float
) -> float:
    """Writes the model and its description, and returns the largest difference of predictions.

    Args:
        predictor: The original.
        inputs: At least two real samples, on which both must predict the same.
        form: A key of SUFFIXES.
        output: The file.
        tolerance: Largest difference allowed, as a share of the largest prediction above 1.

    Raises:
        PredictionsDiffer: the difference is larger; nothing was written.
    """
    inputs = inputs.cpu()
    if inputs.is_floating_point():
        inputs = inputs.float()
    whole = PredictingModel(predictor.model.cpu().float(), predictor.task.cpu()).eval()
    is_raw = form == "safetensors"
    original = whole.model if is_raw else whole
    with files.create_file(output) as file:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the exporters' own code
            exported = FORMS[form](original, inputs, file)
            errors: list[Tensor] = []
            for samples in (inputs, inputs[:1]):  # a batch of any size
                expected = original(samples)
                for made, right in zip(leaves(exported(samples)), leaves(expected), strict=True):
                    size = right.double().abs().max().clamp(min=1)
                    errors.append((made.double() - right.double()).abs().max() / size)
            largest = float(torch.stack(errors).max())  # NaN if one is
        if not largest <= tolerance:
            message = f"{output} was not written: its predictions differ by {largest:.2g} from the"
            raise PredictionsDiffer(f"{message} original's, more than tolerance={tolerance:g}.")
        shape = map_tensors(lambda each: ["batch", *each.shape[1:]], expected)
        description = describe(predictor, inputs, shape, is_raw)
        description |= {"format": form, "largest_difference": largest, "checked_on": len(inputs)}
        content = json.dumps(description, indent=2, allow_nan=False) + "\n"
        files.write_atomic(description_path(output), content.encode())
    return largest


def to_onnx(model: nn.Module, inputs: Tensor, file: Path) -> Callable[[Tensor], Any]:
    import onnxruntime

    for name in ("onnxscript", "onnx_ir"):  # they log every step
        logging.getLogger(name).setLevel(logging.WARNING)
    with torch.no_grad():
        outputs = model(inputs)
        torch.onnx.export(
            model,
            (inputs,),
            file,
            dynamo=True,
            verbose=False,
            external_data=False,
            input_names=["inputs"],
            output_names=list(outputs) if isinstance(outputs, dict) else ["predictions"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda inputs: [*map(torch.from_numpy, session.run(None, {"inputs": inputs.numpy()}))]


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


def describe(predictor: Predictor, inputs: Tensor, shape: Any, is_raw: bool) -> dict[str, Any]:
    """Describes the inputs and outputs of the model, and the preparation of samples."""
    metadata, task = predictor.metadata, predictor.task
    config = metadata["config"]
    outputs = {
        "name": "predictions",
        "shape": shape,
        "holds": task.raw_outputs_text if is_raw else task.outputs_text,
        "names": predictor.names,
    }
    scale = {f"target_{name}": values.double() for name, values in task.named_buffers()}
    if "target_mean_rest" in scale:
        scale["target_mean"] += scale.pop("target_mean_rest")
    channels = inputs.shape[1] if inputs.ndim > 1 else 1
    mean, std = config["mean"] or [0.0] * channels, config["std"] or [1.0] * channels
    preprocessing: dict[str, Any] = {"features": metadata["feature_names"]}
    if metadata["encoding"]:
        preprocessing |= {
            "order": "numeric columns as (value - mean) / std, missing ones as fill; then for each "
            "column of categories a 1 in the place of its value, null being a missing one",
            **{key: metadata["encoding"][key] for key in ("numeric", "categories")},
        }
    elif inputs.ndim == 4 and are_pixels(inputs, mean, std):
        preprocessing |= {
            "order": "channels first; resized and cut, scaled, (value - mean) / std by channel",
            "scale": 1 / 255,
            "resize_shorter_side": config.get("image_size"),
            "center_crop": config.get("image_size"),
            "mean": mean,
            "std": std,
        }
    else:
        preprocessing["order"] = f"not known; {config['_target_']} prepares the samples itself"
    return {
        "task": task.name,
        "inputs": {
            "name": "inputs",
            "dtype": str(inputs.dtype).removeprefix("torch."),
            "shape": ["batch", *inputs.shape[1:]],
        },
        "outputs": outputs | {key: scale[key].tolist() for key in scale if is_raw},
        "preprocessing": preprocessing,
    }


def are_pixels(inputs: Tensor, mean: list[float], std: list[float]) -> bool:
    """Whether these are images ``(batch, channels, height, width)`` in [0, 1], standardised or not."""
    shift, factor = (torch.tensor(each).view(-1, 1, 1) for each in (mean, std))
    pixels = inputs * factor + shift
    return bool((pixels > -1e-3).all() and (pixels < 1 + 1e-3).all())


def check_output(form: str, output: Path) -> None:
    """Raises ConfigError if a package is missing, the suffix is wrong, or the file exists."""
    if form not in SUFFIXES:
        raise ConfigError(Problem("format", f"must be one of {', '.join(SUFFIXES)}.", form))
    missing = [name for name in NEEDS.get(form, ()) if importlib.util.find_spec(name) is None]
    message = "needs {}; pip install -e '.[export]'."
    problems = [Problem("format", message.format(name), form) for name in missing]
    if output.suffix != SUFFIXES[form]:
        message = f"must end in {SUFFIXES[form]} for format={form}."
        problems.append(Problem("output", message, output))
    existing = [path for path in (output, description_path(output)) if path.exists()]
    problems += [Problem("output", "exists; name another file.", path) for path in existing]
    refuse(problems)
