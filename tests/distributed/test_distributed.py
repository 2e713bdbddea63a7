"""Losses over several gloo processes: the same as in one, and what happens when one of them dies."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import fastssl.functional as F
from fastssl.data import ArraySource
from fastssl.distributed import EmbeddingQueue
from fastssl.distributed.ring import all_peers, half_of_peers
from fastssl.methods import SwAV
from fastssl.models import build_encoder
from tests.support import lost_process, shards
from tests.support.processes import free_port, rendezvous, run_world, start
from tests.support.subjects import SUBJECTS


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_loss_equals_one_process(tmp_path: Path, every: bool) -> None:
    """1 to 4 processes (8: a slow test), uneven shards, both schedules, fp64 and fp32; then DDP, FSDP2, compile."""
    world = 8 if every else 4
    run_world(shards.worker, world, tmp_path, tmp_path, every)
    found = [json.loads(p.read_text()) for p in sorted(tmp_path.glob("found.*"))]
    assert len(found) == world
    assert [w for f in found for w in f["wrong"]] == []
    assert all(0 < f["worst"]["torch.float32"] < 2e-6 and f["worst"]["torch.float64"] < 1e-12 for f in found)


@pytest.mark.parametrize("how", ["dies", "stalls"])
def test_a_process_that_goes_is_named(tmp_path: Path, how: str) -> None:
    """Its peers stop with an error that says which rank it was, within the group's timeout."""
    port = free_port()
    processes = [
        start(lost_process.main, how, tmp_path, log=tmp_path / f"log.{rank}", environment=rendezvous(rank, 3, port))
        for rank in range(3)
    ]
    codes = [p.wait(90) for p in processes[:2]]
    processes[2].kill()  # it would stall for a minute
    assert 0 not in codes
    errors = processes[0].output + processes[1].output
    # Where the connection closes before the messages are posted, all peers of the call are named.
    assert re.search(r"rank (\d or )*2 has died or did not answer", errors), errors
    lost = [float((tmp_path / f"seconds.{rank}").read_text()) for rank in range(2)]
    assert max(lost) < 15, lost


@pytest.mark.parametrize("counts", [[5], [4, 3], [2, 0, 5], [3, 1, 4, 1], [1, 2, 3, 4, 5], [6, 0, 0, 2, 7, 1, 8, 2]])
def test_every_pair_of_rows_meets_once(counts: list[int]) -> None:
    """Rows against themselves: each unordered pair in one block; two sets: each ordered pair."""
    first = [sum(counts[:r]) for r in range(len(counts))]
    total = sum(counts)
    met, crossed = torch.zeros(total, total), torch.zeros(total, total)
    for rank, count in enumerate(counts):
        own = range(first[rank], first[rank] + count)
        for matrix, plan in ((met, half_of_peers), (crossed, all_peers)):
            matrix[own.start : own.stop, own.start : own.stop] += 1
            for block in plan(rank, counts):
                theirs = range(first[block.peer], first[block.peer] + counts[block.peer])[block.other]
                a = own[block.own]
                matrix[a.start : a.stop, theirs.start : theirs.stop] += 1
    same = torch.block_diag(*(torch.ones(c, c) for c in counts))
    assert torch.equal(met + met.T - same, torch.ones(total, total))
    assert torch.equal(crossed, torch.ones(total, total))


def test_losses_without_a_group_are_those_of_rows_by_themselves() -> None:
    alone = {subject.function for subject in SUBJECTS.values() if "group" not in subject.accepted}
    assert alone == {"dino", "negative_cosine_similarity", "swapped_prediction"}


def test_queue_is_a_ring() -> None:
    queue = EmbeddingQueue(5, 2, labelled=True, normalize=False, begin="empty", dtype=torch.bfloat16)
    assert len(queue) == 0
    for k in range(4):
        rows = torch.full((3, 2), float(k))
        assert queue.push(rows, torch.full((3,), k)) == 3 * k % 5
    kept, labels = queue.filled()
    assert kept.dtype == torch.bfloat16 and torch.equal(kept[:, 0].float(), labels.float())
    assert sorted(labels.tolist()) == [2, 2, 3, 3, 3]
    other = EmbeddingQueue(5, 2, labelled=True, normalize=False, begin="empty", dtype=torch.bfloat16)
    other.load_state_dict(queue.state_dict())
    assert torch.equal(other.filled()[0], kept) and len(other) == 5
    queue.push(torch.arange(16.0).reshape(8, 2), torch.arange(8))  # more than it holds: the last ones
    assert sorted(queue.filled()[1].tolist()) == [3, 4, 5, 6, 7]
    unit = EmbeddingQueue(4, 3)
    unit.push(torch.randn(2, 3))
    torch.testing.assert_close(unit.embeddings.norm(dim=1), torch.ones(4))
    with pytest.raises(ValueError, match="labels: expected labels"):
        queue.push(torch.randn(2, 2))
    with pytest.raises(ValueError, match="begin: expected"):
        EmbeddingQueue(4, 3, begin="full")
    with pytest.raises(ValueError, match="size, dim"):
        EmbeddingQueue(0, 3)


def test_swav_assigns_with_its_queue() -> None:
    """Once the queue is full a batch is assigned with it: as Sinkhorn assigns both together."""
    torch.manual_seed(0)
    model = SwAV(build_encoder({"name": "resnet", "size": 16, "width": 4}), prototypes=6, outputs=8, queue=12)
    z = torch.randn(8, 8)
    scores = model.prototypes(z).detach()
    assert torch.equal(model.assign(0, z, scores), F.sinkhorn(scores, epsilon=model.epsilon))
    assert torch.equal(model.assign(0, z, scores), F.sinkhorn(scores, epsilon=model.epsilon))  # 8 of 12
    queue: EmbeddingQueue = model.queues[0]  # type: ignore[assignment]
    before = model.prototypes(queue.filled()[0]).detach()
    together = F.sinkhorn(torch.cat([scores, before]), epsilon=model.epsilon)[:8]
    assert len(queue) == 12 and torch.equal(model.assign(0, z, scores), together)
    images = torch.randint(0, 256, (8, 16, 16, 3), dtype=torch.uint8)
    model(model.examples(ArraySource(images).items(range(8)), 0)).backward()
    assert all(p.grad is not None for p in model.encoder.parameters())


def test_without_a_group_it_says_so() -> None:
    x = torch.randn(4, 3)
    with pytest.raises(RuntimeError, match=r"group: got 'world', but torch.distributed is not initialised"):
        F.nt_xent(x, x, group="world")
    with pytest.raises(ValueError, match="schedule: expected one of"):
        F.nt_xent(x, x, group="world", schedule="tree")
