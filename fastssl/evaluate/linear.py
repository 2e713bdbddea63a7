"""Linear probes on frozen features: with all or few labels, by L-BFGS or SGD."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as TF
from torch import Tensor

import fastssl.functional as F
from fastssl._words import amount
from fastssl.evaluate.features import is_large, job, map_chunks, progress_bar
from fastssl.evaluate.given import class_ids, row_indices, signs, unit_rows
from fastssl.evaluate.lbfgs import HISTORY, minimize
from fastssl.evaluate.metrics import CORRELATIONS, METRICS, metric_of
from fastssl.functional import _check as check
from fastssl.models.given import CHUNK, Values, as_tensor, feature_rows

DECAYS = (1e-5, 1e-4, 1e-3, 1e-2)
RATES = (0.01, 0.1, 1.0, 10.0)
TOGETHER = 2**27  # logits and vectors of the history, in numbers, up to which penalties are fitted together


def _moments(features: Tensor, train: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the training rows; infinite where a feature is constant, as in a single row."""
    freedom = max(1, len(train) - 1)
    if is_large(features):
        sums = [(c.sum(0), c.square().sum(0)) for c in _rows(features, train)]
        mean = torch.stack([a for a, _ in sums]).sum(0) / len(train)
        square = torch.stack([b for _, b in sums]).sum(0) / len(train)
        scale = ((square - mean.square()) * len(train) / freedom).clamp(min=0).sqrt().float()
        mean = mean.float()
    else:
        mean, scale = features[train].mean(0), features[train].std(0, correction=len(train) - freedom)
    # What varies by less than its rounding, in whatever unit, is constant, and becomes 0.
    return mean, torch.where(scale > 1e-6 * mean.abs(), scale, torch.inf)


def standardise(features: Tensor, train: np.ndarray) -> Tensor:
    """Features of mean 0 and, by the training rows, variance 1 / C; 0 where they are constant there."""
    return _scaled(features, *_moments(features, train))


