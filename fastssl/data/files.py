"""Image files: a folder with one sub-folder per class, or a list of paths."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from fastssl.data.decode import MAX_PIXELS, ImageError, open_image, read_image
from fastssl.data.listing import SUFFIXES, Names, list_images
from fastssl.data.source import (
    Item,
    Reduction,
    Source,
    are_scores,
    check_index,
    digest,
    empty_texts,
    first_indices,
    labels_or_scores,
)
from fastssl.data.storage import content, ending, is_url, join, name_of, state_of
from fastssl.data.value_range import ValueRange, checked_range

log = logging.getLogger("fastssl")
_LOOKED_FOR = 16  # files of a list, some of which may be missing


class PathSource(Source):
    """Base class of files that are read on access: their paths, labels and classes.

    Attributes:
        repeats: whether a file may be there more than once; those of a folder are not.

    Args:
        paths: paths of the files, relative to ``root`` if given; or URLs.
        labels: one integer per file, -1 for unknown classes; several classes per file, [N, classes] of 1, 0 (unknown)
            and -1, or of 1 and 0 alone; without ``classes`` one float per file, a number to predict, NaN if unknown;
            None: no labels.
        classes: names of the classes.
        name: name of the data set in logs and checkpoints.
        root: folder (or URL of one) that relative paths start from.
        skipped: reasons for which files were left out -> number of files.

    Raises:
        ValueError: a wrong number of labels.
    """

    repeats = True

    def __init__(
        self,
        paths: Sequence[str] | Sequence[Path],
        labels: Any,
        classes: Sequence[str],
        name: str,
        root: str | Path | None,
        skipped: Mapping[str, int] | None,
    ) -> None:
        self.paths = paths if isinstance(paths, Names) else Names(str(p) for p in paths)
        self.classes, self.name, self.skipped = list(classes), name, skipped or {}
        self.labels = None if labels is None else labels_or_scores(labels, len(self.paths), self.classes)
        if self.labels is not None and self.labels.ndim == 1 and not are_scores(self.labels):
            self.labels = self.labels.astype(np.int32)
        self.root = None if root is None else str(root)

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> str:
        """The path or URL of a file."""
        own = self.paths[check_index(index, len(self))]
        return own if self.root is None else join(self.root, own)

    def name_of(self, index: int) -> str:
        return self.paths[index]

    def size_of(self, index: int) -> int | None:
        try:
            return None if is_url(self.path(index)) else os.stat(self.path(index)).st_size
        except OSError:  # reading it says why
            return None

    @property
    def image_ids(self) -> np.ndarray | None:
        if not self.repeats:
            return None
        paths = map(self.path, range(len(self)))
        return first_indices(path if is_url(path) else os.path.normpath(path) for path in paths)

    @property
    def fingerprint(self) -> str:
        """Hash of relative paths and labels; moving the folder does not change it."""
        labels = [] if self.labels is None else [self.labels]
        if self.root is not None:
            return digest(*self.classes, *labels, self.paths.bytes, self.paths.offsets)
        # Below their common folder, whose name may change; without what signs URLs.
        paths = [path.partition("?")[0] if is_url(path) else os.path.abspath(path) for path in self.paths]
        folders = [path.replace(os.sep, "/").split("/")[:-1] for path in paths]
        first, last = min(folders, default=[]), max(folders, default=[])  # all others share what these do
        same = next((k for k, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))
        above = len("/".join([*first[:same], ""]))
        return digest(*self.classes, *labels, *(path[above:] for path in paths))

    @property
    def content_key(self) -> str:
        return digest(self.fingerprint, *(self._state(index) for index in range(len(self))))

    def _state(self, index: int) -> str:
        """What changes when a file does: its size and time of change; of a remote one, its place."""
        return state_of(self.path(index))


class FileSource(PathSource):
    """Image files, decoded on access at full resolution.

    Args:
        paths: paths of the files, relative to ``root`` if given; or URLs.
        labels: one integer per file, -1 for unknown classes; several classes per file, [N, classes] of 1, 0 (unknown)
            and -1, or of 1 and 0 alone; without ``classes`` one float per file, a number to predict, NaN if unknown;
            None: no labels.
        classes: names of the classes.
        name: name of the data set in logs and checkpoints.
        root: folder (or URL of one) that relative paths start from.
        texts: one text per file; or bool [N]: which files have a ``.txt`` file of the same name.
        max_pixels: larger images raise an error before they are decoded.
        orientation: apply the EXIF orientation. torchvision's ``ImageFolder`` does not.
        value_range: as of :func:`fastssl.data.read_image`, of all images.
        skipped: reasons for which files were left out -> number of files.
        versions: version of each remote file (such as an ETag); files with a version are cached on disk.

    Raises:
        ValueError: a wrong number of labels or texts.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> path = Path(tempfile.mkdtemp()) / 'cat' / '0.png'
        >>> path.parent.mkdir()
        >>> Image.new('RGB', (8, 8)).save(path)
        >>> from fastssl.data import FileSource
        >>> FileSource([path], [0], ['cat']).read(0).images[0].shape[:2]
        (8, 8)
    """

    columns: str | None = None  # of a table that lists the files: what is read from each

    def __init__(
        self,
        paths: Sequence[str] | Sequence[Path],
        labels: Any = None,
        classes: Sequence[str] = (),
        name: str = "files",
        *,
        root: str | Path | None = None,
        texts: Sequence[str] | np.ndarray | None = None,
        max_pixels: int = MAX_PIXELS,
        orientation: bool = True,
        value_range: ValueRange | None = None,
        skipped: Mapping[str, int] | None = None,
        versions: Sequence[str] | None = None,
    ) -> None:
        super().__init__(paths, labels, classes, name, root, skipped)
        if texts is not None and len(texts) != len(self.paths):
            raise ValueError(f"texts: expected {len(self.paths)}, one per file, got {len(texts)}")
        self.texts, self.versions = texts, versions
        self.max_pixels, self.orientation = max_pixels, orientation
        self.value_range = checked_range(value_range)

    def read(self, index: int, reduce: Reduction | None = None) -> Item:
        path = self.path(index)
        try:
            image = read_image(
                content(path, self._version(index)) if is_url(path) else path,
                name=path,
                max_pixels=self.max_pixels,
                orientation=self.orientation,
                reduce=reduce,
                shared=True,
                value_range=self.value_range,
            )
        except FileNotFoundError as error:
            raise self._missing(index) from error
        return Item(images=(image,), label=self.label_of(index), text=self._text(index, path), name=self.paths[index])

    def check_there(self) -> None:
        """Checks that some of the files are there, of a few that are looked for; those at URLs are not.

        Raises:
            FileNotFoundError: none is.
        """
        ids = np.unique(np.linspace(0, max(len(self) - 1, 0), min(len(self), _LOOKED_FOR)).round().astype(int))
        paths = [self.path(int(index)) for index in ids]
        if paths and not any(is_url(path) or os.path.exists(path) for path in paths):
            raise self._missing(0)

    def _missing(self, index: int) -> FileNotFoundError:
        return FileNotFoundError(f"{self.path(index)}: no such file{self._elsewhere(self.paths[index])}")

    def _elsewhere(self, listed: str) -> str:
        """Where the file may be that a table lists."""
        if self.columns is None or self.root is None or is_url(listed) or os.path.isabs(listed):
            return ""
        if "\\" in listed and os.sep == "/":
            return "; folders of a path are separated by /, not by \\"
        return f"; paths are relative to {self.root}, another folder is named behind the table: #images=FOLDER"

    def text_of(self, index: int) -> str | None:
        return self._text(index, self.path(index))

    @property
    def without_text(self) -> np.ndarray | None:
        if isinstance(self.texts, np.ndarray):  # those of files, of which some may be empty
            return np.flatnonzero(~self.texts)
        return empty_texts(self.texts, len(self))

    def _text(self, index: int, path: str) -> str | None:
        if self.texts is None or not isinstance(self.texts, np.ndarray):
            return None if self.texts is None else self.texts[index]
        if not self.texts[index]:
            return None
        place = os.path.splitext(path)[0] + ".txt"
        raw = content(place)
        try:
            return raw.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise ImageError(f"{place}: byte {error.start} ({raw[error.start]:#04x}) is no UTF-8") from error

    @property
    def fingerprint(self) -> str:
        """Hash of relative paths, labels, texts that are in memory and which files have one, and how files are read."""
        texts = [] if self.texts is None else [self.texts] if isinstance(self.texts, np.ndarray) else self.texts
        read_as = [*([] if self.orientation else ["no orientation"]), *self._read_as()]
        return digest(super().fingerprint, *texts, *read_as) if len(texts) or read_as else super().fingerprint

    def _state(self, index: int) -> str:
        return super()._state(index) + (self._version(index) or "")

    def _version(self, index: int) -> str | None:
        return None if self.versions is None else self.versions[index]

    def subset(self, ids: Any, name: str | None = None) -> Source:
        ids = np.asarray(ids, dtype=np.int64)
        made = copy(self)
        made.paths, made.name = self.paths.take(ids), name or self.name
        made.labels = None if self.labels is None else self.labels[ids]
        if self.texts is not None:
            made.texts = self.texts[ids] if isinstance(self.texts, np.ndarray) else [self.texts[i] for i in ids]
        if self.versions is not None:
            made.versions = [self.versions[i] for i in ids]
        made.where, made.part, made.skipped = None, None, {}  # which are of the whole
        return made


def each_once(source: Source) -> Source:
    """The source with every image once, in its first item (``source.image_ids``), for evaluation: a table has a row for
    each text of an image, a clip many frames, and an image that is trained on must not be tested on.

    Raises:
        ValueError: items of one image with different labels.
    """
    ids = source.image_ids
    if ids is None:
        return source
    if source.labels is not None:
        labels = np.nan_to_num(source.labels, nan=np.inf) if are_scores(source.labels) else source.labels
        other = np.flatnonzero((labels[ids] != labels).reshape(len(ids), -1).any(1))
        if len(other):
            kind = "number" if are_scores(labels) else "class"
            name = source.name_of(int(other[0]))
            raise ValueError(f"data: expected one {kind} per image to evaluate on, {name} of {source.name} has several")
    first = np.unique(ids)
    again = len(source) - len(first)
    log.warning("%s: %d items share %s with an earlier one and are not evaluated", source.name, again, source.shared)
    return source.subset(first, source.name)


class NoImagesError(ValueError):
    """A folder without images."""


def folder(
    path: str | Path,
    *,
    label: str | None = None,
    max_pixels: int = MAX_PIXELS,
    orientation: bool = True,
    value_range: ValueRange | None = None,
    progress: Callable[[int], None] | None = None,
) -> FileSource:
    """Returns the images in a folder, recursively; top-level sub-folders are classes.

    Symbolic links to folders are followed. Hidden files and folders, files other than images, and formats that no
    installed plugin of Pillow reads are left out and counted in ``skipped``. A ``.txt`` file of the same name holds
    the text of an image.

    Args:
        path: a folder, or the URL of one; without sub-folders there are no classes.
        label: a regular expression that finds the class of an image in its path below the folder, in place of
            sub-folders: its first group, or what it matches without one. "^(.+)[._][0-9]+" finds "cat" in "cat.0.jpg".
        max_pixels: larger images raise an error before they are decoded.
        orientation: apply the EXIF orientation. torchvision's ``ImageFolder`` does not.
        value_range: as of :func:`fastssl.data.read_image`, of all images.
        progress: called with the number of images found so far.

    Raises:
        ValueError: no such folder, or a path without a match of ``label``.
        NoImagesError: no images in it.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> path = Path(tempfile.mkdtemp()) / 'cat' / '0.png'
        >>> path.parent.mkdir()
        >>> Image.new('RGB', (8, 8)).save(path)
        >>> from fastssl.data import folder
        >>> folder(path.parent.parent).classes
        ['cat']
    """
    root = str(path) if is_url(path) else os.path.abspath(path)
    listing = list_images(root, progress)
    if not len(listing.files):
        left = ", ".join(f"{count} {why}" for why, count in listing.skipped.items())
        raise NoImagesError(
            f"path: expected images ({', '.join(sorted(SUFFIXES))}) in {str(path)!r}, found none"
            + (f" (left out: {left})" if left else "")
            + ("" if is_url(root) else _without_suffix(root))
            + f"; a folder of texts is text:{path}"
        )
    labels, classes = _classes(listing.files) if label is None else _classes_in(listing.files, label, root)
    source = FileSource(
        listing.files,
        labels,
        classes,
        os.path.basename(root) if not is_url(root) else name_of(root),
        root=root,
        texts=listing.texts if listing.texts.any() else None,
        max_pixels=max_pixels,
        orientation=orientation,
        value_range=value_range,
        skipped=listing.skipped,
        versions=listing.versions,
    )
    source.repeats = False
    if not classes:
        source.classes_from = (
            f"classes are sub-folders, {root} has none; labels of files are in a table (path,label), or in their names "
            f"(cat.0.jpg) by a regular expression: '{root}#label=^(.+)[._][0-9]+'"
        )
    elif len(classes) == 1 and label is None:
        source.classes_from = f"if its classes are the sub-folders of {classes[0]!r}, open {join(root, classes[0])}"
    return source


def _without_suffix(root: str) -> str:
    """What the first file without a suffix is, of a folder in which no file has that of an image."""
    for folder, _, names in os.walk(root):
        bare = min((name for name in names if not ending(name) and not name.startswith(".")), default=None)
        if bare is not None:
            path = os.path.join(folder, bare)
            try:
                with open_image(path) as image:
                    return f"; {path} is a {image.format} file, to whose name a suffix is to be added"
            except (ImageError, OSError) as error:
                return f"; {error}"
    return ""


def _classes(files: Names) -> tuple[np.ndarray | None, list[str]]:
    """Classes from the first folder of each path; "." for files outside of sub-folders, unless all are."""
    numbers: dict[str, int] = {}
    owners = np.empty(len(files), np.int32)
    for k, file in enumerate(files):
        first, _, rest = file.partition("/")
        owners[k] = numbers.setdefault(first if rest else ".", len(numbers))
    if set(numbers) == {"."}:
        return None, []
    classes = sorted(numbers)
    place = np.array([classes.index(name) for name in numbers], dtype=np.int32)
    return place[owners], classes


def _classes_in(files: Names, label: str, root: str) -> tuple[np.ndarray, list[str]]:
    """Classes from what a regular expression finds in each path."""
    try:
        pattern = re.compile(label)
    except re.error as error:
        raise ValueError(f"label: expected a regular expression, got {label!r} ({error})") from error
    found = []
    for file in files:
        match = pattern.search(file)
        name = None if match is None else match[1 if pattern.groups else 0]
        if not name:
            raise ValueError(
                f"label: expected a class in the path of each image of {root}, {label!r} finds none in {file!r}"
            )
        found.append(name)
    classes, labels = np.unique(np.array(found), return_inverse=True)
    return labels.astype(np.int32), classes.tolist()
