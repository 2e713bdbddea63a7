"""Jigsaw: the permutation by which nine tiles of an image were shuffled is predicted.

Noroozi and Favaro, Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles, 2016. The permutations
are chosen greedily for maximal Hamming distance, as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as TF
from torch import Tensor, nn

from fastssl.augment import JigsawAugment
from fastssl.data.batch import Batch
from fastssl.data.source import Item
from fastssl.data.views import select_images
from fastssl.methods.image import ImageMethod
from fastssl.models import Encoder, permutations


class Jigsaw(ImageMethod):
    """Nine tiles + one encoder for all (the context-free network) + MLP of their features in order + cross-entropy.

    Args:
        encoder: the network kept after pretraining.
        augment: produces the nine tiles; None: tiles of half the encoder's image size.
        count: number of permutations.
        hidden: width of the MLP.
        tile_features: features per tile that enter the MLP.
        spatial: not used: patches are smaller than images.
    """

    family = "innate relationship"
    paper = "Noroozi and Favaro 2016"
    predicts = "how nine tiles were shuffled"
    loss = "cross-entropy of permutations"
    replaceable_views = False
    min_rows = 2  # batch norm of rows
    separable = True

    def __init__(
        self,
        encoder: Encoder,
        augment: JigsawAugment | None = None,
        *,
        count: int = 64,
        hidden: int = 512,
        tile_features: int = 64,
        spatial: bool = False,
    ) -> None:
        size = encoder.size // 2
        cell = size + max(size // 4, 1)
        super().__init__(encoder, augment or JigsawAugment(size, cell, 3 * cell + max(size // 4, 1)), spatial=False)
        self.table = permutations(count)
        self.reduce = nn.Linear(self.features, tile_features)
        self.classifier = nn.Sequential(
            nn.Linear(9 * tile_features, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, count),
        )

    def views(self, items: Sequence[Item], seed: int, epoch: int, ids: np.ndarray) -> list[Tensor]:
        """The shuffled tiles [B, 9, 3, S, S] of each item's first image, and the index of the permutation [B]."""
        tiles = self.augment(select_images(items), seed=seed, epoch=epoch, ids=ids)
        stacked = torch.stack([JigsawAugment.normalized(tile) for tile in tiles], 1)
        numbers = (self.uniform(seed, epoch, ids)[:, 1] * len(self.table)).astype(np.int64)
        order = torch.from_numpy(self.table[numbers])
        return [stacked[torch.arange(len(stacked))[:, None], order], torch.from_numpy(numbers)]

    def scores(self, tiles: Tensor) -> Tensor:
        """Logits of the permutations [B, count]."""
        features = torch.relu(self.reduce(self.embed(tiles.flatten(0, 1))))
        result: Tensor = self.classifier(features.reshape(len(tiles), -1))
        return result

    def forward(self, batch: Batch) -> Tensor:
        return TF.cross_entropy(self.scores(batch.views[0]), batch.views[1])

    def pretext_metrics(self, batch: Batch) -> dict[str, float]:
        solved = (self.scores(batch.views[0]).argmax(1) == batch.views[1]).float().mean()
        return {"accuracy": 100 * float(solved), "chance": 100 / len(self.table)}

    def visualize(self, batch: Batch) -> dict[str, Tensor]:
        tiles, numbers = batch.views
        chosen = torch.from_numpy(self.table)[self.scores(tiles).argmax(1)]

        def whole(order: Tensor) -> Tensor:
            placed = torch.empty_like(tiles)
            placed[torch.arange(len(tiles))[:, None], order] = tiles
            rows = placed.reshape(len(tiles), 3, 3, *tiles.shape[2:]).permute(0, 3, 1, 4, 2, 5)
            return (rows.reshape(len(tiles), tiles.shape[2], 3 * tiles.shape[3], -1) / 2).clamp(-1, 1)

        return {
            "shuffled": whole(torch.arange(9).expand(len(tiles), -1)),
            "solved": whole(chosen),
            "true": whole(torch.from_numpy(self.table)[numbers]),
        }
