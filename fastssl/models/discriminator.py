"""Discriminators: of images, and of pairs of an image and its code."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def image_layers(channels: int) -> list[nn.Module]:
    """Layers from images [B, channels, H, W] of any size to [B, 1024]."""
    return [
        nn.Conv2d(channels, 32, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(32, 64, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(),
    ]  # fmt: skip


class PairDiscriminator(nn.Module):
    """Logits [B] of images [B, C, H, W] with codes [B, D]: whether the code was made of the image, or the image of it.

    Args:
        channels: C.
        code: D.
        hidden: width of the layers that see both.

    Example:
        >>> import torch
        >>> from fastssl.models.discriminator import PairDiscriminator
        >>> PairDiscriminator(3, 8)(torch.zeros(2, 3, 32, 32), torch.zeros(2, 8)).shape
        torch.Size([2])
    """

    def __init__(self, channels: int, code: int, hidden: int = 256) -> None:
        super().__init__()
        self.image = nn.Sequential(*image_layers(channels), nn.Linear(1024, hidden), nn.LeakyReLU(0.2))
        self.code = nn.Sequential(nn.Linear(code, hidden), nn.LeakyReLU(0.2))
        self.pair = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1))

    def forward(self, image: Tensor, code: Tensor) -> Tensor:
        result: Tensor = self.pair(torch.cat([self.image(image), self.code(code)], 1))[:, 0]
        return result
