"""GradCache: the loss covers the whole batch while the encoder's activations are held for one chunk at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastssl._graph import nodes
from fastssl._options import integer
from fastssl._words import amount
from fastssl.ops.extension import get_memory_budget
from fastssl.train.shards import is_sharded


def cached_step(
    model: Any,
    batch: Any,
    loss: Callable[..., Tensor],
    *,
    chunk: int | str = "auto",
    backward: Callable[[Tensor], Any] | None = None,
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
    ``DistributedDataParallel`` model are averaged once, with the last chunk. Where a model or the loss raises, such as
    for a lack of memory, buffers are as they were before; ``grad`` may hold what some chunks have added.

    Args:
        model: maps rows to embeddings: a tensor [n, ...], a tuple of them, or a mapping such as an output of Hugging
            Face's transformers; or a list with one model (the same one, too) per entry of ``batch``, such as the two
            towers of CLIP. Outputs of no dimension, such as the logit scale of open_clip's models, may not depend on
            the rows.
        batch: inputs of the model: a tensor or strings; a sequence of positional arguments; or a mapping of keyword
            arguments, such as the tokens of a text model. With several models, a sequence of these. Tensors, also
            those in mappings and sequences within, are split by their first dimension, and so are lists of strings and
            arrays of that length; all else (numbers, flags, None, tensors of no dimension) goes to every chunk.
        loss: maps the embeddings of the models, in order, to a scalar: one argument per tensor; a mapping is one
            argument, with entries and attributes for the tensors that have one row per row of the batch, or no
            dimension.
        chunk: rows per chunk; "auto": as many as keep their activations within the memory budget
            (:func:`fastssl.set_memory_budget`), measured on two rows.
        backward: computes the gradients of a scalar, in place of its ``backward()``: ``fabric.backward`` for models
            that Lightning Fabric has set up.

    Returns:
        The loss, detached.

    Raises:
        TypeError: ``batch`` holds no tensors, or a model or the loss returns none.
        ValueError: a loss that is no scalar or requires no gradient, tensors of different lengths for one model, a
            number of models other than that of entries, ``chunk`` < 1, or outputs that have not one row per row of the
            batch, or no dimension and other values in each chunk.

    Example:
        >>> import torch, fastssl.functional as F
        >>> from fastssl.train import cached_step
        >>> encoder = torch.nn.Linear(8, 4)
        >>> x = torch.randn(64, 8)
        >>> loss = cached_step(encoder, x, lambda z: F.nt_xent(*z.chunk(2)), chunk=16)
        >>> encoder.weight.grad.shape
        torch.Size([4, 8])

        A model of open_clip, whose third output is the scale:

        >>> cached_step(model, [images, texts], open_clip.ClipLoss(), chunk=64)  # doctest: +SKIP

        A text model of transformers, and the columns of a sentence-transformers model:

        >>> cached_step([bert, bert], [queries, documents],
        ...     lambda q, d: F.info_nce(q.pooler_output, d.pooler_output), chunk=32)  # doctest: +SKIP
        >>> cached_step([sbert, sbert], [[queries], [documents]],
        ...     lambda q, d: F.info_nce(q["sentence_embedding"], d["sentence_embedding"]), chunk=32)  # doctest: +SKIP

    Source: Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, 2021.
    """
    if isinstance(model, (list, tuple)):
        entries = batch if isinstance(batch, (list, tuple)) else [batch]
        if len(model) != len(entries):
            raise ValueError(f"model: expected one for each of {len(entries)} entries of batch, got {len(model)}")
        parts = [(tower, Inputs.of(entry)) for tower, entry in zip(model, entries)]
    else:
        parts = [(model, Inputs.of(batch))]
    buffers = [_buffers(tower) for tower, _ in parts]
    try:
        return _step(parts, buffers, loss, chunk, backward)
    except BaseException:
        for each in buffers:
            _restore(each)
        raise


