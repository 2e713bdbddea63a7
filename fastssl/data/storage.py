"""Reading byte ranges of local files and of URLs (``s3://``, ``gs://``, ``https://``, ``memory://``, by fsspec)."""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import itertools
import lzma
import os
import re
import tempfile
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

from fastssl.data.disk_cache import DiskCache, cache_folder, cache_limit
from fastssl.data.source import digest

BLOCK = 256 * 2**10  # bytes per cached block: a few images
OPEN = 128  # local files that stay open: systems allow a process 1,024, or 256 (macOS), sockets and others included
TRIES, PAUSE = 4, 0.5  # attempts per request; seconds before the first retry, doubled each time
_URL = re.compile(r"^[a-z][a-z0-9+.\-]*://", re.IGNORECASE)
# Names under which the file systems of fsspec report the version of a file.
_VERSIONS = (
    *("ETag", "etag", "md5Hash", "Content-MD5", "generation", "mtime"),
    *("Last-Modified", "LastModified", "last_modified", "updated", "created"),
)
T = TypeVar("T")
# Compressed files: the first bytes, and what unpacks them.
COMPRESSED = {
    ".gz": (b"\x1f\x8b", "gunzip"),
    ".bz2": (b"BZh", "bunzip2"),
    ".xz": (b"\xfd7zXZ\0", "unxz"),
    ".zst": (b"\x28\xb5\x2f\xfd", "unzstd"),
    ".zip": (b"PK\3\4", "unzip"),
}

UNPACKED = (".gz", ".bz2", ".xz", ".zst")  # of texts and tables, which are read without unpacking them


def check_unpacked(place: str, start: bytes) -> None:
    """Checks the first bytes of a file.

    Raises:
        ValueError: it is compressed.
    """
    tool = next((tool for mark, tool in COMPRESSED.values() if start.startswith(mark)), None)
    if tool is not None:
        raise ValueError(f"data: expected data that is not compressed, {place!r} is; unpack it ({tool})")


def is_url(place: Any) -> bool:
    """Whether a place is a URL."""
    return isinstance(place, str) and _URL.match(place) is not None


def ending(place: str) -> str:
    """The suffix of a path or URL (``.tar``), in lower case."""
    return os.path.splitext(urlsplit(place).path if is_url(place) else place)[1].lower()


def kind_of(place: str) -> str:
    """The suffix of a path or URL, in lower case; of a compressed file the one before: ``.txt`` of ``a.txt.gz``."""
    path = urlsplit(place).path if is_url(place) else place
    return ending(os.path.splitext(path)[0]) if ending(path) in UNPACKED else ending(path)


def state_of(path: str) -> str:
    """What changes when a file does: its size and time of change; of a remote or missing one, its place."""
    try:
        state = None if is_url(path) else os.stat(path)
    except OSError:
        state = None  # reading it says why
    return path if state is None else f"{state.st_size} {state.st_mtime_ns}"


def name_of(place: str) -> str:
    """The last part of a path or URL without its suffix, and without those of a compressed file."""
    last = unquote(urlsplit(place).path) if is_url(place) else os.path.abspath(place)
    stem, suffix = os.path.splitext(os.path.basename(last.rstrip("/")))
    if suffix.lower() in UNPACKED:
        stem = os.path.splitext(stem)[0]
    return stem or urlsplit(place).netloc


def join(root: str, own: str) -> str:
    """Joins a path or URL and a relative path; a URL or absolute path is what it is."""
    if is_url(own):
        return own
    if not is_url(root):
        return os.path.join(root, own)
    return f"{root.rstrip('/')}/{quote(own) if root.startswith('http') else own}"


def parent(place: str) -> str:
    """The folder of a file."""
    return place.rpartition("/")[0] if is_url(place) else os.path.dirname(os.path.abspath(place))


