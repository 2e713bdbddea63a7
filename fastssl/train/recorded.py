"""What a checkpoint records of a method that was given as an object, checked before training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from fastssl.methods import METHODS, Method, name_of
from fastssl.models import Encoder, build_encoder

_PLAIN = (bool, int, float, str)


def check_recorded(
    method: Method, encoder_options: Mapping[str, Any] | None, method_options: Mapping[str, Any] | None
) -> None:
    """Checks the options that are to rebuild a method.

    Raises:
        ValueError: values that JSON cannot hold, options of another encoder or method than this one.
    """
    for name, options in (("encoder_options", encoder_options or {}), ("method_options", method_options or {})):
        for key, value in options.items():
            try:
                json.dumps(value)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name}: expected values that JSON can hold, got {key}={value!r}") from error
    encoder = getattr(method, "encoder", None)
    if encoder_options is not None and isinstance(encoder, Encoder):
        _check_encoder(encoder, encoder_options)
    known = _arguments(method)
    for key, value in (method_options or {}).items():
        if known and key not in known:
            raise ValueError(f"method_options: {name_of(method)} has no argument {key}; it has {', '.join(known)}")
        own = getattr(method, key, value)
        if key in known and type(own) is float and own != value:  # other attributes need not be what was given
            raise ValueError(f"method_options: {name_of(method)} has {key}={own!r}, got {value!r}")


def options_of(method: Method) -> dict[str, Any] | None:
    """The options that rebuild the method's encoder or network, if it was built from options and is still of that
    shape; None: a custom module."""
    network = getattr(method, "encoder", getattr(method, "network", None))
    options = getattr(network, "options", None)
    if not isinstance(options, dict):
        return None
    try:
        check_recorded(method, options, None)
    except (ImportError, ValueError):
        return None
    return options


def attributes_of(method: Method) -> dict[str, Any]:
    """Arguments of one of FastSSL's methods that are attributes of the same names, and differ from the defaults."""
    found = {}
    for key, parameter in _arguments(method).items():
        value, default = getattr(method, key, None), parameter.default
        if type(value) in _PLAIN and (default is None or type(default) in _PLAIN) and value != default:
            found[key] = value
    return found


def _arguments(method: Method) -> dict[str, Any]:
    """The arguments of the method's class; none of a class that is not FastSSL's, which is not rebuilt."""
    kind = type(method)
    return dict(kind.arguments()) if kind is METHODS.get(name_of(method)) else {}


def _check_encoder(encoder: Encoder, options: Mapping[str, Any]) -> None:
    if ":" in str(options.get("name")):
        return  # another library's, with weights that would be loaded again
    with torch.random.fork_rng(devices=[]):
        other = build_encoder(dict(options))
    if other.size != encoder.size or other.channels != encoder.channels:
        raise ValueError(
            f"encoder_options: expected those of an encoder of {encoder.channels} channels and {encoder.size} pixels, "
            f"got {other.channels} and {other.size}"
        )
    shapes, expected = ({k: tuple(v.shape) for k, v in e.state_dict().items()} for e in (other, encoder))
    if shapes != expected:
        key = next(k for k in [*expected, *shapes] if shapes.get(k) != expected.get(k))
        own, got = (of.get(key, "absent") for of in (expected, shapes))
        raise ValueError(f"encoder_options: expected those of the method's encoder, whose {key} is {own}, got {got}")
