"""Tracking compares patches along a track; egomotion predicts known motion where there is some, else drawn motion."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from PIL import Image
from torch import Tensor

from fastssl.augment import Augment, CenterCrop, Normalize, RandomResizedCrop, Views
from fastssl.data import ArraySource, Batch, FrameSource, Item, emoji
from fastssl.methods import Egomotion, Tracking
from fastssl.models import build_encoder
from fastssl.train import Pretraining, load_method, pretrain

ENCODER = {"name": "resnet", "size": 16, "width": 4, "blocks": 1}


def video(frames: int = 6, side: int = 64) -> np.ndarray:
    """A textured square that moves by (2, 3) pixels a frame over a flat background."""
    texture = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    made = np.full((frames, side, side, 3), 128, np.uint8)
    for k in range(frames):
        made[k, 10 + 2 * k : 34 + 2 * k, 8 + 3 * k : 32 + 3 * k] = texture
    return made


def plain() -> Views:
    """Patches as they are cropped."""
    return Views([(2, Augment([RandomResizedCrop(16, scale=(0.06, 0.06), ratio=(1.0, 1.0)), Normalize(0, 1)]))])


def test_patches_follow_what_moves() -> None:
    method = Tracking(build_encoder(ENCODER), plain())
    source, ids = FrameSource(ArraySource(video()), np.zeros(6, int), gap=2), np.arange(4)
    moved = [method.views(source.items(ids), seed, 0, ids) for seed in range(6)]
    same = torch.stack([(first - second).abs().mean() for first, second in moved])
    still = [
        method.views([item._replace(images=item.images[:1]) for item in source.items(ids)], s, 0, ids) for s in range(6)
    ]
    other = torch.stack([(first - second).abs().mean() for first, second in still])
    assert float(same.mean()) < 0.5 * float(other.mean())


def test_items_of_one_image_and_of_several_sizes_give_patches_within_them() -> None:
    method, rng = Tracking(build_encoder(ENCODER), reach=4.0), np.random.default_rng(0)
    sizes = [(9, 30), (64, 17), (5, 5), (40, 40)]
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    items = [Item((image,)) for image in images] + [Item((a, b)) for a, b in zip(images, images[1:])]
    for epoch in range(5):
        views = method.views(items, 0, epoch, np.arange(len(items)))
        assert [tuple(view.shape) for view in views] == [(7, 3, 16, 16)] * 2
        again = method.views(items[3:5], 0, epoch, np.array([3, 4]))
        assert all(part.equal(view[3:5]) for part, view in zip(again, views))  # whatever batch they are in


@pytest.mark.parametrize("hard", [False, True])
def test_the_loss_is_that_of_triplets_of_cosine_distances(hard: bool) -> None:
    method = Tracking(build_encoder(ENCODER), margin=0.4)
    method.hard.fill_(hard)
    a, b = torch.randn(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows, ids = torch.cat([a, b]), torch.tensor([4, 0, 9, 2, 7]).repeat(2)
    distance = 1 - TF.cosine_similarity(rows[:, None], rows[None], dim=2)
    losses = []
    for i in range(10):
        positive = (i + 5) % 10
        negatives = [j for j in range(10) if ids[j] != ids[i]]
        chosen = [min(negatives, key=lambda j: float(distance[i, j]))] if hard else negatives
        losses += [max(0.0, float(distance[i, positive] - distance[i, j]) + 0.4) for j in chosen]
    found = method.objective(a, b, labels=ids[:5])
    assert float(found) == pytest.approx(sum(losses) / len(losses), abs=1e-9)


def test_the_hardest_negative_comes_after_its_part_of_the_run() -> None:
    method = Tracking(build_encoder(ENCODER), hard_after=0.5)
    seen = []
    for progress in (0.1, 0.49, 0.5, 1.0):
        method.after_step(progress)
        seen.append(bool(method.hard))
    assert seen == [False, False, True, True] and bool(Tracking(build_encoder(ENCODER), hard_after=0).hard)


def test_augmentations_without_a_crop_to_track_are_refused() -> None:
    with pytest.raises(ValueError, match="augment: expected two programs that begin with RandomResizedCrop"):
        Tracking(build_encoder(ENCODER), Views([(2, Augment([CenterCrop(16)]))]))
    with pytest.raises(ValueError, match="reach: expected 0 to 4"):
        Tracking(build_encoder(ENCODER), reach=-1)


def posed(motions: np.ndarray) -> FrameSource:
    """A clip whose camera turns to the right by ``motions[:, 2]``, goes right by column 0 and forward by column 1."""
    poses = [np.eye(4)]
    for right, forward, turn in motions:
        c, s = math.cos(turn), math.sin(turn)
        step = np.array([[c, 0, s, right], [0, 1, 0, 0], [-s, 0, c, forward], [0, 0, 0, 1]])
        poses.append(poses[-1] @ step)
    count = len(poses)
    images = np.random.default_rng(0).integers(0, 256, (count, 24, 24, 3), dtype=np.uint8)
    return FrameSource(ArraySource(images), np.zeros(count, int), gap=1, poses=np.array(poses)[:, :3])


def test_known_motion_is_predicted_in_intervals_of_equal_width() -> None:
    motions = np.stack([np.linspace(-1, 1, 9), np.linspace(0, 4, 9), np.linspace(-0.2, 0.3, 9)], 1)
    source, method = posed(motions), Egomotion(build_encoder(ENCODER), bins=4)
    assert method.prepare(source) is source
    before, after, targets = method.views(source.items([8, 3, 0]), 0, 0, np.array([8, 3, 0]))
    assert targets.tolist() == [[3, 3, 3], [1, 1, 1], [0, 0, 0]]
    # The same pixels of both frames: of equal frames the views are equal.
    twice = [item._replace(images=(item.images[0],) * 2) for item in source.items([8, 3, 0])]
    one, two, _ = method.views(twice, 0, 0, np.array([8, 3, 0]))
    assert one.equal(two) and one.equal(before) and not two.equal(after)


def test_drawn_motion_moves_the_view_by_what_is_predicted() -> None:
    method = Egomotion(build_encoder({**ENCODER, "size": 32}), bins=2, degrees=0.0, translate=0.25)
    image = np.zeros((32, 32, 3), np.uint8)
    image[12:20, 12:20] = 255
    ids = np.arange(16)
    method.augment = Views([Augment([CenterCrop(32), Normalize(0, 1)])])
    before, after, targets = method.views([Item((image,))] * 16, 0, 0, ids)

    def centre(view: Tensor) -> Tensor:
        weights, along = view.mean(1), torch.arange(32.0)
        total = weights.sum((1, 2))
        return torch.stack([(weights.sum(1) * along).sum(1), (weights.sum(2) * along).sum(1)], 1) / total[:, None]

    shift = centre(after) - centre(before)  # to the right, down; the content moves against the camera
    assert bool(((shift < 0) == (targets[:, 1:] == 1)).all()) and float(shift.abs().max()) <= 8.1


def test_egomotion_learns_known_motion_and_its_checkpoint_says_that_it_did(tmp_path: Path) -> None:
    motions = np.random.default_rng(0).uniform(-1, 1, (12, 3)) * (1, 1, 0.3)
    options = Pretraining(epochs=1, batch_size=4)
    pretrain(Egomotion(build_encoder(ENCODER)), posed(motions), options, out=tmp_path / "run", encoder_options=ENCODER)
    loaded, fresh = load_method(tmp_path / "run"), Egomotion(build_encoder(ENCODER))
    batch = Batch(fresh.views(emoji().items(range(4)), 0, 0, np.arange(4)), None, torch.arange(4))
    assert set(fresh.pretext_metrics(batch)) == {"accuracy", "chance"}
    assert loaded.pretext_metrics(batch) == {}  # drawn motion is another task


def test_frames_on_a_disk_train_both(tmp_path: Path) -> None:
    for k, frame in enumerate(video()):
        (tmp_path / "clip").mkdir(exist_ok=True)
        Image.fromarray(frame).save(tmp_path / "clip" / f"{k}.png")
    for kind in (Tracking, Egomotion):
        method = kind(build_encoder(ENCODER))
        options = Pretraining(epochs=2, batch_size=2)
        before = [p.detach().clone() for p in method.encoder.parameters()]
        pretrain(method, f"frames:{tmp_path}#gap=2", options, out=tmp_path / kind.__name__, encoder_options=ENCODER)
        assert any(not a.equal(b) for a, b in zip(before, method.encoder.parameters()))
