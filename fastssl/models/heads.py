"""Heads that methods put on an encoder while they train; none of them is used downstream."""

from __future__ import annotations

import torch.nn.functional as TF
from torch import Tensor, nn


def projection_head(
    inputs: int, hidden: int = 256, outputs: int = 128, layers: int = 2, *, last_norm: bool = True
) -> nn.Sequential:
    """The MLP of SimCLR: linear, batch norm, ReLU, ..., linear without bias and batch norm (unless ``last_norm`` is
    off: then linear alone, as the expanders of Barlow Twins and VICReg).

    Args:
        inputs: features per row.
        hidden: width of the hidden layers.
        outputs: dimensions of a projection.
        layers: linear layers.
        last_norm: batch norm after the last layer.

    Example:
        >>> import torch
        >>> from fastssl.models import projection_head
        >>> projection_head(16, 32, 8)(torch.randn(8, 16)).shape
        torch.Size([8, 8])
    """
    parts: list[nn.Module] = []
    width = inputs
    for _ in range(layers - 1):
        parts += [nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]
        width = hidden
    parts.append(nn.Linear(width, outputs, bias=not last_norm))
    if last_norm:
        parts.append(nn.BatchNorm1d(outputs, affine=False))
    return nn.Sequential(*parts)


def prediction_head(dim: int, hidden: int = 256) -> nn.Sequential:
    """The MLP by which BYOL, SimSiam, NNCLR and MoCo v3 predict one view's projection from another's.

    Args:
        dim: features per row.
        hidden: width of the hidden layer.

    Example:
        >>> import torch
        >>> from fastssl.models import prediction_head
        >>> prediction_head(16, 4)(torch.randn(8, 16)).shape
        torch.Size([8, 16])
    """
    return nn.Sequential(
        nn.Linear(dim, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, dim)
    )


class DINOHead(nn.Module):
    """An MLP, unit length, and a linear layer of unit rows: logits of ``outputs`` prototypes (Caron et al. 2021).

    With batch norm, which the paper offers for convolutional networks: without it the mean of their features outweighs
    what differs between images, and all images get the same logits.

    Args:
        inputs: features per row.
        outputs: K, the number of prototypes.
        hidden: width of the MLP.
        bottleneck: dimensions of the unit vectors.

    Example:
        >>> import torch
        >>> from fastssl.models import DINOHead
        >>> DINOHead(16, 32)(torch.randn(8, 16)).shape
        torch.Size([8, 32])
    """

    def __init__(self, inputs: int, outputs: int, hidden: int = 256, bottleneck: int = 64) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(inputs, hidden, bias=False), nn.BatchNorm1d(hidden), nn.GELU(),
            nn.Linear(hidden, hidden, bias=False), nn.BatchNorm1d(hidden), nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )  # fmt: skip
        self.prototypes = nn.Linear(bottleneck, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return TF.linear(TF.normalize(self.mlp(x), dim=1), TF.normalize(self.prototypes.weight, dim=1))
