"""The global random-number generators of a process, so that a training goes on with their numbers."""

import random
from typing import Any

import numpy as np
import torch
from lightning import Trainer


def random_states(trainer: Trainer) -> dict[str, Any]:
    """States of all global random-number generators that a training may draw from."""
    version, numbers, gauss = random.getstate()
    state: Any = np.random.get_state(legacy=False)
    states = {
        "python": [version, list(numbers), gauss],
        "numpy": [
            torch.from_numpy(state["state"]["key"].astype(np.int64)),
            *(state["state"]["pos"], state["has_gauss"], state["gauss"]),
        ],
        "torch": torch.get_rng_state(),
    }
    device = trainer.strategy.root_device
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore_random_states(trainer: Trainer, states: dict[str, Any]) -> None:
    """Sets the generators to what `random_states` gave."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    key, *others = states["numpy"]
    np.random.set_state(("MT19937", key.numpy().astype(np.uint32), *others))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and trainer.strategy.root_device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], trainer.strategy.root_device)
    elif "mps" in states and trainer.strategy.root_device.type == "mps":
        torch.mps.set_rng_state(states["mps"])
