"""Operations of torch that are slow to train on CPUs, computed otherwise: docs/decisions/0021-operations-on-cpus.md."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as TF
from torch import Tensor, nn
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _get_current_dispatch_mode

ATTENTION, DROPOUT = TF.scaled_dot_product_attention, TF.dropout
MULTI_HEAD = TF.multi_head_attention_forward
HALF = torch.bfloat16
SHORT = 1 << 13  # elements of the keys of a head up to which attention in float32 is faster: 128 tokens of 64
MANY = 1 << 16  # elements from which 16 random bits for each are faster
NARROW = 8  # output columns up to which weight gradients are faster of several images side by side
WIDE = 64  # output columns of such images, at least


class FasterCpuOperations(TorchFunctionMode):
    """Context within which attention and convolutions that are trained on a CPU take less time.

    It holds for any network that calls ``scaled_dot_product_attention`` and ``conv2d`` of ``torch.nn.functional``, also
    through ``nn.Conv2d`` and ``nn.MultiheadAttention`` (with ``need_weights=False``, as in
    ``nn.TransformerEncoderLayer`` and in torchvision's and open_clip's transformers), in this thread:

    - Attention over few tokens under bf16 autocast is computed in float32 and has more digits than in bf16.
    - On CPUs with AMX, convolutions under bf16 autocast with kernels of one pixel are matrix products, and weight
      gradients of convolutions with at most 8 output columns, whose padding keeps the size, are those of several
      images side by side. Inputs are in the memory format ``torch.channels_last``.
    - ``torch.index_select`` of the first indices, as relative positions of transformers' XLNet have it, is a slice.

    All else is computed by torch as without it: what needs no gradient, is on another device, checkpointed
    (``torch.utils.checkpoint``, whose recomputation is out of its sight), transformed by ``torch.func``, traced, or of
    a subclass of tensors. The trainer of the methods uses it.

    Example:
        >>> import torch
        >>> from fastssl.models import FasterCpuOperations
        >>> network = torch.nn.Conv2d(64, 128, 1).to(memory_format=torch.channels_last)
        >>> images = torch.randn(8, 64, 7, 7).to(memory_format=torch.channels_last)
        >>> with FasterCpuOperations(), torch.autocast("cpu", torch.bfloat16):
        ...     loss = network(images).float().square().mean()
        >>> loss.backward()
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        faster, options = REPLACED.get(func), kwargs or {}
        if faster is not None and _recorded_once() and _plain(*args, *options.values()):
            return faster(*args, **options)
        return func(*args, **options)


@contextlib.contextmanager
def faster_dropout() -> Iterator[None]:
    """Context within which dropout, also of attention, draws 16 random bits per element on CPUs.

    The probability ``p`` is rounded to a multiple of 2^-16; the elements that are kept are scaled by the inverse of the
    rounded ``1 - p``. Other masks are drawn than by torch with the same seed. It replaces ``dropout`` and
    ``scaled_dot_product_attention`` of ``torch.nn.functional``, for all threads. Forward and backward pass belong into
    it, as checkpointed parts draw again in the backward pass.

    Example:
        >>> import torch
        >>> from fastssl.models import faster_dropout
        >>> x = torch.ones(512, 512, requires_grad=True)
        >>> with faster_dropout():
        ...     torch.nn.functional.dropout(x, 0.1).sum().backward()
    """
    kept = TF.dropout, TF.scaled_dot_product_attention
    TF.dropout, TF.scaled_dot_product_attention = dropout, attention_with_dropout  # type: ignore[assignment]
    try:
        yield
    finally:
        TF.dropout, TF.scaled_dot_product_attention = kept


