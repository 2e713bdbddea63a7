"""Two half networks, for lightness and for colour (Tian et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastssl.augment import ColorizationAugment


class LabNetwork(nn.Module):
    """Images [B, 3, H, W] in [-1, 1] to the concatenated feature maps of both halves.

    Args:
        lightness: network of L, repeated in three channels, approximately in [-1, 1].
        color: network of a, b and a channel of zeros, approximately in [-1, 1].

    Example:
        >>> import torch
        >>> from fastssl.models import ViT
        >>> from fastssl.models import LabNetwork
        >>> network = LabNetwork(ViT(8, 16, 1, 2), ViT(8, 16, 1, 2))
        >>> network(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 32, 4, 4])
    """

    def __init__(self, lightness: nn.Module, color: nn.Module) -> None:
        super().__init__()
        self.lightness, self.color = lightness, color

    @staticmethod
    def split(images: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs of both halves, [B, 3, H, W] each."""
        light, ab = ColorizationAugment.lab((images + 1) / 2)
        light, ab = (light / 50 - 1).to(images.dtype), (ab / 110).to(images.dtype)
        return light.expand(-1, 3, -1, -1), torch.cat([ab, torch.zeros_like(light)], 1)

    def forward(self, images: Tensor) -> Tensor:
        light, color = self.split(images)
        return torch.cat([self.lightness(light), self.color(color)], 1)


def lab_of(network: nn.Module, method: str) -> LabNetwork:
    """The network, for a method that trains its halves.

    Raises:
        ValueError: another network.
    """
    if not isinstance(network, LabNetwork):
        raise ValueError(f"encoder: {method} needs one of two halves ('lab:resnet'), got {type(network).__name__}")
    return network
