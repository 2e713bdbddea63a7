"""Lazy logits: ``hidden @ weight.T + bias`` as a tensor that has a place in the autograd graph before it has values.

Autograd sees an ordinary tensor with ordinary views, so that hooks, custom functions, checkpoints and in-place edits
mean what they always mean; values are computed below autograd, by the first operation that needs them.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as TF
from torch import Tensor
from torch.utils._pytree import tree_map_only

from fastssl._graph import nodes

CHANGED = (
    "fastssl: logits are read after the weights or hidden states they come from have changed; read them before "
    "optimizer.step(), or run the library's own code: fastssl.unpatch('transformers')"
)
BYPASSED = (
    "fastssl: the loss was computed without its logits, so that no gradient passes through them; ask for it within the "
    "model's forward pass, or run the library's own code: fastssl.unpatch('transformers')"
)


@dataclass
class Record:
    """The use of the logits of a step."""

    losses: list[Any] = field(default_factory=list)  # nodes of the fused losses in the autograd graph
    read: bool = False
    watched: bool = False  # somebody wants the gradient of the logits, which a fused loss does not give
    unattended: bool = True  # no optimizer is known to tell when it changes the weights
    on_read: Callable[[], None] | None = None
    made: list[weakref.ref[Values]] = field(default_factory=list)  # those of all logits


@dataclass(frozen=True)
class Head:
    """An output embedding, and the autocast dtype of its call."""

    weight: Tensor
    bias: Tensor | None
    region: torch.dtype | None
    record: Record

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the product, as that of the linear layer."""
        eligible = self.region is not None and self.weight.dtype != torch.float64
        return self.region if eligible and self.region is not None else self.weight.dtype


@dataclass
class Values:
    """Values of logits and their views. ``changed``: whether hidden states or weights have changed; ``keep`` computes
    the values for a reader after that; ``expire`` makes such a reader an error where ``parameters``, those of the
    product, are changed by an optimizer."""

    make: Callable[[], Tensor]
    changed: Callable[[], bool]
    keep: Callable[[], None] = lambda: None
    expire: Callable[[], None] = lambda: None
    parameters: tuple[Tensor, ...] = ()
    known: Tensor | None = field(default=None)

    def get(self) -> Tensor:
        if self.known is None:
            self.known = self.make()
        return self.known


def _state(t: Tensor) -> tuple[int, int]:
    return t._version, t.data_ptr()  # `p.data = q` leaves the version as it is


def _bits(t: Tensor) -> Tensor:
    """The sum of the bits of a tensor, which writing through `p.data` changes, and its version does not."""
    size = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[t.element_size()]
    return t.detach().view(size).sum(dtype=torch.int64)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, head: Head) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.dtype, ctx.bias = head.dtype, None if bias is None else bias.dtype
        sources = [t for t in (hidden, weight, bias) if t is not None and not t.is_inference()]
        before = [_state(t) for t in sources]
        parameters = tuple(t for t in (weight, bias) if t is not None and t.requires_grad)
        bits = [_bits(t) for t in parameters] if head.record.unattended else []
        kept: list[Tensor] = []
        expired = False

        def product() -> Tensor:
            # Not of inference mode, whoever reads them first: they may be trained on.
            with torch.inference_mode(False), torch.no_grad():
                rows, classes, added = (None if t is None else t.detach().to(ctx.dtype) for t in (hidden, weight, bias))
                return TF.linear(rows, classes, added)  # type: ignore[arg-type]

        def changed() -> bool:
            if expired or [_state(t) for t in sources] != before:
                return True
            return any(not torch.equal(_bits(t), was) for t, was in zip(parameters, bits))

        def expire() -> None:
            nonlocal expired
            expired = True

        def keep() -> None:
            if not kept and not changed():
                kept.append(product())

        def make() -> Tensor:
            if changed() and not kept:
                raise RuntimeError(CHANGED)
            head.record.read = True
            if head.record.on_read is not None:
                head.record.on_read()
            return kept[0].clone() if kept else product()

        shape = (*hidden.shape[:-1], len(weight))
        values = Values(make, changed, keep, expire, parameters)
        head.record.made.append(weakref.ref(values))
        return Logits.wrap(torch.empty(shape, dtype=ctx.dtype, device="meta"), hidden.device, values, head)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            rows, given = grad.to(ctx.dtype).flatten(0, -2), hidden.to(ctx.dtype).flatten(0, -2)
            of_hidden = of_weight = of_bias = None
            if ctx.needs_input_grad[0]:
                of_hidden = (rows @ weight.to(ctx.dtype)).to(hidden.dtype).reshape(hidden.shape)
            if ctx.needs_input_grad[1]:
                of_weight = (rows.T @ given).to(weight.dtype)
            if ctx.needs_input_grad[2]:
                of_bias = rows.sum(0).to(ctx.bias)
        return of_hidden, of_weight, of_bias, None


