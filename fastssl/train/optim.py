"""Optimisers and the learning rate schedule of large-batch pretraining."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017), as used by SimCLR.

    .. math:: v \\leftarrow \\mu v + \\eta \\frac{\\|w\\|}{\\|g + \\lambda w\\|} (g + \\lambda w),
              \\quad w \\leftarrow w - \\gamma v

    1-d parameters (biases, normalisation) are neither decayed nor rescaled.

    Args:
        params: parameters to optimise.
        lr: gamma.
        momentum: mu.
        weight_decay: lambda.
        trust: eta, trust coefficient.

    Raises:
        ValueError: a negative learning rate.

    Example:
        >>> import torch
        >>> from fastssl.train import LARS
        >>> optimizer = LARS(torch.nn.Linear(2, 2).parameters(), lr=0.1)
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust: float = 1e-3,
    ) -> None:
        if lr < 0:
            raise ValueError(f"lr: expected a rate >= 0, got {lr}")
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                update = p.grad
                if p.ndim > 1:
                    update = update + group["weight_decay"] * p
                    weight_norm, update_norm = p.norm(), update.norm()
                    ratio = torch.where(
                        (weight_norm > 0) & (update_norm > 0), group["trust"] * weight_norm / update_norm, 1.0
                    )
                    update = update * ratio
                state = self.state[p]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                velocity = state["momentum_buffer"].mul_(group["momentum"]).add_(update)
                p.add_(velocity, alpha=-group["lr"])
        return loss


OPTIMIZERS = ("adamw", "sgd", "lars")


def build_optimizer(model: nn.Module, name: str, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Returns "adamw" (no decay on 1-d parameters), "sgd" (momentum 0.9) or "lars".

    Args:
        model: its trainable parameters are optimised.
        name: "adamw", "sgd" or "lars".
        lr: learning rate, >= 0.
        weight_decay: L2 penalty, >= 0.

    Raises:
        ValueError: unknown name.

    Example:
        >>> import torch
        >>> from fastssl.train import build_optimizer
        >>> optimizer = build_optimizer(torch.nn.Linear(2, 2), 'lars', lr=0.1, weight_decay=1e-6)
    """
    if name == "lars":
        return LARS([p for p in model.parameters() if p.requires_grad], lr, weight_decay=weight_decay)
    if name == "adamw":
        trained = [p for p in model.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=lr)
    if name == "sgd":
        trained = [p for p in model.parameters() if p.requires_grad]
        return torch.optim.SGD(trained, lr, momentum=0.9, weight_decay=weight_decay)
    raise ValueError(f"optimizer: expected 'adamw', 'sgd' or 'lars', got {name!r}")


def cosine_with_warmup(step: int, total: int, warmup: int) -> float:
    """The factor of the learning rate at ``step``: linear over ``warmup`` steps, then a half cosine to 0.

    Args:
        step: index of the step, from 0.
        total: steps of the run.
        warmup: steps of the linear warm-up.

    Example:
        >>> from fastssl.train import cosine_with_warmup
        >>> cosine_with_warmup(10, 100, 10)
        1.0
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
