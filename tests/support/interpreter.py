"""Triton's interpreter, without what it does again and again at every call."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import Any

import numpy as np
import pytest
import torch


def without_repeated_patches() -> None:
    """A launch puts the interpreter's functions in the place of those of `triton.language`; so does every call of a
    function within a kernel, where it finds nothing left to replace, which took a third of a launch's time.

    Where another version of Triton works otherwise, nothing changes."""
    from triton import language
    from triton.runtime import interpreter

    if not hasattr(interpreter, "_LangPatchScope") or hasattr(interpreter._patch_lang, "__wrapped__"):
        return
    patch, empty = interpreter._patch_lang, interpreter._LangPatchScope
    replaced: set[str] = set()  # modules, as long as a launch lasts

    class Launch:
        def __init__(self, scope: Any, names: set[str]) -> None:
            self.scope, self.names = scope, names
            replaced.update(names)

        def restore(self) -> None:
            replaced.difference_update(self.names)
            self.scope.restore()

    @functools.cache
    def modules(function: Any) -> set[str]:
        seen = (m for m in function.__globals__.values() if inspect.ismodule(m))
        return {m.__name__ for m in seen if m in (language, language.core)}

    @functools.wraps(patch)
    def once(function: Any) -> Any:
        names = modules(function) - replaced
        return Launch(patch(function), names) if names else empty()

    in_numpy, known = interpreter._get_np_dtype, {}

    def looked_up(dtype: Any) -> Any:  # of tiles, of which there are many, as of their elements
        name = dtype.scalar.name
        return known[name] if name in known else known.setdefault(name, in_numpy(dtype))

    interpreter._patch_lang, interpreter._get_np_dtype = once, looked_up
    builder = interpreter.interpreter_builder
    if not builder.options.debug:  # else whole numbers are added twice, for an assertion that is left out
        builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)
    _types_made_once(language.core)
    semantic = interpreter.interpreter_semantic
    broadcast = semantic.broadcast_impl_value

    def together(lhs: Any, rhs: Any) -> Any:  # most are of one shape already
        types = lhs.type, rhs.type
        same = all(t.is_block() for t in types) and list(types[0].shape) == list(types[1].shape)
        return (lhs, rhs) if same else broadcast(lhs, rhs)

    semantic.broadcast_impl_value = together


def _types_made_once(core: Any) -> None:
    """Types of tiles, and what a tensor has of its type, are computed once for each element and shape."""
    of_types: dict[Any, dict[str, Any]] = {}
    of_tensors: dict[str, dict[str, Any]] = {}
    make_type, make_tensor = core.block_type.__init__, core.tensor.__init__

    @functools.wraps(make_type)
    def block_type(self: Any, element_ty: Any, shape: Any) -> None:
        sizes = tuple(getattr(size, "value", size) for size in shape)
        key = (element_ty.name, getattr(element_ty, "address_space", ""), sizes)
        if key not in of_types:
            make_type(self, element_ty, shape)
            of_types[key] = dict(vars(self))
        vars(self).update(of_types[key])

    @functools.wraps(make_tensor)
    def tensor(self: Any, handle: Any, type: Any) -> None:
        if type.name not in of_tensors:
            make_tensor(self, handle, type)
            of_tensors[type.name] = {k: v for k, v in vars(self).items() if k not in ("handle", "type", "dtype")}
        self.handle, self.type, self.dtype = handle, type, type.scalar
        vars(self).update(of_tensors[type.name])

    core.block_type.__init__, core.tensor.__init__ = block_type, tensor


def accesses_outside(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that grows where a kernel touches other memory than that of the tensors it is given; by kernel."""
    from triton.runtime.interpreter import InterpreterBuilder

    from fastssl.ops.triton import launch, operators

    operators.forget_replays()  # which pass ``_run`` by
    found: list[str] = []
    run, watched = launch._run, ("", np.empty((0, 2), dtype=np.int64))

    def running(kernel: Any, grid: Any, arguments: tuple[Any, ...], *rest: Any) -> Any:
        nonlocal watched
        tensors = [t for t in arguments if isinstance(t, torch.Tensor) and t.numel()]
        last = [sum((n - 1) * step for n, step in zip(t.shape, t.stride())) for t in tensors]
        ranges = [(t.data_ptr(), t.data_ptr() + (at + 1) * t.element_size()) for t, at in zip(tensors, last)]
        watched = kernel.__name__, np.array(ranges, dtype=np.int64)
        return run(kernel, grid, arguments, *rest)

    def checked(access: Any, mask_at: int) -> Any:
        def call(self: Any, pointers: Any, *rest: Any, **options: Any) -> Any:
            size = max(pointers.get_element_ty().primitive_bitwidth // 8, 1)
            at = pointers.data.astype(np.int64)[np.broadcast_to(rest[mask_at].data, pointers.data.shape)][:, None]
            kernel, ranges = watched
            if not ((at >= ranges[:, 0]) & (at + size <= ranges[:, 1])).any(1).all():
                found.append(kernel)
            return access(self, pointers, *rest, **options)

        return call

    monkeypatch.setattr(launch, "_run", running)
    for name, mask_at in (("create_masked_load", 0), ("create_masked_store", 1)):
        monkeypatch.setattr(InterpreterBuilder, name, checked(getattr(InterpreterBuilder, name), mask_at))
    return found
