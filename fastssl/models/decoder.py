"""A small decoder from a feature map to an image."""

from __future__ import annotations

from torch import Tensor, nn

from fastssl.models.encoders import Encoder


class Decoder(nn.Module):
    """Decodes a feature map [B, C, h, w] to an image by nearest-neighbour upsampling and 3 x 3 convolutions.

    Args:
        encoder: the encoder of the feature map.
        outputs: channels of the image; None: those of the encoder.
        size: image size in pixels; None: that of the encoder.

    Raises:
        ValueError: the encoder outputs vectors, or the image size is no power of two times that of the feature map.
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
