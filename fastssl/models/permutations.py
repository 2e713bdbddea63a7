"""Permutations of large Hamming distance, the classes of jigsaw puzzles."""

from __future__ import annotations

import functools
import itertools

import numpy as np


@functools.cache
def permutations(count: int = 64, tiles: int = 9, seed: int = 0) -> np.ndarray:
    """Chooses permutations greedily for maximal Hamming distance: int64 [count, tiles].

    Args:
        count: number of permutations.
        tiles: number of tiles.
        seed: seed of the candidates.

    Raises:
        ValueError: ``count`` exceeds the number of permutations.

    Example:
        >>> from fastssl.models import hamming, permutations
        >>> hamming(permutations(64))[0] >= 7  # the smallest distance of any two
        True
    """
    every = np.fromiter(itertools.chain.from_iterable(itertools.permutations(range(tiles))), np.int8).reshape(-1, tiles)
    if not 1 <= count <= len(every):
        raise ValueError(f"count: expected 1 to {len(every)} permutations, got {count}")
    rng = np.random.default_rng(seed)
    chosen = [int(rng.integers(len(every)))]
    places = every.T.copy()  # compared place by place: sums over so few numbers of a row are slow
    # Minimum distance to the chosen set, ties by mean distance, as the authors' "max" strategy.
    least = np.full(len(every), tiles, dtype=np.int64)
    total = np.zeros(len(every), dtype=np.int64)
    for _ in range(count - 1):
        distance = np.zeros(len(every), dtype=np.int8)
        for place in places:
            distance += place != place[chosen[-1]]
        least, total = np.minimum(least, distance), total + distance
        score = least * (tiles * count + 1) + total
        score[chosen] = -1
        chosen.append(int(score.argmax()))
    return every[chosen].astype(np.int64)


def hamming(table: np.ndarray) -> tuple[int, float]:
    """Minimum and mean Hamming distance between rows.

    Args:
        table: [count, tiles], permutations as rows.

    Example:
        >>> import numpy as np
        >>> from fastssl.models import hamming
        >>> hamming(np.array([[0, 1, 2], [1, 0, 2]]))
        (2, 2.0)
    """
    distances = [(table[i] != table[i + 1 :]).sum(1) for i in range(len(table) - 1)]
    joined = np.concatenate(distances)
    return int(joined.min()), float(joined.mean())
