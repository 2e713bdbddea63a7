"""Batches that the encoder cannot hold: the loss sees all embeddings, the encoder a chunk at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastssl.ops.extension import get_memory_budget


def cached_step(
    model: Any,
    batch: Tensor | Sequence[Tensor],
    loss: Callable[..., Tensor],
    *,
    chunk: int | str = "auto",
) -> Tensor:
    r"""Forward and backward of a loss over a whole batch, with the activations of one chunk in memory (GradCache).

    With embeddings :math:`z = f(x)` and :math:`g = \partial L / \partial z`, the gradient is the sum over chunks of
    :math:`(\partial f(x_c) / \partial w)^T g_c`. Three passes: embeddings without a graph, chunk by chunk; the loss
    and its gradient on all of them; each chunk once more, with a graph, from the random state that it had, so that
    dropout and random augmentation inside the model are the same.

    Gradients are added to the parameters' ``grad``, as ``backward`` does, those of the loss's own parameters (a
    logit scale) included; the optimiser is yours to call. Exact to rounding for models that treat rows by themselves.
    **Batch norm** normalises within a chunk instead of the batch, and its running statistics count each chunk once:
    take as large a chunk as fits, or group norm. Works under autocast (the context of the call holds in all passes);
    of a ``DistributedDataParallel`` model gradients are averaged once, with the last chunk.

    Args:
        model: rows to embeddings [n, ...] (a tensor, or a tuple of tensors of n rows each); or one model for each
            tensor of ``batch``, as the towers of CLIP.
        batch: a tensor, or tensors that are cut alike where there is one model: ``model(*chunks)``.
        loss: all embeddings to a scalar; it is given what the models gave, in their order.
        chunk: rows at a time; "auto": as many as keep their activations in the memory budget
            (:func:`fastssl.set_memory_budget`), measured on two rows.

    Returns:
        The loss, detached.

    Raises:
        TypeError: no tensors.
        ValueError: tensors of different lengths for one model, towers that are not as many as tensors, a chunk < 1.

    Example:
        >>> import torch, fastssl.functional as F
        >>> from fastssl.train import cached_step
        >>> encoder = torch.nn.Linear(8, 4)
        >>> x = torch.randn(64, 8)
        >>> loss = cached_step(encoder, x, lambda z: F.nt_xent(*z.chunk(2)), chunk=16)
        >>> encoder.weight.grad.shape
        torch.Size([4, 8])

    Source: Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, 2021.
    """
    tensors = [batch] if isinstance(batch, Tensor) else list(batch)
    if not tensors or not all(isinstance(t, Tensor) for t in tensors):
        raise TypeError(f"batch: expected a tensor or a sequence of tensors, got {type(batch).__name__}")
    if isinstance(model, (list, tuple)):
        if len(model) != len(tensors):
            raise ValueError(f"model: expected one for each of {len(tensors)} tensors, got {len(model)}")
        parts = [(tower, [t]) for tower, t in zip(model, tensors)]
    else:
        if len({len(t) for t in tensors}) > 1:
            raise ValueError(f"batch: expected tensors of one length for one model, got {[len(t) for t in tensors]}")
        parts = [(model, tensors)]
    jobs = [_Tower(tower, inputs, _rows(chunk, tower, inputs)) for tower, inputs in parts]
    # The leaves of the loss's graph: embeddings without one of their own.
    leaves = [leaf for job in jobs for leaf in job.embed()]
    with torch.enable_grad():
        value = loss(*leaves)
        value.backward()
    for job in jobs:
        job.backward()
    return value.detach()


def _rows(chunk: int | str, model: Any, inputs: list[Tensor]) -> int:
    if chunk == "auto":
        return auto_chunk(model, inputs)
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"chunk: expected an integer >= 1 or 'auto', got {chunk!r}")
    return chunk


def auto_chunk(model: Any, inputs: list[Tensor]) -> int:
    """How many rows' activations fit the memory budget, by what the backward pass of two rows would keep."""
    kept: dict[int, int] = {}
    alive: list[Tensor] = []
    module = _module(model)
    own = {t.untyped_storage().data_ptr() for t in (*(module.parameters() if module is not None else ()), *inputs)}

    def count(x: Tensor) -> Tensor:
        alive.append(x)  # so that no address is counted for two
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    few = [t[:2] for t in inputs]
    if not len(few[0]):
        return 1
    state = _Random(few)
    buffers = _buffers(model)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, _same):
        model(*few)
    state.restore()
    _restore(buffers)
    per_row = max(1, sum(kept.values()) // len(few[0]))
    return max(1, min(len(inputs[0]), get_memory_budget() // per_row))


def _same(x: Tensor) -> Tensor:
    return x


def _module(model: Any) -> nn.Module | None:
    """The module behind a model: itself, or that of a bound method."""
    owner = getattr(model, "__self__", model)
    return owner if isinstance(owner, nn.Module) else None


def _buffers(model: Any) -> list[tuple[Tensor, Tensor]]:
    module = _module(model)
    return [] if module is None else [(b, b.clone()) for b in module.buffers()]


def _restore(buffers: list[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)


class _Random:
    """The state of torch's generators, of the CPU and of the devices that tensors are on."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.cpu = torch.get_rng_state()
        devices = {t.device for t in tensors if t.device.type == "cuda"}
        self.cuda = {d: torch.cuda.get_rng_state(d) for d in devices}

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        for device, state in self.cuda.items():
            torch.cuda.set_rng_state(state, device)


class _Tower:
    """One model and what it embeds."""

    def __init__(self, model: Any, inputs: list[Tensor], rows: int) -> None:
        self.model = model
        self.chunks = list(zip(*(t.split(rows) for t in inputs)))
        self.states: list[_Random] = []
        self.leaves: list[Tensor] = []
        self.after: _Random | None = None

    def embed(self) -> list[Tensor]:
        """All embeddings, without a graph; statistics of the model's buffers stay as they were."""
        parts: list[tuple[Tensor, ...]] = []
        buffers = _buffers(self.model)
        with torch.no_grad():
            for chunk in self.chunks:
                self.states.append(_Random(chunk))
                out = self.model(*chunk)
                parts.append((out,) if isinstance(out, Tensor) else tuple(out))
        self.after = _Random(self.chunks[0]) if self.chunks else None
        _restore(buffers)
        self.leaves = [torch.cat(columns).requires_grad_() for columns in zip(*parts)]
        return self.leaves

    def backward(self) -> None:
        """Each chunk once more, with a graph; gradients of several processes meet with the last."""
        grads = [leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for leaf in self.leaves]
        start = 0
        for k, (chunk, state) in enumerate(zip(self.chunks, self.states)):
            stop = start + len(chunk[0])
            state.restore()
            waits = k + 1 < len(self.chunks) and hasattr(self.model, "no_sync")
            with self.model.no_sync() if waits else contextlib.nullcontext(), torch.enable_grad():
                out = self.model(*chunk)
                outs = (out,) if isinstance(out, Tensor) else tuple(out)
                needed = [(o, g[start:stop]) for o, g in zip(outs, grads) if o.requires_grad]
                if needed:
                    torch.autograd.backward([o for o, _ in needed], [g for _, g in needed])
            start = stop
        if self.after is not None:
            self.after.restore()


__all__ = ["auto_chunk", "cached_step"]
