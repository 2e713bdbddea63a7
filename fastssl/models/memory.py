"""State of methods across steps: momentum encoders, queues, prototypes, memory banks; stored in the state dict."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as TF
from torch import Tensor, nn

from fastssl.distributed.queue import EmbeddingQueue

__all__ = ["EmbeddingQueue", "MemoryBank", "Prototypes", "TargetNetwork"]


class TargetNetwork(nn.Module):
    """Momentum encoder (target network, teacher): w' <- m w' + (1 - m) w after every step, without gradients.

    Args:
        network: the online network.
        momentum: initial m.
        cosine: increase m to 1 on a half cosine schedule (BYOL, DINO, MoCo v3); False: constant.

    Raises:
        ValueError: a momentum outside [0, 1].

    Example:
        >>> import torch
        >>> from fastssl.models import TargetNetwork
        >>> target = TargetNetwork(torch.nn.Linear(4, 2), momentum=0.99)
        >>> target(torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """

    def __init__(self, network: nn.Module, momentum: float = 0.996, cosine: bool = True) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum: expected a number from 0 to 1, got {momentum}")
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.momentum, self.cosine = momentum, cosine

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.network(x)
        return result

    @torch.no_grad()
    def update(self, network: nn.Module, progress: float) -> None:
        """One update; ``progress`` is the completed fraction of the run."""
        m = self.momentum
        if self.cosine:
            m = 1 - (1 - m) * (math.cos(math.pi * min(max(progress, 0.0), 1.0)) + 1) / 2
        for target, online in zip(self.network.parameters(), network.parameters()):
            target.lerp_(online.detach(), 1 - m)
        for target_buffer, buffer in zip(self.network.buffers(), network.buffers()):
            target_buffer.copy_(buffer)


class Prototypes(nn.Module):
    """Learned unit prototypes: cosine similarities [B, count] with embeddings.

    Args:
        dim: features per row.
        count: K, the number of prototypes.

    Example:
        >>> import torch
        >>> from fastssl.models import Prototypes
        >>> Prototypes(16, 32)(torch.randn(8, 16)).shape
        torch.Size([8, 32])
    """

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, dim) / math.sqrt(dim))

    def forward(self, x: Tensor) -> Tensor:
        return TF.normalize(x, dim=1) @ TF.normalize(self.weight, dim=1).T


class MemoryBank(nn.Module):
    """Memory bank: one row per item of the data set, indexed by ids. Empty until :meth:`fill` is called.

    Loading a checkpoint resizes the bank.

    Example:
        >>> import torch
        >>> from fastssl.models import MemoryBank
        >>> memory = MemoryBank()
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.empty(0))
        self.rows: Tensor

    def fill(self, rows: Tensor) -> None:
        """Stores ``rows`` [N, ...], one per item."""
        self.rows = rows.detach().clone().to(self.rows.device)

    def __len__(self) -> int:
        return len(self.rows)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        saved = state_dict.get(prefix + "rows")
        if saved is not None and saved.shape != self.rows.shape:
            self.rows = torch.empty_like(saved, device=self.rows.device)
        super()._load_from_state_dict(state_dict, prefix, *args)
