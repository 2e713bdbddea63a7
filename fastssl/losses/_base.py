"""What the loss modules share: options checked once, at construction."""

from __future__ import annotations

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


class TemperatureLoss(Loss):
    """A loss of embeddings with a temperature, fixed or learned (as its logarithm, so that it stays positive)."""

    def __init__(
        self,
        temperature: float = 0.1,
        normalize: bool = True,
        reduction: str = "mean",
        learnable: bool = False,
        backend: str | None = None,
    ) -> None:
        super().__init__(reduction, backend)
        value = check.value("temperature", temperature, torch.device("cpu"), positive=True)
        self.normalize = check.flag("normalize", normalize)
        self.log_temperature: nn.Parameter | None = None
        self.fixed_temperature = float(value)
        if check.flag("learnable", learnable):
            self.log_temperature = nn.Parameter(torch.tensor(float(value)).log())

    @property
    def temperature(self) -> Tensor | float:
        return self.fixed_temperature if self.log_temperature is None else self.log_temperature.exp()

    def extra_repr(self) -> str:
        learned = ", learnable=True" if self.log_temperature is not None else ""
        now = self.fixed_temperature if self.log_temperature is None else float(self.log_temperature.detach().exp())
        return f"temperature={now:.4g}, normalize={self.normalize}, {super().extra_repr()}{learned}"
