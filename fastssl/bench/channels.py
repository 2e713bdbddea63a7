"""Views of grey and multi-channel images against plain torch: images per second, alternating, the same draws.

SimCLR's policy without what needs colours: crop, flip, brightness and contrast 0.8 at p = 0.8, blur 0.5, normalise.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as TF
from torch import Tensor

from fastssl.augment import (
    Augment,
    ColorJitter,
    GaussianBlur,
    Normalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
)
from fastssl.bench.augment import SIZES, photos
from fastssl.bench.harness import as_dict, compare, machine, threads

CHANNELS = (1, 2, 3, 4, 6)


def program(size: int, taps: int, channels: int) -> Augment:
    steps = [RandomResizedCrop(size), RandomHorizontalFlip(), ColorJitter(0.8, 0.8, p=0.8), GaussianBlur(taps, p=0.5)]
    return Augment([*steps, Normalize(0.5, 0.5)], channels=channels)


def in_torch(images: Tensor, drawn: list[dict[str, float]], size: int, taps: int) -> Tensor:
    """The same views by torch's operators on float tensors, as torchvision computes them; contrast by channel."""
    return torch.stack([_view(image, p, size, taps) for image, p in zip(images, drawn)])


def _view(image: Tensor, p: dict[str, float], size: int, taps: int) -> Tensor:
    top, left, height, width = (int(p[f"RandomResizedCrop.{c}"]) for c in ("top", "left", "height", "width"))
    x = image[:, top : top + height, left : left + width].float().div_(255)
    x = TF.interpolate(x[None], (size, size), mode="bilinear", antialias=True, align_corners=False)
    if p["RandomHorizontalFlip.on"]:
        x = x.flip(3)
    if p["ColorJitter.on"]:
        contrast_first = _contrast_first(int(p["ColorJitter.order"]))
        for contrast in (contrast_first, not contrast_first):
            factor = p["ColorJitter.contrast" if contrast else "ColorJitter.brightness"]
            x = x * factor if not contrast else torch.lerp(x.mean((2, 3), keepdim=True), x, factor)
            x = x.clamp_(0, 1)
    if p["GaussianBlur.sigma"]:
        c = x.shape[1]
        d = torch.arange(taps, dtype=torch.float32) - taps // 2
        w = torch.exp(-0.5 * (d / p["GaussianBlur.sigma"]) ** 2)
        w = (w / w.sum()).expand(c, 1, 1, taps)
        half = taps // 2
        x = TF.conv2d(TF.pad(x, (half, half, half, half), mode="reflect"), w, groups=c)
        x = TF.conv2d(x, w.transpose(2, 3), groups=c)
    return (x[0] - 0.5) / 0.5


def _contrast_first(number: int) -> bool:
    from fastssl.ops.reference.augment import jitter_order

    order = jitter_order(number)
    return order.index(1) < order.index(0)


def run_channels(quick: bool = False, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Runs this part of the suite on one thread and returns its results."""
    start, seconds = time.time(), 0.5 if quick else 5.0
    rows: list[dict[str, Any]] = []
    with threads(1):
        for size, to, taps, count in SIZES:
            for channels in CHANNELS:
                bands = [photos(count, size, size, seed) for seed in range(-(-channels // 3))]
                images = np.ascontiguousarray(np.concatenate(bands, 3)[..., :channels])
                augment = program(to, taps, channels)
                params = augment.sample([(size, size)] * count, seed=0)
                planes = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
                drawn = list(params)
                ours = augment.apply(images, params)
                theirs = in_torch(planes, drawn, to, taps)
                if channels != 3:  # contrast of colours is relative to their grey
                    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
                measured = compare(
                    lambda a=augment, i=images, p=params: a.apply(i, p),  # type: ignore[misc]
                    lambda x=planes, d=drawn, to=to, taps=taps: in_torch(x, d, to, taps),  # type: ignore[misc]
                    seconds=seconds,
                )
                row = {"from": size, "to": to, "taps": taps, "images": count, "channels": channels}
                rows.append({**row, **as_dict(measured)})
                report(
                    f"{size} -> {to}, {channels} channels: {count / measured.fused_seconds:8.0f}/s, torch "
                    f"{count / measured.other_seconds:7.0f}/s: {measured.ratio:.1f} "
                    f"({measured.low:.1f} to {measured.high:.1f})"
                )
        found = machine()
    return {"machine": found, "rows": rows, "minutes": (time.time() - start) / 60}
