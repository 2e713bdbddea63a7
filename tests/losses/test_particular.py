"""What single losses are given besides: listed triplets, terms of one's own, masks, a noise distribution."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import fastssl.functional as F
from fastssl import backend, losses
from fastssl.functional._pairs import Pairs
from tests.support.subjects import labels_for


def test_listed_triplets() -> None:
    x, y = torch.randn(30, 8), labels_for(30)
    same = y[:, None] == y[None, :]
    pairs = same & ~torch.eye(30, dtype=torch.bool)
    a, p, n = (pairs[:, :, None] & ~same[:, None, :]).nonzero(as_tuple=True)
    torch.testing.assert_close(F.triplet(x, indices_tuple=(a, p, n)), F.triplet(x, y), rtol=1e-5, atol=1e-6)
    some = torch.randperm(len(a))[:40]
    d = torch.cdist(x, x)
    expected = (d[a, p] - d[a, n] + 0.2).clamp(min=0)[some].mean()
    torch.testing.assert_close(F.triplet(x, indices_tuple=(a[some], p[some], n[some])), expected)


def _sup_con_term(s: Tensor, pairs: F.PairMasks, temperature: Tensor) -> Tensor:
    logits = (s / temperature).masked_fill(pairs.self, float("-inf"))
    log_p = s / temperature - logits.logsumexp(1, keepdim=True)
    return -torch.where(pairs.positive, log_p, 0).sum(1) / pairs.positive.sum(1).clamp(min=1)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("strip", [1, 32, 1000])
def test_a_loss_of_ones_own(backend: str, strip: int) -> None:
    x = torch.randn(75, 8, dtype=torch.float64, requires_grad=True)
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    y = torch.arange(75) % 7
    got = F.pair_loss(x, term=_sup_con_term, parameters=(t,), labels=y, strip=strip, backend=backend)
    right = F.sup_con(x, y, temperature=t, backend="reference")
    torch.testing.assert_close(got, right)
    for a, b in zip(torch.autograd.grad(got, (x, t)), torch.autograd.grad(right, (x, t))):
        torch.testing.assert_close(a, b)
    small, other = x[:12].detach().requires_grad_(), torch.randn(9, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda z, u: F.pair_loss(z, term=_sup_con_term, parameters=(u,), labels=y[:12], strip=5, backend=backend),
        (small, t),
    )
    assert torch.autograd.gradcheck(
        lambda z, w: F.pair_loss(z, w, term=lambda s, p: (s * 3).exp(), score="euclidean", strip=5, backend=backend),
        (small, other),
    )
    with pytest.raises(ValueError, match=r"term.*parameters"):
        F.pair_loss(x, term=lambda s, p: s * t)


def test_a_loss_of_ones_own_has_one_backend() -> None:
    """Backward passes of a GPU run in a thread that sees no ``with`` block."""
    x = torch.randn(12, 8, requires_grad=True)

    def loss() -> Tensor:
        return F.pair_loss(x, term=lambda s, pairs: (-s).exp().sum(1), score="euclidean")

    with backend("reference"):
        value = loss()
    (right,) = torch.autograd.grad(loss(), x)
    with ThreadPoolExecutor(1) as pool:
        (got,) = pool.submit(torch.autograd.grad, value, x).result()
    torch.testing.assert_close(got, right)


def test_sinkhorn_assigns_evenly() -> None:
    q = F.sinkhorn(torch.randn(64, 8), epsilon=0.5, iterations=50)
    torch.testing.assert_close(q.sum(1), torch.ones(64))
    torch.testing.assert_close(q.sum(0), torch.full((8,), 8.0), rtol=1e-2, atol=1e-2)
    scores = torch.randn(20, 6, dtype=torch.float64)
    for epsilon in (0.5, 0.01):  # scaled directly, and in the logarithm
        log_q = scores / epsilon
        for _ in range(3):
            log_q = log_q - log_q.logsumexp(0, keepdim=True)
            log_q = log_q - log_q.logsumexp(1, keepdim=True)
        torch.testing.assert_close(F.sinkhorn(scores, epsilon=epsilon), log_q.exp())


def test_dino_leaves_out_the_same_view_and_ibot_the_visible_patches() -> None:
    student, teacher, center = torch.randn(4, 5, 6), torch.randn(2, 5, 6), torch.randn(6)
    terms = [
        -(torch.softmax((teacher[w] - center) / 0.04, 1) * torch.log_softmax(student[v] / 0.1, 1)).sum(1).mean()
        for w in range(2)
        for v in range(4)
        if v != w
    ]
    torch.testing.assert_close(F.dino(student, teacher, center), torch.stack(terms).mean())
    mask = torch.rand(4, 5) < 0.5
    mask[0] = True
    patches = F.dino(student, student, center, mask=mask)
    rows = -(torch.softmax((student - center) / 0.04, 2) * torch.log_softmax(student / 0.1, 2)).sum(2)
    expected = torch.stack([rows[i][mask[i]].mean() if mask[i].any() else torch.zeros(()) for i in range(4)]).mean()
    torch.testing.assert_close(patches, expected)


def test_dino_of_masked_patches_alone_is_that_of_all_with_a_mask() -> None:
    student, teacher, center = torch.randn(6, 64, 16), torch.randn(6, 64, 16), torch.randn(16)
    mask = torch.rand(6, 64) < 0.3
    mask[2] = False  # a view without a mask
    student.requires_grad_()
    whole = F.dino(student, teacher, center, mask=mask)
    (expected,) = torch.autograd.grad(whole, student)
    assert torch.equal(expected.abs().sum(2) > 0, mask)
    rows = F.dino(student[mask], teacher[mask], center, mask=mask)
    torch.testing.assert_close(rows, whole)
    torch.testing.assert_close(torch.autograd.grad(rows, student)[0], expected)
    none = F.dino(student[~mask][:0], teacher[~mask][:0], center, mask=mask & False)
    assert float(none) == 0
    with pytest.raises(
        ValueError, match=f"mask: expected 7 masked patches, a row of student each, got {int(mask.sum())}"
    ):
        F.dino(student[0, :7], teacher[0, :7], center, mask=mask)
    with pytest.raises(ValueError, match=r"teacher: expected shape \(6, 64, 16\) as student, got \(1, 64, 16\)"):
        F.dino(student, teacher[:1], center, mask=mask)  # was the first view's teacher for all


def test_nce_with_a_noise_distribution() -> None:
    data, noise = torch.randn(6, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    p, q = torch.randn(6, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    offset = torch.tensor(3.0, dtype=torch.float64).log()
    expected = -torch.nn.functional.logsigmoid(data - p - offset) - torch.log(
        1 - torch.sigmoid(noise - q - offset)
    ).sum(1)
    got = F.nce(data, noise, noise_log_prob_data=p, noise_log_prob_noise=q, reduction="none")
    torch.testing.assert_close(got, expected)


def test_ids_that_differ_change_nothing() -> None:
    x, y, queue = torch.randn(40, 16), torch.randn(40, 16), torch.randn(25, 16)
    ids = torch.randperm(40) * 2**40 - 7
    for with_ids, without in [
        (F.info_nce(x, y, queue, ids=ids), F.info_nce(x, y, queue)),
        (F.info_nce(x, y, ids=ids, symmetric=True), F.info_nce(x, y, symmetric=True)),
        (F.nt_xent(x, y, ids=ids), F.nt_xent(x, y)),
        (F.clip_loss(x, y, 3.0, ids=ids), F.clip_loss(x, y, 3.0)),
        (F.siglip_loss(x, y, 3.0, -1.0, ids=ids), F.siglip_loss(x, y, 3.0, -1.0)),
    ]:
        torch.testing.assert_close(with_ids, without, rtol=1e-6, atol=0)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_rows_of_one_id_have_no_negatives(backend: str) -> None:
    x, y = torch.randn(70, 8, requires_grad=True), torch.randn(70, 8, requires_grad=True)
    ids = torch.zeros(70, dtype=torch.int32)
    losses = [
        F.info_nce(x, y, ids=ids, symmetric=True, backend=backend),
        F.nt_xent(x, y, ids=ids, backend=backend),
        F.clip_loss(x, y, 1e4, ids=ids, backend=backend),
    ]
    assert all(float(loss) == 0 for loss in losses)
    assert all(not g.any() for g in torch.autograd.grad(sum(losses), (x, y)))


def test_negatives_with_ids_against_a_queue_alone() -> None:
    x, y, queue = torch.randn(9, 4), torch.randn(9, 4), torch.randn(6, 4)
    ids, queue_ids = torch.arange(9), torch.tensor([0, 0, 3, 100, 101, 8])
    kept = queue_ids[None] != ids[:, None]
    q, k, n = (torch.nn.functional.normalize(t.double(), dim=1) for t in (x, y, queue))
    own, others = (q * k).sum(1, keepdim=True) / 0.2, (q @ n.T / 0.2).masked_fill(~kept, -math.inf)
    expected = torch.cat([own, others], 1).logsumexp(1) - own[:, 0]
    got = F.info_nce(x, y, queue, temperature=0.2, in_batch=False, ids=ids, negative_ids=queue_ids, reduction="none")
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-6)


def test_own_negatives_that_are_the_same_for_all_are_a_queue() -> None:
    x, y, queue = torch.randn(12, 6), torch.randn(12, 6), torch.randn(5, 6)
    each = queue.expand(12, 5, 6)
    for in_batch in (True, False):
        torch.testing.assert_close(
            F.info_nce(x, y, each, in_batch=in_batch), F.info_nce(x, y, queue, in_batch=in_batch), rtol=1e-5, atol=1e-6
        )
    torch.testing.assert_close(F.info_nce(x, y, each[:, :0]), F.info_nce(x, y))


@pytest.mark.parametrize("labels", [None, torch.arange(10) % 3])
def test_sup_con_of_several_views_is_that_of_its_authors(labels: torch.Tensor | None) -> None:
    """SupContrast's loss as published: views in the second dimension, contrast with all of them."""
    features, t = torch.randn(10, 3, 8), 0.2
    z = torch.nn.functional.normalize(features.double(), dim=2)
    rows = torch.cat(z.unbind(1))
    ids = (torch.arange(10) if labels is None else labels).repeat(3)
    logits = (rows @ rows.T / t).fill_diagonal_(-math.inf)
    log_p = logits - logits.logsumexp(1, keepdim=True)
    mask = (ids[:, None] == ids).double().fill_diagonal_(0)
    expected = -(mask * log_p.masked_fill(mask == 0, 0)).sum(1) / mask.sum(1)
    got = F.sup_con(features, labels, temperature=t, reduction="none")
    torch.testing.assert_close(got.double().view(10, 3).T.flatten(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_soft_labels_that_are_one_hot_are_labels(backend: str) -> None:
    x, y = torch.randn(50, 8), torch.randn(30, 8)
    labels, more = torch.arange(50) % 26, torch.arange(30) % 40
    hot = [torch.nn.functional.one_hot(t, 40).float() for t in (labels, more)]
    for soft, hard in [
        (F.sup_con(x, hot[0], reduction="none", backend=backend), F.sup_con(x, labels, reduction="none")),
        (
            F.sup_con(x, hot[0], ref_emb=y, ref_labels=hot[1], reduction="none", backend=backend),
            F.sup_con(x, labels, ref_emb=y, ref_labels=more, reduction="none"),
        ),
    ]:
        torch.testing.assert_close(soft, hard, rtol=1e-4, atol=1e-5)


def test_cross_entropy_with_smoothing_is_torchs() -> None:
    x, y, queue = torch.randn(14, 6), torch.randn(14, 6), torch.randn(5, 6)
    q, k, n = (torch.nn.functional.normalize(t.double(), dim=1) for t in (x, y, queue))
    logits = q @ torch.cat([k, n]).T / 0.1
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(14), label_smoothing=0.3)
    got = F.info_nce(x, y, queue, temperature=0.1, label_smoothing=0.3)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


def test_nothing_to_compare() -> None:
    """No rows, no features, one row: defined, or named."""
    none, no_ids = torch.randn(0, 4), torch.empty(0, dtype=torch.int64)
    for loss in (
        F.info_nce(none, none, ids=no_ids),
        F.info_nce(none, none, torch.randn(0, 2, 4)),
        F.info_nce(none, none, label_smoothing=0.1),
        F.nt_xent(none, none, label_smoothing=0.1),
        F.clip_loss(none, none, 3.0, label_smoothing=0.1),
        F.sup_con(torch.randn(0, 3, 4)),
        F.sup_con(none, torch.rand(0, 3)),
        F.sup_con(torch.randn(1, 4), torch.rand(1, 3)),
        F.nt_xent(*torch.randn(2, 1, 4), ids=torch.tensor([7]), label_smoothing=0.0),
        F.nt_xent(*torch.randn(2, 1, 4), label_smoothing=0.1),
    ):
        assert float(loss) == pytest.approx(0, abs=1e-6)
    for call in (
        lambda: F.sup_con(torch.randn(2, 3, 0)),
        lambda: F.info_nce(*torch.randn(2, 2, 0), torch.randn(2, 3, 0)),
    ):
        with pytest.raises(ValueError, match="expected at least one feature"):
            call()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: F.info_nce(x, x, ids=torch.arange(3)), "ids: expected 8 values, one per row of query, got 3"),
        (lambda x: F.info_nce(x, x, ids=torch.rand(8)), "ids: expected integers"),
        (lambda x: F.info_nce(x, x, x, negative_ids=torch.arange(8)), "negative_ids: expected None without ids"),
        (
            lambda x: F.info_nce(x, x, x[:5], ids=torch.arange(8), negative_ids=torch.arange(4)),
            "negative_ids: expected 5 values, one per row of negatives, got 4",
        ),
        (lambda x: F.info_nce(x, x, torch.randn(7, 2, 4)), r"negatives: expected \[K, D\], or \[8, K, D\]"),
        (lambda x: F.info_nce(x, x, torch.randn(8, 2, 5)), "negatives: expected 4 features"),
        (lambda x: F.info_nce(x, x, ids=torch.arange(8), label_smoothing=0.1), "label_smoothing: expected 0 with ids"),
        (
            lambda x: F.info_nce(x, x, label_smoothing=1.5),
            r"label_smoothing: expected a number in .* got 1.5",
        ),
        (lambda x: F.sup_con(x, torch.rand(7, 3)), r"labels: expected floats \[8, C\]"),
        (lambda x: F.sup_con(x, -torch.rand(8, 3)), "labels: expected values >= 0"),
        (lambda x: F.sup_con(x[:, None], torch.arange(5)), "labels: expected 8, one per example of embeddings"),
        (
            lambda x: F.sup_con(x, torch.rand(8, 3), ref_emb=x, ref_labels=torch.rand(8, 2)),
            r"ref_labels: expected floats \[8, 3\]",
        ),
    ],
)
def test_wrong_ids_negatives_and_soft_labels_are_named(call: Callable[..., object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        call(torch.randn(8, 4))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_an_empty_queue_is_none(backend: str, smoothing: float) -> None:
    q, k = torch.randn(2, 13, 7, dtype=torch.float64)
    given = {"temperature": 0.3, "label_smoothing": smoothing, "backend": backend}
    empty = F.info_nce(q, k, torch.empty(0, 7, dtype=torch.float64), **given)
    torch.testing.assert_close(empty, F.info_nce(q, k, **given))
    unit = [torch.nn.functional.normalize(t) for t in (q, k)]
    logits = unit[0] @ unit[1].T / 0.3
    wanted = torch.nn.functional.cross_entropy(logits, torch.arange(13), label_smoothing=smoothing)
    torch.testing.assert_close(empty, wanted)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dino_of_many_rows_in_16_bits(dtype: torch.dtype, masked: bool) -> None:
    student, teacher = torch.randn(2, 2, 8192, 64).to(dtype)
    mask = torch.ones(2, 8192, dtype=torch.bool) if masked else None
    found = F.dino(student, teacher, torch.zeros(64), mask=mask)
    wanted = F.dino(student.double(), teacher.double(), torch.zeros(64).double(), mask=mask)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_an_infinite_temperature_is_named() -> None:
    with pytest.raises(ValueError, match="temperature: expected a finite number, got inf"):
        F.nt_xent(torch.randn(4, 3), torch.randn(4, 3), temperature=torch.tensor(float("inf")))


@pytest.mark.parametrize("name", ["ContrastiveLoss", "SupConLoss", "TripletMarginLoss", "MultiSimilarityLoss"])
def test_a_batch_without_rows_beside_a_memory(name: str) -> None:
    memory = losses.CrossBatchMemory(getattr(losses, name)(), 4, 16)
    for rows in (0, 7, 0):
        loss = memory(torch.randn(rows, 4, requires_grad=True), torch.arange(rows) // 2)
        loss.backward()
        assert math.isfinite(float(loss.detach())) and (rows or float(loss.detach()) == 0)


@pytest.mark.parametrize("degrees", [0.0, 28.6, 170.0, -28.6, -90.0, 180.0, 350.0])
def test_arc_face_of_any_margin(degrees: float) -> None:
    x, weight, y = torch.randn(8, 5).double(), torch.randn(3, 5).double(), torch.arange(8) % 3
    x[0], x[4] = -weight[0], weight[1]
    unit, m = torch.nn.functional.normalize, math.radians(degrees)
    cosine = unit(x) @ unit(weight).T
    target = cosine.gather(1, y[:, None])
    angle = target.clamp(-1, 1).arccos()
    phi = torch.where(angle <= math.pi - m, (angle + m).cos(), target - m * math.sin(m))
    wanted = torch.nn.functional.cross_entropy(10 * cosine.scatter(1, y[:, None], phi), y, reduction="none")
    got = F.arc_face(x, weight, y, margin=degrees, scale=10.0, reduction="none")
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)


def test_sinkhorn_of_any_epsilon() -> None:
    q = F.sinkhorn(torch.tensor([[0.9, 0.1], [0.2, 0.4]]), epsilon=1e-39)
    torch.testing.assert_close(q, torch.eye(2))


def test_dtypes_of_dino() -> None:
    views, center = torch.randn(2, 3, 4), torch.zeros(4)
    for wrong in ((views, views, center.double()), (views, views.double(), center)):
        with pytest.raises(TypeError, match="of one dtype where one is float64"):
            F.dino(*wrong)
    whole = torch.zeros(2, 3, 4, dtype=torch.long)
    with pytest.raises(TypeError, match="student: expected float32, float64, bfloat16 or float16, got torch.int64"):
        F.dino(whole, whole, whole[0, 0])
    torch.testing.assert_close(
        F.dino(views, views.bfloat16(), center), F.dino(views, views, center), rtol=0.1, atol=0.1
    )


@pytest.mark.parametrize("mining", ["all", "hard"])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_every_smooth_triplet_is_active(mining: str, backend: str) -> None:
    """Softplus is above 0: the mean of the active ones is the mean."""
    x, y = torch.randn(12, 4, dtype=torch.float64), torch.arange(12) % 3
    a, p, n = torch.tensor([[0, 1, 2], [3, 4, 5], [1, 2, 3]])
    for given in ({"labels": y}, {"labels": y, "indices_tuple": (a, p, n)}):
        if "indices_tuple" in given and mining == "hard":
            continue
        options = {"smooth": True, "margin": 0.0, "mining": mining, "backend": backend, **given}
        active, mean = (F.triplet(x, reduction=how, **options) for how in ("active", "mean"))
        torch.testing.assert_close(active, mean)
        assert float(active) > 0


@pytest.mark.parametrize("wrong", [-1, 5, 2**40])
def test_classes_that_are_not_there_are_nan_where_nothing_is_read_back(wrong: int) -> None:
    """What a GPU does: only the row's own loss is unknown."""
    from fastssl.functional import _check

    labels, rows = torch.tensor([0, 4, wrong, 2]), torch.randn(4, 3)
    ids, known = _check._or_unknown(labels, 5, rows)
    assert int(ids.min()) >= 0 and int(ids.max()) < 5 and torch.equal(ids[[0, 1, 3]], labels[[0, 1, 3]])
    assert bool(known[2].isnan().all()) and torch.equal(known[[0, 1, 3]], rows[[0, 1, 3]])
    several = torch.stack([labels, labels.clamp(0, 4)], 1)
    assert bool(_check._or_unknown(several, 5, rows)[1][2].isnan().all())
    loss = F.cos_face(known, torch.randn(5, 3), ids, reduction="none")
    assert loss.isnan().tolist() == [False, False, True, False]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_random_terms_are_differentiated_with_the_numbers_that_were_drawn(backend: str) -> None:
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.nn.Parameter(torch.tensor(1.0))

    def dropped(s: Tensor, pairs: F.PairMasks, w: Tensor) -> Tensor:
        return (w * torch.nn.functional.dropout(s, 0.5)).sum(1)

    loss = F.pair_loss(x, term=dropped, parameters=(weight,), strip=4, backend=backend)
    drawn = torch.rand(3)
    loss.backward()
    assert weight.grad is not None and torch.allclose(weight.grad, loss.detach())  # linear in the weight
    assert not torch.equal(drawn, torch.rand(3))  # the generator goes on from where it was


def test_second_derivatives_of_own_losses() -> None:
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()

    def penalty(x: Tensor, **options: Any) -> Tensor:
        loss = F.pair_loss(x, term=lambda s, p: s.exp().sum(1), strip=4, **options)
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        return slope.square().sum()

    assert torch.autograd.gradcheck(lambda x: penalty(x, backend="reference"), (x,))
    for ask in (lambda: penalty(x).backward(), lambda: torch.autograd.grad(penalty(x), x)):
        with pytest.raises(RuntimeError, match="pair_loss and pairwise_reduce with fused kernels, have no second"):
            ask()


def test_learned_margins_of_ranked_lists() -> None:
    """The least distance of negatives follows the margin, in every step."""
    margin = torch.nn.Parameter(torch.tensor(0.3))
    module = losses.RankedListLoss(margin=margin)
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.arange(16) % 4
    for value in (0.3, 0.6):
        with torch.no_grad():
            margin.fill_(value)
        loss = copy.deepcopy(module)(x, labels)
        loss.backward()
        wanted = F.ranked_list(x.detach(), labels, margin=value, alpha=1 + value / 2)
        assert float(loss.detach()) == pytest.approx(float(wanted))
    (slope,) = torch.autograd.grad(module(x, labels), margin)
    step = [float(F.ranked_list(x.double(), labels, margin=0.6 + d)) for d in (-1e-5, 1e-5)]
    assert float(slope) == pytest.approx((step[1] - step[0]) / 2e-5, rel=1e-2)


@pytest.mark.parametrize("name", ["normalized_softmax", "cos_face", "arc_face"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("learned", ["rows", "weight", "both"])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_one_class_has_no_loss_and_no_gradient(name: str, reduction: str, learned: str, scale: float) -> None:
    """Nothing is summed over the other classes; also where the weights are constants, whose products are kept."""
    x, weight = torch.randn(33, 5), torch.randn(1, 5)
    wanted = [t.requires_grad_() for t, which in ((x, "rows"), (weight, "weight")) if learned in (which, "both")]
    option = {"temperature": 1 / scale} if name == "normalized_softmax" else {"scale": scale}
    labels = torch.zeros(33, dtype=torch.long)
    loss = getattr(F, name)(x, weight, labels, reduction=reduction, backend="cpu", **option)
    assert not loss.detach().any()
    assert all(bool((grad == 0).all()) for grad in torch.autograd.grad(loss.sum(), wanted))


def koleo_gradient(x: Tensor, eps: float) -> list[list[float]]:
    """The gradient of the mean, pair by pair: a row and its nearest go apart, and only along the sphere."""
    lengths = [math.sqrt(sum(v * v for v in row)) for row in x.tolist()]
    units = [[v / length for v in row] for row, length in zip(x.tolist(), lengths)]
    slopes = [[0.0] * len(row) for row in units]
    for i, row in enumerate(units):
        apart = [(math.dist(row, other), j) for j, other in enumerate(units) if j != i]
        distance, j = min(apart)
        for k in range(len(row)) if distance > 0 else ():
            slope = -(row[k] - units[j][k]) / distance / (distance + eps) / len(units)
            slopes[i][k] += slope
            slopes[j][k] -= slope
    along = [sum(s * u for s, u in zip(slope, row)) for slope, row in zip(slopes, units)]
    return [[(s - a * u) / n for s, u in zip(slope, row)] for slope, row, a, n in zip(slopes, units, along, lengths)]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(("n", "d"), [(2, 3), (3, 1), (17, 5), (33, 2), (70, 31)])
def test_koleo_parts_each_row_and_its_nearest(n: int, d: int, backend: str) -> None:
    x = torch.randn(n, d, dtype=torch.float64, requires_grad=True)
    for eps in (1e-8, 0.3):
        (given,) = torch.autograd.grad(F.koleo(x, eps=eps, backend=backend), x)
        right = torch.tensor(koleo_gradient(x.detach(), eps), dtype=torch.float64)
        torch.testing.assert_close(given, right, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_koleo_of_equal_rows_is_finite(dtype: torch.dtype, backend: str) -> None:
    """-log eps, and no gradient: equal rows have no direction in which to part. Others of the batch keep theirs."""
    apart = torch.eye(4, dtype=dtype)[:3] * 2
    x = torch.cat([apart[:2], apart, apart[1:2] * 0.5]).requires_grad_()  # rows 1, 3 and 5 have one direction
    rows = F.koleo(x, reduction="none", backend=backend)
    own = rows[4].item()
    assert own == pytest.approx(-math.log(math.sqrt(2)), rel=1e-5)
    torch.testing.assert_close(rows[[0, 1, 2, 3, 5]], torch.full((5,), -math.log(1e-8)).to(rows), rtol=1e-5, atol=0)
    rows.sum().backward()
    assert x.grad is not None and bool(torch.isfinite(x.grad).all())
    assert not x.grad[[1, 2, 3, 5]].any() and x.grad[0].any() and x.grad[4].any()  # 0 is nearest to 4
    same = torch.ones(40, 3, dtype=dtype, requires_grad=True)
    loss = F.koleo(same, backend=backend)
    loss.backward()
    assert loss.item() == pytest.approx(-math.log(1e-8), rel=1e-5) and not same.grad.any()  # type: ignore[union-attr]
    zero = torch.zeros(5, 3, dtype=dtype, requires_grad=True)
    F.koleo(zero, backend=backend).backward()
    assert bool(torch.isfinite(zero.grad).all())  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [0, 1])
def test_koleo_of_no_pair_is_zero(n: int) -> None:
    x = torch.randn(n, 3, requires_grad=True)
    loss = F.koleo(x)
    loss.backward()
    assert loss.item() == 0 and x.grad is not None and not x.grad.any()
    assert F.koleo(x, reduction="none").shape == (n,)


def test_koleo_shows_what_is_not_finite() -> None:
    x = torch.randn(9, 4)
    x[3, 1] = float("nan")
    rows = F.koleo(x, reduction="none")
    assert rows[3].isnan() and bool(torch.isfinite(rows[torch.arange(9) != 3]).all())


def test_koleo_spreads_rows() -> None:
    x = (torch.randn(40, 3, generator=torch.Generator().manual_seed(0)) * 0.05 + 1).requires_grad_()

    def spread() -> tuple[float, float]:
        unit = torch.nn.functional.normalize(x.detach(), dim=1)
        return float(unit.mean(0).norm()), float(F.nearest(unit, None, 1, exclude_self=True)[0].min())

    (together, near), optimizer = spread(), torch.optim.SGD([x], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        F.koleo(x).backward()
        optimizer.step()
    assert spread()[0] < together - 0.1 and spread()[1] > 10 * near


def test_the_same_rows_with_other_labels_as_columns() -> None:
    x, a, b = torch.randn(20, 5), torch.arange(20) % 4, torch.arange(20) % 3
    got = F.pair_loss(x, x, term=_sup_con_term, parameters=(torch.tensor(0.3),), labels=a, ref_labels=b)
    right = F.pair_loss(x, x.clone(), term=_sup_con_term, parameters=(torch.tensor(0.3),), labels=a, ref_labels=b)
    torch.testing.assert_close(got, right)


@pytest.mark.parametrize("kind", ["references", "labels"])
def test_supervised_contrastive_losses_of_fake_tensors(kind: str) -> None:
    with FakeTensorMode():
        x, y, ids = torch.randn(8, 4, requires_grad=True), torch.randn(6, 4), torch.zeros(8, dtype=torch.int64)
        options = {} if kind == "labels" else {"ref_emb": y, "ref_labels": ids[:6]}
        loss = F.sup_con(x, ids, reduction="none", **options)
        assert loss.shape == (8,)
        loss.sum().backward()
        assert x.grad is not None and x.grad.shape == x.shape


@pytest.mark.parametrize("kind", ["distances", "parameters", "triplets", "pairs"])
def test_tensors_of_inference_mode(kind: str) -> None:
    """Beside rows that need a gradient: torch does not save them for the backward pass."""
    torch.manual_seed(0)
    x = torch.randn(8, 4, requires_grad=True)

    def others() -> tuple[Tensor, tuple[Tensor, ...]]:
        return torch.linspace(-1, 1, 32).reshape(8, 4), tuple(torch.tensor([a, a + 2]) for a in range(4))

    def loss(y: Tensor, listed: tuple[Tensor, ...]) -> Tensor:
        if kind == "distances":
            return F.pairwise_distance(x, y, metric="cosine").square().sum()
        if kind == "parameters":
            return F.pair_loss(x, term=lambda s, pairs, scale: (s * scale) ** 2, parameters=[y[0, 0]])
        if kind == "triplets":
            return F.triplet(x, indices_tuple=listed[:3])
        return F.sup_con(x, indices_tuple=list(listed))  # type: ignore[arg-type]

    wanted = loss(*others())
    expected = torch.autograd.grad(wanted, x)[0]
    with torch.inference_mode():
        given = others()
    found = loss(*given)
    assert torch.equal(found, wanted) and torch.equal(torch.autograd.grad(found, x)[0], expected)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("backend", [None, "reference"])
def test_a_loss_of_ones_own_within_torch_func_and_traces(backend: str | None) -> None:
    def hardest(s: Tensor, pairs: F.PairMasks, scale: Tensor) -> Tensor:
        return (s * scale).masked_fill(~pairs.negative, -1).amax(1) ** 2

    def loss(x: Tensor, scale: Tensor) -> Tensor:
        options = {"term": hardest, "labels": labels, "score": "dot", "strip": 3, "backend": backend}
        return F.pair_loss(x, parameters=(scale,), **options)  # type: ignore[arg-type]

    torch.manual_seed(0)
    labels, scale = torch.arange(8) % 3, torch.tensor(0.7)
    many = torch.randn(2, 8, 4)
    s = scale * many @ many.mT
    wanted = s.masked_fill(labels[:, None] == labels, -1).amax(2).square().mean(1)
    torch.testing.assert_close(torch.func.vmap(loss, (0, None))(many, scale), wanted)
    x, t = many[0].clone().requires_grad_(), scale.clone().requires_grad_()
    dense = (t * x @ x.T).masked_fill(labels[:, None] == labels, -1).amax(1).square().mean()
    expected = torch.autograd.grad(dense, (x, t))
    torch.testing.assert_close(torch.func.grad(loss, (0, 1))(many[0], scale), expected)
    if backend is None:
        with pytest.raises(RuntimeError, match="no forward-mode derivative"):
            torch.func.jvp(loss, (many[0], scale), (many[1], scale))
    traced = torch.jit.trace(loss, (many[1], scale))
    torch.testing.assert_close(traced(many[0], scale), wanted[0])
    torch.testing.assert_close(torch.autograd.grad(traced(x, t), (x, t)), expected)


def test_soft_labels_within_torch_func() -> None:
    """Sums of labels have a gradient of their own, which torch.func did not know."""
    x, labels = torch.randn(6, 4), torch.rand(6, 3)
    leaf = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(F.sup_con(leaf, labels), leaf)
    torch.testing.assert_close(torch.func.grad(lambda t: F.sup_con(t, labels))(x), wanted)
    per_example = torch.func.vmap(torch.func.grad(lambda t: F.sup_con(t, labels)))(torch.stack([x, x]))
    torch.testing.assert_close(per_example[1], wanted)


@pytest.mark.parametrize("listed", [False, True])
def test_learned_margins_of_squared_hinges_take_no_strips_of_scores(
    listed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their slope is twice the hinge, which the kernel gives; the strips took 18 times as long as the loss."""
    monkeypatch.setattr(Pairs, "_strips", lambda *_: pytest.fail("strips of scores"))
    x, y = torch.randn(40, 5, dtype=torch.float64), torch.arange(40) % 7
    above, below = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (1.3, 3.1))
    i, j = torch.triu_indices(40, 40, 1)[:, :: 3 if listed else 1]
    same = y[i] == y[j]
    pairs = (i[same], j[same], i[~same], j[~same]) if listed else None
    value = F.contrastive(x, y, positive_margin=above, margin=below, indices_tuple=pairs)
    d = (x[i] - x[j]).norm(dim=1)
    wanted = torch.where(same, (d - above).clamp(min=0), (below - d).clamp(min=0)).square().mean()
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(torch.autograd.grad(value, (above, below)), torch.autograd.grad(wanted, (above, below)))
