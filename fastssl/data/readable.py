"""Data without the items that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import numpy as np

from fastssl.data.packed import Readable
from fastssl.data.prefetch import prefetch_items
from fastssl.data.source import Source

Progress = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]


def readable(source: Source, progress: Progress | None = None) -> tuple[Source, dict[int, str]]:
    """Reads every item of a source once, and leaves out those that cannot be read.

    Args:
        source: the source.
        progress: ``progress(name)`` is a context that yields a function of (done, total).

    Returns:
        The source (the same one if all can be read), and the reasons by index.

    Raises:
        ValueError: no item can be read.

    Example:
        >>> from fastssl.data import digits
        >>> from fastssl.data.readable import readable
        >>> source, reasons = readable(digits())
        >>> len(source), reasons
        (1797, {})
    """
    tried = Readable(source)
    with nullcontext(lambda done, total: None) if progress is None else progress(source.name) as show:
        for done, _ in enumerate(prefetch_items(tried), 1):
            show(done, len(source))
    if not tried.failed:
        return source, {}
    if len(tried.failed) == len(source):
        raise ValueError(f"data: no item of {source.name} can be read; the first: {tried.failed[min(tried.failed)]}")
    kept = np.setdiff1d(np.arange(len(source)), list(tried.failed))
    left = source.subset(kept, source.name)
    left.where = source.where
    return left, tried.failed


class LeavingOut:
    """Opened data, each without what cannot be read in it."""

    def __init__(self, warn: Callable[[str], None], progress: Progress | None) -> None:
        self.warn, self.progress = warn, progress
        self.known: dict[tuple[str, str, str], Source] = {}

    def __call__(self, source: Source, name: str, part: str) -> Source:
        key = (name, part, source.content_key)
        if key not in self.known:
            self.known[key], failed = readable(source, self.progress)
            if failed:
                first = failed[min(failed)]
                self.warn(f"{source.name}: {len(failed):,} of {len(source):,} items left out; the first: {first}")
        return self.known[key]


current: ContextVar[LeavingOut | None] = ContextVar("fastssl_leaving_out", default=None)


@contextmanager
def unreadable_left_out(warn: Callable[[str], None], progress: Progress | None = None) -> Iterator[None]:
    """Context in which :func:`fastssl.data.open` reads data once and leaves out the items that cannot be read.

    Args:
        warn: called once for each data set that has such items.
        progress: as for :func:`readable`.
    """
    token = current.set(LeavingOut(warn, progress))
    try:
        yield
    finally:
        current.reset(token)
