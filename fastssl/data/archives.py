"""Files in which data sets are distributed: MNIST's idx, CIFAR's pickles of Python, MATLAB's ``.mat``."""

from __future__ import annotations

import gzip
import io
import math
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

# What a pickled array is made of. Any other name, such as that of a function to call, ends the reading.
_OF_ARRAYS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


def read_idx(path: Path) -> np.ndarray:
    """The array of an idx file of bytes, which may be compressed (``.gz``).

    Raises:
        ValueError: another file, or one that is cut off.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be decompressed ({error})") from error
    if raw[:3] != b"\0\0\x08" or len(raw) < 4 + 4 * raw[3]:
        raise ValueError(f"{path}: expected an idx file of bytes, it begins with {raw[:4]!r}")
    shape, start = struct.unpack_from(f">{raw[3]}I", raw, 4), 4 + 4 * raw[3]
    if len(raw) != start + math.prod(shape):
        raise ValueError(f"{path}: expected {start + math.prod(shape)} bytes, got {len(raw)}; copy it again")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _OF_ARRAYS:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of an array")
        return super().find_class(module, name)


def read_pickled(path: Path, *keys: str) -> list[Any]:
    """The values under keys of a pickled mapping of arrays and lists, as Python 2 wrote it; nothing else is unpickled.

    Raises:
        ValueError: no such file, another one, or one without a key.
    """
    if not path.is_file():
        raise ValueError(f"name: expected {path.name} in {str(path.parent)!r}, there is none")
    try:
        stored = _Arrays(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        return [stored[key.encode()] for key in keys]
    except Exception as error:  # damaged pickles raise any
        raise ValueError(
            f"{path}: expected a pickled mapping with {', '.join(keys)} ({type(error).__name__}: {error})"
        ) from error


def read_mat(path: Path) -> dict[str, Any]:
    """The variables of a MATLAB file.

    Raises:
        ValueError: no such file, or another one.
    """
    from scipy.io import loadmat

    if not path.is_file():
        raise ValueError(f"name: expected {path.name} in {str(path.parent)!r}, there is none")
    try:
        read: dict[str, Any] = loadmat(str(path), squeeze_me=True)
    except Exception as error:  # scipy's errors of damaged files are of several kinds
        raise ValueError(f"{path}: cannot be read as a MATLAB file ({type(error).__name__}: {error})") from error
    return read
