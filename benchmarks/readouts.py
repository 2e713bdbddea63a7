"""How to read the emoji: k-NN and Recall@1 by the size of the images, and by how features are whitened.

python benchmarks/five_minutes.py emoji --recipes small --keep runs/five
python benchmarks/readouts.py runs/five/emoji-*.pt [--sizes 32 48 56 64] [--apart]

Of the categories that choose (six of nine; ``--apart``: of the others), mean over the encoders that are given.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from recipe_data import load
from recipe_scores import measures

from fastssl.cli.demo import EMOJI_ENCODER
from fastssl.data import emoji
from fastssl.evaluate import encode, whitening
from fastssl.evaluate.features import centred
from fastssl.models import build_encoder

WHITENED = ((256, 0.0), (256, 0.3), (512, 0.1), (512, 0.3))  # components, shrink


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoders", nargs="+", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 48, 56, 64])
    parser.add_argument("--apart", action="store_true")
    options = parser.parse_args()
    images = load("emoji", "cpu")
    rows = images.apart if options.apart else ~images.apart
    print("| size | components | shrink | k-NN | Recall@1 |\n|---|---|---|---|---|")
    for size in options.sizes:
        found: dict[tuple[int, float], list[list[float]]] = {key: [] for key in WHITENED}
        for path in options.encoders:
            encoder = build_encoder(EMOJI_ENCODER).eval()
            encoder.load_state_dict(torch.load(path))
            first, second = (encode(encoder.at(size), emoji().nth_image(k)) for k in range(2))
            for key in WHITENED:
                projection = whitening(first, *key)
                unit = [centred(features, projection=projection) for features in (first, second)]
                found[key].append(list(measures(unit[0], unit[1], "emoji", images, rows).values()))
        for (components, shrink), scores in found.items():
            knn, recall = np.mean(scores, axis=0)
            print(f"| {size} | {components} | {shrink} | {knn:.1f} | {recall:.1f} |", flush=True)


if __name__ == "__main__":
    main()
