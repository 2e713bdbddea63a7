"""The operations that AutoAugment and the like choose from, by number, its sub-policies and values of magnitudes."""

from __future__ import annotations

import math

CHOICES = (  # in the order of csrc/augment/automatic.h
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "saturation",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
    "invert",
    "solarize_add",
)


def _parsed(table: str) -> list[list[tuple[int, float, int]]]:
    """One sub-policy per line: operation, probability, index of the magnitude, twice."""
    steps = [[step.split() for step in line.split(",")] for line in table.strip().splitlines()]
    return [[(CHOICES.index(name), float(p), int(magnitude)) for name, p, magnitude in line] for line in steps]


SUB_POLICIES = (
    _parsed("""
        posterize 0.4 8, rotate 0.6 9
        solarize 0.6 5, autocontrast 0.6 0
        equalize 0.8 0, equalize 0.6 0
        posterize 0.6 7, posterize 0.6 6
        equalize 0.4 0, solarize 0.2 4
        equalize 0.4 0, rotate 0.8 8
        solarize 0.6 3, equalize 0.6 0
        posterize 0.8 5, equalize 1 0
        rotate 0.2 3, solarize 0.6 8
        equalize 0.6 0, posterize 0.4 6
        rotate 0.8 8, saturation 0.4 0
        rotate 0.4 9, equalize 0.6 0
        equalize 0 0, equalize 0.8 0
        invert 0.6 0, equalize 1 0
        saturation 0.6 4, contrast 1 8
        rotate 0.8 8, saturation 1 2
        saturation 0.8 8, solarize 0.8 7
        sharpness 0.4 7, invert 0.6 0
        shear_x 0.6 5, equalize 1 0
        saturation 0.4 0, equalize 0.6 0
        equalize 0.4 0, solarize 0.2 4
        solarize 0.6 5, autocontrast 0.6 0
        invert 0.6 0, equalize 1 0
        saturation 0.6 4, contrast 1 8
        equalize 0.8 0, equalize 0.6 0
    """),
    _parsed("""
        invert 0.1 0, contrast 0.2 6
        rotate 0.7 2, translate_x 0.3 9
        sharpness 0.8 1, sharpness 0.9 3
        shear_y 0.5 8, translate_y 0.7 9
        autocontrast 0.5 0, equalize 0.9 0
        shear_y 0.2 7, posterize 0.3 7
        saturation 0.4 3, brightness 0.6 7
        sharpness 0.3 9, brightness 0.7 9
        equalize 0.6 0, equalize 0.5 0
        contrast 0.6 7, sharpness 0.6 5
        saturation 0.7 7, translate_x 0.5 8
        equalize 0.3 0, autocontrast 0.4 0
        translate_y 0.4 3, sharpness 0.2 6
        brightness 0.9 6, saturation 0.2 8
        solarize 0.5 2, invert 0 0
        equalize 0.2 0, autocontrast 0.6 0
        equalize 0.2 0, equalize 0.6 0
        saturation 0.9 9, equalize 0.6 0
        autocontrast 0.8 0, solarize 0.2 8
        brightness 0.1 3, saturation 0.7 0
        solarize 0.4 5, autocontrast 0.9 0
        translate_y 0.9 9, translate_y 0.7 9
        autocontrast 0.9 0, solarize 0.8 3
        equalize 0.8 0, invert 0.1 0
        translate_y 0.7 9, autocontrast 0.9 0
    """),
    _parsed("""
        shear_x 0.9 4, invert 0.2 0
        shear_y 0.9 8, invert 0.7 0
        equalize 0.6 0, solarize 0.6 6
        invert 0.9 0, equalize 0.6 0
        equalize 0.6 0, rotate 0.9 3
        shear_x 0.9 4, autocontrast 0.8 0
        shear_y 0.9 8, invert 0.4 0
        shear_y 0.9 5, solarize 0.2 6
        invert 0.9 0, autocontrast 0.8 0
        equalize 0.6 0, rotate 0.9 3
        shear_x 0.9 4, solarize 0.3 3
        shear_y 0.8 8, invert 0.7 0
        equalize 0.9 0, translate_y 0.6 6
        invert 0.9 0, equalize 0.6 0
        contrast 0.3 3, rotate 0.8 4
        invert 0.8 0, translate_y 0 2
        shear_y 0.7 6, solarize 0.4 8
        invert 0.6 0, rotate 0.8 4
        shear_y 0.3 7, translate_x 0.9 3
        shear_x 0.1 6, invert 0.6 0
        solarize 0.7 2, translate_y 0.6 7
        shear_y 0.8 4, invert 0.8 0
        shear_x 0.7 9, translate_y 0.8 3
        shear_y 0.8 5, autocontrast 0.7 0
        shear_x 0.7 2, invert 0.1 0
    """),
)


def value_of(which: int, policy: int, t: float, height: float, width: float) -> float:
    """Of a magnitude ``t`` in [0, 1]; policy 1: TrivialAugmentWide, 2: timm's RandAugment, others: torchvision's."""
    wide, timm = policy == 1, policy == 2
    if which in (3, 4):
        length = width if which == 3 else height
        return 0.45 * length * t if timm else float(math.trunc((32 if wide else 150 / 331 * length) * t))
    ranges = {1: 0.99 if wide else 0.3, 5: 135 if wide else 30, 6: 0.99 if wide else 0.9}
    same = {2: 1, 7: 6, 8: 6, 9: 6}
    if same.get(which, which) in ranges:
        return ranges[same.get(which, which)] * t
    if which == 10:
        return 4 - math.floor(4 * t) if timm else round(8 - (6 if wide else 4) * t)
    if which == 11:
        return (255.5 - math.floor(256 * t)) / 255 if timm else 1 - t
    return math.floor(110 * t) / 255 if which == 15 else 0.0
