"""``fastssl embed``: writes features with names and labels to a file, with one or several processes."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastssl.cli.show import echo, item_progress


@dataclass
class Embedding:
    """Arguments of ``fastssl embed``; ``data`` None: the training data of the run."""

    model: str
    out: Path
    data: str | None = None
    readout: str = "pooled"
    part: str = "train"
    size: int | None = None
    on_error: str = "raise"
    devices: int = 1


def embed(asked: Embedding) -> int:
    """Writes the file and returns its number of rows (0: another process writes it).

    Raises:
        ValueError: no such model, data or format.
        RuntimeError: a worker process has died; another call resumes from its results.
    """
    from fastssl.evaluate.feature_files import check_format
    from fastssl.train.options import detect_launcher

    check_format(asked.out)
    if asked.devices < 1:
        raise ValueError(f"devices: expected at least one process, got {asked.devices}")
    if (launch := detect_launcher()) is not None:
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

    from fastssl.cli.evaluation import data_of, model_of
    from fastssl.data import open as open_source
    from fastssl.evaluate import embed as write_features

    if others is None and world_size > 1 and not torch.cuda.is_available():
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // world_size))
    encoder, state = model_of(asked.model, asked.size)
    if torch.cuda.is_available():
        encoder.to(f"cuda:{local % torch.cuda.device_count()}")
    if asked.data is None and state is None:
        raise ValueError("data: expected a data set (--data)")
    source = open_source(asked.data or data_of(state or {}), part=asked.part)

    def alive(done: int, total: int) -> None:
        for process in others or ():
            if process.exitcode not in (None, 0):
                raise RuntimeError(
                    f"a worker process has died (exit code {process.exitcode}); run the same command again to resume"
                )
        show(done, total)

    with item_progress(source.name) as show:
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
        echo(f"{len(source) - made:,} unreadable images were skipped", "yellow")
    return made
