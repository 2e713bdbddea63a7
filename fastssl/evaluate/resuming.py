"""Trainings of an evaluation that go on where they were interrupted."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import nn

from fastssl._files import replacing

INTERVAL = 60.0  # seconds between two writes


class Resumption:
    """The state of a training in a file, which is replaced as a whole at most once per ``interval`` seconds.

    The file holds the model, the optimiser, the steps done and torch's random state. A training that continues from it
    makes the steps of one that was never interrupted, bit for bit, if its batches follow from the number of the step.

    Args:
        path: the file; None: nothing is kept.
        key: what the training depends on; a file with another key is not used.
        interval: seconds.
    """

    def __init__(self, path: Path | None, key: str, interval: float = INTERVAL) -> None:
        self.path, self.key, self.interval = path, key, interval
        self.written = time.monotonic()

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Restores the state, and returns the number of steps that were done; 0 if there is no state of this key."""
        if self.path is None or not self.path.exists():
            return 0
        state = torch.load(self.path, weights_only=True)
        if state["key"] != self.key:
            return 0
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        return int(state["steps"])

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        """Called after each step: writes the state if the last write is long enough ago."""
        if self.path is None or time.monotonic() - self.written < self.interval:
            return
        state = {"key": self.key, "steps": steps, "random": torch.get_rng_state()}
        with replacing(self.path) as file:
            torch.save({**state, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
        self.written = time.monotonic()

    def done(self) -> None:
        """Removes the file."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
