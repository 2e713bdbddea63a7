"""What two runs on emoji make of 512 items, kept as ``fastssl/bench/trained.npz`` for ``benchmarks/run.py regimes``.

    fastssl pretrain simclr --data emoji --minutes 3 --out runs/simclr
    fastssl pretrain clip --data emoji --minutes 3 --out runs/clip
    python benchmarks/trained_embeddings.py runs/simclr runs/clip

Pairs of unit vectors in half precision: SimCLR's projections of an item's two drawings, CLIP's of a drawing and its name.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as TF

from fastssl.augment import to_float
from fastssl.bench.regimes import TRAINED
from fastssl.data import emoji
from fastssl.models import tokenize
from fastssl.train import load_method

ITEMS = 512


@torch.no_grad()
def main(simclr: str, clip: str) -> None:
    data = emoji("train")
    chosen = np.random.default_rng(0).permutation(len(data))[:ITEMS]
    pairs = {}
    for name, run in (("simclr", simclr), ("clip", clip)):
        method = load_method(Path(run))
        items = data.items(chosen)
        drawings = (torch.from_numpy(np.stack([item.images[k] for item in items])) for k in range(2))
        first, second = (to_float(images, method.encoder.size) for images in drawings)
        if name == "clip":
            second = tokenize([item.text for item in items], method.tower.length)
            print(f"logit scale {method.log_scale.exp():.1f}")
        pair = [TF.normalize(z, dim=1) for z in method.represent(first, second)]
        own, others = (pair[0] * pair[1]).sum(1), pair[0] @ pair[1].T
        print(f"{name}: cosine of pairs {own.mean():.2f}, of others {others.mean():.2f} +- {others.std():.2f}")
        pairs[name] = torch.stack(pair, 1).half().numpy()
    np.savez_compressed(TRAINED, **pairs)
    print(f"{TRAINED}: {TRAINED.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main(*sys.argv[1:])
