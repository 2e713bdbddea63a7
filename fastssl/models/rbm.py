"""Restricted Boltzmann machines, alone and stacked to a deep belief network."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
import torch.nn.functional as TF
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.functional.density import check_units
from fastssl.models.density import DensityNetwork, LogLikelihood, row_keys
from fastssl.ops.reference.density import uniforms

ENUMERATED = 20  # units of the smaller side up to which all states are enumerated
_STATES = 1 << 13  # states at a time


class RestrictedBoltzmannMachine(nn.Module):
    r"""A restricted Boltzmann machine on vectors v [B, D].

    .. math:: E(v, h) = -b \cdot v - c \cdot h - h \cdot W v, \qquad
              F(v) = -\log \sum_h e^{-E(v, h)} = -b \cdot v - \sum_j \log(1 + e^{c_j + W_j \cdot v})

    ``gaussian``: visible units are normal given the hidden ones, with variance 1: :math:`|v - b|^2 / 2` replaces
    :math:`-b \cdot v`.

    Args:
        visible: number D of visible units.
        hidden: number of hidden units.
        gaussian: normal visible units.

    Raises:
        ValueError: a number out of range, or too many units for an enumeration.

    Example:
        >>> import torch
        >>> from fastssl.models import RestrictedBoltzmannMachine, row_keys
        >>> machine = RestrictedBoltzmannMachine(6, 4)
        >>> v = torch.randint(0, 2, (32, 6)).float()
        >>> loss = machine.free_energy(v).mean() - machine.free_energy(machine.gibbs(v, row_keys(0, range(32)))).mean()
        >>> loss.backward()  # the gradient of contrastive divergence
        >>> float(machine.log_likelihood(v).values.mean()) < 0
        True

    Source: Smolensky, Information Processing in Dynamical Systems, 1986; Hinton, Training Products of Experts by
    Minimizing Contrastive Divergence, 2002.
    """

    def __init__(self, visible: int, hidden: int, gaussian: bool = False) -> None:
        super().__init__()
        for name, value in (("visible", visible), ("hidden", hidden)):
            if value < 1:
                raise ValueError(f"{name}: expected at least one unit, got {value}")
        self.gaussian = gaussian
        self.weight = nn.Parameter(torch.randn(hidden, visible) * 0.01)
        self.visible_bias = nn.Parameter(torch.zeros(visible))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))

    def hidden(self, visible: Tensor) -> Tensor:
        """Probabilities of the hidden units, [B, H]."""
        return torch.sigmoid(TF.linear(visible, self.weight, self.hidden_bias))

    def visible(self, hidden: Tensor) -> Tensor:
        """Probabilities of the visible units, or means of normal ones, [B, D]."""
        mean = TF.linear(hidden, self.weight.T, self.visible_bias)
        return mean if self.gaussian else torch.sigmoid(mean)

    def free_energy(self, visible: Tensor) -> Tensor:
        """F(v) of each row, [B]; its gradient is the energy's expected one over p(h | v)."""
        units = TF.softplus(TF.linear(visible, self.weight, self.hidden_bias)).sum(1)
        if self.gaussian:
            return (visible - self.visible_bias).square().sum(1) / 2 - units
        return -(visible @ self.visible_bias) - units

    def gibbs(self, visible: Tensor, keys: Tensor, steps: int = 1, first: int = 0) -> Tensor:
        """The rows after ``steps`` of Gibbs sampling: :func:`fastssl.functional.gibbs`."""
        return F.gibbs(
            visible.to(self.weight.dtype),
            self.weight,
            self.visible_bias,
            self.hidden_bias,
            keys,
            steps=steps,
            first=first,
            gaussian=self.gaussian,
        )

    def sample(self, count: int, seed: int = 0, steps: int = 1000) -> Tensor:
        """The states [count, D] of independent chains after ``steps``; they start from the biases alone."""
        keys = row_keys(seed, range(count))
        start = self.visible_bias.detach() if self.gaussian else torch.sigmoid(self.visible_bias.detach())
        return self.gibbs(start.expand(count, -1), keys.to(start.device), steps)

    @torch.no_grad()
    def log_partition(
        self, exact: bool | None = None, *, chains: int = 100, temperatures: int = 1000, seed: int = 0
    ) -> tuple[float, float]:
        """The logarithm of the normaliser, and its standard error.

        Args:
            exact: enumerate the states of the smaller side; None: if it has at most 20 units, else annealed importance
                sampling from the machine without weights (Salakhutdinov and Murray, On the Quantitative Analysis of
                Deep Belief Networks, 2008).
            chains: number of chains; the error falls with its square root.
            temperatures: intermediate distributions.
            seed: seed of the chains.

        Warns:
            UserWarning: a few chains have nearly all of the weight: the estimate and its error cannot be trusted.

        Raises:
            ValueError: too many units for an enumeration, or a number out of range.
        """
        hidden, visible = self.weight.shape
        side = hidden if self.gaussian else min(hidden, visible)
        if exact is None:
            exact = side <= ENUMERATED
        if not exact:
            return self._annealed(chains, temperatures, seed)
        if side > ENUMERATED:
            raise ValueError(f"exact: expected at most {ENUMERATED} units to enumerate, got {side}; use exact=False")
        parts = []
        for first in range(0, 1 << side, _STATES):
            states = torch.arange(first, min(first + _STATES, 1 << side), device=self.weight.device)
            bits = ((states[:, None] >> torch.arange(side, device=states.device)) & 1).double()
            parts.append(self._log_weights(bits, side == hidden).logsumexp(0))
        return float(torch.stack(parts).logsumexp(0)), 0.0

    def _doubles(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.weight.double(), self.visible_bias.double(), self.hidden_bias.double()

    def _log_weights(self, bits: Tensor, of_hidden: bool) -> Tensor:
        """log of the sum of exp(-E) over the other side, for states of one side, in float64."""
        weight, b, c = self._doubles()
        if not of_hidden:
            return bits @ b + TF.softplus(bits @ weight.T + c).sum(1)
        field = bits @ weight
        if not self.gaussian:
            return bits @ c + TF.softplus(field + b).sum(1)
        return bits @ c + field @ b + field.square().sum(1) / 2 + len(b) / 2 * math.log(2 * math.pi)

    def _annealed(self, chains: int, temperatures: int, seed: int) -> tuple[float, float]:
        if chains < 2 or temperatures < 1:
            raise ValueError(f"chains, temperatures: expected at least 2 and 1, got {chains} and {temperatures}")
        weight, b, c = (t.detach() for t in (self.weight, self.visible_bias, self.hidden_bias))
        keys = row_keys(seed, range(chains)).to(weight.device)
        off = torch.zeros_like
        # Step 0 draws from the machine without weights, where every hidden unit is 0 or 1 with probability 1/2.
        v = F.gibbs(b.new_zeros(chains, len(b)), off(weight), b, off(c), keys, gaussian=self.gaussian)
        total = torch.zeros(chains, dtype=torch.float64, device=weight.device)
        for k in range(1, temperatures + 1):
            field = TF.linear(v, weight, c).double()
            new, old = k / temperatures, (k - 1) / temperatures
            total += (TF.softplus(new * field) - TF.softplus(old * field)).sum(1)
            if k < temperatures:
                v = F.gibbs(v, new * weight, b, new * c, keys, first=k, gaussian=self.gaussian)
        base = len(c) * math.log(2)
        if self.gaussian:
            base += len(b) / 2 * math.log(2 * math.pi)
        else:
            base += float(TF.softplus(b.double()).sum())
        shares = (total - total.max()).exp()
        error = float(shares.std() / shares.mean() / math.sqrt(chains))
        effective = float(shares.sum() ** 2 / shares.square().sum())
        if effective < chains / 10:
            warnings.warn(
                f"annealed importance sampling: {effective:.1f} of {chains} chains have nearly all of the weight, so "
                "that log Z is probably too small, the likelihood too large, and their error is not known; take more "
                f"temperatures (now {temperatures:,})",
                stacklevel=4,
            )
        return base + float(total.logsumexp(0)) - math.log(chains), error

    @torch.no_grad()
    def log_likelihood(self, visible: Tensor, exact: bool | None = None, **options: Any) -> LogLikelihood:
        """Log-likelihoods of rows, by :meth:`log_partition`, whose arguments these are.

        Raises:
            ValueError: rows outside [0, 1], or too many units for an enumeration.
        """
        if not self.gaussian:
            check_units("visible", visible)
        weight, b, c = self._doubles()
        log_z, error = self.log_partition(exact, **options)
        v = visible.double()
        units = TF.softplus(v @ weight.T + c).sum(1)
        own = -(v - b).square().sum(1) / 2 if self.gaussian else v @ b
        return LogLikelihood(own + units - log_z, "AIS" if error else "exact", error)


class RBMNetwork(DensityNetwork):
    """A restricted Boltzmann machine on the pixels of images; several: a deep belief network, trained layer by layer.

    Each machine models the hidden units of the one below. Features are the probabilities of the last hidden units.

    Args:
        size: image size in pixels.
        channels: image channels.
        width: hidden units of each machine.
        blocks: number of machines.
        deviation: pixels in [-1, 1] are normal around their mean with this standard deviation; None: they are binary.
            Their machines need a learning rate near 0.001, a hundredth of that of binary ones.

    Raises:
        ValueError: an option out of range.

    Example:
        >>> import torch
        >>> from fastssl.models import RBMNetwork
        >>> RBMNetwork(size=8, width=16)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 16])

    Source: Hinton, Osindero and Teh, A Fast Learning Algorithm for Deep Belief Nets, 2006.
    """

    def __init__(
        self, size: int, channels: int = 1, *, width: int = 128, blocks: int = 1, deviation: float | None = None
    ) -> None:
        super().__init__(size, channels, 2 if deviation is None else None)
        if blocks < 1:
            raise ValueError(f"blocks: expected at least one machine, got {blocks}")
        if deviation is not None and not deviation > 0:
            raise ValueError(f"deviation: expected a value above 0, got {deviation}")
        self.deviation = deviation
        self.machines: Any = nn.ModuleList(
            RestrictedBoltzmannMachine(width if k else self.dimensions, width, deviation is not None and k == 0)
            for k in range(blocks)
        )

    def visible(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] as visible units, [B, D]."""
        if self.deviation is not None:
            return images.float().flatten(1) / self.deviation
        return self.quantize(images).flatten(1).float()

    def images(self, visible: Tensor) -> Tensor:
        """Visible units, or their probabilities, as images in [-1, 1]."""
        scaled = visible * 2 - 1 if self.deviation is None else visible * self.deviation
        return scaled.reshape(-1, self.channels, self.size, self.size)

    def below(self, visible: Tensor, level: int) -> Tensor:
        """What machine ``level`` models: probabilities of the hidden units of the one below."""
        for machine in self.machines[:level]:
            visible = machine.hidden(visible)
        return visible

    def forward(self, images: Tensor) -> Tensor:
        return self.below(self.visible(images), len(self.machines))

    @torch.no_grad()
    def sample(self, count: int, seed: int = 0, *, steps: int = 1000) -> Tensor:
        """Chains of the last machine, ``steps`` long, and a pass down from each of them."""
        v: Tensor = self.machines[-1].sample(count, seed, steps)
        for k in range(len(self.machines) - 2, -1, -1):
            keys = row_keys(seed, range(count), block=k + 1).to(v.device)
            machine = self.machines[k]
            v = machine.visible(v)
            if not machine.gaussian:
                v = (uniforms(keys, v.shape[1]) < v).to(v.dtype)
        return self.images(v)

    @torch.no_grad()
    def log_likelihood(self, images: Tensor, exact: bool | None = None, **options: Any) -> LogLikelihood:
        """Of one machine: exact or by annealed importance sampling (:meth:`RestrictedBoltzmannMachine.log_partition`).
        Of several: the variational bound E_q[log p(v, h)] + H(q), one sample of q(h | v) per layer and image.

        Normal pixels: densities of images in [-1, 1]."""
        v, total = self.visible(images), torch.zeros(len(images), dtype=torch.float64, device=images.device)
        if self.deviation is not None:
            total -= self.dimensions * math.log(self.deviation)
        keys = torch.arange(len(v), device=v.device)
        for k, machine in enumerate(self.machines[:-1]):
            q = machine.hidden(v)
            h = (uniforms(keys, q.shape[1], stream=k) < q).to(q.dtype)
            mean = machine.visible(h).double()
            if machine.gaussian:
                total -= (v - mean).square().sum(1) / 2 + v.shape[1] / 2 * math.log(2 * math.pi)
            else:
                total -= TF.binary_cross_entropy(mean, v.double(), reduction="none").sum(1)
            total += TF.binary_cross_entropy(q.double(), q.double(), reduction="none").sum(1)
            v = h
        last = self.machines[-1].log_likelihood(v, exact, **options)
        return LogLikelihood(total + last.values, "bound" if len(self.machines) > 1 else last.kind, last.error)
