"""WaveRNN: a recurrent network of waveforms of 16 bits, in two softmaxes a sample (Kalchbrenner et al. 2018)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as TF
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.distributed.shards import unsharded
from fastssl.models.drawing import checked, draw
from fastssl.models.wave import IGNORED, AudioNetwork, use_kernel
from fastssl.ops import extension

SAMPLE = 3  # inputs of a sample: coarse and fine part of the one before, coarse part of its own


class WaveRNNNetwork(AudioNetwork):
    """A recurrent network whose state's first half predicts the coarse part of a code, its second half the fine part.

    A code of b bits is c 2^(b/2) + f. With x_t = (c_{t-1}, f_{t-1}, c_t), scaled to [-1, 1],

    .. math::

        u, r &= \\sigma(R h_{t-1} + I x_t), \\quad e = \\tanh(r \\circ R_e h_{t-1} + I_e x_t) \\\\
        h_t &= u \\circ h_{t-1} + (1 - u) \\circ e = (y_c, y_f) \\\\
        p(c_t) &= softmax(O_2\\,relu(O_1 y_c)), \\quad p(f_t \\mid c_t) = softmax(O_4\\,relu(O_3 y_f))

    where the weights from c_t to the first half are 0.

    Args:
        bits: bits of a code, even, 2 to 16; 16 in the paper.
        width: units of the state, even; 896 in the paper.
        classes: number of labels to be conditioned on; 0: none.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> import torch
        >>> from fastssl.models import WaveRNNNetwork
        >>> network = WaveRNNNetwork(width=16)
        >>> network(torch.zeros(2, 50, dtype=torch.int64)).shape  # coarse and fine, 256 values each
        torch.Size([2, 2, 256, 50])

    Source: Kalchbrenner et al., Efficient Neural Audio Synthesis, 2018.
    """

    name: ClassVar[str] = "wavernn"
    mask: Tensor
    gru: Any

    def __init__(self, bits: int = 16, width: int = 128, classes: int = 0) -> None:
        super().__init__()
        if checked("bits", bits, 2, 16) % 2 or checked("width", width, 2) % 2:
            raise ValueError(f"bits, width: expected even numbers, got {bits} and {width}")
        self.levels, self.classes, self.dim = 1 << bits, checked("classes", classes, 0), width
        self.values, half = 1 << bits // 2, width // 2
        # The class is an input too, one of classes + 1 units: the last is "any".
        self.gru = nn.GRU(SAMPLE + (classes + 1 if classes else 0), width, batch_first=True)
        seen = torch.ones(3, width, self.gru.input_size)
        seen[:, :half, SAMPLE - 1] = 0
        self.register_buffer("mask", seen.flatten(0, 1), persistent=False)
        self.middles = nn.ModuleList(nn.Linear(half, half) for _ in "cf")
        self.lasts = nn.ModuleList(nn.Linear(half, self.values) for _ in "cf")

    def scaled(self, parts: Tensor) -> Tensor:
        """Parts of codes as inputs in [-1, 1]."""
        return parts.to(self.gru.weight_hh_l0) * (2 / (self.values - 1)) - 1

    def labelled(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Inputs [B, ..., 3] with those of the class."""
        if not self.classes:
            return x
        labels = torch.full((len(x),), -1, device=x.device) if labels is None else labels
        units = TF.one_hot(torch.where(labels < 0, self.classes, labels), self.classes + 1).to(x)
        return torch.cat([x, units.reshape(len(x), *[1] * (x.ndim - 2), -1).expand(*x.shape[:-1], -1)], -1)

    def _states(self, codes: Tensor, labels: Tensor | None) -> Tensor:
        """States [B, T, D]."""
        before = TF.pad(codes[:, :-1], (1, 0), value=self.levels // 2)
        parts = torch.stack([before // self.values, before % self.values, codes // self.values], 2)
        gru, x = self.gru, self.labelled(self.scaled(parts), labels)
        weights = [gru.weight_ih_l0 * self.mask, gru.weight_hh_l0, gru.bias_ih_l0, gru.bias_hh_l0]
        start = x.new_zeros(1, len(x), self.dim)
        states: Tensor = torch.gru(x, start, weights, True, 1, 0.0, torch.is_grad_enabled(), False, True)[0]
        return states

    def hidden(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        return self._states(values, labels).transpose(1, 2)

    def part(self, state: Tensor, k: int) -> Tensor:
        """Logits [..., K] of the coarse (0) or fine (1) part, of states [..., D]."""
        half = self.dim // 2
        logits: Tensor = self.lasts[k](torch.relu(self.middles[k](state[..., k * half : (k + 1) * half])))
        return logits

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [B, 2, K, T] of the coarse and the fine part of the codes, of hidden states [B, D, T]."""
        states = hidden.transpose(1, 2)
        return torch.stack([self.part(states, k) for k in range(2)], 1).transpose(2, 3)

    def loss(self, values: Tensor, labels: Tensor | None = None, reduction: str = "mean") -> Tensor:
        counted = values != IGNORED
        states, codes = self._states(values.clamp(min=0), labels)[counted], values[counted]
        total = states.new_zeros(())
        with unsharded():  # the trainer weights the means of all processes by their terms
            for k, targets in enumerate((codes // self.values, codes % self.values)):
                last: Any = self.lasts[k]
                rows = torch.relu(self.middles[k](states.chunk(2, 1)[k]))
                total = total + F.linear_cross_entropy(rows, last.weight, targets, last.bias, reduction=reduction)
        return total

    def sampler(self, rows: int, label: int | None = None, backend: str | None = None) -> Any:
        fused = use_kernel(self.gru.weight_hh_l0, backend)
        return _fused(self, rows, label) if fused else _Steps(self, rows, label)


@torch.no_grad()
def _fused(network: WaveRNNNetwork, rows: int, label: int | None) -> Any:
    """The kernel with a copy of the weights, [inputs, outputs] each; outputs of the gates: halves x gates x units."""
    assert extension._C is not None
    gru, half = network.gru, network.dim // 2

    def gates(weight: Tensor) -> np.ndarray:
        """Gates [3 D, ...] to halves x gates x units, the last dimension."""
        ordered = weight.unflatten(0, (3, 2, half)).transpose(0, 1).flatten(0, 2)
        return np.ascontiguousarray(ordered.movedim(0, -1).numpy())

    def packed(tensors: list[Tensor]) -> np.ndarray:
        return np.ascontiguousarray(torch.stack(tensors).numpy())

    inputs, bias = gru.weight_ih_l0 * network.mask, gru.bias_ih_l0
    if network.classes:
        bias = bias + inputs[:, SAMPLE + (network.classes if label is None else label)]
    middles: Any = network.middles
    lasts: Any = network.lasts
    return extension._C.GruSampler(
        gates(gru.weight_hh_l0),
        gates(gru.bias_hh_l0),
        gates(inputs[:, :SAMPLE]),
        gates(bias),
        packed([layer.weight.T for layer in middles]),
        packed([layer.bias for layer in middles]),
        packed([layer.weight.T for layer in lasts]),
        packed([layer.bias for layer in lasts]),
        rows,
    )


class _Steps:
    """The sampler in torch operations: the state and the last code of every row."""

    def __init__(self, network: WaveRNNNetwork, rows: int, label: int | None) -> None:
        weight = network.gru.weight_hh_l0
        self.network, self.position = network, 0
        self.state = weight.new_zeros(rows, network.dim)
        self.previous = torch.full((rows,), network.levels // 2, device=weight.device)
        self.labels = torch.full((rows,), -1 if label is None else label, device=weight.device)

    @torch.no_grad()
    def run(self, codes: np.ndarray, given: int, temperature: float, seed: int, logits: Any = None) -> None:
        n: Any = self.network
        gru, half = n.gru, n.dim // 2
        for t in range(codes.shape[1]):
            known = torch.from_numpy(codes[:, t].astype(np.int64)).to(self.state.device) if t < given else None
            recurrent = TF.linear(self.state, gru.weight_hh_l0, gru.bias_hh_l0).unflatten(1, (3, n.dim))
            found: list[Tensor] = []
            for k in range(2):  # the second half waits for the coarse part
                coarse = found[0] if k else torch.zeros_like(self.previous)
                parts = torch.stack([self.previous // n.values, self.previous % n.values, coarse], 1)
                x = n.labelled(n.scaled(parts), self.labels)
                x = TF.linear(x, gru.weight_ih_l0 * n.mask, gru.bias_ih_l0).unflatten(1, (3, n.dim))
                own = slice(k * half, (k + 1) * half)
                reset, update = torch.sigmoid(x[:, :2, own] + recurrent[:, :2, own]).unbind(1)
                new = torch.tanh(x[:, 2, own] + reset * recurrent[:, 2, own])
                self.state[:, own] = update * self.state[:, own] + (1 - update) * new
                scores = n.part(self.state, k)
                if logits is not None:
                    logits[:, t, k] = scores.cpu().numpy()
                if known is None:
                    found.append(draw(scores, seed, 2 * self.position + k, temperature))
                else:
                    found.append(known % n.values if k else known // n.values)
            self.previous = found[0] * n.values + found[1]
            if known is None:
                codes[:, t] = self.previous.cpu().numpy()
            self.position += 1
