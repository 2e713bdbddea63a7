"""Batches on their way to the device, and what is done to a network for the device's sake."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fastssl.data.batch import map_tensors
from fastssl.models import Encoder

BACKEND = "inductor"  # of torch.compile


class Copies:
    """Copies of batches to a device; those of a GPU run on a stream of their own, beside what it computes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def start(self, batch: Any) -> Any:
        """The batch on the device, or on its way there. Of page-locked memory the copy does not wait."""
        with torch.cuda.stream(self.stream):
            return map_tensors(lambda tensor: tensor.to(self.device, non_blocking=True), batch)

    def finish(self, batch: Any) -> Any:
        """The batch, for what is computed from now on."""
        if self.stream is None:
            return batch
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self.stream)

        def used(tensor: torch.Tensor) -> torch.Tensor:
            tensor.record_stream(computing)  # its memory is not given away while a step still reads it
            return tensor

        return map_tensors(used, batch)


class DeviceBatches:
    """Batches on the device: ``next`` gives one, ``prepare`` starts the copy of the one after.

    A step calls ``prepare`` when its work is queued and before it asks for a number, so that the copy runs while the
    step computes.

    Args:
        batches: of the loader.
        copies: to the device.
    """

    def __init__(self, batches: Iterator[Any], copies: Copies) -> None:
        self.batches, self.copies = batches, copies
        self._upcoming: list[Any] = []

    def prepare(self) -> None:
        """Takes a batch from the loader, which may make it wait, unless one is on its way already."""
        if not self._upcoming:
            batch = next(self.batches, None)
            if batch is not None:
                self._upcoming.append(self.copies.start(batch))

    def __next__(self) -> Any:
        self.prepare()
        if not self._upcoming:
            raise StopIteration
        return self.copies.finish(self._upcoming.pop())


@contextlib.contextmanager
def compiled_encoders(method: nn.Module, wanted: bool) -> Iterator[None]:
    """Within it, the networks of a method's encoders (targets too) run as ``torch.compile`` makes them.

    Their parameters and the keys of their state dict stay what they are.
    """
    networks = [m.network for m in method.modules() if isinstance(m, Encoder)] if wanted else []
    for network in networks:
        network.compile(backend=BACKEND)
    try:
        yield
    finally:
        for network in networks:
            network._compiled_call_impl = None  # what ``compile`` set; a network has no ``uncompile``


__all__ = ["Copies", "DeviceBatches", "compiled_encoders"]
