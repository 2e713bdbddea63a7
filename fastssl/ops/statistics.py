"""Statistics of the rows of a matrix of scores: what a loss on labelled rows is a formula over.

Each is a dataclass of its parameters, numbers or tensors of one element, which have gradients; ``names`` are its
results, one value per row (see :meth:`fastssl.functional._pairs.Pairs.reduce`). s_ij: the score of row i and column j.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

import torch
from torch import Tensor

from fastssl._table import OUTPUTS, RowLoss

Value = Tensor | float


class Over(IntEnum):
    """Pairs of a row that a sum is over."""

    nothing = 0
    positives = 1
    negatives = 2
    both = 3


POSITIVES, NEGATIVES, BOTH = Over.positives, Over.negatives, Over.both


@dataclass(frozen=True)
class Statistic:
    """``kernel``: which one computes it; its parameters are the fields in their order."""

    kernel: ClassVar[RowLoss]
    __match_args__: ClassVar[tuple[str, ...]]  # the fields' names, which ``dataclass`` sets

    @property
    def names(self) -> tuple[str, ...]:
        return OUTPUTS[self.kernel]

    def values(self) -> list[Value]:
        given = [getattr(self, name) for name in self.__match_args__]  # (Dynamo of torch 2.11 cannot read __dict__)
        return [v if isinstance(v, Tensor) else torch.sym_float(v) for v in given]


@dataclass(frozen=True)
class LogSumExps(Statistic):
    """Two log-sum-exps over parts of each row.

    ``self_paced``: the logits of circle loss, whose shift is its margin m: -scale max(1 + m - s, 0) (s - 1 + m) for
    positives and scale max(s + m, 0) (s - m) for negatives, with constants for the factors max(...).
    """

    kernel = RowLoss.lse
    first: LogSumExp
    second: LogSumExp
    self_paced: bool = False

    def values(self) -> list[Value]:
        a, b = self.first, self.second
        return [a.scale, b.scale, a.shift, b.shift, float(a.over.value), float(b.over.value), float(self.self_paced)]


@dataclass(frozen=True)
class LogSumExp(Statistic):
    """``value``: log of the sum of exp(scale s_ij + shift) over some pairs of each row; -inf where there are none."""

    kernel = RowLoss.lse
    scale: Value
    shift: Value = 0.0
    over: Over = BOTH

    @property
    def names(self) -> tuple[str, ...]:
        return ("value",)

    def values(self) -> list[Value]:
        return LogSumExps(self, LogSumExp(0.0, 0.0, Over.nothing)).values()


@dataclass(frozen=True)
class Hinge(Statistic):
    """``positive``: sum over positives of max(0, u)^power, u = sign (s - above - v_i); ``positive_active``: how many
    u > 0; the same over negatives with u = sign (below + v_i - s). v: ``row_value``, or 0. power: 1 or 2."""

    kernel = RowLoss.hinge
    sign: float
    above: Value
    below: Value
    power: float = 1.0


@dataclass(frozen=True)
class SoftplusPerPositive(Statistic):
    """``total``: sum over positives of softplus(lse - scale phi(s)), ``lse``: over negatives of scale s.

    phi(s) = cos(arccos s - margin); s where the margin is the number 0.
    """

    kernel = RowLoss.softplus
    scale: Value
    margin: Value = 0.0


@dataclass(frozen=True)
class Triplets(Statistic):
    """``total``: sum over positives p and negatives n of max(0, z) or softplus(z), z = sign (s_ip - s_in) + margin;
    ``active``: how many z > 0."""

    kernel = RowLoss.triplet
    sign: float
    margin: Value
    smooth: bool = False


@dataclass(frozen=True)
class HardestPair(Statistic):
    """``positive``: the largest sign s over positives, ``negative``: the smallest over negatives, and their columns
    (-1: none)."""

    kernel = RowLoss.extreme
    sign: float


@dataclass(frozen=True)
class SemihardTriplets(Statistic):
    """``total``: sum over positives of max(0, z), z = sign s_ip - d + margin, d: the smallest sign s_in > sign s_ip of
    the negatives, else the largest; ``active``: how many z > 0."""

    kernel = RowLoss.semihard
    sign: float
    margin: Value


@dataclass(frozen=True)
class LiftedPairs(Statistic):
    """``lse``: L_i, over negatives of margin - sign s; ``total``: sum over positives of max(0, J)^2 (``squared``) or J,
    J_ij = sign s_ij + shift + log(exp L_i + exp L_j); ``active``: how many J > 0."""

    kernel = RowLoss.lifted
    sign: float
    margin: Value
    shift: Value = 0.0
    squared: bool = True


@dataclass(frozen=True)
class AveragePrecision(Statistic):
    """``value``: FastAP's sum over the bins of a soft histogram on [0, largest] of h+ H+ / H."""

    kernel = RowLoss.fast_ap
    bins: int
    largest: float


@dataclass(frozen=True)
class RankedList(Statistic):
    """``positive``: sum w u / (sum w + constant) over u = s - (alpha - margin) > 0, w = exp(positive_temperature u);
    ``negative``: over u = alpha - s > 0, w = exp(negative_temperature u)."""

    kernel = RowLoss.ranked_list
    alpha: Value
    margin: Value
    positive_temperature: Value
    negative_temperature: Value
    constant: float
