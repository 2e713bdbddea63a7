"""Tar shards in WebDataset layout: the files of an item share their name up to the first dot.

Each shard is indexed once; the index is stored beside the shard (or in the cache folder, if that is not writable). It
gives random access, so that shuffling, resuming and sharding over processes work exactly as for files.
"""

from __future__ import annotations

import io
import json
import logging
import os
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastssl._files import replacing
from fastssl._words import amount
from fastssl.augment.images import CHANNELS
from fastssl.data.decode import MAX_PIXELS, read_image
from fastssl.data.disk_cache import cache_folder
from fastssl.data.labels import class_labels
from fastssl.data.listing import SUFFIXES, Names, readable, unread
from fastssl.data.source import Item, Reduction, Source, check_index, digest, empty_texts
from fastssl.data.storage import File, Files, Stream, content, is_url, name_of, open_file
from fastssl.data.value_range import ValueRange, checked_range

VERSION = 4
READ_AHEAD = 8 * 2**20  # bytes per request while a remote shard is indexed
log = logging.getLogger("fastssl")


class ShardError(ValueError):
    """A damaged tar file, or one that does not match its index."""


class ShardSource(Source):
    """Items of tar shards: ``KEY.jpg`` (or another image format); optional ``KEY.cls``, ``KEY.txt``, ``KEY.json``.

    ``.cls`` holds a class as an index or a name, ``.txt`` a text, ``.json`` an object with "label" (or "cls") and
    "text" (or "caption"), which may be a list of texts: the image is an item with each.

    Args:
        paths: paths or URLs of the uncompressed tar files, in order.
        name: name of the data set in logs and checkpoints.
        max_pixels: larger images raise an error before they are decoded.
        orientation: apply the EXIF orientation.
        value_range: as of :func:`fastssl.data.read_image`, of all images.
        progress: called with the number of shards indexed so far.

    Raises:
        FileNotFoundError: no such file.
        ShardError: a truncated or compressed shard, two images of one name, or an index of another file.
        ValueError: no shards, or no images in them.

    Example:
        >>> import tempfile
        >>> from fastssl.data import digits, write_shards
        >>> from fastssl.data import ShardSource
        >>> paths = write_shards([digits().read(i) for i in range(4)], tempfile.mkdtemp())
        >>> len(ShardSource(paths))
        4
    """

    classes_from = "classes are files beside the images (0.cls beside 0.jpg), folders in a tar file are none"

    def __init__(
        self,
        paths: Sequence[str | Path],
        name: str | None = None,
        *,
        max_pixels: int = MAX_PIXELS,
        orientation: bool = True,
        value_range: ValueRange | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        if not len(paths):
            raise ValueError("paths: expected at least one tar file, got none")
        self.paths = [str(p) for p in paths]
        self.name = name or name_of(self.paths[0])
        self.max_pixels, self.orientation = max_pixels, orientation
        self.value_range = checked_range(value_range)
        indices: list[dict[str, Any]] = []
        self.versions: list[str] = []
        for k, path in enumerate(self.paths):
            indices.append(_index_of(path))
            self.versions.append(indices[-1]["of"])
            if progress is not None:
                progress(k + 1)
        self.ends = np.cumsum([len(index["places"]) for index in indices])
        self.places = np.concatenate([index["places"] for index in indices])
        self.keys = Names(key for index in indices for key in index["keys"])
        texts = [text for index in indices for text in index["texts"]]
        self.texts = texts if any(text is not None for text in texts) else None
        self.skipped: dict[str, int] = {}
        for index in indices:
            for why, count in index["skipped"].items():
                self.skipped[why] = self.skipped.get(why, 0) + count
        if not len(self.places):
            left = ", ".join(f"{count} {why}" for why, count in self.skipped.items())
            raise ValueError(
                f"paths: expected images in {self.paths[0]!r}, found none" + (f" (left out: {left})" if left else "")
            )
        self.broken: dict[int, str] = {}
        for index, end in zip(indices, self.ends):
            start = int(end) - len(index["places"])
            self.broken |= {start + int(k): reason for k, reason in index["broken"].items()}
        labels = [label for index in indices for label in index["labels"]]
        remedy = "shards have no numbers to predict, tables and Parquet files do (#score=NAME)"
        self.labels, self.classes = class_labels(labels, self._where, "cls", remedy)
        self._files = Files(self.paths)

    def __len__(self) -> int:
        return len(self.places)

    def read(self, index: int, reduce: Reduction | None = None) -> Item:
        shard = int(np.searchsorted(self.ends, check_index(index, len(self)), side="right"))
        start, size = (int(n) for n in self.places[index])
        file = self._files[shard].read(start, size)
        name = self._where(index)
        if index in self.broken:
            raise ShardError(f"{name}: {self.broken[index]}")
        if len(file) != size:
            raise ShardError(f"{name}: the shard is cut off; copy it again, its index is made again")
        image = read_image(
            file,
            name=name,
            max_pixels=self.max_pixels,
            orientation=self.orientation,
            reduce=reduce,
            shared=True,
            value_range=self.value_range,
        )
        return Item(
            images=(image,),
            label=self.label_of(index),
            text=None if self.texts is None else self.texts[index],
            name=self.keys[index],
        )

    def _where(self, index: int) -> str:
        return f"{self.paths[int(np.searchsorted(self.ends, index, side='right'))]}: {self.keys[index]}"

    def name_of(self, index: int) -> str:
        return self.keys[index]

    def text_of(self, index: int) -> str | None:
        return None if self.texts is None else self.texts[index]

    @property
    def without_text(self) -> np.ndarray | None:
        return empty_texts(self.texts, len(self))

    @property
    def image_ids(self) -> np.ndarray | None:
        shards = np.repeat(np.arange(len(self.ends)), np.diff(self.ends, prepend=0))
        places = (shards << 43) + self.places[:, 0]  # no shard has 8 TiB
        _, first, own = np.unique(places, return_index=True, return_inverse=True)
        return first[own] if len(first) < len(own) else None

    @property
    def fingerprint(self) -> str:
        labels = [] if self.labels is None else [self.labels]
        texts = [] if self.texts is None else self.texts
        return digest(*self.classes, *labels, self.places, self.keys.bytes, self.keys.offsets, *texts, *self._read_as())

    @property
    def content_key(self) -> str:
        return digest(self.fingerprint, *self.versions)


def _index_of(place: str) -> dict[str, Any]:
    """The index of a shard: the stored one if it matches the file, else a new one, which is stored."""
    file = open_file(place)
    beside = place + ".index.json"
    elsewhere = str(cache_folder() / "shards" / f"{digest(place if is_url(place) else os.path.realpath(place))}.json")
    for where in (elsewhere, beside) if is_url(place) else (beside, elsewhere):
        kept = _kept_index(where)
        # A copied shard has another version than its index; at a URL both were uploaded together.
        moved = is_url(where) and _fits(file, kept)
        if kept.get("size") == file.size and (kept.get("changed") == file.version or moved):
            kept["places"] = np.array(kept["places"], dtype=np.int64).reshape(-1, 2)
            return {**kept, "of": f"{file.size} {file.version}"}
    made = _make_index(file)
    text = json.dumps({"version": VERSION, "size": file.size, "changed": file.version, **made})
    made["places"] = np.array(made["places"], dtype=np.int64).reshape(-1, 2)
    made["of"] = f"{file.size} {file.version}"
    failed: OSError | None = None
    for where in (elsewhere,) if is_url(place) else (beside, elsewhere):
        path = Path(where)
        try:
            with replacing(path) as fresh:
                fresh.write_text(text)
            return made
        except OSError as error:
            failed = error
    log.warning("%s: the index cannot be stored (%s); it will be made again", place, failed)
    return made


def _kept_index(where: str) -> dict[str, Any]:
    try:
        kept = json.loads(content(where))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) and kept.get("version") == VERSION else {}


