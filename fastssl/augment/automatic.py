"""Operations that are chosen at random per image: AutoAugment, RandAugment and TrivialAugment."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from fastssl._options import integer
from fastssl.augment.ops import Row, _probability
from fastssl.augment.warps import INTERPOLATIONS, Fill, Warp

POLICIES = ("imagenet", "cifar10", "svhn")
RAND, WIDE, TIMM, AUTO = range(4)  # numbers in the kernels, where AUTO is the first of POLICIES


@dataclass(frozen=True, repr=False)
class Automatic(Warp):
    """One operation of 16 per image. Its parameters are the number of the choice; its value: the shear, the shift in
    pixels, degrees, the factor less 1, bits, the threshold, or what solarize-add adds; and the number of the
    interpolation."""

    kind = 18
    columns = ("operation", "value", "interpolation")

    @property
    def symmetric(self) -> bool:
        return False  # it shears about a corner


@dataclass(frozen=True, repr=False)
class AutoAugment(Automatic):
    """Applies one of 25 learned pairs of operations, each of both with its own probability and magnitude (Cubuk et al.
    2019, AutoAugment: Learning Augmentation Policies from Data).

    Args:
        policy: data set on which it was learned: "imagenet", "cifar10" or "svhn".
        interpolation: "bilinear", "nearest" or "bicubic", whose edges are Pillow's.
        fill: colour of what lies outside of the view, (R, G, B) or one value in [0, 1]; None: the view is mirrored at
            its edges.
    """

    policy: str = "imagenet"
    interpolation: str = "nearest"
    fill: Fill = 0.0

    def arguments(self) -> list[float]:
        if self.policy not in POLICIES:
            raise ValueError(f"policy: expected one of {POLICIES}, got {self.policy!r}")
        return [AUTO + POLICIES.index(self.policy), 0.0, 10.0, *self.outside(), 1.0, 0.0]

    def rows(self) -> list[Row]:
        return [(self.kind, [*self.arguments(), step], self.columns) for step in (0.0, 1.0)]


@dataclass(frozen=True, repr=False)
class RandAugment(Automatic):
    """Applies ``num_ops`` operations, each one of 14 at random, with a given magnitude (Cubuk et al. 2020, RandAugment:
    Practical Automated Data Augmentation with a Reduced Search Space).

    Args:
        num_ops: operations that are applied to each image, one after another.
        magnitude: index of the magnitude, from 0 to ``num_magnitude_bins`` - 1.
        num_magnitude_bins: number of magnitudes.
        interpolation: "bilinear", "nearest" or "bicubic", whose edges are Pillow's.
        fill: colour of what lies outside of the view, (R, G, B) or one value in [0, 1]; None: the view is mirrored at
            its edges.
    """

    num_ops: int = 2
    magnitude: int = 9
    num_magnitude_bins: int = 31
    interpolation: str = "nearest"
    fill: Fill = 0.0

    def arguments(self) -> list[float]:
        bins = integer("num_magnitude_bins", self.num_magnitude_bins, 2, 1_000_000)
        return [RAND, integer("magnitude", self.magnitude, 0, bins - 1), bins, *self.outside()]

    def rows(self) -> list[Row]:
        return super().rows() * integer("num_ops", self.num_ops, 1, 32)


@dataclass(frozen=True, repr=False)
class TimmRandAugment(Automatic):
    """RandAugment as timm has it and recipes of fine-tuning use it, ``rand-m9-mstd0.5-inc1``: ``num_ops`` operations,
    each one of 15 at random, applied with a probability, with a magnitude that is drawn about ``magnitude``.

    Args:
        num_ops: operations that are drawn for each image, one after another ("n").
        magnitude: mean of the magnitude, in [0, 10] ("m").
        magnitude_std: standard deviation of the magnitude, whose draws are clipped to [0, 10] ("mstd"); ``math.inf``:
            uniform in [0, ``magnitude``].
        prob: probability of application of each operation ("p").
        interpolation: "bilinear", "nearest" or "bicubic", whose edges are Pillow's, or "random": "bilinear" or
            "bicubic" per operation.
        fill: colour of what lies outside of the view, (R, G, B) or one value in [0, 1]; None: the view is mirrored at
            its edges.
    """

    num_ops: int = 2
    magnitude: float = 9.0
    magnitude_std: float = 0.5
    prob: float = 0.5
    interpolation: str = "random"
    fill: Fill = (124 / 255, 116 / 255, 104 / 255)  # the mean of ImageNet, as timm rounds it

    interpolations: ClassVar[tuple[str, ...]] = (*INTERPOLATIONS, "random")

    def arguments(self) -> list[float]:
        if not 0 <= self.magnitude <= 10:
            raise ValueError(f"magnitude: expected a number in [0, 10], got {self.magnitude!r}")
        if not (0 <= self.magnitude_std <= 100 or self.magnitude_std == math.inf):
            raise ValueError(f"magnitude_std: expected a number in [0, 100] or inf, got {self.magnitude_std!r}")
        deviation = -1.0 if self.magnitude_std == math.inf else self.magnitude_std
        return [TIMM, self.magnitude, 11.0, *self.outside(), _probability("prob", self.prob), deviation]

    def rows(self) -> list[Row]:
        return super().rows() * integer("num_ops", self.num_ops, 1, 32)


@dataclass(frozen=True, repr=False)
class TrivialAugmentWide(Automatic):
    """Applies one of 14 operations at random, with a random magnitude (Müller and Hutter 2021, TrivialAugment:
    Tuning-free Yet State-of-the-Art Data Augmentation).

    Args:
        num_magnitude_bins: number of magnitudes.
        interpolation: "bilinear", "nearest" or "bicubic", whose edges are Pillow's.
        fill: colour of what lies outside of the view, (R, G, B) or one value in [0, 1]; None: the view is mirrored at
            its edges.
    """

    num_magnitude_bins: int = 31
    interpolation: str = "nearest"
    fill: Fill = 0.0

    def arguments(self) -> list[float]:
        return [WIDE, -1.0, integer("num_magnitude_bins", self.num_magnitude_bins, 2, 1_000_000), *self.outside()]
