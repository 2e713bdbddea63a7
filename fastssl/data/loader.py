"""A loader that decodes and augments in threads: every core busy, a bounded number of batches ahead."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from fastssl.augment import Augment, RandomResizedCrop, Views
from fastssl.augment.images import read_images
from fastssl.augment.program import Params
from fastssl.data.decode import MAX_PIXELS, ImageError, draft, image_files, open_image, to_array
from fastssl.data.packed import PackedError, PackedImages


def epoch_order(items: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the items in an epoch, the same for any number of processes."""
    return np.random.default_rng([seed, epoch]).permutation(items)


class Batch(NamedTuple):
    """What a loader gives: the views, one tensor each, the labels, and which images they are of."""

    views: list[Tensor]
    labels: Tensor
    ids: Tensor


class Source(Protocol):
    """Images by number. ``read`` may be called from several threads at once."""

    classes: list[str]

    @property
    def labels(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> Any: ...


@dataclass
class ImageFiles:
    """Files, decoded when they are needed."""

    paths: Sequence[Path]
    labels: np.ndarray
    classes: list[str]
    max_pixels: int = MAX_PIXELS

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> np.ndarray:
        with self.open(index) as image:
            return to_array(image, str(self.paths[index]))

    def open(self, index: int) -> Any:
        return open_image(self.paths[index], max_pixels=self.max_pixels)


@dataclass
class Arrays:
    """Images in memory: one array [N, H, W, C], or a list of images."""

    images: Any
    labels: np.ndarray
    classes: list[str]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Any:
        return self.images[index]


class Items:
    """A data set of (image, label) items, as torchvision's; labels come with the images."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.labels = np.zeros(len(dataset), dtype=np.int64)
        self.classes: list[str] = list(getattr(dataset, "classes", []))

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> Any:
        image, label = self.dataset[index]
        self.labels[index] = int(label)
        return image


def source_of(data: Any, labels: Any = None, max_pixels: int = MAX_PIXELS) -> Source:
    """Finds out what ``data`` is: a folder, a packed file, a list of files, images, or a data set."""
    if isinstance(data, (str, Path)):
        if Path(data).is_dir():
            paths, numbers, classes = image_files(data)
            return ImageFiles(paths, _labels(labels, len(paths), numbers), classes, max_pixels)
        return PackedImages(data)
    if isinstance(data, (ImageFiles, Arrays, Items, PackedImages)):
        return data
    if isinstance(data, (list, tuple)) and data and all(isinstance(item, (str, Path)) for item in data):
        return ImageFiles([Path(p) for p in data], _labels(labels, len(data)), [], max_pixels)
    if isinstance(data, (list, tuple, np.ndarray, Tensor)):
        if isinstance(data, (np.ndarray, Tensor)) and data.ndim != 4:
            raise ValueError(f"data: expected images [N, H, W, C] or [N, C, H, W], got shape {tuple(data.shape)}")
        return Arrays(data, _labels(labels, len(data)), [])
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        if labels is not None:
            raise ValueError("labels: a data set brings its own")
        return Items(data)
    got = type(data).__name__
    raise TypeError(f"data: expected a folder, a packed file, files, images or a data set of (image, label), got {got}")


def _labels(given: Any, count: int, default: np.ndarray | None = None) -> np.ndarray:
    if given is None:
        return np.zeros(count, dtype=np.int64) if default is None else default
    array = np.asarray(given)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise ValueError(f"labels: expected {count} integers, got {array.dtype} of shape {array.shape}")
    return array.astype(np.int64)


@dataclass
class _Pending:
    ids: np.ndarray
    views: list[Tensor]
    chunks: list[Future[list[tuple[int, str]]]]


class Loader:
    """Batches of views from a folder, a packed file, arrays or a data set.

    Threads decode and augment: the decoders and the kernels leave Python's lock. At most ``prefetch`` batches wait to
    be taken. What is drawn depends on (seed, epoch, image, view) alone, not on threads, batches or processes.

    Args:
        data: a folder of images (sub-folders are classes), a packed file (:func:`fastssl.data.pack`), a list of
            files, images (an array, a tensor or a list), or a map-style data set of (image, label).
        augment: :class:`fastssl.augment.Views`, or an ``Augment`` for one view.
        batch_size: images a batch, over all processes.
        labels: one integer an image, where ``data`` brings none.
        shuffle: a new order every epoch.
        drop_last: leave out the last batch where it is smaller.
        seed: of order and views.
        workers: threads; None: as many as torch uses.
        prefetch: batches that are made ahead.
        on_error: "raise", or "skip" images that cannot be read: they are counted in ``skipped``.
        draft: let JPEG decoders make 1/2, 1/4 or 1/8 of the pixels where a view needs no more (``RandomResizedCrop``
            alone; views differ by less than a pixel of the smaller image).
        max_pixels: larger images are refused before they are decoded.
        pin_memory: batches in page-locked memory, for copies to a GPU.
        rank: of this process.
        world_size: processes; each takes its share of every batch.

    ``for batch in loader`` is one epoch, and the next ``for`` the next one; ``set_epoch`` chooses. ``skipped`` is a
    list of (image, reason).

    Raises:
        ImageError, PackedError: an image that cannot be read, with ``on_error="raise"``; or with "skip" when no image
            of a batch could be read.
        ValueError: wrong options.

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
        augment: Views | Augment,
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
        pin_memory: bool = False,
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
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise ValueError(f"{name}: expected an integer >= {least}, got {value!r}")
        if rank >= world_size:
            raise ValueError(f"rank: expected less than world_size = {world_size}, got {rank}")
        if batch_size % world_size:
            raise ValueError(f"batch_size: expected a multiple of world_size = {world_size}, got {batch_size}")
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error: expected 'raise' or 'skip', got {on_error!r}")
        if isinstance(augment, Augment):
            augment = Views([augment])
        if not isinstance(augment, Views):
            raise TypeError(f"augment: expected Views or Augment, got {type(augment).__name__}")
        self.source = source_of(data, labels, max_pixels)
        if len(self.source) == 0:
            raise ValueError("data: expected at least one image")
        self.augment, self.batch_size, self.shuffle, self.drop_last = augment, batch_size, shuffle, drop_last
        self.seed, self.workers, self.prefetch, self.on_error = int(seed), workers, prefetch, on_error
        self.draft, self.pin_memory, self.rank, self.world_size = draft, pin_memory, rank, world_size
        self.epoch, self._start = 0, 0
        self.skipped: list[tuple[int, str]] = []
        if len(self) == 0:
            raise ValueError(f"batch_size: {batch_size} is more than the {len(self.source)} images there are")

    @property
    def classes(self) -> list[str]:
        """The names of the classes, where the data has them."""
        return self.source.classes

    def __len__(self) -> int:
        """Batches an epoch."""
        n = len(self.source)
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def set_epoch(self, epoch: int, batch: int = 0) -> None:
        """The next ``for`` is epoch ``epoch``, from batch ``batch`` on: how a run resumes."""
        if epoch < 0 or not 0 <= batch <= len(self):
            raise ValueError(f"epoch, batch: expected epoch >= 0 and 0 <= batch <= {len(self)}, got {epoch}, {batch}")
        self.epoch, self._start = int(epoch), int(batch)

    def order(self, epoch: int) -> np.ndarray:
        """The images in the order of an epoch, the same for any number of processes."""
        n = len(self.source)
        return epoch_order(n, self.seed, epoch) if self.shuffle else np.arange(n)

    def __iter__(self) -> Iterator[Batch]:
        epoch, start = self.epoch, self._start
        self.epoch, self._start = epoch + 1, 0
        return self._run(epoch, start)

    def _run(self, epoch: int, start: int) -> Iterator[Batch]:
        order = self.order(epoch)
        workers = self.workers or torch.get_num_threads()
        pool = ThreadPoolExecutor(workers, thread_name_prefix="fastssl-loader")
        stop = threading.Event()
        pending: deque[_Pending] = deque()
        try:
            upcoming = iter(range(start, len(self)))
            while True:
                while len(pending) <= self.prefetch and (k := next(upcoming, None)) is not None:
                    pending.append(self._submit(pool, stop, order, epoch, k, workers))
                if not pending:
                    return
                yield self._finish(pending.popleft())
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _submit(
        self, pool: ThreadPoolExecutor, stop: threading.Event, order: np.ndarray, epoch: int, k: int, workers: int
    ) -> _Pending:
        ids = order[k * self.batch_size : (k + 1) * self.batch_size]
        share = -(-len(ids) // self.world_size)
        ids = ids[self.rank * share : (self.rank + 1) * share]
        views = [program.empty(len(ids)) for program in self.augment.programs]
        size = max(1, min(16, len(ids) // (2 * workers)))
        chunks = [
            pool.submit(self._work, stop, ids[row : row + size], row, views, epoch) for row in range(0, len(ids), size)
        ]
        return _Pending(ids, views, chunks)

    def _work(
        self, stop: threading.Event, ids: np.ndarray, row: int, views: list[Tensor], epoch: int
    ) -> list[tuple[int, str]]:
        """Views of some images into their rows; returns the rows of those that could not be read, and why."""
        failed: list[tuple[int, str]] = []
        for k, index in enumerate(ids):
            if stop.is_set():
                break
            try:
                self._one(int(index), row + k, views, epoch)
            except (ImageError, PackedError, OSError) as error:
                if self.on_error == "raise":
                    raise
                failed.append((row + k, str(error)))
        return failed

    def _one(self, index: int, row: int, views: list[Tensor], epoch: int) -> None:
        programs = self.augment.programs
        if isinstance(self.source, ImageFiles):
            with self.source.open(index) as image:
                params = self._draw((image.height, image.width), index, epoch)
                size = (image.height, image.width)
                if self.draft and draft(image, _scale_of(programs, params)):
                    params = _scaled(programs, params, size, (image.height, image.width))
                batch = read_images([to_array(image, str(self.source.paths[index]), shared=True)])
        else:
            batch = read_images([self.source.read(index)])
            params = self._draw(tuple(batch.sizes[0].tolist()), index, epoch)
        for program, drawn, out in zip(programs, params, views):
            program._make(batch, drawn, None, True, out[row : row + 1])

    def _draw(self, size: tuple[int, ...], index: int, epoch: int) -> list[Params]:
        return self.augment.sample([size], seed=self.seed, epoch=epoch, ids=[index])

    def _finish(self, batch: _Pending) -> Batch:
        failed = [item for chunk in batch.chunks for item in chunk.result()]
        ids, views = batch.ids, batch.views
        if failed:
            self.skipped += [(int(ids[row]), reason) for row, reason in failed]
            kept = np.delete(np.arange(len(ids)), [row for row, _ in failed])
            if len(kept) == 0:
                raise ImageError(f"no image of a batch of {len(ids)} could be read; the first: {failed[0][1]}")
            ids, views = ids[kept], [view[torch.from_numpy(kept)] for view in views]
        if self.pin_memory:
            views = [view.pin_memory() for view in views]
        return Batch(views, torch.from_numpy(self.source.labels[ids]), torch.from_numpy(ids.copy()))


def _scale_of(programs: Sequence[Augment], params: Sequence[Params]) -> int:
    """The largest of 1, 2, 4, 8 by which an image may be smaller and no view has to be made larger for it."""
    room = 8.0
    for program, drawn in zip(programs, params):
        if not isinstance(program.operations[0], RandomResizedCrop):
            return 1
        height, width = drawn.values[0, 2:4]
        room = min(room, height / program.size[0], width / program.size[1])
    return max(s for s in (1, 2, 4, 8) if s <= max(room, 1.0))


def _scaled(
    programs: Sequence[Augment], params: Sequence[Params], size: tuple[int, int], smaller: tuple[int, int]
) -> list[Params]:
    """The same boxes on a smaller image."""
    result = []
    for drawn in params:
        values = drawn.values.copy()
        for axis in (0, 1):
            ratio = smaller[axis] / size[axis]
            length = min(max(round(values[0, 2 + axis] * ratio), 1), smaller[axis])
            values[0, 2 + axis] = length
            values[0, axis] = min(round(values[0, axis] * ratio), smaller[axis] - length)
        result.append(Params(values, drawn.columns))
    return result
