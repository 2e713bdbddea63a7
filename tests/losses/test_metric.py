"""Losses on labels, proxies and features, on every instruction set: loops, gradcheck, eager's own error, odd inputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastssl
import fastssl.functional as F
from tests.support.metric_subjects import DETACHED, FUSED, SUBJECTS, gradients, labels_for

NAMES = list(SUBJECTS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(("n", "d"), [(2, 1), (5, 4), (13, 7), (37, 5)])
def test_equals_a_double_loop(name: str, backend: str, n: int, d: int) -> None:
    subject = SUBJECTS[name]
    tensors = subject.make(n, d, torch.float64)
    options = {"backend": backend} if subject.backends else {}
    got = subject.call(*tensors, **options)
    torch.testing.assert_close(float(got), subject.loop(*tensors), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DETACHED])
@pytest.mark.parametrize(("n", "d"), [(3, 2), (9, 5), (35, 33)])
def test_gradcheck(isa: str, name: str, n: int, d: int) -> None:
    subject = SUBJECTS[name]
    tensors = [t.requires_grad_() for t in subject.make(n, d, torch.float64)]
    assert torch.autograd.gradcheck(subject.call, tensors, fast_mode=n > 9, atol=1e-5)


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize(("n", "d"), [(1, 1), (31, 32), (33, 65), (255, 16), (300, 40)])
def test_kept_recomputed_and_reference_agree(isa: str, name: str, n: int, d: int) -> None:
    subject = SUBJECTS[name]
    tensors = subject.make(n, d, torch.float64)
    truth = gradients(subject, tensors, backend="reference")
    for budget in (0, 1 << 30):
        fastssl.set_memory_budget(budget)
        for got, right in zip(gradients(subject, tensors), truth):
            torch.testing.assert_close(got, right, rtol=1e-8, atol=1e-10 * (1 + float(right.abs().max())))


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("keep", [0, 1 << 30], ids=["recomputed", "kept"])
def test_errs_no_more_than_eager(isa: str, name: str, keep: int) -> None:
    """RMS error against float64 of the loss and every gradient, at most 1.5 times eager fp32's own."""
    fastssl.set_memory_budget(keep)
    subject = SUBJECTS[name]
    for n, d, seeds in [(3, 32, 12), (17, 64, 6), (65, 128, 3), (258, 128, 2)]:
        squares: dict[int, list[float]] = {}
        for seed in range(seeds):
            torch.manual_seed(seed)
            tensors = subject.make(n, d, torch.float32)
            truth = gradients(subject, [t.double() for t in tensors], backend="reference")
            for way, backend in enumerate(("cpu", "reference")):
                for index, (got, right) in enumerate(zip(gradients(subject, tensors, backend=backend), truth)):
                    entry = squares.setdefault(index, [0.0, 0.0, 0.0])
                    entry[way] += float((got - right).square().mean())
                    entry[2] = max(entry[2], float(right.abs().max()))
        for index, (ours, eager, largest) in squares.items():
            ours, eager = (ours / seeds) ** 0.5, (eager / seeds) ** 0.5
            floor = 0.5 * torch.finfo(torch.float32).eps * largest + 1e-30
            assert ours <= 1.5 * eager + floor, f"{name} n={n} output {index}: ours {ours:.2e}, eager {eager:.2e}"


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs(isa: str, name: str, dtype: torch.dtype) -> None:
    subject = SUBJECTS[name]
    tensors = subject.make(100, 48, dtype)
    truth = gradients(subject, [t.double() for t in tensors], backend="reference")
    assert subject.call(*tensors).dtype == torch.float32
    for got, right in zip(gradients(subject, tensors), truth):
        assert float((got - right).abs().max()) <= torch.finfo(dtype).eps * float(right.abs().max()) + 1e-5


@pytest.mark.parametrize("name", FUSED)
def test_same_bits_for_any_number_of_threads(name: str) -> None:
    tensors = SUBJECTS[name].make(700, 40, torch.float32)
    results = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        results.append(gradients(SUBJECTS[name], tensors))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("triplet_hard", "lifted_structure_unsquared")])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("n", [6, 70])
