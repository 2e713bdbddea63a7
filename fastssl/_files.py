"""Files that are replaced as a whole, and locks on files."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

WITHOUT_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


def lock(file: IO[Any]) -> None:
    """Locks an open file, until it is closed or the process ends, however it ends.

    Raises:
        BlockingIOError: it is locked, by another process or thread, also of another machine.
        OSError: its file system has no locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOTSUP, "no locks")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def locked(path: Path, taken: str) -> Iterator[None]:
    """Context in which a file, which is made, is locked; where its file system has locks.

    Raises:
        ValueError: with the text ``taken``: it is locked already.
    """
    if fcntl is None:
        yield
        return
    with path.open("w") as file:
        try:
            lock(file)
        except BlockingIOError:
            raise ValueError(taken) from None
        except OSError:
            pass
        yield


def sync(file: IO[Any]) -> None:
    """Waits until an open file is on the disk, where its file system can say so."""
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in WITHOUT_SYNC:
            raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Context with the path of a file to write, which then replaces ``path`` as a whole.

    The file is of this call alone: of several that write to a path at once, the last one counts. After an error it is
    removed; what a killed process has left is removed by the next call.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f"{glob.escape(path.name)}.{'[0-9a-f]' * 8}.tmp"):
        with contextlib.suppress(OSError), left.open("rb+") as file:
            lock(file)  # its process would hold it
            left.unlink()
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    with contextlib.ExitStack() as held:
        held.callback(fresh.unlink, missing_ok=True)
        if fcntl is not None:
            with contextlib.suppress(OSError):
                lock(held.enter_context(fresh.open("wb")))
        yield fresh
        fresh.replace(path)
