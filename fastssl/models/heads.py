"""Heads that methods put on an encoder while they train; none of them is used downstream."""

from __future__ import annotations

from torch import nn


def projection_head(inputs: int, hidden: int = 256, outputs: int = 128, layers: int = 2) -> nn.Sequential:
    """The MLP of SimCLR: linear, batch norm, ReLU, ..., linear without bias and batch norm."""
    parts: list[nn.Module] = []
    width = inputs
    for _ in range(layers - 1):
        parts += [nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]
        width = hidden
    parts += [nn.Linear(width, outputs, bias=False), nn.BatchNorm1d(outputs, affine=False)]
    return nn.Sequential(*parts)
