"""Features of images: a frozen encoder's, and the baselines that every encoder should beat."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl.data import Batch, Loader, Source, read_ahead
from fastssl.data import open as open_source
from fastssl.data.views import PlainExamples, drawings
from fastssl.models import Encoder

MEMORY = 2**25  # bytes of the images of a batch
LARGE = 2**30  # bytes of features from which on they lie in a file that has no name
CHUNK = 8192  # rows of features that are worked on at once

Pass = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]
_watched: ContextVar[Pass | None] = ContextVar("fastssl_watched_passes", default=None)


@contextmanager
def watched_passes(watch: Pass) -> Iterator[None]:
    """Within it every pass over data is shown by ``watch(name)``, a context that gives a function of (done, total)."""
    token = _watched.set(watch)
    try:
        yield
    finally:
        _watched.reset(token)


@contextmanager
def watched(name: str) -> Iterator[Callable[[int, int], None]]:
    """A function of (done, total) for what shows passes."""
    watch = _watched.get()
    if watch is None:
        yield lambda done, total: None
        return
    with watch(name) as show:
        yield show


def room(rows: int, columns: int) -> Tensor:
    """float32 [rows, columns] of zeros: in memory, or in a file without a name where they are many."""
    if 4 * rows * columns < LARGE:
        return torch.zeros(rows, columns)
    with tempfile.TemporaryFile(prefix="fastssl-features-") as file:
        return torch.from_numpy(np.memmap(file, np.float32, "w+", shape=(rows, columns)))


def is_large(features: Tensor) -> bool:
    """Whether features lie in a file."""
    return 4 * features.numel() >= LARGE


def by_chunks(features: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """``function`` of rows, to rows of the same length, some at a time."""
    if not is_large(features):
        return function(features)
    made = room(*features.shape)
    for to, rows in zip(made.split(CHUNK), features.split(CHUNK)):
        to.copy_(function(rows))
    return made


def batch_rows(encoder: Encoder) -> int:
    """How many images are encoded at once: 512 where they are small, as many as take 32 MiB where they are large."""
    rows = MEMORY // (4 * encoder.channels * encoder.size**2)
    return min(512, max(1, rows // 16 * 16))


def encode(
    encoder: Encoder,
    data: Any,
    readout: str = "spatial",
    batch: int | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Features [N, C] of the first drawing of every item, streamed: of the images a few batches are in memory.

    Args:
        encoder: used in evaluation mode.
        data: what :func:`fastssl.data.open` takes: images, a path, a data set, a source.
        readout: "pooled" (the mean over positions) or "spatial" (a 4 x 4 map, flattened).
        batch: images at once; None: as :func:`batch_rows` says.
        progress: called with the number of images that are done, and of all.

    Raises:
        ValueError: unknown readout.

    Example:
        >>> import numpy as np
        >>> from fastssl.evaluate import encode
        >>> from fastssl.models import build_encoder
        >>> encoder = build_encoder({"name": "resnet", "size": 32, "width": 8})
        >>> encode(encoder, np.zeros((5, 64, 48, 3), np.uint8), "pooled").shape
        torch.Size([5, 32])
    """
    source, done = open_source(data), 0
    features: Tensor | None = None
    for rows, ids in encode_batches(encoder, source, readout, batch):
        if features is None:
            features = room(len(source), rows.shape[1])
        features[ids] = rows
        done += len(rows)
        if progress is not None:
            progress(done, len(source))
    if features is not None:
        return features
    return torch.zeros(0, int(encoder.shape_of(_readout(encoder, readout))[1]))


def _readout(encoder: Encoder, readout: str) -> Callable[[Tensor], Tensor]:
    if readout not in ("pooled", "spatial"):
        raise ValueError(f"readout: expected 'pooled' or 'spatial', got {readout!r}")
    return encoder if readout == "pooled" else encoder.spatial


