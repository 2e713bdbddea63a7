"""What the losses on labelled rows share: which rows meet which, and the call of a row loss."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastssl.functional import _check as check
from fastssl.ops import Backend, dispatch, rows
from fastssl.ops.operator import result_dtype
from fastssl.ops.reference import rows as reference
from fastssl.ops.rows import PARAMS, Metric, Relation, RowLoss

ROW_LOSS = Backend(reference.row_loss, rows.row_loss)

IndicesTuple = tuple[Tensor, ...]


@dataclass(frozen=True)
class Rows:
    """What a row loss gives: its outputs by column, and how many positives and negatives every row has."""

    out: tuple[Tensor, ...]
    positives: Tensor
    negatives: Tensor

    @property
    def complete(self) -> Tensor:
        """Rows with a positive and a negative."""
        return (self.positives > 0) & (self.negatives > 0)


@dataclass(frozen=True)
class Pairs:
    """Rows of x against rows of y (None: against themselves)."""

    x: Tensor
    y: Tensor | None
    relation: Relation
    backend: str | None = None

    def rows(
        self,
        loss: RowLoss,
        *values: float | Tensor,
        metric: Metric,
        normalize: bool,
        row_value: Tensor | None = None,
        upper: bool = False,
    ) -> Rows:
        out = dispatch(
            ROW_LOSS,
            self.backend,
            self.x.device,
            loss,
            self.x,
            self.y,
            self.relation,
            [*values, *(0.0,) * (PARAMS - len(values))],
            metric,
            normalize,
            row_value,
            upper,
        )
        columns = out.unbind(1)
        return Rows(columns[:-2], columns[-2].detach(), columns[-1].detach())

    def result(self, value: Tensor) -> Tensor:
        """A loss in the dtype that it is returned in."""
        return value.to(result_dtype(self.x))

    @property
    def within(self) -> bool:
        """Whether the rows meet themselves, every pair of them."""
        return self.y is None and self.relation.positive_list is None

    def between(self, x: Tensor, x_ids: Tensor) -> Pairs:
        """The same partners for other rows."""
        y = self.x if self.y is None else self.y
        y_ids = self.relation.x_ids if self.relation.y_ids is None else self.relation.y_ids
        return replace(self, x=x, y=y, relation=Relation(x_ids, y_ids))


_self_offset: contextvars.ContextVar[int] = contextvars.ContextVar("fastssl_self_offset", default=-1)


@contextlib.contextmanager
def rows_in_reference(offset: int) -> Iterator[None]:
    """Within it, row i of the embeddings is row (offset + i) % M of ``ref_emb`` and no partner of its own."""
    token = _self_offset.set(offset)
    try:
        yield
    finally:
        _self_offset.reset(token)


def labelled(
    embeddings: Tensor,
    labels: Tensor | None,
    indices_tuple: IndicesTuple | None = None,
    ref_emb: Tensor | None = None,
    ref_labels: Tensor | None = None,
    backend: str | None = None,
) -> Pairs:
    """Checks the arguments that all losses on labels take, and says which pairs they make."""
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
    if ref_emb is None:
        return Pairs(embeddings, None, Relation(ids, self_offset=0), backend)
    ref_ids = check.ids("ref_labels", ref_labels, ref_emb, "ref_emb")
    offset = -1 if torch.compiler.is_compiling() else _self_offset.get()
    return Pairs(embeddings, ref_emb, Relation(ids, ref_ids, self_offset=offset), backend)


def _listed(indices: object, n: int, m: int, device: torch.device) -> tuple[tuple[Tensor, Tensor], ...]:
    if not isinstance(indices, (tuple, list)) or len(indices) not in (3, 4):
        raise TypeError(
            "indices_tuple: expected 3 tensors (anchors, positives, negatives) or 4 (anchors, positives, anchors, "
            f"negatives), got {type(indices).__name__}{f' of {len(indices)}' if hasattr(indices, '__len__') else ''}"
        )
    lists = []
    for t in indices:
        check.tensor("indices_tuple", t)
        if t.dtype not in check.INTEGERS or t.dim() != 1:
            raise TypeError(f"indices_tuple: expected vectors of integers, got {t.dtype} of shape {tuple(t.shape)}")
        lists.append(t.to(device=device, dtype=torch.int64).contiguous())
    a, p, b, q = (lists[0], lists[1], lists[0], lists[2]) if len(lists) == 3 else lists
    if len(a) != len(p) or len(b) != len(q):
        raise ValueError(f"indices_tuple: expected anchors and partners of one length, got {[len(t) for t in lists]}")
    if not torch.compiler.is_compiling():
        for rows_, limit, name in ((a, n, "anchors"), (b, n, "anchors"), (p, m, "positives"), (q, m, "negatives")):
            if len(rows_) and not (int(rows_.min()) >= 0 and int(rows_.max()) < limit):
                raise ValueError(f"indices_tuple: expected {name} in [0, {limit}), got {int(rows_.max())}")
    return (a, p), (b, q)


def mean(total: Tensor, count: Tensor | float) -> Tensor:
    """A mean; 0 over nothing."""
    if isinstance(count, Tensor):
        return total / count.clamp(min=1)
    return total / max(count, 1)


def reduce_rows(values: Tensor, counted: Tensor | None, reduction: str) -> Tensor:
    """Rows that do not count contribute 0, and do not count in the mean."""
    if counted is not None:
        values = torch.where(counted, values, torch.zeros_like(values))
    if reduction == "none":
        return values
    if reduction == "sum":
        return values.sum()
    return mean(values.sum(), float(values.shape[0]) if counted is None else counted.sum().to(values.dtype))
