"""Losses of another library within :func:`fastssl.distributed.sharded`, whatever their formula: every process gathers
the rows of all, and computes the loss of all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from fastssl.distributed.alike import calling
from fastssl.distributed.collectives import replicate, share_of
from fastssl.distributed.exchange import gather, layout
from fastssl.distributed.shards import Scaled, Shards, current, unsharded
from fastssl.functional import _check as check


def of_all_rows(original: Callable[..., Any], loss: Any, *args: Any, **kwargs: Any) -> Any:
    """The original of the arguments of all processes, those of rank 0 first.

    Raises:
        ValueError: listed pairs, which are places in this process's rows; labels, or a mask, of another length than the
            rows; rows of other features or another dtype in another process.
    """
    shards = current()
    assert shards is not None
    given = inspect.signature(original).bind(loss, *args, **kwargs)
    check.no_list("indices_tuple", given.arguments.get("indices_tuple"))
    with calling(type(loss).__name__, lambda: _settings(loss)):
        for rows, others in (("embeddings", ("labels", "enqueue_mask")), ("ref_emb", ("ref_labels",))):
            if given.arguments.get(rows) is not None:
                _gather(shards, given.arguments, rows, others)
    with unsharded():
        value = original(*given.args, **given.kwargs)
    if shards.averaged:  # every process has all of a parameter's gradient
        return value
    return pytree.tree_map_only(Tensor, lambda t: share_of(shards, t), value)


def _settings(loss: Any) -> dict[str, Any]:
    """What pytorch-metric-learning lists as arguments of a loss, and of a loss within."""
    listed = [
        (each, name) for each in (loss, getattr(loss, "loss", None)) for name in getattr(each, "_record_these", ())
    ]
    return {f"{type(each).__name__}.{name}": getattr(each, name) for each, name in listed}


def _gather(shards: Shards, given: dict[str, Any], rows: str, others: tuple[str, ...]) -> None:
    matrix = given[rows]
    check.matrix(rows, matrix)
    found = {name: given[name] for name in others if given.get(name) is not None}
    for name, t in found.items():
        check.same_rows(name, t, rows, matrix)
    counts = layout(shards, rows, matrix)
    # The loss is divided among the processes that compute it alike; each has all of the gradient of its rows.
    given[rows] = Scaled.apply(replicate(shards, matrix, counts), shards.size)
    for name, t in found.items():
        given[name] = gather(shards, t.to(matrix.device), counts)


def as_it_gathers(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A wrapper that gathers the rows of all processes itself."""
    with unsharded():
        return original(*args, **kwargs)
