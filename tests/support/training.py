"""Gradients of networks, compared as a whole."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def gradients(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def frozen_norms(module: nn.Module) -> nn.Module:
    """Batch norms that normalise by their running statistics: rows no longer meet."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()
    return module
