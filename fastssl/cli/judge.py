"""What ``fastssl evaluate`` does: a checkpoint, a protocol and data sets to a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastssl.cli.show import console


def judge(checkpoint: Path, data: str | None, protocol: str, readout: str) -> dict[str, Any]:
    """The table of a protocol.

    Raises:
        ValueError: unknown protocol or data, or a method that cannot be judged so.
    """
    from fastssl.data import open as open_source
    from fastssl.data import open_splits
    from fastssl.evaluate import PROTOCOLS, evaluate, evaluate_with, zero_shot
    from fastssl.evaluate.features import labels_of
    from fastssl.train import load_encoder, load_method

    encoder, state = load_encoder(checkpoint)
    trained_on = state["data"].split("-")[0]
    if protocol == "zero-shot":
        method = load_method(checkpoint)
        if not hasattr(method, "encode_texts"):
            raise ValueError(f"protocol: zero-shot needs a method with a text tower, this one is {state['method']}")
        images = open_source("emoji-all" if (data or trained_on) == "emoji" else data or trained_on)
        classes = list(images.classes)
        score = zero_shot(method, images, labels_of(images), classes)
        return {"zero-shot": {"pretrained": score, "chance": 100 / len(classes)}}
    if protocol != "frozen":
        if protocol not in PROTOCOLS:
            known = ", ".join(["frozen", *PROTOCOLS, "zero-shot"])
            raise ValueError(f"protocol: expected one of {known}, got {protocol!r}")
        tasks = [open_splits(name) for name in (data or trained_on).split(",")]
        return evaluate_with(protocol, encoder, state["encoder"], tasks, readout, console.print)
    name = data or trained_on
    if name == "emoji" and state["data"] == "emoji":
        console.print("[yellow]trained on all emoji: the held-out ones of the retrieval were seen[/yellow]")
    return evaluate(encoder, state["encoder"], open_source(name), readout)
