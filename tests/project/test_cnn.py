"""The small convolutional network: sizes, shapes, the arguments that it refuses."""

from typing import Any

import torch
from made import rejections

from project.model.cnn import CNN


def cnn(**overrides: Any) -> CNN:
    settings: dict[str, Any] = {"input_shape": [1, 8, 8], "channels": [16, 32], "dropout": 0.0}
    return CNN(num_outputs=10, **(settings | overrides))


def test_cnn_has_the_weights_of_its_drawing() -> None:
    convolutions = (16 * 1 * 9 + 16) + (32 * 16 * 9 + 32)
    assert sum(weights.numel() for weights in cnn().parameters()) == convolutions + (
        10 * 32 * 2 * 2 + 10
    )


def test_cnn_takes_odd_and_oblong_images() -> None:
    assert cnn(input_shape=[3, 9, 14])(torch.randn(2, 3, 9, 14)).shape == (2, 10)


test_cnn_refuses = rejections(
    lambda overrides: cnn(**overrides),
    ({"input_shape": [64]}, r"input_shape must be \(channels, .*got \(64,\); model=mlp takes"),
    ({"input_shape": [1, 8, 3]}, r"channels=\[16, 32\] halves images of 8x3 .* fewer blocks"),
    ({"channels": [0]}, r"channels must hold numbers of at least 1, got \[0\]"),
    ({"dropout": -0.1}, r"dropout must be in \[0, 1\), got -0.1; 0 is no dropout"),
)