class Logits(Tensor):
    """Logits [..., V] without values; make them with :meth:`of`.

    Attributes:
        head: what they come from.
        hidden: the rows [..., D] of which they are the product, in the autograd graph; None where something other than
            a choice of rows and dtype lies between, which a fused loss would leave out.
    """

    head: Head
    hidden: Tensor | None
    _shared: Values
    _replay: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, hidden: Tensor, weight: Tensor, bias: Tensor | None, region: torch.dtype | None, record: Record) -> Any:
        """Lazy logits of hidden states.

        Args:
            hidden: [..., D].
            weight: [V, D].
            bias: [V] or None.
            region: dtype of the autocast region, if any.
            record: record of their use.
        """
        made = _Product.apply(hidden, weight, bias, Head(weight, bias, region, record))
        sources = (t for t in (hidden, weight, bias) if t is not None)
        constant = not torch.is_grad_enabled() and any(t.requires_grad for t in sources)
        made.hidden = None if constant else hidden  # else a loss of them would have their gradient
        return made

    @classmethod
    def wrap(
        cls,
        like: Tensor,
        device: torch.device,
        values: Values,
        head: Head,
        replay: Callable[[Tensor], Tensor] = lambda values: values,
    ) -> Logits:
        """Logits with the shape and strides of ``like``, which are ``replay`` of the values."""
        made: Logits = Tensor._make_wrapper_subclass(
            cls, like.shape, like.stride(), like.storage_offset(), dtype=like.dtype, device=device
        )
        made.head, made.hidden, made._shared, made._replay = head, None, values, replay
        return made

    @property
    def lazy(self) -> bool:
        """Whether the values are unknown: known ones may have been edited in place."""
        return self._shared.known is None

    def compute(self) -> Tensor:
        """The values, without a place in the autograd graph."""
        return self._replay(self._shared.get())

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args else None
        if function in _OF_GRADIENTS:
            for logits in _watched(function, args, kwargs):
                if not logits.head.record.losses:
                    logits.head.record.watched = True
                elif not _announces(*args[1:], *kwargs.values()):
                    raise RuntimeError(BYPASSED)
        if function in _OF_MEMORY:
            args, kwargs = tree_map_only(Logits, _Plain.apply, (args, kwargs))
            return function(*args, **kwargs)
        rule = FUSED.get(function)
        if rule is not None and isinstance(first, Logits) and first.lazy and first.hidden is not None:
            # Of changed hidden states or weights: reading the logits is an error.
            result = NotImplemented if first._shared.changed() else rule(*args, **kwargs)
            if result is not NotImplemented:
                return result
        with torch._C.DisableTorchFunctionSubclass():
            result = function(*args, **kwargs)
        if isinstance(result, Logits) and isinstance(first, Logits) and result.lazy and result is not first:
            result.hidden = _rows(function, first, result, args)
        return result

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        first = args[0] if args else None
        if isinstance(first, Logits) and first.lazy and function in (_VIEWS | _COPIES) and "device" not in kwargs:
            like = torch.empty_strided(first.shape, first.stride(), dtype=first.dtype, device="meta")
            like = function(like, *args[1:], **kwargs)
            before = first._replay

            def replay(values: Tensor) -> Tensor:
                return function(before(values), *args[1:], **kwargs)

            if function in _VIEWS:
                return Logits.wrap(like, first.device, first._shared, first.head, replay)
            # A copy made now: later edits of the original are not its own.
            made = Values(lambda: replay(first._shared.make()), first._shared.changed)
            return Logits.wrap(like, first.device, made, first.head)
        met: dict[int, Logits] = {}

        def value(logits: Logits) -> Tensor:
            found = logits.compute()
            met[id(found)] = logits
            return found

        args, kwargs = tree_map_only(Logits, value, (args, kwargs))
        result = function(*args, **kwargs)
        # In-place operations return their operand.
        return tree_map_only(Tensor, lambda t: met.get(id(t), t), result)


