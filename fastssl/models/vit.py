"""A small vision transformer (Dosovitskiy et al. 2021)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as TF
from torch import Tensor, nn


def sine_positions(rows: int, columns: int, dim: int) -> Tensor:
    """Fixed 2-d sine-cosine position embeddings [rows * columns, dim] (He et al. 2022, MAE)."""
    if dim % 4:
        raise ValueError(f"dim: expected a multiple of 4, got {dim}")
    rate = torch.exp(torch.arange(dim // 4) * (-math.log(10_000) / (dim // 4)))
    parts = []
    for places in torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"):
        angle = places.flatten()[:, None] * rate
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, 1)


def packed(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The places where ``mask`` [..., P] holds, as many as its fullest row has.

    Args:
        mask: booleans.

    Returns:
        Indices [..., K], ascending where the mask holds, and booleans [..., K]: which of them do not pad their row.

    Example:
        >>> import torch
        >>> from fastssl.models.vit import packed
        >>> packed(torch.tensor([[False, True, True], [True, False, False]]))
        (tensor([[1, 2],
                [0, 1]]), tensor([[ True,  True],
                [ True, False]]))
    """
    most = int(mask.sum(-1).max()) if mask.numel() else 0
    places = (~mask).to(torch.uint8).argsort(dim=-1, stable=True)[..., :most]
    return places, mask.gather(-1, places)


def vit_of(network: nn.Module, method: str) -> ViT:
    """The network, where it is a :class:`ViT`.

    Raises:
        ValueError: another one, which ``method`` cannot train.
    """
    if not isinstance(network, ViT):
        raise ValueError(f"encoder: {method} needs a ViT ('vit'), got {type(network).__name__}")
    return network


class KeyValues:
    """What a block keeps of the tokens that it has seen, so that later ones attend to them: keys and values, [B, heads,
    T, dim / heads], in room that doubles as it fills.

    Attributes:
        size: how many tokens these are.
    """

    def __init__(self) -> None:
        self.size = 0
        self.kept: tuple[Tensor, ...] = ()

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of all tokens, those of further ones last."""
        before, self.size = self.size, self.size + key.shape[2]
        if not self.kept or self.size > self.kept[0].shape[2]:
            room = (*key.shape[:2], 2 * self.size, key.shape[3])
            grown = key.new_empty(room), value.new_empty(room)
            for new, old in zip(grown, self.kept):
                new[:, :, :before] = old[:, :, :before]
            self.kept = grown
        for kept, further in zip(self.kept, (key, value)):
            kept[:, :, before : self.size] = further
        keys, values = (kept[:, :, : self.size] for kept in self.kept)
        return keys, values

    def select(self, rows: Tensor) -> None:
        """Keeps those of some rows of the batch alone, in their order."""
        self.kept = tuple(kept[rows] for kept in self.kept)


class Block(nn.Module):
    """A pre-norm transformer block.

    Args:
        dim: dimensions of a token.
        heads: number of attention heads.
        hidden: width of the MLP, as a multiple of ``dim``.
        causal: causal attention.
    """

    def __init__(self, dim: int, heads: int, hidden: int = 4, causal: bool = False) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads: expected a divisor of dim {dim}, got {heads}")
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden * dim), nn.GELU(), nn.Linear(hidden * dim, dim))

    def forward(self, x: Tensor, keep: Tensor | None = None, cache: KeyValues | None = None) -> Tensor:
        """Tokens [B, U, dim], which attend to those of ``cache``, too, and are added to it; of all these T tokens those
        with ``keep`` False, [B, T] or per query [B, U, T], are not attended to."""
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if cache is not None:
            k, v = cache.append(k, v)
        before = k.shape[2] - tokens
        mask = None if keep is None else keep[:, None, None] if keep.dim() == 2 else keep[:, None]
        if self.causal and (mask is not None or (before and tokens > 1)):
            earlier = torch.ones(tokens, before + tokens, dtype=torch.bool, device=x.device).tril(before)
            mask = earlier if mask is None else mask & earlier
        seen = TF.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=self.causal and mask is None and not before
        )
        x = x + self.out(seen.transpose(1, 2).reshape(batch, tokens, dim))
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


class _Patches(nn.Module):
    """Patch embedding with positions: images to tokens [B, rows, columns, dim]."""

    tokens_last = True

    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, dim, patch, patch)

    def forward(self, x: Tensor, gone: Tensor | None = None, token: Tensor | None = None) -> Tensor:
        tokens = self.project(x).permute(0, 2, 3, 1)
        rows, columns, dim = tokens.shape[1:]
        if gone is not None and token is not None:
            tokens = torch.where(gone.reshape(-1, rows, columns, 1), token.to(tokens.dtype), tokens)
        positions = sine_positions(rows, columns, dim).to(tokens)
        return tokens + positions.reshape(rows, columns, dim)


class _OnGrid(nn.Module):
    """A transformer block on a grid of tokens."""

    tokens_last = True

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.block(x.flatten(1, 2)).reshape(x.shape)
        return result


class _Last(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x).permute(0, 3, 1, 2)


class ViT(nn.Module):
    """Vision transformer, images [B, 3, H, W] to a feature map [B, dim, H / patch, W / patch].

    There is no class token: features are averaged over tokens. Position embeddings are fixed, so that views of several
    sizes (multiples of ``patch``) are possible.

    Args:
        patch: side of a patch in pixels.
        dim: dimensions of a token, a multiple of 4.
        depth: number of blocks.
        heads: number of attention heads.

    Example:
        >>> import torch
        >>> from fastssl.models import ViT
        >>> ViT(8, 16, depth=1, heads=2)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 16, 4, 4])
    """

    def __init__(self, patch: int = 4, dim: int = 128, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.patch, self.dim = patch, dim
        self.patches = _Patches(dim, patch)
        self.blocks = nn.ModuleList(_OnGrid(Block(dim, heads)) for _ in range(depth))
        self.last = _Last(dim)

    def levels(self) -> list[nn.Module]:
        return [self.patches, *self.blocks, self.last]

    def visible(self, images: Tensor, rows: Tensor, keep: Tensor | None = None) -> Tensor:
        """Encodes a subset of patches, given by row-major indices ``rows`` [B, K], to [B, K, dim]; those with ``keep``
        [B, K] False are not attended to."""
        tokens = self.patches(images).flatten(1, 2)
        tokens = tokens.gather(1, rows[..., None].expand(-1, -1, tokens.shape[2]))
        for block in self.blocks:
            tokens = block.block(tokens, keep)  # type: ignore[operator]
        result: Tensor = self.last.norm(tokens)
        return result

    def forward(self, x: Tensor, gone: Tensor | None = None, token: Tensor | None = None) -> Tensor:
        """The feature map; patches with ``gone`` [B, P] True are not seen: ``token`` [dim] stands for their
        embeddings."""
        x = self.patches(x, gone, token)
        for level in self.levels()[1:]:
            x = level(x)
        return x
