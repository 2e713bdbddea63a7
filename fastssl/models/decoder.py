"""A small decoder, from an encoder's feature map back to an image."""

from __future__ import annotations

from torch import Tensor, nn

from fastssl.models.encoders import Encoder


class Decoder(nn.Module):
    """Feature map [B, C, h, w] to an image by nearest upsampling and 3 x 3 convolutions.

    Args:
        encoder: its network gives the map.
        outputs: channels of the image; None: the encoder's.
        size: of the image, pixels; None: the encoder's.

    Raises:
        ValueError: the encoder gives vectors, or the image is no power of two times as large as its map.
    """

    def __init__(self, encoder: Encoder, outputs: int | None = None, size: int | None = None) -> None:
        super().__init__()
        channels, cells, _ = encoder.map_shape()
        size = size or encoder.size
        factor = size // cells
        if factor * cells != size or factor & (factor - 1):
            raise ValueError(f"size: expected a power of two times the map's {cells} cells, got {size}")
        parts: list[nn.Module] = []
        while factor > 1:
            smaller = max(channels // 2, 16)
            parts += [nn.Upsample(scale_factor=2), nn.Conv2d(channels, smaller, 3, padding=1, bias=False)]
            parts += [nn.BatchNorm2d(smaller), nn.ReLU(inplace=True)]
            channels, factor = smaller, factor // 2
        parts.append(nn.Conv2d(channels, outputs or encoder.channels, 3, padding=1))
        self.layers = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(x)
        return result
