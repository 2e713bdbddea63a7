"""WAV files: a reader of their samples, and folders of them as a source."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastssl._words import amount
from fastssl.data.files import PathSource
from fastssl.data.source import Item, Reduction
from fastssl.data.storage import content, ending, entries, is_url, join, name_of

SUFFIX = ".wav"
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_STREAMED = 0xFFFFFFFF  # the length of samples that were written to a pipe: they end with the file


class AudioError(ValueError):
    """A file that cannot be read as audio; the message names it."""


def read_wav(file: str | Path | bytes, name: str | None = None) -> tuple[np.ndarray, int]:
    """The samples of a WAV file, the mean of its channels: float32 [T], and its rate per second.

    Integers of 8, 16, 24 or 32 bits are scaled to [-1, 1); floats of 32 or 64 bits are taken as they are.

    Args:
        file: a path, a URL, or the content of a file.
        name: name of the file in errors; None: its path.

    Raises:
        AudioError: no WAV file, a compressed one, a truncated one, one without samples, or samples that are not finite.

    Example:
        >>> import tempfile, numpy as np
        >>> from fastssl.data import read_wav
        >>> from fastssl.models import Samples
        >>> (path,) = Samples("audio", np.zeros((1, 800)), 8000).save(tempfile.mkdtemp() + "/silence")
        >>> samples, rate = read_wav(path)
        >>> samples.shape, rate
        ((800,), 8000)
    """
    data = file if isinstance(file, bytes) else content(str(file))
    name = name or ("the file" if isinstance(file, bytes) else str(file))
    if len(data) < 12 or data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise AudioError(f"{name}: expected a WAV file (RIFF, WAVE), got {len(data):,} bytes that begin {data[:4]!r}")
    described, samples, at = None, None, 12
    while at + 8 <= len(data) and samples is None:
        kind, size = data[at : at + 4], struct.unpack_from("<I", data, at + 4)[0]
        if kind == b"fmt " and size >= 16:
            described = data[at + 8 : at + 8 + size]
        elif kind == b"data":
            samples = data[at + 8 : at + 8 + size]
            if len(samples) < size and size != _STREAMED:
                raise AudioError(f"{name}: truncated, expected {size:,} bytes of samples, got {len(samples):,}")
        at += 8 + size + size % 2
    if described is None or samples is None or len(described) < 16:
        raise AudioError(f"{name}: a WAV file without a format or without samples")
    code, channels, rate, _, frame, bits = struct.unpack_from("<HHIIHH", described)
    if code == _EXTENSIBLE and len(described) >= 26:
        code = struct.unpack_from("<H", described, 24)[0]
    known = (code == _PCM and bits in (8, 16, 24, 32)) or (code == _FLOAT and bits in (32, 64))
    if not known or channels < 1 or rate < 1 or frame != channels * bits // 8:
        raise AudioError(
            f"{name}: expected PCM of 8, 16, 24 or 32 bits or floats of 32 or 64, got format {code} with {bits} bits, "
            f"{amount(channels, 'channel')} and a rate of {rate}"
        )
    if len(samples) < frame:
        raise AudioError(f"{name}: expected samples, it has none")
    values = _values(samples[: len(samples) // frame * frame], code == _FLOAT, bits)
    mixed: np.ndarray = values.reshape(-1, channels).mean(1).astype(np.float32)
    if not np.isfinite(mixed).all():
        raise AudioError(f"{name}: expected finite samples")
    return mixed, int(rate)


def _values(samples: bytes, floats: bool, bits: int) -> np.ndarray:
    if floats:
        return np.frombuffer(samples, f"<f{bits // 8}").astype(np.float64)
    if bits == 8:  # without a sign
        return (np.frombuffer(samples, np.uint8).astype(np.float64) - 128) / 128
    if bits == 24:
        parts = np.frombuffer(samples, np.uint8).reshape(-1, 3)
        wide = np.zeros((len(parts), 4), np.uint8)
        wide[:, 1:] = parts
        return wide.view("<i4")[:, 0] / 2**31
    return np.frombuffer(samples, f"<i{bits // 8}") / 2.0 ** (bits - 1)


class WavSource(PathSource):
    """WAV files, read on access.

    Args:
        paths: paths of the files, relative to ``root`` if given; or URLs.
        labels: one integer per file, -1 for unknown classes; None: no labels.
        classes: names of the classes.
        name: name of the data set in logs and checkpoints.
        root: folder (or URL of one) that relative paths start from.
        skipped: reasons for which files were left out -> number of files.

    Raises:
        ValueError: no files, or a wrong number of labels.

    Example:
        >>> import tempfile, numpy as np
        >>> from fastssl.data import WavSource
        >>> from fastssl.models import Samples
        >>> files = Samples("audio", np.zeros((2, 800)), 8000).save(tempfile.mkdtemp() + "/silence")
        >>> item = WavSource(files).read(1)
        >>> item.signal.shape, item.rate
        ((800,), 8000)
    """

    def __init__(
        self,
        paths: Sequence[str] | Sequence[Path],
        labels: Any = None,
        classes: Sequence[str] = (),
        name: str = "audio",
        *,
        root: str | None = None,
        skipped: dict[str, int] | None = None,
    ) -> None:
        super().__init__(paths, labels, classes, name, root, skipped)
        if not len(self):
            raise ValueError("paths: expected at least one WAV file")

    def read(self, index: int, reduce: Reduction | None = None) -> Item:
        signal, rate = read_wav(self.path(index))
        return Item(signal=signal, label=self.label_of(index), name=self.paths[index], rate=rate)


def wav_folder(root: str | Path) -> WavSource | None:
    """The WAV files of a folder, of one sub-folder per class (with folders of its own) or without classes; None: it
    holds none.

    Args:
        root: the folder, or its URL.

    Raises:
        ValueError: WAV files both in the folder and in its sub-folders.

    Example:
        >>> import tempfile, numpy as np
        >>> from fastssl.data import wav_folder
        >>> from fastssl.models import Samples
        >>> root = tempfile.mkdtemp()
        >>> for word in ("no", "yes"):
        ...     _ = Samples("audio", np.zeros((2, 800)), 8000).save(f"{root}/{word}/take")
        >>> wav_folder(root).labels.tolist()
        [0, 0, 1, 1]
    """
    root = str(root) if is_url(root) else os.path.expanduser(str(root))
    there = entries(root)
    folders = sorted(name for name, is_a_folder in there.items() if is_a_folder and not name.startswith("."))
    below = {folder: list(_below(join(root, folder))) for folder in folders}
    inside = {folder: sorted(file for file in files if _is_wave(file)) for folder, files in below.items()}
    classes = [folder for folder in folders if inside[folder]]
    alone = _waves(there)
    if not alone and not classes:
        return None
    if alone and classes:
        raise ValueError(
            f"data: expected WAV files in {root!r} or in a sub-folder per class, got both ({alone[0]}, {classes[0]}/)"
        )
    paths = alone or [f"{folder}/{file}" for folder in classes for file in inside[folder]]
    others = sum(not is_a_folder for is_a_folder in there.values()) - len(alone)
    others += sum(len(below[folder]) - len(inside[folder]) for folder in classes)
    return WavSource(
        paths,
        [k for k, folder in enumerate(classes) for _ in inside[folder]] if classes else None,
        classes,
        name_of(root),
        root=root,
        skipped={"no WAV file": others} if others else {},
    )


def _waves(there: dict[str, bool]) -> list[str]:
    return sorted(name for name, is_a_folder in there.items() if not is_a_folder and _is_wave(name))


def _is_wave(name: str) -> bool:
    return ending(name) == SUFFIX and not os.path.basename(name).startswith(".")


def _below(folder: str) -> Iterator[str]:
    """The files of a folder and of those in it."""
    for name, is_a_folder in entries(folder).items():
        if not is_a_folder:
            yield name
        elif not name.startswith("."):
            yield from (f"{name}/{file}" for file in _below(join(folder, name)))
