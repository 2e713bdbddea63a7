"""``torch.ops.fastssl.pair_loss``: shapes for tracing, autograd, autocast, and the call itself."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fastssl.ops import extension

# The numbers are those of csrc/cpu/pair_loss.h.


class Loss(IntEnum):
    info_nce = 0
    nt_xent = 1
    sup_con = 2
    siglip = 3
    linear_cross_entropy = 4


class Keep(IntEnum):
    nothing = 0
    tiles = 1
    attention = 2


REDUCTIONS = {"none": 0, "sum": 1, "mean": 2}
BLOCK = 32  # kBlock in csrc/cpu/tile.h
LARGEST_TILE = 256  # kMaxTileBlocks * kBlock


def _rows(loss: int, x: Tensor, y: Tensor | None, z: Tensor | None) -> tuple[int, int, bool]:
    """Rows of both sides of the pair matrix, and whether they are the same rows."""
    n = x.shape[0]
    if loss == Loss.nt_xent:
        return 2 * n, 2 * n, True
    if y is None:
        return n, n, True
    return n, y.shape[0] + (z.shape[0] if z is not None else 0), False


def _blocks(n: int) -> int:
    return (n + BLOCK - 1) // BLOCK


def kept_numel(loss: int, keep: int, x: Tensor, y: Tensor | None, z: Tensor | None) -> int:
    """Elements that the forward pass keeps: Grid::kept_numel in csrc/cpu/schedule.h, in symbols for tracing."""
    n, m, same = _rows(loss, x, y, z)
    rows, columns = _blocks(n) * BLOCK, _blocks(m) * BLOCK
    if keep == Keep.tiles:
        return rows * (rows + LARGEST_TILE) // 2 if same else rows * columns
    if keep == Keep.attention:
        return rows * _blocks(x.shape[1]) * BLOCK
    return 0


def pair_loss(
    loss: Loss,
    x: Tensor,
    y: Tensor | None = None,
    z: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    scale: Tensor | float = 1.0,
    bias: Tensor | None = None,
    normalize: bool,
    symmetric: bool = False,
    ignore_index: int = -100,
    reduction: str,
) -> Tensor:
    """Calls the operator with the cheapest way to a gradient that fits the memory budget."""
    scale_tensor, factor = (scale, 1.0) if isinstance(scale, Tensor) else (None, float(scale))
    keep = _choose_keep(loss, x, y, z, scale_tensor, bias, symmetric)
    constants = (factor, normalize, symmetric, ignore_index, REDUCTIONS[reduction], keep)
    arguments = (loss.value, x, y, z, ids, scale_tensor, bias, *constants)
    if torch.compiler.is_compiling():
        return torch.ops.fastssl.pair_loss.default(*arguments)[0]
    if _is_transformed((x, y, z, scale_tensor, bias)):
        return _Transformable.apply(*arguments[:-1], 0)[0]
    if forward_ad._current_level >= 0 and any(
        isinstance(t, Tensor) and forward_ad.unpack_dual(t).tangent is not None for t in arguments
    ):
        raise RuntimeError(_NO_FORWARD_MODE)
    try:
        if torch._C._is_any_autocast_enabled():
            return torch.ops.fastssl.pair_loss.default(*arguments)[0]
        return _Eager.apply(*arguments)
    except RuntimeError as error:
        _reraise(error)
        raise


def _choose_keep(
    loss: Loss,
    x: Tensor,
    y: Tensor | None,
    z: Tensor | None,
    scale: Tensor | None,
    bias: Tensor | None,
    symmetric: bool,
) -> int:
    if not torch.is_grad_enabled():
        return 0
    need = [t is not None and t.requires_grad for t in (x, y, z, scale, bias)]
    if not any(need):
        return 0
    one_sided = loss in (Loss.info_nce, Loss.linear_cross_entropy) and not symmetric
    if one_sided and not need[1] and not need[2] and not need[4]:
        return 2
    if torch.compiler.is_exporting():
        return 0  # the number of rows stays a symbol: no decision may depend on it
    size = 8 if x.dtype == torch.float64 else 4
    return 1 if kept_numel(loss, 1, x, y, z) * size <= extension.get_memory_budget() else 0


_NO_FORWARD_MODE = "fastssl: the fused losses have no forward-mode derivative; use the reference backend"


def _is_transformed(arguments: tuple[Any, ...]) -> bool:
    """Whether torch.func has wrapped any of the tensors."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return any(isinstance(t, Tensor) and wrapped(t) for t in arguments)


def _reraise(error: RuntimeError) -> None:
    if "fastssl: interrupted" in str(error):
        raise KeyboardInterrupt from None


