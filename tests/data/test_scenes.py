"""Scenes of emoji: exact masks, tight boxes, the same bits everywhere."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest

from fastssl.data import Objects, Source, emoji, open, open_splits, scenes
from fastssl.data.embedded import emoji_masks, held_out_rows
from fastssl.data.objects import objects_of


def drawn(source: Source, count: int = 12) -> list[Objects]:
    found = [source.read(k).objects for k in range(count)]
    return [objects for objects in found if objects is not None]


def test_the_bits_are_these() -> None:
    """On every machine: a change of this number is a change of the data."""
    made = hashlib.blake2b(digest_size=8)
    for split in ("train", "test"):
        for k in (0, 3, 11):
            item = scenes(12, split, size=64).read(k)
            assert item.images is not None and item.objects is not None and item.objects.segmentation is not None
            made.update(item.images[0].tobytes() + item.objects.segmentation.tobytes() + item.objects.boxes.tobytes())
    assert made.hexdigest() == "cc91aca340edaf2b"


def test_boxes_are_tight_around_what_is_seen() -> None:
    for objects in drawn(scenes(12, objects=(1, 1), size=96)):
        assert objects.segmentation is not None and len(objects.boxes) == 1
        ys, xs = (objects.segmentation == objects.labels[0] + 1).nonzero()
        assert objects.boxes[0].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert objects.areas[0] == len(ys) == (objects.segmentation > 0).sum()
        assert not objects.difficult[0]


def test_hidden_objects_are_difficult() -> None:
    many = drawn(scenes(12, objects=(6, 6), size=48))
    assert any(objects.difficult.any() for objects in many)
    for objects in many:
        assert objects.segmentation is not None and len(objects.boxes) <= 6
        assert objects.areas.sum() == (objects.segmentation > 0).sum()


def test_a_scene_depends_on_its_number_alone() -> None:
    few, many = scenes(2, seed=3), scenes(200, seed=3)
    for k in (0, 1):
        for other in (many, pickle.loads(pickle.dumps(few)), few.subset([0, 1])):
            (first,), (second,) = few.read(k).images or (), other.read(k).images or ()
            assert np.array_equal(first, second)
    assert not np.array_equal((scenes(2, seed=4).read(0).images or ())[0], (few.read(0).images or ())[0])
    assert few.fingerprint != many.fingerprint


def test_test_scenes_have_the_emoji_that_were_held_out() -> None:
    train, held_out = held_out_rows(len(emoji()))
    splits = open_splits("scenes")
    assert set(splits.train.rows) == set(train) and set(splits.test.rows) == set(held_out)  # type: ignore[attr-defined]
    assert splits.train.classes == splits.test.classes == emoji().classes
    assert open("scenes").fingerprint == splits.train.fingerprint


def test_single_kinds_are_classes() -> None:
    train, test = scenes(4, kinds=True), scenes(4, "test", kinds=True)
    assert len(train.classes) == 1497 and train.classes == test.classes
    item = train.read(0)
    assert item.objects is not None and item.objects.segmentation is not None
    assert set(item.objects.segmentation.ravel()) >= {0, *(item.objects.labels + 1)}


def test_masks_cut_the_images_from_their_background() -> None:
    """Where there is no drawing, the image is the grey that it was composited on."""
    images, masks = emoji().images, emoji_masks()
    assert images.shape[:4] == masks.shape and not images.flags.writeable
    away = ~(masks | np.roll(masks, 1, 2) | np.roll(masks, -1, 2) | np.roll(masks, 1, 3) | np.roll(masks, -1, 3))
    grey = np.abs(images[away].astype(int) - 236).max(1)
    assert (grey < 16).mean() > 0.99
    assert emoji().labels is not emoji().labels  # each source has its own


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 0}, "count: expected an integer >= 1, got 0"),
        ({"split": "val"}, "split: expected 'train' or 'test', got 'val'"),
        ({"size": 16}, "size: expected an integer >= 32, got 16"),
        ({"objects": (3, 2)}, "objects: expected 1 <= smallest <= largest <= 100"),
    ],
)
def test_bad_arguments(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scenes(**given)  # type: ignore[arg-type]


def test_objects_are_within_their_image() -> None:
    with pytest.raises(ValueError, match=r"a.xml: expected boxes within the 80 x 60 pixels of the image, got \[70"):
        objects_of((60, 80), [[70, 5, 90, 30]], [0], name="a.xml")
    with pytest.raises(ValueError, match="expected a segmentation of the image's 80 x 60 pixels, got one of 60 x 80"):
        objects_of((60, 80), segmentation=np.zeros((80, 60), np.uint8))
    with pytest.raises(ValueError, match="expected labels of 1 boxes, got 2"):
        objects_of((60, 80), [[0, 5, 20, 30]], [0, 1])


def test_scenes_cannot_be_written_to() -> None:
    """A kept one would be another image for all that reads it later."""
    source = scenes(2)
    for _ in range(2):
        item = source.read(0)
        assert item.objects is not None
        for values in (item.images[0], *(v for v in item.objects if isinstance(v, np.ndarray))):
            with pytest.raises(ValueError, match="read-only"):
                values[...] = 0
