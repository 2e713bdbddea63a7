"""What a checkpoint records of a method that was given as an object, checked before training."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

import torch

from fastssl.methods import METHODS, Method, name_of
from fastssl.models import Encoder, build_encoder

_PLAIN = (bool, int, float, str)


def recorded_options(
    method: Method, encoder_options: Mapping[str, Any] | None, method_options: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The arguments that rebuild a method: those given, and attributes of the same names that differ from the defaults.

    Raises:
        ValueError: values that JSON cannot hold, options of another encoder or method than this one.
    """
    given = dict(method_options or {})
    for name, options in (("encoder_options", encoder_options or {}), ("method_options", given)):
        for key, value in options.items():
            try:
                json.dumps(value)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name}: expected values that JSON can hold, got {key}={value!r}") from error
    encoder = getattr(method, "encoder", None)
    if encoder_options is not None and isinstance(encoder, Encoder):
        _check_encoder(encoder, encoder_options)
    if type(method) is not METHODS.get(name_of(method)):
        return given  # a method of the user's own, which is not rebuilt
    parameters = inspect.signature(type(method)).parameters
    for key in given:
        if key not in parameters:
            raise ValueError(f"method_options: {name_of(method)} has no argument {key}; it has {', '.join(parameters)}")
    for key, parameter in parameters.items():
        value = getattr(method, key, None)
        if type(value) not in _PLAIN or parameter.default is inspect.Parameter.empty:
            continue
        if type(value) is float and given.get(key, value) != value:  # other attributes need not be what was given
            raise ValueError(f"method_options: {name_of(method)} has {key}={value!r}, got {given[key]!r}")
        if value != parameter.default:
            given.setdefault(key, value)
    return given


def _check_encoder(encoder: Encoder, options: Mapping[str, Any]) -> None:
    with torch.random.fork_rng():
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
