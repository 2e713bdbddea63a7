"""Views that are made later, where their pixels are copied to: a loader draws the parameters, a GPU makes the views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fastssl.augment.images import read_images
from fastssl.augment.program import Views
from fastssl.ops.augment import Packed, layout_of, pack, recycled


@dataclass(frozen=True)
class PlannedViews:
    """Images and the drawn parameters of their views.

    Args:
        augment: the views.
        pixels: of each view, the images' bytes one after another; the same tensor where views have the same images.
        layouts: of each view, where its images are (:func:`fastssl.ops.augment.layout_of`).
        params: of each view, float64 [B, columns].
    """

    augment: Views
    pixels: list[Tensor]
    layouts: list[np.ndarray]
    params: list[np.ndarray]

    @classmethod
    def of(cls, augment: Views, images: Sequence[object], seed: int, epoch: int, ids: np.ndarray) -> PlannedViews:
        """Views of ``images``, one entry per view; the same entry where they are of the same images."""
        read = {id(some): read_images(some, augment.channels) for some in images}
        laid = {key: _in_one_piece(batch.one_by_one()) for key, batch in read.items()}
        params = []
        for k, (some, program) in enumerate(zip(images, augment.programs)):
            read[id(some)].require(augment.channels)
            drawn = program.sample(read[id(some)].sizes, seed=seed, epoch=epoch, ids=ids, view=k)
            params.append(drawn.values)
        return cls(augment, [laid[id(x)][0] for x in images], [laid[id(x)][1] for x in images], params)

    @classmethod
    def cat(
        cls,
        parts: Sequence[PlannedViews],
        cat: Callable[[Sequence[Tensor]], Tensor] = torch.cat,  # type: ignore[assignment]
    ) -> PlannedViews:
        first = parts[0]
        views = range(len(first.pixels))
        shared = all(pixels is part.pixels[0] for part in parts for pixels in part.pixels)
        pixels, layouts = [], []
        for k in views[:1] if shared else views:
            starts = np.cumsum([0, *(len(part.pixels[k]) for part in parts)])
            moved = [part.layouts[k] + start * (np.arange(7) == 0) for part, start in zip(parts, starts)]
            pixels.append(cat([part.pixels[k] for part in parts]))
            layouts.append(np.concatenate(moved))
        params = [np.concatenate([part.params[k] for part in parts]) for k in views]
        if shared:
            pixels, layouts = pixels * len(views), layouts * len(views)
        return cls(first.augment, pixels, layouts, params)

    def packed(self) -> PackedViews:
        """All that a GPU needs, in a few tensors."""
        made = zip(self.augment.programs, self.pixels, self.layouts, self.params)
        return PackedViews([pack(p._program, pixels, layout, drawn, p._output) for p, pixels, layout, drawn in made])


def _in_one_piece(images: list[np.ndarray]) -> tuple[Tensor, np.ndarray]:
    """The images' bytes one after another, and where each image is. (torch.cat would warn of read-only images.)"""
    pixels = recycled((sum(image.size for image in images),), torch.uint8)
    np.concatenate([np.asarray(image).reshape(-1) for image in images], out=pixels.numpy())
    return pixels, layout_of(images, False)


@dataclass(frozen=True)
class PackedViews:
    """Views to be made on the device of their tensors."""

    views: list[Packed]

    def map(self, function: Callable[[Tensor], Tensor]) -> PackedViews:
        """The same with ``function`` of every tensor, once for pixels that views share."""
        moved = {id(v.pixels): v.pixels for v in self.views}
        moved = {key: function(pixels) for key, pixels in moved.items()}
        return PackedViews([replace(v, pixels=moved[id(v.pixels)], tasks=function(v.tasks)) for v in self.views])

    def make(self) -> list[Tensor]:
        return [view.make() for view in self.views]
