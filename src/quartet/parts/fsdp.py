"""Sharded data parallelism: torch's FSDP2 as a Lightning strategy."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lightning import LightningModule
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed import fsdp
from torch.distributed.checkpoint import state_dict as sharded

from quartet.compat import set_data_parallel_size
from quartet.core.problems import Context, Problem, Problems

SHARDING_STRATEGIES = (FSDPStrategy, ModelParallelStrategy)
# Optimizers that fail on sharded weights, or compute another result.
NEED_WHOLE_WEIGHTS = ("Adafactor", "LBFGS")


class FSDP2(ModelParallelStrategy):
    """Data parallelism in which each process stores a shard of weights, gradients and states.

    The weights of a unit are gathered when it is used, and freed again. Checkpoints are not sharded:
    a training in one process can load them.

    Args:
        unit_size: Smallest number of parameters of a unit, which is a module that is sharded by
            itself. The rest of the model is the last unit.
    """

    def __init__(self, *, unit_size: int) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)
        self.unit_size = unit_size

    def connect(self, model: LightningModule) -> None:
        super().connect(model)
        # Lightning's weight averaging warns of classes that have this hook, so the object gets it.
        network: Any = model.model
        model.configure_model = partial(self.shard, network)  # type: ignore[method-assign]

    def setup_environment(self) -> None:
        set_data_parallel_size(self, self.num_nodes * self.num_processes)
        super().setup_environment()

    def shard(self, model: nn.Module) -> None:
        """Shards a model unless it is sharded already."""
        if isinstance(model, fsdp.FSDPModule):
            return
        mesh = self.device_mesh["data_parallel"]
        for unit in find_units(model, self.unit_size):
            fsdp.fully_shard(unit, mesh=mesh)
        fsdp.fully_shard(model, mesh=mesh)

    def problems(self, context: Context) -> Problems:
        """Yields a problem if the weights or the optimizer cannot be sharded."""
        for name, parameter in context.model.named_parameters():
            if parameter.ndim == 0:
                message = f"{name} is a single number, which cannot be sharded; give it shape (1,)"
                yield Problem("model", f"{message}, or use trainer=ddp.")
        for group, node in context.config.items():
            if not group.endswith("optimizer") or not node:
                continue
            title = node["_target_"].rpartition(".")[2]
            if title in NEED_WHOLE_WEIGHTS:
                message = f"{title} computes with whole weights, and trainer.strategy shards them"
                yield Problem(group, f"{message}; use optimizer=adamw, or trainer=ddp.")

    # Loads when other strategies load. Lightning's code would load too late for the position in the
    # epoch, and without the CheckpointIO that verifies the file.

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
        options = sharded.StateDictOptions(full_state_dict=True, strict=strict)
        assert self.lightning_module is not None
        weights = checkpoint["state_dict"]
        sharded.set_model_state_dict(self.lightning_module, weights, options=options)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        module, options = self.lightning_module, sharded.StateDictOptions(full_state_dict=True)
        assert module is not None
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            named = fsdp.FullyShardedDataParallel.rekey_optim_state_dict(
                state, fsdp.OptimStateKeyType.PARAM_NAME, module
            )
            sharded.set_optimizer_state_dict(module, optimizer, named, options=options)


def find_units(model: nn.Module, size: int) -> list[nn.Module]:
    """Finds modules with at least `size` parameters outside of other units, inner ones first."""
    found: list[nn.Module] = []

    def walk(module: nn.Module) -> int:
        count = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        count += sum(walk(child) for child in module.children())
        called = not isinstance(module, nn.ModuleList | nn.ModuleDict)
        if count < size or module is model or not called:
            return count
        found.append(module)
        return 0

    walk(model)
    return found


def check_sharding(context: Context) -> Problems:
    """Yields a problem for every strategy that shards the weights, except FSDP2."""
    strategy = context.trainer.strategy
    if isinstance(strategy, SHARDING_STRATEGIES) and not isinstance(strategy, FSDP2):
        message = f"{type(strategy).__name__} needs a module that shards itself; use trainer=fsdp."
        yield Problem("trainer.strategy", message)
