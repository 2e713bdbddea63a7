"""Attention that is trained on CPUs (csrc/attention): its weights are made again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as TF
from torch import Tensor

from fastssl.functional._cpu.dropout import draw, factor
from fastssl.functional._cpu.plain import plain
from fastssl.ops import extension

ATTENTION = TF.scaled_dot_product_attention
FLOATS = (torch.float32, torch.bfloat16)
MAX_KEYS = 1 << 15  # elements of the keys of a head up to which torch takes longer: 512 tokens of 64
# Of contexts that replace torch's attention: whether 16-bit tensors, and all within autocast, are to have torch's bits.
CONTEXTS: list[Callable[[], bool]] = []


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        kept: Tensor | None,
        kept_factor: float,
        scale: float,
        causal: bool,
    ) -> Tensor:
        flash = kept is None and query.shape[-1] == value.shape[-1]  # the layouts of torch's kernels
        flash = flash and all(t.stride(-1) == 1 for t in (query, key, value))
        out = _empty_like(query) if flash else query.new_empty(*query.shape[:3], value.shape[-1])
        ctx.options = (kept_factor, scale, causal)
        rows = torch.ops.fastssl.attention(*map(_beside, (query, key, value)), mask, kept, *ctx.options, out)
        ctx.save_for_backward(query, key, value, mask, kept, rows)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, kept, rows = ctx.saved_tensors
        inputs = query, key, value
        if torch.is_grad_enabled() or not plain(gradient):
            found = _gradients(gradient, *inputs, mask, kept, *ctx.options)
        else:
            found = tuple(_empty_like(t) if need else None for t, need in zip(inputs, ctx.needs_input_grad))
            given = map(_beside, (gradient, *inputs))
            torch.ops.fastssl.attention_backward(*given, mask, kept, *ctx.options, rows, *found)
        return *found, None, None, None, None, None


def _beside(t: Tensor) -> Tensor:
    """With the features of a token side by side."""
    return t if t.stride(-1) == 1 else t.contiguous()


def _empty_like(t: Tensor) -> Tensor:
    """In its layout, with the features of a token side by side."""
    made = torch.empty_like(t)
    return made if made.stride(-1) == 1 else t.new_empty(t.shape)


@torch.autocast("cpu", enabled=False)
def _gradients(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    kept: Tensor | None,
    kept_factor: float,
    scale: float,
    causal: bool,
) -> tuple[Tensor, ...]:
    """The gradients by operations of torch, which have derivatives of their own and can be mapped."""
    q, k, v, g = (t.float() for t in (query, key, value, gradient))
    scores = scale * q @ k.mT
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1), -torch.inf)
    weights = torch._safe_softmax(scores, -1)
    dropped = weights if kept is None else weights * (kept * kept_factor)
    of_weights = g @ v.mT if kept is None else g @ v.mT * (kept * kept_factor)
    of_scores = weights * (of_weights - (weights * of_weights).sum(-1, keepdim=True)) * scale
    found = of_scores @ k, of_scores.mT @ q, dropped.mT @ g
    return tuple(t.to(query.dtype) for t in found)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Replaces ``scaled_dot_product_attention`` where a gradient is needed."""
    inputs = (query, key, value)
    fits = all(isinstance(t, Tensor) for t in inputs) and plain(*inputs, attn_mask) and extension._C is not None
    fits = fits and torch.is_grad_enabled() and any(t.requires_grad for t in inputs) and not enable_gqa
    fits = fits and type(dropout_p) in (float, int) and 0 <= dropout_p < 1 and type(is_causal) is bool
    fits = fits and _fit(*inputs) and torch._C._get_flash_sdp_enabled() and torch._C._get_math_sdp_enabled()
    fits = fits and _is_mask(attn_mask, query, key, is_causal) and _pays(*inputs, dropout_p > 0)
    if not fits:
        options: dict[str, Any] = {"is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}
        return ATTENTION(query, key, value, attn_mask, dropout_p, **options)
    sizes = (*query.shape[:3], key.shape[2])
    mask = attn_mask
    if mask is not None:
        mask = (mask if mask.dtype == torch.bool else mask.float()).expand(sizes)
    kept, kept_factor = None, 1.0
    if dropout_p:
        kept, kept_factor = torch.empty(sizes, dtype=torch.bool, device=query.device), factor(dropout_p, torch.float32)
        draw(kept, dropout_p)
    steepness = query.shape[-1] ** -0.5 if scale is None else float(scale)
    found: Tensor = _Attention.apply(query, key, value, mask, kept, kept_factor, steepness, is_causal)
    return found.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else found


def _fit(query: Tensor, key: Tensor, value: Tensor) -> bool:
    return (
        query.dim() == key.dim() == value.dim() == 4
        and query.dtype == key.dtype == value.dtype
        and query.dtype in FLOATS
        and query.shape[:2] == key.shape[:2] == value.shape[:2]
        and key.shape[2] == value.shape[2]
        and query.shape[3] == key.shape[3]
        and min(query.numel(), key.numel(), value.numel()) > 0
    )


def _pays(query: Tensor, key: Tensor, value: Tensor, dropped: bool) -> bool:
    """Whether torch takes longer. It composes attention with dropout; its kernel is slow in bf16 without AMX."""
    pairs, heads = query.shape[:3].numel() * key.shape[2], query.shape[:2].numel()
    half = query.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
    if heads < torch.get_num_threads() or (half and CONTEXTS and all(exact() for exact in CONTEXTS)):
        return False
    if dropped:
        return pairs >= 1 << 18
    small = key.shape[2] * max(key.shape[3], value.shape[3]) <= MAX_KEYS
    if half:
        return pairs >= 1 << 13 and (small or not torch.cpu._is_amx_tile_supported())
    return pairs >= 1 << 18 and small


def _is_mask(mask: Tensor | None, query: Tensor, key: Tensor, causal: bool) -> bool:
    """Whether there is none, or one that is broadcast to all pairs and needs no gradient."""
    if mask is None:
        return True
    wanted = (*query.shape[:3], key.shape[2])
    return (
        not causal
        and not mask.requires_grad
        and not mask.is_inference()
        and mask.dtype in (torch.bool, torch.float32, query.dtype)
        and 2 <= mask.dim() <= 4
        and all(given in (1, size) for given, size in zip(mask.shape[::-1], wanted[::-1]))
    )


def _scripted(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    return torch._C._nn.scaled_dot_product_attention(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )


attention.__prepare_scriptable__ = lambda: _scripted  # type: ignore[attr-defined]  # what torch.jit.script takes instead
