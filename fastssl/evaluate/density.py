"""Likelihoods of images that a distribution was not trained on, beside simple distributions and compressors."""

from __future__ import annotations

import io
import lzma
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl.data import Loader, Source
from fastssl.evaluate.features import progress_bar
from fastssl.methods import DensityMethod
from fastssl.models.modes import evaluation_mode

ROWS = 512
COMPONENTS, STEPS = 50, 60  # of the mixture
XZ = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]


def density_images(method: DensityMethod, source: Source) -> Tensor:
    """The images of a source as the method sees them, [N, channels, size, size] in [-1, 1]."""
    parts = []
    with progress_bar(source.name) as show:
        for batch in Loader(source, method, ROWS, shuffle=False, drop_last=False):
            parts.append(batch.views[0])
            show(sum(map(len, parts)), len(source))
    return torch.cat(parts)


def evaluate_density(method: DensityMethod, held_out: Source, training: Source, **options: Any) -> dict[str, Any]:
    """Negative log-likelihood of held-out images, in nats per image and in bits per value.

    The name of the measure has its kind: "exact"; "AIS", estimated by annealed importance sampling, with its standard
    error in ``*_std``; or "bound", an upper bound. Beside it, fitted to the training images: values that are
    independent of each other; for binary images a mixture of up to 50 distributions of independent pixels; xz, which
    reads the training images first; and PNG, of all held-out images in one picture. Continuous images have densities,
    beside those of independent normal pixels; compressors do not apply.

    Args:
        method: the pretrained method.
        held_out: the images to score.
        training: the images that it was trained on.
        options: options of the network's ``log_likelihood``, such as ``chains`` of a machine's importance sampling.

    Raises:
        ValueError: no images to score.

    Example:
        >>> from fastssl.data import open_splits
        >>> from fastssl.evaluate import evaluate_density
        >>> from fastssl.methods import NADE
        >>> from fastssl.models import build_encoder
        >>> task = open_splits("digits")
        >>> method = NADE(build_encoder({"name": "nade", "size": 8, "width": 8}))
        >>> table = evaluate_density(method, task.test, task.train)
        >>> table["nats (exact)"]["pretrained"] > table["nats (exact)"]["independent pixels"]
        True
    """
    if not len(held_out):
        raise ValueError(f"data: expected images to score, {held_out.name} has none")
    network = method.network
    device = next(network.parameters()).device
    test, train = density_images(method, held_out), density_images(method, training)
    values, kind, error = [], "", 0.0
    with evaluation_mode(method):
        for rows in test.split(method.likelihood_rows or len(test)):
            found = method.log_likelihood(rows.to(device), **options)
            values.append(found.values.cpu())
            kind, error = found.kind, found.error
    nats: dict[str, float] = {"pretrained": -float(torch.cat(values).mean())}
    if network.levels is None:
        nats["independent pixels"] = _normal(train, test)
    else:
        nats |= _baselines(network.quantize(train), network.quantize(test), network.levels)
    scale = math.log(2) * network.dimensions
    table: dict[str, Any] = {f"nats ({kind})": nats}
    if error:
        table[f"nats ({kind})_std"] = {"pretrained": error}
    table["bits per value"] = {row: value / scale for row, value in nats.items()}
    return table


def _baselines(train: Tensor, test: Tensor, levels: int) -> dict[str, float]:
    """Nats per image of simple distributions and compressors, of levels [N, channels, size, size]."""
    x, y = (t.flatten(1) for t in (train, test))
    counts = torch.stack([(x == level).sum(0) for level in range(levels)]).double() + 1
    shares = (counts / counts.sum(0)).log()
    found = {"independent pixels": -float(shares.gather(0, y).sum(1).mean())}
    if levels == 2:
        components = min(COMPONENTS, len(torch.unique(x, dim=0)))  # of fewer images no more are fitted
        found[f"mixture of {components}"] = mixture_nats(x, y, components)
    before, after = (t.to(torch.uint8 if levels <= 256 else torch.int16).numpy().tobytes() for t in (x, y))
    sizes = [len(lzma.compress(part, lzma.FORMAT_RAW, filters=XZ)) for part in (before, before + after)]
    found["xz"] = 8 * math.log(2) * (sizes[1] - sizes[0]) / len(y)
    if test.shape[1] in (1, 3) and levels <= 256:
        found["PNG"] = 8 * math.log(2) * _png_bytes(test, levels) / len(y)
    return found


def mixture_nats(train: Tensor, test: Tensor, components: int = COMPONENTS, steps: int = STEPS, seed: int = 0) -> float:
    """Nats per row of a mixture of distributions of independent binary values, fitted by expectation maximisation.

    Args:
        train: binary rows [N, D] to fit, any dtype.
        test: rows to score.
        components: number of distributions.
        steps: steps of expectation maximisation.
        seed: seed of the start.

    Example:
        >>> import torch
        >>> from fastssl.evaluate import mixture_nats
        >>> rows = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).repeat(50, 1)
        >>> 0.69 < mixture_nats(rows, rows, 2) < 0.75
        True
    """
    rng = np.random.default_rng(seed)
    train, test = train.double(), test.double()
    order = torch.from_numpy(rng.permutation(len(train)))
    _, places = np.unique(train[order].numpy(), axis=0, return_index=True)  # equal components would stay equal
    start = train[order[torch.from_numpy(np.sort(places)[:components])]]
    p = 0.25 + 0.5 * start
    weight = torch.full((len(p),), 1 / len(p), dtype=torch.float64)

    def joint(rows: Tensor) -> Tensor:
        return rows @ p.log().T + (1 - rows) @ (1 - p).log().T + weight.log()

    for _ in range(steps):
        share = torch.softmax(joint(train), 1)
        total = share.sum(0)
        p = (share.T @ train + 0.2) / (total[:, None] + 0.4)  # a weak prior: a value never seen is not impossible
        weight = (total + 0.1) / (total + 0.1).sum()
    return -float(torch.logsumexp(joint(test), 1).mean())


def _png_bytes(levels: Tensor, count: int) -> int:
    """Bytes of a PNG of all images below each other."""
    from PIL import Image

    tall = levels.permute(1, 0, 2, 3).flatten(1, 2)
    scaled = (tall * (255 // (count - 1))).to(torch.uint8)
    picture = Image.fromarray(scaled[0].numpy() if len(tall) == 1 else scaled.permute(1, 2, 0).numpy())
    if count == 2 and len(tall) == 1:
        picture = picture.convert("1")
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return len(file.getvalue())


def _normal(train: Tensor, test: Tensor) -> float:
    x, y = train.flatten(1).double(), test.flatten(1).double()
    deviation = x.std(0) + 1e-2
    z = (y - x.mean(0)) / deviation
    return float((z.square() / 2 + deviation.log() + math.log(2 * math.pi) / 2).sum(1).mean())
