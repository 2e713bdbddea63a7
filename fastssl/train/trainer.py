"""The training loop: Lightning Fabric for devices and precision, everything random keyed by (seed, step)."""

from __future__ import annotations

import contextlib
import itertools
import math
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl._logs import errors_alone
from fastssl.data import Item, Loader, Source
from fastssl.data.batch import map_tensors
from fastssl.data.captions import CaptionError
from fastssl.data.packed import UNREADABLE, Readable
from fastssl.distributed import sharded
from fastssl.distributed.exchange import gather, gather_numbers
from fastssl.distributed.shards import resolve
from fastssl.methods import Method, name_of
from fastssl.methods.base import lacking
from fastssl.models.folder import alone_in, forget_retired
from fastssl.models.frozen import training_mode
from fastssl.models.modes import evaluation_mode
from fastssl.models.precision import training_arithmetic
from fastssl.ops.draws import drawing_apart, seed_step
from fastssl.train.cached import check_loss
from fastssl.train.callbacks import Callback, InterruptHandler
from fastssl.train.checkpoint import (
    restore,
    restore_optimizer,
    save_checkpoint,
    where_checkpoint,
)
from fastssl.train.device import DeviceCopier, DevicePrefetcher, compiled_encoders, deterministic_algorithms
from fastssl.train.gradients import Gradients
from fastssl.train.optim import build_optimizer, learning_rate_factor
from fastssl.train.options import Pretraining
from fastssl.train.shards import average_scalars, is_sharded, unsharded_parameters
from fastssl.train.shards import strategy as fsdp_strategy

UNBOUNDED_EPOCHS = 10**9  # of a run with ``minutes`` until its speed has been measured


