"""What a resumed run takes from its checkpoint, and what must be as it was."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastssl._options import differs
from fastssl.data import Source, Windows
from fastssl.models.encoders import channels_of
from fastssl.train.options import Pretraining, detect_launcher
from fastssl.train.recipe import Recipe

# Options that may differ when a run is resumed: where it computes, and for how long.
CHANGEABLE_ON_RESUME = {
    "accelerator", "checkpoint_minutes", "compile", "deterministic", "devices", "epochs", "nodes", "on_error",
    "probe_every", "strategy", "timeout_minutes", "views_on", "workers",
}  # fmt: skip
log = logging.getLogger("fastssl")


def recipe_of(state: Mapping[str, Any], out: Path, method: str) -> Recipe:
    """The settings of a run that is resumed, in place of those of a recipe.

    Args:
        state: state of its checkpoint.
        out: folder of the run.
        method: name of the method.

    Returns:
        A recipe whose ``network`` has the options of the encoder or network; {}: a custom module. The number of
        processes is left to a launcher, where one has started this process.

    Raises:
        ValueError: a checkpoint of another method.
    """
    if state["method"] != method:
        raise differs("method", state["method"], method)
    options = {key: value for key, value in state["options"].items() if value is not None}  # else it is the default
    network = state["encoder"] or {}
    if detect_launcher() is not None:
        options = {key: value for key, value in options.items() if key not in ("devices", "nodes")}
    return Recipe(f"of {out}", options, state.get("method_options", {}), network.get("size", 32), network=network)


def encoder_of(network: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the encoder of images of a run (the ``network`` of :func:`recipe_of`).

    Raises:
        ValueError: options given that are others, or an encoder that is a module of the user's own.
    """
    if not network:
        raise ValueError("encoder: the checkpoint was made with a module; resume it in Python, with the same encoder=")
    check_given({**network, "channels": channels_of(network)}, given)
    return network


def check_given(stored: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Checks options of a network, before one is built of those stored and those given (None: not given).

    Raises:
        ValueError: one that is not that of the checkpoint.
    """
    for key, value in given.items():
        if value is not None and value != stored.get(key):
            raise differs(key, stored.get(key), value)


def check_network(state: Mapping[str, Any], network: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Checks options of a network of texts or waveforms, the ``network`` of :func:`recipe_of`, against those given; the
    vocabulary is that which was asked for, of which texts may have fewer tokens (earlier versions did not record it).

    Raises:
        ValueError: one that is not that of the checkpoint.
    """
    check_given({**network, "vocabulary": state.get("vocabulary", given.get("vocabulary"))}, given)


def check_same_windows(state: dict[str, Any], source: Source) -> None:
    """Checks that a run on a stream of tokens was not started on the windows of an earlier version.

    Raises:
        ValueError: it was.
    """
    if not isinstance(source, Windows) or source.fingerprint == source.earlier_fingerprint:
        return
    if (state.get("source") or {}).get("fingerprint") == source.earlier_fingerprint:
        raise ValueError(
            "resume: the checkpoint was made by an earlier version, whose windows of tokens began one token later; "
            "start a new run from its weights (fastssl pretrain --init RUN)"
        )


def check_same_run(state: dict[str, Any], about: dict[str, Any], options: Pretraining) -> None:
    """Checks that data, method, network and options are those of the checkpoint."""
    before, now = state.get("source"), about["source"]
    if before is not None and before["fingerprint"] != now["fingerprint"]:
        if before.get("span") != now.get("span"):
            raise differs("data, held_out", *(f"tokens {one.get('span')} of {one['where']}" for one in (before, now)))
        raise ValueError(
            f"data: the checkpoint was made with {state['data']} of {before['items']} items, got {about['data']} of "
            f"{now['items']}: items, names or labels differ; resume with the same data"
        )
    if None not in (sizes := [(one or {}).get("sizes") for one in (before, now)]) and sizes[0] != sizes[1]:
        log.warning("data: files of %s have other sizes than before; the run goes on with them", about["data"])
    for key in ("method", "encoder", "method_options"):
        if key == "encoder" and "method_attributes" in about and state.get(key) is None:
            continue  # of an object, before options that its encoder was built with were recorded
        if state.get(key) != about[key]:
            raise differs(key, state.get(key), about[key])
    found = [one["method_attributes"] for one in (state, about) if "method_attributes" in one]  # of objects alone
    if len(found) == 2 and found[0] != found[1]:
        raise differs("method_options", *found)
    same = state.get("views") is not None and state["views"] == json.loads(json.dumps(about["views"]))
    if state.get("augment") and not same and state["augment"] != about["augment"]:
        raise ValueError(
            "augment: the checkpoint was made with other views, "
            f"{_first_difference(state['augment'], about['augment'])}; resume with the same"
        )
    old, new = state["options"], {**json.loads(json.dumps(asdict(options))), "precision": options.resolved_precision}
    for key in sorted(set(new) - CHANGEABLE_ON_RESUME):
        earlier = old.get(
            key, json.loads(json.dumps(getattr(Pretraining, key)))
        )  # the default of an option newer than the checkpoint
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


def _first_difference(before: str, now: str | None) -> str:
    """The first lines in which two descriptions differ."""
    lines = itertools.zip_longest(before.splitlines(), (now or "").splitlines(), fillvalue="nothing")
    old, new = next((a.strip(), b.strip()) for a, b in lines if a != b)
    return f"{old}, got {new}"
