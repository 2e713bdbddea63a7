"""Masks of patches: boxes at random places of a grid, unions of such boxes, and a context with blocks taken out."""

from __future__ import annotations

import numpy as np


def boxes(height: np.ndarray, width: np.ndarray, draws: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Boxes at random places of a grid.

    Args:
        height: [...] integers, 0 to ``rows``.
        width: [...] integers, 0 to ``columns``.
        draws: [..., 2] in (0, 1): where.
        rows: of the grid.
        columns: of the grid.

    Returns:
        bool [..., rows, columns].

    Example:
        >>> import numpy as np
        >>> from fastssl.augment.masks import boxes
        >>> boxes(np.array(1), np.array(2), np.array([0.9, 0.1]), 2, 3)
        array([[False, False, False],
               [ True,  True, False]])
    """

    def span(count: int, length: np.ndarray, draw: np.ndarray) -> np.ndarray:
        first = np.floor(draw * (count - length + 1))[..., None]
        place = np.arange(count)
        inside: np.ndarray = (place >= first) & (place < first + length[..., None])
        return inside

    return span(rows, height, draws[..., 0])[..., :, None] & span(columns, width, draws[..., 1])[..., None, :]


def block_masks(
    draws: np.ndarray, most: np.ndarray, rows: int, columns: int, aspect: tuple[float, float] = (0.3, 1 / 0.3)
) -> np.ndarray:
    """Block-wise masks: boxes are added as long as they fit into the number of places to mask (Bao et al., BEiT, 2022,
    algorithm 1).

    Args:
        draws: [B, A, 4] in (0, 1), for A boxes that are tried: size, aspect ratio and place of each.
        most: [B], how many places to mask: the number that is reached, or a few less.
        rows: of the grid.
        columns: of the grid.
        aspect: least and largest aspect ratio of a box, drawn log-uniformly. Boxes have a ninth of the smaller side's
            square at least, but for what is left to mask.

    Returns:
        bool [B, rows, columns].

    Example:
        >>> import numpy as np
        >>> from fastssl.augment.masks import block_masks
        >>> masks = block_masks(np.random.default_rng(0).random((100, 16, 4)), np.full(100, 24), 8, 8)
        >>> int(masks.sum((1, 2)).max())
        24
    """
    (low, high), least = np.log(aspect), max(1, min(rows, columns) // 3) ** 2
    masks = np.zeros((len(draws), rows, columns), dtype=bool)
    for draw in draws.transpose(1, 0, 2):
        left = most - masks.sum((1, 2))
        area = least + draw[:, 0] * (left - least)
        ratio = np.exp(low + draw[:, 1] * (high - low))
        height, width = (np.rint(np.sqrt(area * r)).astype(np.int64) for r in (ratio, 1 / ratio))
        inside = (height < rows) & (width < columns)
        box = boxes(np.where(inside, height, 0), np.where(inside, width, 0), draw[:, 2:], rows, columns)
        fresh = (box & ~masks).sum((1, 2))
        masks |= box & ((fresh > 0) & (fresh <= left))[:, None, None]
    return masks


def context_and_targets(
    draws: np.ndarray,
    side: int,
    target_scale: tuple[float, float],
    target_aspect: tuple[float, float],
    context_scale: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """A square context block and target blocks of one size, which are taken out of it (Assran et al., I-JEPA, 2023).

    Args:
        draws: [B, 5 + 2 T] in (0, 1), for T target blocks: size, aspect ratio, size of the context, and places.
        side: of the grid.
        target_scale: least and largest area of a target block, as a fraction of the grid.
        target_aspect: least and largest aspect ratio of a target block.
        context_scale: least and largest area of the context.

    Returns:
        bool [B, side, side] and [B, T, side, side]. A context of which less than a sixteenth of the grid is left is all
        that is in no target block.

    Example:
        >>> import numpy as np
        >>> from fastssl.augment.masks import context_and_targets
        >>> draws = np.random.default_rng(0).random((100, 13))
        >>> context, targets = context_and_targets(draws, 8, (0.15, 0.2), (0.75, 1.5), (0.85, 1.0))
        >>> targets.shape, bool((context & targets.any(1)).any())
        ((100, 4, 8, 8), False)
    """
    area, ratio, whole = (
        low + draw * (high - low) for draw, (low, high) in zip(draws.T, (target_scale, target_aspect, context_scale))
    )
    area, whole = area * side**2, np.rint(side * np.sqrt(whole)).clip(1, side)
    height = np.rint(np.sqrt(area * ratio)).clip(1, side)
    width = np.rint(area / height).clip(1, side)
    places = draws[:, 5:].reshape(len(draws), -1, 2)
    targets = boxes(height[:, None], width[:, None], places, side, side)
    context, free = boxes(whole, whole, draws[:, 3:5], side, side), targets.sum(1) == 0
    context &= free
    few = context.sum((1, 2)) < max(1, side**2 // 16)
    context[few] = free[few]  # all that is left
    return context, targets
