"""What the losses on labelled rows share: which rows meet which, and the call of a row loss."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fastssl._table import PARAMETERS, Metric, RowLoss
from fastssl.distributed.collectives import share_of
from fastssl.distributed.collectives import total as total_of
from fastssl.distributed.exchange import layout
from fastssl.distributed.pair_loss import pair_loss as shared_pair_loss
from fastssl.distributed.rows import PAIRWISE, ROW_LOSS, Columns, columns_of, row_loss, travelling
from fastssl.distributed.shards import Shards, current
from fastssl.functional import _check as check
from fastssl.functional import _slopes as slopes
from fastssl.functional._sums import sum_of
from fastssl.ops import dispatch, get_memory_budget
from fastssl.ops.backend import resolve
from fastssl.ops.operator import result_dtype
from fastssl.ops.pair_loss import PairLoss, pair_loss
from fastssl.ops.reference.common import softplus, unit
from fastssl.ops.scoped import Scoped
from fastssl.ops.statistics import NEGATIVES, POSITIVES, LogSumExp, LogSumExps, SoftplusPerPositive, Statistic
from fastssl.ops.types import Relation, least_length

IndicesTuple = tuple[Tensor, ...]
SLOPE_BYTES = 8 * 12  # of a pair while a slope is taken: about 12 matrices of a strip in float64


@dataclass(frozen=True)
class Rows:
    """A statistic of every row, by the names of its results, and how many positives and negatives every row has."""

    out: tuple[Tensor, ...]
    positives: Tensor
    negatives: Tensor
    names: tuple[str, ...]

    def __getattr__(self, name: str) -> Tensor:
        names = self.__dict__.get("names", ())
        if name not in names:
            raise AttributeError(f"expected one of {names}, got {name!r}")
        return self.out[names.index(name)]

    @property
    def complete(self) -> Tensor:
        """Rows with a positive and a negative."""
        return (self.positives > 0) & (self.negatives > 0)


@dataclass(frozen=True)
class Pairs:
    """Rows of x against rows of y (None: against themselves); ``columns``: those of y in all processes."""

    x: Tensor
    y: Tensor | None
    relation: Relation
    backend: str | None = None
    columns: Columns | None = None

    def reduce(
        self,
        statistic: Statistic,
        *,
        metric: Metric,
        normalize: float,
        row_value: Tensor | None = None,
        upper: bool = False,
    ) -> Rows:
        """A statistic of every row of scores.

        Args:
            statistic: which, with its parameters.
            metric: of the scores.
            normalize: divide rows by their length first, or by this number where it is larger.
            row_value: one value per row (:class:`LiftedPairs`: per column).
            upper: pairs (i, j) with i < j alone.
        """
        if normalize and self.x.shape[1] == 1:
            return self._of_signs(normalize).reduce(
                statistic, metric=metric, normalize=False, row_value=row_value, upper=upper
            )
        loss, values, normalize = statistic.kernel, statistic.values(), least_length(normalize, self.x.dtype)
        padded: list[float | Tensor] = [*values, *(0.0,) * (PARAMETERS - len(values))]
        given, learned = padded, self._without_kernel(loss, padded)
        if learned:
            given = [v.detach() if k in learned and isinstance(v, Tensor) else v for k, v in enumerate(padded)]

        def kernels(values: list[float | Tensor]) -> Tensor:
            if self.columns is None:
                rest = (self.x, self.y, self.relation, values, metric, normalize, row_value, upper)
                out: Tensor = dispatch(ROW_LOSS, self.backend, self.x.device, loss, *rest)
                return out
            shared = (self.x, self.columns, self.relation, values, metric, normalize, row_value, self.backend)
            return row_loss(loss, *shared)

        *columns, positives, negatives = kernels(given).unbind(1)
        if learned:
            sweep = functools.partial(self._strips, metric, normalize)
            columns = slopes.attach(columns, loss, padded, learned, self.relation, upper, row_value, sweep, kernels)
        return Rows(tuple(columns), positives.detach(), negatives.detach(), statistic.names)

    def _of_signs(self, normalize: float) -> Pairs:
        """Normalised rows of one feature: -1 and 1, which are equal or not; x times 1 / |x| is either to rounding, and
        losses jump where a distance becomes 0."""

        def signs(rows: Tensor) -> Tensor:
            return unit(rows.to(result_dtype(rows)), least_length(normalize, rows.dtype))

        def optional(rows: Tensor | None) -> Tensor | None:
            return None if rows is None else signs(rows)

        columns = self.columns
        if columns is not None:
            columns = replace(columns, own=signs(columns.own), gathered=optional(columns.gathered))
        return replace(self, x=signs(self.x), y=optional(self.y), columns=columns)

    def _without_kernel(self, loss: RowLoss, values: list[float | Tensor]) -> list[int]:
        """Parameters whose gradient the backend does not have."""
        if not any(isinstance(v, Tensor) for v in values):
            return []
        places = slopes.learned(loss, values)
        return places if places and resolve(self.x.device, self.backend, self.x.dtype) != "reference" else []

    def _strips(self, metric: Metric, normalize: float, function: Callable[[Tensor, slice], Tensor]) -> Tensor:
        """What a function makes of every strip of the scores, one below the other."""
        x, shared = self.x.detach(), self.columns
        if shared is not None and shared.gathered is None:
            return travelling(function, x, shared, metric, normalize, self.backend)
        y = x if self.y is None else self.y.detach()
        if shared is not None and shared.gathered is not None:
            y = shared.gathered.detach()
        height = max(32, get_memory_budget() // (SLOPE_BYTES * max(1, len(y))))
        parts = [slice(k, min(k + height, len(x))) for k in range(0, max(len(x), 1), height)]
        return torch.cat(
            [
                function(dispatch(PAIRWISE, self.backend, x.device, x[part], y, metric, normalize), part)
                for part in parts
            ]
        )

    def result(self, value: Tensor) -> Tensor:
        """A loss in the dtype that it is returned in."""
        return value.to(result_dtype(self.x))

    @property
    def within(self) -> bool:
        """Whether the rows meet themselves, every pair of them."""
        return self.y is None and self.relation.positive_list is None

    @property
    def partners(self) -> int:
        """How many rows every row meets."""
        return self.columns.total if self.columns is not None else (self.x if self.y is None else self.y).shape[0]

    def fetch(self, places: Tensor) -> Tensor:
        """Rows of the other side."""
        if self.columns is not None:
            return self.columns.fetch(places)
        return (self.x if self.y is None else self.y).index_select(0, places)  # gradients in one order

    def between(self, x: Tensor, x_ids: Tensor) -> Pairs:
        """The same partners for other rows."""
        y = self.x if self.y is None else self.y
        y_ids = self.relation.x_ids if self.relation.y_ids is None else self.relation.y_ids
        return replace(self, x=x, y=y, relation=Relation(x_ids, y_ids))


self_offset: Scoped[int] = Scoped("fastssl_self_offset", -1)


def rows_in_reference(offset: int) -> contextlib.AbstractContextManager[None]:
    """Within it, row i of the embeddings is row (offset + i) % M of ``ref_emb`` and no partner of its own."""
    return self_offset.set(offset)


def shared(
    shards: Shards,
    x: Tensor,
    ids: Tensor,
    ref: Tensor | None,
    ref_ids: Tensor | None,
    offset: int,
    backend: str | None,
) -> Pairs:
    """This process's rows against those of all; ``offset``: where its rows are in its part of ``ref``, or -1."""
    y, y_ids = (x, ids) if ref is None or ref_ids is None else (ref, ref_ids)
    if ref is not None and offset > 0:  # own rows first: they do not wrap around
        y, y_ids = y.roll(-offset, 0), y_ids.roll(-offset)
    columns = columns_of(shards, y, layout(shards, "embeddings" if ref is None else "ref_emb", y))
    itself = columns.first if offset >= 0 and len(x) else -1
    return Pairs(x, y, Relation(ids, columns.every(y_ids), self_offset=itself), backend, columns)


