"""Recurrent networks of language methods, without any extra: a GRU, and LSTMs in both directions."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RecurrentNetwork(nn.Module):
    """Embeddings of tokens, tied with the output, and recurrent layers over them.

    Args:
        vocabulary: number of tokens.
        dim: dimensions of a token and of a state.
        depth: number of layers.
        cell: "gru": one stack of layers; "lstm": two stacks, of which one reads the text backwards.

    Example:
        >>> import torch
        >>> from fastssl.models import RecurrentNetwork
        >>> RecurrentNetwork(100, 16, depth=1, cell="lstm")(torch.zeros(2, 8, dtype=torch.int64)).shape
        torch.Size([2, 8, 32])
    """

    def __init__(self, vocabulary: int, dim: int = 128, depth: int = 1, cell: str = "gru") -> None:
        super().__init__()
        kind = {"gru": nn.GRU, "lstm": nn.LSTM}[cell]
        self.tokens, self.bias = nn.Embedding(vocabulary, dim), nn.Parameter(torch.zeros(vocabulary))
        nn.init.normal_(self.tokens.weight, std=0.1)
        self.forwards = kind(dim, dim, depth, batch_first=True)
        self.backwards = kind(dim, dim, depth, batch_first=True) if cell == "lstm" else None

    def forward(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        """States [B, T, dim], or [B, T, 2 dim] of both directions, of tokens [B, T]; padding (``keep`` False) stands at
        the end of a row, and changes nothing before it."""
        x = self.tokens(tokens)
        states: Tensor = self.forwards(x)[0]
        if self.backwards is None:
            return states
        place = torch.arange(tokens.shape[1], device=tokens.device)
        length = tokens.shape[1] if keep is None else keep.sum(1, keepdim=True)
        mirrored = (length - 1 - place).clamp(min=0).expand_as(tokens)[:, :, None].expand_as(x)
        behind: Tensor = self.backwards(x.gather(1, mirrored))[0]
        return torch.cat([states, behind.gather(1, mirrored)], 2)
