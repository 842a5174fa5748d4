"""The classification models of torchvision, fitted to the data."""

import contextlib
import functools
import http.client
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import WeightsEnum

from quartet.core.messages import suggest_name


def classifier(
    *,
    name: str,
    weights: str | None = None,
    input_shape: Sequence[int],
    num_outputs: int,
    stem: str,
    image_size: int | None,
) -> nn.Module:
    """Builds a torchvision model for images of this shape, with ``num_outputs`` raw outputs.

    It is ``torchvision.models.get_model(name, num_classes=num_outputs)``, with the same names and
    initial values of its parameters, except for ``stem``, ``image_size`` and these changes:

    - The first convolution has the channels of the data. A single channel has the sum of the original
      weights, which gives a grey image the outputs of three equal channels. Other numbers repeat
      the original channels, scaled to keep the size of the outputs.
    - With ``weights``, the last layer is new, unless ``num_outputs`` is that of the weights.
    - GoogLeNet and Inception have no auxiliary heads.
    - SqueezeNet has no final ReLU, which would forbid outputs below 0.

    Args:
        name: Any of ``torchvision.models.list_models(torchvision.models)``, e.g. ``resnet18``.
        weights: Pretrained weights to download, ``DEFAULT`` or a name such as ``IMAGENET1K_V1``;
            None for random ones.
        input_shape: (channels, height, width) of one image.
        num_outputs: Raw outputs per image.
        stem: ``imagenet`` keeps the first layers. ``small`` gives a ResNet a first convolution of
            3x3 with stride 1 and no max-pooling (He et al., "Deep Residual Learning", 2016, section
            4.2). ``auto`` is ``small`` for a ResNet without ``weights`` on images below 64 pixels.
        image_size: Height and width to which images are resized; None does not resize.

    Shape:
        inputs ``(batch, *input_shape)`` -> ``(batch, num_outputs)``.

    Raises:
        ValueError: The model, its weights or the stem do not exist, the weights cannot be
            downloaded, or the model does not accept images of this shape.
    """
    if len(input_shape) != 3:
        shape = f"(channels, height, width) for torchvision's models, got {tuple(input_shape)}"
        raise ValueError(f"input_shape must be {shape}; model=mlp takes any shape.")
    _check_choice("name", name, torchvision.models.list_models(torchvision.models))
    _check_choice("stem", stem, ["auto", "imagenet", "small"])
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size must be at least 1, got {image_size}; null does not resize.")

    channels, *size = input_shape
    height, width = size if image_size is None else (image_size, image_size)
    pretrained = None if weights is None else _find_weights(name, weights)
    if pretrained is None:
        with _refuse_size(name, height, width, advised=224):
            model = _build_random(name, num_outputs, height, width)
    else:
        model = _build_pretrained(name, pretrained, num_outputs)
    if isinstance(model, torchvision.models.SqueezeNet):
        model.classifier[2] = nn.Identity()
    if stem == "auto":
        resnet = isinstance(model, torchvision.models.ResNet)
        tiny = max(height, width) < 64
        stem = "small" if resnet and tiny and pretrained is None else "imagenet"
    if stem == "small":
        _shrink_stem(name, model)
    _fit_channels(model, channels)
    if image_size is not None:
        # A wrapper would change the names of the parameters.
        model.register_forward_pre_hook(functools.partial(_resize, image_size))
    least = 1 if pretrained is None else pretrained.meta["min_size"][0]
    with _refuse_size(name, height, width, advised=max(least, 224)):
        _try_forward(model, input_shape)
    return model


def _check_choice(key: str, value: str, choices: list[str]) -> None:
    if value not in choices:
        hint = suggest_name(str(value), choices, most=len(choices))
        raise ValueError(f"model.{key}={value} is unknown; {hint}")


def _find_weights(name: str, weights: str) -> WeightsEnum:
    known: dict[str, WeightsEnum] = torchvision.models.get_model_weights(name).__members__
    short = weights.rpartition(".")[2]
    _check_choice("weights", short, ["DEFAULT", *known])
    return known[short]


def _build_random(name: str, num_outputs: int, height: int, width: int) -> nn.Module:
    keywords: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        keywords = {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        keywords = {"image_size": height}
    elif name == "maxvit_t":
        keywords = {"input_size": (height, width)}
    model: nn.Module = torchvision.models.get_model(name, num_classes=num_outputs, **keywords)
    return model


def _build_pretrained(name: str, weights: WeightsEnum, num_outputs: int) -> nn.Module:
    try:
        model: nn.Module = torchvision.models.get_model(name, weights=weights)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        way_out = f"Put it into {torch.hub.get_dir()}/checkpoints, or set model.weights=null."
        message = f"could not be loaded from {weights.url}: {error}\n{way_out}"
        raise ValueError(f"model.weights={weights.name} {message}") from error
    if isinstance(model, torchvision.models.Inception3):
        model.aux_logits = False
        model.AuxLogits = None
    _fit_head(model, len(weights.meta["categories"]), num_outputs)
    return model


def _fit_head(model: nn.Module, present: int, num_outputs: int) -> None:
    """Replaces the last layer with ``present`` outputs."""
    if present == num_outputs:
        return
    for path, layer in reversed(list(model.named_modules())):
        if isinstance(layer, nn.Linear) and layer.out_features == present:
            bias = layer.bias is not None
            model.set_submodule(path, nn.Linear(layer.in_features, num_outputs, bias=bias))
            return
        if isinstance(layer, nn.Conv2d) and layer.out_channels == present:
            model.set_submodule(path, nn.Conv2d(layer.in_channels, num_outputs, kernel_size=1))
            return


def _shrink_stem(name: str, model: nn.Module) -> None:
    if not isinstance(model, torchvision.models.ResNet):
        raise ValueError(f"model.stem=small is for ResNets, not {name}; set model.stem=imagenet.")
    conv = nn.Conv2d(3, model.conv1.out_channels, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    model.conv1 = conv
    model.maxpool = nn.Identity()


def _fit_channels(model: nn.Module, channels: int) -> None:
    conv = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    present = conv.in_channels
    if channels == present:
        return
    weight = conv.weight.detach()
    if channels == 1:
        weight = weight.sum(dim=1, keepdim=True)
    else:
        weight = weight[:, [channel % present for channel in range(channels)]]
        weight = weight * (present / channels)
    conv.in_channels = channels
    conv.weight = nn.Parameter(weight)
    if isinstance(model, torchvision.models.GoogLeNet | torchvision.models.Inception3):
        # With weights, these two would shift three channels.
        model.transform_input = False


def _resize(size: int, _: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    return functional.interpolate(inputs[0], size=(size, size), mode="bilinear", antialias=True)


@contextlib.contextmanager
def _refuse_size(name: str, height: int, width: int, *, advised: int) -> Iterator[None]:
    try:
        yield
    except NotImplementedError:  # RegNet on torch's meta device
        raise
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"model.name={name} does not accept images of {height}x{width}: {reason}\n"
            f"Set model.image_size={advised} to resize them, or model=cnn."
        ) from error


def _try_forward(model: nn.Module, input_shape: Sequence[int]) -> None:
    """Raises the error of the model on images of this shape. Computes shapes, no values."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {name: tensor.to("meta") for name, tensor in state.items()}
    model.eval()
    with torch.no_grad():
        torch.func.functional_call(model, shapes, torch.empty(1, *input_shape, device="meta"))
    model.train()
