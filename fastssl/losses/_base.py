"""Modules made of the functions in :mod:`fastssl.functional`.

A module is a class statement that names its function and declares the options it keeps::

    class CircleLoss(LabelledLoss, function=F.circle, m="margin"):
        def __init__(self, m: Real = 0.4, gamma: Real = 80.0, reduction: str = "mean") -> None: ...

The signature is all there is to write: :class:`Loss` makes the body, the docstring (from the function's), ``forward``
of the family, ``repr`` and the check of options at construction. A keyword of the class statement gives the name that
an option has in the function.
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
    """A function with its options, which are attributes by the function's names: parameters and tensors are the
    module's own, and move with it."""

    function: ClassVar[Callable[..., Tensor]]
    example: ClassVar[tuple[str, str]]  # what the docstring's example constructs and calls the module with
    stored: ClassVar[dict[str, str]] = {}  # the attribute of an option whose name is taken

    reduction: str
    backend: str | None

    def __init_subclass__(cls, function: Callable[..., Tensor] | None = None, **names: str) -> None:
        super().__init_subclass__()
        if function is None:  # a family, or a subclass that has its own body
            return
        cls.function = staticmethod(function)
        cls.__doc__ = _docstring(cls, names)
        if "__init__" not in cls.__dict__:  # the signature of its base
            return
        declared = cls.__init__
        for name, annotation in declared.__annotations__.items():  # help() shows the types themselves
            declared.__annotations__[name] = annotation.replace("Real", "Tensor | float")

        @functools.wraps(declared)
        def __init__(self: Loss, *args: Any, **kwargs: Any) -> None:
            declared(self, *args, **kwargs)  # Python's own errors for arguments that do not fit
            bound = inspect.signature(declared).bind(self, *args, **kwargs)
            bound.apply_defaults()
            options = {names.get(name, name): value for name, value in list(bound.arguments.items())[1:]}
            super(cls, self).__init__(**options)

        cls.__init__ = __init__  # type: ignore[method-assign]

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._options: dict[str, str] = {}
        self.hold(**options)
        self._check()

    def hold(self, *_: Any, **options: Any) -> None:
        """Makes attributes of the options; a loss whose options are not those of its function overrides it."""
        for name, given in options.items():
            attribute = self._options[name] = self.stored.get(name, name)
            if isinstance(given, Tensor) and not isinstance(given, nn.Parameter):
                self.register_buffer(attribute, given)
            else:
                setattr(self, attribute, given)

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of the function that are not tensors of the batch."""
        return {name: getattr(self, attribute) for name, attribute in self._options.items()}

    def call(self, *tensors: Any, **given: Any) -> Tensor:
        return type(self).function(*tensors, **given, **self.options)

    def _check(self) -> None:
        """Wrong options show now, not in the first step: the function takes them with rows of zeros."""
        options = self.options
        device = next((v.device for v in options.values() if isinstance(v, Tensor)), torch.device("cpu"))
        if "backend" in options:
            check.choice("backend", options["backend"] or NAMES[0], NAMES)
            options["backend"] = "reference"  # the rows of the batch may be on another device
        if device.type != "meta":
            with torch.no_grad(), torch.device(device), unsharded():
                type(self).function(*self.rows_of_zeros(), **options)

    def rows_of_zeros(self) -> tuple[Any, ...]:
        """A batch as :meth:`forward` passes it to the function."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        options = self.options
        options.pop("backend", None)
        if "reduction" in options:  # last
            options["reduction"] = options.pop("reduction")
        return ", ".join(f"{name}={_shown(value)}" for name, value in options.items())


def _shown(value: Any) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    return f"{float(value.detach()):.4g}" if value.numel() == 1 and not value.is_meta else f"tensor{list(value.shape)}"


class LabelledLoss(Loss):
    """A loss of rows with labels, or of listed pairs; called as the losses of pytorch-metric-learning are."""

    example = "", "torch.randn(8, 16), torch.arange(8) % 2"

    def rows_of_zeros(self) -> tuple[Any, ...]:
        return torch.zeros(2, 1), torch.arange(2)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: IndicesTuple | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        if indices_tuple is None and ref_emb is None and ref_labels is None:  # which some functions do not take
            return self.call(embeddings, labels)
        partners = {"indices_tuple": indices_tuple, "ref_emb": ref_emb, "ref_labels": ref_labels}
        return self.call(embeddings, labels, **{k: v for k, v in partners.items() if v is not None})


class ViewLoss(Loss):
    """A loss of two views of the same examples."""

    example = "", "torch.randn(8, 16), torch.randn(8, 16)"

    def rows_of_zeros(self) -> tuple[Any, ...]:
        return torch.zeros(2, 1), torch.zeros(2, 1)

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        return self.call(z0, z1)


class LearnableTemperature(Loss):
    """A loss whose temperature may be learned, as its logarithm, so that it stays positive."""

    log_temperature: nn.Parameter | None

    def hold(self, *, temperature: Tensor | float, learnable: bool = False, **options: Any) -> None:
        self.log_temperature = None
        if check.flag("learnable", learnable):
            device = temperature.device if isinstance(temperature, Tensor) else torch.device("cpu")
            temperature = float(check.value("temperature", temperature, device, positive=True))
            self.log_temperature = nn.Parameter(torch.tensor(temperature).log())
        super().hold(temperature=temperature, **options)

    @property
    def options(self) -> dict[str, Any]:
        options = super().options
        if self.log_temperature is not None:
            options["temperature"] = self.log_temperature.exp()
        return options

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.log_temperature is None else ", learnable=True")


class TemperatureLoss(LearnableTemperature):
    """The same with the temperature of this moment as an attribute."""

    stored: ClassVar[dict[str, str]] = {"temperature": "fixed_temperature"}

    @property
    def temperature(self) -> Tensor | float:
        now: Tensor | float = self.options["temperature"]
        return now


def _docstring(cls: type[Loss], names: dict[str, str]) -> str | None:
    """The function's docstring, with the module's arguments, inputs and example."""
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
