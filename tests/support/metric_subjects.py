"""Losses on labelled rows, on proxies and on features under test: inputs, the call, a loop that says what is right."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import fastssl.functional as F
from tests.support.pair_subjects import _dot as dot
from tests.support.pair_subjects import _log_sum_exp as log_sum_exp
from tests.support.pair_subjects import _randn as randn
from tests.support.pair_subjects import _unit as unit
from tests.support.pair_subjects import labels_for

Row = list[float]
Score = Callable[[Row, Row], float]


@dataclass(frozen=True)
class Subject:
    """``make(n, d, dtype)`` gives the tensors; ``call(*tensors, **options)`` the loss; ``loop`` what it should be."""

    make: Callable[[int, int, torch.dtype], list[Tensor]]
    call: Callable[..., Tensor]
    loop: Callable[..., float]
    backends: bool = True  # plain torch has one


def euclidean(a: Row, b: Row) -> float:
    return math.sqrt(sum((p - q) ** 2 for p, q in zip(a, b)))


def square(a: Row, b: Row) -> float:
    return sum((p - q) ** 2 for p, q in zip(a, b))


def lse(values: list[float]) -> float:
    return log_sum_exp(values) if values else -math.inf


def softplus(z: float) -> float:
    if z == -math.inf:
        return 0.0
    return max(z, 0.0) + math.log1p(math.exp(-abs(z)))


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


@dataclass
class Pairs:
    """Scores of each row with its positives and negatives."""

    positive: list[list[float]]
    negative: list[list[float]]


def pairs_of(x: Tensor, score: Score, normalize: bool, y: Tensor | None = None) -> Pairs:
    """Rows against themselves, or against other rows with the labels of ``labels_for``."""
    rows = [unit(r) for r in x.tolist()] if normalize else x.tolist()
    others = rows if y is None else ([unit(r) for r in y.tolist()] if normalize else y.tolist())
    ids, other_ids = labels_for(len(rows)).tolist(), labels_for(len(others)).tolist()
    result = Pairs([], [])
    for i, a in enumerate(rows):
        scores = [(score(a, b), ids[i] == other_ids[j]) for j, b in enumerate(others) if y is not None or i != j]
        result.positive.append([s for s, same in scores if same])
        result.negative.append([s for s, same in scores if not same])
    return result


def loop_contrastive(x: Tensor, y: Tensor | None = None, margin: float = 1.5) -> float:
    p = pairs_of(x, euclidean, False, y)
    terms = [d**2 for row in p.positive for d in row] + [max(0.0, margin - d) ** 2 for row in p.negative for d in row]
    return mean(terms)


def loop_triplet(x: Tensor, mining: str, margin: float = 0.3, score: Score = euclidean, smooth: bool = False) -> float:
    p = pairs_of(x, score, False)
    terms = []
    for positive, negative in zip(p.positive, p.negative):
        if mining == "hard":
            chosen = [(max(positive), min(negative))] if positive and negative else []
        elif mining == "semihard":
            chosen = [(a, min([b for b in negative if b > a], default=max(negative))) for a in positive if negative]
        else:
            chosen = [(a, b) for a in positive for b in negative]
        terms += [softplus(a - b + margin) if smooth else max(0.0, a - b + margin) for a, b in chosen]
    return mean(terms)


def loop_lifted(x: Tensor, margin: float = 1.0, squared: bool = True) -> float:
    rows, ids = x.tolist(), labels_for(len(x)).tolist()
    total, count = 0.0, 0
    for i in range(len(rows)):
        for j in range(len(rows)):
            if i == j or ids[i] != ids[j]:
                continue
            count += 1
            sums = [margin - euclidean(rows[q], rows[k]) for q in (i, j) for k in range(len(rows)) if ids[k] != ids[q]]
            J = euclidean(rows[i], rows[j]) + lse(sums)
            if -math.inf < J:
                total += max(0.0, J) ** 2 / 2 if squared else J
    return total / count if count else 0.0


def loop_generalized_lifted(x: Tensor, margin: float = 1.0) -> float:
    p = pairs_of(x, euclidean, False)
    return mean([max(0.0, lse(a) + lse([margin - d for d in b])) for a, b in zip(p.positive, p.negative) if a and b])


def loop_n_pair(a: Tensor, p: Tensor, l2: float = 0.1) -> float:
    rows, others = a.tolist(), p.tolist()
    terms = []
    for i, row in enumerate(rows):
        z = [dot(row, other) - dot(row, others[i]) for other in others]
        terms.append(math.log(sum(math.exp(v) for v in z)) + l2 * (dot(row, row) + dot(others[i], others[i])) / 2)
    return mean(terms)


def loop_soft_nearest(x: Tensor, temperature: Tensor) -> float:
    p, t = pairs_of(x, square, False), float(temperature)
    return mean(
        [lse([-d / t for d in a + b]) - lse([-d / t for d in a]) if a else 0.0 for a, b in zip(p.positive, p.negative)]
    )


def loop_nca(x: Tensor, log: bool) -> float:
    p = pairs_of(x, square, False)
    shares = [math.exp(lse([-d for d in a]) - lse([-d for d in a + b])) for a, b in zip(p.positive, p.negative) if a]
    return mean([-math.log(s) if log else 1 - s for s in shares])


def loop_multi_similarity(
    x: Tensor, y: Tensor | None = None, alpha: float = 2, beta: float = 20, base: float = 0.5
) -> float:
    p = pairs_of(x, dot, True, y)
    return mean(
        [
            math.log1p(sum(math.exp(-alpha * (s - base)) for s in a)) / alpha
            + math.log1p(sum(math.exp(beta * (s - base)) for s in b)) / beta
            for a, b in zip(p.positive, p.negative)
        ]
    )


def loop_circle(x: Tensor, m: float = 0.25, gamma: float = 16) -> float:
    p = pairs_of(x, dot, True)
    terms = []
    for a, b in zip(p.positive, p.negative):
        if not a or not b:
            continue
        positive = lse([-gamma * max(0.0, 1 + m - s) * (s - 1 + m) for s in a])
        terms.append(softplus(positive + lse([gamma * max(0.0, s + m) * (s - m) for s in b])))
    return mean(terms)


def loop_margin(x: Tensor, beta: Tensor, alpha: float = 0.2, nu: float = 0.05) -> float:
    p, ids = pairs_of(x, euclidean, True), labels_for(len(x)).tolist()
    terms, total = 0, 0.0
    per_row = [float(beta[i % len(beta)]) for i in ids]
    for b, positive, negative in zip(per_row, p.positive, p.negative):
        values = [d - b + alpha for d in positive] + [b - d + alpha for d in negative]
        terms += sum(v > 0 for v in values)
        total += sum(max(0.0, v) for v in values)
    return total / max(terms, 1) + nu * mean(per_row)


def loop_tuplet(x: Tensor, margin: float = 5.73, scale: float = 16) -> float:
    p, beta = pairs_of(x, dot, True), math.radians(margin)
    return mean(
        [
            math.log1p(sum(math.exp(scale * (n - math.cos(math.acos(max(-1, min(1, s))) - beta))) for n in b))
            for a, b in zip(p.positive, p.negative)
            for s in a
        ]
    )


def loop_fast_ap(x: Tensor, bins: int = 10) -> float:
    p, width = pairs_of(x, square, True), 4 / bins
    terms = []
    for a, b in zip(p.positive, p.negative):
        if not a:
            continue
        h = [sum(max(0.0, 1 - abs(d - k * width) / width) for d in a) for k in range(bins + 1)]
        g = [sum(max(0.0, 1 - abs(d - k * width) / width) for d in b) for k in range(bins + 1)]
        total = 0.0
        for k in range(bins + 1):
            if h[k] > 0:
                total += h[k] * sum(h[: k + 1]) / sum(u + v for u, v in zip(h[: k + 1], g[: k + 1]))
        terms.append(1 - total / len(a))
    return mean(terms)


def loop_angular(x: Tensor, alpha: float = 40) -> float:
    rows, ids = [unit(r) for r in x.tolist()], labels_for(len(x)).tolist()
    t = math.tan(math.radians(alpha)) ** 2
    terms = []
    for i, a in enumerate(rows):
        for j, p in enumerate(rows):
            if i == j or ids[i] != ids[j]:
                continue
            z = [
                4 * t * dot([u + v for u, v in zip(a, p)], n) - 2 * (1 + t) * dot(a, p)
                for k, n in enumerate(rows)
                if ids[k] != ids[i]
            ]
            terms.append(math.log1p(sum(math.exp(v) for v in z)))
    return mean(terms)


def loop_ranked_list(x: Tensor, margin: float = 0.4, alpha: float = 1.2, tp: float = 1.0, tn: float = 3.0) -> float:
    p, c = pairs_of(x, euclidean, True), 1e-5 * len(x)
    terms = []
    for a, b in zip(p.positive, p.negative):
        parts = []
        for u, t in (([d - (alpha - margin) for d in a], tp), ([alpha - d for d in b], tn)):
            w = [(math.exp(t * v), v) for v in u if v > 0]
            parts.append(sum(k * v for k, v in w) / (sum(k for k, _ in w) + c))
        terms.append(mean(parts))
    return mean(terms)


def loop_multi_nt_xent(x: Tensor, temperature: Tensor, y: Tensor | None = None) -> float:
    p, t = pairs_of(x, dot, True, y), float(temperature)
    return mean([lse([s / t] + [n / t for n in b]) - s / t for a, b in zip(p.positive, p.negative) for s in a])


def loop_sup_con(x: Tensor, y: Tensor, t: float = 0.2) -> float:
    p = pairs_of(x, dot, True, y)
    terms = [lse([s / t for s in a + b]) - mean(a) / t if a else 0.0 for a, b in zip(p.positive, p.negative)]
    return mean(terms)


def loop_mil_nce(x: Tensor, t: float = 0.2) -> float:
    p = pairs_of(x, dot, True)
    return mean([lse([s / t for s in a + b]) - lse([s / t for s in a]) for a, b in zip(p.positive, p.negative) if a])


def _views(z0: Tensor, z1: Tensor) -> list[tuple[float, list[float]]]:
    """Cosine of each row with its other view, and with all rows of other pairs."""
    rows, n = [unit(r) for r in torch.cat([z0, z1]).tolist()], len(z0)
    return [
        (dot(a, rows[(i + n) % (2 * n)]), [dot(a, b) for j, b in enumerate(rows) if j % n != i % n])
        for i, a in enumerate(rows)
    ]


def loop_dcl(z0: Tensor, z1: Tensor, t: float = 0.2, sigma: float | None = None) -> float:
    views = _views(z0, z1)
    average = mean([math.exp(p / sigma) for p, _ in views]) if sigma else 1.0
    return mean(
        [
            lse([s / t for s in negatives])
            - (2 - math.exp(positive / sigma) / average if sigma else 1.0) * positive / t
            for positive, negatives in views
            if negatives
        ]
    )


def loop_hard_negative(z0: Tensor, z1: Tensor, t: float = 0.5, tau: float = 0.1, beta: float = 1.0) -> float:
    terms = []
    for positive, negatives in _views(z0, z1):
        if not negatives:
            continue
        harder = sum(math.exp((1 + beta) * s / t) for s in negatives) / sum(math.exp(beta * s / t) for s in negatives)
        e = math.exp(positive / t)
        g = max((harder - tau * e) / (1 - tau), math.exp(-1 / t))
        terms.append(-math.log(e / (e + len(negatives) * g)))
    return mean(terms)


def loop_uniformity(x: Tensor, t: float = 2.0) -> float:
    rows = [unit(r) for r in x.tolist()]
    values = [-t * square(rows[i], rows[j]) for i in range(len(rows)) for j in range(i)]
    return lse(values) - math.log(len(values)) if values else 0.0


def targets(n: int, classes: int) -> Tensor:
    return torch.arange(n) * 7 % classes


def loop_margin_softmax(x: Tensor, w: Tensor, scale: float, phi: Callable[[float], float]) -> float:
    rows, centres = [unit(r) for r in x.tolist()], [unit(r) for r in w.tolist()]
    terms = []
    for row, y in zip(rows, targets(len(x), len(w)).tolist()):
        logits = [scale * (phi(dot(row, c)) if k == y else dot(row, c)) for k, c in enumerate(centres)]
        terms.append(lse(logits) - logits[y])
    return mean(terms)


def arc(cosine: float, margin: float = math.radians(28.6)) -> float:
    theta = math.acos(max(-1.0, min(1.0, cosine)))
    return math.cos(theta + margin) if theta <= math.pi - margin else cosine - margin * math.sin(margin)


def loop_proxy_nca(x: Tensor, w: Tensor, include: bool) -> float:
    rows, centres = [unit(r) for r in x.tolist()], [unit(r) for r in w.tolist()]
    terms = []
    for row, y in zip(rows, targets(len(x), len(w)).tolist()):
        d = [-square(row, c) for c in centres]
        terms.append(lse([v for k, v in enumerate(d) if include or k != y]) - d[y])
    return mean(terms)


def loop_proxy_anchor(x: Tensor, w: Tensor, margin: float = 0.1, alpha: float = 8.0) -> float:
    rows, centres = [unit(r) for r in x.tolist()], [unit(r) for r in w.tolist()]
    y = targets(len(x), len(w)).tolist()
    positive, negative = [], []
    for c, centre in enumerate(centres):
        own = [math.exp(-alpha * (dot(r, centre) - margin)) for r, k in zip(rows, y) if k == c]
        positive += [math.log1p(sum(own))] if own else []
        negative.append(math.log1p(sum(math.exp(alpha * (dot(r, centre) + margin)) for r, k in zip(rows, y) if k != c)))
    return mean(positive) + mean(negative)


def loop_negative_sampling(c: Tensor, table: Tensor) -> float:
    p, n = picks(len(c), len(table))
    rows, words = c.tolist(), table.tolist()
    return mean(
        [
            softplus(-dot(row, words[p[i]])) + sum(softplus(dot(row, words[k])) for k in n[i])
            for i, row in enumerate(rows)
        ]
    )


def picks(n: int, words: int) -> tuple[list[int], list[list[int]]]:
    return [i * 3 % words for i in range(n)], [[(i * 5 + k * 7) % words for k in range(4)] for i in range(n)]


def loop_barlow(a: Tensor, b: Tensor) -> float:
    n, d = a.shape
    z = []
    for t in (a, b):
        columns = list(zip(*t.tolist()))
        centred = [[v - mean(list(c)) for v in c] for c in columns]
        z.append([[v / math.sqrt(mean([u * u for u in c]) + 1e-5) for v in c] for c in centred])
    total = 0.0
    for i in range(d):
        for j in range(d):
            c = dot(z[0][i], z[1][j]) / n
            total += (1 - c) ** 2 if i == j else 5e-3 * c * c
    return total


def loop_vicreg(a: Tensor, b: Tensor) -> float:
    n, d = a.shape
    total = 25 * mean([(u - v) ** 2 for p, q in zip(a.tolist(), b.tolist()) for u, v in zip(p, q)])
    for t in (a, b):
        columns = [[v - mean(list(c)) for v in c] for c in zip(*t.tolist())]
        total += 25 / 2 * mean([max(0.0, 1 - math.sqrt(dot(c, c) / (n - 1) + 1e-4)) for c in columns])
        total += sum((dot(columns[i], columns[j]) / (n - 1)) ** 2 for i in range(d) for j in range(d) if i != j) / d
    return total


def one(n: int, d: int, dtype: torch.dtype) -> list[Tensor]:
    return [(randn(n, d) / d**0.5).to(dtype)]


def two(n: int, d: int, dtype: torch.dtype) -> list[Tensor]:
    return [t for _ in range(2) for t in one(n, d, dtype)]


def against(n: int, d: int, dtype: torch.dtype) -> list[Tensor]:
    return [*one(n, d, dtype), *one(2 * n + 3, d, dtype)]


def with_value(value: float, make: Callable[..., list[Tensor]] = one) -> Callable[..., list[Tensor]]:
    return lambda n, d, dtype: [*make(n, d, dtype), torch.tensor(value, dtype=dtype)]


def _labelled(function: Callable[..., Tensor], **fixed: Any) -> Callable[..., Tensor]:
    return lambda x, **options: function(x, labels_for(len(x)), **fixed, **options)


def _referenced(function: Callable[..., Tensor], **fixed: Any) -> Callable[..., Tensor]:
    return lambda x, y, **options: function(
        x, labels_for(len(x)), ref_emb=y, ref_labels=labels_for(len(y)), **fixed, **options
    )


def _classes(function: Callable[..., Tensor], **fixed: Any) -> Callable[..., Tensor]:
    return lambda x, w, **options: function(x, w, targets(len(x), len(w)), **fixed, **options)


def _margin(x: Tensor, beta: Tensor, **options: Any) -> Tensor:
    per_class = beta[torch.arange(2000) % len(beta)]  # a boundary for each label that labels_for gives
    return F.margin_loss(x, labels_for(len(x)), beta=per_class, nu=0.05, **options)


def _sampled(c: Tensor, table: Tensor, **options: Any) -> Tensor:
    p, n = picks(len(c), len(table))
    return F.negative_sampling(
        c, table, torch.tensor(p, dtype=torch.long), torch.tensor(n).reshape(len(c), 4), **options
    )


SUBJECTS: dict[str, Subject] = {
    "contrastive": Subject(one, _labelled(F.contrastive, margin=1.5), loop_contrastive),
    "contrastive_ref": Subject(two, _referenced(F.contrastive, margin=1.5), loop_contrastive),
    "triplet_all": Subject(one, _labelled(F.triplet, margin=0.3), lambda x: loop_triplet(x, "all")),
    "triplet_smooth": Subject(
        one, _labelled(F.triplet, margin=0.3, smooth=True), lambda x: loop_triplet(x, "all", smooth=True)
    ),
    "triplet_hard": Subject(one, _labelled(F.triplet, margin=0.3, mining="hard"), lambda x: loop_triplet(x, "hard")),
    "triplet_semihard": Subject(
        one,
        _labelled(F.triplet, margin=0.3, mining="semihard", squared=True),
        lambda x: loop_triplet(x, "semihard", score=square),
    ),
    "lifted_structure": Subject(one, _labelled(F.lifted_structure), loop_lifted),
    "lifted_structure_unsquared": Subject(
        one, _labelled(F.lifted_structure, squared_hinge=False), lambda x: loop_lifted(x, squared=False)
    ),
    "generalized_lifted_structure": Subject(one, _labelled(F.generalized_lifted_structure), loop_generalized_lifted),
    "n_pair": Subject(two, lambda a, p, **o: F.n_pair(a, p, l2_reg=0.1, **o), loop_n_pair),
    "soft_nearest_neighbor": Subject(
        with_value(0.7),
        lambda x, t, **o: F.soft_nearest_neighbor(x, labels_for(len(x)), temperature=t, **o),
        loop_soft_nearest,
    ),
    "nca": Subject(one, _labelled(F.nca), lambda x: loop_nca(x, False)),
    "nca_log": Subject(one, _labelled(F.nca, log=True), lambda x: loop_nca(x, True)),
    "multi_similarity": Subject(one, _labelled(F.multi_similarity, beta=20.0), loop_multi_similarity),
    "multi_similarity_ref": Subject(two, _referenced(F.multi_similarity, beta=20.0), loop_multi_similarity),
    "circle": Subject(one, _labelled(F.circle, gamma=16.0), loop_circle),
    "margin_loss": Subject(
        lambda n, d, dtype: [*one(n, d, dtype), torch.tensor([1.1, 1.3, 0.9], dtype=dtype)], _margin, loop_margin
    ),
    "tuplet_margin": Subject(one, _labelled(F.tuplet_margin, scale=16.0), loop_tuplet),
    "fast_ap": Subject(one, _labelled(F.fast_ap), loop_fast_ap),
    "angular": Subject(one, _labelled(F.angular), loop_angular),
    "ranked_list": Subject(
        one, _labelled(F.ranked_list, positive_temperature=1.0, negative_temperature=3.0), loop_ranked_list
    ),
    "multi_nt_xent": Subject(
        with_value(0.2),
        lambda x, t, **o: F.multi_nt_xent(x, labels_for(len(x)), temperature=t, **o),
        loop_multi_nt_xent,
    ),
    "multi_nt_xent_ref": Subject(
        two,
        _referenced(F.multi_nt_xent, temperature=0.2),
        lambda x, y: loop_multi_nt_xent(x, torch.tensor(0.2, dtype=torch.float64), y),
    ),
    "sup_con_ref": Subject(
        two,
        _referenced(F.sup_con, temperature=0.2),
        lambda x, y: loop_sup_con(x, y),
    ),
    "mil_nce": Subject(one, _labelled(F.mil_nce, temperature=0.2), loop_mil_nce),
    "dcl": Subject(two, lambda a, b, **o: F.dcl(a, b, temperature=0.2, **o), loop_dcl),
    "dcl_weighted": Subject(
        two, lambda a, b, **o: F.dcl(a, b, temperature=0.2, sigma=0.5, **o), lambda a, b: loop_dcl(a, b, sigma=0.5)
    ),
    "hard_negative_nt_xent": Subject(two, lambda a, b, **o: F.hard_negative_nt_xent(a, b, **o), loop_hard_negative),
    "debiased_nt_xent": Subject(
        two, lambda a, b, **o: F.debiased_nt_xent(a, b, **o), lambda a, b: loop_hard_negative(a, b, beta=0.0)
    ),
    "uniformity": Subject(one, lambda x, **o: F.uniformity(x, **o), loop_uniformity),
    "normalized_softmax": Subject(
        against,
        _classes(F.normalized_softmax, temperature=0.1),
        lambda x, w: loop_margin_softmax(x, w, 10.0, lambda c: c),
    ),
    "cos_face": Subject(
        against, _classes(F.cos_face, scale=16.0), lambda x, w: loop_margin_softmax(x, w, 16.0, lambda c: c - 0.35)
    ),
    "arc_face": Subject(against, _classes(F.arc_face, scale=16.0), lambda x, w: loop_margin_softmax(x, w, 16.0, arc)),
    "proxy_nca": Subject(against, _classes(F.proxy_nca), lambda x, w: loop_proxy_nca(x, w, False)),
    "proxy_nca_pp": Subject(
        against, _classes(F.proxy_nca, include_positive=True), lambda x, w: loop_proxy_nca(x, w, True)
    ),
    "proxy_anchor": Subject(against, _classes(F.proxy_anchor, alpha=8.0), loop_proxy_anchor),
    "negative_sampling": Subject(against, _sampled, loop_negative_sampling),
    "barlow_twins": Subject(two, lambda a, b: F.barlow_twins(a, b), loop_barlow, backends=False),
    "vicreg": Subject(two, lambda a, b: F.vicreg(a, b), loop_vicreg, backends=False),
}

DETACHED = ("circle", "dcl_weighted")  # factors that count as constants: the derivative is another function's
FUSED = [name for name, subject in SUBJECTS.items() if subject.backends]


def gradients(subject: Subject, tensors: list[Tensor], **options: Any) -> list[Tensor]:
    """The loss and its gradient for every tensor, as float64."""
    inputs = [t.detach().clone().requires_grad_() for t in tensors]
    loss = subject.call(*inputs, **options)
    grads = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [
        loss.detach().double(),
        *(torch.zeros_like(t).double() if g is None else g.double() for g, t in zip(grads, inputs)),
    ]