def _scaled(features: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return map_chunks(features, lambda rows: ((rows - mean) / scale) / features.shape[1] ** 0.5)


def _rows(features: Tensor, which: np.ndarray) -> Iterator[Tensor]:
    """Yields rows in double precision, chunk by chunk."""
    return (features[rows].double() for rows in torch.from_numpy(np.asarray(which)).split(CHUNK))


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of classes [N], or of logits [N, W, C] and classes [N, W], -100: none; binary cross-entropy per
    class for labels [N, C] of -1, 0 (ignored) and 1; or half the squared error of floats [N]."""
    if labels.is_floating_point():
        return 0.5 * (logits[:, 0] - labels).square().mean()
    if labels.dim() == 1:
        return TF.cross_entropy(logits, labels)
    if logits.dim() == 3:
        return TF.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / (labels >= 0).sum().clamp(1)
    terms = TF.softplus(-labels * logits) * (labels != 0)
    return terms.sum() / len(labels)


HEAD_DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # the last: almost 0, where features say nothing


def linear_head(features: Tensor, labels: Tensor, outputs: int) -> tuple[Tensor, Tensor]:
    """Weight [outputs, C] and bias [outputs] of a linear classifier of features [N, C] by the L-BFGS of
    :func:`linear_probe`; the L2 penalty is that of the smallest loss on a validation fifth."""
    rows = np.random.default_rng(len(features)).permutation(len(features))
    held, rest = rows[: len(rows) // 5], rows[len(rows) // 5 :]
    mean, scale = _moments(features, rows)
    x = _scaled(features, mean, scale)
    decays = list(HEAD_DECAYS)
    if len(held):
        fits = _fit_lbfgs(x, labels, rest, outputs, decays, 100)
        losses = [float(_loss(x[held] @ weight.T + bias, labels[held])) for weight, bias in fits]
        decays = [decays[int(np.argmin(np.nan_to_num(losses, nan=np.inf)))]]
    weight, bias = _fit_lbfgs(x, labels, rows, outputs, decays[-1:], 100)[0]
    weight = weight / (scale * features.shape[1] ** 0.5)
    return weight, bias - weight @ mean


Fits = list[tuple[Tensor, Tensor]]  # weight [classes, C] and bias [classes] per penalty or rate


def _fit_lbfgs(
    features: Tensor, labels: Tensor, train: np.ndarray, classes: int, decays: Sequence[float], steps: int
) -> Fits:
    """All iterates lie in the span of the training rows: where those are few, coordinates in an orthonormal basis."""
    x, labels, basis = features[train], labels[train], None
    if x.shape[1] > 2 * x.shape[0]:
        basis, triangle = torch.linalg.qr(x.T)
        x = triangle.T.contiguous()

    def objective(which: Sequence[int], points: Tensor, decays: Sequence[float]) -> list[tuple[float, Tensor]]:
        """Of the penalties ``which``; the rows are read twice, for all of them together."""
        weight, bias = points[:, :-classes].view(len(which), classes, -1), points[:, -classes:]
        logits = torch.addmm(bias.flatten(), x, weight.flatten(0, 1).T).view(len(x), len(which), classes)
        logits.requires_grad_()
        with torch.enable_grad():
            losses = torch.stack([_loss(each, labels) for each in logits.unbind(1)])
            (slopes,) = torch.autograd.grad(losses.sum(), logits)
        decay = torch.tensor([decays[k] for k in which]).to(x)
        gradients = (slopes.flatten(1).T @ x).view_as(weight) + 2 * decay[:, None, None] * weight
        values = losses.detach() + decay * weight.square().sum((1, 2))
        return list(zip(values.tolist(), torch.cat([gradients.flatten(1), slopes.sum(0)], 1)))

    size = classes * (x.shape[1] + 1)
    together = max(1, TOGETHER // (len(x) * classes + 2 * HISTORY * size))
    fits: Fits = []
    with job("linear classifier", len(decays)) as part:
        for group in (decays[k : k + together] for k in range(0, len(decays), together)):
            with part(len(group)), progress_bar("linear classifier") as show:
                start = x.new_zeros(len(group), size)
                found = minimize(functools.partial(objective, decays=group), start, steps, progress=show)
            weights = found[:, :-classes].view(len(group), classes, -1)
            fits += zip(weights if basis is None else weights @ basis.T, found[:, -classes:])
    return fits


def _fit_sgd(x: Tensor, labels: Tensor, train: np.ndarray, classes: int, rates: Sequence[float], epochs: int) -> Fits:
    fits: Fits = []
    with job("linear classifier", len(rates)) as part:
        for rate in rates:
            with part():
                fits.append(_sgd(x, labels, train, classes, rate, epochs))
    return fits


def _sgd(x: Tensor, labels: Tensor, train: np.ndarray, classes: int, rate: float, epochs: int) -> tuple[Tensor, Tensor]:
    """SGD with momentum 0.9, no weight decay, cosine schedule and batches of 256 (He et al. 2020), on features of unit
    variance, which the learning rates assume."""
    scale, chosen = x.shape[1] ** 0.5, torch.from_numpy(train)
    weight = torch.zeros(classes, x.shape[1], dtype=x.dtype, requires_grad=True)
    bias = torch.zeros(classes, dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.SGD([weight, bias], rate, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    with progress_bar("linear classifier") as show:
        for epoch in range(epochs):
            optimizer.param_groups[0]["lr"] = rate * (1 + np.cos(np.pi * epoch / epochs)) / 2
            for order in torch.randperm(len(train), generator=generator).split(256):
                rows = chosen[order]
                optimizer.zero_grad()
                _loss(x[rows] * scale @ weight.T + bias, labels[rows]).backward()
                optimizer.step()
            show(epoch + 1, epochs)
    return weight.detach() * scale, bias.detach()


@torch.inference_mode(False)
@torch.enable_grad()
def linear_probe(
    features: Values,
    labels: Values,
    train: np.ndarray,
    test: np.ndarray,
    decay: float | None = None,
    steps: int = 100,
    *,
    protocol: str = "lbfgs",
    metric: str = "top-1",
) -> float:
    """Test score, in percent, of a linear classifier on standardised features.

    Args:
        features: [N, C], float32 or float64, or of 16 bits (computed in float32).
        labels: [N], or [N, classes] of -1, 0 (ignored) and 1 for several classes per item.
        train: indices of the training rows, or a mask of N booleans.
        test: indices of the test rows, or a mask.
        decay: L2 penalty ("lbfgs") or learning rate ("sgd"); None: selected from :data:`DECAYS` or :data:`RATES` on a
            validation fifth of the training rows.
        steps: iterations of L-BFGS, or epochs of SGD.
        protocol: "lbfgs", logistic regression from zero weights (Kornblith et al. 2019, SimCLR), or "sgd" (MoCo).
        metric: "top-1", "mean per class" or "11-point mAP"; of labels that are numbers "Pearson" or "Spearman".

    Raises:
        TypeError: labels that are no integers, where classes are scored.
        ValueError: unknown protocol or metric, fewer than two training rows (three, where the penalty or rate is
            selected) or no test rows, non-finite features, or negative labels.

    Example:
        >>> import numpy as np, torch
        >>> from fastssl.evaluate import linear_probe
        >>> labels = torch.arange(60) % 3
        >>> features = torch.eye(3)[labels] + 0.1 * torch.randn(60, 3)
        >>> linear_probe(features, labels, np.arange(40), np.arange(40, 60))
        100.0
    """
    if protocol not in ("lbfgs", "sgd"):
        raise ValueError(f"protocol: expected 'lbfgs' or 'sgd', got {protocol!r}")
    metric_of(metric)
    x = feature_rows(features)
    decay, steps = None if decay is None else check.number("decay", decay, low=0), check.count("steps", steps, low=0)
    y = _targets(labels, x, metric)
    if x.is_inference() or y.is_inference():
        x, y = x.clone(), y.clone()  # which can be trained on
    train, test = row_indices(train, len(x), "train"), row_indices(test, len(x), "test")
    for name, rows, least in (("train", train, 2 if decay is not None else 3), ("test", test, 1)):
        if len(rows) < least:
            raise ValueError(f"{name}: expected at least {amount(least, 'row')}, got {len(rows)}")
    options = [decay] if decay is not None else list(DECAYS if protocol == "lbfgs" else RATES)
    with job("linear classifier", 1 if decay is not None else len(options) + 1) as part:
        if decay is None:
            order = np.random.default_rng(len(train)).permutation(train)
            cut = max(1, len(order) // 5)
            with part(len(options)):
                scores = _scores(x, y, order[cut:], order[:cut], options, steps, protocol, metric)
            options = [options[int(np.argmax(np.nan_to_num(scores, nan=-np.inf)))]]
        with part():
            return _scores(x, y, train, test, options, steps, protocol, metric)[0]


def _targets(given: Values, features: Tensor, metric: str) -> Tensor:
    """What is to be predicted: classes [N], from 0 on without gaps; signs [N, classes]; or numbers [N].

    Raises:
        TypeError: labels that are no integers, where classes are scored.
        ValueError: labels that the metric does not have.
    """
    labels = as_tensor("labels", given)
    if metric in CORRELATIONS:
        if labels.shape != (len(features),):
            raise ValueError(
                f"labels: expected {len(features)} numbers for {metric!r}, got shape {tuple(labels.shape)}"
            )
        labels = labels.to(features.dtype)
        if not bool(torch.isfinite(labels).all()):
            raise ValueError(f"labels: expected finite numbers for {metric!r}")
        return labels
    if labels.dim() == 1 and metric != "11-point mAP":
        return class_ids(labels, features).unique(return_inverse=True)[1]  # numbers may be as large as hashes
    if labels.dim() != 2 or len(labels) != len(features) or metric != "11-point mAP":
        wanted = f"[{len(features)}, classes]" if metric == "11-point mAP" else f"[{len(features)}]"
        raise ValueError(f"labels: expected {wanted} for {metric!r}, got shape {tuple(labels.shape)}")
    return signs(labels)


def _scores(
    features: Tensor,
    labels: Tensor,
    train: np.ndarray,
    test: np.ndarray,
    options: Sequence[float],
    steps: int,
    protocol: str,
    metric: str,
) -> list[float]:
    """Test scores of classifiers trained with each of the penalties or rates."""
    x = standardise(features, train)
    classes = 1 if labels.is_floating_point() else int(labels.max()) + 1 if labels.dim() == 1 else labels.shape[1]
    fit = _fit_lbfgs if protocol == "lbfgs" else _fit_sgd
    fits = fit(x, labels, train, classes, options, steps)
    chunks = torch.from_numpy(test).split(CHUNK)
    score = metric_of(metric)
    return [score(torch.cat([x[rows] @ w.T + b for rows in chunks]), labels[test]) for w, b in fits]


def few_labels(
    features: Values,
    labels: Values,
    train: np.ndarray,
    test: np.ndarray,
    *,
    share: float | None = None,
    per_class: int | None = None,
    draws: int = 5,
    seed: int = 0,
) -> tuple[float, float]:
    """Mean and standard deviation of the linear probe's accuracy with few labelled training rows.

    Args:
        features: [N, C].
        labels: [N].
        train: indices of the rows from which labelled rows are drawn, at least one per class, or a mask.
        test: indices of the test rows, or a mask.
        share: fraction of labelled rows per class (0.01 and 0.1 in the papers).
        per_class: number of labelled rows per class, instead of ``share``.
        draws: number of random draws.
        seed: seed of the draws.

    Raises:
        TypeError: labels that are no integers, or a number of another kind.
        ValueError: both or neither of ``share`` and ``per_class``, or one out of range.

    Example:
        >>> import numpy as np, torch
        >>> from fastssl.evaluate import few_labels
        >>> x, labels = torch.eye(2).repeat(10, 1), torch.arange(20) % 2
        >>> few_labels(x, labels, np.arange(10), np.arange(10, 20), per_class=1, draws=2)
        (100.0, 0.0)
    """
    if (share is None) == (per_class is None):
        raise ValueError(f"share, per_class: expected exactly one, got {share} and {per_class}")
    share = None if share is None else check.number("share", share)
    if share is not None and not 0 < share <= 1:
        raise ValueError(f"share: expected a fraction in (0, 1], got {share}")
    per_class = None if per_class is None else check.count("per_class", per_class)
    draws, seed = check.count("draws", draws), check.count("seed", seed, low=0)
    features, results = feature_rows(features), []
    labels, train = class_ids(labels, features), row_indices(train, len(features), "train")
    with job("linear classifiers", draws) as part:
        for draw in range(draws):
            rows = labelled_rows(labels[train].numpy(), share, per_class, np.random.default_rng([seed, draw]))
            chosen = train[rows]
            with part():
                results.append(linear_probe(features, labels, chosen, test, 1e-4 if len(chosen) < 50 else None))
    return float(np.mean(results)), float(np.std(results))


def labelled_rows(
    labels: np.ndarray, share: float | None, per_class: int | None, rng: np.random.Generator
) -> np.ndarray:
    """Draws labelled rows: a fraction or a number per class, at least one."""
    chosen = []
    for c in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == c))
        chosen.append(rows[: per_class or max(1, round((share or 0) * len(rows)))])
    return np.sort(np.concatenate(chosen))


def low_shot(features: Values, labels: Values, shots: int, draws: int = 20, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation of the nearest-neighbour accuracy with ``shots`` labels per class.

    Args:
        features: [N, C], unit length.
        labels: [N].
        shots: labelled rows per class; the other rows are the test set.
        draws: number of random draws.
        seed: seed of the draws.

    Raises:
        TypeError: labels that are no integers, or a number of another kind.
        ValueError: features that are not finite or not of unit length, no draws, no shots, or so many that no row is
            left to test on.

    Example:
        >>> import torch
        >>> from fastssl.evaluate import low_shot
        >>> x, labels = torch.eye(2).repeat(10, 1), torch.arange(20) % 2
        >>> low_shot(x, labels, shots=1, draws=2)
        (100.0, 0.0)
    """
    features, results = unit_rows(features), []
    labels = class_ids(labels, features)
    numbers = labels.numpy()
    least = int(np.bincount(np.unique(numbers, return_inverse=True)[1]).max())
    shots, draws, seed = check.count("shots", shots), check.count("draws", draws), check.count("seed", seed, low=0)
    if shots >= least:
        raise ValueError(f"shots: expected 1 to {least - 1} labels per class (the largest has {least}), got {shots}")
    for draw in range(draws):
        rng = np.random.default_rng([seed, draw])
        support = np.concatenate([rng.permutation(np.flatnonzero(numbers == c))[:shots] for c in np.unique(numbers)])
        rest = np.setdiff1d(np.arange(len(numbers)), support)
        _, nearest = F.nearest(features[rest], features[support], 1, metric="dot")
        results.append(100 * float((labels[support][nearest[:, 0]] == labels[rest]).float().mean()))
    return float(np.mean(results)), float(np.std(results))


__all__ = ["DECAYS", "METRICS", "RATES", "few_labels", "labelled_rows", "linear_probe", "low_shot"]
