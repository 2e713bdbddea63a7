"""Operations of torch with kernels for CPUs, used in its place (docs/decisions/0021-operations-on-cpus.md)."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch.nn.functional as TF

from fastssl.functional._cpu.attention import ATTENTION, attention
from fastssl.functional._cpu.dropout import DROPOUT, dropout
from fastssl.functional._cpu.gelu import GELU, gelu
from fastssl.functional._cpu.plain import plain

__all__ = ["ATTENTION", "DROPOUT", "GELU", "attention", "dropout", "faster_dropout", "gelu", "plain"]

REPLACED = {"dropout": (dropout, DROPOUT), "scaled_dot_product_attention": (attention, ATTENTION)}
_contexts = 0  # that have not ended
_changing = threading.Lock()


@contextlib.contextmanager
def faster_dropout() -> Iterator[None]:
    """Context within which dropout takes a fraction of the time on CPUs, also that of attention.

    The masks are those that torch draws with the same seed, bit for bit: states of its Mersenne Twister are made and
    compared in vectors, one byte per element is stored instead of a factor, and the products are torch's. Attention
    that is trained, with dropout or without, is one operation in each pass, which stores no weights; it is computed in
    float32. ``dropout`` and ``scaled_dot_product_attention`` of ``torch.nn.functional`` are replaced, for all threads,
    until the last context ends. What they do not cover runs torch's own code: calls in place, grouped queries, few
    elements, heads of long texts without dropout, other devices, subclasses of tensors, and what is compiled, traced,
    or transformed by ``torch.func``.

    Forward and backward passes belong into it where parts with dropout or attention are checkpointed: the backward pass
    computes them again, and ``torch.utils.checkpoint`` refuses what is stored otherwise.

    Example:
        >>> import torch
        >>> from fastssl.models import faster_dropout
        >>> x = torch.ones(512, 512, requires_grad=True)
        >>> with faster_dropout():
        ...     torch.nn.functional.dropout(x, 0.1).sum().backward()
    """
    _count(1)
    try:
        yield
    finally:
        _count(-1)


def _count(change: int) -> None:
    global _contexts
    with _changing:
        _contexts += change
        for name, either in REPLACED.items():
            if getattr(TF, name) in either:  # else replaced by somebody else, who calls one of them
                setattr(TF, name, either[_contexts == 0])
