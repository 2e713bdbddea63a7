"""A small byte-level text tower, without a vocabulary to train or download."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastssl.data.source import several_texts
from fastssl.models.vit import Block

PAD, START, END = 0, 1, 2
BYTES = 3  # the token of byte 0


def tokenize(texts: Sequence[str], length: int = 64, *, truncate: bool = False) -> Tensor:
    """Tokenizes texts to UTF-8 bytes with start and end tokens, padded with zeros: int64 [N, length].

    Args:
        texts: texts of any language.
        length: number of tokens, start and end included.
        truncate: cut longer texts after their last whole character that fits; False: they are an error.

    Raises:
        TypeError: ``texts`` is one string.
        ValueError: a text is longer, and not to be truncated.

    Example:
        >>> from fastssl.models.text import tokenize
        >>> tokenize(["ab"], 6).tolist()
        [[1, 100, 101, 2, 0, 0]]
    """
    tokens = torch.full((len(several_texts(texts)), length), PAD)
    for row, text in enumerate(texts):
        raw = text.encode()
        if len(raw) > length - 2:
            if not truncate:
                raise ValueError(f"texts: expected at most {length - 2} bytes, text {row} has {len(raw)}")
            raw = raw[: length - 2].decode(errors="ignore").encode()  # without the part of a character at the end
        encoded = [START, *(byte + BYTES for byte in raw), END]
        tokens[row, : len(encoded)] = torch.tensor(encoded)
    return tokens


def byte_tokens(texts: Sequence[str], length: int) -> tuple[Tensor, tuple[int, str] | None]:
    """Tokens [B, length] of texts (:func:`tokenize`), cut where they are longer; and the index of the first that was
    cut with what to say of it, None if all fit."""
    sizes = [len(text.encode()) for text in texts]
    cut = next((row for row, size in enumerate(sizes) if size > length - 2), None)
    tokens = tokenize(texts, length, truncate=True)
    if cut is None:
        return tokens, None
    return tokens, (cut, f"{sizes[cut]} bytes; texts are cut after {length - 2}, those of length={length}")


class TextTransformer(nn.Module):
    """Byte tokens [B, length] to text embeddings [B, dim]: the output at the end token of a causal transformer (Radford
    et al. 2021), or at the start token of a bidirectional one (Devlin et al. 2019). Bytes as in ByT5 (Xue et al. 2022).

    Args:
        dim: dimensions of tokens and embeddings.
        depth: number of blocks.
        heads: number of attention heads.
        length: maximum number of tokens.
        causal: causal attention and the end token, else full attention and the start token.

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
        self.tokens = nn.Embedding(256 + BYTES, dim)
        self.positions = nn.Parameter(torch.randn(length, dim) * 0.01)
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(dim, heads, causal=causal) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        longest = max(1, int((tokens != PAD).sum(1).max())) if len(tokens) else 1
        tokens = tokens[:, :longest]  # drops common padding
        x = self.tokens(tokens) + self.positions[:longest]
        for block in self.blocks:
            x = block(x, tokens != PAD)
        at = (tokens == END).int().argmax(1) if self.causal else torch.zeros_like(tokens[:, 0])
        result: Tensor = self.norm(x[torch.arange(len(x), device=x.device), at])
        return result
