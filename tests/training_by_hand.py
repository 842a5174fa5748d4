"""A small model and its training, for the tests of optimizers."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))


def train(model: nn.Module, optimizer: Optimizer, steps: int) -> list[float]:
    """Trains on random numbers; returns the loss before each step."""
    inputs = torch.randn(32, 4, generator=torch.Generator().manual_seed(1))
    targets = inputs.argmax(1).clamp(max=2)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        return loss

    return [optimizer.step(closure).item() for _ in range(steps)]


def assert_equal_models(first: nn.Module, second: nn.Module) -> None:
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def settings(model: nn.Module, optimizer: Optimizer) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of each parameter that is trained."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
