"""transformers: the cross-entropy heads of masked, causal and sequence-to-sequence language models,
and on CPUs dropout; GELU by a tanh in one operation.

Within a training step the output embedding of a model returns :class:`Logits`, a lazy ``hidden @ weight.T + bias``.
Cross-entropy consumes them without computing them: only rows with a target reach the head, and no logits are stored.
Any other operation (a model that bounds or scales its logits, a metric) computes them. Dropout on a CPU draws the
same masks in a fraction of the time.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as TF
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

import fastssl.functional as F
from fastssl.compat._derivatives import attach
from fastssl.compat._dtypes import multiplied
from fastssl.compat._logits import FUSED, Logits, Record, Values
from fastssl.compat._peer import Around, NoLoss, NotFused, Peer, Result, Target, hooks, require_matrices
from fastssl.distributed import unsharded
from fastssl.functional._cpu import faster_dropout, gelu

PEER = Peer("transformers", "transformers", "4.50", "6", {})
FULL = 0.9  # fraction of rows with a target from which on rows are not gathered
_readers: weakref.WeakSet[Any] = weakref.WeakSet()  # models whose logits were read before their last step
_read: weakref.WeakSet[Any] = weakref.WeakSet()  # and since: a checkpoint computes a step again as it was
# Whether a model's logits are read after the optimizer's step shows in its first one, before which they are kept. Later
# ones expire: fused optimizers, and those that write to `p.data`, change weights whose versions stay the same.
_stepped: weakref.WeakSet[Any] = weakref.WeakSet()  # models that have taken a step
_waiting: weakref.WeakKeyDictionary[Any, list[weakref.ref[Values]]] = weakref.WeakKeyDictionary()  # others' logits


def targets() -> list[Target]:
    from transformers import PreTrainedModel

    return [Target(PreTrainedModel, "__call__", _step, loss=False)]


def around() -> list[Around]:
    from transformers import activations

    kinds = [getattr(activations, name, None) for name in ("NewGELUActivation", "GELUTanh", "PytorchGELUTanh")]
    return [
        Around(kind, "forward", _gelu, shared=False, elementwise=True) for kind in dict.fromkeys(filter(None, kinds))
    ]


def _gelu(original: Callable[..., Any], module: Any, input: Any) -> Any:
    """That of GPT-2 (``gelu_new``), eight operations which keep five tensors for the backward pass, and the others by
    the same formula."""
    return gelu(input, approximate="tanh") if isinstance(input, Tensor) else original(module, input)


within = faster_dropout  # while the library is patched


def _step(original: Callable[..., Any], exact: bool, model: Any, *args: Any, **kwargs: Any) -> Result:
    if kwargs.get("return_loss") and kwargs.get("labels") is None:
        raise NotFused(
            f"the contrastive loss of {type(model).__name__} has no kernel: its towers take nearly all of a step"
        )
    if kwargs.get("labels") is None and not torch.compiler.is_compiling() and model.get_output_embeddings() is None:
        raise NoLoss("a model without a head")  # such as the one within a language model
    if kwargs.get("labels") is None or not torch.is_grad_enabled():
        raise NotFused("no training step with labels")
    if torch.compiler.is_compiling() or getattr(model, "_is_replica", False):
        raise NotFused("torch.compile or DataParallel")
    if torch._C._functorch.peek_interpreter_stack() is not None:
        raise NotFused("a transform of torch.func")
    if torch.jit.is_tracing():
        raise NotFused("torch.jit.trace")
    if model in _read and torch._C._current_graph_task_id() == -1:  # no backward pass
        _readers.add(model)
    if model in _readers:
        raise NotFused("a model whose logits are read")
    head = model.get_output_embeddings()
    own = vars(head).get("forward") if isinstance(head, nn.Module) else None
    copied = isinstance(own, types.MethodType) and own.__func__ is _LINEAR and own.__self__ is head  # see _Lazy
    plain = type(head) is nn.Linear and not hooks(head) and (own is None or copied)
    if not plain or not isinstance(head.weight, Tensor) or type(head).forward is not _LINEAR:
        raise NotFused("no output embedding that is a plain linear layer")
    if any(_is_compiled(part) and any(head is inner for inner in part.modules()) for part in model.modules()):
        raise NotFused("torch.compile")
    full = head.weight.dtype in (torch.float32, torch.float64)
    if exact and not (full and not torch.is_autocast_enabled(head.weight.device.type)):
        raise NotFused("16-bit weights or autocast")
    require_matrices(head.weight)
    record = Record(unattended=model not in _stepped)
    head.forward = _Lazy(head, record)
    try:
        result = original(model, *args, **kwargs)
    finally:
        del head.forward  # and a copy's own, which is the usual one
    reader = weakref.ref(model)

    def on_read() -> None:
        if (found := reader()) is not None:  # the next step is not lazy
            _read.add(found)

    record.on_read = on_read
    _watch_steps()
    _waiting[model] = [values for values in (*_waiting.get(model, ()), *record.made) if values() is not None]
    return Result(result, "" if record.losses and not record.read else "logits that are used otherwise")


def _is_compiled(module: nn.Module) -> bool:
    own = vars(module).get("forward")
    compiled = module._compiled_call_impl is not None or type(module).__name__ == "OptimizedModule"
    return compiled or hasattr(own, "_torchdynamo_orig_callable")


@functools.cache
def _watch_steps() -> None:
    register_optimizer_step_pre_hook(_before_step)


def _before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for model, logits in list(_waiting.items()):
        if not any(id(p) in trained for p in model.parameters()):
            continue
        waiting = []
        for values in filter(None, (reference() for reference in logits)):
            if model not in _stepped:
                values.keep()
            elif any(id(p) in trained or not p.is_leaf for p in values.parameters):  # or a part of a flat parameter
                values.expire()
            else:  # another optimizer's head
                waiting.append(weakref.ref(values))
        _waiting[model] = waiting
        _stepped.add(model)


class _Lazy:
    """The forward pass of an output embedding in a fused step; a copy of the model made within it has the usual one."""

    def __init__(self, head: nn.Linear, record: Record) -> None:
        self.head, self.record = head, record

    def __call__(self, hidden: Tensor) -> Tensor:
        head, device = self.head, hidden.device.type
        if torch.compiler.is_compiling():
            return _LINEAR(head, hidden)
        region = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        usual = hidden.shape[-1] == head.in_features and type(hidden) is Tensor
        if not usual or (region is None and hidden.dtype != head.weight.dtype):
            return _LINEAR(head, hidden)
        return Logits.of(hidden, head.weight, head.bias, region, self.record)

    def __reduce__(self) -> Any:
        return types.MethodType, (_LINEAR, self.head)


_LINEAR = nn.Linear.forward


def _add(logits: Logits, other: Any, **options: Any) -> Any:
    """Adds a bias vector, as in sequence-to-sequence models."""
    assert logits.hidden is not None
    head, size = logits.head, logits.shape[-1]
    bias = isinstance(other, Tensor) and not isinstance(other, Logits)
    bias = bias and other.numel() == size and other.shape[-1:] == (size,) and other.dim() <= logits.dim()
    if not bias or options or head.record.watched or head.region is not None:
        return NotImplemented
    if not other.dtype == head.weight.dtype == logits.dtype:
        return NotImplemented
    total = other.reshape(-1) if head.bias is None else head.bias + other.reshape(-1)
    return Logits.of(logits.hidden, head.weight, total, None, head.record)


@unsharded()  # of this process's tokens, as the original
def _cross_entropy(
    logits: Logits,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    assert logits.hidden is not None
    hidden, head = logits.hidden, logits.head
    labels = target
    known = isinstance(target, Tensor) and target.dtype == torch.int64 and target.device == hidden.device
    if not known or hidden.dim() != 2 or target.shape != hidden.shape[:1] or reduction == "none" or weight is not None:
        return NotImplemented
    if size_average is not None or reduce is not None or head.record.watched:
        return NotImplemented
    device = hidden.device.type
    try:
        require_matrices(hidden, head.weight)
        places = (target != ignore_index).nonzero().squeeze(1)
        if len(places) == 0:
            return NotImplemented  # the original's mean over nothing
        if len(places) < FULL * len(target):
            hidden, target = hidden.index_select(0, places), target.index_select(0, places)
        hidden, classes = multiplied(hidden, head.weight, region=head.region)
        with torch.autocast(device, enabled=False):
            loss = F.linear_cross_entropy(
                *(hidden, classes, target, head.bias),
                ignore_index=ignore_index,
                reduction=reduction,
                label_smoothing=label_smoothing,
            )
    except (NotFused, ValueError, TypeError):
        return NotImplemented
    head.record.losses.append(loss.grad_fn)
    # As torch's cross-entropy, which autocast computes in float32.
    loss = loss.to(torch.float32 if torch.is_autocast_enabled(device) else logits.dtype)
    options = {"ignore_index": ignore_index, "reduction": reduction, "label_smoothing": label_smoothing}
    return attach(loss, _usual, (nn.Module(), logits.hidden, head.weight, head.bias, labels), options, [])


def _usual(_: nn.Module, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, **options: Any) -> Tensor:
    return TF.cross_entropy(TF.linear(hidden, weight, bias), target, **options)


FUSED.update({Tensor.__add__: _add, Tensor.add: _add, TF.cross_entropy: _cross_entropy})
