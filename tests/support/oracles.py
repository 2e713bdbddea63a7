"""What is right: every loss as a loop over Python numbers, from its paper. No tensor arithmetic, nothing of ours.

A loop takes the inputs of its :class:`~tests.support.subjects.Subject` by name, and gives the loss of each row or,
where that is not one of the reductions, their mean.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Row = list[float]
Score = Callable[[Row, Row], float]


def unit(row: list[float]) -> list[float]:
    length = max(math.sqrt(sum(v * v for v in row)), 1e-12)
    return [v / length for v in row]


def dot(a: list[float], b: list[float]) -> float:
    return sum(p * q for p, q in zip(a, b))


def log_sum_exp(values: list[float]) -> float:
    top = max(values)
    return top + math.log(sum(math.exp(v - top) for v in values))


def unit_rows(*tensors: Tensor) -> list[list[list[float]]]:
    return [[unit(row) for row in t.tolist()] for t in tensors]


def info_nce(
    x: Tensor,
    y: Tensor,
    temperature: Tensor,
    memory: Tensor | None = None,
    symmetric: bool = False,
    smoothing: float = 0.0,
) -> list[float]:
    (queries, keys), extra = unit_rows(x, y), unit_rows(memory)[0] if memory is not None else []
    s = [[dot(a, b) / float(temperature) for b in keys + extra] for a in queries]
    rows = [smoothed_cross_entropy(line, i, smoothing) for i, line in enumerate(s)]
    if not symmetric:
        return rows
    columns = [smoothed_cross_entropy([line[j] for line in s], j, smoothing) for j in range(len(s))]
    return [(a + b) / 2 for a, b in zip(rows, columns)]


def smoothed_cross_entropy(scores: list[float], target: int, smoothing: float = 0.0) -> float:
    top = log_sum_exp(scores)
    of_target, of_all = top - scores[target], [top - s for s in scores]
    return (1 - smoothing) * of_target + smoothing * sum(of_all) / len(of_all)


def info_nce_distinct(
    x: Tensor, y: Tensor, temperature: Tensor, memory: Tensor, duplicates: Tensor, memory_ids: Tensor
) -> list[float]:
    queries, keys, queue = unit_rows(x, y, memory)
    ids, queue_ids, result = duplicates.tolist(), memory_ids.tolist(), []
    for i, q in enumerate(queries):
        against = [k for j, k in enumerate(keys) if j != i and ids[j] != ids[i]]
        against += [k for k, id_ in zip(queue, queue_ids) if id_ != ids[i]]
        own = dot(q, keys[i]) / float(temperature)
        result.append(log_sum_exp([own, *(dot(q, k) / float(temperature) for k in against)]) - own)
    return result


def info_nce_own(
    x: Tensor, y: Tensor, temperature: Tensor, own_negatives: Tensor, duplicates: Tensor, own_negative_ids: Tensor
) -> list[float]:
    queries, keys = unit_rows(x, y)
    ids, result = duplicates.tolist(), []
    for i, q in enumerate(queries):
        against = [k for j, k in enumerate(keys) if j != i and ids[j] != ids[i]]
        mined = zip(unit_rows(own_negatives[i])[0], own_negative_ids[i].tolist())
        against += [k for k, id_ in mined if id_ != ids[i]]
        own = dot(q, keys[i]) / float(temperature)
        result.append(log_sum_exp([own, *(dot(q, k) / float(temperature) for k in against)]) - own)
    return result


def nt_xent(
    x: Tensor, y: Tensor, temperature: Tensor, duplicates: Tensor | None = None, smoothing: float = 0.0
) -> list[float]:
    first, second = unit_rows(x, y)
    z, n = first + second, len(x)
    ids = list(range(n)) if duplicates is None else duplicates.tolist()
    result = []
    for i in range(2 * n):
        other = (i + n) % (2 * n)
        columns = [j for j in range(2 * n) if j != i and (j == other or ids[j % n] != ids[i % n])]
        scores = [dot(z[i], z[j]) / float(temperature) for j in columns]
        result.append(smoothed_cross_entropy(scores, columns.index(other), smoothing))
    return result


def clip_loss(
    x: Tensor, y: Tensor, scale: Tensor, duplicates: Tensor | None = None, smoothing: float = 0.0
) -> list[float]:
    a, b, n = x.tolist(), y.tolist(), len(x)
    ids = list(range(n)) if duplicates is None else duplicates.tolist()
    s = [[dot(p, q) * float(scale) for q in b] for p in a]
    result = []
    for i in range(n):
        meets = [k for k in range(n) if k == i or ids[k] != ids[i]]
        sides = [[s[i][k] for k in meets], [s[k][i] for k in meets]]
        result.append(sum(smoothed_cross_entropy(side, meets.index(i), smoothing) for side in sides) / 2)
    return result


def siglip_loss(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor, duplicates: Tensor | None = None) -> list[float]:
    ids = list(range(len(x))) if duplicates is None else duplicates.tolist()
    result = []
    for i, p in enumerate(x.tolist()):
        total = 0.0
        for j, q in enumerate(y.tolist()):
            if i != j and ids[i] == ids[j]:
                continue
            z = (1 if i == j else -1) * (dot(p, q) * float(scale) + float(bias))
            total += math.log1p(math.exp(-z)) if z > 0 else math.log1p(math.exp(z)) - z
        result.append(total)
    return result


def linear_cross_entropy(x: Tensor, head: Tensor, head_bias: Tensor, head_targets: Tensor) -> list[float]:
    result = []
    for row, target in zip(x.tolist(), head_targets.tolist()):
        logits = [dot(row, q) + c for q, c in zip(head.tolist(), head_bias.tolist())]
        result.append(0.0 if target == -100 else log_sum_exp(logits) - logits[target])
    return result


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


def pairs_of(
    x: Tensor, labels: Tensor, score: Score, normalize: bool, y: Tensor | None = None, y_labels: Tensor | None = None
) -> Pairs:
    """Rows against themselves, or against other rows."""
    rows = [unit(r) for r in x.tolist()] if normalize else x.tolist()
    others = rows if y is None else ([unit(r) for r in y.tolist()] if normalize else y.tolist())
    ids = labels.tolist()
    other_ids = ids if y_labels is None else y_labels.tolist()
    result = Pairs([], [])
    for i, a in enumerate(rows):
        scores = [(score(a, b), ids[i] == other_ids[j]) for j, b in enumerate(others) if y is not None or i != j]
        result.positive.append([s for s, same in scores if same])
        result.negative.append([s for s, same in scores if not same])
    return result


def contrastive(
    x: Tensor, labels: Tensor, memory: Tensor | None = None, memory_labels: Tensor | None = None, margin: float = 1.5
) -> float:
    p = pairs_of(x, labels, euclidean, False, memory, memory_labels)
    terms = [d**2 for row in p.positive for d in row] + [max(0.0, margin - d) ** 2 for row in p.negative for d in row]
    return mean(terms)


def triplet(
    x: Tensor, labels: Tensor, mining: str, margin: float = 0.3, score: Score = euclidean, smooth: bool = False
) -> float:
    p = pairs_of(x, labels, score, False)
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


def lifted_structure(x: Tensor, labels: Tensor, margin: float = 1.0, squared: bool = True) -> float:
    rows, ids = x.tolist(), labels.tolist()
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


def generalized_lifted_structure(x: Tensor, labels: Tensor, margin: float = 1.0) -> float:
    p = pairs_of(x, labels, euclidean, False)
    return mean([max(0.0, lse(a) + lse([margin - d for d in b])) for a, b in zip(p.positive, p.negative) if a and b])


def n_pair(x: Tensor, y: Tensor, l2: float = 0.1) -> float:
    rows, others = x.tolist(), y.tolist()
    terms = []
    for i, row in enumerate(rows):
        z = [dot(row, other) - dot(row, others[i]) for other in others]
        terms.append(math.log(sum(math.exp(v) for v in z)) + l2 * (dot(row, row) + dot(others[i], others[i])) / 2)
    return mean(terms)


def soft_nearest_neighbor(x: Tensor, labels: Tensor, temperature: Tensor) -> float:
    p, t = pairs_of(x, labels, square, False), float(temperature)
    return mean(
        [lse([-d / t for d in a + b]) - lse([-d / t for d in a]) if a else 0.0 for a, b in zip(p.positive, p.negative)]
    )


def nca(x: Tensor, labels: Tensor, log: bool) -> float:
    p = pairs_of(x, labels, square, False)
    shares = [math.exp(lse([-d for d in a]) - lse([-d for d in a + b])) for a, b in zip(p.positive, p.negative) if a]
    return mean([-math.log(s) if log else 1 - s for s in shares])


def multi_similarity(
    x: Tensor,
    labels: Tensor,
    memory: Tensor | None = None,
    memory_labels: Tensor | None = None,
    alpha: float = 2,
    beta: float = 20,
    base: float = 0.5,
) -> float:
    p = pairs_of(x, labels, dot, True, memory, memory_labels)
    return mean(
        [
            math.log1p(sum(math.exp(-alpha * (s - base)) for s in a)) / alpha
            + math.log1p(sum(math.exp(beta * (s - base)) for s in b)) / beta
            for a, b in zip(p.positive, p.negative)
        ]
    )


def all_peers(x: Tensor, labels: Tensor, m: float = 0.25, gamma: float = 16) -> float:
    p = pairs_of(x, labels, dot, True)
    terms = []
    for a, b in zip(p.positive, p.negative):
        if not a or not b:
            continue
        positive = lse([-gamma * max(0.0, 1 + m - s) * (s - 1 + m) for s in a])
        terms.append(softplus(positive + lse([gamma * max(0.0, s + m) * (s - m) for s in b])))
    return mean(terms)


def margin_loss(x: Tensor, labels: Tensor, boundaries: Tensor, alpha: float = 0.2, nu: float = 0.05) -> float:
    p, ids = pairs_of(x, labels, euclidean, True), labels.tolist()
    terms, total = 0, 0.0
    per_row = [float(boundaries[i]) for i in ids]
    for b, positive, negative in zip(per_row, p.positive, p.negative):
        values = [d - b + alpha for d in positive] + [b - d + alpha for d in negative]
        terms += sum(v > 0 for v in values)
        total += sum(max(0.0, v) for v in values)
    return total / max(terms, 1) + nu * mean(per_row)


def tuplet_margin(x: Tensor, labels: Tensor, margin: float = 5.73, scale: float = 16) -> float:
    p, beta = pairs_of(x, labels, dot, True), math.radians(margin)
    return mean(
        [
            math.log1p(sum(math.exp(scale * (n - math.cos(math.acos(max(-1, min(1, s))) - beta))) for n in b))
            for a, b in zip(p.positive, p.negative)
            for s in a
        ]
    )


def fast_ap(x: Tensor, labels: Tensor, bins: int = 10) -> float:
    p, width = pairs_of(x, labels, square, True), 4 / bins
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


def angular(x: Tensor, labels: Tensor, alpha: float = 40) -> float:
    rows, ids = [unit(r) for r in x.tolist()], labels.tolist()
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


def ranked_list(
    x: Tensor, labels: Tensor, margin: float = 0.4, alpha: float = 1.2, tp: float = 1.0, tn: float = 3.0
) -> float:
    p, c = pairs_of(x, labels, euclidean, True), 1e-5 * len(x)
    terms = []
    for a, b in zip(p.positive, p.negative):
        parts = []
        for u, t in (([d - (alpha - margin) for d in a], tp), ([alpha - d for d in b], tn)):
            w = [(math.exp(t * v), v) for v in u if v > 0]
            parts.append(sum(k * v for k, v in w) / (sum(k for k, _ in w) + c))
        terms.append(mean(parts))
    return mean(terms)


def multi_nt_xent(
    x: Tensor, labels: Tensor, temperature: Tensor, memory: Tensor | None = None, memory_labels: Tensor | None = None
) -> float:
    p, t = pairs_of(x, labels, dot, True, memory, memory_labels), float(temperature)
    return mean([lse([s / t] + [n / t for n in b]) - s / t for a, b in zip(p.positive, p.negative) for s in a])


def sup_con(
    x: Tensor, labels: Tensor, temperature: Tensor, memory: Tensor | None = None, memory_labels: Tensor | None = None
) -> list[float]:
    p, t = pairs_of(x, labels, dot, True, memory, memory_labels), float(temperature)
    return [lse([s / t for s in a + b]) - mean(a) / t if a else 0.0 for a, b in zip(p.positive, p.negative)]


def sup_con_soft(
    x: Tensor,
    soft_labels: Tensor,
    temperature: Tensor,
    memory: Tensor | None = None,
    memory_soft_labels: Tensor | None = None,
) -> list[float]:
    rows, labels = unit_rows(x)[0], soft_labels.tolist()
    others, other_labels = rows, labels
    if memory is not None and memory_soft_labels is not None:
        others, other_labels = unit_rows(memory)[0], memory_soft_labels.tolist()
    result = []
    for i, a in enumerate(rows):
        meets = [j for j in range(len(others)) if memory is not None or j != i]
        scores = [dot(a, others[j]) / float(temperature) for j in meets]
        weights = [dot(labels[i], other_labels[j]) for j in meets]
        top, total = lse(scores), sum(weights)
        result.append(sum(w * (top - s) for w, s in zip(weights, scores)) / total if total > 0 else 0.0)
    return result


def sincere(x: Tensor, labels: Tensor, temperature: Tensor) -> float:
    p, t = pairs_of(x, labels, dot, True), float(temperature)
    of_row = (mean([lse([s / t] + [n / t for n in b]) - s / t for s in a]) for a, b in zip(p.positive, p.negative) if a)
    return mean(list(of_row))


def mil_nce(x: Tensor, labels: Tensor, temperature: Tensor) -> float:
    p, t = pairs_of(x, labels, dot, True), float(temperature)
    return mean([lse([s / t for s in a + b]) - lse([s / t for s in a]) for a, b in zip(p.positive, p.negative) if a])


def _views(x: Tensor, y: Tensor) -> list[tuple[float, list[float]]]:
    """Cosine of each row with its other view, and with all rows of other pairs."""
    rows, n = [unit(r) for r in x.tolist() + y.tolist()], len(x)
    return [
        (dot(a, rows[(i + n) % (2 * n)]), [dot(a, b) for j, b in enumerate(rows) if j % n != i % n])
        for i, a in enumerate(rows)
    ]


def dcl(x: Tensor, y: Tensor, temperature: Tensor, sigma: float | None = None) -> float:
    views, t = _views(x, y), float(temperature)
    average = mean([math.exp(p / sigma) for p, _ in views]) if sigma else 1.0
    return mean(
        [
            lse([s / t for s in negatives])
            - (2 - math.exp(positive / sigma) / average if sigma else 1.0) * positive / t
            for positive, negatives in views
            if negatives
        ]
    )


def rince(x: Tensor, y: Tensor, temperature: Tensor, q: float = 0.5, lam: float = 0.025) -> float:
    terms, t = [], float(temperature)
    for positive, negatives in _views(x, y):
        pull, every = math.exp(positive / t), sum(math.exp(s / t) for s in [positive, *negatives])
        terms.append(-(pull**q) / q + (lam * every) ** q / q)
    return mean(terms)


def hard_negative(x: Tensor, y: Tensor, temperature: Tensor, tau: float = 0.1, beta: float = 1.0) -> float:
    terms, t = [], float(temperature)
    for positive, negatives in _views(x, y):
        if not negatives:
            continue
        harder = sum(math.exp((1 + beta) * s / t) for s in negatives) / sum(math.exp(beta * s / t) for s in negatives)
        e = math.exp(positive / t)
        g = max((harder - tau * e) / (1 - tau), math.exp(-1 / t))
        terms.append(-math.log(e / (e + len(negatives) * g)))
    return mean(terms)


def uniformity(x: Tensor, t: float = 2.0) -> float:
    rows = [unit(r) for r in x.tolist()]
    values = [-t * square(rows[i], rows[j]) for i in range(len(rows)) for j in range(i)]
    return lse(values) - math.log(len(values)) if values else 0.0


def koleo(x: Tensor, eps: float = 1e-8) -> list[float]:
    rows = [unit(r) for r in x.tolist()]
    if len(rows) < 2:
        return [0.0] * len(rows)
    nearest = [min(euclidean(a, b) for j, b in enumerate(rows) if j != i) for i, a in enumerate(rows)]
    return [-math.log(distance + eps) for distance in nearest]


def margin_softmax(x: Tensor, classes: Tensor, targets: Tensor, scale: float, phi: Callable[[float], float]) -> float:
    rows, centres = [unit(r) for r in x.tolist()], [unit(r) for r in classes.tolist()]
    terms = []
    for row, y in zip(rows, targets.tolist()):
        logits = [scale * (phi(dot(row, c)) if k == y else dot(row, c)) for k, c in enumerate(centres)]
        terms.append(lse(logits) - logits[y])
    return mean(terms)


def normalized_softmax(x: Tensor, classes: Tensor, targets: Tensor, temperature: Tensor) -> float:
    return margin_softmax(x, classes, targets, 1 / float(temperature), lambda c: c)


def arc(cosine: float, margin: float = math.radians(28.6)) -> float:
    theta = math.acos(max(-1.0, min(1.0, cosine)))
    return math.cos(theta + margin) if theta <= math.pi - margin else cosine - margin * math.sin(margin)


def proxy_nca(x: Tensor, classes: Tensor, targets: Tensor, include: bool) -> float:
    rows, centres = [unit(r) for r in x.tolist()], [unit(r) for r in classes.tolist()]
    terms = []
    for row, y in zip(rows, targets.tolist()):
        d = [-square(row, c) for c in centres]
        terms.append(lse([v for k, v in enumerate(d) if include or k != y]) - d[y])
    return mean(terms)


def proxy_anchor(x: Tensor, classes: Tensor, targets: Tensor, margin: float = 0.1, alpha: float = 8.0) -> float:
    rows, centres = [unit(r) for r in x.tolist()], [unit(r) for r in classes.tolist()]
    y = targets.tolist()
    positive, negative = [], []
    for c, centre in enumerate(centres):
        own = [math.exp(-alpha * (dot(r, centre) - margin)) for r, k in zip(rows, y) if k == c]
        positive += [math.log1p(sum(own))] if own else []
        negative.append(math.log1p(sum(math.exp(alpha * (dot(r, centre) + margin)) for r, k in zip(rows, y) if k != c)))
    return mean(positive) + mean(negative)


def negative_sampling(x: Tensor, classes: Tensor, targets: Tensor, negatives: Tensor) -> float:
    words = classes.tolist()
    return mean(
        [
            softplus(-dot(row, words[p])) + sum(softplus(dot(row, words[k])) for k in n)
            for row, p, n in zip(x.tolist(), targets.tolist(), negatives.tolist())
        ]
    )


def nce(logits: Tensor, noise_logits: Tensor) -> list[float]:
    return [softplus(-u) + sum(softplus(v) for v in noise) for u, noise in zip(logits.tolist(), noise_logits.tolist())]


def alignment(x: Tensor, y: Tensor, alpha: float = 2.0) -> float:
    return mean([euclidean(unit(a), unit(b)) ** alpha for a, b in zip(x.tolist(), y.tolist())])


def negative_cosine_similarity(x: Tensor, y: Tensor) -> list[float]:
    return [-dot(unit(a), unit(b)) for a, b in zip(x.tolist(), y.tolist())]


def cross_entropy(weights: Row, logits: Row) -> float:
    total = log_sum_exp(logits)
    return sum(p * (total - z) for p, z in zip(weights, logits))


def softmax(logits: Row) -> Row:
    total = log_sum_exp(logits)
    return [math.exp(z - total) for z in logits]


def dino(student: Tensor, teacher: Tensor, center: Tensor, ts: float = 0.1, tt: float = 0.04) -> float:
    targets = [
        [softmax([(z - c) / tt for z, c in zip(row, center.tolist())]) for row in view] for view in teacher.tolist()
    ]
    return mean(
        [
            cross_entropy(p, [z / ts for z in row])
            for w, target in enumerate(targets)
            for v, view in enumerate(student.tolist())
            if v != w
            for p, row in zip(target, view)
        ]
    )


def sigreg(x: Tensor, directions: Tensor, t_max: float = 3.0, knots: int = 17) -> float:
    """The integral over all of [-t_max, t_max], by the trapezoidal rule."""
    rows, step, statistics = x.tolist(), t_max / (knots - 1), []
    for direction in directions.T.tolist():
        projections, total = [dot(row, direction) for row in rows], 0.0
        for k in range(1 - knots, knots):
            t = k * step
            error = abs(mean([cmath.exp(1j * t * p) for p in projections]) - math.exp(-t * t / 2))
            total += (step / 2 if abs(k) == knots - 1 else step) * math.exp(-t * t / 2) * error**2
        statistics.append(len(rows) * total)
    return mean(statistics)


def lejepa(student: Tensor, directions: Tensor, lambd: float = 0.05, global_views: int = 4) -> float:
    views = student.tolist()
    distances = [
        (value - mean([other[i][d] for other in views[:global_views]])) ** 2
        for view in views
        for i, row in enumerate(view)
        for d, value in enumerate(row)
    ]
    return lambd * mean([sigreg(view, directions) for view in student]) + (1 - lambd) * mean(distances)


def sinkhorn(scores: list[Row], epsilon: float = 0.05, iterations: int = 3) -> list[Row]:
    """Columns, then rows, made equal in sum; in the logarithm."""
    q = [[s / epsilon for s in row] for row in scores]
    for _ in range(iterations):
        columns = [log_sum_exp(list(c)) for c in zip(*q)]
        q = [[v - c for v, c in zip(row, columns)] for row in q]
        q = [[v - log_sum_exp(row) for v in row] for row in q]
    return [[math.exp(v) for v in row] for row in q]


def swapped_prediction(x: Tensor, y: Tensor, temperature: Tensor) -> float:
    a, b, t = x.tolist(), y.tolist(), float(temperature)
    terms = [
        cross_entropy(target, [z / t for z in row])
        for rows, others in ((a, b), (b, a))
        for row, target in zip(rows, sinkhorn(others))
    ]
    return mean(terms)


def barlow_twins(x: Tensor, y: Tensor) -> float:
    n, d = x.shape
    z = []
    for t in (x, y):
        columns = list(zip(*t.tolist()))
        centred = [[v - mean(list(c)) for v in c] for c in columns]
        z.append([[v / math.sqrt(mean([u * u for u in c]) + 1e-5) for v in c] for c in centred])
    total = 0.0
    for i in range(d):
        for j in range(d):
            c = dot(z[0][i], z[1][j]) / n
            total += (1 - c) ** 2 if i == j else 5e-3 * c * c
    return total


def vicreg(x: Tensor, y: Tensor) -> float:
    n, d = x.shape
    total = 25 * mean([(u - v) ** 2 for p, q in zip(x.tolist(), y.tolist()) for u, v in zip(p, q)])
    for t in (x, y):
        columns = [[v - mean(list(c)) for v in c] for c in zip(*t.tolist())]
        total += 25 / 2 * mean([max(0.0, 1 - math.sqrt(dot(c, c) / (n - 1) + 1e-4)) for c in columns])
        total += sum((dot(columns[i], columns[j]) / (n - 1)) ** 2 for i in range(d) for j in range(d) if i != j) / d
    return total
