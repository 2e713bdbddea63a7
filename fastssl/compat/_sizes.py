"""Small batches on a GPU run the library's own code: a step then takes as long as the host needs to launch its kernels,
and the library launches fewer. So do losses of few rows against few classes on a CPU, which are one small
cross-entropy, few pairs, few distances, and few covariances.

A loss is fused from as many rows on as its own code holds so much in one tensor that it takes longer (measured on an
H100). Rows are those of the largest matrix that takes part: embeddings, references, weights of classes, a memory bank.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Any

import torch
from torch import Tensor

from fastssl.compat._dtypes import parts, tensors
from fastssl.compat._peer import NotFused
from fastssl.distributed.shards import current
from fastssl.ops.backend import resolve

# What the library's own code holds, by rows N.
MATRIX = 8192  # [N, N]
MASKED_MATRICES = 4096  # several [N, N], of which masks select
HISTOGRAMS = 512  # [N, N, bins]
TRIPLETS = 256  # all triplets of a batch
PAIRS_OF_PAIRS = 64  # [positive pairs, negative pairs]
SCORES = 1 << 17  # of rows and classes, from which kernels of a CPU are faster
DIFFERENCES = 1 << 22  # of features of two rows, likewise
COVARIANCES = 1 << 18  # of two features, likewise


def require_rows(least: int, loss: Any, given: Any, known: Container[str]) -> None:
    """Raises NotFused for a call whose kernels are a GPU's and whose matrices all have fewer than ``least`` rows.

    ``given``: the other arguments; ``known``: names of the classes of which ``loss`` may have parts. Calls that gather
    the rows of other processes are no small ones.
    """
    if not least or gathers(loss) or current() is not None:
        return
    matrices = [t for t in tensors(given) if t.dim() == 2]
    if not matrices or not all(map(_on_gpu, matrices)):
        return
    if max(len(t) for t in matrices) < least and all(size < least for size in _own_sizes(loss, known)):
        raise NotFused(f"fewer than {least:,} rows on a GPU (min_rows)")


def require_scores(loss: Any, given: Any) -> None:
    """Raises NotFused for a call whose kernels are a CPU's, with few scores of rows and classes.

    ``loss`` has a matrix of one vector per class; ``given``: the other arguments.
    """
    values = sum(t.numel() for t in loss._parameters.values() if t is not None and t.dim() == 2)
    _require(given, lambda rows, _: len(rows) * values // max(1, rows.shape[1]), SCORES, "scores of rows and classes")


def require_pairs(rows: int, given: Any) -> None:
    """Likewise, with fewer pairs than those of so many rows with each other: the checks of a call take longer than the
    original."""
    _require(given, lambda first, longest: len(first) * longest, rows * rows, "pairs of rows")


def require_differences(loss: Any, given: Any) -> None:
    """Likewise, with few distances of rows to each other, which the original computes one by one."""
    _require(given, lambda rows, _: len(rows) * rows.numel(), DIFFERENCES, "differences of features")


def require_covariances(loss: Any, given: Any) -> None:
    """Likewise, with a small matrix of covariances."""
    _require(given, lambda rows, _: rows.shape[1] ** 2, COVARIANCES, "covariances")


def _require(given: Any, work: Callable[[Tensor, int], int], least: int, what: str) -> None:
    """``work`` of the first matrix that is given, and the rows of the longest, where kernels of a CPU are those that
    run. Little is looked at: all of it is added to the time of a call of a few hundred microseconds."""
    args, kwargs = given
    first, longest = None, 0
    for t in (*args, *kwargs.values()):
        if isinstance(t, Tensor) and t.dim() == 2 and t.is_floating_point():
            first, longest = t if first is None else first, max(longest, t.shape[0])
    if first is None or not first.is_cpu or work(first, longest) >= least:
        return
    if resolve(first.device, None) != "triton":
        raise NotFused(f"fewer than {least:,} {what} on a CPU (min_rows)")


def _on_gpu(rows: Tensor) -> bool:
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    return rows.device.type in ("cpu", "cuda") and rows.dtype in dtypes and resolve(rows.device, None) == "triton"


def gathers(loss: Any) -> bool:
    """Whether a loss gathers the rows of other processes itself."""
    flags = ("gather_distributed", "gather_across_devices")
    return any(getattr(loss, name, False) for name in flags) or getattr(loss, "world_size", 1) > 1


def _own_sizes(loss: Any, known: Container[str]) -> Iterable[int]:
    """The longer side of every matrix that an object and its parts hold."""
    for values in (loss._parameters.values(), loss._buffers.values()):
        yield from (max(t.shape) for t in values if t is not None and t.dim() == 2)
    for part in parts(loss, known).values():
        yield from _own_sizes(part, known)
