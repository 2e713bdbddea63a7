"""What ``fastssl embed`` does: features of any data, with names and labels, in a file, by one or several processes."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastssl.cli.show import counting, say


@dataclass
class Embedding:
    """What is asked for; None of ``data``: the run's own."""

    model: str
    out: Path
    data: str | None = None
    readout: str = "pooled"
    part: str = "train"
    size: int | None = None
    on_error: str = "raise"
    devices: int = 1


def embed(asked: Embedding) -> int:
    """Writes the file, and returns how many rows it has (0: another process writes it).

    Raises:
        ValueError: no such model, data or format.
        RuntimeError: a process that was started has died; what it made is gone on from.
    """
    from fastssl.evaluate.feature_files import check_format
    from fastssl.train.options import launched

    check_format(asked.out)
    if asked.devices < 1:
        raise ValueError(f"devices: expected at least one process, got {asked.devices}")
    if (launch := launched()) is not None:
        return _work(asked, launch.rank, launch.devices * launch.nodes, launch.rank % launch.devices)
    others = [_start(asked, rank) for rank in range(1, asked.devices)]
    try:
        made = _work(asked, 0, asked.devices, 0, others)
        for process in others:
            process.join()
        return made
    finally:
        for process in others:
            process.terminate()


def _start(asked: Embedding, rank: int) -> Any:
    process = multiprocessing.get_context("spawn").Process(
        target=_work, args=(asked, rank, asked.devices, rank), daemon=True
    )
    process.start()
    return process


def _work(asked: Embedding, rank: int, world_size: int, local: int, others: list[Any] | None = None) -> int:
    import torch

    from fastssl.cli.judge import data_of, model_of
    from fastssl.data import open as open_source
    from fastssl.evaluate import embed as write_features

    if others is None and world_size > 1 and not torch.cuda.is_available():
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // world_size))
    encoder, state = model_of(asked.model, asked.size)
    if torch.cuda.is_available():
        encoder.to(f"cuda:{local % torch.cuda.device_count()}")
    if asked.data is None and state is None:
        raise ValueError("data: expected the data whose features are wanted (--data)")
    source = open_source(asked.data or data_of(state or {}), part=asked.part)

    def alive(done: int, total: int) -> None:
        for process in others or ():
            if process.exitcode not in (None, 0):
                raise RuntimeError(
                    f"a process that made features has died ({process.exitcode}); the same command goes on from there"
                )
        show(done, total)

    with counting(source.name) as show:
        options: dict[str, Any] = {"readout": asked.readout, "part": asked.part, "on_error": asked.on_error}
        made = write_features(
            encoder,
            source,
            asked.out,
            rank=rank,
            world_size=world_size,
            progress=alive if rank == 0 else None,
            **options,
        )
    if rank == 0 and made < len(source):
        say(f"{len(source) - made:,} images could not be read: they have no row", "yellow")
    return made
