"""The summary of a source that ``fastssl data`` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from fastssl._words import amount, between
from fastssl.augment.images import PaddedRGB
from fastssl.data.packed import READ_ERRORS
from fastssl.data.source import Item, Source, are_scores
from fastssl.data.value_range import described_range

_SHOWN = 10
_LONGEST = 80  # characters of a text


def summary(source: Source, sample: int = 100) -> Iterator[str]:
    """Lines that describe a source: type, items, classes, and statistics of a sample of its items.

    Args:
        source: the source.
        sample: number of items that are read, evenly spaced.

    Raises:
        ValueError: ``sample`` < 1.
    """
    if sample < 1:
        raise ValueError(f"sample: expected at least one item, got {sample}")
    yield f"{source.name}: {amount(len(source), 'item')} ({type(source).__name__})"
    columns = getattr(source, "columns", None)
    if columns is not None:
        yield str(columns)
    if source.value_range is not None:
        yield described_range(source.value_range)
    if (ids := source.image_ids) is not None:
        yield f"{len(ids) - len(np.unique(ids)):,} of them share {source.shared} with an earlier one"
    if source.labels is not None and are_scores(source.labels):
        known = source.labels[~np.isnan(source.labels)]
        yield (
            f"scores of {amount(len(known), 'item')}, from {known.min():g} to {known.max():g}"
            if len(known)
            else "no scores"
        )
    elif source.labels is not None and source.labels.ndim == 1:
        yield from _classes(source, source.labels)
    elif source.labels is not None:
        yield "several classes per item"
    picked = np.unique(np.linspace(0, len(source) - 1, min(sample, len(source))).round().astype(int))
    items: list[Item] = []
    unreadable: list[str] = []
    for index in picked:
        try:
            items.append(source.read(int(index)))
        except READ_ERRORS as error:
            unreadable.append(str(error))
    if source.labels is None:
        known = any(item.label is not None for item in items)
        yield "labels are known when items are read" if known else "no labels"
    yield from _sample(items)
    if unreadable:
        yield f"{len(unreadable)} of {len(picked)} cannot be read:"
        yield from (f"  {line}" for line in unreadable[:_SHOWN])
    for why, count in source.skipped.items():
        yield f"left out: {count:,} {why}"


def sizes_of(source: Source, sample: int) -> list[tuple[int, int]]:
    """Width and height of the first images of a few evenly spaced, readable items."""
    found = []
    for index in np.unique(np.linspace(0, len(source) - 1, min(sample, len(source))).round().astype(int)):
        try:
            images = source.read(int(index)).images
        except READ_ERRORS:
            continue
        found += [(image.shape[1], image.shape[0]) for image in (images or ())[:1]]
    return found


def _classes(source: Source, labels: np.ndarray) -> Iterator[str]:
    numbers, counts = np.unique(labels[labels >= 0], return_counts=True)
    yield (
        f"{amount(len(numbers), 'class')} of {between(counts.min(), counts.max())} items"
        if len(numbers)
        else "no labels"
    )
    for k, count in list(zip(numbers.tolist(), counts.tolist()))[:_SHOWN]:
        yield f"  {source.classes[k] if k < len(source.classes) else k}: {count:,}"
    if len(numbers) > _SHOWN:
        yield f"  and {len(numbers) - _SHOWN} more"
    if bool((labels < 0).any()):
        yield f"{amount(int((labels < 0).sum()), 'item')} without a label"


def _sample(items: list[Item]) -> Iterator[str]:
    images = [image for item in items for image in item.images or ()]
    if images:
        heights, widths = ([image.shape[axis] for image in images] for axis in (0, 1))
        median = f"{int(np.median(widths))} x {int(np.median(heights))}"
        grey = sum(image.shape[2] == 1 for image in images)
        others = {image.shape[2] for image in images if not isinstance(image, PaddedRGB)} - {1, 3}
        yield (
            f"images of {amount(len(items), 'item')}: {between(min(widths), max(widths))} wide, "
            f"{between(min(heights), max(heights))} high, median {median}"
            + (f", {grey} grey" if grey else "")
            + "".join(f", {amount(channels, 'channel')} (--channels {channels})" for channels in sorted(others))
        )
        counts = {len(item.images or ()) for item in items}
        if counts != {1}:
            yield f"{', '.join(map(str, sorted(counts)))} images per item"
    signals = [len(item.signal) for item in items if item.signal is not None]
    if signals:
        yield f"signals of {between(min(signals), max(signals))} samples"
        rates = Counter(item.rate for item in items if item.signal is not None and item.rate is not None)
        if rates:
            listed = (f"{rate} ({amount(count, 'item')})" for rate, count in sorted(rates.items()))
            yield f"samples per second: {', '.join(listed)}"
        if len(rates) > 1:
            yield "  a method takes one rate, that of the first signal or --set rate=NUMBER; resample the others"
    texts = [item.text for item in items if item.text is not None]
    if texts:
        lengths = [len(text) for text in texts]
        first = texts[0] if len(texts[0]) <= _LONGEST else texts[0][:_LONGEST] + "…"
        sizes = f"of {between(min(lengths), max(lengths))} characters"
        yield f"texts with {len(texts)} of {len(items)}, {sizes}, as {first!r}"
