"""Settings for the time of a ``with`` block, which compiled code sees too."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class Scoped(Generic[T]):
    """A context variable that ``torch.compile`` can trace.

    A compiler cannot watch a context, but it watches attributes: the value is kept in one too, which compiled code
    reads, and which has it compiled again where it changed.
    """

    def __init__(self, name: str, default: T) -> None:
        self._context: contextvars.ContextVar[T] = contextvars.ContextVar(name, default=default)
        self._traced = default

    def get(self) -> T:
        return self._traced if torch.compiler.is_compiling() else self._context.get()

    @contextlib.contextmanager
    def set(self, value: T) -> Iterator[None]:
        """Within it ``get`` returns the value."""
        token = None if torch.compiler.is_compiling() else self._context.set(value)
        before, self._traced = self._traced, value
        try:
            yield
        finally:
            if token is not None:
                self._context.reset(token)
                before = self._context.get()  # another thread's value may have been there when the block began
            self._traced = before
