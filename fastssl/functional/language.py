"""The loss of language models: a linear head and its cross-entropy in one."""

from __future__ import annotations

import torch
from torch import Tensor

from fastssl.distributed.shards import Group, current, shardable
from fastssl.functional import _check as check
from fastssl.functional._pairs import reduce_rows
from fastssl.ops import Backend, dispatch, reference
from fastssl.ops.pair_loss import Loss, pair_loss


def _cpu(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    ignore_index: int,
    reduction: str,
    gradient_filter: float,
) -> Tensor:
    return pair_loss(
        Loss.linear_cross_entropy,
        hidden,
        weight,
        ids=targets,
        bias=bias,
        normalize=False,
        ignore_index=ignore_index,
        reduction=reduction,
    )


LINEAR_CROSS_ENTROPY = Backend(reference.linear_cross_entropy, _cpu, "linear_cross_entropy")


@shardable
def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    gradient_filter: float = 0.0,
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""Cross-entropy of the logits ``hidden @ weight.T + bias`` without storing them.

    .. math:: L_i = \log \sum_v \exp(h_i \cdot w_v + b_v) - (h_i \cdot w_{t_i} + b_{t_i})

    Args:
        hidden: [N, D], float32, float64, bfloat16 or float16 (computed in fp32), any strides.
        weight: [V, D], a row per word or class.
        targets: [N], integers in [0, V), or ``ignore_index``: such a row contributes 0 and does not count. On a GPU,
            where nothing is read back, another target makes its row's loss NaN.
        bias: [V] or None.
        ignore_index: the target that is left out.
        reduction: "mean" (over targets that count; 0 where none does) | "sum" | "none".
        gradient_filter: on a GPU, tiles of the gradient of logits whose entries are all below this, in absolute value,
            may be skipped (cut cross-entropy's filter; 2^-12 / N suits bf16); 0: exact. Other backends always are.
        backend: "reference" | "cpu" | "triton"; None chooses.
        group: "world", a ProcessGroup or one dimension of a DeviceMesh: the loss of the rows of all its processes, of
            which this one has its own (:func:`fastssl.distributed.sharded` says what its gradients are); None: alone.
        schedule: with ``group``: "all_gather" | "ring" | "auto", by the memory budget.

    Returns:
        A scalar, or [N] for "none"; float64 for float64 inputs, else float32.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: wrong shape, device, length or reduction, or (not on a GPU) a target out of range.

    Example:
        >>> import torch, fastssl.functional as F
        >>> hidden, weight = torch.randn(6, 16, requires_grad=True), torch.randn(100, 16, requires_grad=True)
        >>> F.linear_cross_entropy(hidden, weight, torch.tensor([1, 5, 99, 0, -100, 7])).backward()

    Source: the fusion: Wijmans et al., Cut Your Losses in Large-Vocabulary Language Models, 2024.
    """
    check.matrices(hidden=hidden, weight=weight)
    targets = check.ids("targets", targets, hidden, "hidden")
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
        raise TypeError(f"ignore_index: expected an integer, got {type(ignore_index).__name__}")
    if weight.shape[0] < 1:
        raise ValueError(f"weight: expected at least one row, got shape {tuple(weight.shape)}")
    if bias is not None:
        check.tensor("bias", bias)
        if bias.dtype not in check.FLOATS:
            raise TypeError(f"bias: expected a floating point tensor, got {bias.dtype}")
        if bias.dim() != 1 or bias.shape[0] != weight.shape[0]:
            raise ValueError(
                f"bias: expected shape ({weight.shape[0]},), one value per row of weight, got {tuple(bias.shape)}"
            )
        if bias.device != hidden.device:
            raise ValueError(f"bias: expected a tensor on {hidden.device} as hidden, got one on {bias.device}")
    # On a GPU the answer would have to be waited for.
    if not torch.compiler.is_compiling() and targets.device.type != "cuda" and targets.numel():
        _check_range(targets, weight.shape[0], ignore_index)
    call = LINEAR_CROSS_ENTROPY, backend, hidden.device, hidden, weight, targets, bias, ignore_index
    check.reduction(reduction)
    gradient_filter = check.number("gradient_filter", gradient_filter, low=0)
    if current() is not None:
        values: Tensor = dispatch(*call, "none", gradient_filter)
        return reduce_rows(values.double(), targets != ignore_index, reduction).to(values.dtype)
    return dispatch(*call, reduction, gradient_filter)


def _check_range(targets: Tensor, classes: int, ignore_index: int) -> None:
    low, high = (int(v) for v in torch.aminmax(targets))
    if low >= 0 and high < classes:
        return
    wrong = targets[((targets < 0) | (targets >= classes)) & (targets != ignore_index)]
    if wrong.numel():
        raise ValueError(f"targets: expected values in [0, {classes}) or {ignore_index}, got {int(wrong[0])}")