def matching(pattern: str) -> list[str]:
    """Expands a pattern: ``{000..127}`` and ``{a,b}`` by enumeration, then ``*``, ``?`` and ``[]`` by globbing. A name
    that exists literally is not expanded."""
    if not is_url(pattern) and os.path.exists(pattern):
        return [pattern]
    found: list[str] = []
    for place in alternatives(pattern):
        if not any(c in (urlsplit(place).path if is_url(place) else place) for c in "*?["):
            found.append(place)
        elif is_url(place):
            fs, path = _system(place)
            found += sorted(fs.unstrip_protocol(own) for own in _asked(place, partial(fs.glob, path)))
        else:
            found += sorted(glob.glob(place))
    return found


def alternatives(pattern: str) -> list[str]:
    """The patterns that ``{000..127}`` and ``{a,b}`` stand for, in this order."""
    parts = re.split(r"\{([^{}]*(?:\.\.|,)[^{}]*)\}", pattern)
    choices: list[list[str]] = []
    for k, part in enumerate(parts):
        numbers = re.fullmatch(r"(\d+)\.\.(\d+)", part)
        if k % 2 == 0:
            choices.append([part])
        elif numbers is not None:
            first, last = numbers.groups()
            choices.append([f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)])
        else:
            choices.append(part.split(","))
    return ["".join(chosen) for chosen in itertools.product(*choices)]


# URLs.


@cache
def _file_systems() -> Any:
    try:
        import fsspec.core
    except ImportError as error:
        raise ImportError("URLs need the extra: pip install fastssl[remote]") from error
    return fsspec.core


