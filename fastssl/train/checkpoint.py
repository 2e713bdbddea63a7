"""Checkpoints: a folder with tensors (safetensors) and everything else (JSON), replaced as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastssl.augment import Views
from fastssl.augment.saved import from_json
from fastssl.data import load_tokenizer
from fastssl.data.source import digest
from fastssl.distributed.parameters import full_tensor, shard_like
from fastssl.methods import METHODS, AudioMethod, ImageMethod, Method, TextMethod, kind_of
from fastssl.models import Encoder, build_audio, build_encoder, build_language
from fastssl.models.folder import (
    find_checkpoint,
    holds_run,
    load_checkpoint,
    original_name,
    retired,
    write_checkpoint,
)


def load_weights(module: nn.Module, tensors: dict[str, Tensor], prefix: str) -> None:
    """Loads the tensors of :func:`load_checkpoint` whose names begin with ``prefix``, into modules compiled or not.

    Raises:
        RuntimeError: weights of another network.
    """
    names = {original_name(name): name for name in module.state_dict(keep_vars=True)}
    given = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    module.load_state_dict({names.get(name, name): v for name, v in given.items()})


def _flatten(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, str], dict[str, Any]]:
    """Tensors by name; the names of tied parameters -> the name that the parameter is stored under; other values."""
    named = {f"model.{original_name(k)}": v for k, v in model.state_dict(keep_vars=True).items()}
    first: dict[int, str] = {}
    tied = {name: first[id(v)] for name, v in named.items() if first.setdefault(id(v), name) != name}
    tensors = {k: full_tensor(v.detach()).cpu().contiguous() for k, v in named.items() if k not in tied}
    scalars: dict[str, Any] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = full_tensor(value.detach()).cpu().contiguous()
            else:
                scalars[f"{index}.{key}"] = value
    return {k: v.clone() for k, v in tensors.items()}, tied, scalars


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    *,
    assets: dict[str, str] | None = None,
    write: bool = True,
) -> None:
    """Writes a checkpoint folder atomically.

    Args:
        path: the folder.
        model: its parameters and buffers are stored.
        optimizer: its state is stored.
        state: JSON values that describe the model and the progress of training.
        assets: further files: name -> content.
        write: False: only take part in gathering sharded parameters.

    Raises:
        OSError: the folder cannot be written (a full disk); the previous checkpoint is unchanged.
    """
    tensors, tied, scalars = _flatten(model, optimizer)
    if not write:
        return
    sums = {name: digest(content) for name, content in (assets or {}).items()}
    write_checkpoint(path, tensors, {**state, "tied": tied, "assets": sums, "optimizer_scalars": scalars}, assets)


def where_checkpoint(out: Path) -> str:
    """Where the last checkpoint of a run is, for an error."""
    if holds_run(out):
        return f"the last checkpoint is in {out / 'checkpoint'}"
    older = f" (that of the run before is in {retired(out)})" if retired(out).exists() else ""
    return f"the run has written no checkpoint yet{older}"


def restore(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Loads the model's tensors of a checkpoint."""
    load_weights(model, tensors, "model.")


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Loads the optimiser state of a checkpoint, for replicated or sharded parameters."""
    current = optimizer.state_dict()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    restored: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            restored.setdefault(int(index), {})[name] = shard_like(value, parameters[int(index)])
    for key, scalar in state["optimizer_scalars"].items():
        index, name = key.split(".", 1)
        restored.setdefault(int(index), {})[name] = scalar
    optimizer.load_state_dict({"state": restored, "param_groups": current["param_groups"]})


def load_encoder(path: str | Path, encoder: Encoder | None = None) -> tuple[Encoder, dict[str, Any]]:
    """Returns the pretrained encoder of a checkpoint, without the projection head, and the checkpoint's state.

    Args:
        path: folder of the checkpoint or of the run.
        encoder: an ``Encoder(module, size)`` to load the weights into, if the run trained a custom module.

    Raises:
        ValueError: no checkpoint, a custom module without ``encoder``, or weights of another architecture.

    Example:
        >>> import tempfile
        >>> from fastssl.data import digits
        >>> from fastssl.train import Pretraining, pretrain
        >>> options = {"name": "resnet", "size": 16, "width": 4}
        >>> from fastssl.train import load_encoder
        >>> out = tempfile.mkdtemp()
        >>> how = Pretraining(epochs=1, batch_size=32)
        >>> _ = pretrain('simclr', digits().subset(range(64)), how, out=out, encoder=options)
        >>> encoder, state = load_encoder(out)
        >>> encoder.size
        16
    """
    tensors, state = load_checkpoint(path)
    if "encoder" not in state:
        raise ValueError(
            f"checkpoint: {state.get('method', 'this run')} has no encoder of images; word vectors are read by "
            "fastssl.methods.load_word_vectors(path), and written as text by fastssl export"
        )
    own = state["method"] not in METHODS
    if not own and state["encoder"] is not None and not any(key.startswith("model.encoder.") for key in tensors):
        raise ValueError(f"checkpoint: {state['method']} has no encoder of images; load it with load_method")
    if encoder is None and not issubclass(kind_of(state), ImageMethod):
        raise ValueError(
            f"checkpoint: expected one of a method of images, {state['method']} derives from "
            f"{kind_of(state).__name__}; build it and load its tensors (load_checkpoint)"
        )
    if encoder is None and state["encoder"] is None:
        raise ValueError(
            "checkpoint: its encoder is a custom module; build it and call load_encoder(path, Encoder(module, size))"
        )
    encoder = build_encoder(state["encoder"]) if encoder is None else encoder
    prefix = "model.encoder."
    try:
        load_weights(encoder, tensors, prefix)
    except RuntimeError as error:
        raise ValueError(f"encoder: the checkpoint has weights of another network: {error}") from error
    return encoder.eval(), state


def load_method(path: str | Path, augment: Views | None = None, length: int | None = None) -> Method:
    """Returns the method of a checkpoint with all its networks (heads, text tower), in evaluation mode.

    Args:
        path: folder of the checkpoint or of the run; or "huggingface:PATH", a model of texts of transformers as of
            :func:`load_language`, whose method is the one with its objective ("bert" without an order of sentences).
        augment: the augmentation; None: the recorded one (earlier versions did not record it: the method's default).
        length: tokens at most that texts have, of "huggingface:PATH"; None: as of :func:`load_language`.

    Raises:
        ValueError: no checkpoint, a checkpoint of a custom method or encoder, a model of transformers that was saved
            without its head or whose tokenizer has no end of texts or no mask, or weights that do not match the
            recorded options.

    Example:
        >>> import tempfile
        >>> from fastssl.data import digits
        >>> from fastssl.train import Pretraining, pretrain
        >>> options = {"name": "resnet", "size": 16, "width": 4}
        >>> from fastssl.train import load_method
        >>> out = tempfile.mkdtemp()
        >>> how = Pretraining(epochs=1, batch_size=32)
        >>> _ = pretrain('simclr', digits().subset(range(64)), how, out=out, encoder=options)
        >>> type(load_method(out)).__name__
        'SimCLR'
    """
    if str(path).startswith("huggingface:"):
        from fastssl.train.language import method_of_model

        return method_of_model(str(path), length)
    if length is not None:
        raise ValueError(f"length: expected None, {path} has that of its run, got {length}")
    tensors, state = load_checkpoint(path)
    if "encoder" not in state:
        raise ValueError(
            f"checkpoint: {state['method']} gives word vectors, no network: fastssl.methods.load_word_vectors(path)"
        )
    if state["encoder"] is None:
        raise ValueError("checkpoint: its encoder is a custom module; build the method and load its tensors")
    if state["method"] not in METHODS:
        raise ValueError(
            f"checkpoint: {state['method']} is a method of your own; build it and load its tensors (load_checkpoint), "
            "or load its encoder with load_encoder"
        )
    kind: Any = METHODS[state["method"]]
    options = {**state.get("method_attributes", {}), **state.get("method_options", {})}
    if issubclass(kind, TextMethod):
        folder = find_checkpoint(path)
        for name, expected in state["assets"].items():
            if not (folder / name).is_file() or digest((folder / name).read_text(encoding="utf-8")) != expected:
                raise ValueError(f"checkpoint: {folder / name} is not the one that the run was trained with")
        method: Method = kind(build_language(state["encoder"]), load_tokenizer(folder), **options)
    elif issubclass(kind, AudioMethod):
        method = kind(build_audio(state["encoder"]), **options)
    else:
        method = kind(build_encoder(state["encoder"]), augment, **options)
        if augment is None and state.get("views"):
            method.augment = from_json(state["views"])
    try:
        load_weights(method, tensors, "model.")
    except RuntimeError as error:
        raise ValueError(
            f"checkpoint: the weights of {state['method']} do not match its recorded options: {error}"
        ) from error
    return method.eval()