def _step(
    parts: list[tuple[Any, Inputs]],
    buffers: list[Buffers],
    loss: Callable[..., Tensor],
    chunk: int | str,
    backward: Callable[[Tensor], Any] | None,
) -> Tensor:
    jobs = [
        _Tower(tower, inputs, _rows(chunk, tower, inputs), before) for (tower, inputs), before in zip(parts, buffers)
    ]
    # Embeddings without a graph are the leaves of the loss's graph.
    embeddings = [argument for job in jobs for argument in job.embed()]
    with torch.enable_grad():
        value = loss(*embeddings)
        check_loss(value, "loss")
        if backward is None:
            value.backward()
        else:
            _backward_of_loss(value, [leaf for job in jobs for leaf in job.leaves.values()], backward)
    for job in jobs:
        job.backward(backward)
    return value.detach()


def _backward_of_loss(value: Tensor, embeddings: list[Tensor], backward: Callable[[Tensor], Any]) -> None:
    """Gradients of the embeddings as they are, and those of the loss's own parameters by the caller's ``backward``,
    which may scale them as it does those of the models."""
    leaves = [leaf for leaf in embeddings if leaf.requires_grad]
    reached = (node.variable for node in nodes(value) if hasattr(node, "variable"))
    own = [t for t in reached if all(t is not leaf for leaf in leaves)]
    found = torch.autograd.grad(value, [*leaves, *own], allow_unused=True)
    for leaf, grad in zip(leaves, found):
        leaf.grad = grad
    terms = [(t * grad).sum() for t, grad in zip(own, found[len(leaves) :]) if grad is not None]
    if terms:
        backward(torch.stack([term.double() for term in terms]).sum())


def check_loss(value: Any, what: str, graph: bool = True) -> None:
    """
    Args:
        value: what a loss function or a method returned.
        what: its name, for the message.
        graph: whether it must require a gradient.

    Raises:
        TypeError: it is no tensor.
        ValueError: it is no scalar, or has no gradient.
    """
    expected = f"{what}: expected a scalar tensor that requires a gradient"
    if not isinstance(value, Tensor):
        inside = f" of {', '.join(map(str, value))}" if isinstance(value, Mapping) else ""
        raise TypeError(f"{expected}, got {type(value).__name__}{inside}")
    if value.numel() != 1:
        raise ValueError(f"{expected}, got one of shape {tuple(value.shape)}; take its mean")
    if graph and not value.requires_grad:
        no_graph = torch.is_inference_mode_enabled()
        why = "inference_mode is on" if no_graph else "it was detached, or no parameter that is trained is in it"
        raise ValueError(f"{expected}, got one without: {why}")


@dataclass(frozen=True)
class Inputs:
    """Arguments of a model, which can be cut by rows.

    Args:
        leaves: the arguments, flattened.
        tree: their structure: (positional, by keyword).
        rows: the length of the tensors that are cut.
    """

    leaves: list[Any]
    tree: Any
    rows: int

    @staticmethod
    def of(entry: Any) -> Inputs:
        """
        Raises:
            TypeError: no tensors.
            ValueError: tensors of different lengths.
        """
        if isinstance(entry, Mapping):
            given: Any = ((), dict(entry))
        else:
            several = isinstance(entry, Sequence) and not isinstance(entry, str) and not _are_strings(entry)
            given = (tuple(_dict(a) for a in entry) if several else (entry,), {})
        leaves, tree = pytree.tree_flatten(given, is_leaf=lambda part: part is not given[0] and _are_strings(part))
        tensors = [t for t in leaves if _has_rows(t)]
        lengths = [len(t) for t in tensors or [t for t in leaves if _are_strings(t) or _is_array(t)]]
        if not lengths:
            raise TypeError(f"batch: expected tensors, or sequences or mappings of them, got {type(entry).__name__}")
        if len(set(lengths)) > 1:
            raise ValueError(f"batch: expected tensors of one length for one model, got {lengths}")
        return Inputs(leaves, tree, lengths[0])

    def __getitem__(self, rows: slice) -> Inputs:
        cut = [
            t[rows] if _has_rows(t) or ((_are_strings(t) or _is_array(t)) and len(t) == self.rows) else t
            for t in self.leaves
        ]
        return Inputs(cut, self.tree, len(range(self.rows)[rows]))

    def split(self, rows: int, least: int = 1) -> list[Inputs]:
        """At least ``least`` chunks, which may be empty: models of several processes run as often everywhere."""
        return [self[start : start + rows] for start in range(0, max(self.rows, (least - 1) * rows + 1), rows)]

    def call(self, model: Any) -> Any:
        args, kwargs = pytree.tree_unflatten(self.leaves, self.tree)
        return model(*args, **kwargs)

    @property
    def tensors(self) -> list[Tensor]:
        return [t for t in self.leaves if isinstance(t, Tensor)]


