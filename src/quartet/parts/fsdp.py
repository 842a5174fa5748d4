"""Weights divided among the processes of a training: torch's FSDP2, as a strategy of Lightning's."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lightning import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import (
    FSDPModule,
    FullyShardedDataParallel,
    OptimStateKeyType,
    fully_shard,
)


class FSDP2(ModelParallelStrategy):
    """Data parallelism in which each process keeps its share of weights, gradients and states.

    The weights of a unit are gathered when it is used, and given up again. Checkpoints are whole:
    those of a training in one process, which loads them.

    Args:
        unit_size: Parameters that make a unit of the modules that hold them; the rest of the model
            is the last one.
    """

    def __init__(self, *, unit_size: int) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)
        if unit_size < 1:
            raise ValueError(f"strategy.unit_size must be at least 1, got {unit_size}.")
        self.unit_size = unit_size

    def connect(self, model: LightningModule) -> None:
        super().connect(model)
        # A hook that the class had would be taken for a model too large for averages of its weights.
        network: Any = model.model
        model.configure_model = partial(self.divide, network)  # type: ignore[method-assign]

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def divide(self, model: nn.Module) -> None:
        """Divides a model, once."""
        if isinstance(model, FSDPModule):
            return
        mesh = self.device_mesh["data_parallel"]
        for unit in units(model, self.unit_size):
            fully_shard(unit, mesh=mesh)
        fully_shard(model, mesh=mesh)

    # Loaded when every other strategy loads: Lightning's own would come too late for the place in
    # the epoch, and pass over what verifies the file.

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return self.checkpoint_io.load_checkpoint(checkpoint_path)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        options = StateDictOptions(full_state_dict=True, strict=strict)
        assert self.lightning_module is not None
        set_model_state_dict(self.lightning_module, checkpoint["state_dict"], options=options)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        module, options = self.lightning_module, StateDictOptions(full_state_dict=True)
        assert module is not None
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            named = FullyShardedDataParallel.rekey_optim_state_dict(
                state, OptimStateKeyType.PARAM_NAME, module
            )
            set_optimizer_state_dict(module, optimizer, named, options=options)


def units(model: nn.Module, size: int) -> list[nn.Module]:
    """Modules of a model that hold so many parameters, less those that one of them holds, inner first."""
    found: list[nn.Module] = []

    def walk(module: nn.Module) -> int:
        held = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        held += sum(walk(child) for child in module.children())
        called = not isinstance(module, nn.ModuleList | nn.ModuleDict)
        if held < size or module is model or not called:
            return held
        found.append(module)
        return 0

    walk(model)
    return found
