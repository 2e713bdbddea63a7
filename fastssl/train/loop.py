"""The training loop: Lightning Fabric for devices and precision, everything random keyed by (seed, step)."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fastssl.augment import to_float
from fastssl.data import Images, Signals
from fastssl.data.loader import epoch_order
from fastssl.distributed import sharded
from fastssl.distributed.exchange import gather_numbers
from fastssl.distributed.shards import resolve
from fastssl.evaluate.measures import feature_spread
from fastssl.methods import Method, name_of
from fastssl.models import Encoder
from fastssl.train.cached import cached_step
from fastssl.train.checkpoint import find_checkpoint, load_checkpoint, restore, restore_optimizer, save_checkpoint
from fastssl.train.optim import build_optimizer, cosine_with_warmup
from fastssl.train.shards import average_scalars, is_sharded, unsharded_parameters
from fastssl.train.shards import strategy as fsdp_strategy

CHECK_STEPS = 20  # between looks at the features
COLLAPSED = 1e-3  # a spread of features below it, three times in a row, ends the run


@dataclass
class Pretraining:
    """What a run is: all of it is written into its checkpoint.

    Args:
        epochs: passes over the data; with ``minutes`` it is chosen from the measured speed.
        batch_size: images a step, over all processes.
        lr: learning rate at the end of the warm-up.
        warmup_epochs: linear warm-up.
        weight_decay: of the optimiser.
        optimizer: "adamw", "sgd" or "lars".
        minutes: wanted duration; None: ``epochs`` counts.
        seed: of everything random.
        precision: of Lightning Fabric: "32-true", "bf16-mixed", ...
        accelerator: of Lightning Fabric: "auto", "cpu", "cuda", ...
        devices: processes, which share a batch: pair losses see all of it, batch norm a process's share
            (:func:`fastssl.distributed.sharded`).
        strategy: of several processes: "ddp": each has the whole network; "fsdp": each has a part of every parameter
            and of the optimiser's state (FSDP2).
        chunk: rows that the encoder sees at a time, while the loss sees the whole batch (:func:`cached_step`); "auto":
            as many as keep their activations in the memory budget; None: all.
        checkpoint_minutes: time between checkpoints.
        timeout_minutes: how long processes wait for each other before they take one for lost.
    """

    epochs: int = 100
    batch_size: int = 512
    lr: float = 2e-3
    warmup_epochs: float = 2
    weight_decay: float = 1e-4
    optimizer: str = "adamw"
    minutes: float | None = None
    seed: int = 0
    precision: str = "32-true"
    accelerator: str = "cpu"
    devices: int = 1
    strategy: str = "ddp"
    chunk: int | str | None = None
    checkpoint_minutes: float = 2
    timeout_minutes: float = 10

    def check(self) -> None:
        for name in ("epochs", "batch_size", "devices"):
            given = getattr(self, name)
            if isinstance(given, bool) or not isinstance(given, int) or given < 1:
                raise ValueError(f"{name}: expected an integer >= 1, got {given!r}")
        if self.chunk not in (None, "auto") and (
            isinstance(self.chunk, bool) or not isinstance(self.chunk, int) or self.chunk < 1
        ):
            raise ValueError(f"chunk: expected an integer >= 1, 'auto' or None, got {self.chunk!r}")
        if self.chunk is not None and self.precision.startswith("16"):
            raise ValueError(f"chunk: expected a precision without loss scaling, got {self.precision!r}")
        if self.strategy not in ("ddp", "fsdp"):
            raise ValueError(f"strategy: expected 'ddp' or 'fsdp', got {self.strategy!r}")
        if self.lr <= 0:
            raise ValueError(f"lr: expected a rate > 0, got {self.lr}")
        if self.minutes is not None and self.minutes <= 0:
            raise ValueError(f"minutes: expected a duration > 0, got {self.minutes}")


@dataclass
class Progress:
    """Where a run stands, given to ``on_step`` after every step."""

    step: int
    total_steps: int
    epoch: int
    epochs: int
    loss: float
    lr: float
    images_per_second: float
    seconds_left: float
    history: list[tuple[int, float]] = field(default_factory=list, repr=False)


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of all that is random in one step."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)


def pretrain(
    method: nn.Module,
    data: Images | Signals,
    options: Pretraining | None = None,
    *,
    out: str | Path,
    encoder_options: dict[str, Any] | None = None,
    method_options: dict[str, Any] | None = None,
    resume: bool = False,
    on_step: Callable[[Progress], None] | None = None,
) -> nn.Module:
    """Pretrains a method on images and leaves a checkpoint in ``out``.

    Every step draws its batch, views and dropout from (seed, step): a run that was stopped and resumed gives the
    same bits as one that was not. Ctrl-C and SIGTERM let the step finish and save, then raise KeyboardInterrupt or
    SystemExit; of several processes it is enough that one gets the signal. The order of the data is the same for any
    number of processes, and a run may be resumed with another one.

    Args:
        method: a :class:`fastssl.methods.Method`, or any module with ``views(images, seed, epoch, ids)`` and
            ``forward(views) -> loss``.
        data: the images; labels are not used.
        options: see :class:`Pretraining`.
        out: folder of the checkpoint, the logs (TensorBoard) and ``history.json``.
        encoder_options: what ``build_encoder`` needs to make the encoder again; None: it is a module of your own.
        method_options: the other arguments of the method, for ``load_method``: JSON values.
        resume: continue from the checkpoint in ``out`` where there is one.
        on_step: called after every step.

    Returns:
        The trained method.

    Raises:
        ValueError: wrong options, fewer images than one batch needs, or images that method and encoder do not take.
        OSError: a checkpoint cannot be written; the last one is kept.
        RuntimeError: another process has died or does not answer; the loss is not finite: weights and optimiser as they
            were before that step are in ``diverged``, and ``resume`` from a copy of it meets the same step again; or
            all images get the same features. The last checkpoint is kept.

    Example:
        >>> import tempfile
        >>> from fastssl.data import digits
        >>> from fastssl.methods import SimCLR
        >>> from fastssl.models import build_encoder
        >>> from fastssl.train import Pretraining, pretrain
        >>> encoder = {"name": "resnet", "size": 16, "width": 8}
        >>> model = SimCLR(build_encoder(encoder))
        >>> options = Pretraining(epochs=1, batch_size=256)
        >>> model = pretrain(model, digits(), options, out=tempfile.mkdtemp(), encoder_options=encoder)
    """
    from lightning_fabric import Fabric
    from torch.utils.tensorboard import SummaryWriter

    options = options or Pretraining()
    options.check()
    if len(data) < 2 * options.devices:
        raise ValueError(f"data: expected at least {2 * options.devices} images, got {len(data)}")
    batch = min(options.batch_size, len(data))
    out, name = Path(out), name_of(method)
    _rehearse(method, data)
    fabric = Fabric(
        accelerator=options.accelerator,
        devices=options.devices,
        precision=options.precision,  # type: ignore[arg-type]
        strategy=_strategy(method, options) if options.devices > 1 else "auto",
    )
    if options.devices > 1:
        fabric.launch()
    step, history, spent, epochs = 0, [], 0.0, options.epochs if options.minutes is None else None
    resumed = load_checkpoint(out) if resume and _has_checkpoint(out) else None
    if resumed is not None:
        state = resumed[1]
        _check_same_run(state["options"], asdict(options))
        restore(method, resumed[0])
        step, history, spent, epochs = state["step"], state["history"], state["seconds"], state["epochs"]
    if options.chunk is not None and type(method).represent is Method.represent:  # type: ignore[attr-defined]
        raise ValueError(f"chunk: {name} compares more than rows: it needs whole batches")
    model = fabric.setup_module(method)  # may give the method other parameters: parts of them
    optimizer = build_optimizer(method, options.optimizer, options.lr, options.weight_decay)
    if resumed is not None:
        restore_optimizer(optimizer, *resumed)
    sharded_method = is_sharded(method.parameters())
    optimizer = fabric.setup_optimizers(optimizer)  # type: ignore[assignment]
    if options.chunk is not None:
        model.mark_forward_method("represent")
    model.train()
    steps_per_epoch = len(data) // batch
    labelled, after_step = getattr(method, "uses_labels", False), getattr(method, "after_step", None)
    studies = getattr(method, "studies", False)
    several = fabric.world_size > 1
    writer = SummaryWriter(out / "logs", purge_step=step or None) if fabric.is_global_zero else None
    started, saved, paused_at = time.perf_counter() - spent, time.perf_counter(), step

    def save(folder: str = "checkpoint") -> None:
        if fabric.is_global_zero or sharded_method:  # the parts of all processes come together
            state = {
                "format": 1,
                "method": name,
                "encoder": encoder_options,
                "method_options": method_options or {},
                "data": data.name,
                "options": asdict(options),
                "epochs": epochs,
                "step": step,
                "history": history,
                "seconds": time.perf_counter() - started,
            }
            save_checkpoint(out / folder, method, optimizer, state, write=fabric.is_global_zero)

    encoder = getattr(method, "encoder", None)
    order: np.ndarray | None = None
    collapsed = 0
    measured: list[float] = []
    between_steps = True
    interrupt = _DeferredInterrupt()
    try:
        while epochs is None or step < epochs * steps_per_epoch:
            began = time.perf_counter()
            between_steps = False
            epoch, position = divmod(step, steps_per_epoch)
            if studies and position == 0:
                with unsharded_parameters(method):
                    described = _describe(method, data, batch)
                method.study(described, epoch, options.seed)  # type: ignore[operator]
            if order is None or position == 0:
                order = _order(method, len(data), options.seed, epoch)
            indices = order[position * batch : (position + 1) * batch]
            mine = np.array_split(indices, fabric.world_size)[fabric.global_rank]
            seed = step_seed(options.seed, step, fabric.global_rank)
            torch.manual_seed(seed)
            drawn = method.views(data.batch(mine), options.seed, epoch, mine)  # type: ignore[operator]
            views = [v.to(fabric.device) for v in drawn]
            total = epochs * steps_per_epoch if epochs is not None else 10**9
            factor = cosine_with_warmup(step, total, max(1, round(options.warmup_epochs * steps_per_epoch)))
            for group in optimizer.param_groups:
                group["lr"] = options.lr * factor
            labels = torch.from_numpy(data.labels[mine]).to(fabric.device) if labelled else None
            with _sharing(fabric, out):
                if options.chunk is None:
                    loss = model(views, labels) if labelled else model(views)
                else:
                    loss = _cached(fabric, model, method, views, labels, options.chunk)
                value = float(loss.detach())
            if not np.isfinite(value):
                save("diverged")
                raise RuntimeError(
                    f"the loss is {value} at step {step}, items {mine[:8].tolist()}...; what led to it is in "
                    f"{out / 'diverged'}, the last checkpoint in {out / 'checkpoint'}"
                )
            with _sharing(fabric, out):
                if options.chunk is None:
                    fabric.backward(loss)
                if sharded_method:
                    average_scalars(method)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                if after_step is not None:
                    after_step((step + 1) / total if epochs is not None else 0.0)
                stop = interrupt.requested
                if several:  # all stop after the same step
                    numbers = gather_numbers(resolve("world"), [stop], fabric.device)
                    stop = max(n for (n,) in numbers)
            step += 1
            history.append([step, value])
            between_steps = True
            now = time.perf_counter()
            measured.append(now - began)
            if epochs is None and (len(measured) >= 8 or now - started > 30):
                # The first steps warm caches up; the median of the others says how many epochs fit.
                per_step = float(np.median(measured[1:] or measured))
                left = (options.minutes or 0) * 60 - (now - started)
                epochs = max(1, round((step + left / per_step) / steps_per_epoch))
            rate = batch / float(np.median(measured[-20:]))
            if writer is not None:
                writer.add_scalar("loss", value, step)
                writer.add_scalar("lr", options.lr * factor, step)
                writer.add_scalar("images_per_second", rate, step)
            if on_step is not None and fabric.is_global_zero:
                total = epochs * steps_per_epoch if epochs is not None else step + 1
                left = (total - step) * float(np.median(measured[-20:]))
                on_step(Progress(step, total, epoch, epochs or 0, value, options.lr * factor, rate, left, history))
            if isinstance(encoder, Encoder) and step % CHECK_STEPS == 0:
                with unsharded_parameters(method):
                    spread = _spread(encoder, views[0])
                if writer is not None:
                    writer.add_scalar("feature_spread", spread, step)
                collapsed = collapsed + 1 if spread < COLLAPSED else 0
                if collapsed == 3:
                    raise RuntimeError(
                        f"the features have collapsed: all images get the same ones (spread {spread:.1g} at step "
                        f"{step}, healthy is about 1); the last checkpoint is in {out / 'checkpoint'}"
                    )
            if stop:
                raise KeyboardInterrupt if stop == signal.SIGINT else SystemExit(128 + stop)
            if now - saved > options.checkpoint_minutes * 60:
                save()
                saved = now
        save()
        if several:
            fabric.barrier()  # nobody leaves before the checkpoint is there
    except (KeyboardInterrupt, SystemExit):
        if between_steps:  # else weights and step would not belong together; the last checkpoint stays
            save()
        raise
    finally:
        interrupt.restore()
        if writer is not None:
            writer.close()
        if fabric.is_global_zero and step > paused_at:
            out.mkdir(parents=True, exist_ok=True)
            (out / "history.json.tmp").write_text(json.dumps(history))
            (out / "history.json.tmp").rename(out / "history.json")
    if sharded_method:
        method.unshard()  # type: ignore[operator]
    return method


def _rehearse(method: nn.Module, data: Images | Signals) -> None:
    """Two images through views and loss: what does not fit is said before anything is trained."""
    if getattr(method, "studies", False):
        return  # its views need what it has studied
    training, indices = method.training, np.arange(min(2, len(data)))
    method.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng():
            views = method.views(data.batch(indices), 0, 0, indices)  # type: ignore[operator]
            labels = torch.from_numpy(data.labels[indices])
            on = next((p.device for p in method.parameters()), torch.device("cpu"))
            views = [v.to(on) for v in views]
            method(views, labels.to(on)) if getattr(method, "uses_labels", False) else method(views)
    except RuntimeError as error:
        shapes = [tuple(v.shape) for v in views] if "views" in locals() else "none"
        raise ValueError(
            f"method: {name_of(method)} and its encoder cannot use images {tuple(data.batch(indices).shape[1:])} of "
            f"{data.name}: views {shapes}, {error}"
        ) from error
    finally:
        method.train(training)


class _Rows(nn.Module):
    """``represent`` through what Fabric made of the method: its precision, its processes; with the method's buffers."""

    def __init__(self, method: nn.Module, represent: Callable[..., Any]) -> None:
        super().__init__()
        self.method, self.represent = method, represent

    def forward(self, *views: torch.Tensor) -> Any:
        return self.represent(*views)


