"""transformers: the cross-entropy heads of masked, causal and sequence-to-sequence language models.

Within a training step the output embedding of a model returns :class:`Logits`, a lazy ``hidden @ weight.T + bias``.
Cross-entropy consumes them without computing them: only rows with a target reach the head, and no logits are stored.
Any other operation (a model that bounds or scales its logits, a metric) computes them.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as TF
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.compat._dtypes import multiplied
from fastssl.compat._peer import NotFused, Peer, Result, Target, hooks, require_matrices

PEER = Peer("transformers", "transformers", "4.50", "6", {})
FULL = 0.9  # fraction of rows with a target from which on rows are not gathered
_readers: weakref.WeakSet[Any] = weakref.WeakSet()  # models whose logits were read


def targets() -> list[Target]:
    from transformers import PreTrainedModel

    return [Target(PreTrainedModel, "__call__", _step)]


def _step(original: Callable[..., Any], exact: bool, model: Any, *args: Any, **kwargs: Any) -> Result:
    if kwargs.get("labels") is None or not torch.is_grad_enabled():
        raise NotFused("no training step with labels")
    if torch.compiler.is_compiling() or getattr(model, "_is_replica", False):
        raise NotFused("torch.compile or DataParallel")
    if model in _readers:
        raise NotFused("a model whose logits are read")
    head = model.get_output_embeddings()
    plain = type(head) is nn.Linear and not hooks(head) and "forward" not in vars(head)
    if not plain or not isinstance(head.weight, Tensor) or type(head).forward is not _LINEAR:
        raise NotFused("no output embedding that is a plain linear layer")
    full = head.weight.dtype in (torch.float32, torch.float64)
    if exact and not (full and not torch.is_autocast_enabled(head.weight.device.type)):
        raise NotFused("16-bit weights or autocast")
    require_matrices(head.weight)
    record = _Record()

    def forward(hidden: Tensor) -> Tensor:
        if hidden.shape[-1] != head.in_features or type(hidden) is not Tensor:
            return _LINEAR(head, hidden)
        return Logits(hidden, head.weight, head.bias, record)

    head.forward = forward
    try:
        result = original(model, *args, **kwargs)
    finally:
        del head.forward
    record.model = weakref.ref(model)
    return Result(result, "" if record.fused and not record.read else "logits that are used otherwise")


_LINEAR = nn.Linear.forward


@dataclass
class _Record:
    """The use of the logits of a step."""

    fused: bool = False
    read: bool = False
    model: Callable[[], Any] | None = None


class Logits(Tensor):
    """Lazy logits [..., V], computed on access.

    Args:
        hidden: [..., D].
        weight: [V, D].
        bias: [V] or None.
        record: record of their use.
        dtype: dtype of the logits; None: that of the linear layer's output.
    """

    hidden: Tensor
    weight: Tensor
    given_bias: Tensor | None
    record: _Record
    region: tuple[str, bool, torch.dtype]
    known: Tensor | None
    graded: bool  # whether the original would have had a gradient
    versions: list[int]

    @staticmethod
    def __new__(
        cls,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        record: _Record,
        region: tuple[str, bool, torch.dtype] | None = None,
        dtype: torch.dtype | None = None,
    ) -> Logits:
        device = hidden.device.type
        if region is None:
            region = device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        if dtype is None:
            dtype = region[2] if region[1] else weight.dtype
        shape = (*hidden.shape[:-1], weight.shape[0])
        made: Logits = Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=hidden.device)
        made.hidden, made.weight, made.given_bias, made.record = hidden, weight, bias, record
        made.region, made.known = region, None
        made.graded, made.versions = torch.is_grad_enabled(), made._versions()
        return made

    def _versions(self) -> list[int]:
        """Of what the logits are computed from; tensors of inference mode have none."""
        sources = (self.hidden, self.weight, self.given_bias)
        return [t._version for t in sources if t is not None and not t.is_inference()]

    def like(self, hidden: Tensor, dtype: torch.dtype | None = None, bias: Tensor | None = None) -> Logits:
        """Lazy logits of other rows, in another dtype or with another bias."""
        chosen = self.given_bias if bias is None else bias
        made = Logits(hidden, self.weight, chosen, self.record, self.region, dtype or _plainly(lambda: self.dtype))
        made.graded = self.graded
        made.versions = self.versions if bias is None else made.versions
        return made

    def compute(self) -> Tensor:
        """Computes the logits, with a gradient if they were made with one, whoever reads them first."""
        if self.known is None:
            if self._versions() != self.versions:
                raise RuntimeError(
                    "fastssl: logits are read after the weights or hidden states they come from have changed; "
                    "read them before optimizer.step(), or run the library's own code: fastssl.unpatch('transformers')"
                )
            device, enabled, dtype = self.region
            outside = torch.inference_mode(False) if self.graded else contextlib.nullcontext()
            with outside, torch.set_grad_enabled(self.graded), torch.autocast(device, dtype=dtype, enabled=enabled):
                self.known = TF.linear(self.hidden, self.weight, self.given_bias).to(_plainly(lambda: self.dtype))
            self.record.read = True
            model = None if self.record.model is None else self.record.model()
            if model is not None:  # read after the step: the next one is not lazy
                _readers.add(model)
        return self.known

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in _DESCRIBING:
            return _plainly(lambda: function(*args, **kwargs))
        rule = _RULES.get(function)
        if (
            rule is not None and isinstance(args[0], Logits) and args[0].known is None
        ):  # known ones may have been edited
            with contextlib.suppress(_Otherwise):
                return rule(*args, **kwargs)
        return function(*_computed(args), **_computed(kwargs))

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        raise RuntimeError(f"fastssl: {function} met logits that were not computed; compute them first: logits + 0")


class _Otherwise(Exception):
    """A rule does not apply."""


def _plainly(function: Callable[[], Any]) -> Any:
    with torch._C.DisableTorchFunctionSubclass():
        return function()


def _computed(tree: Any) -> Any:
    if isinstance(tree, Logits):
        return tree.compute()
    if isinstance(tree, dict):
        return {k: _computed(v) for k, v in tree.items()}
    return type(tree)(_computed(v) for v in tree) if type(tree) in (tuple, list) else tree


_DESCRIBING = {
    *(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "layout", "is_cuda", "is_sparse")),
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.__len__),
}


def _view(logits: Logits, *shape: Any) -> Tensor:
    wanted = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
    if not wanted or wanted[-1] != len(logits.weight):
        raise _Otherwise
    return logits.like(logits.hidden.reshape(*wanted[:-1], logits.hidden.shape[-1]))


def _to(logits: Logits, *args: Any, **kwargs: Any) -> Tensor:
    if kwargs or len(args) != 1 or args[0] not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        raise _Otherwise
    return logits.like(logits.hidden, args[0])


def _getitem(logits: Logits, index: Any) -> Tensor:
    rows = isinstance(index, tuple) and len(index) >= 2 and isinstance(index[-1], slice) and index[-1] == slice(None)
    if not rows or not all(isinstance(i, (slice, int)) or i is Ellipsis for i in index):
        raise _Otherwise
    if Ellipsis not in index and len(index) != logits.hidden.dim():
        raise _Otherwise
    return logits.like(logits.hidden[index])


def _add(logits: Logits, other: Any) -> Tensor:
    """Adds a bias vector, as in sequence-to-sequence models."""
    if not isinstance(other, Tensor) or other.numel() != len(logits.weight) or other.shape[-1] != len(logits.weight):
        raise _Otherwise
    if other.dtype != logits.weight.dtype or logits.region[1]:
        raise _Otherwise
    bias = other.reshape(-1) if logits.given_bias is None else logits.given_bias + other.reshape(-1)
    return logits.like(logits.hidden, bias=bias)


def _cross_entropy(
    logits: Logits,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    hidden = logits.hidden
    labels = isinstance(target, Tensor) and target.dtype == torch.int64 and target.device == hidden.device
    if not labels or hidden.dim() != 2 or target.shape != hidden.shape[:1] or reduction == "none" or weight is not None:
        raise _Otherwise
    if size_average is not None or reduce is not None:
        raise _Otherwise
    device, autocast, dtype = logits.region
    try:
        require_matrices(hidden, logits.weight)
        places = (target != ignore_index).nonzero().squeeze(1)
        if len(places) == 0:
            raise _Otherwise  # the original's mean over nothing
        if len(places) < FULL * len(target):
            hidden, target = hidden.index_select(0, places), target.index_select(0, places)
        hidden, head = multiplied(hidden, logits.weight, region=dtype if autocast else None)
        with torch.autocast(device, enabled=False):
            loss = F.linear_cross_entropy(
                *(hidden, head, target, logits.given_bias),
                ignore_index=ignore_index,
                reduction=reduction,
                label_smoothing=label_smoothing,
            )
    except (NotFused, ValueError, TypeError) as reason:
        raise _Otherwise from reason
    logits.record.fused = True
    # As torch's cross-entropy, which autocast computes in float32.
    return loss.to(torch.float32 if torch.is_autocast_enabled(device) else _plainly(lambda: logits.dtype))


def _clone(logits: Logits, **_: Any) -> Tensor:
    return logits.like(logits.hidden)


def _grad_fn(logits: Logits) -> Any:
    """DistributedDataParallel asks whether the logits have one."""
    return logits.hidden.grad_fn


def _same(logits: Logits, *args: Any, **kwargs: Any) -> Tensor:
    if args or kwargs:
        raise _Otherwise
    return logits


_RULES: dict[Any, Callable[..., Tensor]] = {
    Tensor.view: _view,
    Tensor.reshape: _view,
    Tensor.float: lambda logits: _to(logits, torch.float32),
    Tensor.to: _to,
    Tensor.contiguous: _same,
    Tensor.clone: _clone,
    vars(torch._C.TensorBase)["grad_fn"].__get__: _grad_fn,
    Tensor.__getitem__: _getitem,
    Tensor.__add__: _add,
    Tensor.add: _add,
    TF.cross_entropy: _cross_entropy,
}
