"""Multi-channel images: arrays in ``.npy`` files, and TIFF files that Pillow does not read."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

TIFF = (".tif", ".tiff")
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # of both orders of bytes, of 32 and 64 bits
_GREY = ("L", "I;16", "I;16B", "I;16L", "F")  # modes of Pillow, but those of scans of one bit
_ARRAY_START = b"\x93NUMPY"


class ImageError(ValueError):
    """A file that cannot be read as an image."""


def read_bands(source: str | Path | bytes, name: str, max_pixels: int) -> np.ndarray | None:
    """Reads an image [H, W, C] or [C, H, W], the channels of a TIFF also as grey pages of one size; None: Pillow can
    read the file.

    Args:
        source: a path, or the bytes of a file, such as one of a tar shard.
        name: name in error messages.
        max_pixels: larger images raise an error, before they are decoded; of a TIFF the pixels of all pages count.

    Raises:
        FileNotFoundError: no such file.
        ImageError: too many pixels, no image, or a TIFF that needs the extra: ``pip install fastssl[tiff]``.
    """
    kind = _kind(source)
    if kind == ".npy":
        try:
            array = np.load(_file(source), allow_pickle=False, mmap_mode=None if isinstance(source, bytes) else "r")
        except FileNotFoundError:
            raise
        except (OSError, ValueError, EOFError, MemoryError) as error:
            raise ImageError(f"{name}: cannot be read as an array ({error})") from error
    elif kind in TIFF:
        found = _pages(_file(source), name, max_pixels) if _pillow_reads(_file(source)) else _tiff(_file(source), name)
        if found is None:
            return None
        array = found
    else:
        return None
    if array.ndim not in (2, 3) or array.dtype.kind not in "uif" or array.size == 0:
        raise ImageError(f"{name}: expected numbers [H, W, C], [C, H, W] or [H, W], got {array.dtype} {array.shape}")
    if array.size // min(array.shape) > max_pixels:
        raise ImageError(f"{name}: {array.shape}: more than {max_pixels:,} pixels")
    return np.array(array)


def _kind(source: str | Path | bytes) -> str:
    """The suffix of a file, or of what bytes begin as."""
    if not isinstance(source, bytes):
        return os.path.splitext(source)[1].lower()
    return ".npy" if source.startswith(_ARRAY_START) else TIFF[0] if source.startswith(_TIFF_STARTS) else ""


def _file(source: str | Path | bytes) -> Any:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _pillow_reads(file: Any) -> bool:
    from PIL import Image

    try:
        with Image.open(file):
            return True
    except FileNotFoundError:
        raise
    except Exception:  # Pillow raises various errors for unknown bands
        return False


def _pages(file: Any, name: str, max_pixels: int) -> np.ndarray | None:
    """The pages of a TIFF, if they are grey and of one size, [C, H, W]; None: it has one page, or others."""
    from PIL import Image, ImageSequence

    try:
        with Image.open(file) as image:
            size, mode = image.size, image.mode
            count = getattr(image, "n_frames", 1)
            if mode not in _GREY or count < 2 or size[0] * size[1] > max_pixels:
                return None
            if count * size[0] * size[1] > max_pixels:
                raise ImageError(
                    f"{name}: {count:,} pages of {size[0]} x {size[1]} pixels; expected at most {max_pixels:,} pixels "
                    "in all (max_pixels)"
                )
            pages = [np.array(page) for page in ImageSequence.Iterator(image) if (page.size, page.mode) == (size, mode)]
            return np.stack(pages) if len(pages) == count else None
    except ImageError:
        raise
    except Exception:  # damaged: reading it as an image says how
        return None


def _tiff(file: Any, name: str) -> np.ndarray:
    try:
        import tifffile
    except ImportError as error:
        raise ImageError(
            f"{name}: Pillow cannot read it; a TIFF of other channels needs the extra: pip install fastssl[tiff]"
        ) from error
    try:
        array: np.ndarray = tifffile.imread(file)
    except Exception as error:
        raise ImageError(f"{name}: cannot be read as a TIFF ({error})") from error
    return array


__all__ = ["ImageError", "read_bands"]