def _result_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _fake(loss, x, y, z, ids, scale, bias, scale_value, normalize, symmetric, ignore_index, reduction, keep):
    n, m, _ = _rows(loss, x, y, z)
    result = _result_dtype(x)
    stats = 2 * n + (2 * m if symmetric else 0) + 1
    return (
        x.new_empty((n,) if reduction == 0 else (), dtype=result),
        x.new_empty((stats,), dtype=torch.float64),
        x.new_empty((kept_numel(loss, keep, x, y, z),), dtype=result),
    )


def _fake_backward(
    grad,
    stats,
    kept,
    loss,
    x,
    y,
    z,
    ids,
    scale,
    bias,
    scale_value,
    normalize,
    symmetric,
    ignore_index,
    reduction,
    keep,
    needs,
):
    def like(t: Tensor | None, bit: int) -> Tensor:
        return (
            x.new_empty((0,))
            if t is None or not needs >> bit & 1
            else torch.empty_like(t, memory_format=torch.contiguous_format)
        )

    return tuple(like(t, bit) for bit, t in enumerate((x, y, z, scale, bias)))


# Positions of the differentiable inputs among the operator's arguments.
_DIFFERENTIABLE = (1, 2, 3, 5, 6)
_CONSTANTS = (0, 7, 8, 9, 10, 11, 12)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[1:7], output[1], output[2])
    ctx.constants = tuple(inputs[i] for i in _CONSTANTS)
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, _stats: Any, _kept: Any) -> tuple[Tensor | None, ...]:
    result: list[Tensor | None] = [None] * 13
    if grad is None:
        return tuple(result)
    x, y, z, ids, scale, bias, stats, kept = ctx.saved_tensors
    loss, *rest = ctx.constants
    needs = sum(1 << bit for bit, position in enumerate(_DIFFERENTIABLE) if ctx.needs_input_grad[position])
    arguments = (grad, stats, kept, loss, x, y, z, ids, scale, bias, *rest, needs)
    try:
        if torch.compiler.is_compiling():
            grads = torch.ops.fastssl.pair_loss_backward.default(*arguments)
        elif _is_transformed((grad, x)):
            grads = _TransformableBackward.apply(*arguments)
        elif torch.is_grad_enabled():  # create_graph: the registered autograd says that there is no second derivative
            grads = torch.ops.fastssl.pair_loss_backward.default(*arguments)
        else:
            grads = _directly(torch.ops.fastssl.pair_loss_backward.default, *arguments)
    except RuntimeError as error:
        _reraise(error)
        raise
    for bit, position in enumerate(_DIFFERENTIABLE):
        if needs >> bit & 1:
            result[position] = grads[bit]
    return tuple(result)


def _directly(operator: Any, *arguments: Any) -> Any:
    """Calls the kernel without the autograd that is registered for it: that costs 60 us more than all the rest."""
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*arguments)


class _Eager(torch.autograd.Function):
    """The operator in eager mode: what ``_setup`` and ``_backward`` do, with the least overhead."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        output = _directly(torch.ops.fastssl.pair_loss.default, *arguments)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(*arguments[1:7], output[1], output[2])
            ctx.constants = (arguments[0], *arguments[7:])
            ctx.set_materialize_grads(False)
        return output[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        return _backward(ctx, grad, None, None)


class _Transformable(torch.autograd.Function):
    """The operator for torch.func: grad, vjp, jacrev and vmap work; forward mode says that it does not."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*arguments: Any) -> Any:
        return torch.ops.fastssl.pair_loss.default(*arguments)

    setup_context = staticmethod(_setup)
    backward = staticmethod(_backward)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise RuntimeError(_NO_FORWARD_MODE)


class _TransformableBackward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*arguments: Any) -> Any:
        return torch.ops.fastssl.pair_loss_backward.default(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _no_second_derivative(ctx, *grads)


def _no_second_derivative(ctx: Any, *grads: Any) -> Any:
    raise RuntimeError(
        "fastssl: the fused losses have no second derivative; use the reference backend "
        "(with fastssl.backend('reference'): ...) where one is needed"
    )


def _register() -> None:
    torch.library.register_fake("fastssl::pair_loss", _fake)
    torch.library.register_fake("fastssl::pair_loss_backward", _fake_backward)
    torch.library.register_autograd("fastssl::pair_loss", _backward, setup_context=_setup)
    torch.library.register_autograd("fastssl::pair_loss_backward", _no_second_derivative)
    # As torch's cross_entropy: computed in fp32 under autocast.
    torch.library.register_autocast("fastssl::pair_loss", "cpu", torch.float32)


if extension._C is not None:
    _register()
