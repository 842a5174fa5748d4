"""The models of the template: shapes, sizes, what it refuses."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.error import URLError

import hydra
import pytest
import torch
import torchvision
from made import rejections
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional

from quartet.parts.torchvision import classifier

CONF = Path(__file__).parents[2] / "conf" / "model"
NAMES = [
    name for name in ("cnn", "linear", "mlp", "torchvision") if (CONF / f"{name}.yaml").exists()
]


def keywords_of(
    option: str, /, *, input_shape: list[int], num_outputs: int, **overrides: Any
) -> dict[str, Any]:
    facts = {"input_shape": input_shape, "num_outputs": num_outputs}
    node = OmegaConf.merge(OmegaConf.load(CONF / f"{option}.yaml"), overrides)
    config = OmegaConf.create({"data": facts, "model": node})
    keywords: dict[str, Any] = OmegaConf.to_container(config, resolve=True)["model"]
    keywords.pop("search", None)
    return keywords


def torchvision_model(**overrides: Any) -> nn.Module:
    settings = {"input_shape": [3, 32, 32], "num_outputs": 10} | overrides
    keywords = keywords_of("torchvision", **settings)
    del keywords["_target_"]
    return classifier(**keywords)


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture
def pretrained(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The weights that torchvision would download."""
    source = torchvision.models.resnet18().state_dict()
    monkeypatch.setattr("torchvision.models.WeightsEnum.get_state_dict", lambda *_, **__: source)
    return source


@pytest.mark.parametrize(("num_outputs", "input_shape"), [(1, [1, 8, 8]), (10, [3, 32, 32])])
@pytest.mark.parametrize("name", NAMES)
def test_options_map_images_to_outputs(name: str, num_outputs: int, input_shape: list[int]) -> None:
    keywords = keywords_of(name, input_shape=input_shape, num_outputs=num_outputs)
    model = hydra.utils.instantiate(keywords, _convert_="all")
    outputs = model(torch.randn(4, *input_shape))
    assert outputs.shape == (4, num_outputs)
    outputs.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_torchvision_is_torchvisions_own_model_from_the_same_seed() -> None:
    torch.manual_seed(0)
    ours = torchvision_model(stem="imagenet").state_dict()
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=10).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(("channels", "repeats"), [(1, (1, 3)), (6, (2, 1))])
def test_other_channels_see_what_three_would(channels: int, repeats: tuple[int, int]) -> None:
    made = []
    for count in (channels, 3):
        torch.manual_seed(0)
        made.append(torchvision_model(input_shape=[count, 32, 32]).eval())
    images = torch.randn(2, min(channels, 3), 32, 32)
    own, colours = (images.repeat(1, times, 1, 1) for times in repeats)
    assert torch.allclose(made[0](own), made[1](colours), atol=1e-5)


def test_two_channels_and_a_small_stem_keep_the_size() -> None:
    assert torchvision_model(input_shape=[2, 32, 32])(torch.randn(2, 2, 32, 32)).shape == (2, 10)
    model = torchvision_model(input_shape=[1, 8, 8], stem="small")
    assert model.conv1.weight.shape == (64, 1, 3, 3)
    assert model.maxpool(model.conv1(torch.randn(2, 1, 8, 8))).shape == (2, 64, 8, 8)


def test_image_size_resizes_before_the_model_and_keeps_its_names() -> None:
    model = torchvision_model(input_shape=[1, 28, 28], image_size=64).eval()
    images = torch.randn(2, 1, 28, 28)
    resized = functional.interpolate(images, size=(64, 64), mode="bilinear", antialias=True)
    assert torch.equal(model(images), model.forward(resized))
    assert model.state_dict().keys() == torchvision.models.resnet18().state_dict().keys()


@pytest.mark.parametrize(
    ("overrides", "kernel"),
    [
        ({}, 3),
        ({"name": "resnext50_32x4d"}, 3),
        ({"image_size": 64}, 7),
        ({"input_shape": [3, 32, 64]}, 7),
        ({"weights": "DEFAULT"}, 7),
        ({"stem": "imagenet"}, 7),
        ({"stem": "small", "image_size": 64}, 3),
    ],
)
@pytest.mark.usefixtures("pretrained")
def test_stem_is_small_where_images_are(overrides: dict[str, Any], kernel: int) -> None:
    assert torchvision_model(**overrides).conv1.kernel_size == (kernel, kernel)


def test_squeezenet_can_go_below_zero() -> None:
    torch.manual_seed(0)
    model = torchvision_model(name="squeezenet1_1").eval()
    assert model(torch.randn(8, 3, 32, 32)).min() < 0


