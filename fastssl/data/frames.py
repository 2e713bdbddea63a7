"""Frames of videos: pairs of frames of a clip as items, and the motion of the camera between them where it is known."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastssl._options import integer
from fastssl._words import amount
from fastssl.data.columns import check_options
from fastssl.data.files import FileSource, NoImagesError, folder
from fastssl.data.listing import LONE
from fastssl.data.source import CLIP, Item, Reduction, Subset, digest, first_indices
from fastssl.data.storage import content, is_file, join

KIND = "frames"
POSES = "poses.txt"
OPTIONS = ("gap", "step")


class FrameSource(Subset):
    """Pairs of frames of the same clip, ``gap`` frames apart: the two images of each item.

    A method with several views takes them from both frames, so that what a camera sees at two times is a positive pair.

    Args:
        frames: all frames of all clips; those of a clip follow each other, in the order of time.
        clips: int [F], the clip of each frame.
        gap: how many frames the second frame of an item is behind the first.
        step: how many frames lie between the first frames of two items of a clip.
        poses: [F, 3, 4], of the camera at each frame: rotation and position, from its coordinates to those of the clip.

    Attributes:
        motions: [N, 6], the motion of the camera between the frames of each item, in the coordinates of the first: to
            the right, down, forward, and the rotation vector in radians; None: not known.

    Raises:
        ValueError: ``gap`` or ``step`` below 1, no clip of more than ``gap`` frames, or ``clips`` that do not fit.

    Example:
        >>> import numpy as np
        >>> from fastssl.data import ArraySource, FrameSource
        >>> video = ArraySource(np.arange(5, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 8, 8, 3), np.uint8))
        >>> source = FrameSource(video, np.zeros(5, int), gap=3)
        >>> len(source), [int(image.max()) for image in source.read(1).images]
        (2, [1, 4])
    """

    def __init__(self, frames: Any, clips: Any, gap: int = 15, step: int = 1, *, poses: Any = None) -> None:
        gap, step = integer("gap", gap, 1), integer("step", step, 1)
        clips = np.asarray(clips)
        if len(clips) != len(frames):
            raise ValueError(f"clips: expected {len(frames)}, one per frame, got {len(clips)}")
        _, first, self.clip, count = np.unique(clips, return_index=True, return_inverse=True, return_counts=True)
        place = np.arange(len(clips)) - first[self.clip]
        if np.any(place >= count[self.clip]):
            raise ValueError("clips: expected the frames of a clip one after the other, got others between them")
        starts = np.flatnonzero((place % step == 0) & (place + gap < count[self.clip]))
        if not len(starts):
            raise ValueError(
                f"gap: expected clips of more than {amount(gap, 'frame')}, the longest of {frames.name} has "
                f"{int(count.max(initial=0))}"
            )
        super().__init__(frames, starts)
        self.gap, self.shared, self.clip = gap, CLIP, self.clip[starts]
        short = int((count <= gap).sum())
        self.skipped = {**frames.skipped, **({f"clips of at most {amount(gap, 'frame')}": short} if short else {})}
        self.motions = None if poses is None else motion_between(poses[starts], poses[starts + gap])

    def read(self, index: int, reduce: Reduction | None = None) -> Item:
        first = super().read(index, reduce)
        second = self.source.read(int(self.ids[index]) + self.gap, reduce)
        return first._replace(images=(first.images or ()) + (second.images or ()), label=self.label_of(index))

    @property
    def image_ids(self) -> np.ndarray | None:
        """The first item of the clip of each: frames of one clip are alike."""
        return first_indices(self.clip.tolist())

    @property
    def fingerprint(self) -> str:
        known = [] if self.motions is None else [self.motions]
        return digest(super().fingerprint, str(self.gap), *known)


def motion_between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The motion [N, 6] from poses [N, 3, 4] to others, in the coordinates of the first: translation, rotation vector.

    Example:
        >>> import numpy as np
        >>> from fastssl.data.frames import motion_between
        >>> start, end = np.eye(3, 4)[None], np.eye(3, 4)[None].copy()
        >>> end[0, 2, 3] = 1.5
        >>> motion_between(start, end)[0, :3].tolist()
        [0.0, 0.0, 1.5]
    """
    from scipy.spatial.transform import Rotation

    back = first[:, :, :3].transpose(0, 2, 1)
    moved = (back @ (second[:, :, 3:] - first[:, :, 3:]))[:, :, 0]
    return np.concatenate([moved, Rotation.from_matrix(back @ second[:, :, :3]).as_rotvec()], 1)


