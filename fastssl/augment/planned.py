"""Views that are made later, where their pixels are copied to: a loader draws the parameters, a GPU makes the views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fastssl.augment.images import read_images
from fastssl.augment.program import Views
from fastssl.ops.augment import Packed, layout_of, pack


@dataclass(frozen=True)
class PlannedViews:
    """Images and the drawn parameters of their views.

    Args:
        augment: the views.
        images: of each view, in the order of the items; the same list where views have the same images.
        params: of each view, float64 [B, columns].
    """

    augment: Views
    images: list[list[np.ndarray]]
    params: list[np.ndarray]

    @classmethod
    def of(cls, augment: Views, images: Sequence[object], seed: int, epoch: int, ids: np.ndarray) -> PlannedViews:
        """Views of ``images``, one entry per view; the same entry where they are of the same images."""
        read = {id(some): read_images(some, augment.channels) for some in images}
        lists = {key: batch.one_by_one() for key, batch in read.items()}
        params = []
        for k, (some, program) in enumerate(zip(images, augment.programs)):
            read[id(some)].require(augment.channels)
            drawn = program.sample(read[id(some)].sizes, seed=seed, epoch=epoch, ids=ids, view=k)
            params.append(drawn.values)
        return cls(augment, [lists[id(some)] for some in images], params)

    @classmethod
    def cat(cls, parts: Sequence[PlannedViews]) -> PlannedViews:
        first = parts[0]
        views = range(len(first.images))
        shared = all(images is part.images[0] for part in parts for images in part.images)
        lists = [[image for part in parts for image in part.images[k]] for k in (views[:1] if shared else views)]
        params = [np.concatenate([part.params[k] for part in parts]) for k in views]
        return cls(first.augment, lists * len(views) if shared else lists, params)

    def packed(self) -> PackedViews:
        """All that a GPU needs, in a few tensors."""
        laid: dict[int, tuple[Tensor, np.ndarray]] = {}
        made = []
        for images, params, program in zip(self.images, self.params, self.augment.programs):
            if id(images) not in laid:
                pixels = np.concatenate([image.reshape(-1) for image in images])
                laid[id(images)] = torch.from_numpy(np.asarray(pixels)), layout_of(images, False)
            made.append(pack(program._program, *laid[id(images)], params, program._output))
        return PackedViews(made)


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
