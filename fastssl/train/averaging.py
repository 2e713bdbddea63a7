"""The mean of the weights over the last part of a run."""

from __future__ import annotations

import torch
from torch import Tensor, nn

PREFIX = "averaged."  # of its tensors in a checkpoint


class WeightAverage:
    """The mean of a network's parameters and floating-point buffers over the last steps of a run.

    The mean of weights along the end of a run lies where the loss is flatter than at its last step, and serves as an
    ensemble at the cost of one network (Izmailov et al., Averaging Weights Leads to Wider Optima and Better
    Generalization, 2018).

    Args:
        network: the network that is trained.
        share: the part of the run, its end, over which weights are averaged.

    Example:
        >>> import torch
        >>> from fastssl.train.averaging import WeightAverage
        >>> network = torch.nn.Linear(1, 1, bias=False)
        >>> average = WeightAverage(network, share=0.5)
        >>> for step in range(4):
        ...     _ = torch.nn.init.constant_(network.weight, float(step))
        ...     average.update((step + 1) / 4)
        >>> average.apply()
        >>> float(network.weight)
        2.5
    """

    def __init__(self, network: nn.Module, share: float) -> None:
        self.network, self.share, self.count = network, share, 0
        self.means: dict[str, Tensor] = {}

    def _tensors(self) -> dict[str, Tensor]:
        named = self.network.state_dict(keep_vars=True)
        return {name: tensor.detach() for name, tensor in named.items() if tensor.is_floating_point()}

    @torch.no_grad()
    def update(self, progress: float) -> None:
        """Adds the weights after a step, if it belongs to the last part; ``progress``: of the run, from 0 to 1."""
        if progress <= 1 - self.share:
            return
        self.count += 1
        for name, tensor in self._tensors().items():
            if name not in self.means:
                self.means[name] = tensor.clone()
            else:
                self.means[name].lerp_(tensor, 1 / self.count)

    @torch.no_grad()
    def apply(self) -> None:
        """Gives the network the mean of its weights, and forgets it."""
        for name, tensor in self._tensors().items() if self.means else ():
            tensor.copy_(self.means[name])
        self.means, self.count = {}, 0

    def state(self) -> dict[str, Tensor]:
        """Tensors of a checkpoint, from which :meth:`restore` continues."""
        return {PREFIX + name: mean.cpu() for name, mean in self.means.items()}

    def restore(self, tensors: dict[str, Tensor], count: int) -> None:
        """Continues from the tensors of a checkpoint, the mean of ``count`` steps."""
        self.count, own = count, self._tensors()
        self.means = {
            key.removeprefix(PREFIX): mean.to(own[key.removeprefix(PREFIX)].device, copy=True)
            for key, mean in tensors.items()
            if key.startswith(PREFIX)
        }