@torch.no_grad()
def encode_batches(
    encoder: Encoder, source: Source, readout: str = "spatial", batch: int | None = None
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Features of a batch of items after the other, float32 [B, C] on the CPU, and the numbers of the items [B].

    Raises:
        ValueError: unknown readout.
    """
    function, training = _readout(encoder, readout), encoder.training
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    encoder.eval()
    try:
        for rows in _plain(source, encoder.size, batch or batch_rows(encoder), encoder.channels):
            assert rows.ids is not None
            x = rows.views[0].to(device).contiguous(memory_format=torch.channels_last)
            yield function(x).float().cpu(), rows.ids
    finally:
        encoder.train(training)


def _plain(source: Source, size: int, batch: int, channels: int) -> Iterator[Batch]:
    if not len(source):
        return
    done = 0
    with watched(source.name) as show:
        for rows in Loader(source, PlainExamples(size, channels), batch, shuffle=False, drop_last=False):
            yield rows
            done += len(rows.views[0])
            show(done, len(source))


def plain_images(source: Source, size: int, batch: int = 512, channels: int = 3) -> Iterator[Tensor]:
    """The first drawing of every item as evaluation shows it to an encoder, float [B, channels, size, size] in
    [-1, 1]."""
    for rows in _plain(source, size, batch, channels):
        yield rows.views[0]


def pixels(data: Any, size: int, channels: int = 3) -> Tensor:
    """The images themselves as features, at the size that the encoder sees.

    Args:
        data: what :func:`fastssl.data.open` takes.
        size: pixels of a side.
        channels: 3, or 1 for grey.

    Example:
        >>> import numpy as np
        >>> from fastssl.evaluate import pixels
        >>> pixels(np.zeros((2, 8, 8, 3), np.uint8), 8).shape
        torch.Size([2, 192])
    """
    source, done = open_source(data), 0
    made = room(len(source), channels * size * size)
    for x in plain_images(source, size, channels=channels):
        made[done : done + len(x)] = x.flatten(1)
        done += len(x)
    return made


def color_histogram(data: Any, bins: int = 4) -> Tensor:
    """What colour alone says: the root of the share of pixels in each of bins^3 colours, of the first three channels.

    Roots, so that cosine compares histograms as Hellinger's distance does: shares themselves do 7 points worse.
    """
    source = open_source(data)
    rows = room(len(source), bins**3)
    with watched(source.name) as show:
        for k, item in enumerate(read_ahead(source)):
            rows[k] = _shares(np.asarray(drawings([item])[0]), bins)
            show(k + 1, len(source))
    return rows.sqrt_()


def _shares(image: np.ndarray, bins: int) -> Tensor:
    levels = (image[..., :3].astype(np.int64) * bins) // 256
    index = (levels[..., 0] * bins + levels[..., levels.shape[-1] // 2]) * bins + levels[..., -1]
    return torch.from_numpy(np.bincount(index.ravel(), minlength=bins**3) / index.size)


def centred(features: Tensor, mean: Tensor | None = None) -> Tensor:
    """Features without their mean, of unit length: what cosine similarity should compare."""
    middle = features.mean(0) if mean is None else mean
    return by_chunks(features, lambda rows: torch.nn.functional.normalize(rows - middle, dim=1))


def labels_of(source: Source) -> Tensor:
    """int64 [N] of a labelled source; [N, classes] of -1, 0 and 1 where an item has several.

    Raises:
        ValueError: labels that are not known, of all items or of some.
    """
    labels = source.labels
    if labels is None:
        read = [item.label for item in read_ahead(source)]
        if any(label is None for label in read):
            raise ValueError(f"data: expected labels to evaluate with, {source.name} has none")
        labels = np.array(read)
    if labels.ndim == 1 and bool((labels < 0).any()):
        missing = int((labels < 0).sum())
        raise ValueError(f"data: expected a label of every item, {missing} of {source.name} have none")
    return torch.from_numpy(np.asarray(labels, dtype=np.int64))
