"""Callbacks: objects that the trainer calls at the start of a run, after every step and at its end."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastssl._files import replacing
from fastssl.evaluate.measures import feature_spread
from fastssl.train.checkpoint import where_checkpoint
from fastssl.train.shards import unsharded_parameters

if TYPE_CHECKING:
    from fastssl.train.trainer import Trainer

log = logging.getLogger("fastssl")
NAMED = 10  # unreadable items that are logged by name
CHECK_STEPS = 20  # steps between two checks for collapse
COLLAPSED = 1e-3  # feature spread below which, three checks in a row, the run ends
WHOLE_EPOCHS = 10  # from which on a run with ``minutes`` ends with an epoch
# A run with ``minutes`` gets its number of epochs after this many steps (few, where they are slow) and this share of
# its time, at most these seconds; and anew after each of so many parts of its steps.
WARM_STEPS, FEW_STEPS, WARM_SHARE, WARM_SECONDS = 8, 3, 0.04, 60
REVISED_PARTS = 8


@dataclass
class Progress:
    """Progress of a run, passed to ``on_step`` after every step.

    Args:
        step: completed steps.
        total_steps: steps of the run.
        epoch: completed epochs.
        epochs: epochs of the run.
        loss: loss of the step.
        lr: learning rate of the step.
        rate: items per second, over all processes; of a language method, tokens.
        seconds_left: estimated time until the end of the run.
        waiting: fraction of the time of the last steps spent waiting for data.
        skipped: number of unreadable items so far.
        measured: last measurements of the features: "knn" and "linear", or "knn_r2" and "linear_r2", in percent;
            "feature_spread".
        history: steps and their losses.
        unit: what ``rate`` counts: "images", "tokens".
    """

    step: int
    total_steps: int
    epoch: int
    epochs: int
    loss: float
    lr: float
    rate: float
    seconds_left: float
    waiting: float
    skipped: int
    measured: dict[str, float]
    history: list[tuple[int, float]] = field(default_factory=list, repr=False)
    unit: str = "items"


class Callback:
    """Base class of callbacks.

    Example:
        >>> from fastssl.train import Callback
        >>> class Steps(Callback):
        ...     def on_step_end(self, trainer):
        ...         print(trainer.steps)
    """

    def on_train_begin(self, trainer: Trainer) -> None:
        """Called before the first step."""

    def on_step_end(self, trainer: Trainer) -> None:
        """Called after every step, in all processes."""

    def on_save(self, trainer: Trainer) -> None:
        """Called before a checkpoint is written, in the process that writes it."""

    def on_train_end(self, trainer: Trainer) -> None:
        """Called at the end of the run, also after an exception."""


class Throughput(Callback):
    """Measures the time per step; a run with ``minutes`` gets its number of epochs from it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []  # per step, from the end of one to the end of the next
        self.waited: list[float] = []
        self.last = 0.0
        self.revise = False  # a part has ended

    def on_train_begin(self, trainer: Trainer) -> None:
        self.last = time.perf_counter()

    def on_step_end(self, trainer: Trainer) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.waited.append(trainer.waited_seconds)
        self.last = now
        if trainer.options.minutes is not None and self._due(trainer):
            epochs = self._epochs(trainer, 60 * trainer.options.minutes)
            # By the clock of one process: others would choose another number.
            trainer.epochs = epochs if trainer.fabric.world_size == 1 else trainer.fabric.broadcast(epochs)

    def _due(self, trainer: Trainer) -> bool:
        """Whether the number of epochs is wanted, for the first time or anew: after the same steps in all processes."""
        if trainer.epochs is None:
            return True
        total = trainer.total_steps
        part = trainer.steps * REVISED_PARTS // total
        self.revise |= 0 < part < REVISED_PARTS and part != (trainer.steps - 1) * REVISED_PARTS // total
        due = self.revise and len(self.seconds) >= WARM_STEPS
        self.revise &= not due
        return due

    def _epochs(self, trainer: Trainer, seconds: float) -> float | None:
        """The epochs that fit in a run of ``seconds``, once steps have been measured."""
        spent, own, count = trainer.seconds, sum(self.seconds), len(self.seconds)
        measured = own > min(WARM_SHARE * seconds, WARM_SECONDS) and count >= WARM_STEPS
        slow = own > WARM_SECONDS and count >= FEW_STEPS
        if trainer.epochs is None and not measured and not slow and spent < seconds:
            return None
        # First steps are slow (memory, compilation, empty queues); of later ones a pause (a probe, a checkpoint) counts
        # as two steps.
        part = count if trainer.epochs is None else max(WARM_STEPS, trainer.total_steps // (2 * REVISED_PARTS))
        later = np.array(self.seconds[-min(part, (count + 1) // 2) :])
        per_step = float(np.minimum(later, 2 * np.median(later)).mean())
        steps = max(trainer.steps + 1, round(trainer.steps + (seconds - spent) / per_step))
        epochs = steps / trainer.steps_per_epoch
        if epochs < WHOLE_EPOCHS:
            return epochs
        return max(round(epochs), math.ceil(trainer.steps / trainer.steps_per_epoch))

    def progress(self, trainer: Trainer) -> Progress:
        """The progress of the run."""
        per_step = float(np.median(self.seconds[-20:]))
        total = trainer.steps + 1 if trainer.epochs is None else trainer.total_steps
        return Progress(
            trainer.steps,
            total,
            (trainer.steps - 1) // trainer.steps_per_epoch,
            math.ceil(trainer.epochs or 0),
            trainer.history[-1][1],
            trainer.lr,
            trainer.batch_size * trainer.method.per_item / per_step,
            (total - trainer.steps) * per_step,
            sum(self.waited[-20:]) / max(sum(self.seconds[-20:]), 1e-9),
            trainer.skipped,
            {name: value for _, name, value in trainer.measured[-8:]},
            trainer.history,
            trainer.method.unit,
        )


class MetricLogger(Callback):
    """Writes TensorBoard curves, ``history.json`` and ``measured.json``, from rank 0.

    They are on the disk before a checkpoint is: a run that is killed and resumed lacks no step. A run does not end for
    files that cannot be written: without the space for them there is none for its checkpoint, whose errors do.
    """

    def __init__(self, out: Path, throughput: Throughput) -> None:
        self.out, self.throughput = out, throughput
        self.writer: Any = None

    def on_train_begin(self, trainer: Trainer) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if trainer.fabric.is_global_zero:  # purged: what was logged after the checkpoint, or by a run before
            self.writer = SummaryWriter(self.out / "logs", purge_step=trainer.steps + 1)

    def on_step_end(self, trainer: Trainer) -> None:
        if self.writer is None:
            return
        progress = self.throughput.progress(trainer)
        with self._writing(curves=True):
            for name, value in (
                ("loss", progress.loss),
                ("lr", progress.lr),
                (f"{progress.unit}_per_second", progress.rate),
                ("waiting", progress.waiting),
            ):
                self.writer.add_scalar(name, value, trainer.steps)
            for step, name, value in trainer.measured[-8:]:
                if step == trainer.steps:
                    self.writer.add_scalar(name, value, step)

    def on_save(self, trainer: Trainer) -> None:
        if self.writer is not None:
            with self._writing(curves=True):
                self.writer.flush()
        with self._writing():
            for name, numbers in (("history.json", trainer.history), ("measured.json", trainer.measured)):
                with replacing(self.out / name) as file:
                    file.write_text(json.dumps(numbers))

    def on_train_end(self, trainer: Trainer) -> None:
        if trainer.fabric.is_global_zero:
            self.on_save(trainer)
        if self.writer is not None:
            with self._writing(curves=True):
                self.writer.close()

    @contextlib.contextmanager
    def _writing(self, curves: bool = False) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if curves:  # TensorBoard's thread has ended
                self.writer = None
            log.warning("the logs in %s cannot be written: %s", self.out, error)


class ProgressReporter(Callback):
    """Calls ``on_step`` with the progress of the run, on rank 0."""

    def __init__(self, on_step: Callable[[Progress], None], throughput: Throughput) -> None:
        self.on_step, self.throughput = on_step, throughput

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.fabric.is_global_zero:
            self.on_step(self.throughput.progress(trainer))


class SkippedItems(Callback):
    """Logs the first unreadable items by name."""

    def __init__(self) -> None:
        self.named: set[int] = set()

    def on_step_end(self, trainer: Trainer) -> None:
        for index, reason in trainer.loader.skipped:
            if index not in self.named and len(self.named) < NAMED:
                self.named.add(index)
                log.warning("skipped: %s", reason)


class CollapseGuard(Callback):
    """Ends a run whose features have collapsed to a constant."""

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.steps % CHECK_STEPS:
            return
        with unsharded_parameters(trainer.method):
            features = trainer.method.sample_features(trainer.batch)
        if features is None or len(features) < 2:
            return
        spread = feature_spread(features)
        trainer.measured.append([trainer.steps, "feature_spread", spread])
        last = [value for _, name, value in trainer.measured if name == "feature_spread"][-3:]
        if len(last) == 3 and all(value < COLLAPSED for value in last):
            raise RuntimeError(
                f"the features have collapsed to a constant (spread {spread:.1g} at step {trainer.steps}, about 1 is "
                f"normal); {where_checkpoint(trainer.out)}"
            )


class PeriodicCheckpoint(Callback):
    """Writes a checkpoint every ``checkpoint_minutes``."""

    def __init__(self) -> None:
        self.saved = 0.0

    def on_train_begin(self, trainer: Trainer) -> None:
        self.saved = time.perf_counter()

    def on_step_end(self, trainer: Trainer) -> None:
        due = time.perf_counter() - self.saved > trainer.options.checkpoint_minutes * 60
        if trainer.anywhere(int(due)) if trainer.sharded else due:  # gathering shards is a collective call
            trainer.save()
            self.saved = time.perf_counter()


class InterruptHandler:
    """Defers Ctrl-C and SIGTERM to the end of the step, so that the checkpoint is consistent.

    A second Ctrl-C is not deferred. A second SIGTERM is: schedulers send it to a launcher, which passes it on, and to
    the processes that it has launched.
    """

    def __init__(self) -> None:
        self.requested = 0  # the signal number
        self._previous: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}

    def _handle(self, number: int, _: Any) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = self.requested or int(number)

    def restore(self) -> None:
        """Restores the previous signal handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