def labelled(
    embeddings: Tensor,
    labels: Tensor | None,
    indices_tuple: IndicesTuple | None = None,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    backend: str | None = None,
    share: bool = True,
) -> Pairs:
    """Checks the arguments that all losses on labels take, and says which pairs they make.

    ``share``: with the rows of the other processes, where rows live in several; else of this process's rows alone.
    """
    check.matrix("embeddings", embeddings)
    if (ref_emb is None) != (ref_labels is None) and indices_tuple is None:
        missing = "ref_emb" if ref_emb is None else "ref_labels"
        raise TypeError(f"{missing}: ref_emb and ref_labels come together, got only the other")
    if ref_emb is embeddings and (ref_labels is None or ref_labels is labels):
        ref_emb = ref_labels = None
    if ref_emb is not None:
        check.matrices(embeddings=embeddings, ref_emb=ref_emb)
    columns = embeddings if ref_emb is None else ref_emb
    if indices_tuple is not None:
        positive, negative = _listed(indices_tuple, embeddings.shape[0], columns.shape[0], embeddings.device)
        relation = Relation(positive_list=positive, negative_list=negative)
        return Pairs(embeddings, ref_emb, relation, backend)
    ids = check.ids("labels", labels, embeddings, "embeddings")
    shards = current() if share else None
    if ref_emb is None:
        if shards is not None:
            return shared(shards, embeddings, ids, None, None, 0, backend)
        return Pairs(embeddings, None, Relation(ids, self_offset=0), backend)
    ref_ids = check.ids("ref_labels", ref_labels, ref_emb, "ref_emb")
    offset = self_offset.get()
    if shards is not None:
        return shared(shards, embeddings, ids, ref_emb, ref_ids, offset, backend)
    return Pairs(embeddings, ref_emb, Relation(ids, ref_ids, self_offset=offset if ids.shape[0] else -1), backend)