class Trainer:
    """Trains a method on a source.

    Args:
        method: the method to train.
        source: the training data.
        options: checked options of the run.
        out: folder of the checkpoints.
        about: JSON values that are stored in the checkpoint with the state of the run.
        checkpoint: tensors and state to resume from; None: a new run.
        callbacks: called in order after every step.

    Raises:
        RuntimeError: the loss is not finite, or another process has died or does not answer.
    """

    def __init__(
        self,
        method: Method,
        source: Source,
        options: Pretraining,
        *,
        out: Path,
        about: dict[str, Any],
        checkpoint: tuple[dict[str, Tensor], dict[str, Any]] | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.method, self.source, self.options, self.out, self.about = method, source, options, out, about
        self.callbacks = list(callbacks)
        self.steps = 0
        self.history: list[Any] = []  # [step, loss]
        self.measured: list[Any] = []  # [step, name, value]
        self.epochs: float | None = options.epochs if options.minutes is None else None
        self._before = 0.0  # seconds of the run before it was resumed
        self._unreadable: set[int] = set()  # before it was resumed, or by other processes
        self.fabric = _fabric(method, options)
        self.device = self.fabric.device
        self._resumed = None if checkpoint is None else checkpoint[1]
        if checkpoint is not None:
            restore(method, checkpoint[0])
            state = checkpoint[1]
            self.steps, self.history, self._before = state["step"], state["history"], state["seconds"]
            self.measured, self._unreadable = state.get("measured", []), set(state.get("unreadable", ()))
            if options.minutes is not None:
                self.epochs = state["epochs"]
        if self.device.type == "cuda":  # faster convolutions; on the CPU the views' memory format decides
            method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model: Any = self.fabric.setup_module(method)  # FSDP replaces the method's parameters by shards
        optimizer = build_optimizer(method, options.optimizer, options.lr, options.weight_decay, options.betas)
        if checkpoint is not None:
            restore_optimizer(optimizer, *checkpoint)
        self.sharded = is_sharded(method.parameters())
        self.optimizer: Any = self.fabric.setup_optimizers(optimizer)
        self.gradients = Gradients(self.fabric, self.model, method, options)
        self.copier = DeviceCopier(self.device)
        self.batch_size = batch_size_of(options, len(source), self.fabric.world_size)
        self.loader = Loader(
            source,
            method,
            self.batch_size,
            seed=options.seed,
            workers=options.workers,
            on_error=options.on_error,
            draft=options.draft,
            pin_memory=self.device.type == "cuda",
            planned=options.views_on == "gpu",
            rank=self.fabric.global_rank,
            world_size=self.fabric.world_size,
        )
        self.steps_per_epoch = len(self.loader)
        self.batch: Any = None
        self.lr = self.waited_seconds = 0.0
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Duration of the run in seconds, resumed parts included."""
        return self._before + time.perf_counter() - self._started

    @property
    def unreadable(self) -> set[int]:
        """Indices of the items that could not be read."""
        return self._unreadable | {index for index, _ in self.loader.skipped}

    @property
    def skipped(self) -> int:
        """Number of items that could not be read."""
        return len(self.unreadable)

    @property
    def total_steps(self) -> int:
        return round((UNBOUNDED_EPOCHS if self.epochs is None else self.epochs) * self.steps_per_epoch)

    def step(self, batches: DevicePrefetcher) -> None:
        """One optimiser step."""
        with self._waiting():
            self.batch = next(batches)
        seed_step(step_seed(self.options.seed, self.steps, self.fabric.global_rank))
        self._set_lr()
        with self._sharing():
            loss = self.gradients(self.batch)
            # With dataset features the next epoch's batches depend on this step: nothing to prefetch.
            if self.copier.stream is not None and not self.method.needs_dataset_features:
                with self._waiting():
                    batches.prefetch()
            value = float(loss)
        if self.anywhere(int(not np.isfinite(value))):
            self.save("diverged")
            if self.fabric.world_size > 1:
                self.fabric.barrier()  # the folder is there before any process ends
            whose = f"of rank {self.fabric.global_rank} " if self.fabric.world_size > 1 else ""
            other = " (that of another process is not finite)" if np.isfinite(value) else ""
            raise RuntimeError(
                f"the loss {whose}is {value}{other} at step {self.steps}, items {self.batch.ids[:8].tolist()}...; "
                f"the state before the step is in {self.out / 'diverged'}, {where_checkpoint(self.out)}"
            )
        with self._sharing():
            if self.sharded:
                average_scalars(self.method)
            if self.options.clip is not None:
                self.fabric.clip_gradients(self.model, self.optimizer, max_norm=self.options.clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.method.after_step((self.steps + 1) / self.total_steps if self.epochs is not None else 0.0)
        self.steps += 1
        self.history.append([self.steps, value])

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.waited_seconds += time.perf_counter() - began

    def _set_lr(self) -> None:
        options = self.options
        warmup = max(1, min(round(options.warmup_epochs * self.steps_per_epoch), self.total_steps // 2))
        self.lr = options.lr * learning_rate_factor(self.steps, self.total_steps, warmup, options.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr

    def batches(self) -> Iterator[Any]:
        """Batches from the current step on; dataset features are passed to the method between epochs."""
        epoch, position = divmod(self.steps, self.steps_per_epoch)
        if not self.method.needs_dataset_features:
            fixed = None if self.options.minutes is not None else self.epochs  # else it may still change
            yield from self.loader.run(epoch, position, math.ceil(fixed or UNBOUNDED_EPOCHS) - epoch)
            return
        while True:
            if position == 0:
                self.before_epoch(epoch)
            weights = self.method.sampling_weights()
            self.loader.weights = None if weights is None else weights.double().cpu().numpy()
            yield from self.loader.run(epoch, position)
            epoch, position = epoch + 1, 0

    @torch.no_grad()
    def before_epoch(self, epoch: int) -> None:
        """Passes the features of all items to the method, without augmentation and in evaluation mode. Each process
        computes a part of them, and all have the same bits: what they make of them does not differ."""
        source, world = self.source, self.fabric.world_size
        if self.options.on_error == "skip":  # rows keep their places; no batch reads what stands for such an item
            source = Readable(source, first_items(source, "skip", 1)[1][0])
        parts = np.array_split(np.arange(len(source)), world)
        with unsharded_parameters(self.method):
            own = source if world == 1 else source.subset(parts[self.fabric.global_rank])
            described = extract_dataset_features(self.method, own, self.batch_size)
        if world > 1:
            with self._sharing():
                described = gather(resolve("world"), described, [len(part) for part in parts])
        self.method.before_epoch(described, epoch, self.options.seed)

    def run(self) -> None:
        """Trains until the end of the run or an interrupt, and writes a checkpoint.

        Raises:
            ValueError: another run is writing to the folder.
            KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM, received by any of the processes.
        """
        with contextlib.ExitStack() as ending:  # all of it, also where a part of it raises
            if self.fabric.is_global_zero:
                ending.enter_context(alone_in(self.out, self._resumed))
            interrupt, between_steps, stop = InterruptHandler(), True, 0
            batches = self.batches()
            on_device = DevicePrefetcher(batches, self.copier)
            training_mode(self.method, self.model)
            for callback in reversed(self.callbacks):
                ending.callback(callback.on_train_end, self)
            ending.callback(batches.close)  # type: ignore[attr-defined]
            ending.callback(interrupt.restore)
            try:
                for callback in self.callbacks:
                    callback.on_train_begin(self)
                exactly = self.options.deterministic
                exact = deterministic_algorithms(self.device) if exactly else contextlib.nullcontext()
                arithmetic = training_arithmetic(self.device, compiled=self.options.compile)
                with exact, arithmetic, compiled_encoders(self.method, self.options.compile):
                    while not stop and (self.epochs is None or self.steps < self.total_steps):
                        between_steps, self.waited_seconds = False, 0.0
                        self.step(on_device)
                        stop = self.anywhere(interrupt.requested)
                        self.share_unreadable()
                        between_steps = True
                        for callback in self.callbacks:
                            callback.on_step_end(self)
                self.save()
                # No process ends before the checkpoint is written: its launcher would kill the others.
                stop = self.anywhere(stop or interrupt.requested)
            except (KeyboardInterrupt, SystemExit):
                # Of a callback, after a step. After a second Ctrl-C, weights and step counter may disagree, and what
                # callbacks measure of the step may be missing: the last checkpoint stays.
                if between_steps and not interrupt.requested:
                    self.save()
                raise
        if stop := stop or interrupt.requested:  # also one that came with the last step
            raise KeyboardInterrupt if stop == signal.SIGINT else SystemExit(128 + stop)
        if self.sharded:
            self.method.unshard()  # type: ignore[operator]

    def anywhere(self, requested: int) -> int:
        """The largest number of any process, such as the signal that it received, so that all do the same."""
        if self.fabric.world_size == 1:
            return requested
        with self._sharing():
            return int(max(n for (n,) in gather_numbers(resolve("world"), [requested], self.device)))

    def share_unreadable(self) -> None:
        """Makes the items that any process could not read known to all."""
        if self.fabric.world_size == 1 or self.options.on_error != "skip":
            return
        with self._sharing():
            own = sorted(self.unreadable - self._unreadable)
            world = resolve("world")
            most = max(n for (n,) in gather_numbers(world, [len(own)], self.device))
            if most:
                rows = gather_numbers(world, own + [-1] * (most - len(own)), self.device)
                self._unreadable |= {index for row in rows for index in row if index >= 0}

    def save(self, folder: str = "checkpoint") -> None:
        """Writes a checkpoint of the run."""
        if self.fabric.is_global_zero or self.sharded:  # gathering shards is a collective call
            write = self.fabric.is_global_zero
            if write:
                for callback in self.callbacks:
                    callback.on_save(self)
            state = {
                "format": 1,
                **self.about,
                "options": {**asdict(self.options), "precision": self.options.resolved_precision},
                "epochs": self.epochs,
                "step": self.steps,
                "history": self.history,
                "measured": self.measured,
                "seconds": self.seconds,
                "unreadable": sorted(self.unreadable),
            }
            assets = self.method.assets()
            save_checkpoint(self.out / folder, self.method, self.optimizer, state, assets=assets, write=write)
            if write and folder == "checkpoint":
                forget_retired(self.out)

    @contextlib.contextmanager
    def _sharing(self) -> Iterator[None]:
        """Losses cover the rows of all processes; errors of a lost process name it as the cause."""
        if self.fabric.world_size == 1:
            yield
            return
        try:
            with sharded("world", averaged=True):
                yield
        except RuntimeError as error:
            text = str(error)
            if "finished reduction" in text:  # DDP waits for gradients that never came
                raise RuntimeError(
                    f"{type(self.method).__name__}: some of its parameters got no gradient in a step; where that is "
                    "meant, set has_unused_parameters = True in the class"
                ) from error
            signs = ("has died or did not answer", "onnection", "imed out", "imeout", "NCCL")
            if not any(sign in text for sign in signs):
                raise
            raise RuntimeError(
                f"rank {self.fabric.global_rank} of {self.fabric.world_size}: another process has died or does not "
                f"answer; {where_checkpoint(self.out)}. "
                f"{text.splitlines()[0]}"
            ) from error


def _fabric(method: Method, options: Pretraining) -> Any:
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    devices, nodes = options.processes
    several: Any = "auto"
    timeout = timedelta(minutes=options.timeout_minutes)
    if devices * nodes > 1 and options.strategy == "fsdp":
        several = fsdp_strategy(devices * nodes, timeout)
    elif devices * nodes > 1:
        several = DDPStrategy(find_unused_parameters=method.has_unused_parameters, timeout=timeout)
    with errors_alone("lightning_fabric.utilities.rank_zero"):  # the precision, which is printed with the settings
        fabric = Fabric(
            accelerator=options.device_type,
            devices=devices,
            num_nodes=nodes,
            precision=options.resolved_precision,  # type: ignore[arg-type]
            strategy=several,
        )
    if devices * nodes > 1:
        fabric.launch()
    return fabric


def batch_size_of(options: Pretraining, items: int, processes: int) -> int:
    """Items per step over all processes: ``options.batch_size``, or the whole data set if that is smaller.

    Raises:
        ValueError: a batch size that is no multiple of the number of processes.
    """
    if options.batch_size % processes:
        raise ValueError(f"batch_size: expected a multiple of {processes} processes, got {options.batch_size}")
    return min(options.batch_size, items - items % processes)


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of all random draws in one step."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)


@torch.no_grad()
def extract_dataset_features(method: Method, source: Source, batch: int) -> Tensor:
    """The method's ``dataset_features`` of every item, without augmentation and in evaluation mode."""
    device = next(method.parameters()).device
    loader = Loader(source, method.plain_examples(), batch, shuffle=False, drop_last=False)
    with evaluation_mode(method):
        parts = [method.dataset_features(map_tensors(lambda t: t.to(device), rows)).float() for rows in loader]
    return torch.cat(parts)


def first_items(source: Source, on_error: str, count: int = 2) -> tuple[np.ndarray, list[Item]]:
    """Indices and items; unreadable ones are passed over with ``on_error="skip"``."""
    readable = source if on_error == "raise" else Readable(source)
    every = ((index, readable.read(index)) for index in range(len(source)))
    first = list(itertools.islice((pair for pair in every if pair[1] is not UNREADABLE), count))
    if len(source) and not first:
        raise ValueError(f"data: none of the {len(source)} items of {source.name} can be read")
    return np.array([index for index, _ in first], dtype=np.int64), [item for _, item in first]


def dry_run(method: Method, source: Source, seed: int, on_error: str = "raise") -> None:
    """Runs two items through examples and loss, so that incompatible data is reported before training starts.

    Raises:
        TypeError: examples that are no named tuple, or a loss that is no tensor.
        ValueError: items without a field that the method needs, or that the method and its encoder cannot process; a
            field that items do not have; a loss that is no scalar.
    """
    name = name_of(method)
    missing = source.without_text if "text" in method.needs else None
    if missing is not None and len(missing) == len(source):
        raise lacking(name, "text", Item(images=()), f"{source.name_of(0)} of {source.name}")
    if missing is not None and len(missing) and on_error == "raise":
        raise CaptionError(
            f"data: {name} needs a text with each item, {len(missing):,} of the {len(source):,} items of "
            f"{source.name} have none, the first: {source.name_of(int(missing[0]))}"
        )
    ids, items = first_items(source, on_error)
    for need in method.needs:
        if need not in Item._fields:
            raise ValueError(f"needs: {name} expects fields of an Item, {', '.join(Item._fields)}, got {need!r}")
        unknown = source.labels is not None and np.ndim(source.labels) == 1 and bool((source.labels < 0).any())
        for item in items:
            if getattr(item, need) is None or (need == "label" and unknown):
                raise lacking(name, need, item, f"{item.name or 'one'} of {source.name}")
    batch = None
    try:
        with evaluation_mode(method), torch.no_grad(), drawing_apart():
            batch = method.examples(items, seed, 0, ids)
            if not isinstance(batch, tuple) or "ids" not in getattr(batch, "_fields", ()):
                raise TypeError(
                    f"examples of {name}: expected a named tuple of tensors with a field ids, such as "
                    f"fastssl.data.Batch(views, labels, ids), got {type(batch).__name__}"
                )
            on = next((p.device for p in method.parameters()), torch.device("cpu"))
            if not method.needs_dataset_features:  # whose loss is undefined before the first ``before_epoch``
                loss = method(map_tensors(lambda tensor: tensor.to(on), batch))
                check_loss(loss, f"forward of {name}", graph=False)
    except RuntimeError as error:
        shapes = "none" if batch is None else _shapes(batch)
        images = [tuple(image.shape) for image in items[0].images or ()]
        given = f"images {images}" if images else "the items"
        raise ValueError(
            f"method: {name} and its network cannot process {given} of {source.name}: {shapes}, {error}"
        ) from error


def _shapes(batch: Any) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    map_tensors(lambda tensor: found.append(tuple(tensor.shape)) or tensor, batch)  # type: ignore[func-returns-value]
    return found[: len(batch.views)] if hasattr(batch, "views") else found
