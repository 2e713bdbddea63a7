"""``embed``: writes the features of a data set to a file; streaming, resumable, and with any number of processes."""

from __future__ import annotations

import glob
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from fastssl._files import locked, replacing
from fastssl.data import Item, Source
from fastssl.data import open as open_source
from fastssl.data.packed import Readable
from fastssl.data.source import digest
from fastssl.evaluate.feature_files import about_features, check_format, encoder_digest, write_features
from fastssl.evaluate.features import batch_rows, encode_batches
from fastssl.models import Encoder

BLOCK = 4096  # approximate rows per block
WAIT = 0.2  # seconds between two checks for the blocks of other processes


def embed(
    encoder: Encoder,
    data: Any,
    out: str | Path,
    *,
    readout: str = "pooled",
    part: str = "train",
    on_error: str = "raise",
    rank: int = 0,
    world_size: int = 1,
    progress: Callable[[int, int], None] | None = None,
    barrier: Callable[[], None] | None = None,
) -> int:
    """Writes the features [N, C] of all items of a data set, with their names and labels.

    Blocks of rows are written to a temporary folder beside ``out`` and merged at the end. An interrupted call resumes
    from the finished blocks, with any number of processes and bitwise identical results. Processes communicate only
    through that folder.

    Args:
        encoder: used in evaluation mode, on its current device.
        data: anything that :func:`fastssl.data.open` takes.
        out: file with suffix ``.npz``, ``.safetensors`` or ``.parquet`` (extra: datasets).
        readout: "pooled", or "spatial" (a 4 x 4 map, flattened).
        part: split, "train" or "test", of data that has both.
        on_error: "raise", or "skip" unreadable images, which get no row.
        rank: rank of this process, which computes every ``world_size``-th block; rank 0 merges them.
        world_size: number of processes.
        progress: called with the number of finished rows and the total.
        barrier: waits for all processes; called when the blocks of this one are finished. Without it a process that
            starts after the blocks have been merged computes its blocks again, and leaves them behind.

    Returns:
        The number of rows written; 0 for ranks other than 0.

    Raises:
        ImportError: ``.parquet`` without pyarrow.
        ValueError: unknown suffix, invalid options, or another call that is writing the same features.

    Example:
        >>> import tempfile
        >>> from fastssl.evaluate import embed, read_features
        >>> from fastssl.models import build_encoder
        >>> out = tempfile.mkdtemp() + "/features.npz"
        >>> embed(build_encoder({"name": "resnet", "size": 16, "width": 4}), "digits", out)
        1797
        >>> read_features(out).features.shape
        torch.Size([1797, 16])
    """
    out = Path(out)
    check_format(out)
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error: expected 'raise' or 'skip', got {on_error!r}")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank: expected 0 to {world_size - 1}, got {rank}")
    source = open_source(data, part=part)
    # Machines may read copies of their own, of other times: several processes tell data apart by names and labels.
    key = source.content_key if world_size == 1 else source.fingerprint
    blocks = _Blocks(encoder, source, out, readout, key)
    with nullcontext() if rank else blocks.alone():
        mine = [k for k in range(rank, blocks.count, world_size) if not blocks.finished(k, on_error)]
        blocks.make(mine, encoder, readout, on_error, progress)
        if rank:
            if barrier is not None:
                barrier()
            return 0
        while (done := blocks.finished_rows()) < len(source):  # wait for the other processes
            if world_size == 1:
                raise RuntimeError(f"blocks of features were removed from {blocks.folder}")
            if progress is not None:
                progress(done, len(source))
            time.sleep(WAIT)
        if barrier is not None:
            barrier()
        return blocks.merge(out, part)


