"""What single losses are given besides: listed triplets, terms of one's own, masks, a noise distribution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastssl.functional as F
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
