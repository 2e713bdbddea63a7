"""What ``fastssl embed`` does: features of any data, with names and labels, in one file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastssl.cli.show import say

FORMATS = (".npz", ".safetensors", ".parquet")


def embed(checkpoint: Path, data: str | None, out: Path, readout: str, part: str) -> int:
    """Writes "features" [N, C], and "labels" and "names" where the format has them, under a temporary name until all is
    there; returns how many rows there are.

    Raises:
        ImportError: ``.parquet`` without pyarrow.
        ValueError: a format that is not one of :data:`FORMATS`.
    """
    from fastssl.cli.judge import data_of
    from fastssl.data import open as open_source
    from fastssl.evaluate import encode
    from fastssl.train import load_encoder

    if out.suffix not in FORMATS:
        raise ValueError(f"out: expected a file that ends in {', '.join(FORMATS)}, got {str(out)!r}")
    encoder, state = load_encoder(checkpoint)
    source = open_source(data or data_of(state), part=part)
    shown = 0

    def progress(done: int, total: int) -> None:
        nonlocal shown
        if done == total or 10 * done // total > shown:
            shown = 10 * done // total
            say(f"{source.name}: {done:,} of {total:,}")

    features = encode(encoder, source, readout, progress=progress)
    names = [source.name_of(k) for k in range(len(source))]
    content = _content(out.suffix, features, source.labels, names)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".tmp")
    temporary.write_bytes(content)
    temporary.replace(out)
    return len(features)


def _content(suffix: str, features: torch.Tensor, labels: np.ndarray | None, names: list[str]) -> bytes:
    file = io.BytesIO()
    if suffix == ".npz":
        arrays: dict[str, Any] = {"features": features.numpy(), "names": np.array(names)}
        if labels is not None:
            arrays["labels"] = labels
        np.savez(file, **arrays)
    elif suffix == ".safetensors":
        from safetensors.torch import save

        tensors = {"features": features.contiguous()}
        return save(
            tensors if labels is None else {**tensors, "labels": torch.from_numpy(np.ascontiguousarray(labels))}
        )
    else:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise ImportError("Parquet files need the extra: pip install fastssl[datasets]") from error
        columns: dict[str, Any] = {"name": names, "features": list(features.numpy())}
        if labels is not None:
            columns["label"] = list(labels)
        pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()
