"""lightly: NT-Xent (with and without its memory bank) and decoupled contrastive losses, in one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import fastssl.functional as F
from fastssl.compat import NotFused, require_matrices


def targets() -> list[tuple[type, str, Callable[..., Any]]]:
    from lightly.loss.dcl_loss import DCLLoss, DCLWLoss
    from lightly.loss.ntx_ent_loss import NTXentLoss

    return [(NTXentLoss, "forward", _nt_xent), (DCLLoss, "forward", _dcl), (DCLWLoss, "forward", _dcl)]


def _check(loss: Any, out0: Tensor, out1: Tensor) -> None:
    require_matrices(out0, out1)
    if out0.shape != out1.shape or out0.dtype != out1.dtype or len(out0) < 2:
        raise NotFused("shapes or dtypes that differ, or one row")
    if loss.temperature <= 0:
        raise NotFused("a negative temperature")
    if loss.gather_distributed:
        from lightly.utils import dist

        if dist.world_size() > 1:
            raise NotFused("several processes")


def _nt_xent(loss: Any, out0: Tensor, out1: Tensor) -> Tensor:
    _check(loss, out0, out1)
    if type(loss.cross_entropy) is not torch.nn.CrossEntropyLoss or loss.cross_entropy.reduction != "mean":
        raise NotFused("another cross-entropy")
    size = loss.memory_bank.size
    if (size if isinstance(size, int) else size[0]) == 0:
        return F.nt_xent(out0, out1, temperature=loss.temperature)
    key = torch.nn.functional.normalize(out1, dim=1)
    key, negatives = loss.memory_bank.forward(key, update=out0.requires_grad)
    query = torch.nn.functional.normalize(out0, dim=1)
    return _bank_loss(query, key, negatives.to(out0.device).T, loss.temperature)  # the bank holds columns


def _bank_loss(query: Tensor, key: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Each query against its own key and the bank; the batch's other keys take no part."""
    from fastssl.functional._pairs import Pairs
    from fastssl.functional.metric import NEGATIVES
    from fastssl.ops.rows import Metric, Relation, RowLoss

    ids = torch.zeros(len(query), dtype=torch.int64)
    bank = torch.ones(len(negatives), dtype=torch.int64)
    rows = Pairs(query, negatives.to(query.dtype), Relation(ids, bank)).rows(
        RowLoss.lse, 1 / temperature, 0, 0, 0, NEGATIVES, 0, metric=Metric.dot, normalize=False
    )
    positive = (query * key).sum(1).to(rows.out[0].dtype) / temperature
    return torch.nn.functional.softplus(rows.out[0] - positive).mean().to(query.dtype)


def _dcl(loss: Any, out0: Tensor, out1: Tensor) -> Tensor:
    _check(loss, out0, out1)
    sigma = None
    if loss.weight_fn is not None:
        from functools import partial

        from lightly.loss.dcl_loss import negative_mises_fisher_weights

        known = loss.weight_fn.func if isinstance(loss.weight_fn, partial) else loss.weight_fn
        keywords = loss.weight_fn.keywords if isinstance(loss.weight_fn, partial) else {}
        if known is not negative_mises_fisher_weights or set(keywords) - {"sigma"}:
            raise NotFused("weights of the user's own")
        sigma = float(keywords.get("sigma", 0.5))
    return F.dcl(out0, out1, temperature=loss.temperature, sigma=sigma)
