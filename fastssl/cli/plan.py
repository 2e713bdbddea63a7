"""``fastssl pretrain --dry-run``: the settings of a run, and the memory and time of a few steps."""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastssl._words import amount
from fastssl.data import Source
from fastssl.methods import ImageMethod, Method, name_of
from fastssl.models.frozen import training_mode
from fastssl.train import Pretraining, Trainer
from fastssl.train.device import DevicePrefetcher
from fastssl.train.gradients import check_batch
from fastssl.train.muon import is_orthogonal
from fastssl.train.optim import build_optimizer
from fastssl.train.options import detect_launcher
from fastssl.train.trainer import batch_size_of, dry_run, first_items

STEPS, SECONDS = 4, 60  # measured steps, the first for warm-up; none is started after that time
STATES = {"adamw": 2, "sgd": 1, "lars": 1, "muon": 2}  # optimiser state per element, but for Muon's matrices


def views_of(method: ImageMethod) -> Iterator[str]:
    """A line for each view, its operations."""
    for k, program in enumerate(method.augment.programs):
        yield f"view {k}: " + " -> ".join(map(repr, program.steps))


def kept_network(method: Method) -> str:
    """The name of the network that is kept after pretraining."""
    return "encoder" if isinstance(method, ImageMethod) else "network"


def network_line(method: Method, options: dict[str, Any]) -> str:
    """The options of the network that is kept after pretraining."""
    return f"{kept_network(method)}: " + ", ".join(f"{key} {value}" for key, value in options.items())


def plan(
    method: Method, source: Source, options: Pretraining, kept: dict[str, Any], encoder: dict[str, Any]
) -> Iterator[str]:
    """Lines that describe a run: settings, views, parameters, steps, and memory and time measured on a few steps, whose
    results are discarded.

    Raises:
        ValueError: items that the method and its encoder cannot process.
    """
    source = method.prepare(source) if isinstance(method, ImageMethod) else source
    dry_run(method, source, options.seed, options.on_error)
    processes = options.processes[0] * options.processes[1]
    rows = batch_size_of(options, len(source), processes)
    check_batch(method, options, rows // processes)
    settings = {**asdict(options), "precision": options.resolved_precision, "accelerator": options.device_type}
    if options.minutes is not None:
        del settings["epochs"]
    yield network_line(method, encoder)
    yield "method: " + ", ".join(f"{key} {value}" for key, value in kept.items())
    yield "settings: " + ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None)
    ids, items = first_items(source, options.on_error)
    batch = method.examples(items, options.seed, ids=ids)
    yield "a batch: " + ", ".join(f"{[rows, *part.shape[1:]]} {str(part.dtype)[6:]}" for part in method.inputs(batch))
    if isinstance(method, ImageMethod):
        yield from views_of(method)
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    network = kept_network(method)
    inner: Any = getattr(method, network)
    of_encoder = sum(p.numel() for p in inner.parameters())
    states = sum(
        p.numel() * (1 if is_orthogonal(p, group) else STATES[options.optimizer])
        for group in build_optimizer(method, options.optimizer, options.lr, options.weight_decay).param_groups
        for p in group["params"]
    )
    mib = (sum(p.numel() for p in method.parameters()) + trained + states) * 4 / 2**20
    yield (
        f"parameters: {trained:,} trained; {network} {of_encoder:,}; with gradients and optimiser state {mib:,.0f} MiB"
    )
    steps_per_epoch = len(source) // rows
    if options.minutes is None:
        in_total = f"{options.epochs * steps_per_epoch:,} in total"
        yield f"steps: {amount(options.epochs, 'epoch')} of {steps_per_epoch:,}, {in_total}"
    else:
        yield f"steps: {steps_per_epoch:,} per epoch, as many epochs as fit in {options.minutes:g} minutes"
    if method.needs_dataset_features:
        yield f"time: not measured, {name_of(method)} needs the features of the whole data set before each epoch"
    elif detect_launcher() is not None:
        yield "time: not measured under a launcher; run it without one"
    else:
        total = None if options.minutes is not None else options.epochs * steps_per_epoch
        yield from _measured(method, source, replace(options, batch_size=rows // processes), processes, total)


def _measured(method: Method, source: Source, options: Pretraining, processes: int, total: int | None) -> Iterator[str]:
    """Memory and time of a few steps of one process."""
    few = source.subset(np.arange(min(len(source), STEPS * options.batch_size)))
    options = replace(options, devices=1, nodes=1, strategy="ddp", epochs=STEPS, minutes=None)
    seconds: list[float] = []
    waited: list[float] = []
    with tempfile.TemporaryDirectory() as out:
        trainer = Trainer(method, few, options, out=Path(out), about={})
        training_mode(method, trainer.model)
        loaded = trainer.batches()
        batches, began = DevicePrefetcher(loaded, trainer.copier), time.perf_counter()
        while len(seconds) < STEPS and time.perf_counter() - began < SECONDS:
            start, trainer.waited_seconds = time.perf_counter(), 0.0
            try:
                trainer.step(batches)
            except RuntimeError as error:  # what it saved goes with this folder
                raise RuntimeError(str(error).partition("; the state before")[0]) from error
            seconds.append(time.perf_counter() - start)
            waited.append(trainer.waited_seconds)
        loaded.close()  # type: ignore[attr-defined]
    if trainer.device.type == "cuda":
        peak, where = torch.cuda.max_memory_allocated(trainer.device), "of the GPU"
    else:
        unit = 1 if sys.platform == "darwin" else 2**10
        peak, where = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "of this process"
    each = " per process" if processes > 1 else ""
    yield f"memory: peak {peak / 2**30:.2f} GiB {where}, over {amount(len(seconds), 'step')}{each}"
    warm, held = seconds[1:] or seconds, waited[1:] or waited
    step = statistics.median(warm)
    line = f"time: {step:.3g} s per step{each}, {100 * sum(held) / sum(warm):.0f} % of it waiting for data"
    yield line + ("" if total is None else f"; {_duration(step * total)} for {total:,} steps")


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"
