"""Packed images: one memory-mapped file of raw pixels, for data that is read many times.

8 bytes   magic
pixels    concatenated images, uint8
table     one record per image (``RECORD``)
header    JSON: version, count, checksum of the table, classes, name; optional: drawings (images per item), names,
          texts, the range of values, and the motions and clips of pairs of frames
footer    offsets of table and header, checksum of the header, magic (``FOOTER``)
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastssl._files import replacing
from fastssl._words import amount
from fastssl.augment.images import PaddedRGB
from fastssl.data.bands import ImageError
from fastssl.data.captions import CaptionError
from fastssl.data.container import FOOTER, write_end
from fastssl.data.corpus import CorpusError
from fastssl.data.decode import shrink
from fastssl.data.prefetch import prefetch_items
from fastssl.data.shards import ShardError
from fastssl.data.source import (
    CLIP,
    Item,
    Reduction,
    Source,
    are_scores,
    check_index,
    digest,
    empty_texts,
    first_indices,
)
from fastssl.data.storage import is_url, open_file
from fastssl.data.value_range import ValueRange, checked_range
from fastssl.data.wav import AudioError

log = logging.getLogger("fastssl")
MAGIC = b"FSSLPAK1"
VERSION = 1
RECORD = np.dtype(
    [("offset", "<u8"), ("height", "<u4"), ("width", "<u4"), ("channels", "<u4"), ("crc", "<u4"), ("label", "<i8")]
)
UNLABELLED = -1


class PackedError(ValueError):
    """Not a packed file, or a damaged one."""


def pack(
    images: Iterable[np.ndarray],
    path: str | Path,
    *,
    labels: Sequence[int] | np.ndarray | None = None,
    classes: Sequence[str] = (),
    name: str | None = None,
    names: Sequence[str] | None = None,
    texts: Sequence[str | None] | None = None,
    images_per_item: int = 1,
    motions: Sequence[Any] | np.ndarray | None = None,
    clips: Sequence[int] | np.ndarray | None = None,
    value_range: ValueRange | None = None,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Writes images to a packed file, atomically.

    Args:
        images: uint8 [H, W, C], consumed one by one.
        path: path of the file.
        labels: one integer per item; None: no labels.
        classes: names of the classes.
        name: name of the data set; None: that of the file.
        names: one name per item.
        texts: one text per item.
        images_per_item: number of consecutive images that form an item.
        motions: six numbers per item, the motion of the camera (:class:`fastssl.data.FrameSource`).
        clips: one integer per item, the clip that its images are of.
        value_range: the values that became 0 and 255 when the images were read; None: those of their dtype.
        progress: called with the number of images written so far.

    Raises:
        ValueError: an image of another dtype or shape, or a wrong number of labels, names, texts, motions or clips.

    Example:
        >>> import tempfile, numpy as np
        >>> from fastssl.data import PackedImages, pack
        >>> path = pack([np.full((4, 6, 3), k, np.uint8) for k in range(5)], tempfile.mkdtemp() + "/five.pack")
        >>> images = PackedImages(path)
        >>> len(images), images.read(3).images[0].shape, int(images.read(3).images[0].max())
        (5, (4, 6, 3), 3)
    """
    path = Path(path)
    records: list[tuple[int, int, int, int, int, int]] = []
    with replacing(path) as fresh, open(fresh, "wb") as file:
        offset = file.write(MAGIC)
        for k, image in enumerate(images):
            if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or 0 in image.shape:
                got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
                raise ValueError(f"images[{k}]: expected uint8 [H, W, C], got {got}")
            if labels is not None and k >= len(labels) * images_per_item:
                raise ValueError(f"labels: expected one per item, got {len(labels)} for more items")
            pixels = np.ascontiguousarray(image).tobytes()
            label = UNLABELLED if labels is None else int(labels[k // images_per_item])
            records.append((offset, *image.shape, zlib.crc32(pixels), label))
            offset += file.write(pixels)
            if progress is not None:
                progress(k + 1)
        items, rest = divmod(len(records), images_per_item)
        if rest:
            raise ValueError(f"images: expected a multiple of {images_per_item}, got {len(records)}")
        per_item = {"labels": labels, "names": names, "texts": texts, "motions": motions, "clips": clips}
        for key, given in per_item.items():
            if given is not None and len(given) != items:
                raise ValueError(f"{key}: expected {items}, one per item, got {len(given)}")
        table = np.array(records, dtype=RECORD).tobytes()
        header = {
            "version": VERSION,
            "count": len(records),
            "classes": list(classes),
            "name": name or path.stem,
            "drawings": images_per_item,
            **({} if names is None else {"names": list(names)}),
            **({} if texts is None or not any(texts) else {"texts": list(texts)}),
            **({} if motions is None else {"motions": np.asarray(motions, np.float64).reshape(items, 6).tolist()}),
            **({} if value_range is None else {"value_range": list(checked_range(value_range) or ())}),
            **({} if clips is None else {"clips": [int(clip) for clip in clips]}),
        }
        write_end(file, MAGIC, offset, table, header)
    return path


def pack_source(
    source: Source,
    path: str | Path,
    *,
    size: int | None = None,
    on_error: str = "raise",
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Writes the images of a source to a packed file, with its labels, classes, names, texts and range of values, of
    frames also with their clips and the motion of the camera. Several classes per item, boxes and segmentations are
    left out, with a warning.

    Args:
        source: source of images, decoded by several threads.
        path: path of the file.
        size: downsize images to a shorter side of at most this many pixels; None: unchanged.
        on_error: "raise", or "skip" unreadable items.
        progress: called with the number of images written so far.

    Raises:
        ValueError: no items, items without images, or with varying numbers of images, or an unknown ``on_error``.
        ImageError, ShardError, OSError: an unreadable image.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fastssl.data import digits
        >>> from fastssl.data import pack_source
        >>> path = pack_source(digits().subset(range(4)), Path(tempfile.mkdtemp()) / 'digits.fssl')
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error: expected 'raise' or 'skip', got {on_error!r}")
    readable = source if on_error == "raise" else Readable(source)
    first = next((item for k in range(len(source)) if (item := readable.read(k)) is not UNREADABLE), UNREADABLE)
    images_per_item = len(first.images or ())
    if not images_per_item:
        raise ValueError(f"data: expected items with images, got {source!r}")
    several = source.labels is not None and source.labels.ndim > 1
    for what, there in (
        ("several classes per item", several),
        ("numbers to predict", are_scores(source.labels)),
        ("boxes or masks", first.objects is not None),
    ):
        if there:
            log.warning("%s has %s, which a packed file does not hold", source.name, what)
    labels: list[int] = []
    names: list[str] = []
    texts: list[str | None] = []
    of_clips = source.image_ids if source.shared == CLIP else None
    clips: list[int] | None = None if of_clips is None else []
    motions: list[np.ndarray] | None = None if source.motions is None else []

    def images() -> Iterator[np.ndarray]:
        for index, item in enumerate(prefetch_items(readable)):
            if item is UNREADABLE:
                continue
            if item.images is None or len(item.images) != images_per_item:
                got = len(item.images or ())
                raise ValueError(f"data: expected {images_per_item} images per item, {item.name} has {got}")
            labels.append(UNLABELLED if item.label is None else item.label)
            names.append(item.name or "")
            texts.append(item.text)
            if clips is not None and of_clips is not None:
                clips.append(int(of_clips[index]))
            if motions is not None and source.motions is not None:
                motions.append(source.motions[index])
            for image in item.images:
                colors = image[:, :, :3] if isinstance(image, PaddedRGB) else image
                yield shrink(np.ascontiguousarray(colors), size)

    per_item: dict[str, Any] = {"labels": labels, "names": names, "texts": texts, "motions": motions, "clips": clips}
    how: dict[str, Any] = {"images_per_item": images_per_item, "progress": progress}
    how["value_range"] = source.value_range
    return pack(images(), path, classes=source.classes, name=source.name, **per_item, **how)


READ_ERRORS = (AudioError, CaptionError, CorpusError, ImageError, PackedError, ShardError, OSError)  # of an item
UNREADABLE = Item()


class Readable(Source):
    """A source with ``instead`` for items that cannot be read; ``failed`` says why, by index."""

    def __init__(self, source: Source, instead: Item = UNREADABLE) -> None:
        self.source, self.instead, self.name = source, instead, source.name
        self.failed: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int, reduce: Reduction | None = None) -> Item:
        try:
            return self.source.read(index, reduce)
        except READ_ERRORS as error:
            self.failed[index] = str(error)
            return self.instead


class PackedImages(Source):
    """The images of a packed file (see :func:`pack`), memory-mapped, or read by byte ranges from a URL.

    Header and table are validated when the file is opened, the checksum of an image when it is first read.

    Args:
        path: path or URL of the file.

    Raises:
        PackedError: not a packed file, one of another version, or a damaged one.
        FileNotFoundError: no such file.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fastssl.data import digits, pack_source
        >>> from fastssl.data import PackedImages
        >>> path = pack_source(digits().subset(range(4)), Path(tempfile.mkdtemp()) / 'digits.fssl')
        >>> len(PackedImages(path))
        4
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._file = open_file(self.path)
        self._size = self._file.size
        if self._size < len(MAGIC) + FOOTER.size:
            raise PackedError(f"{self.path}: {self._size} bytes are too few for a packed file")
        self._mapped = None if is_url(self.path) else np.memmap(self.path, np.uint8, "r")
        footer = self._bytes(self._size - FOOTER.size, self._size).tobytes()
        table, header, length, crc, magic = FOOTER.unpack(footer)
        if magic != MAGIC or self._bytes(0, len(MAGIC)).tobytes() != MAGIC:
            raise PackedError(f"{self.path}: not a packed file, or a truncated one")
        if not len(MAGIC) <= table <= header or header + length + FOOTER.size != self._size:
            raise PackedError(f"{self.path}: truncated or damaged (its parts do not add up to {self._size} bytes)")
        text = self._bytes(header, header + length).tobytes()
        if zlib.crc32(text) != crc:
            raise PackedError(f"{self.path}: damaged (checksum of the header)")
        about = self._parse(text)
        if (header - table) != about["count"] * RECORD.itemsize:
            raise PackedError(f"{self.path}: damaged (the table does not hold {amount(about['count'], 'image')})")
        raw = self._bytes(table, header).tobytes()
        if zlib.crc32(raw) != about["table_crc"]:
            raise PackedError(f"{self.path}: damaged (checksum of the table)")
        self.records = np.frombuffer(raw, RECORD)
        self._check_records(table)
        self.classes: list[str] = about["classes"]
        self.name: str = about["name"]
        self.images_per_item: int = about.get("drawings", 1)
        self.names: list[str] | None = about.get("names")
        self.texts: list[str | None] | None = about.get("texts")
        self.motions = np.array(about["motions"], np.float64) if "motions" in about else None
        self.clips: list[int] | None = about.get("clips")
        self.value_range = self._range_of(about)
        self.shared = Source.shared if self.clips is None else CLIP
        labels = self.records["label"][:: self.images_per_item].astype(np.int32)
        self.labels = labels if bool((labels != UNLABELLED).any()) else None
        self._verified = np.zeros(len(self.records), dtype=bool)

    def _bytes(self, start: int, stop: int) -> np.ndarray:
        if self._mapped is not None:
            return np.asarray(self._mapped[start:stop])
        return np.frombuffer(self._file.read(start, stop - start), np.uint8)

    def _parse(self, text: bytes) -> dict[str, Any]:
        try:
            about = json.loads(text)
            version = about["version"]
        except (ValueError, KeyError, TypeError) as error:
            raise PackedError(f"{self.path}: damaged (the header is no JSON object)") from error
        if version != VERSION:
            raise PackedError(f"{self.path}: expected version {VERSION}, got {version!r}; pack the images again")
        kinds = {"count": int, "table_crc": int, "classes": list, "name": str}
        if not all(type(about.get(key)) is kind for key, kind in kinds.items()) or about["count"] < 0:
            raise PackedError(f"{self.path}: damaged (incomplete header)")
        images_per_item = about.get("drawings", 1)
        if type(images_per_item) is not int or images_per_item < 1 or about["count"] % images_per_item:
            raise PackedError(f"{self.path}: damaged (incomplete header)")
        for key in ("names", "texts", "motions", "clips"):
            if key in about and len(about[key]) != about["count"] // images_per_item:
                raise PackedError(f"{self.path}: damaged (incomplete header)")
        return dict(about)

    def _range_of(self, about: dict[str, Any]) -> ValueRange | None:
        try:
            return checked_range(about.get("value_range"))
        except ValueError as error:
            raise PackedError(f"{self.path}: damaged (incomplete header)") from error

    def _check_records(self, end: int) -> None:
        r = self.records
        offset = r["offset"].astype(object)
        numel = r["height"].astype(object) * r["width"].astype(object) * r["channels"].astype(object)
        good = (numel > 0) & (offset >= len(MAGIC)) & (offset + numel <= end)
        if not bool(np.all(good)):
            bad = int(np.flatnonzero(~good.astype(bool))[0])
            raise PackedError(f"{self.path}: damaged (image {bad} does not lie within the file)")

    def __len__(self) -> int:
        return len(self.records) // self.images_per_item

    def read(self, index: int, reduce: Reduction | None = None) -> Item:
        first = check_index(index, len(self)) * self.images_per_item
        return Item(
            images=tuple(self.image(first + k) for k in range(self.images_per_item)),
            label=self.label_of(index),
            text=None if self.texts is None else self.texts[index],
            name=self.name_of(index),
        )

    def name_of(self, index: int) -> str:
        return f"image {index}" if self.names is None else self.names[index]

    def text_of(self, index: int) -> str | None:
        return None if self.texts is None else self.texts[index]

    @property
    def without_text(self) -> np.ndarray | None:
        return empty_texts(self.texts, len(self))

    @property
    def image_ids(self) -> np.ndarray | None:
        """Items of one clip, else those of one name and equal images: a checksum alone may be that of several."""
        if self.clips is not None:
            return first_indices(self.clips)
        if self.names is None:
            return None
        pixels = self.records[["height", "width", "channels", "crc"]][:: self.images_per_item]
        return first_indices(zip(self.names, pixels.tolist()))

    @property
    def fingerprint(self) -> str:
        known = [] if self.motions is None else [self.motions]
        return digest(*self.classes, self.records.tobytes(), *(self.texts or ()), *known)

    def __reduce__(self) -> Any:
        return PackedImages, (self.path,)

    def image(self, number: int) -> np.ndarray:
        """An image of the file, uint8 [H, W, C], without a copy if memory-mapped.

        Raises:
            PackedError: wrong checksum.
            IndexError: no such image.
        """
        r = self.records[check_index(number, len(self.records))]
        shape = (int(r["height"]), int(r["width"]), int(r["channels"]))
        start = int(r["offset"])
        pixels = self._bytes(start, start + shape[0] * shape[1] * shape[2])
        if not self._verified[number]:
            if zlib.crc32(pixels.data) != int(r["crc"]):
                raise PackedError(f"{self.path}: image {number} is damaged (checksum)")
            self._verified[number] = True
        return pixels.reshape(shape)
