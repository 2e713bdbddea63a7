"""Modules derived from the functions in :mod:`fastssl.functional`; docs/how-losses-work.md explains how they compute.

A module is a class statement that names its function and declares its options::

    class CircleLoss(LabelledLoss, function=F.circle, m="margin"):
        def __init__(self, m: Real = 0.4, gamma: Real = 80.0, reduction: str = "mean") -> None: ...

Only the signature is written: :class:`Loss` derives the body, the docstring, ``forward``, ``repr`` and the validation
of options at construction. A keyword of the class statement maps an option to its name in the function.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from fastssl._docs import Docstring, parameters
from fastssl.distributed import unsharded
from fastssl.functional import _check as check
from fastssl.functional._docs import ARGUMENTS
from fastssl.functional._pairs import IndicesTuple
from fastssl.ops.backend import NAMES

Real: TypeAlias = Tensor | float


class Loss(nn.Module):
    """Base class: a function with its options as attributes; tensors become parameters or buffers of the module."""

    function: ClassVar[Callable[..., Tensor]]
    example: ClassVar[tuple[str, str]]  # arguments of the constructor and of the call in the docstring's example
    stored: ClassVar[dict[str, str]] = {}  # attribute names of options, if not their own

    reduction: str
    backend: str | None

    def __init_subclass__(cls, function: Callable[..., Tensor] | None = None, **names: str) -> None:
        super().__init_subclass__()
        if function is None:  # a family, or a subclass with its own body
            return
        cls.function = staticmethod(function)
        for name, meaning in names.items():  # an argument of another name than the function's is an attribute, too
            if not hasattr(cls, name):
                setattr(cls, name, _alias(name, meaning))
        cls.__doc__ = _docstring(cls, names)
        if "__init__" not in cls.__dict__:  # inherits the signature
            return
        declared = cls.__init__
        for name, annotation in declared.__annotations__.items():  # help() shows the types themselves
            declared.__annotations__[name] = annotation.replace("Real", "Tensor | float")

        @functools.wraps(declared)
        def __init__(self: Loss, *args: Any, **kwargs: Any) -> None:
            declared(self, *args, **kwargs)  # raises Python's own errors for wrong arguments
            bound = inspect.signature(declared).bind(self, *args, **kwargs)
            bound.apply_defaults()
            options = {names.get(name, name): value for name, value in list(bound.arguments.items())[1:]}
            super(cls, self).__init__(**options)

        cls.__init__ = __init__  # type: ignore[method-assign]

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._options: dict[str, str] = {}
        self.set_options(**options)
        self._check()

    def set_options(self, *_: Any, **options: Any) -> None:
        """Sets the options as attributes; overridden by losses whose options differ from those of the function."""
        for name, given in options.items():
            attribute = self._options[name] = self.stored.get(name, name)
            if isinstance(given, Tensor) and not isinstance(given, nn.Parameter):
                self.register_buffer(attribute, given)
            else:
                setattr(self, attribute, given)

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of the function."""
        return self.keywords()

    def keywords(self) -> dict[str, Any]:
        """The same; overridden instead of the property, whose ``super()`` torch.compile does not follow."""
        return {name: getattr(self, attribute) for name, attribute in self._options.items()}

    def call(self, *tensors: Any, **given: Any) -> Tensor:
        return type(self).function(*tensors, **given, **self.options)

    def _check(self) -> None:
        """Validates the options at construction, by calling the function on dummy inputs."""
        options = self.options
        device = next((v.device for v in options.values() if isinstance(v, Tensor)), torch.device("cpu"))
        if "backend" in options:
            check.choice("backend", options["backend"] or NAMES[0], NAMES)
            options["backend"] = "reference"  # the batch may be on another device
        if device.type != "meta":
            with torch.no_grad(), torch.device(device), unsharded():
                type(self).function(*self.dummy_inputs(), **options)

    def dummy_inputs(self) -> tuple[Any, ...]:
        """Inputs of the function for the validation of options."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        options = self.options
        options.pop("backend", None)
        if "reduction" in options:  # last
            options["reduction"] = options.pop("reduction")
        return ", ".join(f"{name}={_shown(value)}" for name, value in options.items() if value is not None)


def _alias(name: str, meaning: str) -> property:
    def get(self: Loss) -> Any:
        if meaning not in self._options:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self, self._options[meaning])

    return property(get, lambda self, value: setattr(self, self._options[meaning], value))


def _shown(value: Any) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    return f"{float(value.detach()):.4g}" if value.numel() == 1 and not value.is_meta else f"tensor{list(value.shape)}"


class LabelledLoss(Loss):
    """A loss of labelled embeddings or listed pairs, with the call signature of pytorch-metric-learning."""

    example = "", "torch.randn(8, 16), torch.arange(8) % 2"

    def dummy_inputs(self) -> tuple[Any, ...]:
        return torch.zeros(2, 1), torch.arange(2)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: IndicesTuple | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        if indices_tuple is None and ref_emb is None and ref_labels is None:  # some functions do not take them
            return self.call(embeddings, labels)
        partners = {"indices_tuple": indices_tuple, "ref_emb": ref_emb, "ref_labels": ref_labels}
        return self.call(embeddings, labels, **{k: v for k, v in partners.items() if v is not None})


class ViewLoss(Loss):
    """A loss of two views of the same examples."""

    example = "", "torch.randn(8, 16), torch.randn(8, 16)"

    def dummy_inputs(self) -> tuple[Any, ...]:
        return torch.zeros(2, 1), torch.zeros(2, 1)

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        return self.call(z0, z1)


class LearnableTemperature(Loss):
    """A loss with an optionally learned temperature, parametrised by its logarithm."""

    log_temperature: nn.Parameter | None

    def set_options(self, *, temperature: Tensor | float, learnable: bool = False, **options: Any) -> None:
        self.log_temperature = None
        if check.flag("learnable", learnable):
            device = temperature.device if isinstance(temperature, Tensor) else torch.device("cpu")
            temperature = float(check.value("temperature", temperature, device, positive=True))
            self.log_temperature = nn.Parameter(torch.tensor(temperature).log())
        super().set_options(temperature=temperature, **options)

    def keywords(self) -> dict[str, Any]:
        options = super().keywords()
        if self.log_temperature is not None:
            options["temperature"] = self.log_temperature.exp()
        return options

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.log_temperature is None else ", learnable=True")


class TemperatureLoss(LearnableTemperature):
    """The same, with the current temperature as an attribute."""

    stored: ClassVar[dict[str, str]] = {"temperature": "fixed_temperature"}

    @property
    def temperature(self) -> Tensor | float:
        now: Tensor | float = self.options["temperature"]
        return now

    @temperature.setter
    def temperature(self, value: Tensor | float) -> None:
        if self.log_temperature is None:
            self.fixed_temperature = value
            return
        value = check.value("temperature", value, self.log_temperature.device, positive=True)
        with torch.no_grad():
            self.log_temperature.copy_(torch.as_tensor(value, dtype=torch.float64).log())


def _docstring(cls: type[Loss], names: dict[str, str]) -> str | None:
    """The docstring of the function, with the module's arguments, inputs and example."""
    if cls.function.__doc__ is None:  # python -OO
        return None
    doc, own = Docstring.parse(cls.function.__doc__), Docstring.parse(cls.__dict__.get("__doc__") or "")
    summary, _, rest = doc.text.partition("\n\n")
    module = f":func:`fastssl.functional.{cls.function.__name__}` as a module."
    doc.text = "\n\n".join(text for text in (summary, module, own.text, rest) if text)
    described = doc.entries["Args"]

    def entry(name: str, meaning: str) -> str:
        text = described.get(meaning) or ARGUMENTS[name]
        return text.replace(f"    {meaning}:", f"    {name}:", 1)

    given = own.entries.get("Args", {})
    doc.entries["Args"] = {name: given.get(name) or entry(name, names.get(name, name)) for name in parameters(cls)}
    tensors = list(described)[: inspect.unwrap(cls.function).__code__.co_argcount]
    doc.entries["Inputs"] = {
        name: entry(name, name if name in described or i >= len(tensors) else tensors[i])
        for i, name in enumerate(parameters(cls.forward)[1:])  # by name, else by position
    }
    arguments, inputs = cls.example
    doc.bodies["Example"] = own.bodies.get("Example") or (
        f"\n    >>> import torch\n    >>> from fastssl.losses import {cls.__name__}"
        f"\n    >>> loss = {cls.__name__}({arguments})({inputs})"
    )
    doc.bodies |= {name: body for name, body in own.bodies.items() if name != "Example"}
    return str(doc)
