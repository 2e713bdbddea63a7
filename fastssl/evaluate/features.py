"""Features of images: those of a frozen encoder, and baselines (raw pixels, colour histogram)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl.data import Batch, Loader, Source, prefetch_items
from fastssl.data import open as open_source
from fastssl.data.source import are_scores
from fastssl.data.views import CenterCropExamples, select_images
from fastssl.evaluate.given import unit_length
from fastssl.models import Encoder
from fastssl.models.given import CHUNK
from fastssl.models.modes import evaluation_mode

MEMORY = 2**25  # bytes of images per batch
LARGE = 2**30  # bytes of features from which on they are stored in an anonymous temporary file

Report = Callable[[int, int], None]  # of (done, total)
ProgressFactory = Callable[[str], AbstractContextManager[Report]]
_progress_factory: ContextVar[ProgressFactory | None] = ContextVar("fastssl_progress_bars", default=None)
_part: ContextVar[Report | None] = ContextVar("fastssl_part", default=None)  # what a pass within a job reports to


@contextmanager
def progress_bars(factory: ProgressFactory) -> Iterator[None]:
    """Context in which passes over data report to ``factory(name)``, a context that yields (done, total) -> None."""
    token = _progress_factory.set(factory)
    try:
        yield
    finally:
        _progress_factory.reset(token)


@contextmanager
def progress_bar(name: str) -> Iterator[Report]:
    """Yields the function of (done, total) that reports the progress of a pass; of one within a part of :func:`job` as
    progress of the job, and what it contains not at all."""
    factory, part = _progress_factory.get(), _part.get()
    if part is not None:
        token = _part.set(_unseen)
        try:
            yield part
        finally:
            _part.reset(token)
        return
    if factory is None:
        yield _unseen
        return
    with factory(name) as show:
        yield show


def _unseen(done: int, total: int) -> None:
    pass


@contextmanager
def job(name: str, parts: int) -> Iterator[Callable[..., AbstractContextManager[None]]]:
    """Shows passes as one job, so that what is left of all of them is estimated: yields a function of (length=1) whose
    context is a part of the job. The lengths sum to ``parts``."""
    finished, unit = 0, 0  # the steps of the first pass, in which the others are counted, too
    with progress_bar(name) as show:

        @contextmanager
        def part(length: int = 1) -> Iterator[None]:
            nonlocal finished

            def report(done: int, steps: int) -> None:
                nonlocal unit
                unit = unit or steps
                show(round((finished + length * done / max(steps, 1)) * unit), parts * unit)

            token = _part.set(report)
            try:
                yield
            finally:
                _part.reset(token)
            finished += length
            show(finished * unit, parts * unit)  # a pass that ends early is done, too

        yield part


def allocate_features(rows: int, columns: int) -> Tensor:
    """float32 [rows, columns] of zeros, in memory, or memory-mapped from a temporary file if large."""
    if 4 * rows * columns < LARGE:
        return torch.zeros(rows, columns)
    with tempfile.TemporaryFile(prefix="fastssl-features-") as file:
        return torch.from_numpy(np.memmap(file, np.float32, "w+", shape=(rows, columns)))


def is_large(features: Tensor) -> bool:
    """Whether features are stored in a file."""
    return 4 * features.numel() >= LARGE


def map_chunks(features: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Applies a row-wise function that keeps the shape, chunk by chunk if the features are large."""
    if not is_large(features):
        return function(features)
    made = allocate_features(*features.shape)
    for to, rows in zip(made.split(CHUNK), features.split(CHUNK)):
        to.copy_(function(rows))
    return made


def batch_rows(encoder: Encoder) -> int:
    """Batch size for encoding: at most 512 images and about 32 MiB."""
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
    """Features [N, C] of the first image of every item; images are streamed.

    Args:
        encoder: used in evaluation mode.
        data: anything that :func:`fastssl.data.open` takes: images, a path, a data set, a source.
        readout: "pooled" (the mean over positions) or "spatial" (a 4 x 4 map, flattened).
        batch: batch size; None: that of :func:`batch_rows`.
        progress: called with the number of finished images and the total.

    Raises:
        TypeError: ``encoder`` is no :class:`fastssl.models.Encoder`.
        ValueError: unknown readout.

    Example:
        >>> import numpy as np
        >>> from fastssl.evaluate import encode
        >>> from fastssl.models import build_encoder
        >>> encoder = build_encoder({"name": "resnet", "size": 32, "width": 8})
        >>> encode(encoder, np.zeros((5, 64, 48, 3), np.uint8), "pooled").shape
        torch.Size([5, 32])
    """
    if not isinstance(encoder, Encoder):
        raise TypeError(
            f"encoder: expected an Encoder, got {type(encoder).__name__}; wrap the network: Encoder(network, size)"
        )
    source, done = open_source(data), 0
    features: Tensor | None = None
    for rows, ids in encode_batches(encoder, source, readout, batch):
        if features is None:
            features = allocate_features(len(source), rows.shape[1])
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
    """Yields features batch by batch, float32 [B, C] on the CPU, and the indices of the items [B].

    Raises:
        ValueError: unknown readout.
    """
    function = _readout(encoder, readout)
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    with evaluation_mode(encoder):
        for rows in _plain(source, encoder.size, batch or batch_rows(encoder), encoder.channels):
            assert rows.ids is not None
            x = rows.views[0].to(device).contiguous(memory_format=torch.channels_last)
            yield function(x).float().cpu(), rows.ids


