"""Image files to uint8 arrays, by Pillow, with errors that name the file."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastssl.augment import Augment, Params, RandomResizedCrop
from fastssl.data.pillow_memory import shared_pixels

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 100_000_000
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}


class ImageError(ValueError):
    """A file that cannot be read as an image."""


# What Pillow and the libraries under it raise for damaged files.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, AttributeError,
            MemoryError, struct.error, zlib.error, NotImplementedError, RuntimeError)  # fmt: skip


def open_image(source: str | Path | bytes, *, name: str | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens an image and reads its header alone.

    Args:
        source: a path, or the bytes of a file.
        name: what errors call it; None: the path.
        max_pixels: larger images are refused before they are decoded (a few bytes can claim gigabytes).

    Raises:
        ImageError: not an image that Pillow knows, or one that claims too many pixels or none.
        FileNotFoundError: no such file.
    """
    from PIL import Image

    name = name or _name_of(source)
    try:
        image: Image.Image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except FileNotFoundError:
        raise
    except (Image.DecompressionBombError, *_DAMAGED) as error:
        raise ImageError(f"{name}: cannot be read as an image ({_reason(error)})") from error
    width, height = image.size
    if width < 1 or height < 1 or width * height > max_pixels:
        image.close()
        raise ImageError(f"{name}: {width} x {height} pixels; expected 1 to {max_pixels:,} of them")
    return image


def to_array(image: Image.Image, name: str, *, shared: bool = False) -> np.ndarray:
    """Decodes an opened image: uint8 [H, W, 3], or [H, W, 1] for grey ones. Alpha is left out, palettes become
    colours, 16 bits become 8, of an animation the first frame is taken; the EXIF orientation is not applied.

    ``shared``: colours may come as [H, W, 4] in Pillow's own memory, without a copy."""
    from PIL import Image as Pillow

    try:
        if image.mode.startswith("I"):
            values = np.asarray(image)
            shift = 8 if image.mode.startswith("I;16") or values.max(initial=0) > 255 else 0
            return (values >> shift).clip(0, 255).astype(np.uint8)[:, :, None]
        if image.mode not in ("L", "RGB"):
            image = image.convert("RGB")
        if shared:
            image.load()
            pixels = shared_pixels(image)
            if pixels is not None:
                return pixels
        array = np.asarray(image)
    except (Pillow.DecompressionBombError, *_DAMAGED) as error:
        raise ImageError(f"{name}: cannot be decoded ({_reason(error)})") from error
    return array[:, :, None] if array.ndim == 2 else array


def read_image(source: str | Path | bytes, *, name: str | None = None, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads a JPEG, PNG, WebP, ... file: uint8 [H, W, 3], or [H, W, 1] for grey ones (see :func:`to_array`).

    Args:
        source: a path, or the bytes of a file.
        name: what errors call it; None: the path.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        ImageError: not an image, a truncated or damaged one, or one with too many pixels.

    Example:
        >>> import io, numpy as np
        >>> from PIL import Image
        >>> from fastssl.data import read_image
        >>> file = io.BytesIO()
        >>> Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(file, "PNG")
        >>> read_image(file.getvalue()).shape
        (4, 6, 3)
    """
    name = name or _name_of(source)
    with open_image(source, name=name, max_pixels=max_pixels) as image:
        return to_array(image, name)


def shrink(image: np.ndarray, size: int | None) -> np.ndarray:
    """The image with its shorter side at ``size`` pixels where it is longer; None keeps it."""
    if size is None or min(image.shape[:2]) <= size:
        return image
    height, width = image.shape[:2]
    shape = (size, size * width // height) if height <= width else (size * height // width, size)
    whole = RandomResizedCrop(shape, interpolation="bicubic")
    params = Params(np.array([[0.0, 0.0, height, width]]), tuple(f"RandomResizedCrop.{c}" for c in whole.columns))
    view = Augment([whole]).apply([image], params)[0]
    array: np.ndarray = (view.permute(1, 2, 0) * 255).round().clamp(0, 255).byte().contiguous().numpy()
    return array[:, :, : image.shape[2]] if image.shape[2] == 1 else array


def _name_of(source: str | Path | bytes) -> str:
    return f"{len(source)} bytes" if isinstance(source, bytes) else str(source)


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def image_files(root: str | Path) -> tuple[list[Path], np.ndarray, list[str]]:
    """Returns the image files below ``root``, the number of each one's class, and the classes: its sub-folders.

    Raises:
        ValueError: no folder, or no images in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"path: expected a folder, got {str(root)!r}")
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise ValueError(f"path: expected images ({', '.join(sorted(SUFFIXES))}) in {str(root)!r}, found none")
    owners = [p.relative_to(root).parts[0] if p.parent != root else "." for p in paths]
    classes = sorted(set(owners))
    number = {name: k for k, name in enumerate(classes)}
    return paths, np.array([number[owner] for owner in owners], dtype=np.int64), classes


def draft(image: Any, scale: int) -> bool:
    """Asks a JPEG decoder for 1 / ``scale`` of the pixels (2, 4 or 8), which it makes for less than the work."""
    if scale == 1 or image.format != "JPEG" or image.mode not in ("RGB", "L"):
        return False
    width, height = image.size
    image.draft(image.mode, (width // scale, height // scale))
    return bool(image.size != (width, height))
