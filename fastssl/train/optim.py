"""Optimisers and the learning rate schedule of large-batch pretraining."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fastssl.train.muon import Muon
from fastssl.train.parameterwise import ParameterwiseOptimizer


class LARS(ParameterwiseOptimizer):
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

    def _update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        update = grad
        if p.ndim > 1:
            update = update + group["weight_decay"] * p
            weight_norm, update_norm = p.norm(), update.norm()
            ratio = torch.where((weight_norm > 0) & (update_norm > 0), group["trust"] * weight_norm / update_norm, 1.0)
            update = update * ratio
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        velocity = state["momentum_buffer"].mul_(group["momentum"]).add_(update)
        p.add_(velocity, alpha=-group["lr"])


OPTIMIZERS = ("adamw", "sgd", "lars", "muon")


def build_optimizer(
    model: nn.Module, name: str, lr: float, weight_decay: float, betas: tuple[float, float] = (0.9, 0.999)
) -> torch.optim.Optimizer:
    """Returns "adamw" or "muon" (no decay on 1-d parameters), "sgd" (momentum 0.9) or "lars".

    Args:
        model: its trainable parameters are optimised.
        name: "adamw", "sgd", "lars", or "muon" (AdamW for embeddings: :class:`fastssl.train.Muon`).
        lr: learning rate, >= 0.
        weight_decay: L2 penalty, >= 0.
        betas: of "adamw" and "muon".

    Raises:
        ValueError: unknown name.

    Example:
        >>> import torch
        >>> from fastssl.train import build_optimizer
        >>> optimizer = build_optimizer(torch.nn.Linear(2, 2), 'lars', lr=0.1, weight_decay=1e-6)
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if name == "adamw":
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=lr, betas=betas)
    if name == "muon":
        tables = {id(m.weight) for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}
        groups = [
            {"params": [p for p in trained if p.ndim > 1 and id(p) not in tables], "weight_decay": weight_decay},
            {"params": [p for p in trained if id(p) in tables], "weight_decay": weight_decay, "orthogonal": False},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return Muon(groups, lr, betas=betas)
    if name == "lars":
        return LARS(trained, lr, weight_decay=weight_decay)
    if name == "sgd":
        return torch.optim.SGD(trained, lr, momentum=0.9, weight_decay=weight_decay)
    raise ValueError(f"optimizer: expected one of {', '.join(OPTIMIZERS)}, got {name!r}")


SCHEDULES = ("cosine", "linear", "constant")


def learning_rate_factor(step: int, total: int, warmup: int, schedule: str = "cosine") -> float:
    """The factor of the learning rate at ``step``: linear over ``warmup`` steps, then by the schedule.

    Args:
        step: index of the step, from 0.
        total: steps of the run.
        warmup: steps of the linear warm-up.
        schedule: "cosine" (half a period, to 0), "linear" (to 0) or "constant" (1).

    Raises:
        ValueError: unknown schedule.

    Example:
        >>> from fastssl.train import learning_rate_factor
        >>> learning_rate_factor(10, 100, 10), learning_rate_factor(55, 100, 10, "linear")
        (1.0, 0.5)
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule: expected one of {', '.join(SCHEDULES)}, got {schedule!r}")
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1 - progress if schedule == "linear" else 1.0
