"""The scores of ``recipes.py``: readouts of a frozen encoder, k-NN, retrieval and one label per class."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as TF
from recipe_data import Images, load
from torch import Tensor

from fastssl.models import Encoder

Scores = dict[str, dict[str, float]]  # readout -> measure -> percent
COMPONENTS, SHRINK = (64, 128, 256), (0.0, 0.1)


def maps(network: Encoder, images: Tensor, flip: bool) -> Tensor:
    """Feature maps [N, C, 4, 4], of the image, or the mean of those of it and its mirror image."""
    device, parts = next(network.parameters()).device, []
    network.eval()
    with torch.no_grad():
        for x in images.split(512):
            x = x.to(device).float() / 127.5 - 1
            if x.shape[-1] != network.size:
                x = TF.interpolate(x, network.size, mode="bilinear", antialias=True, align_corners=False)
            x = x.contiguous(memory_format=torch.channels_last)
            made = network.network(x)
            if flip:
                made = (made + network.network(x.flip(3)).flip(3)) / 2
            parts.append(TF.adaptive_avg_pool2d(made.float(), 4))
    return torch.cat(parts)


def knn(unit: Tensor, labels: Tensor, rows: Tensor, k: int = 5) -> float:
    x, y = unit[rows], labels[rows].to(unit.device)
    cosine = x @ x.T
    cosine.fill_diagonal_(-2)
    weight = 1 - 1e-3 * torch.arange(k, device=unit.device)
    votes = torch.zeros(len(x), int(y.max()) + 1, device=unit.device)
    votes.scatter_add_(1, y[cosine.topk(k).indices], weight.expand(len(x), k).contiguous())
    return 100 * float((votes.argmax(1) == y).float().mean())


def one_label(unit: Tensor, labels: Tensor, rows: Tensor, draws: int = 50) -> float:
    x, y = unit[rows], labels[rows]
    known = []
    for draw in range(draws):
        order = torch.from_numpy(np.random.default_rng([26, draw]).permutation(len(x)))
        known.append(torch.stack([order[y[order] == c][0] for c in y.unique()]))
    support = torch.stack(known)  # [draws, classes]
    nearest = (x @ x[support.flatten()].T).view(len(x), *support.shape).argmax(2).cpu()  # [N, draws]
    right = y[support.T.gather(0, nearest)] == y[:, None]
    asked = torch.ones_like(right).scatter_(0, support.T, torch.zeros_like(support.T, dtype=torch.bool))
    return 100 * float(right[asked].float().mean())


def _unit(features: Tensor, mean: Tensor) -> Tensor:
    return TF.normalize(features - mean, dim=1)


def measures(first: Tensor, second: Tensor | None, data: str, images: Images, rows: Tensor) -> dict[str, float]:
    """Of features of all items, of the first and the second image, of ``rows``."""
    unit = _unit(first, first.mean(0))
    if data != "emoji":
        return {"one_label": one_label(unit, images.labels, rows)}
    found = {"knn": knn(unit, images.labels, rows)}
    if second is not None:
        asked = images.held_out & rows
        query, gallery = (_unit(x[images.held_out], x[images.held_out].mean(0)) for x in (first, second))
        within = asked[images.held_out]
        nearest = (query[within] @ gallery[within].T).argmax(1)
        found["recall"] = 100 * float((nearest == torch.arange(len(nearest), device=nearest.device)).float().mean())
    return found


def principal_components(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Variances [C], the largest first, and directions [C, C]."""
    covariance = (centred.double().T @ centred.double()) / len(centred)
    covariance.diagonal().add_(1e-9 * covariance.diagonal().mean() + 1e-12)
    variance, vectors = torch.linalg.eigh(covariance)
    return variance.flip(0).float(), vectors.flip(1).T.float()


def readouts(first: Tensor, second: Tensor | None) -> Any:
    """(name, features of the first images, of the second) of maps and means, plain and whitened."""
    for name, of in (("map", lambda m: m.flatten(1)), ("mean", lambda m: m.mean((2, 3)))):
        one, two = of(first), None if second is None else of(second)
        yield name, one, two
        mean = one.mean(0)
        try:
            variance, right = principal_components(one - mean)
        except RuntimeError:  # no decomposition: the plain readout stands alone
            continue
        rank = int((variance > 1e-6 * variance[0]).sum())
        for count in COMPONENTS:
            for shrink in SHRINK:
                kept = min(count, rank)
                matrix = right[:kept].T * (variance[:kept] + shrink * variance[:kept].mean()).rsqrt()
                sides = [None if x is None else (x - mean) @ matrix for x in (one, two)]
                yield f"{name}, {count} components, shrink {shrink}", *sides
            if count >= rank:
                break


def score_maps(
    first: Tensor, second: Tensor | None, data: str, images: Images, suffix: str = ""
) -> tuple[Scores, Scores]:
    """Scores on what chooses, and on what is apart and on everything."""
    chooses, aside = {}, {}
    for name, one, two in readouts(first, second):
        if not bool(images.apart.all()):
            chooses[name + suffix] = measures(one, two, data, images, ~images.apart)
        whole = measures(one, two, data, images, torch.ones_like(images.apart))
        part = measures(one, two, data, images, images.apart)
        aside[name + suffix] = {**part, **{f"whole_{key}": value for key, value in whole.items()}}
    return chooses or {name: {"none": 0.0} for name in aside}, aside


def score_network(network: Encoder, data: str) -> tuple[Scores, Scores]:
    images = load(data, "cpu")
    chooses: Scores = {}
    aside: Scores = {}
    for flip in (False, True):
        sides = [maps(network, images.scored[:, k], flip) for k in range(min(2, images.scored.shape[1]))]
        pair = (sides[0], sides[1] if len(sides) > 1 else None)
        for kept, made in zip((chooses, aside), score_maps(*pair, data, images, ", flips" if flip else "")):
            kept.update(made)
    return chooses, aside


def baselines(data: str) -> dict[str, tuple[Scores, Scores]]:
    """Raw pixels and the random encoder with the same readouts."""
    from recipe_data import SETS
    from recipe_training import Variant, network_of

    images = load(data, "cpu")
    torch.manual_seed(0)
    found = {"random": score_network(network_of(Variant(**SETS[data])), data)}
    size = SETS[data]["size"]
    flat = [
        TF.interpolate(images.scored[:, k].float(), size, mode="bilinear", antialias=True)
        for k in range(min(2, images.scored.shape[1]))
    ]
    flat = [x.unfold(2, size // 4, size // 4).unfold(3, size // 4, size // 4) for x in flat]  # 4 x 4 cells of pixels
    flat = [x.permute(0, 1, 4, 5, 2, 3).flatten(1, 3) for x in flat]
    found["pixels"] = score_maps(flat[0], flat[1] if len(flat) > 1 else None, data, images)
    return found


__all__ = ["baselines", "maps", "score_network"]
