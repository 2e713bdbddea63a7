"""A small text tower: bytes to vectors, no vocabulary to train or to download."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastssl.models.vit import Block

PAD, START, END = 0, 1, 2
_BYTES = 3  # the token of byte 0


def tokenize(texts: Sequence[str], length: int = 64) -> Tensor:
    """Texts to the tokens of their UTF-8 bytes: int64 [N, length], start and end marked, padded with zeros.

    Args:
        texts: any language.
        length: tokens, with start and end.

    Raises:
        ValueError: a text that is longer: nothing is cut.

    Example:
        >>> from fastssl.models.text import tokenize
        >>> tokenize(["ab"], 6).tolist()
        [[1, 100, 101, 2, 0, 0]]
    """
    tokens = torch.full((len(texts), length), PAD)
    for row, text in enumerate(texts):
        encoded = [START, *(byte + _BYTES for byte in text.encode()), END]
        if len(encoded) > length:
            raise ValueError(f"texts: expected at most {length - 2} bytes, text {row} has {len(encoded) - 2}")
        tokens[row, : len(encoded)] = torch.tensor(encoded)
    return tokens


class TextTransformer(nn.Module):
    """Tokens [B, length] to vectors [B, dim], read off at the end of the text (Radford et al. 2021) or at its start
    (Devlin et al. 2019); tokens are bytes (Xue et al., ByT5, 2022).

    Args:
        dim: of a token and of the result.
        depth: blocks.
        heads: of the attention.
        length: tokens of the longest text.
        causal: tokens see those before them alone, and the end is read; else all see all, and the start is read.

    Example:
        >>> import torch
        >>> from fastssl.models import TextTransformer
        >>> tower = TextTransformer(16, depth=1, heads=2, length=8)
        >>> tower(torch.zeros(2, 8, dtype=torch.int64)).shape
        torch.Size([2, 16])
    """

    def __init__(self, dim: int = 128, depth: int = 2, heads: int = 4, length: int = 64, causal: bool = True) -> None:
        super().__init__()
        self.length, self.causal, self.dim = length, causal, dim
        self.tokens = nn.Embedding(256 + _BYTES, dim)
        self.positions = nn.Parameter(torch.randn(length, dim) * 0.01)
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(dim, heads, causal=causal) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        longest = max(1, int((tokens != PAD).sum(1).max())) if len(tokens) else 1
        tokens = tokens[:, :longest]  # padding costs nothing
        x = self.tokens(tokens) + self.positions[:longest]
        for block in self.blocks:
            x = block(x, tokens != PAD)
        at = (tokens == END).int().argmax(1) if self.causal else torch.zeros_like(tokens[:, 0])
        result: Tensor = self.norm(x[torch.arange(len(x), device=x.device), at])
        return result