def _plain(source: Source, size: int, batch: int, channels: int) -> Iterator[Batch]:
    if not len(source):
        return
    done = 0
    with progress_bar(source.name) as show:
        for rows in Loader(source, CenterCropExamples(size, channels), batch, shuffle=False, drop_last=False):
            yield rows
            done += len(rows.views[0])
            show(done, len(source))


def plain_images(source: Source, size: int, batch: int = 512, channels: int = 3) -> Iterator[Tensor]:
    """Centre crops of the first image of every item, float [B, channels, size, size] in [-1, 1]."""
    for rows in _plain(source, size, batch, channels):
        yield rows.views[0]


def pixels(data: Any, size: int, channels: int = 3) -> Tensor:
    """Raw pixels as features.

    Args:
        data: anything that :func:`fastssl.data.open` takes.
        size: image size in pixels.
        channels: 3, or 1 for grey.

    Example:
        >>> import numpy as np
        >>> from fastssl.evaluate import pixels
        >>> pixels(np.zeros((2, 8, 8, 3), np.uint8), 8).shape
        torch.Size([2, 192])
    """
    source, done = open_source(data), 0
    made = allocate_features(len(source), channels * size * size)
    for x in plain_images(source, size, channels=channels):
        made[done : done + len(x)] = x.flatten(1)
        done += len(x)
    return made


def color_histogram(data: Any, bins: int = 4) -> Tensor:
    """Colour histogram: the square root of the fraction of pixels in each of bins^3 colours, of the first 3 channels.

    With square roots the cosine corresponds to the Hellinger distance; plain fractions are 7 points worse.
    """
    source = open_source(data)
    rows = allocate_features(len(source), bins**3)
    with progress_bar(source.name) as show:
        for k, item in enumerate(prefetch_items(source)):
            rows[k] = _shares(np.asarray(select_images([item])[0]), bins)
            show(k + 1, len(source))
    return rows.sqrt_()


def _shares(image: np.ndarray, bins: int) -> Tensor:
    levels = (image[..., :3].astype(np.int64) * bins) // 256
    index = (levels[..., 0] * bins + levels[..., levels.shape[-1] // 2]) * bins + levels[..., -1]
    return torch.from_numpy(np.bincount(index.ravel(), minlength=bins**3) / index.size)


def centred(features: Tensor, mean: Tensor | None = None, projection: Tensor | None = None) -> Tensor:
    """Centred features of unit length, for cosine similarity; ``projection`` [C, K], such as that of
    :func:`fastssl.evaluate.whitening`, is applied between."""
    middle = features.mean(0) if mean is None else mean
    if projection is None:
        return map_chunks(features, lambda rows: unit_length(rows - middle))
    made = allocate_features(len(features), projection.shape[1])
    for to, rows in zip(made.split(CHUNK), features.split(CHUNK)):
        to.copy_(unit_length((rows - middle) @ projection))
    return made


def labels_of(source: Source) -> Tensor:
    """Labels of a source, int64 [N], or [N, classes] of -1, 0 and 1 for several classes per item.

    Raises:
        ValueError: labels of some or all items are unknown.
    """
    labels = source.labels
    if labels is None:
        read = []
        for item in prefetch_items(source):
            if item.label is None:  # not read to its end
                hint, columns = "", getattr(source, "columns", None)
                if columns is not None:
                    hint = f" ({columns}); a column of classes of another name: #label=NAME, of numbers: #score=NAME, "
                    hint += "of 0 and 1 for each of several classes: #labels={A,B}"
                elif source.classes_from is not None:
                    hint = f"; {source.classes_from}"
                elif item.text is not None:
                    hint = "; its strings are texts, classes are given by labels= of fastssl.data.open"
                raise ValueError(f"data: expected labels to evaluate with, {source.name} has none{hint}")
            read.append(item.label)
        labels = np.array(read)
    if are_scores(labels):
        raise ValueError(
            f"data: expected classes, {source.name} has numbers to predict, which the protocol 'frozen' evaluates"
        )
    if labels.ndim == 1 and bool((labels < 0).any()):
        missing = int((labels < 0).sum())
        raise ValueError(f"data: expected a label of every item, {missing} of {source.name} have none")
    return torch.from_numpy(np.asarray(labels, dtype=np.int64))
