"""Image files to uint8 arrays, by Pillow, with errors that name the file."""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fastssl.augment import Augment, Params, RandomResizedCrop
from fastssl.augment.images import CHANNELS, PaddedRGB, channels_first, without_alpha
from fastssl.data.bands import ImageError, read_bands
from fastssl.data.pillow_limit import allowed
from fastssl.data.pillow_memory import shared_pixels
from fastssl.data.source import Reduction
from fastssl.data.value_range import ValueRange, eight_bits, tell_once
from fastssl.ops import extension

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 100_000_000
WHOLE = 64 << 20  # bytes of a file up to which it is read before it is decoded
ORIENTATION = 0x0112  # of EXIF
_SHOWN = 24  # bytes of a file that is no image
_DICOM_AT = 128  # bytes before the mark of DICOM files
# What to install for formats that Pillow leaves to plugins, by the suffix of their files.
PLUGINS = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "pillow-heif"),
    **dict.fromkeys((".avif", ".avifs"), "pillow-avif-plugin"),
    ".jxl": "pillow-jxl-plugin",
}


# What Pillow and the libraries under it raise for damaged files.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, AttributeError,
            MemoryError, struct.error, zlib.error, NotImplementedError, RuntimeError)  # fmt: skip


def open_image(source: str | Path | bytes, *, name: str | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens an image and reads only its header.

    Args:
        source: a path, or the bytes of a file.
        name: name in error messages; None: the path.
        max_pixels: larger images raise an error before they are decoded (a few bytes can claim gigabytes).

    Raises:
        ImageError: not an image known to Pillow, or one that claims no or too many pixels.
        FileNotFoundError: no such file.
    """
    from PIL import Image

    name = name or _name_of(source)
    try:
        with allowed(max_pixels):
            image: Image.Image = _opened(source)
    except FileNotFoundError:
        raise
    except Image.UnidentifiedImageError as error:  # its own text would name a buffer in memory
        start = _start_of(source)  # of pages and pointers that were saved in place of images it says what they are
        what = f"no format that Pillow reads, begins with {start[:_SHOWN]!r}" if start else "the file is empty"
        if start[_DICOM_AT:] == b"DICM":  # files of scanners often have no suffix
            what = "a DICOM file; convert it to .png, .tif or .npy"
        plugin = PLUGINS.get(os.path.splitext(name)[1].lower())
        what += f"; its plugin: pip install {plugin}" if plugin and start else ""
        raise ImageError(f"{name}: cannot be read as an image ({what})") from error
    except (Image.DecompressionBombError, *_DAMAGED) as error:
        raise ImageError(f"{name}: cannot be read as an image ({_reason(error)})") from error
    width, height = image.size
    if width < 1 or height < 1 or width * height > max_pixels:
        image.close()
        raise ImageError(f"{name}: {width} x {height} pixels; expected 1 to {max_pixels:,} of them")
    return image


def _start_of(source: str | Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[: _DICOM_AT + 4]
    with open(source, "rb") as file:
        return file.read(_DICOM_AT + 4)


@cache
def load_plugins() -> bool:
    """Loads the plugins of Pillow that are installed; whether there are any."""
    loaded = False
    for plugin in ("pillow_heif", "pillow_avif", "pillow_jxl"):
        try:
            module = __import__(plugin)
        except ImportError:
            continue
        getattr(module, "register_heif_opener", lambda: None)()
        loaded = True
    return loaded


def _opened(source: str | Path | bytes) -> Image.Image:
    from PIL import Image

    try:
        return _tried(source)
    except Image.UnidentifiedImageError:
        if not load_plugins():
            raise
        return _tried(source)


def _tried(source: str | Path | bytes) -> Image.Image:
    from PIL import Image

    if not isinstance(source, bytes):
        return Image.open(source)
    # Pillow asks a dozen plugins; JPEG files, of which there are most, say what they are.
    return Image.open(io.BytesIO(source), formats=("JPEG",) if source.startswith(b"\xff\xd8\xff") else None)


def to_array(
    image: Image.Image,
    name: str,
    *,
    shared: bool = False,
    orientation: bool = True,
    value_range: ValueRange | None = None,
) -> np.ndarray:
    """Decodes an opened image: uint8 [H, W, 3], or [H, W, 1] for grey ones (of one bit or a palette of greys, too).

    Alpha is dropped, other palettes and CMYK are converted to RGB, and only the first frame of an animation is read.
    Integers of 16 bits are scaled from 0 to 65,535, floats from 0 to 1, or both, and images of 8 bits, from a range
    that is given (:func:`fastssl.data.value_range.eight_bits`), never by the values of one image.

    Args:
        image: an open Pillow image.
        name: name in error messages.
        shared: allow colours as [H, W, 4] in Pillow's own memory, without a copy.
        orientation: apply the EXIF orientation. torchvision's ImageFolder does not.
        value_range: the values that become 0 and 255; None: those of the dtype.

    Raises:
        ImageError: a damaged image, or values outside of the range of its dtype, without one that is given.
    """
    from PIL import Image as Pillow

    try:
        if image.mode.startswith(("I", "F")):
            deep = np.asarray(image)
            if image.mode == "I" and 0 <= deep.min(initial=0) <= deep.max(initial=0) < 2**16:
                deep = deep.astype(np.uint16)  # Pillow has 32 bits for some files of 16, such as PGM
            return _turned(eight_bits(deep, name, value_range)[:, :, None], image, orientation)
        if any(re.search(r";16[BLN]", str(tile[3])) for tile in getattr(image, "tile", ())):  # "BGR;16": 5, 6, 5 bits
            if value_range is not None:
                raise ImageError(
                    f"{name}: colours of 16 bits, of which Pillow reads 8, so that no range of values can be taken; "
                    "convert it to .npy"
                )
            tell_once(f"{name}: colours of 16 bits are read as from 0 to 65,535; those of another range, as .npy files")
        if image.mode not in ("L", "RGB", "RGBX"):  # RGBX: four bands of a TIFF
            image.load()
            image = without_alpha(image, "L" if _is_grey(image) else "RGB")
        if shared and value_range is None:
            image.load()
            pixels = shared_pixels(image)
            if pixels is not None:
                return _turned(pixels, image, orientation)
        array = eight_bits(np.asarray(image), name, value_range)
    except ImageError:
        raise
    except (Pillow.DecompressionBombError, *_DAMAGED) as error:
        raise ImageError(f"{name}: cannot be decoded ({_reason(error)})") from error
    return _turned(array[:, :, None] if array.ndim == 2 else array, image, orientation)


def _is_grey(image: Image.Image) -> bool:
    """Whether a loaded image of another mode than "L" is grey: of one bit, with alpha, or of a palette of greys."""
    if image.mode not in ("P", "PA"):
        return image.mode in ("1", "LA", "La")
    colors = np.frombuffer(image.im.getpalette("RGB"), np.uint8).reshape(-1, 3)
    return bool((colors == colors[:, :1]).all())


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 if there is none."""
    if "exif" not in image.info:
        return 1
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except _DAMAGED:  # unreadable EXIF data is ignored
        return 1
    return int(found) if found in range(1, 9) else 1


def _turned(pixels: np.ndarray, image: Image.Image, orientation: bool) -> np.ndarray:
    number = orientation_of(image) if orientation else 1
    if number == 1:
        return pixels
    if number >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if number in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if number in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.array(pixels, order="C", subok=True)


def as_pixels(image: Any, name: str, value_range: ValueRange | None = None) -> np.ndarray:
    """Converts an array, tensor or Pillow image, or a batch of images, to uint8 [..., H, W, C].

    Channels may come first, last, or not at all (grey); ``value_range`` is as of :func:`to_array`: without it floats in
    [0, 1], uint16, and other integers from 0 to 255 are taken. If both dimensions are 1, 3 or 4, channels come first in
    tensors and last in arrays (:func:`fastssl.augment.images.channels_first`); if neither is, the smaller one is taken
    as the channels.

    Raises:
        TypeError: not an image.
        ValueError: other shapes, or without a range other values.
    """
    if hasattr(image, "convert") and hasattr(image, "mode"):
        return to_array(image, name, orientation=False, value_range=value_range)
    tensor = isinstance(image, Tensor) and image.dim() > 2
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        image = image.float() if image.dtype == torch.bfloat16 else image  # which NumPy has not
    array = image.numpy() if isinstance(image, Tensor) else image
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name}: expected an array, a tensor or a Pillow image, got {type(image).__name__}")
    if array.dtype.kind not in "buif":
        raise TypeError(f"{name}: expected booleans, integers or floats, got {array.dtype}")
    array = eight_bits(array, name, value_range)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim < 3 or 0 in array.shape[-3:]:
        raise ValueError(f"{name}: expected [H, W, C], [C, H, W] or [H, W], got shape {array.shape}")
    planar = channels_first(array.shape, CHANNELS, tensor)
    if planar is None:
        first, last = array.shape[-3], array.shape[-1]
        if first == last:
            raise ValueError(f"{name}: expected fewer channels than pixels, first or last, got shape {array.shape}")
        planar = first < last
    if not planar:
        return array
    return np.ascontiguousarray(np.moveaxis(array, -3, -1))


