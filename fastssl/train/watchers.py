"""What watches a run: small objects that the trainer calls after every step."""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastssl.evaluate.measures import feature_spread
from fastssl.train.shards import unsharded_parameters

if TYPE_CHECKING:
    from fastssl.train.trainer import Trainer

log = logging.getLogger("fastssl")
NAMED = 10  # items that cannot be read and are named
CHECK_STEPS = 20  # between looks at the features
COLLAPSED = 1e-3  # a spread of features below it, three times in a row, ends the run
WARM_STEPS, WARM_SECONDS = 8, 30  # after which a run in minutes knows its speed


@dataclass
class Progress:
    """Where a run stands, given to ``on_step`` after every step.

    Args:
        step: steps done.
        total_steps: steps of the run.
        epoch: passes done.
        epochs: passes of the run.
        loss: of the step.
        lr: learning rate of the step.
        images_per_second: items per second, over all processes.
        seconds_left: until the end of the run.
        waiting: the share of the last steps in which the network waited for data.
        skipped: items that could not be read so far.
        measured: the last look at the features: "knn" and "linear" in percent, "feature_spread".
        history: steps and their losses.
    """

    step: int
    total_steps: int
    epoch: int
    epochs: int
    loss: float
    lr: float
    images_per_second: float
    seconds_left: float
    waiting: float
    skipped: int
    measured: dict[str, float]
    history: list[tuple[int, float]] = field(default_factory=list, repr=False)


class Watcher:
    """Base of what watches a run.

    Example:
        >>> from fastssl.train import Watcher
        >>> class Steps(Watcher):
        ...     def after_step(self, trainer):
        ...         print(trainer.steps)
    """

    def begin(self, trainer: Trainer) -> None:
        """Called once, before the first step."""

    def after_step(self, trainer: Trainer) -> None:
        """Called after every step, by all processes."""

    def end(self, trainer: Trainer) -> None:
        """Called once, however the run ends."""


class Pace(Watcher):
    """How fast the steps are; a run in minutes learns from it how many epochs it has."""

    def __init__(self) -> None:
        self.seconds: list[float] = []  # from the end of a step to that of the next
        self.waited: list[float] = []
        self.last = 0.0

    def begin(self, trainer: Trainer) -> None:
        self.last = time.perf_counter()

    def after_step(self, trainer: Trainer) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.waited.append(trainer.waited_seconds)
        self.last = now
        minutes = trainer.options.minutes
        if trainer.epochs is not None or minutes is None:
            return
        spent = trainer.seconds
        if len(self.seconds) >= WARM_STEPS or spent > WARM_SECONDS:
            # The first steps warm caches up; the median of the others says how many epochs fit.
            per_step = float(np.median(self.seconds[1:] or self.seconds))
            trainer.epochs = max(
                1, round((trainer.steps + (minutes * 60 - spent) / per_step) / trainer.steps_per_epoch)
            )

    def progress(self, trainer: Trainer) -> Progress:
        """Where the run stands."""
        per_step = float(np.median(self.seconds[-20:]))
        total = trainer.steps + 1 if trainer.epochs is None else trainer.total_steps
        return Progress(
            trainer.steps,
            total,
            (trainer.steps - 1) // trainer.steps_per_epoch,
            trainer.epochs or 0,
            trainer.history[-1][1],
            trainer.lr,
            trainer.batch_size / per_step,
            (total - trainer.steps) * per_step,
            sum(self.waited[-20:]) / max(sum(self.seconds[-20:]), 1e-9),
            trainer.skipped,
            {name: value for _, name, value in trainer.measured[-8:]},
            trainer.history,
        )


class Logs(Watcher):
    """Curves for TensorBoard, the history of the loss and what was measured as JSON; written by one process."""

    def __init__(self, out: Path, pace: Pace) -> None:
        self.out, self.pace, self.first = out, pace, 0
        self.writer: Any = None

    def begin(self, trainer: Trainer) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.first = trainer.steps
        if trainer.fabric.is_global_zero:
            self.writer = SummaryWriter(self.out / "logs", purge_step=trainer.steps or None)

    def after_step(self, trainer: Trainer) -> None:
        if self.writer is None:
            return
        progress = self.pace.progress(trainer)
        for name, value in (
            ("loss", progress.loss),
            ("lr", progress.lr),
            ("images_per_second", progress.images_per_second),
            ("waiting", progress.waiting),
        ):
            self.writer.add_scalar(name, value, trainer.steps)
        for step, name, value in trainer.measured[-8:]:
            if step == trainer.steps:
                self.writer.add_scalar(name, value, step)

    def end(self, trainer: Trainer) -> None:
        if self.writer is None:
            return
        self.writer.close()
        if trainer.steps > self.first:
            self.out.mkdir(parents=True, exist_ok=True)
            for name, numbers in (("history.json", trainer.history), ("measured.json", trainer.measured)):
                temporary = self.out / f"{name}.tmp"
                temporary.write_text(json.dumps(numbers))
                temporary.replace(self.out / name)


class Report(Watcher):
    """Tells who called where the run stands."""

    def __init__(self, on_step: Callable[[Progress], None], pace: Pace) -> None:
        self.on_step, self.pace = on_step, pace

    def after_step(self, trainer: Trainer) -> None:
        if trainer.fabric.is_global_zero:
            self.on_step(self.pace.progress(trainer))


class Skipped(Watcher):
    """Names the first items that could not be read; all are counted."""

    def __init__(self) -> None:
        self.named: set[int] = set()

    def after_step(self, trainer: Trainer) -> None:
        for index, reason in trainer.loader.skipped:
            if index not in self.named and len(self.named) < NAMED:
                self.named.add(index)
                log.warning("skipped: %s", reason)


class CollapseGuard(Watcher):
    """Ends a run whose features are the same for all items."""

    def __init__(self) -> None:
        self.times = 0

    def after_step(self, trainer: Trainer) -> None:
        if trainer.steps % CHECK_STEPS:
            return
        with unsharded_parameters(trainer.method):
            features = trainer.method.some_features(trainer.batch)
        if features is None or len(features) < 2:
            return
        spread = feature_spread(features)
        trainer.measured.append([trainer.steps, "feature_spread", spread])
        self.times = self.times + 1 if spread < COLLAPSED else 0
        if self.times == 3:
            raise RuntimeError(
                f"the features have collapsed: all images get the same ones (spread {spread:.1g} at step "
                f"{trainer.steps}, healthy is about 1); the last checkpoint is in {trainer.out / 'checkpoint'}"
            )


class Checkpoints(Watcher):
    """Saves the run every few minutes."""

    def __init__(self) -> None:
        self.saved = 0.0

    def begin(self, trainer: Trainer) -> None:
        self.saved = time.perf_counter()

    def after_step(self, trainer: Trainer) -> None:
        if time.perf_counter() - self.saved > trainer.options.checkpoint_minutes * 60:
            trainer.save()
            self.saved = time.perf_counter()


class Interrupt:
    """Ctrl-C and SIGTERM let the step at hand finish, so that what is saved is whole; a second one does not wait."""

    def __init__(self) -> None:
        self.requested = 0  # the signal
        self._previous: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}

    def _handle(self, number: int, _: Any) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = int(number)

    def restore(self) -> None:
        """Gives the signals back to whom they belonged."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
