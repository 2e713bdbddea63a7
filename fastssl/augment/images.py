"""Input of augmentations: uint8 images as tensors, arrays, Pillow images or lists of these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

CHANNELS = (1, 3, 4)


def channels_first(shape: Sequence[int], known: Sequence[int], tensor: bool) -> bool | None:
    """Whether the channels of an image [..., H, W, C] or [..., C, H, W] come before height and width; None: neither
    dimension is one of the ``known`` numbers of channels.

    Where both are (images of 1, 3 or 4 pixels in width or height), those of a tensor come first, as everywhere in
    torch, and those of an array last, as in NumPy, Pillow and OpenCV.
    """
    first, last = shape[-3] in known, shape[-1] in known
    return None if not first and not last else first and (tensor or not last)


class PaddedRGB(np.ndarray):
    """uint8 [..., H, W, 4] of RGB images with a padding channel, as in Pillow's memory."""


def to_show(image: np.ndarray) -> np.ndarray:
    """Converts an image [H, W, C] to [H, W, 3] for display: the first three channels, or grey for one or two."""
    if image.shape[-1] < 3:
        grey = image.astype(np.uint16).sum(-1, keepdims=True) // image.shape[-1]
        image = np.broadcast_to(grey.astype(np.uint8), (*image.shape[:-1], 3))
    return np.ascontiguousarray(image[..., :3])


@dataclass
class ImageBatch:
    """Images in the form that the kernels take: a 4-d array, or a list of 3-d arrays."""

    arrays: list[np.ndarray]
    planar: bool
    sizes: np.ndarray  # int64 [B, 2]: height, width
    single: bool = False  # the input was a single image
    on_device: list[Tensor] | None = None  # images on a GPU, instead of the arrays

    @property
    def images(self) -> list[np.ndarray] | list[Tensor]:
        return self.arrays if self.on_device is None else self.on_device

    def __len__(self) -> int:
        return len(self.sizes)

    def channels(self) -> set[int]:
        """Number of channels of the images."""
        axis = -3 if self.planar else -1
        return {3 if isinstance(a, PaddedRGB) else int(a.shape[axis]) for a in self.images}

    def require(self, channels: int) -> None:
        """Raises ValueError if views of ``channels`` cannot be made of the images; 1 and 3 take grey and RGB."""
        found = self.channels() - {channels}
        if found and channels not in (1, 3):
            raise ValueError(f"images: expected {channels} channels, got {', '.join(map(str, sorted(found)))}")

    def planes(self, channels: int) -> Iterator[ImageBatch]:
        """The channels of all images as a batch of grey images; 1: of colours their grey, as by Pillow's
        ``convert("L")``."""
        if channels == 1:
            yield self._like([self._grey(image) for image in self.images])
            return
        for k in range(channels):
            which = (..., slice(k, k + 1), slice(None), slice(None)) if self.planar else (..., slice(k, k + 1))
            yield self._like([image[which] for image in self.images])

    def _grey(self, image: Any) -> Any:
        axis = -3 if self.planar else -1
        if image.shape[axis] == 1:
            return image
        colors = np.moveaxis(image, axis, 0) if isinstance(image, np.ndarray) else image.movedim(axis, 0)
        r, g, b = (c.astype(np.int32) if isinstance(c, np.ndarray) else c.int() for c in colors[:3])
        grey = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16
        if isinstance(grey, np.ndarray):
            return np.expand_dims(np.asarray(grey).astype(np.uint8), axis)
        return grey.to(torch.uint8).unsqueeze(axis)

    def _like(self, images: list[Any]) -> ImageBatch:
        if self.on_device is not None:
            return ImageBatch([], self.planar, self.sizes, self.single, [t.contiguous() for t in images])
        return ImageBatch([np.ascontiguousarray(a) for a in images], self.planar, self.sizes, self.single)

    def one_by_one(self) -> list[np.ndarray]:
        """The images as a list of [H, W, C]."""
        images = [image for array in self.arrays for image in (array if array.ndim == 4 else [array])]
        return [image.transpose(1, 2, 0) if self.planar else image for image in images]


def read_images(images: Any, channels: int = 3) -> ImageBatch:
    """Reads uint8 tensors or arrays [B, H, W, C], [B, C, H, W], a single image, Pillow images, or a list of images.

    C is 1 (grey, repeated), 3, 4 (alpha is dropped, as by Pillow's ``convert("RGB")``), or ``channels``. Where both
    dimensions could be that of the channels, tensors are [B, C, H, W] and arrays [B, H, W, C] (:func:`channels_first`).
    Tensors may be on a GPU, all on the same one; their views are computed there.

    Raises:
        TypeError: images of another dtype than uint8.
        ValueError: other shapes, or an empty image.
    """
    if _is_cuda(images):
        return _on_device([images], images.dim() == 3, channels)
    if isinstance(images, (list, tuple)) and len(images) and all(map(_is_cuda, images)):
        return _on_device(list(images), False, channels)
    if isinstance(images, (list, tuple)):
        arrays = [_array(image, f"images[{k}]") for k, image in enumerate(images)]
        for k, array in enumerate(arrays):
            if array.ndim == 4:
                raise ValueError(f"images[{k}]: expected one image, got shape {array.shape}")
        flags = [_is_planar(a, f"images[{k}]", channels, _is_torch(images[k])) for k, a in enumerate(arrays)]
        if any(flags) and not all(flags):
            arrays = [a.transpose(1, 2, 0) if planar else a for a, planar in zip(arrays, flags)]
        planar = bool(flags) and all(flags)
        arrays = [_side_by_side(a, planar) for a in arrays]
        return ImageBatch(arrays, planar, _sizes(arrays, planar))
    array = _array(images, "images")
    planar = _is_planar(array, "images", channels, _is_torch(images))
    single = array.ndim == 3
    array = _side_by_side(array, planar)
    return ImageBatch([array], planar, _sizes([array], planar), single)