def test_non_finite_input_shows(isa: str, name: str, bad: float, n: int) -> None:
    tensors = SUBJECTS[name].make(n, 8, torch.float32)
    tensors[0][n // 2, 2] = bad
    assert not torch.isfinite(SUBJECTS[name].call(*tensors))


@pytest.mark.parametrize("name", FUSED)
def test_compile_without_breaks_and_dynamic_rows(name: str) -> None:
    torch._dynamo.reset()
    subject = SUBJECTS[name]
    compiled = torch.compile(
        lambda *t: subject.call(*t), fullgraph=name != "angular", dynamic=True, backend="aot_eager"
    )
    for n in (12, 45):
        tensors = [t.requires_grad_() for t in subject.make(n, 8, torch.float32)]
        eager, traced = subject.call(*tensors), compiled(*tensors)
        torch.testing.assert_close(traced, eager)
        for a, b in zip(torch.autograd.grad(traced, tensors), torch.autograd.grad(eager, tensors)):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", FUSED)
def test_autocast_computes_in_fp32(name: str) -> None:
    tensors = SUBJECTS[name].make(40, 8, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = SUBJECTS[name].call(*tensors)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, SUBJECTS[name].call(*(t.float() for t in tensors)), rtol=1e-5, atol=1e-5)


LABELLED = {
    "contrastive": F.contrastive,
    "triplet": F.triplet,
    "triplet_hard": lambda x, y, **o: F.triplet(x, y, mining="hard", **o),
    "triplet_semihard": lambda x, y, **o: F.triplet(x, y, mining="semihard", **o),
    "lifted": F.lifted_structure,
    "generalized_lifted": F.generalized_lifted_structure,
    "soft_nearest_neighbor": F.soft_nearest_neighbor,
    "nca": F.nca,
    "multi_similarity": F.multi_similarity,
    "circle": F.circle,
    "margin": F.margin_loss,
    "tuplet": F.tuplet_margin,
    "fast_ap": F.fast_ap,
    "angular": F.angular,
    "ranked_list": F.ranked_list,
    "multi_nt_xent": F.multi_nt_xent,
    "sup_con": F.sup_con,
}


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("case", ["no rows", "one row", "one class", "all apart", "duplicates", "all equal", "zeros"])
@pytest.mark.parametrize("n", [20, 70])
def test_odd_batches_are_finite(name: str, backend: str, case: str, n: int) -> None:
    """Classes of one member, one single class, duplicates, equal rows, rows of length 0: no NaN, gradients neither."""
    x, y = torch.randn(n, 8), labels_for(n)
    if case == "no rows":
        x, y = x[:0], y[:0]
    elif case == "one row":
        x, y = x[:1], y[:1]
    elif case == "one class":
        y = torch.zeros_like(y)
    elif case == "all apart":
        y = torch.arange(n)
    elif case == "duplicates":
        x[n // 2 :] = x[: n - n // 2]
    elif case == "all equal":
        x = x[:1].expand(n, 8).clone()
    else:
        x = torch.zeros_like(x)
    x = x.requires_grad_()
    loss = LABELLED[name](x, y, backend=backend)
    (grad,) = torch.autograd.grad(loss, x, allow_unused=True)
    assert torch.isfinite(loss)
    assert grad is None or torch.isfinite(grad).all()
    if case in ("no rows", "one row"):
        assert float(loss.detach()) == pytest.approx(0, abs=1e-6) or name == "margin"


def test_equal_rows_have_distance_zero_and_no_gradient(isa: str) -> None:
    x = torch.randn(1, 64).expand(50, 64).clone().requires_grad_()
    y = (torch.randn(1, 64).expand(50, 64) * 3).clone()
    assert torch.equal(F.pairwise_distance(x), torch.zeros(50, 50))
    (grad,) = torch.autograd.grad(F.pairwise_distance(x).sum(), x)
    assert torch.equal(grad, torch.zeros_like(grad))
    near = x.detach() + 1e-4 * torch.randn(50, 64)
    truth = torch.cdist(x.detach().double(), near.double(), compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(F.pairwise_distance(x.detach(), near).double(), truth, rtol=1e-4, atol=0)
    assert float(F.pairwise_distance(x.detach(), y).min()) > 0


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "cosine", "dot", "manhattan", "chebyshev"])
@pytest.mark.parametrize(("n", "m", "d"), [(5, 7, 3), (40, 70, 33), (290, 300, 20)])
def test_pairwise_distance(isa: str, metric: str, n: int, m: int, d: int) -> None:
    x, y = (torch.randn(k, d, dtype=torch.float64, requires_grad=True) for k in (n, m))
    weights = torch.randn(n, m, dtype=torch.float64)
    got = F.pairwise_distance(x, y, metric=metric)
    a, b = x.detach(), y.detach()
    difference = a[:, None] - b[None]
    expected = {
        "euclidean": lambda: difference.norm(dim=2),
        "sqeuclidean": lambda: difference.square().sum(2),
        "manhattan": lambda: difference.abs().sum(2),
        "chebyshev": lambda: difference.abs().amax(2),
        "dot": lambda: (a[:, None] * b[None]).sum(2),
        "cosine": lambda: 1 - (a[:, None] * b[None]).sum(2) / (a.norm(dim=1)[:, None] * b.norm(dim=1)[None]),
    }[metric]()
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    ours = torch.autograd.grad((got * weights).sum(), (x, y))
    eager = torch.autograd.grad((F.pairwise_distance(x, y, metric=metric, backend="reference") * weights).sum(), (x, y))
    for g, right in zip(ours, eager):
        torch.testing.assert_close(g, right, rtol=1e-8, atol=1e-9)
    single = F.pairwise_distance(a.float(), b.float(), metric=metric)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-4)
    if n == 5:
        assert torch.autograd.gradcheck(lambda p, q: F.pairwise_distance(p, q, metric=metric), (x, y))


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot", "manhattan"])
@pytest.mark.parametrize(("n", "m", "k"), [(3, 1, 1), (40, 33, 33), (70, 500, 5), (33, 1000, 100)])
def test_nearest_and_farthest(isa: str, metric: str, n: int, m: int, k: int) -> None:
    x, y = torch.randn(n, 12, dtype=torch.float64), torch.randn(m, 12, dtype=torch.float64)
    full = F.pairwise_distance(x, y, metric=metric)
    for function, largest in ((F.nearest, metric == "dot"), (F.farthest, metric != "dot")):
        values, indices = function(x, y, k, metric=metric)
        expected = full.topk(k, dim=1, largest=largest)
        torch.testing.assert_close(values, expected.values, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(full.gather(1, indices), values, rtol=1e-12, atol=1e-12)
        assert all(len(set(row)) == k for row in indices.tolist())


def test_nearest_breaks_ties_by_index_and_leaves_out_the_row_itself(isa: str) -> None:
    x = torch.randn(5, 4).repeat(20, 1)
    _, indices = F.nearest(x, None, 19, metric="euclidean", exclude_self=True)
    for i, row in enumerate(indices.tolist()):
        assert row == [j for j in range(i % 5, 100, 5) if j != i]
    values = F.nearest(x.requires_grad_(), torch.randn(50, 4), 3, metric="euclidean")[0]
    assert torch.isfinite(torch.autograd.grad(values.sum(), x)[0]).all()


def test_listed_pairs_are_the_pairs_of_labels(isa: str) -> None:
    """All pairs as a miner would list them give what labels give."""
    x, y = torch.randn(50, 8), labels_for(50)
    same = y[:, None] == y[None, :]
    positive = (same & ~torch.eye(50, dtype=torch.bool)).nonzero(as_tuple=True)
    listed = (*positive, *(~same).nonzero(as_tuple=True))
    for name in (
        "multi_nt_xent",
        "multi_similarity",
        "circle",
        "contrastive",
        "triplet",
        "triplet_hard",
        "margin",
        "tuplet",
    ):
        loss = LABELLED[name]
        torch.testing.assert_close(loss(x, y, indices_tuple=listed), loss(x, y), rtol=1e-5, atol=1e-6)


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


def test_row_reductions_without_the_matrix(isa: str) -> None:
    x, y = torch.randn(40, 6, dtype=torch.float64), torch.randn(90, 6, dtype=torch.float64)
    for metric in ("euclidean", "cosine", "manhattan"):
        d = F.pairwise_distance(x, y, metric=metric, backend="reference")
        torch.testing.assert_close(F.pairwise_reduce(x, y, metric=metric), d.sum(1))
        torch.testing.assert_close(F.pairwise_reduce(x, y, metric=metric, reduction="min"), d.amin(1))
        torch.testing.assert_close(
            F.pairwise_reduce(x, y, metric=metric, function=lambda v: torch.exp(-v), reduction="mean"),
            torch.exp(-d).mean(1),
        )


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


def test_nce_with_a_noise_distribution() -> None:
    data, noise = torch.randn(6, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    p, q = torch.randn(6, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    offset = torch.tensor(3.0, dtype=torch.float64).log()
    expected = -torch.nn.functional.logsigmoid(data - p - offset) - torch.log(
        1 - torch.sigmoid(noise - q - offset)
    ).sum(1)
    got = F.nce(data, noise, noise_log_prob_data=p, noise_log_prob_noise=q, reduction="none")
    torch.testing.assert_close(got, expected)


def test_large_batches_keep_memory_linear(isa: str) -> None:
    """Nothing of size N x N is left in the graph where the budget says so."""
    fastssl.set_memory_budget(0)
    x, y = torch.randn(512, 16, requires_grad=True), torch.arange(512) // 4
    saved: list[int] = []

    def note(t: Tensor) -> Tensor:
        saved.append(t.numel() * t.element_size())
        return t

    for name in ("contrastive", "triplet", "lifted", "multi_similarity", "circle", "multi_nt_xent", "nca"):
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            LABELLED[name](x, y)
        assert sum(saved) < 10 * x.numel() * 4, name
