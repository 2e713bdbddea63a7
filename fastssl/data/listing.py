"""Multi-threaded listing of image folders, cached for large ones."""

from __future__ import annotations

import logging
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from fastssl.data.decode import PLUGINS, load_plugins
from fastssl.data.disk_cache import cache_folder
from fastssl.data.source import digest
from fastssl.data.storage import below, is_url, kind_of

# Suffixes of image files, whether or not the installed Pillow reads them.
SUFFIXES = {
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".ppm", ".pgm",
    ".pbm", ".pnm", ".avif", ".avifs", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jpf", ".jpx", ".jpc", ".j2c", ".tga",
    ".ico", ".qoi", ".jxl",
}  # fmt: skip
# Of files that hold images which no plugin of Pillow reads: medical, scientific, of cameras.
CONVERTED = {".dcm", ".dicom", ".nii", ".nrrd", ".mha", ".h5", ".hdf5", ".mat", ".dng", ".cr2", ".nef", ".arw"}
REMEDY = "convert it to .png, .tif or .npy"
ARRAY = ".npy"  # an image of any number of channels, if a folder holds only such files
REMEMBERED = 20_000  # files; listings of smaller folders are not worth caching
_THREADS = 16
_HIDDEN = {"__MACOSX"}
LONE = "a text without an image"
log = logging.getLogger("fastssl")


@cache
def readable() -> frozenset[str]:
    """The suffixes that Pillow and its installed plugins read."""
    from PIL import Image

    load_plugins()
    known = Image.registered_extensions()
    return frozenset(ending for ending in SUFFIXES if known.get(ending) in Image.OPEN)


def unread(ending: str) -> str:
    """The reason for which an image with a suffix that is not :func:`readable` is left out."""
    plugin = PLUGINS.get(ending)
    return f"{ending}: needs a plugin of Pillow" + (f" ({plugin})" if plugin else "")


