"""Pillow's limit of the pixels of an image, which is one for all threads, raised to our own while images are read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

_lock = threading.Lock()
_asked: list[int] = []  # of the images that are read now
_before: int | None = None  # Pillow's limit when there were none


@contextmanager
def allowed(pixels: int) -> Iterator[None]:
    """Context in which Pillow opens images of up to ``pixels`` without a warning; it keeps a limit, as files within a
    file (of icons) are opened unseen.

    Example:
        >>> from fastssl.data.pillow_limit import allowed
        >>> from PIL import Image
        >>> with allowed(10**9):
        ...     Image.MAX_IMAGE_PIXELS
        1000000000
    """
    global _before
    with _lock:
        if not _asked:
            _before = Image.MAX_IMAGE_PIXELS
        _asked.append(pixels)
        _apply()
    try:
        yield
    finally:
        with _lock:
            _asked.remove(pixels)
            _apply()


def _apply() -> None:
    Image.MAX_IMAGE_PIXELS = None if _before is None else max(_before, *_asked, 0)
