"""``fastssl evaluate``: a checkpoint, a protocol and data sets to a table of measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastssl.cli.show import echo, item_progress


def data_of(state: dict[str, Any]) -> str:
    """The data set that a run was trained on, as :func:`fastssl.data.open` takes it.

    Raises:
        ValueError: the checkpoint does not record it.
    """
    if "source" not in state:  # an older checkpoint, which names embedded data sets only
        return str(state["data"]).removesuffix("-train")
    where = state["source"]["where"]
    if where is None:
        where = state["source"]["embedded"]
    if where is None:
        raise ValueError(f"data: the checkpoint does not record where {state['data']} is; give --data")
    return str(where)


def model_of(name: str, size: int | None = None) -> tuple[Any, dict[str, Any] | None]:
    """Loads the encoder and state of a checkpoint, or builds an encoder by name ("huggingface:NAME"), without a state.

    Raises:
        ValueError: neither a checkpoint nor a known name, or a name without a size.
    """
    from fastssl.models import LIBRARIES, build_encoder
    from fastssl.train import load_encoder

    if name.partition(":")[0] not in LIBRARIES or Path(name).exists():
        return load_encoder(name)
    if size is None:
        raise ValueError(f"size: expected the size in pixels of the images that {name} takes (--size)")
    return build_encoder({"name": name, "size": size}), None


def run_evaluation(
    checkpoint: Path, data: str | None, protocol: str, readout: str | None, only: bool = False
) -> dict[str, Any]:
    """Runs a protocol and returns its table; ``only``: evaluate the pretrained encoder without baselines ("frozen").

    Raises:
        ValueError: unknown protocol or data, or a method that the protocol does not support.
    """
    from fastssl.evaluate.features import progress_bars

    with progress_bars(item_progress):
        return _evaluate(checkpoint, data, protocol, readout, only)


def _evaluate(checkpoint: Path, data: str | None, protocol: str, readout: str | None, only: bool) -> dict[str, Any]:
    import torch

    from fastssl.data import open as open_source
    from fastssl.data import open_splits
    from fastssl.evaluate import PROTOCOLS, evaluate, evaluate_with, zero_shot
    from fastssl.evaluate.features import labels_of
    from fastssl.evaluate.report import ROWS
    from fastssl.train import load_encoder, load_method

    encoder, state = load_encoder(checkpoint)
    name = data or data_of(state)
    if only and protocol != "frozen":
        raise ValueError(f"only: expected the protocol 'frozen', got {protocol!r}")
    if protocol == "zero-shot":
        method = load_method(checkpoint)
        if not hasattr(method, "encode_texts"):
            raise ValueError(f"protocol: zero-shot needs a method with a text tower, this one is {state['method']}")
        images = open_source("emoji-all" if name == "emoji" else name, part="test")
        classes = list(images.classes)
        return {
            "zero-shot": {
                "pretrained": zero_shot(method, images, labels_of(images), classes),
                "chance": 100 / len(classes),
            }
        }
    if protocol != "frozen":
        if protocol not in PROTOCOLS:
            known = ", ".join(["frozen", *PROTOCOLS, "zero-shot"])
            raise ValueError(f"protocol: expected one of {known}, got {protocol!r}")
        tasks = [open_splits(one) for one in name.split(",")]
        return evaluate_with(protocol, encoder, state["encoder"], tasks, readout or "spatial", echo)
    if name in ("emoji", "emoji-all") and state["data"] == "emoji":
        echo("trained on all emoji: the held-out ones of the retrieval were seen", "yellow")
    if torch.cuda.is_available():
        encoder.to("cuda")
    return evaluate(encoder, state["encoder"], name, readout, ("pretrained",) if only else ROWS, echo)
