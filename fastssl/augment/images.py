"""What an augmentation takes: uint8 images in every form that people have them in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

CHANNELS = (1, 3, 4)


@dataclass
class ImageBatch:
    """Images as arrays that the kernels read: one array of four dimensions, or a list of three."""

    arrays: list[np.ndarray]
    planar: bool
    sizes: np.ndarray  # int64 [B, 2]: height, width
    single: bool = False  # one image was given, not a batch
    on_device: list[Tensor] | None = None  # in place of the arrays, where the images lie on a GPU

    @property
    def images(self) -> list[np.ndarray] | list[Tensor]:
        return self.arrays if self.on_device is None else self.on_device

    def __len__(self) -> int:
        return len(self.sizes)

    def one_by_one(self) -> list[np.ndarray]:
        """The images, each [H, W, C]."""
        images = [image for array in self.arrays for image in (array if array.ndim == 4 else [array])]
        return [image.transpose(1, 2, 0) if self.planar else image for image in images]


def read_images(images: Any) -> ImageBatch:
    """Takes uint8 tensors or arrays [B, H, W, C], [B, C, H, W] or one image, Pillow images, or a list of images.

    C is 1 (grey: all channels the same), 3, or 4 (alpha is left out, as Pillow's ``convert("RGB")`` does). Tensors may
    lie on a GPU, all on one; their views are made there.

    Raises:
        TypeError: not images of uint8.
        ValueError: other shapes, or an image without pixels.
    """
    if _is_cuda(images):
        return _on_device([images], single=images.dim() == 3)
    if isinstance(images, (list, tuple)) and len(images) and all(map(_is_cuda, images)):
        return _on_device(list(images), single=False)
    if isinstance(images, (list, tuple)):
        arrays = [_array(image, f"images[{k}]") for k, image in enumerate(images)]
        for k, array in enumerate(arrays):
            if array.ndim == 4:
                raise ValueError(f"images[{k}]: expected one image, got shape {array.shape}")
        flags = [_is_planar(a, f"images[{k}]") for k, a in enumerate(arrays)]
        if any(flags) and not all(flags):
            arrays = [a.transpose(1, 2, 0) if planar else a for a, planar in zip(arrays, flags)]
        planar = bool(flags) and all(flags)
        arrays = [_side_by_side(a, planar) for a in arrays]
        return ImageBatch(arrays, planar, _sizes(arrays, planar))
    array = _array(images, "images")
    planar = _is_planar(array, "images")
    single = array.ndim == 3
    array = _side_by_side(array, planar)
    return ImageBatch([array], planar, _sizes([array], planar), single)


def _is_cuda(image: Any) -> bool:
    return isinstance(image, Tensor) and image.device.type == "cuda"


def _on_device(tensors: list[Tensor], single: bool) -> ImageBatch:
    for k, t in enumerate(tensors):
        if t.dtype != torch.uint8:
            raise TypeError(f"images: expected uint8, got {t.dtype}")
        if t.dim() not in (3, 4) or 0 in t.shape[-3:] or (len(tensors) > 1 and t.dim() != 3):
            raise ValueError(f"images: expected [H, W, C], [C, H, W] or a batch of them, got shape {tuple(t.shape)}")
        if t.device != tensors[0].device:
            raise ValueError(f"images[{k}]: expected a tensor on {tensors[0].device}, got one on {t.device}")
    shapes = [np.broadcast_to(np.uint8(0), tuple(t.shape)) for t in tensors]  # nothing but their shapes
    flags = [_is_planar(shape, "images") for shape in shapes]
    if any(flags) and not all(flags):
        tensors = [t.permute(1, 2, 0) if planar else t for t, planar in zip(tensors, flags)]
        shapes = [np.broadcast_to(np.uint8(0), tuple(t.shape)) for t in tensors]
    planar = all(flags)
    return ImageBatch([], planar, _sizes(shapes, planar), single, [t.contiguous() for t in tensors])


def _array(image: Any, name: str) -> np.ndarray:
    if isinstance(image, Tensor):
        if image.device.type != "cpu":
            raise TypeError(f"{name}: expected images on the CPU, got them on {image.device}")
        if image.dtype != torch.uint8:
            raise TypeError(f"{name}: expected uint8, got {image.dtype}")
        array = image.detach().numpy()
    elif isinstance(image, np.ndarray):
        array = image
    elif hasattr(image, "convert") and hasattr(image, "mode"):  # Pillow's
        if image.mode.startswith(("I", "F")):
            raise TypeError(f"{name}: expected an image of 8 bits a channel, got Pillow's mode {image.mode!r}")
        array = np.asarray(image if image.mode in ("L", "RGB", "RGBA") else image.convert("RGB"))
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


def _is_planar(array: np.ndarray, name: str) -> bool:
    if array.shape[-1] in CHANNELS:
        return False
    if array.shape[-3] in CHANNELS:
        return True
    raise ValueError(
        f"{name}: expected 1, 3 or 4 channels as the last dimension or before height and width, got shape {array.shape}"
    )


def _side_by_side(array: np.ndarray, planar: bool) -> np.ndarray:
    """The array itself where the pixels of a row lie side by side, else a copy."""
    pixel = array.strides[-1] if planar else array.strides[-2]
    channels = 1 if planar else array.shape[-1]
    good = pixel == channels and (planar or channels == 1 or array.strides[-1] == 1)
    return array if good else np.ascontiguousarray(array)


def _sizes(arrays: Sequence[np.ndarray], planar: bool) -> np.ndarray:
    rows: list[tuple[int, int]] = []
    for array in arrays:
        height, width = array.shape[-2:] if planar else array.shape[-3:-1]
        rows += [(height, width)] * (array.shape[0] if array.ndim == 4 else 1)
    return np.array(rows, dtype=np.int64).reshape(-1, 2)
