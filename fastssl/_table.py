"""The numbers that Python, C++ and Triton share. csrc/core/make_table.py makes the enumerations of C++ from this file
when the extension is built, kernels/ import it: nothing is numbered twice."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any


class Metric(IntEnum):
    """Scores of pairs of rows."""

    dot = 0
    sqeuclidean = 1
    euclidean = 2
    manhattan = 3
    chebyshev = 4
    given = 5  # x is the matrix of scores itself


class RowLoss(IntEnum):
    """Statistics of rows of scores: csrc/row, a file each; fastssl/ops/statistics.py says what they are."""

    lse = 0
    hinge = 1
    softplus = 2
    triplet = 3
    extreme = 4
    semihard = 5
    lifted = 6
    fast_ap = 7
    ranked_list = 8


# What each gives for a row.
OUTPUTS: dict[RowLoss, tuple[str, ...]] = {
    RowLoss.lse: ("first", "second"),
    RowLoss.hinge: ("positive", "positive_active", "negative", "negative_active"),
    RowLoss.softplus: ("total", "lse"),
    RowLoss.triplet: ("total", "active"),
    RowLoss.extreme: ("positive", "negative", "positive_column", "negative_column"),
    RowLoss.semihard: ("total", "active"),
    RowLoss.lifted: ("lse", "total", "active"),
    RowLoss.fast_ap: ("value",),
    RowLoss.ranked_list: ("positive", "negative"),
}
PARAMETERS = 12  # of a statistic, at most
MAX_BINS = 64  # of fast_ap


class Positives(IntEnum):
    """Which pairs of the pair matrix are positive."""

    diagonal = 0  # (i, i)
    halves = 1  # x against itself: (i, i + n / 2), and back
    targets = 2  # (i, ids[i]); none where ids[i] is ignore_index
    classes = 3  # x against itself: all rows with the id of row i


class Closing(IntEnum):
    """From a row's sums to its loss (csrc/pair/loss.cpp, kernels/ends.py)."""

    cross_entropy = 0  # softplus(log-sum over the others - the partner's score)
    sup_con = 1  # the same where a row has one positive; else log-sum - mean of the positives' scores
    sigmoid_loss = 2  # sum of softplus + softplus(-the partner's score)
    decoupled = 3  # log-sum over the others - the partner's score
    log_sum = 4  # log-sum over the others


# Of rows with one positive, for torch: the loss from the log-sum over the others, the partner's score, and softplus.
VALUES: dict[Closing, Callable[[Any, Any, Callable[[Any], Any]], Any]] = {
    Closing.cross_entropy: lambda lse, score, softplus: softplus(lse - score),
    Closing.decoupled: lambda lse, score, softplus: lse - score,
    Closing.log_sum: lambda lse, score, softplus: lse,
}


class Keep(IntEnum):
    """What the forward pass of the pair matrix keeps for the backward pass."""

    nothing = 0  # tiles are computed again
    tiles = 1  # the tiles of the forward pass
    attention = 2  # sum_j e_ij y_j, where only x needs a gradient: no matrix product is left
    gradients = 3  # of all inputs for an upstream gradient of 1, where the loss is one value
    products = 4  # sum_j g_ij y_j and sum_i g_ij x_i of the same, before positives, scale and lengths of rows


class Reduction(IntEnum):
    none = 0
    sum = 1
    mean = 2


# What Triton's kernels are made for: constants of kernels/.


class TileEpilogue(IntEnum):
    """What a kernel makes of a tile of scores (kernels/epilogues.py)."""

    sums = 0  # log-sums of exponentials: the softmax of the pair matrix
    sigmoid = 1  # sums of softplus
    lse = 2
    hinge = 3
    softplus = 4
    lifted = 5
    lifted_pull = 6
    extreme = 7
    ranked_list = 8
    matrix = 9  # dL/ds is given, a matrix
    fast_ap = 10  # slopes from a table of bins (histogram.py)


class Pairing(IntEnum):
    """How a kernel knows the positives of a tile."""

    all = 0  # no positives; every pair is a negative, unless it is a partner
    ids = 1  # rows of equal ids
    bits = 2  # listed pairs
    distinct = 3  # no positives; rows of equal ids are no pair


class Itself(IntEnum):
    """A row itself among the columns."""

    nowhere = 0
    diagonal = 1
    offset = 2  # row i is column (offset + i) % m
