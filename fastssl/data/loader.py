"""The loader: reads items and makes a method's examples in threads, prefetching a bounded number of batches."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from fastssl._options import integer
from fastssl.augment import Augment, Views
from fastssl.data.batch import Assembly, Batch
from fastssl.data.decode import MAX_PIXELS, ImageError
from fastssl.data.opening import open
from fastssl.data.packed import READ_ERRORS
from fastssl.data.source import Item, Source
from fastssl.data.threads import background_pool
from fastssl.data.views import AugmentExamples

CHUNK = 16  # items of a batch per task of a thread


class Examples(Protocol):
    """Turns items into rows of a batch: a :class:`fastssl.methods.Method`, or plain views.

    Both functions are pure, so that a batch may be split among threads anywhere.
    """

    def examples(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> Any:
        """Rows of a batch: a named tuple of tensors, and of lists of tensors."""
        ...

    def reduction(self, size: tuple[int, int], seed: int, epoch: int, index: int) -> int:
        """The factor (1, 2, 4 or 8) by which an image of ``size`` may be decoded smaller for an item's examples."""
        ...


def epoch_order(items: int, seed: int, epoch: int, weights: np.ndarray | None = None) -> np.ndarray:
    """The order of items in an epoch, for any number of processes: a permutation, or draws by ``weights``."""
    if weights is None:
        return np.random.default_rng([seed, epoch]).permutation(items)
    return np.random.default_rng([seed, epoch, 3]).choice(items, items, p=weights / weights.sum())


class _Share(NamedTuple):
    """This process's items of a batch, and the order of the epoch, in which the batch ends at ``stop``."""

    epoch: int
    ids: np.ndarray
    order: np.ndarray
    stop: int


class _Pending:
    """A batch whose chunks are being computed; the thread that finishes the last chunk finishes it."""

    def __init__(self, share: _Share, sizes: Sequence[int], pin_memory: bool) -> None:
        self.share, self.batch = share, Assembly(sizes, pin_memory)
        self.failed: list[tuple[int, str]] = []
        self.result: Future[Any] = Future()
        self._left, self._lock = len(sizes), threading.Lock()

    def done(self, chunk: int, part: Any, failed: list[tuple[int, str]]) -> None:
        self.batch.put(chunk, part)
        with self._lock:
            self.failed += failed
            self._left -= 1
            last = self._left == 0 and not self.result.done()
        if last:
            self.result.set_result(self.batch.finished())

    def broken(self, error: BaseException) -> None:
        with self._lock:
            if not self.result.done():
                self.result.set_exception(error)