def _cached(fabric: Any, model: Any, method: Any, views: list[Any], labels: Any, chunk: int | str) -> torch.Tensor:
    """Loss and gradients chunk by chunk; several processes average their gradients once, at the end."""
    several = fabric.world_size > 1 and not is_sharded(method.parameters())  # FSDP has its own synchronisation
    with fabric.no_backward_sync(model) if several else contextlib.nullcontext(), fabric.autocast():
        loss = cached_step(
            _Rows(method, model.represent), views, lambda *z: method.objective(*z, labels=labels), chunk=chunk
        )
    if several:
        for p in method.parameters():
            if p.grad is not None:
                torch.distributed.all_reduce(p.grad)
                p.grad /= fabric.world_size
    return loss


def _strategy(method: nn.Module, options: Pretraining) -> Any:
    from lightning_fabric.strategies import DDPStrategy

    if options.strategy == "fsdp":
        return fsdp_strategy(options.devices)
    timeout = timedelta(minutes=options.timeout_minutes)
    return DDPStrategy(find_unused_parameters=getattr(method, "trains_parts", False), timeout=timeout)


@contextlib.contextmanager
def _sharing(fabric: Any, out: Path) -> Iterator[None]:
    """Losses see the rows of all processes; what comes of a process that is gone says so."""
    if fabric.world_size == 1:
        yield
        return
    try:
        with sharded("world", averaged=True):
            yield
    except RuntimeError as error:
        text = str(error)
        if not any(sign in text for sign in ("has died or did not answer", "onnection", "imed out", "imeout", "NCCL")):
            raise
        raise RuntimeError(
            f"rank {fabric.global_rank} of {fabric.world_size}: another process has died or does not answer; the last "
            f"checkpoint is in {out / 'checkpoint'}: start again with resume. {text.splitlines()[0]}"
        ) from error


