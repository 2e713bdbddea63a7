"""Projection and prediction heads, used during pretraining only."""

from __future__ import annotations

import torch
import torch.nn.functional as TF
from torch import Tensor, nn

from fastssl._options import integer


def projection_head(
    inputs: int, hidden: int = 256, outputs: int = 128, layers: int = 2, *, last_norm: bool = True
) -> nn.Sequential:
    """The projection head of SimCLR, an MLP: linear, batch norm, ReLU, ..., linear without bias, batch norm.

    Args:
        inputs: features per row.
        hidden: width of the hidden layers.
        outputs: dimensions of the projections.
        layers: number of linear layers.
        last_norm: batch norm after the last layer; False for the expanders of Barlow Twins and VICReg.

    Example:
        >>> import torch
        >>> from fastssl.models import projection_head
        >>> projection_head(16, 32, 8)(torch.randn(8, 16)).shape
        torch.Size([8, 8])
    """
    hidden, outputs = integer("hidden", hidden, 1), integer("outputs", outputs, 1)
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
    """The prediction head of BYOL, SimSiam, NNCLR and MoCo v3, an MLP between projections.

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
    """DINO's head: an MLP, L2 normalisation, and a weight-normalised linear layer to K logits (Caron et al. 2021).

    With batch norm, which the paper proposes for convolutional networks: without it the mean of their features
    dominates, and all images get the same logits.

    Args:
        inputs: features per row.
        outputs: K, the number of prototypes.
        hidden: width of the MLP.
        bottleneck: dimensions of the normalised embeddings.

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
        return self.logits(self.embed(x))

    def embed(self, x: Tensor) -> Tensor:
        """Features [N, inputs] to unit embeddings [N, bottleneck]."""
        return TF.normalize(self.mlp(x), dim=1)

    def logits(self, embedded: Tensor) -> Tensor:
        """Unit embeddings [..., bottleneck] to logits [..., K]."""
        return TF.linear(embedded, TF.normalize(self.prototypes.weight, dim=1))


class IBOTHead(nn.Module):
    """iBOT's heads: a feature map to unit embeddings of the image, of the mean of its patches, and of every patch (Zhou
    et al. 2022). Their logits are made by ``image`` and ``patch``, of those rows alone that are compared.

    Args:
        inputs: features per patch.
        outputs: K, the number of prototypes.
        hidden: width of the MLPs.
        shared: one :class:`DINOHead` for images and patches; False: one for each.

    Example:
        >>> import torch
        >>> from fastssl.models.heads import IBOTHead
        >>> IBOTHead(16, 32)(torch.randn(8, 16, 2, 2)).shape
        torch.Size([8, 5, 64])
    """

    def __init__(self, inputs: int, outputs: int, hidden: int = 256, *, shared: bool = True) -> None:
        super().__init__()
        self.image = DINOHead(inputs, outputs, hidden)
        self.patches = None if shared else DINOHead(inputs, outputs, hidden)

    @property
    def patch(self) -> DINOHead:
        """The head of patches."""
        return self.image if self.patches is None else self.patches

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        patches = self.patch.embed(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
        return torch.cat([self.image.embed(tokens.mean(1))[:, None], patches], 1)
