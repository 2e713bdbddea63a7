"""``fastssl embed``: writes features with names and labels to a file, with one or several processes."""

from __future__ import annotations

import multiprocessing
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from fastssl._words import amount
from fastssl.cli.show import echo, item_progress, note_part


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
    """Writes the file, says so, and returns its number of rows (0: another process writes it).

    Raises:
        ValueError: no such model, data or format.
        RuntimeError: a worker process has died; another call resumes from its results.
    """
    from fastssl.cli.evaluation import check_model
    from fastssl.evaluate.feature_files import check_format
    from fastssl.train.options import detect_launcher

    check_format(asked.out)
    check_model(asked.model)
    if (written := _embed_run(asked)) is not None:
        return written
    if asked.devices < 1:
        raise ValueError(f"devices: expected at least one process, got {asked.devices}")
    if (launch := detect_launcher()) is not None:
        if asked.devices not in (1, launch.devices):
            raise ValueError(f"devices: {launch.by} has started {launch.devices} processes, got {asked.devices}")
        return _work(asked, launch.rank, launch.devices * launch.nodes, launch.rank % launch.devices, _meet(launch))
    others = [_start(asked, rank) for rank in range(1, asked.devices)]

    def check() -> None:
        for process in others:
            if process.exitcode not in (None, 0):
                raise RuntimeError(
                    f"a worker process has died (exit code {process.exitcode}); run the same command again to resume"
                )

    def finish() -> None:
        for process in others:
            process.join()
        check()

    try:
        return _work(asked, 0, asked.devices, 0, finish, check)
    finally:
        for process in others:
            process.terminate()


def _embed_run(asked: Embedding) -> int | None:
    """Writes the features of texts or waveforms; None: the model is none of a run on them."""
    from fastssl.cli.evaluation import data_of, leaving_out, prepared
    from fastssl.data import open as open_source
    from fastssl.evaluate import embed_audio, embed_texts
    from fastssl.methods import AudioMethod, TextMethod, kind_of
    from fastssl.models.folder import load_state
    from fastssl.train import load_method
    from fastssl.train.language import method_of_model
    from fastssl.train.options import detect_launcher
    from fastssl.train.starting import language_kind

    state = load_state(asked.model) if Path(asked.model).is_dir() else {}
    of_texts = language_kind(asked.model) is not None
    if not of_texts and ("encoder" not in state or not issubclass(kind_of(state), (TextMethod, AudioMethod))):
        return None
    takes = "texts" if of_texts or issubclass(kind_of(state), TextMethod) else "waveforms"
    if detect_launcher() is not None:
        raise ValueError(f"devices: {takes} are embedded by one process, without a launcher")
    if asked.devices != 1 or asked.readout != "pooled" or asked.size is not None:
        raise ValueError(f"devices, readout, size: of images, {state.get('method', asked.model)} takes {takes}")
    data = asked.data or (data_of(state) if takes == "waveforms" else None)
    if data is None:
        raise ValueError("data: expected texts (--data FILE.txt, text:FOLDER, ...)")
    method: Any = method_of_model(asked.model, head=False) if of_texts else load_method(asked.model)
    with leaving_out(asked.on_error), item_progress(data) as show:
        source: Any = open_source(data, part=asked.part)
        note_part(source, data)
        if takes == "waveforms":
            source = prepared(method, source, asked.model, asked.part)
            count = embed_audio(method, source, asked.out, part=asked.part, progress=show)
        else:
            count = embed_texts(method, source, asked.out, part=asked.part, progress=show, note=echo)
    echo(f"{amount(count, 'row')} of features: {asked.out}")
    return count


def _meet(launch: Any) -> Callable[[], None]:
    """A function that waits for all processes of a launcher."""
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    strategy = DDPStrategy(process_group_backend="gloo", timeout=timedelta(days=1))
    fabric = Fabric(accelerator="cpu", devices=launch.devices, num_nodes=launch.nodes, strategy=strategy)
    fabric.launch()
    return fabric.barrier


def _start(asked: Embedding, rank: int) -> Any:
    process = multiprocessing.get_context("spawn").Process(
        target=_work, args=(asked, rank, asked.devices, rank), daemon=True
    )
    process.start()
    return process


def _work(
    asked: Embedding,
    rank: int,
    world_size: int,
    local: int,
    barrier: Callable[[], None] | None = None,
    check: Callable[[], None] = lambda: None,
) -> int:
    import torch

    from fastssl.cli.evaluation import data_of, model_of, note_changes, ranges_as_trained
    from fastssl.data import open as open_source
    from fastssl.evaluate import embed as write_features

    encoder, state = model_of(asked.model, asked.size)
    if torch.cuda.is_available():
        encoder.to(f"cuda:{local % torch.cuda.device_count()}")
    if asked.data is None and state is None:
        raise ValueError("data: expected a data set (--data)")
    data = asked.data or data_of(state or {})
    with ranges_as_trained([state or {}]):
        source = open_source(data, part=asked.part)
    if rank == 0:
        note_part(source, data)
        if state is not None and asked.data is None:
            note_changes(state)

    shown = item_progress(source.name) if rank == 0 else nullcontext(lambda done, total: None)
    with shown as show, _share_of_threads(world_size):

        def progress(done: int, total: int) -> None:
            check()
            show(done, total)

        made = write_features(
            encoder,
            source,
            asked.out,
            readout=asked.readout,
            part=asked.part,
            on_error=asked.on_error,
            rank=rank,
            world_size=world_size,
            progress=progress,
            barrier=barrier,
        )
    if rank == 0 and made < len(source):
        echo(f"{len(source) - made:,} unreadable images were skipped", "yellow")
    if made:
        echo(f"{amount(made, 'row')} of features: {asked.out}\nnext: fastssl neighbors {shlex.quote(str(asked.out))}")
    return made


@contextmanager
def _share_of_threads(world_size: int) -> Iterator[None]:
    """Each of several processes computes with its share of the cores."""
    import torch

    before = torch.get_num_threads()
    if world_size > 1 and not torch.cuda.is_available():
        torch.set_num_threads(min(before, max(1, (os.cpu_count() or 1) // world_size)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
