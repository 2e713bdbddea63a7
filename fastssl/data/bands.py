"""Multi-channel images: arrays in ``.npy`` files, and TIFF files that Pillow does not read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

TIFF = (".tif", ".tiff")


class ImageError(ValueError):
    """A file that cannot be read as an image."""


def read_bands(path: str | Path, max_pixels: int) -> np.ndarray | None:
    """Reads an image [H, W, C] or [C, H, W]; None: Pillow can read the file.

    Args:
        path: path of the file.
        max_pixels: larger images raise an error.

    Raises:
        FileNotFoundError: no such file.
        ImageError: the array is no image, or a TIFF that needs the extra: ``pip install fastssl[tiff]``.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".npy":
        try:
            array = np.load(path, allow_pickle=False, mmap_mode="r")
        except FileNotFoundError:
            raise
        except (OSError, ValueError, EOFError) as error:
            raise ImageError(f"{path}: cannot be read as an array ({error})") from error
    elif suffix in TIFF and not _pillow_reads(path):
        array = _tiff(path)
    else:
        return None
    if array.ndim not in (2, 3) or array.dtype.kind not in "uif" or array.size == 0:
        raise ImageError(f"{path}: expected numbers [H, W, C], [C, H, W] or [H, W], got {array.dtype} {array.shape}")
    if array.size // min(array.shape) > max_pixels:
        raise ImageError(f"{path}: {array.shape}: more than {max_pixels:,} pixels")
    return np.array(array)


def _pillow_reads(path: str | Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path):
            return True
    except FileNotFoundError:
        raise
    except Exception:  # Pillow raises various errors for unknown bands
        return False


def _tiff(path: str | Path) -> np.ndarray:
    try:
        import tifffile
    except ImportError as error:
        raise ImageError(
            f"{path}: Pillow cannot read it; a TIFF of other channels needs the extra: pip install fastssl[tiff]"
        ) from error
    try:
        array: np.ndarray = tifffile.imread(path)
    except Exception as error:
        raise ImageError(f"{path}: cannot be read as a TIFF ({error})") from error
    return array


__all__ = ["ImageError", "read_bands"]
