"""A contact sheet of images, their views, and the random parameters of each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from fastssl.augment import Augment, Views
from fastssl.augment.images import CHANNELS, to_show
from fastssl.data import open as open_source
from fastssl.data.views import select_images
from fastssl.ops.reference.augment import jitter_order
from fastssl.ops.reference.auto_augment import CHOICES

if TYPE_CHECKING:
    from PIL import Image

MARGIN, LINE = 8, 11


def find_images(data: str, count: int) -> tuple[list[np.ndarray], list[str]]:
    """``count`` evenly spaced images of a data set, and their names."""
    source = open_source(data)
    picked = np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int)
    items = source.items(picked)
    return [select_images([item])[0] for item in items], [Path(item.name or "").name for item in items]


def _picture(view: torch.Tensor) -> np.ndarray:
    return to_show((view.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def _channels(images: Sequence[np.ndarray]) -> int:
    """Channels of the views: those of the images, if they are neither grey nor RGB."""
    others = {image.shape[-1] for image in images} - {*CHANNELS}
    return min(others) if others else 3


def describe(program: Augment, drawn: dict[str, float]) -> list[str]:
    """The random parameters, one line per operation; operations that were not applied are left out."""
    lines = []
    bottom, right = (side - 1 for side in program.size)
    still = ([0, 0, 0, 1, 0, 0], [0, 0, right, 0, right, bottom, 0, bottom])  # affine maps and projections
    for own, columns in itertools.groupby(program.columns, lambda column: column.partition(".")[0]):
        name = own.rstrip("0123456789")  # "RandomSolarize2" is the second of its kind
        p = {c.partition(".")[2]: drawn[c] for c in columns}
        if not all(p.get(c, 1) for c in ("on", "sigma", "operation")) or [*p.values()] in still:
            continue
        if name in ("RandomErasing", "RandomRotation") and not p.get("height", p.get("degrees")):
            continue
        if "operation" in p:
            lines.append(f"{CHOICES[int(p['operation'])].replace('_', ' ')} {p['value']:.2f}".replace(" 0.00", ""))
            continue
        if name == "ColorJitter":  # in the order of application
            factors = [("b", "brightness"), ("c", "contrast"), ("s", "saturation"), ("h", "hue")]
            jitter = [f"{factors[k][0]} {p[factors[k][1]]:.2f}" for k in jitter_order(int(p["order"]))]
            lines += [", ".join(jitter[:2]), ", ".join(jitter[2:])]
            continue
        short = name.removeprefix("Random").removeprefix("Resized").removeprefix("Gaussian").removeprefix("Horizontal")
        values = [f"{v:g}" if v == round(v) else f"{v:.2f}" for c, v in p.items() if c != "on"]
        lines.append(f"{short} {' '.join(values)}".rstrip())
    return lines


def contact_sheet(images: Sequence[np.ndarray], names: Sequence[str], views: Views, seed: int) -> Image.Image:
    """Draws the sheet: one row per image, the original first."""
    from PIL import Image, ImageDraw, ImageFont

    # Without normalisation, which would be undone.
    views = Views([Augment(program.operations, channels=_channels(images)) for program in views.programs])
    made, params = views(list(images), seed=seed, return_params=True)
    programs = views.programs
    cell = max(max(max(p.size) for p in programs), 112)
    texts = [[describe(p, drawn[k]) for p, drawn in zip(programs, params)] for k in range(len(images))]
    text_height = LINE * max(len(lines) for row in texts for lines in row) + 4
    width = MARGIN + (cell + MARGIN) * (len(programs) + 1)
    height = MARGIN + (cell + text_height + MARGIN) * len(images)
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(9)

    def put(column: int, row: int, picture: np.ndarray, lines: Sequence[str]) -> None:
        x, y = MARGIN + column * (cell + MARGIN), MARGIN + row * (cell + text_height + MARGIN)
        sheet.paste(Image.fromarray(picture), (x, y))
        for k, line in enumerate(lines):
            draw.text((x, y + cell + 2 + k * LINE), line, "black", font=font)

    for row, image in enumerate(images):
        shown = Image.fromarray(to_show(image))
        scale = cell / max(shown.size)
        size = (max(1, math.floor(shown.width * scale)), max(1, math.floor(shown.height * scale)))
        shown = shown.resize(size)
        put(0, row, np.asarray(shown), [names[row], f"{image.shape[1]} x {image.shape[0]}"])
        for column, view in enumerate(made):
            put(column + 1, row, _picture(view[row]), texts[row][column])
    return sheet
