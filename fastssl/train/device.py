"""Asynchronous copies of batches to the device, and compiled encoders."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fastssl.augment.planned import PackedViews
from fastssl.data.batch import Batch, map_tensors
from fastssl.models import Encoder

BACKEND = "inductor"  # of torch.compile


@contextlib.contextmanager
def deterministic_algorithms(device: torch.device) -> Iterator[None]:
    """Within it operations on a GPU give the same bits for the same inputs; torch warns of one that cannot."""
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it torch doubts cuBLAS
    cudnn: Any = torch.backends.cudnn
    filling: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings = cudnn.deterministic, cudnn.benchmark, filling.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=not before[0] or before[1])
    cudnn.deterministic, cudnn.benchmark, filling.fill_uninitialized_memory = True, False, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark, filling.fill_uninitialized_memory = settings


class DeviceCopier:
    """Copies batches to a device, where it makes planned views; on a GPU on a stream of its own, concurrently with
    computation."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def start(self, batch: Any) -> Any:
        """Starts the copy, which is asynchronous from pinned memory."""
        with torch.cuda.stream(self.stream):
            there = map_tensors(lambda tensor: tensor.to(self.device, non_blocking=True), batch)
            planned = isinstance(there, Batch) and isinstance(there.views, PackedViews)
            return there._replace(views=there.views.make()) if planned else there

    def finish(self, batch: Any) -> Any:
        """Makes the current stream wait for the copy."""
        if self.stream is None:
            return batch
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self.stream)

        def used(tensor: torch.Tensor) -> torch.Tensor:
            tensor.record_stream(computing)  # the allocator must not reuse it while a step still reads it
            return tensor

        return map_tensors(used, batch)


class DevicePrefetcher:
    """Iterator over batches on the device: ``prefetch`` starts the copy of the next one.

    A step calls ``prefetch`` after it has queued its work and before it synchronises on the loss, so that copy and
    computation overlap.

    Args:
        batches: batches of the loader.
        copier: copies them to the device.
    """

    def __init__(self, batches: Iterator[Any], copier: DeviceCopier) -> None:
        self.batches, self.copier = batches, copier
        self._upcoming: list[Any] = []

    def prefetch(self) -> None:
        """Starts the copy of the next batch, waiting for the loader, unless one is under way."""
        if not self._upcoming:
            batch = next(self.batches, None)
            if batch is not None:
                self._upcoming.append(self.copier.start(batch))

    def __next__(self) -> Any:
        self.prefetch()
        if not self._upcoming:
            raise StopIteration
        return self.copier.finish(self._upcoming.pop())


@contextlib.contextmanager
def compiled_encoders(method: nn.Module, wanted: bool) -> Iterator[None]:
    """Context in which the networks of a method's encoders, target networks included, run under ``torch.compile``.

    Parameters and state dict keys are unchanged.
    """
    networks = [m.network for m in method.modules() if isinstance(m, Encoder)] if wanted else []
    for network in networks:
        network.compile(backend=BACKEND)
    try:
        yield
    finally:
        for network in networks:
            network._compiled_call_impl = None  # set by ``compile``; nn.Module has no inverse of it


__all__ = ["DeviceCopier", "DevicePrefetcher", "compiled_encoders"]