def read_image(
    source: str | Path | bytes,
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
    orientation: bool = True,
    reduce: Reduction | None = None,
    shared: bool = False,
    value_range: ValueRange | None = None,
) -> np.ndarray:
    """Reads a JPEG, PNG, WebP, ... file as uint8 [H, W, 3], or [H, W, 1] if grey (see :func:`to_array`); arrays
    (``.npy``) and multi-channel TIFF files as [H, W, C] (see :mod:`fastssl.data.bands`).

    Args:
        source: a path, or the bytes of a file.
        name: name in error messages; None: the path.
        max_pixels: larger images raise an error before they are decoded.
        orientation: apply the EXIF orientation.
        reduce: maps (height, width) to the factor 1, 2, 4 or 8 by which a JPEG may be decoded smaller, which is faster.
        shared: allow colours as [H, W, 4], without a copy.
        value_range: the values that become 0 and 255, those outside are clipped and NaN is 0; None: 0 and 65,535 of
            integers of 16 bits, 0 and 1 of floats. Values of 8 bits are unchanged without it.

    Raises:
        ImageError: not an image, or a truncated, damaged or too large one.

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
    with allowed(max_pixels):
        if (bands := read_bands(source, name, max_pixels)) is not None:
            return as_pixels(bands, name, value_range)
        if not isinstance(source, bytes) and extension._C is not None:
            source = extension._C.read_file(source, WHOLE) or source
        with open_image(source, name=name, max_pixels=max_pixels) as image:
            if isinstance(source, bytes) and hasattr(image, "decodermaxblock"):
                image.decodermaxblock = max(image.decodermaxblock, len(source))  # decoded in one go, without the GIL
            if reduce is not None and image.format == "JPEG" and image.mode in ("RGB", "L"):
                width, height = image.size
                turned = orientation and orientation_of(image) >= 5
                scale = reduce((width, height) if turned else (height, width))
                if scale > 1:
                    image.draft(image.mode, (width // scale, height // scale))
            return to_array(image, name, shared=shared, orientation=orientation, value_range=value_range)


def shrink(image: np.ndarray, size: int | None) -> np.ndarray:
    """Downsizes an image to a shorter side of at most ``size`` pixels; None: unchanged."""
    if size is None or min(image.shape[:2]) <= size:
        return image
    height, width = image.shape[:2]
    shape = (size, size * width // height) if height <= width else (size * height // width, size)
    whole = RandomResizedCrop(shape, interpolation="bicubic")
    params = Params(np.array([[0.0, 0.0, height, width]]), tuple(f"RandomResizedCrop.{c}" for c in whole.columns))
    channels = 3 if isinstance(image, PaddedRGB) else image.shape[2]
    view = Augment([whole], channels=channels).apply([image], params)[0]
    array: np.ndarray = (view.permute(1, 2, 0) * 255).round().clamp(0, 255).byte().contiguous().numpy()
    return array


def _name_of(source: str | Path | bytes) -> str:
    return f"{len(source)} bytes" if isinstance(source, bytes) else str(source)


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
