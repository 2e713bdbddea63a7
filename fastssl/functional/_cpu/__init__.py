"""Operations of torch with kernels for CPUs, used in its place (docs/decisions/0021-operations-on-cpus.md)."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch.nn.functional as TF

from fastssl.functional._cpu.attention import ATTENTION, CONTEXTS, attention
from fastssl.functional._cpu.dropout import DROPOUT, dropout
from fastssl.functional._cpu.gelu import GELU, gelu
from fastssl.functional._cpu.plain import plain

__all__ = ["ATTENTION", "CONTEXTS", "DROPOUT", "GELU", "attention", "dropout", "faster_dropout", "gelu", "plain"]

_changing = threading.Lock()


def _while_wanted(own: Callable[..., Any], torchs: Callable[..., Any]) -> Callable[..., Any]:
    """What is installed. Whoever wraps it within a context may keep it for longer."""

    @functools.wraps(own)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (own if CONTEXTS else torchs)(*args, **kwargs)

    return call


REPLACED = {
    "dropout": (_while_wanted(dropout, DROPOUT), DROPOUT),
    "scaled_dot_product_attention": (_while_wanted(attention, ATTENTION), ATTENTION),
}


@contextlib.contextmanager
def faster_dropout(exact: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Context within which dropout and attention take a fraction of the time on CPUs.

    The masks are those that torch draws with the same seed, bit for bit: states of its Mersenne Twister are made and
    compared in vectors, one byte per element is stored instead of a factor, and the products are torch's. Attention
    that is trained, with dropout or without, is one operation in each pass, which stores no weights; it is computed in
    float32. ``dropout`` and ``scaled_dot_product_attention`` of ``torch.nn.functional`` are replaced, for all threads,
    until the last context ends. What they do not cover runs torch's own code: calls in place; grouped queries; dropout
    of less than 8,192 elements; attention of few pairs, of fewer heads than threads, and without dropout of heads whose
    keys have more than 32,768 elements; other devices, subclasses of tensors, chosen backends (``sdpa_kernel``); and
    what is compiled, traced, or transformed by ``torch.func``.

    Call ``backward`` within it, too, where parts of a network are checkpointed: they are computed again there, and
    ``torch.utils.checkpoint`` with ``use_reentrant=False`` raises a CheckpointError if other tensors are stored.

    Args:
        exact: asked at each call; where all contexts say so, attention in 16 bits or within autocast is torch's.

    Example:
        >>> import torch
        >>> from fastssl.models import faster_dropout
        >>> x = torch.ones(512, 512, requires_grad=True)
        >>> with faster_dropout():
        ...     torch.nn.functional.dropout(x, 0.1).sum().backward()
    """
    _change(CONTEXTS.append, exact)
    try:
        yield
    finally:
        _change(CONTEXTS.remove, exact)


def _change(how: Callable[[Any], None], context: Callable[[], bool]) -> None:
    with _changing:
        how(context)
        for name, either in REPLACED.items():
            if getattr(TF, name) in either:  # else replaced by somebody else, who calls one of them
                setattr(TF, name, either[not CONTEXTS])