def _has_rows(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray) and leaf.ndim > 0


def _are_strings(given: Any) -> bool:
    return isinstance(given, (list, tuple)) and len(given) > 0 and all(isinstance(one, str) for one in given)


def _dict(given: Any) -> Any:
    return dict(given) if isinstance(given, Mapping) else given


class Embeddings(dict[str, Tensor]):
    """Outputs of a model by name, as entries and as attributes."""

    def __missing__(self, name: str) -> Tensor:
        raise KeyError(
            f"{name!r}: not an output with one row per row of the batch, or no dimension; there are {sorted(self)}"
        )

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(error.args[0]) from None


def _outputs(out: Any, rows: int) -> dict[Any, Tensor]:
    """The tensors of a model's output by name or position."""
    if isinstance(out, Tensor):
        out = (out,)
    named = isinstance(out, Mapping)
    found = dict(out) if named else dict(enumerate(out)) if isinstance(out, (list, tuple)) else {}
    if named:
        found = {k: t for k, t in found.items() if isinstance(t, Tensor) and (not t.dim() or len(t) == rows)}
    if not found or not all(isinstance(t, Tensor) for t in found.values()):
        raise TypeError(f"model: expected a tensor, a tuple of tensors or a mapping of some, got {type(out).__name__}")
    for name, t in found.items():
        if t.dim() and len(t) != rows:
            raise ValueError(
                f"model: expected outputs with one row per row of the batch, got {tuple(t.shape)} as output {name} of "
                f"{amount(rows, 'row')}"
            )
    return found


def _rows(chunk: int | str, model: Any, inputs: Inputs) -> int:
    if chunk == "auto":
        return auto_chunk(model, inputs)
    return integer("chunk", chunk, 1, also=" or 'auto'")


