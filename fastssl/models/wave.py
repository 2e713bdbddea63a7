"""Networks of waveforms: what they share, and the dilated causal one of WaveNet (van den Oord et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as TF
from torch import Tensor, nn

import fastssl.functional as F
from fastssl.distributed.shards import unsharded
from fastssl.models.drawing import check_sampling, checked, condition, draw
from fastssl.models.signal import SignalNetwork
from fastssl.ops import extension

IGNORED = -100  # of codes: not predicted
STRIDE = 1024  # steps between two calls of ``progress``, at which a user may stop


class AudioNetwork(SignalNetwork):
    """A network that predicts every code of a waveform from those before it, p(x) = prod_t p(x_t | x_1, ..., x_{t-1}).

    Attributes:
        levels: number L of codes of a sample: 0 to L - 1.
        classes: number of labels that it is conditioned on; 0: none.
        dim: dimensions of the hidden states, and of features.

    Example:
        >>> from fastssl.models import build_audio
        >>> from fastssl.models.wave import AudioNetwork
        >>> isinstance(build_audio({"name": "wavenet", "depth": 4}), AudioNetwork)
        True
    """

    levels: int
    classes: int

    def hidden(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        """Hidden states [B, D, T] of codes int64 [B, T]; labels [B] of a conditioned network, -1: unknown."""
        raise NotImplementedError

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [B, L, T] of the codes, of hidden states [B, D, T]."""
        raise NotImplementedError

    def forward(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits [B, L, T]: those of each code depend on the codes before it alone."""
        return self.head(self.hidden(values, labels))

    def loss(self, values: Tensor, labels: Tensor | None = None, reduction: str = "mean") -> Tensor:
        """Negative log-likelihood of the codes, in nats: their mean or sum, without those that are -100."""
        raise NotImplementedError

    def sampler(self, rows: int, label: int | None = None, backend: str | None = None) -> Any:
        """Draws or predicts codes of ``rows`` rows with what is kept of the steps before instead of the whole network.

        Its method ``run(codes, given, temperature, seed, logits=None)`` goes on for the steps of an int32 array [rows,
        steps]: it reads the first ``given`` codes, and draws and writes the others; ``logits``, float32 [rows, steps,
        ...], are filled. Row r of step t depends on (seed, t, r) and the codes before it.

        Args:
            rows: number of rows.
            label: the class that all rows are conditioned on; None: any.
            backend: "cpu", the fused kernel, in float32; "reference", the same in torch operations; None: "cpu" where
                the weights are float32 on the CPU.

        Raises:
            ValueError: an unknown backend, weights elsewhere, or missing kernels.
        """
        raise NotImplementedError

    @torch.no_grad()
    def sample(
        self,
        count: int,
        steps: int,
        *,
        prompt: np.ndarray | None = None,
        temperature: float = 1.0,
        label: int | None = None,
        seed: int = 0,
        backend: str | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Draws codes one after the other: int32 [count, T + steps].

        Args:
            count: number of rows. Row r depends on (seed, r) alone.
            steps: number of codes to draw.
            prompt: codes [T] that every row begins with; None: none.
            temperature: 0: the most probable code.
            label: the class that the rows are conditioned on; None: any.
            seed: seed of all draws.
            backend: as for :meth:`sampler`.
            progress: called with the number of codes so far, and of all.

        Raises:
            ValueError: a number out of range, another shape of the prompt, or a label of a network without classes.
        """
        check_sampling(count, temperature, label, self.classes)
        checked("steps", steps, 1, 1 << 40)
        start = np.zeros(0, np.int32) if prompt is None else np.asarray(prompt)
        if start.ndim != 1:
            raise ValueError(f"prompt: expected codes [T], the same for every row, got shape {list(start.shape)}")
        if len(start) and (start.dtype.kind not in "iu" or not 0 <= start.min() <= start.max() < self.levels):
            raise ValueError(f"prompt: expected codes from 0 to {self.levels - 1}")
        codes = np.zeros((count, len(start) + steps), np.int32)
        codes[:, : len(start)] = start
        sampler = self.sampler(count, label, backend)
        for first in range(0, codes.shape[1], STRIDE):
            part = np.ascontiguousarray(codes[:, first : first + STRIDE])
            sampler.run(part, min(max(len(start) - first, 0), part.shape[1]), temperature, seed)
            codes[:, first : first + STRIDE] = part
            if progress is not None:
                progress(first + part.shape[1], codes.shape[1])
        return codes

    def features(self, values: Tensor) -> Tensor:
        """Features [B, D]: the mean of the hidden states."""
        return self.hidden(values).mean(2)


def use_kernel(weight: Tensor, backend: str | None) -> bool:
    """Whether a sampler runs in the fused kernel.

    Raises:
        ValueError: an unknown backend, or one that cannot take the weights.
    """
    usable = weight.device.type == "cpu" and weight.dtype == torch.float32 and extension._C is not None
    if backend not in (None, "cpu", "reference"):
        raise ValueError(f"backend: expected 'cpu', 'reference' or None, got {backend!r}")
    if backend == "cpu" and not usable:
        why = extension.reason or f"the weights are {weight.dtype} on {weight.device}, expected float32 on the CPU"
        raise ValueError(f"backend: {why}")
    return backend != "reference" and usable


class WaveNetNetwork(AudioNetwork):
    """Dilated causal convolutions with gates, residual and skip connections, on codes of samples.

    Code t is predicted from the ``receptive`` codes before it; the first one from silence, level L / 2.

    Args:
        levels: number L of codes, 2 to 256.
        width: channels of the residual connections.
        skip: channels of the skip connections and of the head.
        depth: number of layers. Their dilations are 1, 2, 4, ..., 2^(cycle - 1), 1, 2, ...
        cycle: layers until the dilations start again.
        classes: number of labels to be conditioned on; 0: none.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> import torch
        >>> from fastssl.models import WaveNetNetwork
        >>> network = WaveNetNetwork(width=8, skip=16, depth=4, cycle=4)
        >>> network.receptive, network(torch.zeros(2, 50, dtype=torch.int64)).shape
        (16, torch.Size([2, 256, 50]))

    Source: van den Oord et al., WaveNet: A Generative Model for Raw Audio, 2016.
    """

    name: ClassVar[str] = "wavenet"

    def __init__(
        self, levels: int = 256, width: int = 32, skip: int = 64, depth: int = 20, cycle: int = 10, classes: int = 0
    ) -> None:
        super().__init__()
        self.levels, self.classes = checked("levels", levels, 2, 256), checked("classes", classes, 0)
        self.dim, width = checked("skip", skip, 1), checked("width", width, 1)
        cycle, depth = checked("cycle", cycle, 1, 16), checked("depth", depth, 1, 1024)
        self.dilations = [1 << k % cycle for k in range(depth)]
        self.receptive = 1 + sum(self.dilations)
        self.embed = nn.Embedding(levels, width)
        # A dilated convolution of two taps is a product with the activation some steps ago and the present one.
        self.gates = nn.ModuleList(nn.Linear(2 * width, 2 * width) for _ in self.dilations)
        self.outs = nn.ModuleList(nn.Linear(width, width + skip) for _ in self.dilations)
        self.tables = nn.ModuleList(nn.Embedding(classes + 1, 2 * width) for _ in self.dilations if classes)
        self.middle, self.last = nn.Linear(skip, skip), nn.Linear(skip, levels)

    def _skips(self, values: Tensor, labels: Tensor | None) -> Tensor:
        """The sum of the skip connections, [B, T, skip]."""
        x = self.embed(TF.pad(values[:, :-1], (1, 0), value=self.levels // 2))
        skips: Any = 0
        for k, (dilation, gate, out) in enumerate(zip(self.dilations, self.gates, self.outs)):
            past = TF.pad(x, (0, 0, dilation, 0))[:, : x.shape[1]]
            z = gate(torch.cat([past, x], 2))
            given = condition(self.tables[k] if self.classes else None, labels, len(x), x.device)  # type: ignore[arg-type]
            a, b = (z if given is None else z + given[:, None]).chunk(2, 2)
            new, skip = out(torch.tanh(a) * torch.sigmoid(b)).split([x.shape[2], self.dim], 2)
            x, skips = x + new, skips + skip
        result: Tensor = torch.relu(skips)
        return result

    def hidden(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        return self._skips(values, labels).transpose(1, 2)

    def head(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.last(torch.relu(self.middle(hidden.transpose(1, 2))))
        return logits.transpose(1, 2)

    def loss(self, values: Tensor, labels: Tensor | None = None, reduction: str = "mean") -> Tensor:
        counted = values != IGNORED
        rows = torch.relu(self.middle(self._skips(values.clamp(min=0), labels)[counted]))
        with unsharded():  # the trainer weights the means of all processes by their terms
            return F.linear_cross_entropy(rows, self.last.weight, values[counted], self.last.bias, reduction=reduction)

    def sampler(self, rows: int, label: int | None = None, backend: str | None = None) -> Any:
        fused = use_kernel(self.last.weight, backend)
        return _fused(self, rows, label) if fused else _Queues(self, rows, label)

    def gate_biases(self, label: int | None) -> list[Tensor]:
        """The bias of each layer's gate, given the class."""
        gates: Any = self.gates
        tables: Any = self.tables
        row = self.classes if label is None else label
        if not self.classes:
            return [gate.bias for gate in gates]
        return [gate.bias + table.weight[row] for gate, table in zip(gates, tables)]


@torch.no_grad()
def _fused(network: WaveNetNetwork, rows: int, label: int | None) -> Any:
    """The kernel with a copy of the weights, [inputs, outputs] each."""
    assert extension._C is not None

    def packed(tensors: list[Tensor]) -> np.ndarray:
        return np.ascontiguousarray(torch.stack(tensors).numpy())

    gates: Any = network.gates
    outs: Any = network.outs
    return extension._C.WaveSampler(
        network.embed.weight.numpy(),
        packed([gate.weight.T for gate in gates]),
        packed(network.gate_biases(label)),
        packed([out.weight.T for out in outs]),
        packed([out.bias for out in outs]),
        packed([network.middle.weight.T])[0],
        network.middle.bias.numpy(),
        packed([network.last.weight.T])[0],
        network.last.bias.numpy(),
        network.dilations,
        rows,
    )


class _Queues:
    """The sampler in torch operations."""

    def __init__(self, network: WaveNetNetwork, rows: int, label: int | None) -> None:
        weight = network.embed.weight
        self.network, self.biases, self.position = network, network.gate_biases(label), 0
        self.previous = torch.full((rows,), network.levels // 2, device=weight.device)
        self.queues = [weight.new_zeros(d, rows, weight.shape[1]) for d in network.dilations]

    @torch.no_grad()
    def run(self, codes: np.ndarray, given: int, temperature: float, seed: int, logits: Any = None) -> None:
        n: Any = self.network
        for t in range(codes.shape[1]):
            x, skips = n.embed(self.previous), 0
            for queue, bias, gate, out in zip(self.queues, self.biases, n.gates, n.outs):
                slot = self.position % len(queue)
                past = queue[slot].clone()
                queue[slot] = x
                a, b = TF.linear(torch.cat([past, x], 1), gate.weight, bias).chunk(2, 1)
                new, skip = out(torch.tanh(a) * torch.sigmoid(b)).split([x.shape[1], n.dim], 1)
                x, skips = x + new, skips + skip
            scores = n.head(torch.relu(skips)[:, :, None])[:, :, 0]  # type: ignore[arg-type]
            if logits is not None:
                logits[:, t] = scores.cpu().numpy()
            if t < given:
                self.previous = torch.from_numpy(codes[:, t].astype(np.int64)).to(scores.device)
            else:
                self.previous = draw(scores, seed, self.position, temperature)
                codes[:, t] = self.previous.cpu().numpy()
            self.position += 1
