"""Augmentation programs on both backends: drawing parameters, and making the views that they describe.

A program is a float64 array [operations, 18]: kind, shared, sixteen arguments (``fastssl.augment.ops``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fastssl.ops import extension
from fastssl.ops.backend import resolve
from fastssl.ops.reference import augment as reference

ROW = 18  # numbers of an operation


def recycled(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor, in memory that earlier ones gave back where there is some: fresh pages are slow."""
    if extension._C is None:
        return torch.empty(*shape, dtype=dtype)
    raw = torch.from_numpy(extension._C.new_bytes(math.prod(shape) * dtype.itemsize))
    return raw.view(dtype).view(*shape)


@dataclass(frozen=True)
class Output:
    """What the views look like in memory."""

    height: int
    width: int
    dtype: torch.dtype
    channels_last: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def empty(self, batch: int) -> Tensor:
        """[B, 3, H, W]."""
        shape = (self.height, self.width, 3) if self.channels_last else (3, self.height, self.width)
        return self.as_views(recycled((batch, *shape), self.dtype))

    def as_views(self, memory: Tensor) -> Tensor:
        """[B, 3, H, W] of memory as it lies, halves as bits."""
        views = memory if memory.dtype == self.dtype else memory.view(self.dtype)
        return views.permute(0, 3, 1, 2) if self.channels_last else views

    def as_memory(self, views: Tensor) -> np.ndarray:
        """The memory of views that :meth:`empty` made."""
        rows = views.permute(0, 2, 3, 1) if self.channels_last else views
        memory: np.ndarray = (rows if self.dtype == torch.float32 else rows.view(torch.int16)).numpy()
        return memory


def sample(
    program: np.ndarray, sizes: np.ndarray, seed: int, epoch: int, ids: np.ndarray, view: int, backend: str | None
) -> np.ndarray:
    """The parameters of view ``view`` for images of ``sizes`` [B, 2]: float64 [B, columns]."""
    ids = np.ascontiguousarray(ids, dtype=np.int64)
    if resolve(torch.device("cpu"), backend) == "reference":
        return reference.sample(program, sizes, seed, epoch, ids, view)
    assert extension._C is not None
    drawn: np.ndarray = extension._C.augment_sample(program, sizes, seed, epoch, ids, view)
    return drawn


def apply(
    program: np.ndarray,
    images: Sequence[np.ndarray] | Sequence[Tensor],
    planar: bool,
    params: np.ndarray,
    output: Output,
    backend: str | None,
    serial: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """The views of uint8 images: arrays, or tensors on a GPU.

    ``backend`` "cuda": the GPU's kernels, on the CPU as loops.

    ``serial``: on this thread alone, for callers that are many threads themselves; ``out``: where they go, as
    ``output.empty`` makes it.
    """
    if backend == "cuda" or (len(images) and isinstance(images[0], Tensor)):
        tensors = [t if isinstance(t, Tensor) else torch.from_numpy(np.ascontiguousarray(t)) for t in images]
        made_there = _apply_cuda(program, tensors, planar, params, output)
        return made_there if out is None else out.copy_(made_there)
    arrays: list[np.ndarray] = [a for a in images if isinstance(a, np.ndarray)]
    if resolve(torch.device("cpu"), backend) == "reference":
        out = output.empty(len(params)) if out is None else out
        singles = [image for array in arrays for image in (array if array.ndim == 4 else [array])]
        for k, image in enumerate(singles):
            x = torch.from_numpy(np.ascontiguousarray(image if planar else image.transpose(2, 0, 1)))
            out[k] = reference.view(program, x, params[k], output.height, output.width, output.mean, output.std)
        return out
    assert extension._C is not None
    made = extension._C.augment_apply(
        program,
        arrays,
        planar,
        np.ascontiguousarray(params, dtype=np.float64),
        str(output.dtype)[6:],
        output.channels_last,
        list(output.mean),
        list(output.std),
        output.height,
        output.width,
        serial,
        None if out is None else output.as_memory(out),
    )
    return output.as_views(torch.from_numpy(made)) if out is None else out


DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Packed:
    """Views to be made on the device of their pixels: uint8, one image after another; ``tasks`` says which views."""

    pixels: Tensor
    tasks: Tensor
    output: Output
    taps: int
    widest: int

    def make(self) -> Tensor:
        """The views, in one launch, a block for each."""
        from fastssl.ops.triton import cuda

        cuda.require(self.pixels.device)
        output = self.output
        made: Tensor = torch.ops.fastssl.make_views.default(
            self.pixels,
            self.tasks,
            *(output.height, output.width, DTYPES.index(output.dtype), output.channels_last),
            *(*output.mean, *output.std, self.taps, self.widest),
        )
        return made.permute(0, 3, 1, 2) if output.channels_last else made


def layout_of(images: Sequence[Tensor] | Sequence[np.ndarray], planar: bool) -> np.ndarray:
    """[B, 7]: where each image's pixels begin, height, width, channels, and strides of rows, channels and columns."""
    rows, offset = [], 0
    for image in images:
        h, w, c = (*image.shape[-2:], image.shape[-3]) if planar else image.shape[-3:]
        strides = (w, h * w, 1) if planar else (w * c, 1, c)
        for _ in range(image.shape[0] if image.ndim == 4 else 1):
            rows.append((offset, h, w, c, *strides))
            offset += h * w * c
    return np.array(rows, dtype=np.int64).reshape(-1, 7)


def pack(program: np.ndarray, pixels: Tensor, layout: np.ndarray, params: np.ndarray, output: Output) -> Packed:
    """Views with parameters that were drawn on the host."""
    assert extension._C is not None
    drawn = np.ascontiguousarray(params, dtype=np.float64)
    tasks, taps, widest = extension._C.augment_tasks(program, layout, drawn, output.height, output.width)
    return Packed(pixels, torch.from_numpy(tasks), output, taps, widest)


def _apply_cuda(
    program: np.ndarray, images: Sequence[Tensor], planar: bool, params: np.ndarray, output: Output
) -> Tensor:
    flat = [image.reshape(-1) for image in images] or [torch.empty(0, dtype=torch.uint8)]
    pixels = flat[0] if len(flat) == 1 else torch.cat(flat)
    packed = pack(program, pixels, layout_of(images, planar), params, output)
    return replace(packed, tasks=packed.tasks.to(pixels.device)).make()
