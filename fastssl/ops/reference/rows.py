"""Row losses as eager PyTorch on the whole matrix of scores: what csrc/row/*.h computes strip by strip."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastssl._table import Metric, RowLoss
from fastssl.ops.operator import is_transformed, is_watched
from fastssl.ops.reference.common import in_full_precision, softplus, unit
from fastssl.ops.types import Relation

Values = list[Any]  # numbers, and tensors of one element where they can have a gradient


def scores(x: Tensor, y: Tensor, metric: Metric, normalize: float) -> Tensor:
    """Exact differences in float64; in fp32 what ``torch.cdist`` does."""
    x, y = unit(x, normalize), unit(y, normalize)
    if metric == Metric.dot:
        return x @ y.T
    p = {Metric.manhattan: 1.0, Metric.chebyshev: float("inf")}.get(metric, 2.0)
    distance = _distance(x, y, p, exact=x.dtype == torch.float64)
    if metric == Metric.chebyshev:  # where torch's maximum of differences overlooks NaN
        unknown = torch.cdist(x.detach(), y.detach(), p=1.0).isnan()
        distance = distance.masked_fill(unknown, float("nan"))
    return distance**2 if metric == Metric.sqeuclidean else distance


def _distance(x: Tensor, y: Tensor, p: float, *, exact: bool) -> Tensor:
    """``torch.cdist``; by differences within torch.func, where its gradient is wrong if several upstream gradients of
    the same rows are mapped at once (``jacrev``), and has no derivatives."""
    if is_transformed((x, y)):
        return torch.linalg.vector_norm(x[:, None] - y[None], p, dim=2)
    mode = "donot_use_mm_for_euclid_dist" if exact else "use_mm_for_euclid_dist_if_necessary"
    return torch.cdist(x, y, p=p, compute_mode=mode)


@in_full_precision
def pairwise(x: Tensor, y: Tensor | None, metric: Metric, normalize: float) -> Tensor:
    y = x if y is None else y
    matrix = scores(x, y, metric, normalize)
    if metric not in (Metric.euclidean, Metric.sqeuclidean) or x.dtype == torch.float64:
        return matrix
    finite = torch.isfinite(matrix)
    traced = torch.compiler.is_compiling() or is_transformed((x, y)) or is_watched((x, y))
    if not traced and bool(finite.all()):
        return matrix
    # Squared lengths overflow: in losses that shows, a distance is that of the differences.
    exact = _distance(unit(x, normalize), unit(y, normalize), 2.0, exact=True)
    return torch.where(finite, matrix, exact**2 if metric == Metric.sqeuclidean else exact)


def nearest(
    x: Tensor, y: Tensor | None, k: int, metric: Metric, normalize: float, largest: bool, exclude_self: bool
) -> tuple[Tensor, Tensor]:
    s = pairwise(x, y, metric, normalize)
    behind = s.isnan().long()  # NaN, and behind it what is left out
    if exclude_self:
        behind += 2 * torch.eye(len(s), dtype=torch.long, device=s.device)
    order = torch.argsort(s, dim=1, descending=largest, stable=True)
    order = order.gather(1, torch.argsort(behind.gather(1, order), dim=1, stable=True))[:, :k]
    return s.gather(1, order), order


def masks(n: int, m: int, relation: Relation, device: torch.device) -> tuple[Tensor, Tensor]:
    """The dense positives and negatives."""
    if relation.positive_list is not None:
        result = []
        for pairs in (relation.positive_list, relation.negative_list):
            mask = torch.zeros(n, m, dtype=torch.bool, device=device)
            if pairs is not None:
                mask[pairs[0], pairs[1]] = True
            result.append(mask)
        return result[0], result[1]
    ids = relation.x_ids
    assert ids is not None
    positive = ids[:, None] == (ids if relation.y_ids is None else relation.y_ids)[None, :]
    negative = ~positive
    if relation.self_offset >= 0:
        itself = torch.zeros_like(positive)
        rows = torch.arange(n, device=device)
        itself[rows, (relation.self_offset + rows) % max(m, 1)] = True
        positive, negative = positive & ~itself, negative & ~itself
    return positive, negative


@in_full_precision
def row_loss(
    loss: RowLoss,
    x: Tensor,
    y: Tensor | None,
    relation: Relation,
    values: Values,
    metric: Metric,
    normalize: float,
    row_value: Tensor | None = None,
    upper: bool = False,
) -> Tensor:
    s = x if metric == Metric.given else scores(x, x if y is None else y, metric, normalize)
    positive, negative = masks(s.shape[0], s.shape[1], relation, s.device)
    counts = torch.stack([positive.sum(1), negative.sum(1)], 1).to(s.dtype)
    if upper:
        later = torch.ones_like(positive).triu(1)
        positive, negative = positive & later, negative & later
    out = outputs(loss, s, positive, negative, values, row_value)
    if s.requires_grad and not out.requires_grad:
        out = out + 0 * s.sum()  # nothing takes part: the gradient is 0
    return torch.cat([out, counts], 1)


def outputs(
    loss: RowLoss, s: Tensor, positive: Tensor, negative: Tensor, values: Values, row_value: Tensor | None
) -> Tensor:
    """[N, outputs] of rows of scores, by dense masks."""
    function = _FUNCTIONS[loss]
    if loss in (RowLoss.hinge, RowLoss.lifted):
        return function(s, positive, negative, values, row_value)
    return function(s, positive, negative, values)


def _masked_lse(values: Tensor, mask: Tensor) -> Tensor:
    if values.shape[1] == 0:
        return values.new_full((len(values),), float("-inf"))
    filled = values.masked_fill(~mask, float("-inf"))
    empty = ~mask.any(1)
    # logsumexp over nothing has no gradient: NaN would come back.
    safe = filled.masked_fill(empty[:, None], 0).logsumexp(1)
    return safe.masked_fill(empty, float("-inf"))


def _lse(s: Tensor, positive: Tensor, negative: Tensor, p: Values) -> Tensor:
    result = []
    for k in range(2):
        scale, shift, part = p[k], p[2 + k], p[4 + k]
        if part == 0:
            result.append(s.new_zeros(len(s)))
            continue
        value = s * scale + shift
        if p[6]:
            pace = (1 + shift - s if part == 1 else s + shift).clamp(min=0).detach()
            value = -scale * pace * (s - 1 + shift) if part == 1 else scale * pace * (s - shift)
        result.append(_masked_lse(value, {1: positive, 2: negative, 3: positive | negative}[part]))
    return torch.stack(result, 1)


def _hinge(s: Tensor, positive: Tensor, negative: Tensor, p: Values, row_value: Tensor | None) -> Tensor:
    sign, a, b, power = p[:4]
    v = 0 if row_value is None else row_value[:, None]
    result = []
    for u, mask in ((sign * (s - a - v), positive), (sign * (b + v - s), negative)):
        term = u.clamp(min=0) ** power
        result += [torch.where(mask, term, 0).sum(1), ((u > 0) & mask).sum(1).to(s.dtype)]
    return torch.stack(result, 1)


def _cosine_less(cosine: Tensor, margin: float | Tensor) -> Tensor:
    """cos(arccos(cosine) - margin); a cosine that rounding has left beyond 1 counts as 1."""
    square = 1 - cosine.square()
    inside = square > 0
    sine = torch.where(inside, torch.where(inside, square, 1.0).sqrt(), 0.0)
    m = torch.as_tensor(margin, dtype=cosine.dtype, device=cosine.device)
    return cosine * m.cos() + sine * m.sin()


def _softplus(s: Tensor, positive: Tensor, negative: Tensor, p: Values) -> Tensor:
    scale, margin = p[:2]
    lse = _masked_lse(scale * s, negative)
    # (A margin that is a tensor has a gradient at 0 too.)
    plain = not isinstance(margin, Tensor) and margin == 0
    phi = s if plain else _cosine_less(s.masked_fill(~positive, 0.0), margin)
    z = lse.clamp(min=-1e30)[:, None] - scale * phi
    return torch.stack([torch.where(positive, softplus(z), 0).sum(1), lse], 1)


def _per_anchor(
    s: Tensor, positive: Tensor, negative: Tensor, term: Callable[[Tensor, Tensor], list[Tensor]]
) -> Tensor:
    rows = [torch.stack(term(s[i][positive[i]], s[i][negative[i]])) for i in range(len(s))]
    return torch.stack(rows) if rows else s.new_zeros((0, 2))


def _triplet(s: Tensor, positive: Tensor, negative: Tensor, p: Values) -> Tensor:
    sign, margin, smooth = p[:3]

    def term(a: Tensor, b: Tensor) -> list[Tensor]:
        z = sign * (a[:, None] - b[None, :]) + margin
        return [(softplus(z) if smooth else z.clamp(min=0)).sum(), (z > 0).sum().to(z.dtype)]

    return _per_anchor(s, positive, negative, term)


def _semihard(s: Tensor, positive: Tensor, negative: Tensor, p: Values) -> Tensor:
    sign, margin = p[:2]

    def term(a: Tensor, b: Tensor) -> list[Tensor]:
        if len(a) == 0 or len(b) == 0:
            return [s.new_zeros(()), s.new_zeros(())]
        a, b = sign * a, sign * b
        farther = b[None, :] > a[:, None]
        nearest_farther = b[None, :].masked_fill(~farther, float("inf")).amin(1)
        farthest = b.max()  # NaN where a negative is
        z = a - torch.where(farther.any(1) & ~farthest.isnan(), nearest_farther, farthest) + margin
        return [z.clamp(min=0).sum(), (z > 0).sum().to(z.dtype)]

    return _per_anchor(s, positive, negative, term)


def _extreme(s: Tensor, positive: Tensor, negative: Tensor, p: Values) -> Tensor:
    d = p[0] * s
    if s.shape[1] == 0:
        infinite, none = s.new_full((len(s),), float("inf")), s.new_full((len(s),), -1.0)
        return torch.stack([-infinite, infinite, none, none], 1)
    farthest, nearest_ = d.masked_fill(~positive, float("-inf")).max(1), d.masked_fill(~negative, float("inf")).min(1)
    columns = [
        torch.where(mask.any(1), extreme.indices, -1).to(s.dtype)
        for mask, extreme in ((positive, farthest), (negative, nearest_))
    ]
    return torch.stack([farthest.values, nearest_.values, *columns], 1)


def _lifted(s: Tensor, positive: Tensor, negative: Tensor, p: Values, columns: Tensor | None) -> Tensor:
    sign, margin, shift, squared = p[:4]
    lse = _masked_lse(margin - sign * s, negative)
    own, other = lse, lse
    if columns is not None:  # constants here; their part of the gradient is that of the mirrored pair, at its own row
        own, other = 2 * lse - lse.detach(), columns.to(lse.dtype)
        own = torch.where(torch.isinf(lse), lse, own)
    none, none_other = torch.isinf(own), torch.isinf(other)
    J = sign * s + shift + torch.logaddexp(own.masked_fill(none, -1e30)[:, None], other.masked_fill(none_other, -1e30))
    counted = positive & ~(none[:, None] & none_other[None, :])
    term = J.clamp(min=0) ** 2 if squared else J
    return torch.stack([lse, torch.where(counted, term, 0).sum(1), ((J > 0) & counted).sum(1).to(s.dtype)], 1)


def _fast_ap(s: Tensor, positive: Tensor, negative: Tensor, p: Values) -> Tensor:
    bins, largest = int(p[0]), float(p[1])
    edges = torch.linspace(0, largest, bins + 1, dtype=s.dtype, device=s.device)
    histograms = []
    for mask in (positive, negative):
        pulses = [(1 - (s - edge).abs() * (bins / largest)).clamp(min=0) for edge in edges]
        histograms.append(torch.stack([torch.where(mask, pulse, 0).sum(1) for pulse in pulses], 1))
    h, other = histograms
    H, total = h.cumsum(1), (h + other).cumsum(1)
    counted = ~(h * H <= 0) & ~(total <= 0)  # NaN shows
    return torch.where(counted, h * H / total.masked_fill(~counted, 1), 0).sum(1, keepdim=True)


def _ranked_list(s: Tensor, positive: Tensor, negative: Tensor, p: Values) -> Tensor:
    alpha, margin, positive_temperature, negative_temperature, constant = p[:5]
    result = []
    for u, temperature, mask in (
        (s - (alpha - margin), positive_temperature, positive),
        (alpha - s, negative_temperature, negative),
    ):
        counted = mask & ~(u <= 0) & ~(s <= 0)  # NaN counts
        u = u.masked_fill(~counted, 0)
        w = torch.where(counted, torch.exp(temperature * u), 0)
        result.append((w * u).sum(1) / (w.sum(1) + constant))
    return torch.stack(result, 1)


_FUNCTIONS: dict[RowLoss, Callable[..., Tensor]] = {
    RowLoss.lse: _lse,
    RowLoss.hinge: _hinge,
    RowLoss.softplus: _softplus,
    RowLoss.triplet: _triplet,
    RowLoss.extreme: _extreme,
    RowLoss.semihard: _semihard,
    RowLoss.lifted: _lifted,
    RowLoss.fast_ap: _fast_ap,
    RowLoss.ranked_list: _ranked_list,
}