def frames(root: str, gap: int = 15, step: int = 1, **options: Any) -> FrameSource:
    """The clips in a folder: each folder of images is one, whose frames are in the order of the numbers in their names.

    Where all clips are in folders of folders, the top-level folders are the classes. A file ``poses.txt`` in the folder
    of each clip has the pose of the camera at each frame as in KITTI's odometry: 12 numbers per line, the rows of a
    [3, 4] matrix.

    Args:
        root: the folder, or its URL.
        gap: how many frames the second frame of an item is behind the first.
        step: how many frames lie between the first frames of two items of a clip.
        options: ``max_pixels``, ``orientation`` and ``progress`` of :func:`fastssl.data.folder`.

    Raises:
        ValueError: no images, no clip of more than ``gap`` frames, or poses that do not fit the frames.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> clip = Path(tempfile.mkdtemp()) / 'walk'
        >>> clip.mkdir()
        >>> for k in range(4):
        ...     Image.new('RGB', (8, 8)).save(clip / f'{k}.png')
        >>> from fastssl.data import frames
        >>> len(frames(str(clip.parent), gap=2))
        2
    """
    try:
        found = folder(root, **options)
    except NoImagesError as error:
        raise NoImagesError(
            f"data: expected folders of frames in {root!r}, found no images; those of a video are written by "
            f"ffmpeg -i walk.mp4 {join(root, 'walk')}/%06d.jpg"
        ) from error
    names = list(found.paths)
    homes = [name.rpartition("/")[0] for name in names]
    order = sorted(range(len(names)), key=lambda k: (homes[k], _natural(names[k])))
    ordered = found.subset(order)
    assert isinstance(ordered, FileSource)
    clips = [homes[k] for k in order]
    poses = _poses(str(found.root), clips)
    texts = found.skipped.get(LONE, 0) - (0 if poses is None else len(set(clips)))
    ordered.skipped = {why: count for why, count in {**found.skipped, LONE: texts}.items() if count > 0}
    if not all("/" in clip for clip in clips):  # the folders are clips, not classes
        ordered.labels, ordered.classes = None, []
        ordered.classes_from = f"classes are folders of clips, {root} has clips alone"
    number = {clip: k for k, clip in enumerate(dict.fromkeys(clips))}
    return FrameSource(ordered, [number[clip] for clip in clips], gap, step, poses=poses)


def _natural(name: str) -> list[Any]:
    """A key that orders frame 2 before frame 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", name)]


def _poses(root: str, clips: list[str]) -> np.ndarray | None:
    files = {clip: join(join(root, clip) if clip else root, POSES) for clip in dict.fromkeys(clips)}
    there = {clip: file for clip, file in files.items() if is_file(file)}
    if not there:
        return None
    lacking = next((clip for clip in files if clip not in there), None)
    if lacking is not None:
        raise ValueError(f"data: expected {POSES} in each clip or in none, {root!r} has none in {lacking!r}")
    count = Counter(clips)
    return np.concatenate([_read_poses(file, count[clip]) for clip, file in files.items()])


def _read_poses(file: str, count: int) -> np.ndarray:
    try:
        rows = [[float(x) for x in line.split()] for line in content(file).decode().splitlines() if line.strip()]
    except ValueError as error:
        raise ValueError(f"{file}: expected 12 numbers per line, the rows of a [3, 4] matrix: {error}") from error
    wrong = next((k for k, row in enumerate(rows) if len(row) != 12), None)
    if wrong is not None:
        raise ValueError(f"{file}: expected 12 numbers per line, got {len(rows[wrong])} in line {wrong + 1}")
    if len(rows) != count:
        raise ValueError(f"{file}: expected a line for each of {amount(count, 'frame')}, got {len(rows)}")
    poses = np.array(rows).reshape(-1, 3, 4)
    if not np.isfinite(poses).all() or not np.allclose(np.linalg.det(poses[:, :, :3]), 1, atol=0.01):
        raise ValueError(f"{file}: expected rotations in the first three columns, got matrices of other determinants")
    return poses


def open_frames(root: str, given: Mapping[str, str], options: dict[str, Any]) -> FrameSource:
    """``frames:FOLDER``, and behind it options: ``#gap=15:step=5``.

    Raises:
        ValueError: another option, or a value that is no integer.
    """
    check_options(given, f"{KIND}:{root}", OPTIONS)
    wrong = next((f"{name}={value}" for name, value in given.items() if not value.isdecimal()), None)
    if wrong is not None:
        raise ValueError(f"data: expected an integer, got {wrong}")
    return frames(root, **{name: int(value) for name, value in given.items()}, **options)
