"""An encoder of 1-D signals: strided convolutions (van den Oord et al. 2018)."""

from __future__ import annotations

from torch import Tensor, nn


class SignalEncoder(nn.Module):
    """Signals [B, T] to codes [B, dim, T / stride]; ``forward`` averages them over time: [B, dim].

    Args:
        dim: dimensions of a code; 512 in the paper.
        kernels, strides: of the convolutions; the paper's downsample by 160, 10 ms at 16 kHz.
        length: signal length for shape checks.

    Raises:
        ValueError: different numbers of kernels and strides.

    Example:
        >>> import torch
        >>> from fastssl.models import SignalEncoder
        >>> SignalEncoder(16)(torch.randn(2, 2560)).shape
        torch.Size([2, 16])
    """

    def __init__(
        self,
        dim: int = 64,
        kernels: tuple[int, ...] = (10, 8, 4, 4, 4),
        strides: tuple[int, ...] = (5, 4, 2, 2, 2),
        length: int = 2560,
    ) -> None:
        super().__init__()
        if len(kernels) != len(strides) or not kernels:
            raise ValueError(f"kernels, strides: expected equal lengths, got {kernels} and {strides}")
        layers: list[nn.Module] = []
        channels = 1
        for kernel, stride in zip(kernels, strides):
            conv = nn.Conv1d(channels, dim, kernel, stride, padding=(kernel - stride + 1) // 2, bias=False)
            layers += [conv, nn.BatchNorm1d(dim), nn.ReLU()]
            channels = dim
        self.network = nn.Sequential(*layers)
        self.dim, self.length = dim, length

    def codes(self, signals: Tensor) -> Tensor:
        """[B, T] to [B, dim, steps]."""
        result: Tensor = self.network(signals[:, None])
        return result

    def forward(self, signals: Tensor) -> Tensor:
        return self.codes(signals).mean(2)
