"""``pretrain``: trains a method on data and writes a checkpoint, in one call."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fastssl.augment import Views
from fastssl.augment.saved import from_json, to_json
from fastssl.data import Source, Windows, open_splits
from fastssl.data import open as open_source
from fastssl.data.source import sizes_key
from fastssl.methods import AudioMethod, ImageMethod, Method, base_of, get, image_method, name_of
from fastssl.models import as_encoder
from fastssl.models.encoders import channels_of
from fastssl.models.folder import holds_run, load_checkpoint
from fastssl.models.frozen import check_trainable
from fastssl.train.audio import build_audio_method
from fastssl.train.callbacks import (
    Callback,
    CollapseGuard,
    MetricLogger,
    PeriodicCheckpoint,
    Progress,
    ProgressReporter,
    SkippedItems,
    Throughput,
)
from fastssl.train.gradients import check_batch
from fastssl.train.language import (
    asked_vocabulary,
    build_text_method,
    check_text_method,
    open_tokens,
    training_span,
)
from fastssl.train.options import Pretraining, check_out, detect_launcher, is_rank_zero
from fastssl.train.probe import OnlineProbe
from fastssl.train.recipe import continued, recipe
from fastssl.train.recorded import attributes_of, check_recorded, options_of
from fastssl.train.resuming import check_network, check_same_run, check_same_windows, encoder_of, recipe_of
from fastssl.train.trainer import Trainer, batch_size_of, dry_run

log = logging.getLogger("fastssl")


def pretrain(
    method: Method | str,
    data: Any,
    options: Pretraining | None = None,
    *,
    out: str | Path,
    encoder: Any = None,
    size: int | None = None,
    channels: int | None = None,
    augment: Any = None,
    encoder_options: dict[str, Any] | None = None,
    method_options: dict[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_step: Callable[[Progress], None] | None = None,
) -> Method:
    """Pretrains a method and writes a checkpoint to ``out``.

    Batches, examples and dropout of each step are drawn from (seed, step): a resumed run is bitwise identical to an
    uninterrupted one, for any number of threads. On Ctrl-C or SIGTERM, received by any process, the current step is
    finished and saved before KeyboardInterrupt or SystemExit is raised. The order of the data does not depend on the
    number of processes, which may differ on resuming. Runs in several threads of one process share torch's random
    state: weights that they draw, and dropout, are not those of a run alone.

    Args:
        method: a :class:`fastssl.methods.Method`, or a name ("simclr"), which takes the settings of its recipe
            (:func:`recipe`) and trains ``encoder``.
        data: anything that :func:`fastssl.data.open` takes: a name, a path, arrays, a data set, a source. Labels are
            read only by the methods that need them. Language methods take a token file, or, by name, a corpus,
            whose last twentieth is held out. Distributions of images and waveforms, by name,
            take the training split (:func:`fastssl.data.open_splits`) of data given by name or path.
        options: see :class:`Pretraining`; None: those of the recipe if ``method`` is a name, else the defaults; of a
            run that is resumed, those of its checkpoint.
        out: folder for the checkpoint, the logs (TensorBoard) and ``history.json``.
        encoder: with a method's name: a name or options of ``build_encoder``, an ``Encoder``, or any module that maps
            images to a feature map or to vectors; None: the method's default encoder, small. With a language method:
            options of ``build_language``; of waveforms: of ``build_audio``.
        size: image size of the encoder, in pixels; of an encoder that has one, that or None.
        channels: image channels of the encoder; None: those of the method, 3, or 1 for most distributions. Of an
            encoder that has them, those or None.
        augment: with the name of a method of images: whatever :func:`fastssl.augment.as_views` takes, such as a
            transform of torchvision or "FILE.py", in place of the method's own views; its normalisation is the
            method's. None: the method's views, of a run that is resumed those of its checkpoint.
        encoder_options: the options of ``build_encoder`` that rebuild the encoder; None: those that it was built with,
            or a custom module, whose checkpoint the commands cannot open.
        method_options: the other arguments of the method, for ``load_method``: JSON values. Numbers, flags and names
            that are attributes of the method need not be given.
        resume: continue from the checkpoint in ``out`` if it exists. Data, method, network and options must be
            unchanged; without ``options``, and of a method by name, those that are not given are those of the
            checkpoint. With more ``epochs`` the learning rate follows the longer schedule from there on.
        overwrite: replace an existing run in ``out``.
        on_step: called after every step.

    Returns:
        The trained method, on its original device (with "fsdp": on the training device).

    Raises:
        TypeError: ``method`` is no method, or ``encoder`` is given with a method that already has one.
        ValueError: invalid options, ``encoder_options`` or ``method_options`` of another network or method than the one
            given, a checkpoint of another run, an existing run in ``out`` or one that is writing to it, fewer items
            than one batch needs, or items that method and encoder cannot process. Raised before training starts.
        OSError: a checkpoint cannot be written; the last one is unchanged.
        RuntimeError: another process has died or does not answer; the features have collapsed; or the loss is not
            finite, in which case ``diverged`` holds weights and optimiser before that step, and resuming from a copy
            of it repeats the step. The last checkpoint is unchanged.

    Example:
        >>> import tempfile
        >>> from fastssl.methods import SimCLR
        >>> from fastssl.models import build_encoder
        >>> from fastssl.train import Pretraining, pretrain
        >>> encoder = {"name": "resnet", "size": 16, "width": 8}
        >>> model = SimCLR(build_encoder(encoder))
        >>> options = Pretraining(epochs=1, batch_size=256)
        >>> model = pretrain(model, "digits", options, out=tempfile.mkdtemp(), encoder_options=encoder)

        A custom module with a method by name:

        >>> import torch
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU())
        >>> model = pretrain("simclr", "digits", options, out=tempfile.mkdtemp(), encoder=network, size=16)
        >>> model.encoder.network is network
        True
    """
    attributes: dict[str, Any] = {}
    checkpoint = load_checkpoint(out) if resume and holds_run(Path(out)) else None
    state = None if checkpoint is None else checkpoint[1]
    by_split = isinstance(method, str) and get(method).held_out and isinstance(data, (str, Path))
    source = training_split(data) if by_split else open_source(data)
    if isinstance(method, str):
        rows = options.batch_size if options else None
        text = "tokens" in get(method).needs
        if state is None:
            settings = recipe(method, 0 if text else len(source), batch_size=rows, embedded=source.embedded)
            name = encoder.get("name") if isinstance(encoder, dict) else encoder
            settings = continued(settings, text=text, encoder=name, tower=(method_options or {}).get("text"))
        else:
            settings = recipe_of(state, Path(out), method)
        options = options or Pretraining(**settings.options)
        options.check()
        method_options = {**settings.method, **(method_options or {})}
        if text or issubclass(get(method), AudioMethod):
            given = {"name": encoder} if isinstance(encoder, str) else encoder or {}
            chosen = {**settings.network, **given}
            if state is not None:
                check_network(state, settings.network, given)
        if text:
            size_of = chosen.pop("vocabulary")
            if state is None:
                check_text_method(method, chosen, source, None, method_options)
            asked = asked_vocabulary(source, get(method), None, size_of, state)
            tokens = open_tokens(source, Path(out), get(method), vocabulary=size_of, resume=state is not None)
            method, encoder_options = build_text_method(method, chosen, tokens.tokenizer, method_options, options.seed)
            method.asked_vocabulary = asked
            source = method.prepare(tokens, training_span(tokens, None, state))
        elif issubclass(get(method), AudioMethod):
            method, encoder_options = build_audio_method(method, chosen, method_options, options.seed)
        elif (encoder is None or isinstance(encoder, str)) and state is not None:
            encoder = encoder_of(settings.network, {"name": encoder, "size": size, "channels": channels})
        elif encoder is None or isinstance(encoder, str):
            encoder = {
                **settings.network,
                "name": encoder or image_method(method).encoder_name,
                "size": settings.size if size is None else size,
            }
            own = image_method(method).channels if channels is None else channels
            encoder |= {} if own == channels_of(encoder) else {"channels": own}
        if isinstance(method, str):
            method, encoder_options = _by_name(method, encoder, size, channels, method_options, options.seed)
        if augment is not None or (state or {}).get("views"):
            replace_views(method, augment, state)
    elif augment is not None:
        raise TypeError("augment: expected None, the method has its views already; give them with a method's name")
    elif encoder is not None:
        raise TypeError("encoder: expected None, the method has an encoder already; give one with a method's name")
    elif isinstance(method, Method):
        check_recorded(method, encoder_options, method_options)
        encoder_options = options_of(method) if encoder_options is None else encoder_options
        attributes = {"method_attributes": attributes_of(method)}
    if not isinstance(method, Method):
        got = f"the class {method.__name__}" if isinstance(method, type) else type(method).__name__
        raise TypeError(f"method: expected a fastssl.methods.Method (an instance) or a name, got {got}")
    if options is None:
        options = Pretraining(**recipe_of(state, Path(out), name_of(method)).options) if state else Pretraining()
    options.check()
    if options.nodes > 1 and detect_launcher() is None and not {"MASTER_ADDR", "NODE_RANK"} <= os.environ.keys():
        raise ValueError("nodes: start the processes with torchrun or srun, or set MASTER_ADDR and NODE_RANK")
    out, name = Path(out), name_of(method)
    source = method.prepare(source)
    check_out(out, resume=resume, overwrite=overwrite)
    processes = options.processes[0] * options.processes[1]
    if len(source) < 2 * processes:
        raise ValueError(f"data: expected at least {2 * processes} {source.unit}, {source.name} has {len(source)}")
    rows = batch_size_of(options, len(source), processes)
    if rows < options.batch_size:
        log.warning(
            "batch_size: %s has %d items, a batch is %d instead of %d",
            source.name,
            len(source),
            rows,
            options.batch_size,
        )
    check_batch(method, options, rows // processes)
    check_trainable(method)
    about = {
        "method": name,
        "base": base_of(method),
        "encoder": encoder_options,
        "method_options": method_options or {},
        **attributes,
        "started_from": method.started_from,
        "vocabulary": method.asked_vocabulary,
        "augment": repr(method.augment) if isinstance(getattr(method, "augment", None), Views) else None,
        "views": to_json(getattr(method, "augment", None)),
        "data": source.name,
        "source": {
            "fingerprint": source.fingerprint,
            "sizes": sizes_key(source),
            "items": len(source),
            "where": source.where,
            "embedded": source.embedded,
            "orientation": source.orientation,
            "value_range": source.value_range,
            **({"span": [source.start, source.stop]} if isinstance(source, Windows) else {}),
        },
    }
    if checkpoint is not None:
        check_same_windows(checkpoint[1], source)
        check_same_run(checkpoint[1], about, options)
    elif resume and is_rank_zero():
        log.warning("resume: no checkpoint in %s, a new run starts", out)
    dry_run(method, source, options.seed, options.on_error)
    throughput = Throughput()
    callbacks: list[Callback] = [throughput, SkippedItems(), CollapseGuard()]
    if options.probe_every is not None:
        if not isinstance(method, ImageMethod):
            raise ValueError(f"probe_every: expected a method of images, got {name}")
        callbacks.append(OnlineProbe(source, options.probe_every, options.seed, options.on_error))
    callbacks.append(MetricLogger(out, throughput))
    if on_step is not None:
        callbacks.append(ProgressReporter(on_step, throughput))
    callbacks.append(PeriodicCheckpoint())
    original_device = next((p.device for p in method.parameters()), None)
    trainer = Trainer(method, source, options, out=out, about=about, checkpoint=checkpoint, callbacks=callbacks)
    finished = checkpoint is not None and trainer.epochs is not None and trainer.steps >= trainer.total_steps
    if finished and is_rank_zero():
        log.warning("resume: the run in %s has all of its %d steps, nothing is left to do", out, trainer.steps)
    trainer.run()
    return method if trainer.sharded else method.to(original_device)


def replace_views(method: Method, augment: Any, state: dict[str, Any] | None = None) -> None:
    """Takes other views in place of a method's own: those that are given, else those of a checkpoint.

    Raises:
        ValueError: views that the method does not take.
    """
    if not isinstance(method, ImageMethod):
        raise ValueError(f"augment: expected a method of images, got {name_of(method)}")
    if augment is not None:
        method.replace_views(augment)
    elif state and state.get("views"):
        method.augment = from_json(state["views"])


def _by_name(
    name: str, encoder: Any, size: int | None, channels: int | None, options: dict[str, Any], seed: int
) -> tuple[Method, dict[str, Any] | None]:
    """A method with weights initialised from ``seed``, and the options that rebuild its encoder (None: custom)."""
    kind: Any = get(name)
    torch.manual_seed(seed)
    made = as_encoder(encoder, size, channels)
    method: Method = kind(made, **options)
    return method, made.options if isinstance(encoder, dict) else options_of(method)


def training_split(data: str | Path, **options: Any) -> Source:
    """The training split of :func:`fastssl.data.open_splits`; it is opened again by the name of the whole."""
    source = open_splits(data, **options).train
    source.where = open_source(data, **options).where
    return source


__all__ = ["pretrain", "replace_views", "training_split"]
