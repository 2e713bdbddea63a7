"""GradCache: the loss covers the whole batch while the encoder's activations are held for one chunk at a time."""

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

    Gradients accumulate in ``grad`` of the parameters, including those of the loss (a logit scale); no optimiser step
    is taken. The result is exact up to rounding for models that process rows independently. **Batch norm** normalises
    within a chunk instead of the batch, and its running statistics are updated once per chunk: use the largest chunk
    that fits, or group norm. Works under autocast (the context of the call applies to all passes); the gradients of a
    ``DistributedDataParallel`` model are averaged once, with the last chunk.

    Args:
        model: maps rows to embeddings [n, ...] (a tensor, or a tuple of tensors of n rows each); or a list with one
            model per tensor of ``batch``, such as the two towers of CLIP.
        batch: a tensor, or tensors; with a single model they are split alike: ``model(*chunks)``.
        loss: maps the embeddings of the models, in order, to a scalar.
        chunk: rows per chunk; "auto": as many as keep their activations within the memory budget
            (:func:`fastssl.set_memory_budget`), measured on two rows.

    Returns:
        The loss, detached.

    Raises:
        TypeError: ``batch`` holds no tensors.
        ValueError: tensors of different lengths for one model, a number of models other than that of tensors, or
            ``chunk`` < 1.

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
    # Embeddings without a graph are the leaves of the loss's graph.
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
    """The number of rows whose activations fit the memory budget, from the tensors saved for backward of two rows."""
    kept: dict[int, int] = {}
    alive: list[Tensor] = []
    module = _module(model)
    own = {t.untyped_storage().data_ptr() for t in (*(module.parameters() if module is not None else ()), *inputs)}

    def count(x: Tensor) -> Tensor:
        alive.append(x)  # no address is reused while counting
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
    """The module of a model: the model itself, or the owner of a bound method."""
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
    """State of torch's random generators, on the CPU and on the tensors' devices."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.cpu = torch.get_rng_state()
        devices = {t.device for t in tensors if t.device.type == "cuda"}
        self.cuda = {d: torch.cuda.get_rng_state(d) for d in devices}

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        for device, state in self.cuda.items():
            torch.cuda.set_rng_state(state, device)


class _Tower:
    """One model with the chunks that it embeds."""

    def __init__(self, model: Any, inputs: list[Tensor], rows: int) -> None:
        self.model = model
        self.chunks = list(zip(*(t.split(rows) for t in inputs)))
        self.states: list[_Random] = []
        self.leaves: list[Tensor] = []
        self.after: _Random | None = None

    def embed(self) -> list[Tensor]:
        """All embeddings, without a graph; the model's buffers are left unchanged."""
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
        """Recomputes each chunk with a graph; DDP reduces gradients with the last one."""
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
