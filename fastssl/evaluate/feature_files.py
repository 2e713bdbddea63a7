"""Feature files: streaming writers, and readers that memory-map the features if the format allows it."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn

from fastssl._files import replacing
from fastssl.data import Source
from fastssl.data.source import are_scores, digest

FORMATS = (".npz", ".safetensors", ".parquet")
READABLE = (*FORMATS, ".npy")
_ABOUT = "fastssl"  # key of the metadata in files of other libraries
_UTF8 = ("utf-8", "surrogateescape")  # names of files may be other bytes, which are kept


@dataclass
class FeatureFile:
    """The content of a feature file.

    Args:
        features: float32 [N, C]; memory-mapped for ``.npz`` and ``.safetensors``.
        names: one name per row.
        labels: int64 [N], -1 for unknown classes; or float64 [N], numbers to predict; None: no labels.
        source: argument with which :func:`fastssl.data.open` opens the images again, or None.
        part: split of the source, "train" or "test".
        encoder: digest of the network's weights and the readout; None: not recorded.
        named: False: the names are the numbers of the rows, as the file has none.

    Example:
        >>> import torch
        >>> from fastssl.evaluate import FeatureFile
        >>> FeatureFile(torch.zeros(2, 3), ['a', 'b'], None, None).features.shape
        torch.Size([2, 3])
    """

    features: Tensor
    names: list[str]
    labels: np.ndarray | None
    source: str | None
    part: str = "train"
    encoder: str | None = None
    named: bool = True


def encoder_digest(network: nn.Module, readout: str = "pooled") -> str:
    """A hash of weights and readout: features are compared with those of the same."""

    def weights() -> Iterator[Any]:
        for name, tensor in network.state_dict().items():
            yield name
            yield (tensor.float() if tensor.is_floating_point() else tensor).cpu().contiguous().flatten().numpy()

    return digest(readout, *weights())


def about_features(source: Source, part: str, encoder: str) -> dict[str, str]:
    """The metadata of a feature file.

    Args:
        source: the items.
        part: split of the data that they are.
        encoder: what :func:`encoder_digest` gives.
    """
    return {"part": part, "encoder": encoder} | ({} if source.where is None else {"source": source.where})


def _described(about: dict[str, str]) -> tuple[str | None, str, str | None]:
    return about.get("source"), about.get("part", "train"), about.get("encoder")


def check_format(path: Path) -> None:
    """Raises ValueError for an unknown suffix, ImportError if the extra of the format is missing."""
    if path.suffix not in FORMATS:
        raise ValueError(f"out: expected a file with suffix {', '.join(FORMATS)}, got {str(path)!r}")
    if path.suffix == ".parquet":
        _parquet()


def write_features(
    path: Path,
    blocks: Iterable[np.ndarray],
    rows: int,
    columns: int,
    names: Iterable[str],
    labels: np.ndarray | None,
    about: dict[str, str],
) -> None:
    """Writes a feature file atomically.

    Args:
        path: ``.npz`` ("features", "names", "labels"), ``.safetensors`` ("features", "labels", and the names as UTF-8
            bytes "names" with end offsets "name_ends") or ``.parquet`` (columns name, features, label; names are
            strings, or binary where those of files are no UTF-8).
        blocks: float32 [n, columns] each, ``rows`` rows in total.
        rows: N.
        columns: C.
        names: one name per row; iterated twice.
        labels: integers [N], or floats (numbers to predict); None: no labels.
        about: metadata, strings.
    """
    writer = {".npz": _write_npz, ".safetensors": _write_safetensors, ".parquet": _write_parquet}[path.suffix]
    with replacing(path) as file:
        writer(file, blocks, (rows, columns), names, labels, about)


def read_features(path: str | Path) -> FeatureFile:
    """Reads a feature file.

    Args:
        path: a file written by ``fastssl embed``; or of features alone, whose names are "0", "1", ...: a ``.npz`` with
            an array "features" (and "labels") or a ``.npy``, of floats [N, C].

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a feature file, or features that are no floats [N, C].

    Example:
        >>> import numpy as np, tempfile
        >>> from pathlib import Path
        >>> from fastssl.evaluate.feature_files import read_features, write_features
        >>> path = Path(tempfile.mkdtemp()) / "features.npz"
        >>> write_features(path, [np.ones((2, 3), np.float32)], 2, 3, ["a", "b"], None, {})
        >>> read_features(path).features.shape
        torch.Size([2, 3])
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"features: no file {str(path)!r}")
    try:
        if path.suffix == ".npy":
            return _of_arrays(np.load(path, mmap_mode="c", allow_pickle=False), None, None, {})
        if path.suffix == ".npz":
            return _read_npz(path)
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        if path.suffix == ".parquet":
            return _read_parquet(path)
    except ImportError:  # an extra is missing
        raise
    except Exception as error:  # of four libraries that read damaged files
        raise ValueError(f"features: {str(path)!r} is no feature file ({error})") from error
    raise ValueError(f"features: expected a file with suffix {', '.join(READABLE)}, got {str(path)!r}")


