"""Networks of 1-D signals: their base class, and strided convolutions (van den Oord et al. 2018)."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from fastssl._options import integer


class SignalNetwork(nn.Module):
    """Base class of networks of waveforms. The arguments of a subclass's constructor are the options of
    :func:`build_audio`.

    Attributes:
        options: the options of :func:`build_audio` that rebuild it, recorded when it is made.
        dim: dimensions of its features.
    """

    name: ClassVar[str]
    options: dict[str, Any]
    dim: int

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if "__init__" in vars(cls):
            cls.__init__ = _recorded(cls.__init__)  # type: ignore[method-assign]


def _recorded(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor that keeps its arguments as ``options``, in values that JSON has."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def made(self: SignalNetwork, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        given = signature.bind(self, *args, **kwargs)
        given.apply_defaults()
        _, *values = given.arguments.items()
        self.options = {"name": self.name} | {k: list(v) if isinstance(v, tuple) else v for k, v in values}

    return made


class SignalEncoder(SignalNetwork):
    """Signals [B, T] to codes [B, dim, T / stride]; ``forward`` averages them over time: [B, dim].

    Args:
        dim: dimensions of a code; 512 in the paper.
        kernels, strides: of the convolutions; the paper's downsample by 160, 10 ms at 16 kHz.
        length: samples of an example, by default.

    Raises:
        ValueError: different numbers of kernels and strides, or numbers out of range.

    Example:
        >>> import torch
        >>> from fastssl.models import SignalEncoder
        >>> SignalEncoder(16)(torch.randn(2, 2560)).shape
        torch.Size([2, 16])
    """

    name = "cpc"

    def __init__(
        self,
        dim: int = 64,
        kernels: Sequence[int] = (10, 8, 4, 4, 4),
        strides: Sequence[int] = (5, 4, 2, 2, 2),
        length: int = 2560,
    ) -> None:
        super().__init__()
        integer("dim", dim, 1, 1 << 20)
        integer("length", length, 1, 1 << 24)
        if len(kernels) != len(strides) or not kernels:
            raise ValueError(f"kernels, strides: expected equal lengths, got {kernels} and {strides}")
        layers: list[nn.Module] = []
        channels = 1
        for kernel, stride in zip(kernels, strides):
            integer("strides", stride, 1, 1 << 20)
            integer("kernels", kernel, stride, 1 << 20)
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
