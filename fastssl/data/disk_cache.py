"""Disk cache of remote data with a size limit and least-recently-used eviction."""

from __future__ import annotations

import errno
import math
import os
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

DEFAULT_GIB = 20.0
_FULL = (errno.ENOSPC, errno.EDQUOT)
_CRC = 4  # bytes of checksum after the content
_LEFTOVER_SECONDS = 3600  # age from which on a temporary file is that of a dead process


class CacheError(RuntimeError):
    """The cache cannot be written. ``on_error="skip"`` does not apply, since the item itself is intact."""


def cache_folder() -> Path:
    """The cache folder: ``$FASTSSL_CACHE``, or ``fastssl`` in the user's cache folder."""
    given = os.environ.get("FASTSSL_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fastssl"


def cache_limit() -> int:
    """Size limit of the cache in bytes: ``$FASTSSL_CACHE_GIB``, by default 20 GiB; 0: no caching.

    Raises:
        ValueError: not a number >= 0.
    """
    given = os.environ.get("FASTSSL_CACHE_GIB")
    try:
        gib = DEFAULT_GIB if not given else float(given)
    except ValueError:
        gib = -1.0
    if not (math.isfinite(gib) and gib >= 0):
        raise ValueError(f"FASTSSL_CACHE_GIB: expected a number of GiB >= 0, got {given!r}")
    return int(gib * 2**30)


class DiskCache:
    """Entries of bytes by name. Threads and processes share the folder: a complete entry is renamed into place.

    Args:
        folder: folder of the entries.
        limit: size limit in bytes; concurrent processes may exceed it by 5 % between two scans of the folder.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._room = 0  # bytes that may be written before the folder is scanned again
        self._lock = threading.Lock()

    def get(self, name: str) -> bytes | None:
        """The entry, or None if it is missing or damaged."""
        path = self.folder / name
        try:
            content = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        body, crc = content[:-_CRC], content[-_CRC:]
        return body if len(crc) == _CRC and zlib.crc32(body) == int.from_bytes(crc, "little") else None

    def put(self, name: str, content: bytes) -> None:
        """Stores an entry. On a full disk half of the cache is evicted first.

        Raises:
            CacheError: the entry cannot be written.
        """
        if not self.limit:
            return
        try:
            try:
                self._write(name, content)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                self.trim(sum(size for _, size, _ in self._pieces()) // 2)
                self._write(name, content)
        except OSError as error:
            raise CacheError(
                f"{self.folder / name}: cannot be written ({error.strerror or error}); make room on that disk, name "
                f"another folder by FASTSSL_CACHE, or keep less by FASTSSL_CACHE_GIB (now {self.limit / 2**30:g}; 0: "
                "nothing)"
            ) from error
        with self._lock:
            self._room -= len(content)
            look = self._room < 0
        if look:
            self.trim(self.limit)

    def _write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content + zlib.crc32(content).to_bytes(_CRC, "little"))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _pieces(self) -> Iterator[tuple[float, int, str]]:
        """Time of last use, size and path of each entry."""
        folders = [str(self.folder)]
        while folders:
            try:
                with os.scandir(folders.pop()) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(entry.path)
                        else:
                            about = entry.stat(follow_symlinks=False)
                            yield about.st_mtime, about.st_size, entry.path
            except FileNotFoundError:  # evicted by another process
                continue

    def trim(self, limit: int) -> None:
        """Evicts the least recently used entries until the cache has at most ``limit`` bytes."""
        with self._lock:
            now, used = time.time(), 0
            pieces = []
            for piece in self._pieces():
                if piece[2].endswith(".tmp"):
                    if now - piece[0] > _LEFTOVER_SECONDS:
                        Path(piece[2]).unlink(missing_ok=True)
                    continue
                pieces.append(piece)
                used += piece[1]
            for _, size, path in sorted(pieces):
                if used <= limit:
                    break
                Path(path).unlink(missing_ok=True)
                used -= size
            self._room = min(self.limit - used, self.limit // 20)