# One or two of each shape of head, of stem or of constructor; the slow test has them all.
SMALLEST = {
    "alexnet": 64, "convnext_tiny": 32, "densenet121": 32, "efficientnet_b0": 32, "googlenet": 32,
    "inception_v3": 75, "maxvit_t": 224, "mnasnet0_5": 32, "mobilenet_v3_small": 32,
    "shufflenet_v2_x0_5": 32, "squeezenet1_0": 32, "swin_t": 32, "vgg11": 32, "vit_b_32": 32,
}  # fmt: skip


@pytest.mark.parametrize(("name", "image_size"), SMALLEST.items())
def test_families_take_small_grey_images(
    name: str, image_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_on_meta(name, None, image_size, monkeypatch)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "squeezenet1_0", "vit_b_32"])
def test_pretrained_families_take_grey_images(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_on_meta(name, "DEFAULT", 224, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("weights", [None, "DEFAULT"])
@pytest.mark.parametrize(
    "name",
    # torchvision's RegNets compute their widths with tensors, which the meta device cannot.
    torchvision.models.list_models(torchvision.models, exclude="regnet*"),
)
def test_every_model_of_torchvision_takes_small_grey_images(
    name: str, weights: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_on_meta(name, weights, 518 if weights and name == "vit_h_14" else 224, monkeypatch)


def check_on_meta(
    name: str, weights: str | None, image_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shapes only: no memory for weights, none loaded."""
    monkeypatch.setattr("torchvision.models.WeightsEnum.get_state_dict", lambda *_, **__: {})
    monkeypatch.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
    settings: dict[str, Any] = {"name": name, "weights": weights, "image_size": image_size}
    with torch.device("meta"):
        model = torchvision_model(input_shape=[1, 28, 28], num_outputs=7, **settings)
        assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 7)
    assert model.training


def test_regnet_takes_small_grey_images() -> None:
    model = torchvision_model(name="regnet_y_400mf", input_shape=[1, 28, 28], num_outputs=7)
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 7)


@pytest.mark.parametrize("weights", ["DEFAULT", "IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1"])
def test_pretrained_weights_stay_but_for_the_head(weights: str, pretrained: dict[str, Any]) -> None:
    source = pretrained
    ours = torchvision_model(weights=weights, input_shape=[1, 32, 32]).state_dict()
    assert ours["fc.weight"].shape == (10, 512)
    assert torch.equal(ours["conv1.weight"], source["conv1.weight"].sum(1, keepdim=True))
    changed = {name for name in source if not torch.equal(ours[name], source[name])}
    assert changed == {"conv1.weight", "fc.weight", "fc.bias"}


def test_pretrained_head_is_kept_where_it_fits(pretrained: dict[str, Any]) -> None:
    ours = torchvision_model(weights="DEFAULT", num_outputs=1000).state_dict()
    assert all(torch.equal(ours[name], pretrained[name]) for name in pretrained)


def test_weights_that_do_not_arrive_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fail = Mock(side_effect=URLError("no route"))
    monkeypatch.setattr("torchvision.models.WeightsEnum.get_state_dict", fail)
    place = r"(?s)model.weights=IMAGENET1K_V1 .* https://.*no route.*\n.*checkpoints.*weights=null"
    with pytest.raises(ValueError, match=place) as refusal:
        torchvision_model(weights="DEFAULT")
    assert str(refusal.value).count("\n") == 1


test_torchvision_refuses = rejections(
    lambda overrides: torchvision_model(**overrides),
    ({"name": "resnet81"}, r"model.name=resnet81 is unknown; did you mean \w*resnet"),
    ({"name": "zzz"}, r"model.name=zzz is unknown; there are alexnet, .*wide_resnet50_2"),
    ({"weights": "IMAGENET"}, r"weights=IMAGENET is unknown; did you mean IMAGENET1K_V1"),
    ({"stem": "tiny"}, r"model.stem=tiny is unknown; there are auto, imagenet, small"),
    (
        {"stem": "small", "name": "mnasnet0_5"},
        r"stem=small is for ResNets, not mnasnet0_5.*stem=imagenet",
    ),
    ({"image_size": 0}, r"image_size must be at least 1, got 0; null does not resize"),
    ({"input_shape": [64]}, r"input_shape must be .*got \(64,\); model=mlp takes any shape"),
    ({"name": "alexnet"}, r"(?s)alexnet does not accept images of 32x32: .*\n.*image_size=224"),
    ({"name": "vit_b_16", "image_size": 30}, r"vit_b_16 does not accept images of 30x30: .*patch"),
    ({"name": "vit_b_16", "input_shape": [3, 16, 32]}, r"does not accept images of 16x32: .*width"),
    ({"name": "maxvit_t"}, r"maxvit_t does not accept images of 32x32: .*not divisible"),
)
