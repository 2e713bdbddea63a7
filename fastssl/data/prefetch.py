"""Prefetching: items of a source in order, read ahead by several threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from fastssl.data.source import Item, Source


def prefetch_items(source: Source, ids: Iterable[int] | None = None, workers: int | None = None) -> Iterator[Item]:
    """Yields items in order, reading at most four items per thread ahead of the consumer.

    Args:
        source: the source, read by several threads.
        ids: indices of the items, in order; None: all.
        workers: number of threads; None: as many as torch uses.

    Example:
        >>> import numpy as np
        >>> from fastssl.data import ArraySource
        >>> source = ArraySource(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2, ['a', 'b'])
        >>> from fastssl.data import prefetch_items
        >>> [item.label for item in prefetch_items(source)]
        [0, 1, 0, 1]
    """
    workers = workers or torch.get_num_threads()
    upcoming = iter(range(len(source)) if ids is None else ids)
    pending: deque[Future[Item]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="fastssl-read")
    try:
        while True:
            while len(pending) < 4 * workers and (index := next(upcoming, None)) is not None:
                pending.append(pool.submit(source.read, int(index)))
            if not pending:
                return
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
