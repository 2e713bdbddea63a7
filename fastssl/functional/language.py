"""The loss of language models: a linear head and its cross-entropy in one."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastssl.distributed.shards import Group, current, shardable, unsharded
from fastssl.functional import _check as check
from fastssl.functional._pairs import everywhere, reduce_rows
from fastssl.functional._row_terms import is_zero, products, weighted_sum
from fastssl.functional._sums import by_row, sum_of
from fastssl.functional.custom import pair_loss as pair_loss_by_strips
from fastssl.ops.operator import result_dtype
from fastssl.ops.pair_loss import LINEAR_CROSS_ENTROPY, pair_loss


@shardable
def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    shift: bool = False,
    label_smoothing: Tensor | float = 0.0,
    class_weights: Tensor | None = None,
    z_loss: Tensor | float = 0.0,
    softcap: Tensor | float | None = None,
    gradient_filter: float = 0.0,
    backend: str | None = None,
    group: Group = None,
    schedule: str = "auto",
) -> Tensor:
    r"""Cross-entropy of the logits ``hidden @ weight.T + bias`` without storing them.

    .. math:: L_i = \log \sum_v \exp(z_{iv}) - z_{i t_i}, \quad z_{iv} = h_i \cdot w_v + b_v

    With the options, as ``torch.nn.functional.cross_entropy`` and language models define them:

    .. math:: L_i = (1 - \epsilon)\, c_{t_i} (\mathrm{lse}_i - z_{i t_i})
              + \frac{\epsilon}{V} \sum_v c_v (\mathrm{lse}_i - z_{iv}) + \lambda\, \mathrm{lse}_i^2, \quad
              z \leftarrow s \tanh(z / s)

    Args:
        hidden: [N, D] or [B, T, D], float32, float64, bfloat16 or float16 (computed in fp32), any strides.
        weight: [V, D], one row per word or class; may be of a wider dtype than ``hidden`` (master weights).
        targets: [N] or [B, T], integers in [0, V), or ``ignore_index``: such a row contributes 0 and does not count.
            On a GPU, where nothing is read back, another target makes its row's loss NaN.
        bias: [V] or None.
        ignore_index: the target that is ignored.
        reduction: "mean" (over targets that count, by their class weights; 0 where none does) | "sum" | "none".
        shift: position t predicts the target of t + 1, as causal language models do: [B, T] targets; the last
            position of each sequence does not count.
        label_smoothing: epsilon in [0, 1], the share of the target that goes to all classes alike.
        class_weights: c [V], or None for 1.
        z_loss: lambda >= 0, weight of the squared log-partition function; its mean is over all rows that count.
        softcap: s > 0, or None: logits are bounded to (-s, s) smoothly. Computed by eager code in strips of rows that
            fit the memory budget.
        gradient_filter: on a GPU, tiles of the gradient of logits whose entries are all below this, in absolute value,
            may be skipped (cut cross-entropy's filter; 2^-12 / N suits bf16); 0: exact. Other backends always are.

    Returns:
        A scalar, or the shape of ``targets`` for "none"; float64 for float64 inputs, else float32.

    Raises:
        ValueError: wrong shape, device, length, range or reduction, or (not on a GPU) a target out of range.

    Example:
        >>> import torch, fastssl.functional as F
        >>> hidden, weight = torch.randn(6, 16, requires_grad=True), torch.randn(100, 16, requires_grad=True)
        >>> F.linear_cross_entropy(hidden, weight, torch.tensor([1, 5, 99, 0, -100, 7])).backward()

    Source: the fusion: Wijmans et al., Cut Your Losses in Large-Vocabulary Language Models, 2024; z-loss: Chowdhery et
    al., PaLM, 2022, section 5; soft-capping: Gemma Team, Gemma 2, 2024, section 2.
    """
    ignore_index = check.count("ignore_index", ignore_index, low=-(2**63))
    shape = check.tensor("hidden", hidden).shape[:-1]
    hidden, targets = _as_rows(hidden, targets, check.flag("shift", shift), ignore_index)
    hidden, weight = _of_one_dtype(hidden, weight)
    check.matrices(hidden=hidden, weight=weight)
    classes, device = weight.shape[0], hidden.device
    targets = check.ids("targets", targets, hidden, "hidden")
    if classes < 1:
        raise ValueError(f"weight: expected at least one row, got shape {tuple(weight.shape)}")
    for name, given in (("bias", bias), ("class_weights", class_weights)):
        if given is not None:
            _by_class(name, given, classes, device)
    if targets.device.type == "cpu":
        check.among("targets", targets, classes, ignore_index)
    check.reduction(reduction, active=False)
    gradient_filter = check.number("gradient_filter", gradient_filter, low=0)
    options = _Options(
        check.value("label_smoothing", label_smoothing, device, low=0, high=1),
        class_weights,
        check.value("z_loss", z_loss, device, low=0),
        None if softcap is None else check.value("softcap", softcap, device, positive=True),
    )
    entropy = functools.partial(
        pair_loss,
        *(LINEAR_CROSS_ENTROPY, hidden, None, weight),
        ids=targets,
        bias=bias,
        normalize=False,
        ignore_index=ignore_index,
        gradient_filter=gradient_filter,
        backend=backend,
    )
    if options.plain and current() is None:
        loss = entropy(reduction=reduction)
        return loss.reshape(shape) if reduction == "none" else loss
    counted = targets != ignore_index
    penalty: Tensor | None
    if options.softcap is not None:
        rows, penalty = _by_strips(hidden, weight, targets, bias, options, backend)
    else:
        rows, penalty = entropy(reduction="none").double(), None
        if not options.plain:
            rows, penalty = options.of_scores(rows, hidden, weight, targets, bias, counted)
    dtype = result_dtype(hidden)
    if reduction == "none":
        every = rows if penalty is None else rows + penalty
        return torch.where(counted, every, torch.zeros_like(every)).to(dtype).reshape(shape)
    total = reduce_rows(rows, counted, "sum" if class_weights is not None else reduction)
    if class_weights is not None and reduction == "mean":
        shares = torch.where(counted, options.weights_of(targets).to(rows.dtype), torch.zeros_like(rows))
        weight_sum = everywhere(sum_of(shares))
        total = total / torch.where(weight_sum == 0, torch.ones_like(weight_sum), weight_sum)
    return (total if penalty is None else total + reduce_rows(penalty, counted, reduction)).to(dtype)


def _as_rows(hidden: Tensor, targets: Tensor, shift: bool, ignore_index: int) -> tuple[Tensor, Tensor]:
    """[N, D] and [N] of rows or of sequences; ``shift``: each position with the next one's target."""
    check.tensor("targets", targets)
    if hidden.dim() not in (2, 3):
        raise ValueError(f"hidden: expected [rows, features] or [batch, length, features], got {tuple(hidden.shape)}")
    if shift:
        if targets.dim() != 2:
            raise ValueError(f"shift: expected targets [batch, length], got shape {tuple(targets.shape)}")
        last = torch.full_like(targets[:, :1], ignore_index)
        targets = torch.cat([targets[:, 1:], last], 1)
    if hidden.dim() == 3:
        if targets.shape != hidden.shape[:2]:
            raise ValueError(f"targets: expected shape {tuple(hidden.shape[:2])} as hidden, got {tuple(targets.shape)}")
        return hidden.flatten(0, 1), targets.flatten()
    return hidden, targets


def _of_one_dtype(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and weights in the wider of their dtypes; autocast has its own rule."""
    check.tensor("weight", weight)
    mixed = hidden.dtype != weight.dtype and {hidden.dtype, weight.dtype} <= set(check.FLOATS)
    if not mixed or torch.is_autocast_enabled(hidden.device.type):
        return hidden, weight
    wider = torch.promote_types(hidden.dtype, weight.dtype)
    return hidden.to(wider), weight.to(wider)


def _by_class(name: str, given: Tensor, classes: int, device: torch.device) -> None:
    check.tensor(name, given)
    if given.dtype not in check.FLOATS:
        raise TypeError(f"{name}: expected a floating point tensor, got {given.dtype}")
    if given.dim() != 1 or given.shape[0] != classes:
        raise ValueError(f"{name}: expected shape ({classes},), one value per row of weight, got {tuple(given.shape)}")
    if given.device != device:
        raise ValueError(f"{name}: expected a tensor on {device} as hidden, got one on {given.device}")


@dataclass(frozen=True)
class _Options:
    """What changes the loss of a row besides its cross-entropy."""

    smoothing: Tensor | float
    class_weights: Tensor | None
    z_loss: Tensor | float
    softcap: Tensor | float | None

    @property
    def plain(self) -> bool:
        zero = all(not isinstance(v, Tensor) and v == 0 for v in (self.smoothing, self.z_loss))
        return zero and self.class_weights is None and self.softcap is None

    def weights_of(self, targets: Tensor) -> Tensor:
        assert self.class_weights is not None
        return self.class_weights.index_select(0, targets.clamp(0, len(self.class_weights) - 1))

    def combine(self, lse: Tensor, own: Tensor, mean: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the loss and of the z-loss: from log-sums, the targets' logits and the (weighted) mean logit."""
        entropy, penalty = lse - own, by_row(self.z_loss, lse) * lse.square()
        if self.class_weights is not None:
            entropy = self.weights_of(targets) * entropy
        if is_zero(self.smoothing):  # else a class whose bias is -inf would have a share: 0 times its logit
            return entropy, penalty
        share = lse
        if self.class_weights is not None:
            c = self.class_weights.to(lse.dtype)[:, None]
            share = weighted_sum(torch.ones_like(c[:, 0]), c) / len(c) * lse
        smoothing = by_row(self.smoothing, lse)
        return (1 - smoothing) * entropy + smoothing * (share - mean), penalty

    def of_scores(
        self,
        entropy: Tensor,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        bias: Tensor | None,
        counted: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """From each row's cross-entropy: logits are linear, so that their mean is a product with the mean weight."""
        full = torch.promote_types(hidden.dtype, torch.float32)
        place = targets.clamp(0, len(weight) - 1)
        h = hidden.to(full)
        own = products(h, weight.index_select(0, place).to(full))
        if bias is not None:
            own = own + torch.where(counted, bias.index_select(0, place).to(own.dtype), 0)  # which may be -inf
        mean = own if is_zero(self.smoothing) else self._mean_logit(h, weight.to(full), bias)
        return self.combine(entropy + own, own, mean, targets)

    def _mean_logit(self, h: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        scale = weight.new_ones(len(weight)) if self.class_weights is None else self.class_weights.to(weight.dtype)
        scale = scale / len(weight)
        mean = products(h, weighted_sum(scale, weight))
        if bias is None:
            return mean
        every = torch.zeros(len(h), dtype=torch.int64, device=h.device)  # its gradient is a sum in one order
        return mean + weighted_sum(scale, bias.to(weight.dtype)[:, None]).index_select(0, every)


def _by_strips(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, options: _Options, backend: str | None
) -> tuple[Tensor, Tensor]:
    """The same where logits are bounded one by one: eager code on strips of rows."""
    device = hidden.device
    zero = torch.zeros(len(weight), dtype=weight.dtype, device=device)
    given = [
        torch.as_tensor(v, dtype=None if isinstance(v, Tensor) else torch.float64, device=device)
        for v in (options.softcap, options.smoothing, options.z_loss)
        if v is not None
    ]
    scale = torch.ones_like(zero) if options.class_weights is None else options.class_weights
    every = torch.arange(len(weight), device=device)

    def term(part: int, s: Tensor, pairs: Any, cap: Tensor, e: Tensor, z: Tensor, b: Tensor, c: Tensor) -> Tensor:
        logits = s + b.to(s.dtype)
        logits = cap.to(s.dtype) * (logits / cap.to(s.dtype)).tanh()
        lse, own = logits.logsumexp(1), torch.where(pairs.positive, logits, 0).sum(1)
        mean, target = (logits * (c.to(s.dtype) / len(c))).sum(1), pairs.positive.long().argmax(1)
        weights = None if options.class_weights is None else c.to(s.dtype)
        return _Options(e.to(s.dtype), weights, z.to(s.dtype), None).combine(lse, own, mean, target)[part]

    with unsharded():  # a row against all classes, which every process has
        rows, penalty = (
            pair_loss_by_strips(
                hidden,
                weight,
                term=functools.partial(term, part),
                parameters=(*given, zero if bias is None else bias, scale),
                score="dot",
                labels=targets,
                ref_labels=every,
                reduction="none",
                backend=backend,
            ).double()
            for part in range(2)
        )
    return rows, penalty