def _recorded_once() -> bool:
    """Whether operations are neither recomputed later, out of the mode's sight, nor recomputed now."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is None and torch._C._current_graph_task_id() == -1


def _plain(*arguments: Any) -> bool:
    """Whether tensors on the CPU are computed with: none of subclasses (DTensor, fake or nested tensors), no
    transformation of torch.func, no tracing."""
    return (
        torch._C._functorch.peek_interpreter_stack() is None
        and not torch.jit.is_tracing()
        and not torch.compiler.is_compiling()
        and _get_current_dispatch_mode() is None
        and all(
            type(t) in (Tensor, nn.Parameter) and t.layout == torch.strided and t.device.type == "cpu"
            for t in arguments
            if isinstance(t, Tensor)
        )
    )


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    *rest: Any,
    **options: Any,
) -> Tensor:
    """Replaces ``scaled_dot_product_attention`` without dropout."""
    short = key.shape[-2:].numel() <= SHORT
    if not (_trained_in_bf16(query, key, value) and short and dropout_p == 0):
        return ATTENTION(query, key, value, attn_mask, dropout_p, *rest, **options)
    mask = attn_mask.float() if attn_mask is not None and attn_mask.is_floating_point() else attn_mask
    with torch.autocast("cpu", enabled=False):
        seen = ATTENTION(query.float(), key.float(), value.float(), mask, 0.0, *rest, **options)
    return seen.to(HALF)


def multi_head_attention(*args: Any, **options: Any) -> Any:
    """Replaces ``multi_head_attention_forward``, whose own operations torch hides from modes: its code, without the
    question for overriding that leads here."""
    names = {**vars(TF), "has_torch_function": lambda inputs: False}
    code = types.FunctionType(MULTI_HEAD.__code__, names, argdefs=MULTI_HEAD.__defaults__)
    with FasterCpuOperations():
        return code(*args, **options)


def attention_with_dropout(
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
    drops = isinstance(dropout_p, float) and 0 < dropout_p < 1 and not is_causal and not enable_gqa
    if not (drops and _plain(*inputs, attn_mask) and _composable(query, key, value, attn_mask)):
        options: dict[str, Any] = {"is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}
        return ATTENTION(query, key, value, attn_mask, dropout_p, **options)
    half = torch.is_autocast_enabled("cpu") and query.dtype != torch.float64
    result = torch.get_autocast_dtype("cpu") if half else query.dtype
    with torch.autocast("cpu", enabled=False):
        query, key, value = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in inputs)
        scores = query * (query.shape[-1] ** -0.5 if scale is None else scale) @ key.mT
        if attn_mask is None:
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


def convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Replaces ``conv2d``."""
    inputs = [t for t in (input, weight, bias) if t is not None]
    channels_last = input.dim() == weight.dim() == 4 and input.is_contiguous(memory_format=torch.channels_last)
    counts = all(isinstance(n, int) or (isinstance(n, tuple) and len(n) == 2) for n in (stride, padding, dilation))
    plain = counts and groups == 1 and _pair(dilation) == (1, 1) and min(_pair(stride)) > 0
    full = input.numel() > 0 and weight.numel() > 0
    fits = channels_last and plain and full and input.shape[1] == weight.shape[1]
    fits = fits and (bias is None or bias.shape == weight.shape[:1])
    if not (fits and _trained_in_bf16(*inputs) and torch.cpu._is_amx_tile_supported()):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    strides, paddings = _pair(stride), _pair(padding)
    if weight.shape[2:] == (1, 1) and paddings == (0, 0):
        pixels = input.permute(0, 2, 3, 1)
        sampled = pixels if strides == (1, 1) else pixels[:, :: strides[0], :: strides[1]]
        return TF.linear(sampled, weight.flatten(1), bias).permute(0, 3, 1, 2)
    columns = (input.shape[3] + 2 * paddings[1] - weight.shape[3]) // strides[1] + 1
    same = (2 * paddings[1] - weight.shape[3]) // strides[1] == -1  # an image of n x stride columns gives n columns
    if not (same and 0 < columns <= NARROW and weight.requires_grad):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    half_bias = None if bias is None else bias.to(HALF)
    result: Tensor = NarrowConvolution.apply(input.to(HALF), weight.to(HALF), half_bias, strides, paddings)
    return result


