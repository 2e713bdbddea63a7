"""Cross-batch memory with masks and miners, against pytorch-metric-learning's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fastssl import losses

pml = pytest.importorskip("pytorch_metric_learning")
from pytorch_metric_learning import losses as theirs  # noqa: E402
from pytorch_metric_learning import miners  # noqa: E402

MINERS: dict[str, Callable[[], Any]] = {
    "pairs": lambda: miners.PairMarginMiner(pos_margin=0.2, neg_margin=0.8),
    "multi-similarity": lambda: miners.MultiSimilarityMiner(epsilon=0.5),
    "triplets": lambda: miners.TripletMarginMiner(margin=0.3),
}


def batches(count: int = 5) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.randn(12, 6, requires_grad=True), torch.arange(12) % 4) for _ in range(count)]


def compare(ours: torch.nn.Module, peer: torch.nn.Module, **given: Any) -> None:
    for x, y in batches():
        results = []
        for loss in (ours, peer):
            value = loss(x, y, **given)
            results.append((value, *torch.autograd.grad(value, x)))
        for a, b in zip(*results):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("memory", [12, 20, 96])
def test_rows_that_are_only_stored(memory: int) -> None:
    """MoCo: queries against the keys of this batch and of those before."""
    mask = torch.arange(12) >= 6
    compare(
        losses.CrossBatchMemory(losses.SupConLoss(temperature=0.2), 6, memory),
        theirs.CrossBatchMemory(theirs.SupConLoss(temperature=0.2), 6, memory),
        enqueue_mask=mask,
    )


@pytest.mark.parametrize("memory", [12, 20, 96])
@pytest.mark.parametrize("name", MINERS)
def test_a_miner_over_batch_and_memory(name: str, memory: int) -> None:
    own = losses.TripletMarginLoss(margin=0.1, normalize=True, reduction="active")
    peer = theirs.TripletMarginLoss(margin=0.1)
    compare(
        losses.CrossBatchMemory(own, 6, memory, miner=MINERS[name]()),
        theirs.CrossBatchMemory(peer, 6, memory, miner=MINERS[name]()),
    )


@pytest.mark.parametrize("mask", [torch.ones(5, dtype=torch.bool), torch.arange(12)])
def test_a_mask_that_fits_no_batch_is_named(mask: torch.Tensor) -> None:
    x, y = batches(1)[0]
    with pytest.raises(ValueError, match="enqueue_mask: expected 12 booleans"):
        losses.CrossBatchMemory(losses.SupConLoss(), 6, 20)(x, y, enqueue_mask=mask)