def _fits(file: File, index: dict[str, Any]) -> bool:
    """Whether an index matches a shard: the tar header before the last image must have its size."""
    if not index.get("places"):
        return False
    start, size = index["places"][-1]
    header = file.read(start - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE)
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").size == size
    except tarfile.TarError:
        return False


def _make_index(file: File) -> dict[str, Any]:
    place = file.place
    found: dict[str, dict[str, Any]] = {}
    skipped: dict[str, int] = {}
    members: dict[str, tarfile.TarInfo] = {}
    try:
        ahead = READ_AHEAD if is_url(place) else io.DEFAULT_BUFFER_SIZE
        with tarfile.open(fileobj=io.BufferedReader(Stream(file), ahead), mode="r:") as archive:
            for member in archive:
                name, content = os.path.normpath(member.name), member
                if member.islnk():  # another name of a file before it
                    content = members.get(os.path.normpath(member.linkname), member)
                if content.isfile():
                    members[name] = content
                    why = _note(archive, name, content, found, place)
                    if content.offset_data + content.size > file.size:
                        raise ShardError(f"{place}: cut off in {name}; copy it again")
                else:
                    why = None if member.isdir() else "no file (a link)"
                if why is not None:
                    skipped[why] = skipped.get(why, 0) + 1
            _check_end(file, archive.offset)
    except tarfile.TarError as error:
        raise ShardError(f"{place}: no tar file, a compressed one, or cut off ({error})") from error
    alone = sum(bool(item) and "image" not in item for item in found.values())
    if alone:
        skipped["a label or text without an image"] = alone
    items = [row for key, item in found.items() if "image" in item for row in _each_text(key, item)]
    return {
        "keys": [key for key, _ in items],
        "places": [item["image"] for _, item in items],
        "labels": [item.get("label") for _, item in items],
        "texts": [item.get("text") for _, item in items],
        "skipped": skipped,
        "broken": {k: item["broken"] for k, (_, item) in enumerate(items) if "broken" in item},
    }


