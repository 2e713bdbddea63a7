"""Batches that several threads put together."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fastssl.augment import Augment, RandomResizedCrop, SimCLRAugment
from fastssl.data import Loader
from fastssl.data.batch import Assembly, Batch, collate
from fastssl.data.loader import CHUNK
from fastssl.data.packed import pack


class Odd(NamedTuple):
    """Rows of several kinds: per item one, two or none."""

    views: list[Tensor]
    twice: Tensor
    half: Tensor
    width: Tensor
    nothing: Any = None


def part(items: int, seed: int, channels_last: bool = False, width: int = 5) -> Odd:
    g = torch.Generator().manual_seed(seed)
    views = [torch.rand(items, 3, 4, 6, generator=g), torch.rand(items, 3, 2, 2, generator=g).bfloat16()]
    if channels_last:
        views = [v.contiguous(memory_format=torch.channels_last) for v in views]
    more = torch.arange(2 * items).reshape(2 * items, 1), torch.rand(1, 3, generator=g)
    return Odd(views, *more, torch.rand(items, width, generator=g) > 0.5)


def equal(a: Odd, b: Odd) -> None:
    for x, y in zip([*a.views, *a[1:4]], [*b.views, *b[1:4]]):
        assert torch.equal(x, y) and x.dtype == y.dtype and x.stride() == y.stride()


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    data=st.data(),
    channels_last=st.booleans(),
)
def test_parts_in_any_order_and_short_ones(sizes: list[int], data: Any, channels_last: bool) -> None:
    """The batch is the parts' concatenation, whoever is first, and whether or not all items could be read."""
    made: list[Odd | None] = []
    for k, size in enumerate(sizes):
        kept = data.draw(st.integers(0, size))
        made.append(part(kept, k, channels_last) if kept else None)
    assembly = Assembly(sizes, pin_memory=False)
    for k in data.draw(st.permutations(range(len(sizes)))):
        assembly.put(k, made[k])
    found, kept_parts = assembly.finished(), [p for p in made if p is not None]
    if not kept_parts:
        assert found is None
        return
    equal(found, collate(kept_parts))


def test_parts_of_other_shapes_are_an_error_as_for_cat() -> None:
    assembly = Assembly([2, 2], pin_memory=False)
    assembly.put(0, part(2, 0))
    assembly.put(1, part(2, 1, width=7))
    with pytest.raises(RuntimeError, match="[Ss]ize"):
        assembly.finished()


@pytest.mark.parametrize("channels_last", [False, True])
def test_batches_keep_their_pixels(channels_last: bool) -> None:
    """Memory is used again only when nobody holds it."""
    images = np.random.default_rng(0).integers(0, 256, (6 * CHUNK + 3, 160, 150, 3), dtype=np.uint8)
    augment = Augment([RandomResizedCrop(96)], channels_last=channels_last)
    loader = Loader(images, augment, 2 * CHUNK + 1, shuffle=False, drop_last=False, workers=3)
    kept = list(loader.run(0, 0, 3))
    assert [len(b.ids) for b in kept] == [33, 33, 33] * 3
    for k, batch in enumerate(kept):
        right = augment(images[batch.ids.numpy()], seed=0, epoch=k // 3, ids=batch.ids.numpy())
        assert torch.equal(batch.views[0], right) and batch.views[0].stride() == right.stride()


@pytest.mark.filterwarnings("error")
def test_read_only_images_are_planned_without_a_word(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 160, 150, 3), dtype=np.uint8)
    packed = pack(iter(images), tmp_path / "x.pack")
    (batch,) = Loader(packed, SimCLRAugment(64), 20, planned=True, shuffle=False)
    assert torch.equal(batch.views.views[0].pixels, torch.from_numpy(images).reshape(-1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs a GPU")
@pytest.mark.parametrize("planned", [False, True])
def test_pinned(planned: bool) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 160, 150, 3), dtype=np.uint8)
    batches = list(Loader(images, SimCLRAugment(64), 40, planned=planned, pin_memory=True))
    seen: list[bool] = []
    for batch in batches:
        tensors = batch.views
        if planned:
            for view in tensors.views:
                seen += [view.pixels.is_pinned(), view.tasks.is_pinned()]
            tensors = tensors.map(lambda t: t.cuda()).make()
        else:
            seen += [t.is_pinned() for t in tensors]
        right = SimCLRAugment(64)(images[batch.ids.numpy()], seed=0, ids=batch.ids.numpy())
        for got, expected in zip(tensors, right):
            assert torch.equal(got.cpu(), expected)
    assert all(seen) and isinstance(batches[0], Batch) and batches[0].labels.is_pinned()