def _system(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path within it.

    Raises:
        ImportError: the package for this protocol is missing.
        ValueError: unknown protocol.
    """
    try:
        fs, path = _file_systems().url_to_fs(url)
    except ImportError as error:
        if "extra:" in str(error):
            raise
        raise ImportError(f"{url}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{url}: {error}") from error
    return fs, path


def _asked(url: str, request: Callable[[], T]) -> T:
    """The result of a request, with retries.

    Raises:
        FileNotFoundError: no such file or folder.
        OSError: the request failed repeatedly.
    """
    for attempt in range(TRIES):
        try:
            return request()
        except Exception as error:  # file systems raise the errors of their libraries
            cause = _unreachable(error)
            if isinstance(error, FileNotFoundError) and cause is None:
                raise FileNotFoundError(f"{url}: there is no such file") from error
            status = _status(cause or error)
            final = isinstance(error, PermissionError) or (400 <= status < 500 and status not in (408, 429))
            if final or attempt + 1 == TRIES:
                said = cause or error
                reason = " ".join(str(said).split()) or type(said).__name__
                raise OSError(f"{url}: cannot be read ({type(said).__name__}: {reason})") from error
        time.sleep(PAUSE * 2**attempt)
    raise AssertionError


def _status(error: BaseException) -> int:
    return int(getattr(error, "status", 0) or 0)


def _unreachable(error: BaseException) -> BaseException | None:
    """Why a server did not answer, where fsspec says that there is no such file, as over HTTP for any failure."""
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else None
    if cause is None or isinstance(cause, FileNotFoundError) or _status(cause) in (404, 410):
        return None
    of_connection = isinstance(cause, (ConnectionError, TimeoutError)) or type(cause).__module__.startswith("aiohttp")
    return cause if of_connection or _status(cause) else None


def _version(info: dict[str, Any]) -> str:
    return "|".join([str(info.get("size")), *(str(info[key]) for key in _VERSIONS if info.get(key) is not None)])


@cache
def _kept(folder: Path, limit: int) -> DiskCache:
    return DiskCache(folder, limit)


def fetched() -> DiskCache:
    """The disk cache of remote data."""
    return _kept(cache_folder() / "fetched", cache_limit())


def is_folder(place: str) -> bool:
    """Whether a place is a folder; at a URL, a non-empty one."""
    if not is_url(place):
        return os.path.isdir(place)
    fs, path = _system(place)
    there = bool(_asked(place, lambda: fs.isdir(path)))
    if there and "::" in place:
        raise ValueError(
            f"data: expected a folder of one file system, got {place!r}, one in an archive (::); unpack it, or "
            "make tar shards of it"
        )
    return there


def is_file(place: str) -> bool:
    """Whether a place is a file."""
    if not is_url(place):
        return os.path.isfile(place)
    fs, path = _system(place)
    try:
        return bool(_asked(place, lambda: fs.info(path))["type"] == "file")
    except FileNotFoundError:
        return False


def each_entry(folder: str) -> Iterator[tuple[str, bool]]:
    """The entries of a folder as they are found: the name, and whether it is a folder."""
    if not is_url(folder):
        with os.scandir(folder) as found:
            yield from ((entry.name, entry.is_dir()) for entry in found)
        return
    fs, path = _system(folder)
    listed = _asked(folder, lambda: fs.ls(path, detail=True))
    yield from ((_own(folder, path, e["name"].rstrip("/")), e["type"] == "directory") for e in listed)


def entries(folder: str) -> dict[str, bool]:
    """The entries of a folder: name -> whether it is a folder."""
    return dict(each_entry(folder))


def below(folder: str) -> list[tuple[str, str]]:
    """All files in the folder of a URL, recursively: relative paths and versions."""
    fs, path = _system(folder)
    found = _asked(folder, lambda: fs.find(path, detail=True))
    return sorted((_own(folder, path, name), _version(info)) for name, info in found.items())


def _own(folder: str, path: str, name: str) -> str:
    relative = name[len(path.rstrip("/")) + 1 :]
    return unquote(relative) if folder.startswith("http") else relative


def content(place: str, version: str | None = None) -> bytes:
    """The content of a file. Remote files with a ``version`` are cached.

    Raises:
        FileNotFoundError: no such file.
        OSError: the file cannot be read.
        CacheError: the cache cannot be written.
    """
    if not is_url(place):
        return Path(place).read_bytes()
    name = None if version is None else _piece(place, version, "whole")
    got = None if name is None else fetched().get(name)
    if got is None:
        fs, path = _system(place)
        got = bytes(_asked(place, lambda: fs.cat_file(path)))
        if name is not None:
            fetched().put(name, got)
    return got


def _piece(url: str, version: str, part: str) -> str:
    name = digest(url, version)
    return f"{name[:2]}/{name[2:]}/{part}"


class LocalFile:
    """A local file, read by byte ranges.

    Attributes:
        size: size in bytes.
        version: changes when the file is replaced.
    """

    def __init__(self, path: str) -> None:
        self.place = path
        self._file = os.open(path, os.O_RDONLY)
        about = os.fstat(self._file)
        self.size, self.version = about.st_size, str(about.st_mtime_ns)

    def read(self, start: int, size: int) -> bytes:
        """``size`` bytes from ``start`` on; fewer at the end of the file."""
        return os.pread(self._file, size, start)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)


class RemoteFile:
    """A remote file, read by byte ranges, with blocks cached on disk."""

    def __init__(self, url: str) -> None:
        self.place = url
        self._fs, self._path = _system(url)
        info = _asked(url, lambda: self._fs.info(self._path))
        if info.get("size") is None:
            raise OSError(f"{url}: the server does not report the size of the file; copy it to disk")
        self.size, self.version = int(info["size"]), _version(info)

    def read(self, start: int, size: int) -> bytes:
        """``size`` bytes from ``start`` on; fewer at the end of the file.

        Raises:
            OSError: the request failed repeatedly.
            CacheError: the cache cannot be written.
        """
        stop = min(start + size, self.size)
        if stop <= start:
            return b""
        first, last = start // BLOCK, (stop - 1) // BLOCK
        blocks: dict[int, bytes] = {}
        for k in range(first, last + 1):
            got = fetched().get(_piece(self.place, self.version, str(k)))
            if got is not None:
                blocks[k] = got
        missing = [k for k in range(first, last + 1) if k not in blocks]
        for run in _runs(missing):  # consecutive blocks in one request
            blocks |= self._fetch(run[0], run[-1] + 1)
        whole = b"".join(blocks[k] for k in range(first, last + 1))
        return whole[start - first * BLOCK : stop - first * BLOCK]

    def _fetch(self, first: int, end: int) -> dict[int, bytes]:
        start, stop = first * BLOCK, min(end * BLOCK, self.size)
        got = bytes(_asked(self.place, lambda: self._fs.cat_file(self._path, start=start, end=stop)))
        if len(got) != stop - start:
            raise OSError(
                f"{self.place}: requested bytes {start} to {stop}, got {len(got)} bytes; the file has changed, or its "
                "server does not support range requests: copy it to disk"
            )
        made = {k: got[(k - first) * BLOCK : (k - first + 1) * BLOCK] for k in range(first, end)}
        for k, block in made.items():
            fetched().put(_piece(self.place, self.version, str(k)), block)
        return made


def _runs(numbers: list[int]) -> Iterator[list[int]]:
    """Groups consecutive numbers."""
    for _, run in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        yield [number for _, number in run]


File = LocalFile | RemoteFile


def open_file(place: str) -> File:
    """A local or remote file for reading byte ranges; thread-safe.

    Raises:
        FileNotFoundError: no such file.
    """
    return RemoteFile(place) if is_url(place) else LocalFile(place)


def checksum(file: File) -> str:
    """Size and checksum of the content of a file."""
    crc = 0
    for start in range(0, file.size, 16 * BLOCK):
        crc = zlib.crc32(file.read(start, 16 * BLOCK), crc)
    return f"{file.size} {crc}"


def unpacked(place: str) -> Iterator[bytes]:
    """The content of a compressed file, in pieces.

    Raises:
        ImportError: the extra is missing: ``pip install fastssl[datasets]``.
        ValueError: it is damaged, or compressed otherwise than its suffix says.
    """
    packed = io.BufferedReader(Stream(open_file(place)))
    openers: dict[str, Callable[[Any], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    try:
        stream = openers.get(ending(place), partial(_zstandard, place))(packed)
        while piece := stream.read(16 * BLOCK):
            yield piece
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{place}: cannot be decompressed ({error})") from error


def _zstandard(place: str, packed: Any) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError(f"{place} needs the extra: pip install fastssl[datasets]; or unpack it (unzstd)") from error
    return pyarrow.CompressedInputStream(packed, "zstd")


class UnpackedFile(LocalFile):
    """What a compressed file holds, in a temporary file that has no name, and goes with the object."""

    def __init__(self, place: str) -> None:
        with tempfile.TemporaryFile() as file:
            for piece in unpacked(place):
                file.write(piece)
            file.flush()
            self._file = os.dup(file.fileno())
        self.place, self.size, self.version = place, os.fstat(self._file).st_size, state_of(place)


def open_unpacked(place: str) -> File:
    """A file of text as :func:`open_file`; of a compressed one what it holds.

    Raises:
        FileNotFoundError: no such file.
        ImportError, ValueError: as of :func:`unpacked`.
    """
    return UnpackedFile(place) if ending(place) in UNPACKED else open_file(place)


class Files:
    """Files that are opened on first access, of which at most ``OPEN`` local ones stay open; pickles without open
    handles.

    Args:
        places: paths or URLs.
        opened: opens one of them.
    """

    def __init__(self, places: list[str], opened: Callable[[str], File] = open_file) -> None:
        self.places, self._opened = places, opened
        self._open: dict[int, File] = {}
        self._local: deque[int] = deque()  # numbers of those that hold a descriptor, the first opened first
        self._lock = threading.Lock()

    def __getitem__(self, number: int) -> File:
        file = self._open.get(number)
        if file is None:
            with self._lock:
                file = self._open.get(number) or self._add(number)
        return file

    def _add(self, number: int) -> File:
        file = self._open[number] = self._opened(self.places[number])
        if isinstance(file, LocalFile):
            self._local.append(number)
            if len(self._local) > OPEN:
                del self._open[self._local.popleft()]  # closed when no thread reads it
        return file

    def __reduce__(self) -> Any:
        return Files, (self.places, self._opened)


class Stream(io.RawIOBase):
    """A sequential, seekable file object over byte ranges, for ``tarfile``."""

    def __init__(self, file: File) -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        got = self._file.read(self._at, len(buffer))
        buffer[: len(got)] = got
        self._at += len(got)
        return len(got)
