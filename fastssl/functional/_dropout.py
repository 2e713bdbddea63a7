"""Dropout on CPUs: the masks that torch draws, in a tenth of the time (csrc/dropout)."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as TF
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

from fastssl.ops import extension

ATTENTION, DROPOUT = TF.scaled_dot_product_attention, TF.dropout
FEW = 1 << 13  # elements below which torch's own takes as long
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def plain(*arguments: Any) -> bool:
    """Whether tensors on the CPU are computed with: none of subclasses (DTensor, fake or nested tensors), no
    transformation of torch.func, no forward-mode derivatives, no tracing."""
    return (
        not torch.compiler.is_compiling()
        and torch._C._functorch.peek_interpreter_stack() is None
        and forward_ad._current_level < 0
        and not torch.jit.is_tracing()
        and _get_current_dispatch_mode() is None
        and all(
            type(t) in (Tensor, nn.Parameter) and t.layout == torch.strided and t.device.type == "cpu"
            for t in arguments
            if isinstance(t, Tensor)
        )
    )


def _draw(kept: Tensor, p: float) -> None:
    assert extension._C is not None
    extension._C.draw_kept(torch.default_generator, 1 - p, kept.data_ptr(), kept.numel())


@functools.cache
def _draws_as_torch() -> bool:
    """Whether torch's generator is drawn from one number after the other. With MKL and a CPU that is known to be
    Intel's it only gives the seed of another one."""
    if extension._C is None:
        return False
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        expected, state = torch.empty(1000).bernoulli_(0.7).bool(), torch.get_rng_state()
        torch.manual_seed(0)
        _draw(found := torch.empty(1000, dtype=torch.bool), 1 - 0.7)
        return torch.equal(found, expected) and torch.equal(torch.get_rng_state(), state)


@functools.lru_cache
def _scale(p: float, dtype: torch.dtype) -> float:
    """What torch multiplies kept elements by: rounded to their dtype."""
    return float(torch.ones((), dtype=dtype).div_(1 - p))


class _Scaled(torch.autograd.Function):
    """``x * scale`` where kept, ``x * 0`` elsewhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        if plain(x) and x.stride() == kept.stride():
            found: Tensor = torch.ops.fastssl.scale_kept(x, kept, scale)
            return found
        return x * (kept.to(x.dtype) * scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Scaled.apply(gradient, *ctx.saved_tensors, ctx.scale), None, None


_installed = 0  # contexts within
_installing = threading.Lock()


@contextlib.contextmanager
def faster_dropout() -> Iterator[None]:
    """Context within which dropout takes a fraction of the time on CPUs, also that of attention.

    The masks are those that torch draws with the same seed, bit for bit: states of its Mersenne Twister are made and
    compared in vectors, one byte per element is stored instead of a factor, and the products are torch's. Attention
    with dropout is composed of products and a softmax in float32 at least. ``dropout`` and
    ``scaled_dot_product_attention`` of ``torch.nn.functional`` are replaced, for all threads, until the last context
    ends. What they do not cover runs torch's own code: calls in place, with grouped queries, of a few thousand
    elements, on other devices, of subclasses of tensors, compiled, traced, or transformed by ``torch.func``.

    Forward and backward passes belong into it where attention with dropout is checkpointed: the backward pass computes
    it again.

    Example:
        >>> import torch
        >>> from fastssl.models import faster_dropout
        >>> x = torch.ones(512, 512, requires_grad=True)
        >>> with faster_dropout():
        ...     torch.nn.functional.dropout(x, 0.1).sum().backward()
    """
    _count_contexts(1)
    try:
        yield
    finally:
        _count_contexts(-1)


def _count_contexts(change: int) -> None:
    global _installed
    with _installing:
        _installed += change
        for name, either in REPLACED.items():
            if getattr(TF, name) in either:  # else replaced by somebody else, who calls one of them
                setattr(TF, name, either[_installed == 0])


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Replaces ``dropout``."""
    drops = isinstance(p, float) and 0 < p < 1 and training is True and not inplace
    if drops and isinstance(input, Tensor) and input.dtype in FLOATS and input.numel() >= FEW and plain(input):
        kept = torch.empty_like(input, dtype=torch.bool)
        if kept.stride() == input.stride() and _draws_as_torch():
            _draw(kept, p)
            found: Tensor = _Scaled.apply(input, kept, _scale(p, input.dtype))
            return found
    return DROPOUT(input, p, training, inplace)


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
    """Replaces ``scaled_dot_product_attention`` with dropout: composed in float32, as torch composes it."""
    inputs = (query, key, value)
    drops = isinstance(dropout_p, float) and 0 < dropout_p < 1 and not (is_causal and attn_mask is not None)
    if enable_gqa or not (drops and plain(*inputs, attn_mask) and _composable(query, key, value, attn_mask)):
        options: dict[str, Any] = {"is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}
        return ATTENTION(query, key, value, attn_mask, dropout_p, **options)
    half = torch.is_autocast_enabled("cpu") and query.dtype != torch.float64
    result = torch.get_autocast_dtype("cpu") if half else query.dtype
    with torch.autocast("cpu", enabled=False):
        query, key, value = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in inputs)
        scores = query * (query.shape[-1] ** -0.5 if scale is None else scale) @ key.mT
        if is_causal:
            hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        elif attn_mask is None:
            weights = scores.softmax(-1)
        else:
            visible = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if visible else scores + attn_mask.to(scores.dtype)
            weights = torch._safe_softmax(scores, -1)  # 0 instead of NaN for queries that see no key
        return (dropout(weights, dropout_p) @ value).to(result)


def _composable(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    """Whether torch accepts these without further rules."""
    return (
        2 <= query.dim() == key.dim() == value.dim()
        and query.dtype == key.dtype == value.dtype
        and query.is_floating_point()
        and query.shape[-1] == key.shape[-1] > 0
        and (mask is None or (mask.dtype in (torch.bool, query.dtype, torch.float32) and mask.dim() <= query.dim()))
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
    """What torch.jit.script takes instead."""
    return torch._C._nn.scaled_dot_product_attention(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )


REPLACED = {"dropout": (dropout, DROPOUT), "scaled_dot_product_attention": (attention, ATTENTION)}
dropout.__prepare_scriptable__ = lambda: DROPOUT  # type: ignore[attr-defined]  # what torch.jit.script takes instead
attention.__prepare_scriptable__ = lambda: _scripted  # type: ignore[attr-defined]
