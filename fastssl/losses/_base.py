"""What the loss modules share: options checked once, at construction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastssl.functional import _check as check


class Loss(nn.Module):
    """A loss with a reduction and a backend."""

    def __init__(self, reduction: str = "mean", backend: str | None = None) -> None:
        super().__init__()
        self.reduction = check.reduction(reduction)
        self.backend = backend

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}"


class Options(nn.Module):
    """Hyperparameters by name, as attributes: a parameter among them is the module's own, a tensor moves with it."""

    _names: tuple[str, ...] = ()

    def hold(self, **options: Any) -> None:
        self._names = tuple(options)
        for name, given in options.items():
            if isinstance(given, Tensor) and not isinstance(given, nn.Parameter):
                self.register_buffer(name, given)
            else:
                setattr(self, name, given)

    @property
    def options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._names}


class TemperatureLoss(Loss, Options):
    """A loss of embeddings with a temperature: fixed, learned (as its logarithm, so that it stays positive) or a
    parameter of the caller's own."""

    def __init__(
        self,
        temperature: Tensor | float = 0.1,
        normalize: bool = True,
        reduction: str = "mean",
        learnable: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__(reduction, backend)
        device = temperature.device if isinstance(temperature, Tensor) else torch.device("cpu")
        value = check.value("temperature", temperature, device, positive=True)
        self.normalize = check.flag("normalize", normalize)
        self.log_temperature: nn.Parameter | None = None
        if check.flag("learnable", learnable):
            self.log_temperature = nn.Parameter(torch.tensor(float(value)).log())
        else:
            self.hold(fixed_temperature=temperature if isinstance(temperature, Tensor) else float(value))

    @property
    def temperature(self) -> Tensor | float:
        if self.log_temperature is not None:
            return self.log_temperature.exp()
        fixed: Tensor | float = self.options["fixed_temperature"]
        return fixed

    def extra_repr(self) -> str:
        learned = ", learnable=True" if self.log_temperature is not None else ""
        with torch.no_grad():
            now = float(self.temperature)
        return f"temperature={now:.4g}, normalize={self.normalize}, {super().extra_repr()}{learned}"