class _Plain(torch.autograd.Function):
    """Logits as a plain tensor that shares their values."""

    @staticmethod
    def forward(ctx: Any, logits: Logits) -> Tensor:
        return logits.compute().detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def _watched(function: Any, args: Any, kwargs: Any) -> list[Logits]:
    """The logits whose gradient a call asks for."""
    asked = args
    if function is torch.autograd.grad:
        outputs, asked = (
            args[k] if len(args) > k else kwargs.get(name) for k, name in enumerate(("outputs", "inputs"))
        )
    found: list[Logits] = []
    tree_map_only(Logits, found.append, asked)
    if function is torch.autograd.grad and found:  # of something else than the loss, it is what it would be
        found_nodes = nodes(outputs)
        found = [logits for logits in found if found_nodes.intersection(logits.head.record.losses)]
    return found


def _announces(*given: Any) -> bool:
    """Whether a hook is one that a wrapper of models registers on all outputs, to learn that a backward pass begins:
    that of the loss tells it."""
    hook = given[0] if given else None
    while isinstance(hook, functools.partial):
        hook = hook.func
    return str(getattr(hook, "__module__", None)).startswith(_WRAPPERS)


def _rows(function: Any, logits: Logits, result: Logits, args: Any) -> Tensor | None:
    """The hidden states whose product the result is, if it is one of whole rows with the gradient of the logits."""
    hidden = logits.hidden
    if not torch.is_grad_enabled() and (logits.requires_grad or (hidden is not None and hidden.requires_grad)):
        return None
    if hidden is None or result.requires_grad != logits.requires_grad or result.shape[-1:] != logits.shape[-1:]:
        return None
    if function in _SAME_ROWS:
        return hidden
    if function in (Tensor.view, Tensor.reshape):
        return hidden.reshape(*result.shape[:-1], hidden.shape[-1])
    if function is Tensor.__getitem__:
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        if not all(isinstance(i, (int, slice, type(...))) and not isinstance(i, bool) for i in index):
            return None
        shorter = ... not in index and len(index) < hidden.dim()
        last = len(index) >= 2 and index[-1] == slice(None) and (... in index or len(index) == hidden.dim())
        return hidden[index] if shorter or last else None
    return None


_SAME_ROWS = frozenset({Tensor.float, Tensor.to, Tensor.contiguous, Tensor.clone})
_aten = torch.ops.aten
_VIEWS = frozenset(
    {_aten.view.default, _aten._unsafe_view.default, _aten.slice.Tensor, _aten.select.int, _aten.alias.default}
    | {_aten.detach.default}
)
_COPIES = frozenset({_aten.clone.default, _aten._to_copy.default})
_WRAPPERS = ("lightning_fabric.", "lightning.fabric.", "torch.distributed.")
# What asks for the gradient of logits, and what reads memory past the dispatcher.
_OF_GRADIENTS = frozenset({Tensor.register_hook, Tensor.retain_grad, torch.autograd.grad})
_MEMORY = "numpy tolist data_ptr storage untyped_storage _typed_storage share_memory_"
_OBJECTS = "__array__ __dlpack__ __reduce_ex__ __deepcopy__ __repr__ __format__"
_OF_MEMORY = frozenset(getattr(Tensor, name) for name in f"{_MEMORY} {_OBJECTS}".split())
# Functions of lazy logits with hidden states that need no values: they return NotImplemented where they do.
FUSED: dict[Any, Callable[..., Any]] = {}
