"""Muon, which torch has for matrices alone."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Muon(Optimizer):
    """Muon for the matrices of a model and AdamW for all its other parameters, behind one interface.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024. The steps are those
    of ``torch.optim.Muon`` and ``torch.optim.AdamW``. Every group of ``params`` becomes up to two of
    ``param_groups``, whose ``algorithm`` is ``muon`` or ``adamw``; schedulers and checkpoints see all.

    Every parameter of two dimensions counts as a matrix, those of embeddings and of the last layer too;
    a convolution's kernel has four and goes to AdamW. No cycled momentum: the two halves name it
    differently (``cycle_momentum: false`` in a scheduler).

    Args:
        params: Parameters, or groups of them with an own ``lr`` and ``weight_decay``.
        lr: Learning rate of both.
        weight_decay: Decoupled weight decay of both: each step shrinks a parameter by ``lr * weight_decay``.
        momentum: Of Muon's moving average of gradients.
        nesterov: Whether Muon looks ahead along its momentum.
        ns_steps: Newton-Schulz iterations that orthogonalise an update.
        adjust_lr_fn: How Muon's step depends on a matrix's shape: ``match_rms_adamw`` makes it as large
            as AdamW's, so that one ``lr`` suits both; ``original`` and ``spectral_unclamped`` do not.
        betas: Of AdamW's moving averages of the gradient and its square.
        eps: Added to the denominator of AdamW.

    Raises:
        ValueError: no parameter has two dimensions, or a hyperparameter is out of torch's range.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
        nesterov: bool,
        ns_steps: int,
        adjust_lr_fn: str,
        betas: Sequence[float],
        eps: float,
    ) -> None:
        # Neither has parameters: `step` gives each its share of groups and state.
        self._halves: dict[str, Optimizer] = {
            "muon": torch.optim.Muon(
                [{"params": []}],
                lr=lr,
                weight_decay=weight_decay,
                momentum=momentum,
                nesterov=nesterov,
                ns_steps=ns_steps,
                adjust_lr_fn=adjust_lr_fn,
            ),
            "adamw": torch.optim.AdamW(
                [{"params": []}],
                lr=lr,
                weight_decay=weight_decay,
                betas=(betas[0], betas[1]),
                eps=eps,
            ),
        }
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        if all(group["algorithm"] != "muon" for group in self.param_groups):
            shapes = [str(tuple(p.shape)) for group in self.param_groups for p in group["params"]]
            more = f" and {len(shapes) - 5} more" if len(shapes) > 5 else ""
            raise ValueError(
                f"params must hold a matrix for muon, got the shapes [{', '.join(shapes[:5])}{more}]; "
                "choose adamw."
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds the group's matrices, its other parameters, or both, as a group each."""
        params = param_group["params"]
        params = [params] if isinstance(params, Tensor) else list(params)
        shares = {
            "muon": [parameter for parameter in params if parameter.ndim == 2],
            "adamw": [parameter for parameter in params if parameter.ndim != 2],
        }
        for algorithm, share in shares.items():
            if share:
                defaults = self._halves[algorithm].defaults
                own = {"params": share, "algorithm": algorithm}
                super().add_param_group({**defaults, **param_group, **own})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates all parameters; returns the loss of the closure, which is called once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for algorithm, half in self._halves.items():
            half.param_groups = [g for g in self.param_groups if g["algorithm"] == algorithm]
            half.state = self.state
            half.step()
        return loss

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_halves": self._halves}
