"""``pretrain``: from a method and data to a checkpoint, in one call."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fastssl.data import open as open_source
from fastssl.methods import ImageMethod, Method, get, name_of
from fastssl.models import as_encoder
from fastssl.train.checkpoint import find_checkpoint, load_checkpoint
from fastssl.train.gradients import check_cut
from fastssl.train.options import Pretraining, check_out, launched
from fastssl.train.probe import OnlineProbe
from fastssl.train.recipe import recipe
from fastssl.train.trainer import Trainer, batch_size_of, rehearse
from fastssl.train.watchers import Checkpoints, CollapseGuard, Logs, Pace, Progress, Report, Skipped, Watcher

# Options that may be others when a run is resumed: where it computes, and how long.
FREE = {
    "accelerator", "checkpoint_minutes", "compile", "devices", "epochs", "nodes", "on_error", "probe_every", "strategy",
    "timeout_minutes", "workers",
}  # fmt: skip
log = logging.getLogger("fastssl")


def pretrain(
    method: Method | str,
    data: Any,
    options: Pretraining | None = None,
    *,
    out: str | Path,
    encoder: Any = None,
    size: int | None = None,
    channels: int = 3,
    encoder_options: dict[str, Any] | None = None,
    method_options: dict[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_step: Callable[[Progress], None] | None = None,
) -> Method:
    """Pretrains a method and leaves a checkpoint in ``out``.

    Every step draws its batch, examples and dropout from (seed, step): a run that was stopped and resumed gives the
    same bits as one that was not, with any number of threads. Ctrl-C and SIGTERM let the step finish and save, then
    raise KeyboardInterrupt or SystemExit; of several processes it is enough that one gets the signal. The order of the
    data is the same for any number of processes, and a run may be resumed with another one.

    Args:
        method: of :mod:`fastssl.methods`, or one of your own: a :class:`fastssl.methods.Method`; or a name ("simclr"),
            which takes the settings of its recipe (:func:`recipe`) and trains ``encoder``.
        data: what :func:`fastssl.data.open` takes: a name, a path, arrays, a data set, a source. Labels are read by
            the methods that need them alone.
        options: see :class:`Pretraining`; None: for a name those of its recipe.
        out: folder of the checkpoint, the logs (TensorBoard) and ``history.json``.
        encoder: where ``method`` is a name: a name or options of ``build_encoder``, an ``Encoder``, or any module from
            images to a feature map or vectors; None: the small one that the method needs.
        size: of the encoder's images, pixels.
        channels: of the encoder's images.
        encoder_options: what ``build_encoder`` needs to make the encoder again; None: it is a module of your own.
        method_options: the other arguments of the method, for ``load_method``: JSON values.
        resume: continue from the checkpoint in ``out`` where there is one. Data, method, network and options must be
            those of before; ``epochs`` may be more: the learning rate then goes on along the longer schedule.
        overwrite: replace the run that ``out`` holds.
        on_step: called after every step.

    Returns:
        The trained method, on the device where it was before (with "fsdp": where it was trained).

    Raises:
        TypeError: no method, or an encoder for a method that has one.
        ValueError: wrong options, another run's checkpoint, a folder that holds a run already, fewer items than one
            batch needs, or items that method and encoder do not take. All before anything is trained.
        OSError: a checkpoint cannot be written; the last one is kept.
        RuntimeError: another process has died or does not answer; the loss is not finite: weights and optimiser as they
            were before that step are in ``diverged``, and ``resume`` from a copy of it meets the same step again; or
            all images get the same features. The last checkpoint is kept.

    Example:
        >>> import tempfile
        >>> from fastssl.methods import SimCLR
        >>> from fastssl.models import build_encoder
        >>> from fastssl.train import Pretraining, pretrain
        >>> encoder = {"name": "resnet", "size": 16, "width": 8}
        >>> model = SimCLR(build_encoder(encoder))
        >>> options = Pretraining(epochs=1, batch_size=256)
        >>> model = pretrain(model, "digits", options, out=tempfile.mkdtemp(), encoder_options=encoder)

        A module of your own, by the name of a method:

        >>> import torch
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU())
        >>> model = pretrain("simclr", "digits", options, out=tempfile.mkdtemp(), encoder=network, size=16)
        >>> model.encoder.network is network
        True
    """
    source = open_source(data)
    if isinstance(method, str):
        rows = options.batch_size if options else None
        settings = recipe(method, len(source), batch_size=rows, embedded=source.embedded)
        options = options or Pretraining(**settings.options)
        options.check()
        method_options = {**settings.method, **(method_options or {})}
        if encoder is None or isinstance(encoder, str):
            encoder = {"name": encoder or get(method).encoder_name, "size": settings.size if size is None else size}
            encoder |= {} if channels == 3 else {"channels": channels}
        method, encoder_options = _by_name(method, encoder, size, channels, method_options, options.seed)
    elif encoder is not None:
        raise TypeError("encoder: the method has its own; give one where the method is a name")
    options = options or Pretraining()
    options.check()
    if options.nodes > 1 and launched() is None and not {"MASTER_ADDR", "NODE_RANK"} <= os.environ.keys():
        raise ValueError("nodes: start the processes by torchrun or srun, or name MASTER_ADDR and NODE_RANK")
    if not isinstance(method, Method):
        raise TypeError(f"method: expected a fastssl.methods.Method or a name, got {type(method).__name__}")
    out, name = Path(out), name_of(method)
    check_out(out, resume=resume, overwrite=overwrite)
    processes = options.processes[0] * options.processes[1]
    if len(source) < 2 * processes:
        raise ValueError(f"data: expected at least {2 * processes} items, {source.name} has {len(source)}")
    rows = batch_size_of(options, len(source), processes)
    if rows < method.least_rows * processes:
        raise ValueError(
            f"batch_size: {name} compares the items of a batch, and needs at least {method.least_rows} of them in each "
            f"process ({processes} of them), got {rows}"
        )
    check_cut(method, options, rows // processes)
    about = {
        "method": name,
        "encoder": encoder_options,
        "method_options": method_options or {},
        "data": source.name,
        "source": {
            "fingerprint": source.fingerprint,
            "items": len(source),
            "where": source.where,
            "embedded": source.embedded,
        },
    }
    checkpoint = load_checkpoint(out) if resume and has_checkpoint(out) else None
    if checkpoint is not None:
        _check_same_run(checkpoint[1], about, options)
    rehearse(method, source, options.seed)
    pace = Pace()
    watchers: list[Watcher] = [pace, Skipped(), CollapseGuard()]
    if options.probe_every is not None:
        if not isinstance(method, ImageMethod):
            raise ValueError(f"probe_every: expected a method of images, got {name}")
        watchers.append(OnlineProbe(source, options.probe_every, options.seed))
    watchers.append(Logs(out, pace))
    if on_step is not None:
        watchers.append(Report(on_step, pace))
    watchers.append(Checkpoints())
    home = next((p.device for p in method.parameters()), None)
    trainer = Trainer(method, source, options, out=out, about=about, checkpoint=checkpoint, watchers=watchers)
    trainer.run()
    return method if trainer.sharded else method.to(home)


def _by_name(
    name: str, encoder: Any, size: int | None, channels: int, options: dict[str, Any], seed: int
) -> tuple[Method, dict[str, Any] | None]:
    """A method with fresh weights drawn from ``seed``, and what builds its encoder again (None: a module does not)."""
    kind: Any = get(name)
    torch.manual_seed(seed)
    method: Method = kind(as_encoder(encoder, size, channels), **options)
    return method, encoder if isinstance(encoder, dict) else None


def has_checkpoint(out: Path) -> bool:
    """Whether there is one in a folder."""
    try:
        find_checkpoint(out)
    except ValueError:
        return False
    return True


def _check_same_run(state: dict[str, Any], about: dict[str, Any], options: Pretraining) -> None:
    """Data, method, network and options: all of them are a run's."""

    def differs(what: str, before: Any, now: Any) -> ValueError:
        return ValueError(f"{what}: the checkpoint was made with {before!r}, got {now!r}; resume with the same")

    for key in ("method", "encoder", "method_options"):
        if state.get(key) != about[key]:
            raise differs(key, state.get(key), about[key])
    before, now = state.get("source"), about["source"]
    if before is not None and before["fingerprint"] != now["fingerprint"]:
        raise ValueError(
            f"data: the checkpoint was made with {state['data']} of {before['items']} items, got {about['data']} of "
            f"{now['items']}: other items, names or labels; resume with the same data"
        )
    old, new = state["options"], {**asdict(options), "precision": options.numbers}
    for key in sorted(set(new) - FREE):
        earlier = old.get(key, getattr(Pretraining, key))  # an option that is newer than the checkpoint
        if earlier != new[key]:
            raise differs(key, earlier, new[key])
    if options.minutes is None and old["epochs"] != options.epochs:
        if options.epochs < old["epochs"]:
            raise differs("epochs", old["epochs"], options.epochs)
        log.warning(
            "epochs: %d instead of %d; from step %d on the learning rate follows the schedule of the longer run",
            options.epochs,
            old["epochs"],
            state["step"],
        )


__all__ = ["has_checkpoint", "pretrain"]