def _is_torch(image: Any) -> bool:
    return isinstance(image, Tensor) and image.dim() > 2  # a grey image [H, W] is read as [H, W, 1]


def _is_cuda(image: Any) -> bool:
    return isinstance(image, Tensor) and image.device.type == "cuda"


def _on_device(tensors: list[Tensor], single: bool, channels: int) -> ImageBatch:
    for k, t in enumerate(tensors):
        if t.dtype != torch.uint8:
            raise TypeError(f"images: expected uint8, got {t.dtype}")
        if t.dim() not in (3, 4) or 0 in t.shape[-3:] or (len(tensors) > 1 and t.dim() != 3):
            raise ValueError(f"images: expected [H, W, C], [C, H, W] or a batch of them, got shape {tuple(t.shape)}")
        if t.device != tensors[0].device:
            raise ValueError(f"images[{k}]: expected a tensor on {tensors[0].device}, got one on {t.device}")
    shapes = [np.broadcast_to(np.uint8(0), tuple(t.shape)) for t in tensors]  # shapes only
    flags = [_is_planar(shape, "images", channels, True) for shape in shapes]
    if any(flags) and not all(flags):
        tensors = [t.permute(1, 2, 0) if planar else t for t, planar in zip(tensors, flags)]
        shapes = [np.broadcast_to(np.uint8(0), tuple(t.shape)) for t in tensors]
    planar = all(flags)
    return ImageBatch([], planar, _sizes(shapes, planar), single, [t.contiguous() for t in tensors])


def without_alpha(image: Any, mode: str) -> Any:
    """A Pillow image in mode "L" or "RGB". Pillow warns of palettes with an alpha per colour, which is dropped here."""
    if isinstance(image.info.get("transparency"), bytes):
        image = image.copy()  # the caller keeps the alpha
        del image.info["transparency"]
    return image.convert(mode)


def _array(image: Any, name: str) -> np.ndarray:
    if isinstance(image, Tensor):
        if image.device.type != "cpu":
            raise TypeError(f"{name}: expected images on the CPU, got images on {image.device}")
        if image.dtype != torch.uint8:
            raise TypeError(f"{name}: expected uint8, got {image.dtype}")
        array = image.detach().numpy()
    elif isinstance(image, np.ndarray):
        array = image
    elif hasattr(image, "convert") and hasattr(image, "mode"):  # Pillow's
        if image.mode.startswith(("I", "F")):
            raise TypeError(f"{name}: expected an image of 8 bits per channel, got Pillow's mode {image.mode!r}")
        array = np.asarray(image if image.mode in ("L", "RGB", "RGBA") else without_alpha(image, "RGB"))
    else:
        raise TypeError(
            f"{name}: expected a uint8 tensor, array or Pillow image, or a list, got {type(image).__name__}"
        )
    if array.dtype != np.uint8:
        raise TypeError(f"{name}: expected uint8, got {array.dtype}")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim not in (3, 4):
        raise ValueError(f"{name}: expected [H, W, C], [C, H, W] or a batch of them, got shape {array.shape}")
    if 0 in array.shape[-3:]:
        raise ValueError(f"{name}: expected at least one pixel, got shape {array.shape}")
    return array


def _is_planar(array: np.ndarray, name: str, channels: int, tensor: bool) -> bool:
    known = CHANNELS if channels in CHANNELS else (channels,)
    first = channels_first(array.shape, known, tensor)
    if first is not None:
        return first
    expected = "1, 3 or 4" if known is CHANNELS else str(channels)
    shape = (*array.shape[:-1], 3) if isinstance(array, PaddedRGB) else array.shape
    raise ValueError(
        f"{name}: expected {expected} channels as the last dimension or before height and width, got shape "
        f"{shape}; views and encoders of other channels are made with channels= (--channels)"
    )


def _side_by_side(array: np.ndarray, planar: bool) -> np.ndarray:
    """The array, copied if the pixels of a row are not contiguous."""
    pixel = array.strides[-1] if planar else array.strides[-2]
    channels = 1 if planar else array.shape[-1]
    good = pixel == channels and (planar or channels == 1 or array.strides[-1] == 1)
    if good:
        return array
    copied = np.ascontiguousarray(array)
    return copied.view(PaddedRGB) if isinstance(array, PaddedRGB) else copied


def _sizes(arrays: Sequence[np.ndarray], planar: bool) -> np.ndarray:
    rows: list[tuple[int, int]] = []
    for array in arrays:
        height, width = array.shape[-2:] if planar else array.shape[-3:-1]
        rows += [(height, width)] * (array.shape[0] if array.ndim == 4 else 1)
    return np.array(rows, dtype=np.int64).reshape(-1, 2)