class Loader:
    """Batches of examples from any source.

    Threads read, decode and augment while the encoder computes: decoders and kernels release the GIL. At most
    ``prefetch`` finished batches are buffered. Random draws are keyed by (seed, epoch, item, view) and do not depend on
    threads, batches or processes.

    Args:
        data: anything that :func:`fastssl.data.open` takes, or what it opened: with a ``value_range`` for images of
            more than 8 bits, or other options.
        examples: a :class:`fastssl.methods.Method`, :class:`fastssl.augment.Views`, or an ``Augment`` for one view.
        batch_size: items per batch, over all processes.
        labels: one integer per item, if ``data`` has no labels.
        shuffle: a new order in every epoch.
        drop_last: drop the last batch if it is incomplete. Otherwise, with several processes, it is padded with the
            first items of the epoch so that all processes have the same number of rows.
        seed: seed of order and views.
        workers: number of threads; None: as many as torch uses.
        prefetch: number of batches to prefetch.
        on_error: "raise", or "skip" unreadable images and list them in ``skipped``. A batch of which none can be read
            takes the next of the epoch that can be.
        draft: let JPEG decoders decode at 1/2, 1/4 or 1/8 resolution if a view needs no more (``RandomResizedCrop``
            only; views differ by less than a pixel of the smaller image). False: always decode at full resolution.
        max_pixels: larger images raise an error before they are decoded.
        orientation: apply the EXIF orientation.
        pin_memory: batches in pinned memory, for copies to a GPU.
        planned: where the method allows it, ``batch.views.make()`` makes the views, on the device that the batch has
            been copied to: a GPU makes them, and is sent the images only.
        rank: rank of this process.
        world_size: number of processes; each takes its share of every batch.

    Each iteration is one epoch; ``set_epoch`` selects the next one. ``skipped`` is a list of (item, reason).

    Raises:
        ImageError, PackedError, ShardError: an unreadable image, with ``on_error="raise"``; with "skip", data
            without any readable image.
        ValueError: invalid options.

    Example:
        >>> import numpy as np
        >>> from fastssl.augment import SimCLRAugment
        >>> from fastssl.data import Loader
        >>> images = np.random.default_rng(0).integers(0, 256, (100, 40, 40, 3), dtype=np.uint8)
        >>> loader = Loader(images, SimCLRAugment(32), batch_size=25)
        >>> [tuple(batch.views[0].shape) for batch in loader]
        [(25, 3, 32, 32), (25, 3, 32, 32), (25, 3, 32, 32), (25, 3, 32, 32)]
    """

    def __init__(
        self,
        data: Any,
        examples: Examples | Views | Augment,
        batch_size: int,
        *,
        labels: Any = None,
        shuffle: bool = True,
        drop_last: bool = True,
        seed: int = 0,
        workers: int | None = None,
        prefetch: int = 2,
        on_error: str = "raise",
        draft: bool = True,
        max_pixels: int = MAX_PIXELS,
        orientation: bool = True,
        pin_memory: bool = False,
        planned: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("workers", 1 if workers is None else workers, 1),
            ("prefetch", prefetch, 1),
            ("max_pixels", max_pixels, 1),
            ("world_size", world_size, 1),
            ("seed", seed, 0),
            ("rank", rank, 0),
        ):
            integer(name, value, least)
        if rank >= world_size:
            raise ValueError(f"rank: expected less than world_size = {world_size}, got {rank}")
        if batch_size % world_size:
            raise ValueError(f"batch_size: expected a multiple of world_size = {world_size}, got {batch_size}")
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error: expected 'raise' or 'skip', got {on_error!r}")
        if isinstance(examples, (Views, Augment)):
            examples = AugmentExamples(examples)
        if not hasattr(examples, "examples"):
            raise TypeError(f"examples: expected a method, Views or Augment, got {type(examples).__name__}")
        self.source: Source = open(data, labels=labels, max_pixels=max_pixels, orientation=orientation)
        if len(self.source) == 0:
            raise ValueError("data: expected at least one image")
        self.examples, self.batch_size, self.shuffle, self.drop_last = examples, batch_size, shuffle, drop_last
        self.seed, self.workers, self.prefetch, self.on_error = int(seed), workers, prefetch, on_error
        self.draft, self.pin_memory, self.rank, self.world_size = draft, pin_memory, rank, world_size
        self._make = getattr(examples, "planned_examples", examples.examples) if planned else examples.examples
        self.weights: np.ndarray | None = None  # relative sampling weights of the items
        self.epoch, self._start = 0, 0
        self.skipped: list[tuple[int, str]] = []
        if len(self) == 0:
            raise ValueError(f"batch_size: expected at most {len(self.source)}, the number of images, got {batch_size}")

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes, if the data has them."""
        return self.source.classes

    def __len__(self) -> int:
        """Batches per epoch."""
        n = len(self.source)
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def set_epoch(self, epoch: int, batch: int = 0) -> None:
        """Sets the epoch, and the batch to start from, of the next iteration; used for resuming."""
        if epoch < 0 or not 0 <= batch <= len(self):
            raise ValueError(f"epoch, batch: expected epoch >= 0 and 0 <= batch <= {len(self)}, got {epoch}, {batch}")
        self.epoch, self._start = int(epoch), int(batch)

    def order(self, epoch: int) -> np.ndarray:
        """The order of items in an epoch, for any number of processes."""
        n = len(self.source)
        return epoch_order(n, self.seed, epoch, self.weights) if self.shuffle else np.arange(n)

    def __iter__(self) -> Iterator[Any]:
        epoch, start = self.epoch, self._start
        self.epoch, self._start = epoch + 1, 0
        return self.run(epoch, start)

    def run(self, epoch: int, batch: int = 0, epochs: int = 1) -> Iterator[Any]:
        """Batches of ``epochs`` consecutive epochs, prefetched across epochs, from ``batch`` of epoch ``epoch`` on."""
        workers = self.workers or torch.get_num_threads()
        pool, stop = background_pool(workers), threading.Event()
        pending: deque[_Pending] = deque()
        try:
            upcoming = self._shares(epoch, batch, epochs)
            while True:
                while len(pending) <= self.prefetch and (share := next(upcoming, None)) is not None:
                    pending.append(self._submit(pool, stop, share))
                if not pending:
                    return
                yield self._finish(pending.popleft())
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _shares(self, first: int, start: int, epochs: int) -> Iterator[_Share]:
        """This process's items of every batch."""
        for epoch in range(first, first + epochs):
            order = self.order(epoch)
            for k in range(start, len(self)):
                ids = order[k * self.batch_size : (k + 1) * self.batch_size]
                missing = -len(ids) % self.world_size
                if missing:
                    ids = np.concatenate([ids, np.resize(order, missing)])
                yield _Share(epoch, np.split(ids, self.world_size)[self.rank], order, (k + 1) * self.batch_size)
            start = 0

    def _submit(self, pool: ThreadPoolExecutor, stop: threading.Event, share: _Share) -> _Pending:
        chunks = [share.ids[cut : cut + CHUNK] for cut in range(0, len(share.ids), CHUNK)]
        pending = _Pending(share, [len(chunk) for chunk in chunks], self.pin_memory)
        for k, chunk in enumerate(chunks):
            pool.submit(self._work, stop, pending, k, chunk, share.epoch)
        return pending

    def _work(self, stop: threading.Event, pending: _Pending, chunk: int, ids: np.ndarray, epoch: int) -> None:
        if stop.is_set():
            return
        try:
            pending.done(chunk, *self._chunk(ids, epoch))
        except BaseException as error:
            pending.broken(error)

    def _chunk(self, ids: np.ndarray, epoch: int) -> tuple[Any, list[tuple[int, str]]]:
        """Examples of the items, and (item, reason) of the unreadable ones."""
        items, kept = [], []
        failed: list[tuple[int, str]] = []
        for index in ids.tolist():
            try:
                items.append(self.source.read(index, self._reduction(index, epoch) if self.draft else None))
                kept.append(index)
            except READ_ERRORS as error:
                if self.on_error == "raise":
                    raise
                failed.append((index, str(error)))
        if not items:
            return None, failed
        return self._make(items, self.seed, epoch, np.array(kept, dtype=np.int64)), failed

    def _reduction(self, index: int, epoch: int) -> Callable[[tuple[int, int]], int]:
        return lambda size: self.examples.reduction(size, self.seed, epoch, index)

    def _finish(self, pending: _Pending) -> Any:
        batch = pending.result.result()
        self.skipped += pending.failed
        least = getattr(self.examples, "min_rows", 1) if self.world_size == 1 else 1  # others may have rows
        if pending.failed and len(pending.share.ids) - len(pending.failed) < least:
            return self._filled(pending, least)
        return batch

    def _filled(self, pending: _Pending, least: int) -> Any:
        """A batch of ``least`` items: those that could be read, and the next in the order of the epoch that can be."""
        share, unread = pending.share, {index for index, _ in pending.failed}
        ids = [index for index in share.ids.tolist() if index not in unread]
        read, own = len(ids), set(share.ids.tolist())
        for index in np.roll(share.order, -share.stop)[self.rank :: self.world_size].tolist():
            if index not in own:
                own.add(index)
                with contextlib.suppress(*READ_ERRORS):
                    self.source.read(index)
                    ids.append(index)
            if len(ids) == least:
                batch = Assembly([least], self.pin_memory)
                batch.put(0, self._chunk(np.array(ids, dtype=np.int64), share.epoch)[0])
                return batch.finished()
        raise ImageError(
            f"{read} of {len(share.ids)} items of a batch could be read, expected at least {least}; the first of the "
            f"others: {pending.failed[0][1]}; {len(ids) - read} further items of {self.source.name} can be read"
        )


__all__ = ["Batch", "Examples", "Loader", "epoch_order"]