@torch.no_grad()
def _describe(method: nn.Module, data: Images | Signals, batch: int) -> torch.Tensor:
    """What the method says of every item, first drawing, without augmentation and in evaluation mode."""
    training, device = method.training, next(method.parameters()).device
    method.eval()
    parts = []
    for start in range(0, len(data), batch):
        images = data.batch(np.arange(start, min(start + batch, len(data))))[:, 0]
        parts.append(method.describe(to_float(images, method.encoder.size).to(device)).float())  # type: ignore[operator,arg-type]
    method.train(training)
    return torch.cat(parts)


def _order(method: nn.Module, count: int, seed: int, epoch: int) -> np.ndarray:
    """The items of an epoch: each once, or drawn by the weights that the method gives them."""
    weights = method.weights() if isinstance(method, Method) else None
    if weights is None:
        return epoch_order(count, seed, epoch)
    shares = weights.double().cpu().numpy()
    return np.random.default_rng([seed, epoch, 3]).choice(count, count, p=shares / shares.sum())


@torch.no_grad()
def _spread(encoder: Encoder, view: torch.Tensor) -> float:
    """Spread of the features of a few images, as evaluation would see them."""
    training = encoder.training
    encoder.eval()
    images = view if view.dim() == 4 else view[:, 0]
    spread = feature_spread(encoder(images[:128]))
    encoder.train(training)
    return spread


class _DeferredInterrupt:
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
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def _has_checkpoint(out: Path) -> bool:
    try:
        find_checkpoint(out)
    except ValueError:
        return False
    return True


def _check_same_run(old: dict[str, Any], new: dict[str, Any]) -> None:
    for key in sorted(set(new) - {"accelerator", "checkpoint_minutes", "devices", "strategy", "timeout_minutes"}):
        before = old.get(key, getattr(Pretraining, key))  # an option that is newer than the checkpoint
        if before != new[key]:
            raise ValueError(
                f"{key}: the checkpoint was made with {before!r}, got {new[key]!r}; resume with the same options"
            )
