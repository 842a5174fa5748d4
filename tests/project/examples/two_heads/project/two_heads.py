"""Two inputs and two targets: the digit and the ink of an image and its profile."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import quartet


class DigitAndInk(quartet.Task):
    """Outputs and targets are dicts with ``digit``, logits or classes, and ``ink``, values."""

    def predictions(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"digit": outputs["digit"].softmax(1), "ink": outputs["ink"]}

    def target_columns(self, labels: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Any]:
        return {f"true_{head}": values.tolist() for head, values in labels.items()}

    def prediction_columns(
        self, predictions: Mapping[str, Tensor], names: Sequence[str]
    ) -> dict[str, Any]:
        digits = predictions["digit"].argmax(1)
        return {"digit": digits.tolist(), "ink": predictions["ink"].tolist()}


class DigitAndInkLoss(nn.Module):
    """Weighted sum of a cross-entropy and a squared error.

    Args:
        digit_weight: Of the cross-entropy.
        ink_weight: Of the squared error.
    """

    def __init__(self, *, digit_weight: float, ink_weight: float) -> None:
        super().__init__()
        self.digit_weight, self.ink_weight = digit_weight, ink_weight

    def forward(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        digit = cross_entropy(outputs["digit"], targets["digit"])
        ink = mse_loss(outputs["ink"], targets["ink"])
        total = self.digit_weight * digit + self.ink_weight * ink
        return {"loss": total, "digit_loss": digit, "ink_loss": ink}


def digits_and_profiles(*, count: int) -> quartet.Parts:
    """The first of scikit-learn's digits, with the mean of each row of pixels.

    Args:
        count: Number of images; a fifth each is for validation and for the test.
    """
    digits = load_digits()
    images = torch.tensor(digits.images[:count], dtype=torch.float32).unsqueeze(1) / 16
    inputs = {"image": images, "profile": images.mean((1, 3))}
    targets = {"digit": torch.tensor(digits.target[:count]), "ink": images.mean((1, 2, 3))}
    nest = {"inputs": inputs, "targets": targets}
    rows = quartet.split(count, val_fraction=0.2, test_fraction=0.2, split_seed=0)
    whole = quartet.Tensors(nest)
    return quartet.Parts(*(quartet.Tensors(whole[torch.from_numpy(part)]) for part in rows))
