"""The losses under test: inputs, the call, and a double loop that says what is right."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import fastssl.functional as F


@dataclass(frozen=True)
class Subject:
    """``make(n, d, temperature, dtype)`` gives the tensors; ``call(*tensors, **options)`` the loss."""

    make: Callable[[int, int, float, torch.dtype], list[Tensor]]
    call: Callable[..., Tensor]
    loop: Callable[..., list[float]]


def _randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def _unit(row: list[float]) -> list[float]:
    length = max(math.sqrt(sum(v * v for v in row)), 1e-12)
    return [v / length for v in row]


def _dot(a: list[float], b: list[float]) -> float:
    return sum(p * q for p, q in zip(a, b))


def _log_sum_exp(values: list[float]) -> float:
    top = max(values)
    return top + math.log(sum(math.exp(v - top) for v in values))


def _rows(*tensors: Tensor) -> list[list[list[float]]]:
    return [[_unit(row) for row in t.tolist()] for t in tensors]


def _loop_info_nce(
    q: Tensor, k: Tensor, t: Tensor, negatives: Tensor | None = None, symmetric: bool = False
) -> list[float]:
    (queries, keys), extra = _rows(q, k), _rows(negatives)[0] if negatives is not None else []
    s = [[_dot(a, b) / float(t) for b in keys + extra] for a in queries]
    rows = [_log_sum_exp(line) - line[i] for i, line in enumerate(s)]
    if not symmetric:
        return rows
    columns = [_log_sum_exp([line[j] for line in s]) - s[j][j] for j in range(len(s))]
    return [(a + b) / 2 for a, b in zip(rows, columns)]


def _loop_nt_xent(z0: Tensor, z1: Tensor, t: Tensor) -> list[float]:
    first, second = _rows(z0, z1)
    z, n = first + second, len(z0)
    result = []
    for i in range(2 * n):
        s = {j: _dot(z[i], z[j]) / float(t) for j in range(2 * n) if j != i}
        result.append(_log_sum_exp(list(s.values())) - s[(i + n) % (2 * n)])
    return result


def _loop_sup_con(z: Tensor, t: Tensor, labels: Tensor) -> list[float]:
    (rows,) = _rows(z)
    y, result = labels.tolist(), []
    for i in range(len(rows)):
        s = {j: _dot(rows[i], rows[j]) / float(t) for j in range(len(rows)) if j != i}
        positives = [s[j] for j in s if y[j] == y[i]]
        mean = sum(positives) / len(positives) if positives else 0.0
        result.append(_log_sum_exp(list(s.values())) - mean if positives else 0.0)
    return result


def _loop_clip(x: Tensor, y: Tensor, scale: Tensor) -> list[float]:
    a, b, n = x.tolist(), y.tolist(), len(x)
    s = [[_dot(p, q) * float(scale) for q in b] for p in a]
    return [(_log_sum_exp(s[i]) - s[i][i] + _log_sum_exp([s[k][i] for k in range(n)]) - s[i][i]) / 2 for i in range(n)]


def _loop_siglip(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> list[float]:
    result = []
    for i, p in enumerate(x.tolist()):
        total = 0.0
        for j, q in enumerate(y.tolist()):
            z = (1 if i == j else -1) * (_dot(p, q) * float(scale) + float(bias))
            total += math.log1p(math.exp(-z)) if z > 0 else math.log1p(math.exp(z)) - z
        result.append(total)
    return result


def _loop_linear(h: Tensor, w: Tensor, b: Tensor, targets: Tensor) -> list[float]:
    result = []
    for row, target in zip(h.tolist(), targets.tolist()):
        logits = [_dot(row, q) + c for q, c in zip(w.tolist(), b.tolist())]
        result.append(0.0 if target == -100 else _log_sum_exp(logits) - logits[target])
    return result


def labels_for(n: int) -> Tensor:
    """Classes of one, two and more rows."""
    y = torch.arange(n) // 3
    y[: n // 4] = torch.arange(n // 4) + 1000
    return y[torch.arange(n) * 7919 % n]  # a permutation: 7919 is prime and larger than any n here


def targets_for(n: int, classes: int) -> Tensor:
    t = torch.arange(n) * 7 % classes
    t[2::5] = -100
    return t


def _pair(n: int, d: int, t: float, dtype: torch.dtype) -> list[Tensor]:
    return [_randn(n, d).to(dtype), _randn(n, d).to(dtype), torch.tensor(t, dtype=dtype)]


def _scaled(n: int, d: int, t: float, dtype: torch.dtype) -> list[Tensor]:
    x, y = (torch.nn.functional.normalize(_randn(n, d), dim=1).to(dtype) for _ in range(2))
    return [x, y, torch.tensor(1 / t, dtype=dtype)]


SUBJECTS: dict[str, Subject] = {
    "nt_xent": Subject(_pair, lambda a, b, t, **o: F.nt_xent(a, b, temperature=t, **o), _loop_nt_xent),
    "info_nce": Subject(_pair, lambda a, b, t, **o: F.info_nce(a, b, temperature=t, **o), _loop_info_nce),
    "info_nce_symmetric": Subject(
        _pair,
        lambda a, b, t, **o: F.info_nce(a, b, temperature=t, symmetric=True, **o),
        lambda a, b, t: _loop_info_nce(a, b, t, symmetric=True),
    ),
    "info_nce_queue": Subject(
        lambda n, d, t, dtype: [
            *_pair(n, d, t, dtype)[:2],
            _randn(2 * n + 1, d).to(dtype),
            torch.tensor(t, dtype=dtype),
        ],
        lambda a, b, c, t, **o: F.info_nce(a, b, c, temperature=t, **o),
        lambda a, b, c, t: _loop_info_nce(a, b, t, negatives=c),
    ),
    "sup_con": Subject(
        lambda n, d, t, dtype: _pair(n, d, t, dtype)[1:],
        lambda a, t, **o: F.sup_con(a, labels_for(len(a)), temperature=t, **o),
        lambda a, t: _loop_sup_con(a, t, labels_for(len(a))),
    ),
    "clip_loss": Subject(_scaled, lambda x, y, s, **o: F.clip_loss(x, y, s, **o), _loop_clip),
    "siglip_loss": Subject(
        lambda n, d, t, dtype: [*_scaled(n, d, t, dtype), torch.tensor(-3.0, dtype=dtype)],
        lambda x, y, s, b, **o: F.siglip_loss(x, y, s, b, **o),
        _loop_siglip,
    ),
    "linear_cross_entropy": Subject(
        lambda n, d, t, dtype: [
            _randn(n, d).to(dtype),
            (_randn(2 * n + 3, d) / (t * d) ** 0.5).to(dtype),
            _randn(2 * n + 3).to(dtype),
        ],
        lambda h, w, b, **o: F.linear_cross_entropy(h, w, targets_for(len(h), len(w)), b, **o),
        lambda h, w, b: _loop_linear(h, w, b, targets_for(len(h), len(w))),
    ),
}


def gradients(subject: Subject, tensors: list[Tensor], **options: Any) -> list[Tensor]:
    """The loss and its gradient for every tensor, as float64; rows are weighted unevenly where they are apart."""
    inputs = [t.detach().clone().requires_grad_() for t in tensors]
    loss = subject.call(*inputs, **options)
    weights = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype).reshape(loss.shape) if loss.dim() else 1.0
    grads = torch.autograd.grad((loss * weights).sum(), inputs)
    return [loss.detach().double(), *(g.double() for g in grads)]
