"""Random numbers that are drawn again, or apart from others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


def drawing_apart() -> AbstractContextManager[None]:
    """Context after which torch's generators, those of all GPUs too, are as before. (torch warns where it has to find
    out itself how many there are.)"""
    return torch.random.fork_rng(range(torch.accelerator.device_count()))


def seed_step(seed: int) -> None:
    """``torch.manual_seed`` for each step of a training: without an accelerator, it formats the whole stack for each
    kind of device in case that one is used later."""
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


class Draws:
    """The state of torch's generators when this is made: an expression that is evaluated again in the backward pass
    draws the same numbers."""

    def __init__(self, device: torch.device) -> None:
        self.state = torch.get_rng_state()
        # Those of a CUDA graph that is captured cannot be read: a random term draws other numbers there (docs/gpu.md).
        cuda = device.type == "cuda" and not torch.cuda.is_current_stream_capturing()
        self.devices = [device] if cuda else []
        self.of_devices = [torch.cuda.get_rng_state(one) for one in self.devices]

    @contextmanager
    def again(self) -> Iterator[None]:
        """Context in which the same numbers are drawn; afterwards the generators are as before."""
        with torch.random.fork_rng(self.devices):
            torch.set_rng_state(self.state)
            for device, state in zip(self.devices, self.of_devices):
                torch.cuda.set_rng_state(state, device)
            yield
