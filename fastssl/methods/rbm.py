"""RBM: a restricted Boltzmann machine, whose hidden units explain the pixels, by contrastive divergence.

Smolensky, Information Processing in Dynamical Systems, 1986; Hinton, Training Products of Experts by Minimizing
Contrastive Divergence, 2002; Tieleman, Training Restricted Boltzmann Machines using Approximations to the Likelihood
Gradient, 2008; stacked: Hinton, Osindero and Teh, A Fast Learning Algorithm for Deep Belief Nets, 2006.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastssl._options import integer
from fastssl.augment import Views
from fastssl.data.batch import Batch
from fastssl.data.packed import Readable
from fastssl.data.source import Item, Source
from fastssl.methods.density import DensityMethod
from fastssl.models import Encoder, RBMNetwork
from fastssl.models.density import row_keys
from fastssl.models.samples import Samples

_MEAN = 1024  # images whose mean biases start from


class RBM(DensityMethod):
    """Pixels + Gibbs sampling + difference of free energies.

    The loss is F(v) - F(v_k), with v_k after k steps of Gibbs sampling from v and constant: its gradient is that of
    contrastive divergence. It is no likelihood: ``log_likelihood`` computes or estimates it.

    Args:
        encoder: "rbm" of :func:`fastssl.models.build_encoder`; "blocks" machines are trained one after the other.
        augment: see :class:`DensityMethod`.
        steps: Gibbs steps k.
        persistent: number of chains that go on from step to step (persistent contrastive divergence); 0: chains start
            from the data.

    Raises:
        ValueError: ``steps`` or ``persistent`` out of range.
    """

    paper = "Hinton 2002; Tieleman 2008"
    predicts = "all pixels, by hidden causes"
    loss = "contrastive divergence"
    encoder_name = "rbm"
    networks = (RBMNetwork,)
    likelihood_rows = None

    def __init__(self, encoder: Encoder, augment: Views | None = None, *, steps: int = 1, persistent: int = 0) -> None:
        super().__init__(encoder, augment)
        self.steps, self.persistent = integer("steps", steps, 1), integer("persistent", persistent, 0)
        self.separable = not persistent
        self.has_unused_parameters = len(self.network.machines) > 1
        self.register_buffer("level", torch.zeros((), dtype=torch.int64))
        self.level: Tensor
        for k, machine in enumerate(self.network.machines if persistent else ()):
            self.register_buffer(f"chains_{k}", torch.zeros(persistent, machine.weight.shape[1]))

    def prepare(self, source: Source) -> Source:
        """The source; visible biases of normal pixels start from the mean of up to 1,024 of its images.

        From 0, all hidden units would first learn the mean, and saturate where it is many deviations long."""
        bias = self.network.machines[0].visible_bias
        if self.network.deviation is not None and not bool(bias.any()):
            readable = Readable(source)
            ids = np.unique(np.linspace(0, len(source) - 1, min(len(source), _MEAN)).round())
            items = [item for k in ids if (item := readable.read(int(k))).images]
            if items:
                with torch.no_grad():
                    bias.copy_(self.network.visible(self.examples(items, 0).views[0]).mean(0))
        return source

    def views(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> list[Tensor]:
        """The image [B, C, S, S] and the keys of its chain's draws, int64 [B]."""
        return [*super().views(items, seed, epoch, ids), row_keys(seed, ids, epoch)]

    def forward(self, batch: Batch) -> Tensor:
        images, keys = batch.views
        k = int(self.level)
        machine = self.network.machines[k]
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            data = self.network.below(self.network.visible(images), k)
            if not self.persistent:
                model = machine.gibbs(data, keys, self.steps)
            else:
                chains = self.get_buffer(f"chains_{k}")
                keys = torch.randint(1 << 62, (self.persistent,), device=images.device)  # of the step's seed
                model = machine.gibbs(chains, keys, self.steps)
                if self.training:
                    chains.copy_(model)
        with torch.autocast(images.device.type, enabled=False):
            loss: Tensor = machine.free_energy(data).mean() - machine.free_energy(model).mean()
        return loss

    def after_step(self, progress: float) -> None:
        machines = len(self.network.machines)
        self.level.fill_(min(int(progress * machines), machines - 1))

    def generate(self, count: int = 64, seed: int = 0, *, steps: int = 1000) -> Samples:
        """Fantasies: the states of independent chains after ``steps`` of Gibbs sampling."""
        return self.samples(self.network.sample(count, seed, steps=steps))

    @torch.no_grad()
    def visualize(self, batch: Batch) -> dict[str, Tensor]:
        """The images, their reconstructions from the first hidden units, fantasies, and filters of hidden units."""
        images, first = batch.views[0], self.network.machines[0]
        count = len(images)
        units = torch.arange(count, device=images.device) % len(first.weight)
        filters = first.weight[units] / first.weight[units].abs().amax(1, keepdim=True).clamp(min=1e-12)
        return {
            "image": images,
            "reconstruction": self.network.images(first.visible(first.hidden(self.network.visible(images)))),
            "fantasy": self.network.sample(count, steps=200),
            "filter": filters.reshape(-1, *images.shape[1:]),
        }