def _listed(indices: object, n: int, m: int, device: torch.device) -> tuple[tuple[Tensor, Tensor], ...]:
    if not isinstance(indices, (tuple, list)) or len(indices) not in (3, 4):
        raise TypeError(
            "indices_tuple: expected 3 tensors (anchors, positives, negatives) or 4 (anchors, positives, anchors, "
            f"negatives), got {type(indices).__name__}{f' of {len(indices)}' if hasattr(indices, '__len__') else ''}"
        )
    if current() is not None:
        check.no_list("indices_tuple", indices)
    lists = []
    for t in indices:
        check.tensor("indices_tuple", t)
        if t.dtype not in check.INTEGERS or t.dim() != 1:
            raise TypeError(f"indices_tuple: expected vectors of integers, got {t.dtype} of shape {tuple(t.shape)}")
        lists.append(t.to(device=device, dtype=torch.int64).contiguous())
    a, p, b, q = (lists[0], lists[1], lists[0], lists[2]) if len(lists) == 3 else lists
    if len(a) != len(p) or len(b) != len(q):
        raise ValueError(f"indices_tuple: expected anchors and partners of one length, got {[len(t) for t in lists]}")
    if not any(check.traced(t) for t in lists):
        for rows_, limit, name in ((a, n, "anchors"), (b, n, "anchors"), (p, m, "positives"), (q, m, "negatives")):
            if len(rows_) and not (int(rows_.min()) >= 0 and int(rows_.max()) < limit):
                raise ValueError(f"indices_tuple: expected {name} in [0, {limit}), got {int(rows_.max())}")
    return (a, p), (b, q)