def _npy_header(file: IO[bytes], dtype: np.dtype, shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _write_npz(
    path: Path, blocks: Iterable[np.ndarray], shape: tuple[int, int], names: Any, labels: Any, about: dict[str, str]
) -> None:
    longest = max(1, max(map(len, names), default=1))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with archive.open("features.npy", "w", force_zip64=True) as file:
            _npy_header(file, np.dtype(np.float32), shape)
            for block in blocks:
                file.write(np.ascontiguousarray(block, np.float32).data)
        with archive.open("names.npy", "w", force_zip64=True) as file:
            kind = np.dtype(f"<U{longest}")
            _npy_header(file, kind, shape[:1])
            for some in _chunks(names):
                file.write(np.array(some, kind).tobytes())
        small = {} if labels is None else {"labels": np.asarray(labels)}
        for key, array in {**small, "about": np.array(json.dumps(about))}.items():
            with archive.open(f"{key}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _chunks(names: Iterable[str], count: int = 4096) -> Iterator[list[str]]:
    some: list[str] = []
    for name in names:
        some.append(name)
        if len(some) == count:
            yield some
            some = []
    if some:
        yield some


def _of_arrays(features: np.ndarray, names: Any, labels: Any, about: dict[str, str]) -> FeatureFile:
    """Features with their names; None: the numbers of the rows.

    Raises:
        ValueError: features that are no floats [N, C], or another number of names or labels.
    """
    if features.ndim != 2 or features.dtype.kind != "f":
        raise ValueError(f"expected features as floats [N, C], got {features.dtype} of shape {list(features.shape)}")
    for what, given in (("names", names), ("labels", labels)):
        if given is not None and len(given) != len(features):
            raise ValueError(f"expected {len(features)} {what}, one per row of features, got {len(given)}")
    rows = [str(k) for k in range(len(features))] if names is None else names
    own = torch.from_numpy(features.astype(np.float32, copy=False))
    return FeatureFile(own, rows, labels, *_described(about), named=names is not None)


def _read_npz(path: Path) -> FeatureFile:
    with np.load(path, allow_pickle=False) as archive:
        if "features" not in archive.files:
            raise ValueError(f"expected an array 'features', got {', '.join(archive.files)}")
        labels = archive["labels"] if "labels" in archive.files else None
        about = json.loads(str(archive["about"])) if "about" in archive.files else {}
        names = list(map(str, archive["names"].tolist())) if "names" in archive.files else None
        features = _mapped(path)
        return _of_arrays(archive["features"] if features is None else features, names, labels, about)


def _mapped(path: Path) -> np.ndarray | None:
    """The array "features" of a ``.npz`` file, memory-mapped, which numpy does not do with members of a zip; None: it
    is compressed, or not in the order of rows."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        entry = archive.getinfo("features.npy")
        if entry.compress_type != zipfile.ZIP_STORED:
            return None
        file.seek(entry.header_offset + 26)
        name_length, extra = struct.unpack("<HH", file.read(4))
        file.seek(entry.header_offset + 30 + name_length + extra)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, by_columns, dtype = read[np.lib.format.read_magic(file)](file)
        if by_columns or not all(shape):
            return None
        return np.memmap(path, dtype, "c", file.tell(), shape)


def _write_safetensors(
    path: Path, blocks: Iterable[np.ndarray], shape: tuple[int, int], names: Any, labels: Any, about: dict[str, str]
) -> None:
    ends = np.cumsum(np.fromiter((len(n.encode(*_UTF8)) for n in names), np.int64, shape[0]))
    sizes: list[tuple[str, str, tuple[int, ...], int]] = [("features", "F32", shape, 4)]
    if labels is not None:
        labels = np.ascontiguousarray(labels, _number(labels))
        sizes.append(("labels", {"i": "I64", "f": "F64"}[labels.dtype.kind], labels.shape, 8))
    sizes += [("name_ends", "I64", shape[:1], 8), ("names", "U8", (int(ends[-1]) if len(ends) else 0,), 1)]
    header: dict[str, Any] = {"__metadata__": {_ABOUT: json.dumps(about)}}  # JSON twice: its strings may be no UTF-8
    offset = 0
    for name, dtype, dims, width in sizes:
        end = offset + width * int(np.prod(dims, dtype=np.int64))
        header[name] = {"dtype": dtype, "shape": list(dims), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for block in blocks:
            file.write(np.ascontiguousarray(block, np.float32).data)
        if labels is not None:
            file.write(labels.data)
        file.write(ends.data)
        for some in _chunks(names):
            file.write("".join(some).encode(*_UTF8))


def _read_safetensors(path: Path) -> FeatureFile:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        keys, about = set(file.keys()), file.metadata() or {}
        about = json.loads(about[_ABOUT]) if _ABOUT in about else about  # files of version 0.1
        labels = file.get_tensor("labels").numpy() if "labels" in keys else None
        text, ends = bytes(file.get_tensor("names").numpy()), file.get_tensor("name_ends").tolist()
        names = [text[start:end].decode(*_UTF8) for start, end in zip([0, *ends], ends)]
        return FeatureFile(file.get_tensor("features"), names, labels, *_described(about))


def _number(labels: Any) -> type:
    return np.float64 if are_scores(labels) else np.int64


def _parquet() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("Parquet files need the extra: pip install fastssl[datasets]") from error
    return pyarrow


def _write_parquet(
    path: Path, blocks: Iterable[np.ndarray], shape: tuple[int, int], names: Any, labels: Any, about: dict[str, str]
) -> None:
    arrow = _parquet()
    kind = arrow.list_(arrow.float32(), shape[1])
    escaped = any("\udc80" <= character <= "\udcff" for name in names for character in name if not name.isascii())
    fields = [("name", arrow.binary() if escaped else arrow.string()), ("features", kind)]
    if labels is not None:
        several = np.asarray(labels).ndim > 1
        fields.append(("label", arrow.list_(arrow.int64()) if several else arrow.from_numpy_dtype(_number(labels))))
    schema = arrow.schema(fields, metadata={_ABOUT: json.dumps(about)})
    upcoming, done = iter(names), 0
    with arrow.parquet.ParquetWriter(path, schema) as writer:
        for block in blocks:
            rows = len(block)
            values = arrow.array(np.ascontiguousarray(block, np.float32).reshape(-1))
            columns = [
                arrow.array([next(upcoming).encode(*_UTF8) for _ in range(rows)], arrow.binary()).cast(fields[0][1]),
                arrow.FixedSizeListArray.from_arrays(values, shape[1]),
            ]
            if labels is not None:
                columns.append(arrow.array(np.asarray(labels)[done : done + rows].tolist(), schema.field("label").type))
            writer.write_table(arrow.table(columns, schema=schema))
            done += rows


def _read_parquet(path: Path) -> FeatureFile:
    table = _parquet().parquet.read_table(path)
    about = json.loads((table.schema.metadata or {}).get(_ABOUT.encode(), b"{}"))
    width = table.schema.field("features").type.list_size
    values = table["features"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    labels = None
    if "label" in table.column_names:
        number = np.float64 if _parquet().types.is_floating(table["label"].type) else np.int64
        labels = np.array(table["label"].to_pylist(), number)
    features = torch.from_numpy(np.array(values, np.float32).reshape(-1, width))
    names = [name.decode(*_UTF8) for name in table["name"].cast("binary").to_pylist()]
    return FeatureFile(features, names, labels, *_described(about))


__all__ = [
    "FORMATS",
    "FeatureFile",
    "about_features",
    "check_format",
    "encoder_digest",
    "read_features",
    "write_features",
]
