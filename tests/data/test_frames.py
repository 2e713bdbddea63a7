"""Frames of videos: which pairs are items, in what order, with which motion; and how a patch is found again."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

import fastssl.data
from fastssl.data import ArraySource, FrameSource, PackedImages, frames, open_splits, pack, pack_source
from fastssl.data.files import each_once
from fastssl.data.frames import motion_between
from fastssl.data.summary import summary
from fastssl.data.tracking import moving_box, track


def clip(folder: Path, values: range, suffix: str = ".png") -> None:
    """Frames of one grey level each; their names have numbers of different lengths."""
    folder.mkdir(parents=True)
    for k, value in enumerate(values):
        Image.new("RGB", (12, 10), (value,) * 3).save(folder / f"frame_{k + 1}{suffix}")


def levels(source: FrameSource) -> list[tuple[int, ...]]:
    return [tuple(int(image[0, 0, 0]) for image in source.read(k).images or ()) for k in range(len(source))]


def test_items_are_pairs_of_frames_of_a_clip_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    clip(tmp_path / "walk", range(12))  # frame_10 comes behind frame_9
    clip(tmp_path / "run", range(100, 104))
    clip(tmp_path / "short", range(200, 203))
    source = fastssl.data.open(f"frames:{tmp_path}#gap=3:step=2")
    assert isinstance(source, FrameSource) and source.labels is None and not source.classes
    assert levels(source) == [(100, 103), (0, 3), (2, 5), (4, 7), (6, 9), (8, 11)]
    assert source.skipped == {"clips of at most 3 frames": 1}
    assert source.image_ids is not None and source.image_ids.tolist() == [0, 1, 1, 1, 1, 1]
    assert "4 of them share a clip with an earlier one" in list(summary(source))
    assert len(each_once(source)) == 2


def test_packed_frames_keep_clips_and_motion(tmp_path: Path) -> None:
    for k in range(2):
        clip(tmp_path / "v" / f"clip{k}", range(10 * k, 10 * k + 5))
        turned = [[*np.eye(3, 4)[0, :3], 0.5 * n * (k + 1), 0, 1, 0, 0, 0, 0, 1, 0] for n in range(5)]
        (tmp_path / "v" / f"clip{k}" / "poses.txt").write_text("\n".join(" ".join(map(str, row)) for row in turned))
    (tmp_path / "v" / "clip0" / "frame_2.png").write_bytes(b"broken")
    source = fastssl.data.open(f"frames:{tmp_path / 'v'}#gap=2")
    packed = PackedImages(pack_source(source, tmp_path / "v.pack", on_error="skip"))
    assert [packed.read(k).images[0][0, 0, 0] for k in range(len(packed))] == [0, 2, 10, 11, 12]  # type: ignore[index]
    assert packed.motions is not None and packed.motions[:, 0].tolist() == [1, 1, 2, 2, 2]
    assert packed.image_ids is not None and packed.image_ids.tolist() == [0, 0, 2, 2, 2]
    assert packed.shared == "a clip" and len(each_once(packed)) == 2
    motions = packed.subset([3]).motions
    assert motions is not None and motions[0, 0] == 2
    with pytest.raises(ValueError, match="motions: expected 2, one per item, got 1"):
        pack(np.zeros((2, 4, 4, 3), np.uint8), tmp_path / "x.pack", motions=np.zeros((1, 6)))


def test_folders_of_clips_are_classes_and_parts_are_kept(tmp_path: Path) -> None:
    for part, classes in (("train", ("jump", "sit")), ("test", ("sit",))):
        for name, k in itertools.product(classes, range(2)):
            clip(tmp_path / part / name / f"clip{k}", range(4))
    train, test = (fastssl.data.open(f"frames:{tmp_path}#gap=2", part=part) for part in ("train", "test"))
    assert list(train.classes) == list(test.classes) == ["jump", "sit"]
    assert train.labels is not None and train.labels.tolist() == [0] * 4 + [1] * 4
    assert [test.read(k).label for k in range(4)] == [1] * 4
    task = open_splits(f"frames:{tmp_path}#gap=2")
    assert (len(task.train), len(task.test)) == (4, 2)  # one item per clip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("#gap=9", "expected clips of more than 9 frames, the longest of .* has 4"),
        ("#gap=0", "gap: expected an integer >= 1, got 0"),
        ("#step=x", "expected an integer, got step=x"),
        ("#fps=2", "expected options gap, step"),
        ("/none", "found no images; those of a video are written by ffmpeg"),
    ],
)
def test_what_gives_no_items_is_named(tmp_path: Path, options: str, message: str) -> None:
    clip(tmp_path / "a", range(4))
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=message):
        fastssl.data.open(f"frames:{tmp_path}{options}")
    with pytest.raises(FileNotFoundError, match="expected a folder of clips"):
        fastssl.data.open(f"frames:{tmp_path}/nowhere")


def test_clips_must_fit_the_frames() -> None:
    video = ArraySource(np.zeros((4, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="clips: expected 4, one per frame, got 3"):
        FrameSource(video, np.zeros(3, int), 1)
    with pytest.raises(ValueError, match="one after the other"):
        FrameSource(video, np.array([0, 1, 0, 1]), 1)


@pytest.mark.parametrize("seed", range(5))
def test_motion_is_what_takes_the_second_camera_to_the_first(seed: int) -> None:
    """By points: what the second camera sees at q, the first sees at R q + t."""
    rng = np.random.default_rng(seed)
    rotations = Rotation.random(8, random_state=seed).as_matrix()
    poses = np.concatenate([rotations, rng.normal(size=(8, 3, 1))], 2)
    found = motion_between(poses[:4], poses[4:])
    for a, b, motion in zip(poses[:4], poses[4:], found):
        point = rng.normal(size=3)
        of_a, of_b = (pose[:, :3].T @ (point - pose[:, 3]) for pose in (a, b))
        assert np.allclose(Rotation.from_rotvec(motion[3:]).apply(of_b) + motion[:3], of_a)


def test_poses_are_read_and_checked(tmp_path: Path) -> None:
    for name in ("a", "b"):
        clip(tmp_path / name, range(4))
    line = "1 0 0 0 0 1 0 0 0 0 1 {}\n"
    (tmp_path / "a" / "poses.txt").write_text("".join(line.format(k) for k in range(4)))
    with pytest.raises(ValueError, match=r"expected poses.txt in each clip or in none, .* has none in 'b'"):
        frames(str(tmp_path), gap=2)
    for text, message in (
        ("".join(line.format(k) for k in range(3)), "a line for each of 4 frames, got 3"),
        ("1 2 3\n" * 4, "expected 12 numbers per line, got 3 in line 1"),
        ("a b c\n" * 4, "expected 12 numbers per line"),
        ("2 0 0 0 0 1 0 0 0 0 1 0\n" * 4, "expected rotations"),
        (line.format("nan") * 4, "expected rotations"),
    ):
        (tmp_path / "b" / "poses.txt").write_text(text)
        with pytest.raises(ValueError, match=message):
            frames(str(tmp_path), gap=2)
    (tmp_path / "b" / "poses.txt").write_text("".join(line.format(3 * k) for k in range(4)))
    source = frames(str(tmp_path), gap=2)
    assert source.motions is not None and source.motions[:, 2].tolist() == [2, 2, 6, 6] and not source.skipped
    part = source.subset([3, 0])
    assert part.motions is not None and part.motions[:, 2].tolist() == [6, 2]
    other = frames(str(tmp_path), gap=1)
    assert len({source.fingerprint, other.fingerprint, part.fingerprint}) == 3


def brute_force(first: np.ndarray, second: np.ndarray, box: tuple[int, int, int, int], reach: float) -> tuple[int, int]:
    top, left, height, width = box
    template, best = first[top : top + height, left : left + width, 1].astype(float).ravel(), {}
    rows, columns = int(reach * height), int(reach * width)
    for y in range(max(top - rows, 0), min(top + rows, len(second) - height) + 1):
        for x in range(max(left - columns, 0), min(left + columns, second.shape[1] - width) + 1):
            window = second[y : y + height, x : x + width, 1].astype(float).ravel()
            best[y, x] = float(np.corrcoef(template, window)[0, 1])
    return max(best, key=lambda place: best[place])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("reach", [0.25, 0.5, 2.0])
def test_a_patch_is_found_where_the_correlation_of_all_windows_is_largest(seed: int, reach: float) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 256, (2, 40, 37, 3), dtype=np.uint8)
    box = (int(rng.integers(0, 24)), int(rng.integers(0, 20)), 16, 17)
    assert track(first, second, box, reach) == brute_force(first, second, box, reach)


def test_patches_of_any_size_follow_what_moves_at_the_scale_of_blocks() -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    first = np.asarray(Image.fromarray(coarse).resize((400, 300), Image.Resampling.BICUBIC))
    second = np.roll(first, (21, -18), (0, 1))
    top, left = track(first, second, (100, 150, 96, 96))
    assert abs(top - 121) <= 3 and abs(left - 132) <= 3
    flat = np.full((64, 64, 3), 9, np.uint8)
    assert track(flat, first[:64, :64], (20, 20, 16, 16)) == track(first[:64, :64], flat, (20, 20, 16, 16)) == (20, 20)


def test_boxes_are_drawn_where_something_moves_and_lie_in_the_image() -> None:
    first = np.full((90, 120, 3), 40, np.uint8)
    second = first.copy()
    second[60:70, 80:95] = 200
    for draw in np.linspace(0, 1, 21):
        top, left = moving_box(first, second, 30, 30, float(draw))
        assert 30 < top + 1 <= 61 and 50 < left + 1 <= 91
        top, left = moving_box(first, first, 90, 30, float(draw))
        assert top == 0 and 0 <= left <= 90
    assert moving_box(first, second, 90, 120, 0.7) == (0, 0)
