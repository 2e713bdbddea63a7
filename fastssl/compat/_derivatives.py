"""Second derivatives of fused calls: those of the original.

Kernels have first derivatives. A backward pass with ``create_graph=True`` through the result of a fused call runs the
original on the same arguments, and differentiates it instead.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastssl.compat._dtypes import parts, shallow
from fastssl.distributed.shards import current

Version = tuple[Tensor, int, int]  # with its version counter and its address


@dataclass(frozen=True)
class _Call:
    """A call of the original that may be made later, without its tensors."""

    original: Callable[..., Any]
    module: Any
    arguments: list[Any]  # tensors are replaced by their place among the inputs
    tree: Any
    owned: list[Version]
    learned: dict[int, int]  # places of the object's own tensors among the inputs, by identity
    autocast: tuple[str, torch.dtype, bool]
    alone: bool  # whether it was of this process's rows alone, as the original is

    def gradients(self, given: tuple[Tensor, ...], grads: tuple[Tensor | None, ...]) -> list[Tensor | None]:
        """Differentiable gradients of ``given`` from those of the result's tensors."""
        if not self.alone:
            raise RuntimeError("fastssl: no second derivative of a loss over several processes (sharded)")
        if any((t._version, t.data_ptr()) != tuple(before) for t, *before in self.owned):
            raise RuntimeError(
                "fastssl: no second derivative of a call that changed buffers of its loss, such as a memory bank, or "
                "whose parameters have changed since; fastssl.unpatch() runs the library's own code"
            )
        # Views: hooks of the tensors themselves run once, in the backward pass that has called this one.
        seen = [t.view_as(t) if t.requires_grad else t for t in given]
        arguments = [seen[a.place] if isinstance(a, _Place) else a for a in self.arguments]
        module = _with(self.module, {key: seen[place] for key, place in self.learned.items()})
        args, kwargs = pytree.tree_unflatten(arguments, self.tree)
        device, dtype, enabled = self.autocast
        with torch.enable_grad(), torch.autocast(device, dtype=dtype, enabled=enabled):
            values = differentiable(self.original(module, *args, **kwargs))
        known = [(v, g.to(v.dtype).reshape(v.shape)) for v, g in zip(values, grads, strict=True) if g is not None]
        places = [i for i, t in enumerate(given) if t.requires_grad]
        sources = [seen[i] for i in places]
        outputs, wanted = zip(*known)
        found = torch.autograd.grad(outputs, sources, wanted, create_graph=True, allow_unused=True)
        result: list[Tensor | None] = [None] * len(given)
        for i, grad in zip(places, found):
            result[i] = grad
        return result


@dataclass(frozen=True)
class _Place:
    place: int


class _Twice(torch.autograd.Function):
    """Values of a fused call, whose gradients go to its kernels, or with ``create_graph`` to the original."""

    @staticmethod
    def forward(ctx: Any, call: _Call, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.call, ctx.others = call, len(tensors) - count
        # Tensors made within inference_mode cannot be saved as they are.
        ctx.save_for_backward(*(t.clone() if t.is_inference() else t for t in tensors[count:]))
        return tuple(t.clone() for t in tensors[:count])  # no views, which `loss /= 2` would refuse

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if not torch.is_grad_enabled() or all(g is None for g in grads):
            return (None, None, *grads, *(None,) * ctx.others)
        return (None, None, *(None for _ in grads), *ctx.call.gradients(ctx.saved_tensors, grads))


def attach(
    result: Any, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], owned: list[Version]
) -> Any:
    """The result of a fused call, twice differentiable.

    Args:
        result: tensors, or dictionaries and lists of them.
        original: the code that the call replaced.
        args: the object and the arguments of the call.
        kwargs: likewise.
        owned: :func:`versions` of the object before the call.
    """
    values = differentiable(result)
    if not values or torch.compiler.is_compiling():
        return result
    module, *rest = args
    leaves, tree = pytree.tree_flatten((rest, kwargs))
    learned = [t for t, *_ in owned if t.requires_grad]
    given = list({id(t): t for t in (*leaves, *learned) if isinstance(t, Tensor)}.values())
    places = {id(t): _Place(i) for i, t in enumerate(given)}
    device = values[0].device.type
    autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    arguments = [places.get(id(leaf), leaf) for leaf in leaves]
    own = {id(t): places[id(t)].place for t in learned}
    call = _Call(original, shallow(module), arguments, tree, owned, own, autocast, current() is None)
    made = dict(zip(map(id, values), _Twice.apply(call, len(values), *values, *given)))
    return pytree.tree_map(lambda t: made.get(id(t), t), result)


def _with(module: Any, others: Mapping[int, Tensor]) -> Any:
    """An object with other tensors instead of those of the given identities, in itself and in its parts."""
    own = (
        t for part in module.modules() for t in (*vars(part).values(), *part.parameters(False), *part.buffers(False))
    )
    if not any(id(t) in others for t in own):
        return module
    twin = shallow(module)
    for names in (vars(twin), twin._parameters, twin._buffers):
        names.update({k: others[id(t)] for k, t in names.items() if id(t) in others})
    for k, method in list(vars(twin).items()):  # such as loss_method, which reads the tensors of its own object
        if isinstance(method, types.MethodType) and type(method.__self__) is type(module):
            setattr(twin, k, types.MethodType(method.__func__, twin))
    twin._modules.update({k: _with(part, others) for k, part in twin._modules.items() if part is not None})
    return twin


def differentiable(tree: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(tree) if isinstance(t, Tensor) and t.requires_grad]


def versions(module: Any, known: Container[str]) -> list[Version]:
    """Tensors of an object and of its known parts, with their versions."""
    own = [t for names in (vars(module), module._parameters, module._buffers) for t in names.values()]
    found = [(t, t._version, t.data_ptr()) for t in own if isinstance(t, Tensor)]
    for part in parts(module, known).values():
        found += versions(part, known)
    return found
