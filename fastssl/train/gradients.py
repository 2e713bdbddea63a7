"""The gradient of a batch: at once, accumulated over micro-batches, or through cached embeddings (GradCache)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastssl.data.batch import map_tensors
from fastssl.distributed.exchange import gather_numbers
from fastssl.distributed.shards import resolve
from fastssl.methods import Method, name_of
from fastssl.train.cached import cached_step, check_loss
from fastssl.train.options import Pretraining
from fastssl.train.shards import is_sharded


def check_batch(method: Method, options: Pretraining, rows: int) -> None:
    """Checks that a method can train on batches of ``rows`` rows per process, split as the options ask.

    Raises:
        ValueError: it cannot.
    """
    if rows < method.min_rows:
        raise ValueError(
            f"batch_size: {name_of(method)} compares the items of a batch, and needs at least {method.min_rows} of "
            f"them in each process, got {rows}"
        )
    whole = type(method).represent is Method.represent
    if options.chunk is not None and whole:
        raise ValueError(f"chunk: {name_of(method)} does not embed rows independently: it needs whole batches")
    most = rows // method.min_rows if method.separable else rows
    if options.accumulate > most:
        raise ValueError(f"accumulate: expected at most {most} for {rows} rows per process, got {options.accumulate}")
    if options.accumulate > 1 and whole and not method.separable:
        raise ValueError(
            f"accumulate: {name_of(method)} compares the rows of a batch, or stores them: it needs whole batches"
        )
    if options.accumulate > 1 and not method.separable and options.precision.startswith("16"):
        raise ValueError(f"accumulate: expected a precision without loss scaling, got {options.precision!r}")


class Gradients:
    """Adds the gradient of a batch to that of the parameters.

    With ``options.accumulate`` a batch is split into that many micro-batches, which the encoder sees one at a time.
    The loss of a ``separable`` method is a mean of terms that are independent across rows, or a sum of such means: each
    micro-batch is weighted by its number of ``terms``, over all micro-batches and processes. Losses that compare rows
    see all embeddings (:func:`cached_step`, as with ``options.chunk``).

    Args:
        fabric: the Lightning Fabric instance.
        model: the method as wrapped by ``fabric``.
        method: the method that is trained.
        options: ``accumulate`` and ``chunk``.
    """

    def __init__(self, fabric: Any, model: Any, method: Method, options: Pretraining) -> None:
        self.fabric, self.model, self.method, self.options = fabric, model, method, options
        self.cached = options.chunk is not None or (options.accumulate > 1 and not method.separable)
        if self.cached:
            model.mark_forward_method("represent")
        self.several_means = type(method).means is not Method.means
        if self.several_means:
            model.mark_forward_method("means")

    def __call__(self, batch: Any) -> Tensor:
        """The loss of this process's rows."""
        if self.cached:
            chunk = self.options.chunk
            return self._backward_cached(
                batch, -(-len(batch.ids) // self.options.accumulate) if chunk is None else chunk
            )
        parts = split_batch(batch, self.options.accumulate)
        if len(parts) == 1 and (self.fabric.world_size == 1 or not self.method.separable):
            loss: Tensor = self.model(batch)
            check_loss(loss, f"forward of {name_of(self.method)}")
            self.fabric.backward(loss)
            return loss.detach()
        terms = [_tuple(self.method.terms(part)) for part in parts]
        own = [sum(column) for column in zip(*terms)]
        everywhere = self._totals(own)
        value = torch.zeros((), device=batch.ids.device)
        for part, counts, last in zip(parts, terms, [False] * (len(parts) - 1) + [True]):
            with self.fabric.no_backward_sync(self.model, enabled=not last):
                means = self.model.means(part) if self.several_means else (self.model(part),)
                for mean in means:
                    check_loss(mean, f"forward of {name_of(self.method)}", graph=False)
                # Processes average their gradients: a term counts the same wherever it is.
                weights = [self.fabric.world_size * n / max(total, 1) for n, total in zip(counts, everywhere)]
                self.fabric.backward(_weighted(means, weights))
            value += _weighted([mean.detach() for mean in means], [n / max(all_, 1) for n, all_ in zip(counts, own)])
        return value

    def _totals(self, terms: list[int]) -> list[int]:
        """The numbers of terms over all processes."""
        if self.fabric.world_size == 1:
            return terms
        return [sum(column) for column in zip(*gather_numbers(resolve("world"), terms, self.fabric.device))]

    def _backward_cached(self, batch: Any, chunk: int | str) -> Tensor:
        several = self.fabric.world_size > 1 and not is_sharded(self.method.parameters())  # FSDP has its own
        method, rows = self.method, _Rows(self.method, self.model)
        with self.fabric.no_backward_sync(self.model) if several else contextlib.nullcontext(), self.fabric.autocast():
            loss = cached_step(
                rows,
                method.inputs(batch),
                lambda *z: method.batch_loss(batch, *z),
                chunk=chunk,
                backward=self.fabric.backward,
            )
        if several:  # gradients are averaged once, at the end
            for p in method.parameters():
                if p.grad is not None:
                    torch.distributed.all_reduce(p.grad)
                    p.grad /= self.fabric.world_size
        return loss


def _tuple(terms: int | tuple[int, ...]) -> tuple[int, ...]:
    return terms if isinstance(terms, tuple) else (terms,)


def _weighted(means: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    parts = [mean if weight == 1 else mean * weight for mean, weight in zip(means, weights)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def split_batch(batch: Any, parts: int) -> Sequence[Any]:
    """Splits a batch into ``parts`` contiguous micro-batches of nearly equal size."""
    if parts == 1:
        return [batch]
    rows = len(batch.ids)
    ends = [rows * k // parts for k in range(parts + 1)]
    return [map_tensors(lambda t, a=a, b=b: t[a:b], batch) for a, b in zip(ends, ends[1:]) if b > a]  # type: ignore[misc]


class _Rows(nn.Module):
    """``represent`` through Fabric's wrapper (precision, processes), with the method's buffers.

    Rows have the dtypes that the method gives them within autocast: Fabric casts them to float32, in which losses
    multiply more slowly.
    """

    def __init__(self, method: Method, model: Any) -> None:
        super().__init__()
        self.method, self.model = method, model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        dtypes: list[torch.dtype] = []
        own, before = self.method.represent, vars(self.method).get("represent")  # that of FSDP, if any

        def noted(*rows: Tensor) -> tuple[Tensor, ...]:
            given = own(*rows)
            dtypes.extend(t.dtype for t in given)
            return given

        self.method.represent = noted  # type: ignore[method-assign]
        try:
            given = self.model.represent(*inputs)
        finally:
            del self.method.represent
            if before is not None:
                self.method.represent = before  # type: ignore[method-assign]
        return tuple(t.to(dtype) for t, dtype in zip(given, dtypes))
