"""Rows of very different lengths: a long row costs the others no digits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fastssl.functional as F

N, M, D, LONGER = 70, 90, 24, 300.0
X_IDS, Y_IDS = torch.arange(N) % 7, torch.arange(M) % 7


def _rows(seed: int, n: int) -> Tensor:
    x = torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float32) / D**0.5
    x[0] *= LONGER
    return x


def _pairs() -> tuple[Tensor, ...]:
    same = X_IDS[:, None] == Y_IDS[None, :]
    drawn = torch.rand(N, M, generator=torch.Generator().manual_seed(5)) < 0.5
    return (*(same & drawn).nonzero(as_tuple=True), *(~same & drawn).nonzero(as_tuple=True))


def _within(function: Callable[..., Tensor], **fixed: Any) -> Callable[..., Tensor]:
    return lambda x, y, **o: function(x, X_IDS, **fixed, **o)


def _against(function: Callable[..., Tensor], **fixed: Any) -> Callable[..., Tensor]:
    return lambda x, y, **o: function(x, X_IDS, ref_emb=y, ref_labels=Y_IDS, **fixed, **o)


def _listed(function: Callable[..., Tensor], **fixed: Any) -> Callable[..., Tensor]:
    return lambda x, y, **o: function(x, None, indices_tuple=_pairs(), ref_emb=y, **fixed, **o)


LABELLED: dict[str, tuple[Callable[..., Tensor], dict[str, Any]]] = {
    "sup_con": (F.sup_con, {"temperature": 1.0, "normalize": False}),
    "multi_nt_xent": (F.multi_nt_xent, {"temperature": 1.0, "normalize": False}),
    "mil_nce": (F.mil_nce, {"temperature": 1.0, "normalize": False}),
    "soft_nearest_neighbor": (F.soft_nearest_neighbor, {}),
    "nca": (F.nca, {}),
    "multi_similarity": (F.multi_similarity, {"beta": 5.0, "normalize": False}),
    "circle": (F.circle, {"gamma": 4.0, "normalize": False}),
    "generalized_lifted_structure": (F.generalized_lifted_structure, {}),
}
CASES: dict[str, Callable[..., Tensor]] = {
    f"{name}, {way}": how(function, **fixed)
    for name, (function, fixed) in LABELLED.items()
    for way, how in (("within", _within), ("against", _against), ("listed", _listed))
} | {
    "info_nce": lambda x, y, **o: F.info_nce(x, y[:N], temperature=1.0, normalize=False, **o),
    "info_nce, queue": lambda x, y, **o: F.info_nce(x, y[:N], y, temperature=1.0, normalize=False, **o),
    "nt_xent": lambda x, y, **o: F.nt_xent(x, y[:N], temperature=1.0, normalize=False, **o),
    "clip_loss": lambda x, y, **o: F.clip_loss(x, y[:N], 1.0, **o),
    "siglip_loss": lambda x, y, **o: F.siglip_loss(x, y[:N], 1.0, -1.0, **o),
    "n_pair": lambda x, y, **o: F.n_pair(x, y[:N], **o),
    "linear_cross_entropy": lambda x, y, **o: F.linear_cross_entropy(x, y, X_IDS, **o),
    "ranked_list, within": _within(F.ranked_list, normalize=False, alpha=3.0),
    "ranked_list, against": _against(F.ranked_list, normalize=False, alpha=3.0),
}


def assert_rows_keep_their_digits(name: str, backend: str | None, seeds: int) -> None:
    """RMS error of the short rows' losses against float64: at most 1.5 times that of the formula in fp32."""
    call, squares = CASES[name], [0.0, 0.0]
    for seed in range(seeds):
        x, y = _rows(seed, N), _rows(50 + seed, M)
        right = call(x.double(), y.double(), reduction="none", backend="reference")
        short = torch.arange(len(right)) % N != 0
        unit = torch.finfo(torch.float32).eps * (1 + right.abs())
        for way, computed in enumerate((backend, "reference")):
            error = (call(x, y, reduction="none", backend=computed).double() - right) / unit
            squares[way] += float(error[short].square().mean()) / seeds
    ours, eager = (s**0.5 for s in squares)
    assert ours <= 1.5 * eager + 0.5, (ours, eager)


@pytest.mark.parametrize("name", CASES)
def test_a_long_row_costs_the_others_no_digits(isa: str, name: str) -> None:
    assert_rows_keep_their_digits(name, None, 4)


@pytest.mark.parametrize("name", [name for name in CASES if "listed" not in name])
def test_a_long_row_costs_the_others_no_digits_on_triton(name: str) -> None:
    pytest.importorskip("triton")
    assert_rows_keep_their_digits(name, "triton", 1)
