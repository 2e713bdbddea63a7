"""Operations of torch that are slow to train on CPUs, computed otherwise: docs/decisions/0021-operations-on-cpus.md."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as TF
from torch import Tensor
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode

from fastssl.functional._cpu import ATTENTION, CONTEXTS, GELU, attention, gelu, plain

MULTI_HEAD = TF.multi_head_attention_forward
HALF = torch.bfloat16
NARROW = 8  # output columns up to which weight gradients are faster of several images side by side
WIDE = 64  # output columns of such images, at least
CHANNELS = 64  # of inputs and of outputs below which torch's convolutions are faster
PIXELS = 256  # of all outputs below which its weight gradients are


class FasterCpuOperations(TorchFunctionMode):
    """Context within which attention and convolutions that are trained on a CPU take less time.

    It holds for any network that calls ``scaled_dot_product_attention`` and ``conv2d`` of ``torch.nn.functional``, also
    through ``nn.Conv2d`` and ``nn.MultiheadAttention`` (with ``need_weights=False``, as in
    ``nn.TransformerEncoderLayer`` and in torchvision's and open_clip's transformers), in this thread:

    - Attention is one operation in each pass, in float32, which has more digits than in bf16.
    - On CPUs with AMX, convolutions under bf16 autocast of at least 64 channels: with kernels of one pixel they are
      matrix products, and weight gradients of those with at most 8 output columns, whose padding keeps the size, are
      those of several images side by side. Inputs are in the memory format ``torch.channels_last``.
    - GELU by a tanh (``approximate="tanh"``) has kernels of its own.
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
        if faster is None or not plain(*args, *options.values()):  # compiled code goes no further
            return func(*args, **options)
        again = func is ATTENTION and CONTEXTS  # it is replaced when it is recomputed, too
        return faster(*args, **options) if again or _recorded_once() else func(*args, **options)


def _recorded_once() -> bool:
    """Whether operations are neither recomputed later, out of the mode's sight, nor recomputed now."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is None and torch._C._current_graph_task_id() == -1


def multi_head_attention(*args: Any, **options: Any) -> Any:
    """Replaces ``multi_head_attention_forward``, whose own operations torch hides from modes: its code, without the
    question for overriding that leads here."""
    names = {**vars(TF), "has_torch_function": lambda inputs: False}
    code = types.FunctionType(MULTI_HEAD.__code__, names, argdefs=MULTI_HEAD.__defaults__)
    with FasterCpuOperations():
        return code(*args, **options)


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
    usual = counts and groups == 1 and _pair(dilation) == (1, 1) and min(_pair(stride)) > 0
    full = input.numel() > 0 and weight.numel() > 0
    fits = channels_last and usual and full and input.shape[1] == weight.shape[1]
    fits = fits and (bias is None or bias.shape == weight.shape[:1]) and min(weight.shape[:2]) >= CHANNELS
    if not (fits and _trained_in_bf16(*inputs) and torch.cpu._is_amx_tile_supported()):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    strides, paddings = _pair(stride), _pair(padding)
    if weight.shape[2:] == (1, 1) and paddings == (0, 0):
        pixels = input.permute(0, 2, 3, 1)
        sampled = pixels if strides == (1, 1) else pixels[:, :: strides[0], :: strides[1]]
        return TF.linear(sampled, weight.flatten(1), bias).permute(0, 3, 1, 2)
    columns = (input.shape[3] + 2 * paddings[1] - weight.shape[3]) // strides[1] + 1
    same = (2 * paddings[1] - weight.shape[3]) // strides[1] == -1  # an image of n x stride columns gives n columns
    rows = (input.shape[2] + 2 * paddings[0] - weight.shape[2]) // strides[0] + 1
    many = len(input) * rows * columns >= PIXELS
    if not (same and many and 0 < columns <= NARROW and weight.requires_grad):
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
    GELU: gelu,
}
