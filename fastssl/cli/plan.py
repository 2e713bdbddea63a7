"""What ``fastssl pretrain --dry-run`` says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from fastssl.data import Source
from fastssl.methods import ImageMethod
from fastssl.train import Pretraining
from fastssl.train.trainer import batch_size_of, rehearse


def plan(
    method: ImageMethod, source: Source, options: Pretraining, kept: dict[str, Any], encoder: dict[str, Any]
) -> Iterator[str]:
    """Lines on all that would run: settings, views, parameters, steps. Two items are tried; nothing is trained.

    Raises:
        ValueError: items that the method and its encoder cannot use.
    """
    rehearse(method, source, options.seed)
    rows = batch_size_of(options, len(source), options.processes[0] * options.processes[1])
    settings = {**asdict(options), "precision": options.numbers, "accelerator": options.device_type}
    yield "encoder: " + ", ".join(f"{key} {value}" for key, value in encoder.items())
    yield "method: " + ", ".join(f"{key} {value}" for key, value in kept.items())
    yield "settings: " + ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None)
    batch = method.examples(source.items(range(min(2, len(source)))), options.seed)
    yield "a batch: " + ", ".join(f"{[rows, *view.shape[1:]]} {str(view.dtype)[6:]}" for view in batch.views)
    for k, program in enumerate(method.augment.programs):
        steps = [*program.operations, *([program.normalize] if program.normalize else [])]
        yield f"view {k}: " + " -> ".join(map(repr, steps))
    trained = sum(p.numel() for p in method.parameters() if p.requires_grad)
    of_encoder = sum(p.numel() for p in method.encoder.parameters())
    yield f"parameters: {trained:,} are trained; the encoder has {of_encoder:,}"
    steps_per_epoch = len(source) // rows
    if options.minutes is None:
        yield f"steps: {options.epochs} epochs of {steps_per_epoch:,}, {options.epochs * steps_per_epoch:,} in all"
    else:
        yield f"steps: {steps_per_epoch:,} an epoch, as many epochs as fit in {options.minutes:g} minutes"