class _Blocks:
    """The folder of blocks of one encoder and data set, which are identified by a hash in its name."""

    def __init__(self, encoder: Encoder, source: Source, out: Path, readout: str, key: str) -> None:
        self.source, self.batch = source, batch_rows(encoder)
        self.rows = self.batch * max(1, BLOCK // self.batch)
        self.count = -(-len(source) // self.rows)
        kind = f"{readout} {encoder.size} {encoder.channels} {self.rows} {type(encoder.network).__name__}"
        self.encoder = encoder_digest(encoder, readout)
        of = digest(key, kind, self.encoder)
        self.folder = out.with_name(f".{out.name}.{of[:12]}.blocks")
        self.out, self.others = out, f".{glob.escape(out.name)}.*.blocks"

    def alone(self) -> AbstractContextManager[None]:
        """Context of the call that puts the blocks together.

        Raises:
            ValueError: another one does.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        return locked(self.folder / "lock", f"out: another call is writing the same features to {str(self.out)!r}")

    def path(self, block: int) -> Path:
        return self.folder / f"{block:08d}.npz"

    def ids(self, block: int) -> np.ndarray:
        return np.arange(block * self.rows, min((block + 1) * self.rows, len(self.source)))

    def finished(self, block: int, on_error: str) -> bool:
        """Whether a block is there, made as asked: an earlier call may have left out items that cannot be read."""
        there = self.path(block).exists()
        if not there or on_error == "skip":
            return there
        with np.load(self.path(block)) as kept:
            return len(kept["ids"]) == len(self.ids(block))

    def finished_rows(self) -> int:
        names = [int(p.stem) for p in self.folder.glob("*.npz")] if self.folder.is_dir() else []
        return sum(len(self.ids(block)) for block in names)

    def make(
        self,
        blocks: list[int],
        encoder: Encoder,
        readout: str,
        on_error: str,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Computes blocks, in one pass over their items."""
        if not blocks:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        ids = np.concatenate([self.ids(block) for block in blocks])
        some = self.source if len(ids) == len(self.source) else self.source.subset(ids)
        readable = Readable(some, _grey_pixel(encoder.channels)) if on_error == "skip" else None
        made = encode_batches(encoder, readable or some, readout, self.batch)
        finished = self.finished_rows()
        for block in blocks:
            count = len(self.ids(block))
            features, kept = [], []
            for done in range(0, count, self.batch):
                rows, own = (t.numpy() for t in next(made))
                if readable is not None:
                    good = ~np.isin(own, sorted(readable.failed))
                    rows, own = rows[good], own[good]
                features.append(rows)
                kept.append(ids[own])
                if progress is not None:
                    progress(finished + min(done + self.batch, count), len(self.source))
            finished += count
            with replacing(self.path(block)) as fresh, fresh.open("wb") as file:
                np.savez(file, features=np.concatenate(features), ids=np.concatenate(kept))
        made.close()

    def _each(self, name: str) -> Iterator[np.ndarray]:
        for block in range(self.count):
            with np.load(self.path(block)) as kept:
                yield kept[name]

    def merge(self, out: Path, part: str) -> int:
        """Writes the file and removes the blocks."""
        source = self.source
        ids = np.concatenate([*self._each("ids"), np.zeros(0, np.int64)])
        columns = next((f.shape[1] for f in self._each("features")), 0)
        labels = None if source.labels is None else np.asarray(source.labels)[ids]
        about = about_features(source, part, self.encoder)
        write_features(out, self._each("features"), len(ids), columns, _Names(source, ids), labels, about)
        for folder in out.parent.glob(self.others):
            shutil.rmtree(folder, ignore_errors=True)
        return len(ids)


def _grey_pixel(channels: int) -> Item:
    """What stands for an item that cannot be read; its features are left out."""
    return Item(images=(np.full((1, 1, channels), 128, np.uint8),))


class _Names:
    """Re-iterable names of items."""

    def __init__(self, source: Source, ids: np.ndarray) -> None:
        self.source, self.ids = source, ids

    def __iter__(self) -> Iterator[str]:
        return (self.source.name_of(int(k)) for k in self.ids)
