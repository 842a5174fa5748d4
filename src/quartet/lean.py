"""Less of Lightning's own time in each step, with all of its hooks alive.

Microseconds are those saved of a training step of Lightning 2.6 on a CPU.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.profilers import Profiler
from torch import Tensor, nn

NOTHING: AbstractContextManager[None] = nullcontext()


class NoProfiler(Profiler):
    """Measures nothing, and makes no generator each time it is asked to (30 us)."""

    def start(self, action_name: str) -> None:
        pass

    def stop(self, action_name: str) -> None:
        pass

    def profile(self, action_name: str) -> Any:
        return NOTHING


class Placed(list[Any]):
    """A batch that lies on the device of the model already."""


BATCH_HOOKS = [
    f"on_{part}_batch_{moment}"
    for part in ("train", "validation", "test", "predict")
    for moment in ("start", "end")
] + ["on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step"]


WITHIN_STEPS = ("on_before_backward", "on_after_backward", "on_before_optimizer_step")


class LeanPrecision(Precision):
    """Full precision that passes over the hooks within a step (60 us) where nobody overrides them.

    Seen to when a training is set up, so callbacks that are added until then count.
    """

    watched = True

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self.trainer = trainer

    def connect(self, model: nn.Module, optimizers: Any, lr_schedulers: Any) -> Any:
        trainer, module = self.trainer, self.trainer.lightning_module
        drop_empty_hooks(trainer.callbacks)  # type: ignore[attr-defined]
        self.watched = trainer.gradient_clip_val is not None or any(
            getattr(callback, hook) is not None
            for callback in trainer.callbacks  # type: ignore[attr-defined]
            for hook in WITHIN_STEPS
        )
        self.watched |= any(
            getattr(type(module), hook) is not getattr(LightningModule, hook)
            for hook in WITHIN_STEPS
        )
        return super().connect(model, optimizers, lr_schedulers)

    def pre_backward(self, tensor: Tensor, module: Any) -> Any:
        return super().pre_backward(tensor, module) if self.watched else tensor

    def post_backward(self, tensor: Tensor, module: Any) -> Any:
        return super().post_backward(tensor, module) if self.watched else tensor.detach()

    def optimizer_step(  # type: ignore[override]
        self, optimizer: Any, model: Any, closure: Any, **kwargs: Any
    ) -> Any:
        if self.watched:
            return super().optimizer_step(optimizer, model, closure, **kwargs)
        return optimizer.step(closure=closure, **kwargs)

    def train_step_context(self) -> Any:
        return NOTHING


def drop_empty_hooks(callbacks: Iterable[Callback]) -> None:
    """Sets hooks of a step that a callback does not override to None, which Lightning skips.

    Each callback costs 9 us otherwise, a ModelCheckpoint 21.
    """
    for callback in callbacks:
        for hook in BATCH_HOOKS:
            own = hook in vars(callback)  # as a LambdaCallback has them
            if not own and getattr(type(callback), hook) is getattr(Callback, hook):
                setattr(callback, hook, None)


def lighten(trainer: Trainer) -> None:
    """Gives a trainer in full precision the leaner one, and spares its batches a search.

    Batches that are `Placed` have no tensors to move (20 us).
    """
    if type(trainer.strategy.precision_plugin) is Precision:
        trainer.strategy.precision_plugin = LeanPrecision(trainer)
    move = trainer.strategy.batch_to_device

    def batch_to_device(batch: Any, *args: Any, **kwargs: Any) -> Any:
        return batch if type(batch) is Placed else move(batch, *args, **kwargs)

    trainer.strategy.batch_to_device = batch_to_device  # type: ignore[method-assign]