def auto_chunk(model: Any, inputs: Inputs) -> int:
    """The number of rows whose activations fit the memory budget, from the tensors saved for backward of two rows."""
    kept: dict[int, int] = {}
    alive: list[Tensor] = []
    module = _module(model)
    parameters = module.parameters() if module is not None else ()
    own = {_address(t) for t in (*parameters, *inputs.tensors)}
    sharded = module is not None and is_sharded(module.parameters())

    def count(x: Tensor) -> Tensor:
        alive.append(x)  # no address is reused while counting
        if sharded and module is not None:  # those that are whole for the time of their layer
            own.update(_address(p) for p in module.parameters())
        if _address(x) not in own:
            kept[_address(x)] = x.untyped_storage().nbytes()
        return x

    few = inputs[:2]
    if not few.rows and not sharded:  # else all processes run the model
        return 1
    state = _Random(few.tensors)
    buffers = _buffers(model)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, _same):
        few.call(model)
    state.restore()
    _restore(buffers)
    per_row = max(1, sum(kept.values()) // max(1, few.rows))
    return max(1, min(inputs.rows, get_memory_budget() // per_row))


def _address(t: Tensor) -> int:
    local: Tensor = t.to_local() if hasattr(t, "to_local") else t
    return local.untyped_storage().data_ptr()


def _most(model: Any, number: int) -> int:
    """The largest of the numbers of all processes that a model's parameters are sharded over, which run it together."""
    module = _module(model)
    part = None if module is None else next((p for p in module.parameters() if hasattr(p, "device_mesh")), None)
    if part is None:
        return number
    largest = torch.tensor(number, device=part.device)
    for dimension in range(part.device_mesh.ndim):
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=part.device_mesh.get_group(dimension))
    return int(largest)


def _same(x: Tensor) -> Tensor:
    return x


def _module(model: Any) -> nn.Module | None:
    """The module of a model: the model itself, or the owner of a bound method."""
    owner = getattr(model, "__self__", model)
    return owner if isinstance(owner, nn.Module) else None


Buffers = list[tuple[dict[str, Any], str, Tensor, Tensor]]  # where, under which name, the buffer, and its values


def _buffers(model: Any) -> Buffers:
    module = _module(model)
    owners = () if module is None else (part._buffers for part in module.modules())
    return [(own, name, b, b.clone()) for own in owners for name, b in own.items() if b is not None]


def _restore(buffers: Buffers) -> None:
    """Buffers as they were, also those in whose place a model has put another tensor."""
    with torch.no_grad():
        for own, name, buffer, before in buffers:
            own[name] = buffer.copy_(before)


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

    def __init__(self, model: Any, inputs: Inputs, rows: int, buffers: Buffers) -> None:
        self.model, self.buffers = model, buffers
        self.chunks = inputs.split(rows, _most(model, max(1, -(-inputs.rows // rows))))
        self.states: list[_Random] = []
        self.leaves: dict[Any, Tensor] = {}
        self.scalars: dict[Any, list[Tensor]] = {}  # of each chunk
        self.after: _Random | None = None

    def embed(self) -> list[Any]:
        """All embeddings, without a graph, as arguments of the loss; the model's buffers are left unchanged."""
        parts: list[dict[Any, Tensor]] = []
        named = False
        with torch.no_grad():
            for chunk in self.chunks:
                self.states.append(_Random(chunk.tensors))
                out = chunk.call(self.model)
                named = isinstance(out, Mapping)
                parts.append(_outputs(out, chunk.rows))
        self.after = _Random(self.chunks[0].tensors) if self.chunks else None
        _restore(self.buffers)
        for name in parts[0] if parts else ():
            columns = [part[name].detach() for part in parts if name in part]  # a parameter may be an output itself
            if len(columns) < len(parts) or len({t.shape[1:] for t in columns}) > 1:
                continue
            if columns[0].dim():
                whole = torch.cat(columns)
            else:
                self.scalars[name], whole = columns, columns[0].clone()
            self.leaves[name] = whole.requires_grad_(whole.is_floating_point())
        return [Embeddings(self.leaves)] if named else list(self.leaves.values())

    def backward(self, backward: Callable[[Tensor], Any] | None) -> None:
        """Recomputes each chunk with a graph; DDP reduces gradients with the last one."""
        grads = {name: leaf.grad for name, leaf in self.leaves.items() if leaf.grad is not None}
        for name, values in self.scalars.items():
            if name in grads and any(not torch.equal(value, values[0]) for value in values):
                raise ValueError(
                    f"model: output {name} has no dimension, and other values in each chunk ({float(values[0]):.6g} "
                    f"and {float(values[-1]):.6g}): the loss may only use those that do not depend on the rows"
                )
        if not grads:  # a loss that reads none of them: DDP waits for its gradients all the same
            grads = {name: torch.zeros_like(leaf) for name, leaf in self.leaves.items()}
        start = 0
        for k, (chunk, state) in enumerate(zip(self.chunks, self.states)):
            stop = start + chunk.rows
            state.restore()
            last = k + 1 == len(self.chunks)
            waits = not last and hasattr(self.model, "no_sync")
            with self.model.no_sync() if waits else contextlib.nullcontext(), torch.enable_grad():
                outs = _outputs(chunk.call(self.model), chunk.rows)
                needed = [
                    (outs[name], g[start:stop] if g.dim() else g)
                    for name, g in grads.items()
                    if outs[name].requires_grad and (g.dim() or last)  # scalars are the same in each chunk
                ]
                if not needed:
                    pass
                elif backward is None:
                    torch.autograd.backward([o for o, _ in needed], [g for _, g in needed])
                else:  # a scalar with the same gradient; a loss scale may be more than fp16 holds
                    wide = [(o.to(torch.promote_types(o.dtype, torch.float32)), g) for o, g in needed]
                    backward(torch.stack([(o * g).sum(dtype=torch.float32) for o, g in wide]).sum())
            start = stop
        if self.after is not None:
            self.after.restore()


__all__ = ["Embeddings", "Inputs", "auto_chunk", "cached_step", "check_loss"]
