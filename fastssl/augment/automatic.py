"""Operations that are chosen at random per image: RandAugment and TrivialAugment."""

from __future__ import annotations

from dataclasses import dataclass

from fastssl._options import integer
from fastssl.augment.warps import Fill, Warp

CHOICES = (
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
)


@dataclass(frozen=True, repr=False)
class Automatic(Warp):
    """One of :data:`CHOICES` per image. Its parameters are the number of the choice and its value: the shear, the shift
    in pixels, degrees, the factor less 1, bits, or the threshold."""

    kind = 18
    columns = ("operation", "value")

    @property
    def symmetric(self) -> bool:
        return False  # it shears about a corner


@dataclass(frozen=True, repr=False)
class RandAugment(Automatic):
    """Applies ``num_ops`` operations, each one of 14 at random, with a given magnitude (Cubuk et al. 2020).

    Args:
        num_ops: operations that are applied to each image, one after another.
        magnitude: index of the magnitude, from 0 to ``num_magnitude_bins`` - 1.
        num_magnitude_bins: number of magnitudes.
        interpolation: "bilinear" or "nearest".
        fill: colour of what lies outside of the view, (R, G, B) or one value in [0, 1].
    """

    num_ops: int = 2
    magnitude: int = 9
    num_magnitude_bins: int = 31
    interpolation: str = "nearest"
    fill: Fill = 0.0

    @property
    def repeats(self) -> int:
        return self.num_ops

    def arguments(self) -> list[float]:
        integer("num_ops", self.num_ops, 1, 32)
        bins = integer("num_magnitude_bins", self.num_magnitude_bins, 2, 1_000_000)
        return [0.0, integer("magnitude", self.magnitude, 0, bins - 1), bins, *self.outside()]


@dataclass(frozen=True, repr=False)
class TrivialAugmentWide(Automatic):
    """Applies one of 14 operations at random, with a random magnitude (Müller and Hutter 2021).

    Args:
        num_magnitude_bins: number of magnitudes.
        interpolation: "bilinear" or "nearest".
        fill: colour of what lies outside of the view, (R, G, B) or one value in [0, 1].
    """

    num_magnitude_bins: int = 31
    interpolation: str = "nearest"
    fill: Fill = 0.0

    def arguments(self) -> list[float]:
        return [1.0, -1.0, integer("num_magnitude_bins", self.num_magnitude_bins, 2, 1_000_000), *self.outside()]