class NarrowConvolution(torch.autograd.Function):
    """A convolution whose weight gradient is that of several images side by side, zeros between them.

    torch's multiplies along the columns of an image: 4 of them fill an eighth of a tile of AMX.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.stride, ctx.padding = stride, padding
        return torch.conv2d(input, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None, None]:
        input, weight = ctx.saved_tensors
        stride, padding = ctx.stride, ctx.padding

        def gradients(input: Tensor, gradient: Tensor, of_input: bool) -> Tensor:
            found = torch.ops.aten.convolution_backward(
                gradient,
                input,
                weight,
                None,
                stride,
                padding,
                (1, 1),
                False,
                (0, 0),
                1,
                (of_input, not of_input, False),
            )
            return found[0 if of_input else 1]

        columns, step = gradient.shape[3], stride[1]
        # Columns of the output after each image: so many that its padding lies between it and the next.
        gap = -(-(input.shape[3] + padding[1]) // step) - columns
        images = min(-(-WIDE // columns), len(input))
        beside = _side_by_side(input, images, step * (columns + gap) - input.shape[3])
        of_weight = gradients(beside, _side_by_side(gradient, images, gap), False)
        of_input = gradients(input, gradient, True) if ctx.needs_input_grad[0] else None
        return of_input, of_weight, gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None, None, None


def _side_by_side(images: Tensor, count: int, gap: int) -> Tensor:
    """``(N, C, H, W)`` as ``(N / count, C, H, count * (W + gap))``, zeros in the gaps; N is filled up with zeros."""
    missing = -len(images) % count
    pixels = (TF.pad(images, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else images).permute(0, 2, 3, 1)
    n, height, width, channels = pixels.shape
    beside = pixels.new_empty(n // count, height, count, width + gap, channels)
    beside[..., :width, :] = pixels.unflatten(0, (-1, count)).transpose(1, 2)
    beside[..., width:, :] = 0
    return beside.flatten(2, 3).permute(0, 3, 1, 2)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Replaces ``dropout``."""
    drops = isinstance(p, float) and 0 < p < 1 and training is True and not inplace
    plain = drops and isinstance(input, Tensor) and input.is_floating_point() and _plain(input)
    dropped, count = (round(p * 65536), input.numel()) if plain else (0, 0)
    if not (0 < dropped < 65536 and count >= MANY):
        return DROPOUT(input, p, training, inplace)
    bits = (
        torch.empty(-(-count // 4), dtype=torch.int64, device=input.device)
        .random_(-(2**63), None)
        .view(torch.int16)[:count]
    )
    kept = (bits >= dropped - 32768).view(input.shape).to(input.dtype)
    return input * kept * (65536 / (65536 - dropped))


def index_select(input: Tensor, dim: int, index: Tensor, **options: Any) -> Tensor:
    """Replaces ``index_select``: of the first indices in order, as transformers' XLNet has it, it is a slice."""
    known = not options and isinstance(dim, int) and index.dtype in (torch.int32, torch.int64) and index.dim() == 1
    if known and input.requires_grad and -input.dim() <= dim < input.dim():
        length = index.numel()
        first = 0 < length <= input.shape[dim] and int(index[-1]) == length - 1
        if first and torch.equal(index, torch.arange(length, dtype=index.dtype, device=index.device)):
            return input.narrow(dim, 0, length).clone(memory_format=torch.contiguous_format)
    return torch.index_select(input, dim, index, **options)


def _trained_in_bf16(*inputs: Tensor) -> bool:
    """Whether gradients are needed and autocast computes in bf16 of these tensors."""
    return (
        torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == HALF
        and all(t.dtype in (torch.float32, torch.bfloat16) for t in inputs)
        and any(t.requires_grad for t in inputs)
    )


REPLACED: dict[Any, Callable[..., Any]] = {
    ATTENTION: attention,
    MULTI_HEAD: multi_head_attention,
    torch.conv2d: convolution,
    torch.index_select: index_select,
}