def fused_pairs(
    loss: PairLoss,
    x: Tensor,
    more_x: Tensor | None = None,
    y: Tensor | None = None,
    more_y: Tensor | None = None,
    *,
    names: tuple[str, str] = ("embeddings", "embeddings"),
    bias: Tensor | float | None = None,
    replicated: bool = False,
    reduction: str,
    **options: Any,
) -> Tensor:
    """:func:`fastssl.ops.pair_loss.pair_loss`, with the rows of the other processes where rows live in several."""
    shards = current()
    if shards is None:
        if reduction != "active":
            return pair_loss(loss, x, more_x, y, more_y, bias=bias, reduction=reduction, **options)
        values = pair_loss(loss, x, more_x, y, more_y, bias=bias, reduction="none", **options)
        return reduce_rows(values, None, reduction)
    offset = 0.0 if bias is None else bias
    values = shared_pair_loss(
        loss, shards, x, more_x, y, more_y, names=names, bias=offset, replicated=replicated, **options
    )
    return reduce_rows(values, None, reduction).to(result_dtype(x))


def everywhere(value: Tensor, *, by_rows: bool = False) -> Tensor:
    """The sum over the processes that share the loss; ``by_rows``: what comes of it is for each process's own rows."""
    shards = current()
    return value if shards is None else total_of(shards, value, by_rows=by_rows)


def once(parameter: Tensor | float) -> Tensor | float:
    """A hyperparameter of what is summed over processes already: of its gradient, which every process computes whole,
    each has its share, whose sum is the gradient."""
    shards = current()
    return parameter if shards is None or not isinstance(parameter, Tensor) else share_of(shards, parameter)


def mean(total: Tensor, count: Tensor | float) -> Tensor:
    """A mean over all processes; 0 over nothing."""
    if current() is not None:
        total, count = everywhere(torch.stack([total, torch.as_tensor(count, dtype=total.dtype, device=total.device)]))
    if isinstance(count, Tensor):
        return total / count.clamp(min=1)
    return total / max(count, 1)


def reduce_rows(values: Tensor, counted: Tensor | None, reduction: str) -> Tensor:
    """Rows that do not count contribute 0, and do not count in the mean; with "active" those do that are above 0."""
    if reduction == "active":
        above = ~(values.detach() <= 0)  # and NaN, which is to show
        counted, reduction = above if counted is None else counted & above, "mean"
    if counted is not None:
        values = torch.where(counted, values, torch.zeros_like(values))
    if reduction == "none":
        return values
    if reduction == "sum":
        return everywhere(sum_of(values))
    return mean(sum_of(values), values.shape[0] if counted is None else counted.sum().to(values.dtype))


def log_share_of_positives(
    pairs: Pairs, scale: Tensor | float, metric: Metric, normalize: float
) -> tuple[Tensor, Tensor]:
    """log of the positives' share in a softmax over all partners, and which rows have one."""
    sums = LogSumExps(LogSumExp(scale, over=POSITIVES), LogSumExp(scale, over=NEGATIVES))
    rows = pairs.reduce(sums, metric=metric, normalize=normalize)
    counted = rows.positives > 0
    positive = torch.where(counted, rows.first, torch.zeros_like(rows.first))
    # log(1 + negatives / positives): nothing cancels where the share is nearly 1
    return -softplus(rows.second - positive), counted


def softplus_per_positive(
    pairs: Pairs, scale: Tensor | float, slack: Tensor | float, reduction: str, normalize: float
) -> Tensor:
    """One softplus(lse of the negatives - positive) for every positive pair."""
    rows = pairs.reduce(SoftplusPerPositive(scale, slack), metric=Metric.dot, normalize=normalize)
    check.reduction(reduction)
    if reduction in ("mean", "active"):  # a softplus is above 0, but where no negative is, and may be rounded to 0
        counted = rows.positives if reduction == "mean" else torch.where(rows.negatives > 0, rows.positives, 0)
        return pairs.result(mean(sum_of(rows.total), counted.sum()))
    return pairs.result(reduce_rows(rows.total, None, reduction))
