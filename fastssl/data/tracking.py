"""Where something moves between two frames of a video, and where it went: patches are found again by their pixels."""

from __future__ import annotations

import numpy as np

TEMPLATE = 16  # least side of a patch, in blocks of pixels, that is compared: 31 at most
_FLAT = 1e-3  # standard deviation, in grey levels, below which a window has nothing to compare


def moving_box(first: np.ndarray, second: np.ndarray, height: int, width: int, draw: float) -> tuple[int, int]:
    """The top left corner of a box in which something moves: its probability is proportional to how much the frames
    differ within it more than the average box of this size.

    Args:
        first: uint8 [H, W, C].
        second: uint8 [H, W, C].
        height: height of the box, in pixels.
        width: width of the box.
        draw: from 0 to 1, chooses the box.

    Example:
        >>> import numpy as np
        >>> from fastssl.data.tracking import moving_box
        >>> first, second = np.zeros((2, 64, 64, 3), np.uint8)
        >>> second[40:48, 8:16] = 255
        >>> top, left = moving_box(first, second, 16, 16, 0.5)
        >>> 24 < top < 48 and left < 16
        True
    """
    block = _block(height, width)
    a, b = _blocks(first, block), _blocks(second, block)
    sums = _window_sums(np.abs(a - b), max(height // block, 1), max(width // block, 1))
    weights = np.maximum(sums - sums.mean(), 0)
    if not weights.any():  # all boxes differ alike
        weights = np.ones_like(sums)
    total = weights.ravel().cumsum()
    at = min(int(np.searchsorted(total, draw * total[-1], side="right")), total.size - 1)
    top, left = (block * int(place) for place in np.divmod(at, sums.shape[1]))
    return min(top, first.shape[0] - height), min(left, first.shape[1] - width)


def track(first: np.ndarray, second: np.ndarray, box: tuple[int, int, int, int], reach: float = 0.5) -> tuple[int, int]:
    """The top left corner of the box of the second frame that resembles a box of the first most, by the normalised
    cross-correlation of their pixels; the same corner for boxes without any contrast.

    Args:
        first: uint8 [H, W, C].
        second: uint8 [H, W, C].
        box: top, left, height and width in the first frame, in pixels.
        reach: how far it is sought in each direction, in sides of the box.

    Example:
        >>> import numpy as np
        >>> from fastssl.data.tracking import track
        >>> first = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        >>> track(first, np.roll(first, (3, -5), (0, 1)), (20, 24, 16, 16))
        (23, 19)
    """
    top, left, height, width = box
    block = _block(height, width)
    rows, columns = (int(reach * side) // block for side in (height, width))
    tall, wide = (max(side // block, 1) for side in first.shape[:2])
    h, w = min(max(height // block, 1), tall), min(max(width // block, 1), wide)
    y, x = min(round(top / block), tall - h), min(round(left / block), wide - w)
    up, to_left = min(rows, y), min(columns, x)
    around = slice(block * (y - up), block * (y + h + rows)), slice(block * (x - to_left), block * (x + w + columns))
    patch = slice(block * y, block * (y + h)), slice(block * x, block * (x + w))
    found = _best_match(_blocks(first[patch], block), _blocks(second[around], block))
    if found is None:
        return top, left
    moved = block * (found[0] - up), block * (found[1] - to_left)
    return (
        int(np.clip(top + moved[0], 0, second.shape[0] - height)),
        int(np.clip(left + moved[1], 0, second.shape[1] - width)),
    )


def _best_match(template: np.ndarray, region: np.ndarray) -> tuple[int, int] | None:
    """Where in a region the template fits best; None: one of them has no contrast."""
    centred = template - template.mean()
    norm = float(np.sqrt(np.square(centred).sum()))
    h, w = template.shape
    sums, squares = _window_sums(region, h, w), _window_sums(np.square(region), h, w)
    spread = np.sqrt(np.maximum(squares - np.square(sums) / (h * w), 0))
    least = _FLAT * np.sqrt(h * w)
    if norm < least or not (spread > least).any():
        return None
    spectrum = np.fft.rfft2(region) * np.fft.rfft2(centred, region.shape).conj()
    products = np.fft.irfft2(spectrum, region.shape)[: sums.shape[0], : sums.shape[1]]
    score = np.where(spread > least, products / np.maximum(spread, least), -np.inf)
    row, column = np.divmod(int(score.argmax()), score.shape[1])
    return int(row), int(column)


def _block(height: int, width: int) -> int:
    return max(min(height, width) // TEMPLATE, 1)


def _blocks(image: np.ndarray, block: int) -> np.ndarray:
    """float64 [H / block, W / block]: means of green, most of the luminance, or of the only channel."""
    plane = image[: len(image) // block * block, : image.shape[1] // block * block, min(1, image.shape[2] - 1)]
    parts = plane.reshape(len(plane) // block, block, plane.shape[1] // block, block)
    return parts.sum((1, 3), dtype=np.uint32) / block**2


def _window_sums(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Sums of all windows of a size."""
    sums = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    values.cumsum(0).cumsum(1, out=sums[1:, 1:])
    lower, upper = sums[height:], sums[:-height]
    return lower[:, width:] - lower[:, :-width] - upper[:, width:] + upper[:, :-width]