def _each_text(key: str, item: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The items of an image: one with each of its texts."""
    several = item.get("text")
    return [(key, {**item, "text": text}) for text in several] if isinstance(several, list) else [(key, item)]


def _check_end(file: File, offset: int) -> None:
    """tarfile takes whatever is no header for the end of an archive; its mark is a block of zeros."""
    block = file.read(offset, tarfile.BLOCKSIZE)
    if not block:
        log.warning("%s: has no mark of its end; if it was cut off, copy it again", file.place)
    elif len(block) < tarfile.BLOCKSIZE:
        raise ShardError(f"{file.place}: cut off at byte {file.size:,}; copy it again")
    elif block.strip(b"\0"):
        raise ShardError(f"{file.place}: damaged at byte {offset:,}, where the next file should begin; copy it again")


def _note(
    archive: tarfile.TarFile, name: str, member: tarfile.TarInfo, found: dict[str, dict[str, Any]], path: str
) -> str | None:
    """Adds a file of an archive to its item; else the reason for which it is left out."""
    folder, _, file = name.rpartition("/")
    stem, dot, ending = file.partition(".")
    if not stem or not dot:
        return "no image"
    item = found.setdefault(f"{folder}/{stem}" if folder else stem, {})
    ending = "." + ending.lower()
    if ending in SUFFIXES:
        if "image" in item:
            raise ShardError(f"{path}: two images are called {stem!r}; an item has one")
        if ending not in readable():
            return unread(ending)
        item["image"] = [member.offset_data, member.size]
        return None
    if ending not in (".cls", ".txt", ".json"):
        last = "." + ending.rpartition(".")[2]
        return f"an image called *{ending} (a key ends at its first dot)" if last in SUFFIXES else "no image"
    opened = archive.extractfile(member)
    raw = opened.read() if opened is not None else b""
    try:
        text = raw.decode("utf-8").strip()
    except UnicodeDecodeError as error:  # said where the item is read, which may be passed over
        item["broken"] = f"{ending}: byte {error.start} ({raw[error.start]:#04x}) is no UTF-8"
        return None
    if ending == ".cls":
        item["label"] = text
    elif ending == ".txt":
        item["text"] = text
    else:
        try:
            about = json.loads(text)
        except ValueError as error:
            raise ShardError(f"{path}: {name} is no JSON ({error})") from error
        if isinstance(about, dict):
            for key, names in (("label", ("label", "cls", "class")), ("text", ("text", "caption"))):
                value = next((about[n] for n in names if n in about), None)
                if value is None or key in item:
                    continue
                several = value if isinstance(value, list) and value else [value]
                if key == "text" and not all(isinstance(text, str) for text in several):
                    item["broken"] = f"{ending}: expected a string as text, got {value!r}"
                else:
                    item[key] = value
    return None


def write_shards(items: Iterable[Item], folder: str | Path, *, per_shard: int = 1000) -> list[Path]:
    """Writes items as tar shards in WebDataset layout, images as PNG.

    Args:
        items: items; their first images, labels and texts are written.
        folder: folder of the shards, which are named ``00000.tar`` and so on.
        per_shard: number of items per shard.

    Raises:
        ValueError: an item without an image, or with one that is neither grey nor RGB.

    Example:
        >>> import tempfile
        >>> from fastssl.data import digits
        >>> from fastssl.data import write_shards
        >>> items = [digits().read(i) for i in range(4)]
        >>> len(write_shards(items, tempfile.mkdtemp(), per_shard=2))
        2
    """
    from io import BytesIO

    from PIL import Image

    folder = Path(folder)
    paths: list[Path] = []
    folder.mkdir(parents=True, exist_ok=True)
    archive: tarfile.TarFile | None = None
    temporary = folder / "writing.tmp"

    def close() -> None:
        if archive is not None:
            archive.close()
            temporary.replace(paths[-1])

    try:
        for k, item in enumerate(items):
            if not item.images:
                raise ValueError(f"items[{k}]: expected an image, got none")
            if k % per_shard == 0:
                close()
                paths.append(folder / f"{k // per_shard:05}.tar")
                archive = tarfile.open(temporary, "w")  # noqa: SIM115 (closed where the shard is full)
            file = BytesIO()
            if item.images[0].shape[2] not in CHANNELS:
                raise ValueError(
                    f"items[{k}]: expected a grey or RGB image, got {amount(item.images[0].shape[2], 'channel')}"
                )
            pixels = np.ascontiguousarray(item.images[0][:, :, :3])
            Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
            members = {"png": file.getvalue()}
            if item.label is not None:
                members["cls"] = str(item.label).encode()
            if item.text is not None:
                members["txt"] = item.text.encode()
            for ending, content in members.items():
                about = tarfile.TarInfo(f"{k:08}.{ending}")
                about.size = len(content)
                assert archive is not None
                archive.addfile(about, BytesIO(content))
        close()
    finally:
        temporary.unlink(missing_ok=True)
    return paths