class Names(Sequence[str]):
    """A compact list of short strings: one buffer and an 8-byte offset per string."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        buffer, ends = bytearray(), array("q", [0])
        for text in texts:
            buffer += os.fsencode(text)
            ends.append(len(buffer))
        self.offsets = np.array(ends, np.int64)
        self.bytes = np.frombuffer(bytes(buffer), np.uint8)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(f"index: expected 0 to {len(self) - 1}, got {index}")
        return os.fsdecode(self.bytes[self.offsets[index] : self.offsets[index + 1]].tobytes())

    def take(self, ids: np.ndarray) -> Names:
        """The strings at ``indices``."""
        return Names(self[int(i)] for i in ids)


@dataclass
class Listing:
    """The images in a folder, recursively, sorted by relative path.

    Args:
        root: the folder, or its URL.
        files: relative paths of the images.
        texts: bool [N], whether a ``.txt`` file of the same name exists.
        folders: all visited folders and their modification times (``st_mtime_ns``).
        skipped: reasons for which files were left out -> number of files.
        versions: versions of remote files (such as ETags); else None.
    """

    root: str
    files: Names
    texts: np.ndarray
    folders: dict[str, int]
    skipped: dict[str, int] = field(default_factory=dict)
    versions: Names | None = None


@dataclass
class _Folder:
    """Names in one folder, sorted."""

    files: Names
    texts: np.ndarray  # bool, per file
    arrays: Names
    folders: list[str]
    changed: int
    skipped: dict[str, int]


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in _HIDDEN


def _left_out(name: str, ending: str) -> str | None:
    """The reason for which a file with that suffix is left out; None: it is a readable image."""
    if (kind := kind_of(name)) in CONVERTED:  # also compressed
        return f"{kind}: {REMEDY}"
    if ending not in SUFFIXES:
        return "no image"
    return None if ending in readable() else unread(ending)


def _look_into(root: str, relative: str) -> _Folder:
    skipped: dict[str, int] = {}
    path = os.path.join(root, relative) if relative else root

    def skip(why: str) -> None:
        skipped[why] = skipped.get(why, 0) + 1

    changed = os.stat(path).st_mtime_ns
    images: list[str] = []
    arrays: list[str] = []
    folders: list[str] = []
    texts = set()
    with os.scandir(path) as entries:
        for entry in entries:
            name = entry.name
            if _hidden(name):
                skip("hidden")
            elif entry.is_dir():
                if entry.is_symlink() and _above(os.path.realpath(entry.path), root, relative):
                    skip("a link to a folder above it")
                else:
                    folders.append(name)
            else:
                stem, ending = os.path.splitext(name)
                ending = ending.lower()
                if name.endswith(".txt"):
                    texts.add(stem)
                elif ending == ARRAY and entry.is_file():
                    arrays.append(name)
                elif (why := _left_out(name, ending)) is not None:
                    skip(why)
                elif not entry.is_file():
                    skip("a link to nothing" if entry.is_symlink() else "no file")
                else:
                    images.append(name)
    images.sort()
    for _ in texts - {os.path.splitext(name)[0] for name in images}:
        skip(LONE)
    has_text = np.array([os.path.splitext(name)[0] in texts for name in images], dtype=bool)
    return _Folder(Names(images), has_text, Names(sorted(arrays)), sorted(folders), changed, skipped)


def _above(folder: str, root: str, relative: str) -> bool:
    """Whether a folder is above a place, or above a link on the way to it."""
    parts = relative.split("/") if relative else []
    way = [os.path.realpath(os.path.join(root, *parts[:k])) for k in range(len(parts) + 1)]
    return any(real == folder or real.startswith(folder.rstrip(os.sep) + os.sep) for real in way)


def list_images(root: str | Path, progress: Callable[[int], None] | None = None) -> Listing:
    """Lists the images in ``root``, recursively; symbolic links are followed, hidden files and folders left out.

    The listing of a large folder is cached in ``$FASTSSL_CACHE`` (``~/.cache/fastssl``) and reused until one of its
    folders changes.

    Args:
        root: a folder, or the URL of one, whose listing is not cached.
        progress: called with the number of images found so far.

    Raises:
        ValueError: no such folder.
        OSError: a folder without read permission.
    """
    root = str(root)
    if is_url(root):
        return _list_remote(root)
    if not os.path.isdir(root):
        raise ValueError(f"path: expected a folder, got {root!r}")
    remembered = _recall(root)
    if remembered is not None:
        return remembered
    found: dict[str, _Folder] = {}
    skipped: dict[str, int] = {}
    files = arrays = 0
    readable()  # loads the plugins once, on one thread
    pool = ThreadPoolExecutor(_THREADS)
    try:
        pending: dict[Future[_Folder], str] = {pool.submit(_look_into, root, ""): ""}
        while pending:
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                relative, one = pending.pop(future), future.result()
                found[relative] = one
                files += len(one.files)
                arrays += len(one.arrays)
                for why, count in one.skipped.items():
                    skipped[why] = skipped.get(why, 0) + count
                inner = (_below(relative, name) for name in one.folders)
                pending |= {pool.submit(_look_into, root, own): own for own in inner}
            if progress is not None:
                progress(files)
    finally:
        pool.shutdown(cancel_futures=True)  # when it is stopped, folders of a slow disk are not looked into any more
    if arrays and files:
        skipped["an array beside images"] = arrays
    texts = bytearray()
    names = Names(_in_order(found, "", arrays=not files, texts=texts))
    folders = {relative: one.changed for relative, one in found.items()}
    listing = Listing(root, names, np.frombuffer(bytes(texts), dtype=bool), folders, skipped)
    _remember(listing)
    return listing


def _below(relative: str, name: str) -> str:
    return f"{relative}/{name}" if relative else name


def _in_order(found: dict[str, _Folder], relative: str, *, arrays: bool, texts: bytearray) -> Iterator[str]:
    """The paths of the files of a folder and of those in it, sorted by their parts; ``texts``: a byte is added for
    each, whether it has a text."""
    one = found[relative]
    inner = iter(one.folders)
    upcoming = next(inner, None)
    for k, name in enumerate(one.arrays if arrays else one.files):
        while upcoming is not None and upcoming < name:
            yield from _in_order(found, _below(relative, upcoming), arrays=arrays, texts=texts)
            upcoming = next(inner, None)
        texts.append(int(not arrays and one.texts[k]))
        yield _below(relative, name)
    while upcoming is not None:
        yield from _in_order(found, _below(relative, upcoming), arrays=arrays, texts=texts)
        upcoming = next(inner, None)


def _list_remote(root: str) -> Listing:
    found, skipped = below(root), dict[str, int]()
    texts = {os.path.splitext(name)[0] for name, _ in found if name.endswith(".txt")}
    kept, left = [], dict[str, str | None]()
    for name, version in found:
        stem, ending = os.path.splitext(name)
        left[name] = "hidden" if any(map(_hidden, name.split("/"))) else _left_out(name, ending.lower())
        if left[name] is None:
            kept.append((name, stem in texts, version))
    lone = texts - {os.path.splitext(name)[0] for name, _, _ in kept}
    for name, why in left.items():
        if why == "no image" and name.endswith(".txt"):
            why = LONE if name.removesuffix(".txt") in lone else None
        if why is not None:
            skipped[why] = skipped.get(why, 0) + 1
    kept.sort(key=lambda file: file[0].split("/"))
    return Listing(
        root,
        Names(name for name, _, _ in kept),
        np.array([has for _, has, _ in kept], dtype=bool),
        {},
        skipped,
        Names(version for _, _, version in kept),
    )


def _memory_of(root: str) -> Path:
    return cache_folder() / "listings" / f"{digest(os.path.realpath(root))}.npz"


def _recall(root: str) -> Listing | None:
    """The cached listing, if no folder has changed."""
    try:
        with np.load(_memory_of(root), allow_pickle=False) as kept:
            folders = dict(zip(kept["folders"].tolist(), kept["changed"].tolist()))
            if kept["endings"].tolist() != sorted(readable()):
                return None
            if any(os.stat(os.path.join(root, name)).st_mtime_ns != changed for name, changed in folders.items()):
                return None
            names = Names()
            names.bytes, names.offsets = kept["bytes"], kept["offsets"]
            skipped = dict(zip(kept["why"].tolist(), kept["counts"].tolist()))
            return Listing(root, names, kept["texts"], folders, skipped)
    except (OSError, ValueError, KeyError, EOFError):
        return None


def _remember(listing: Listing) -> None:
    """Caches the listing of a large folder; logs a warning if it cannot be written."""
    if len(listing.files) < REMEMBERED:
        return
    path = _memory_of(listing.root)
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.tmp.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            temporary,
            bytes=listing.files.bytes,
            offsets=listing.files.offsets,
            texts=listing.texts,
            folders=np.array(list(listing.folders)),
            changed=np.array(list(listing.folders.values()), dtype=np.int64),
            why=np.array(list(listing.skipped), dtype=np.str_),
            counts=np.array(list(listing.skipped.values()), dtype=np.int64),
            endings=np.array(sorted(readable())),
        )
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        log.warning("%s: the listing cannot be stored (%s)", path, error.strerror or error)
