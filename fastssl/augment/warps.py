"""Operations that move pixels of a finished view: rotations, affine maps and projections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fastssl.augment.ops import Operation, Range, _per_channel, _probability, _range

Fill = float | tuple[float, float, float] | None
INTERPOLATIONS = ("bilinear", "nearest", "bicubic")  # by their numbers in the kernels


@dataclass(frozen=True, repr=False)
class Warp(Operation):
    """What those with ``interpolation`` and ``fill`` share: how pixels are interpolated, and what lies outside of the
    view."""

    interpolations: ClassVar[tuple[str, ...]] = INTERPOLATIONS

    @property
    def symmetric(self) -> bool:
        """Whether flips before and after it give the same views."""
        return True

    def color(self) -> list[float]:
        given: Any = self
        return [0.0] * 3 if given.fill is None else _per_channel("fill", given.fill, 3)

    def outside(self) -> list[float]:
        """The last arguments of the kernels."""
        given: Any = self
        if given.interpolation not in self.interpolations:
            raise ValueError(f"interpolation: expected one of {self.interpolations}, got {given.interpolation!r}")
        fill = self.color()
        if not all(0 <= v <= 1 for v in fill):
            raise ValueError(f"fill: expected values in [0, 1], as colours are, got {given.fill!r}")
        return [self.interpolations.index(given.interpolation), float(given.fill is None), *fill]

    def check(self) -> None:
        _probability("p", getattr(self, "p", 1))
        self.rows()


def around(name: str, value: Any, low: float, high: float) -> Range:
    """A range that is given as such or as the largest value either way."""
    return _range(name, (-value, value) if isinstance(value, (int, float)) else value, low, high)


@dataclass(frozen=True, repr=False)
class RandomRotation(Warp):
    """Rotates about the centre by a random angle.

    Args:
        degrees: maximum angle either way, counterclockwise, or a range.
        p: probability of application.
        interpolation: "bilinear", "nearest" or "bicubic", whose edges are Pillow's.
        fill: colour of what lies outside of the view, (R, G, B) or one value in [0, 1]; None: the view is mirrored at
            its edges.
    """

    degrees: float | Range
    p: float = 1.0
    interpolation: str = "bilinear"
    fill: Fill = None

    kind = 11
    columns = ("degrees",)

    @property
    def symmetric(self) -> bool:
        low, high = around("degrees", self.degrees, -360.0, 360.0)
        return low == -high

    def arguments(self) -> list[float]:
        return [self.p, *around("degrees", self.degrees, -360.0, 360.0), *self.outside()]


@dataclass(frozen=True, repr=False)
class RandomAffine(Warp):
    """Rotates, shifts, scales and shears about the centre, by random amounts.

    Args:
        degrees: maximum angle either way, clockwise, or a range.
        translate: largest shift in x and y, as fractions of width and height; None: none.
        scale: smallest and largest scale; None: 1.
        shear: largest angle of shear along x either way in degrees, or its range; four numbers: the ranges along x and
            y; None: 0.
        p: probability of application.
        interpolation: "bilinear", "nearest" or "bicubic", whose edges are Pillow's.
        fill: colour of what lies outside of the view, (R, G, B) or one value in [0, 1]; None: the view is mirrored at
            its edges.
    """

    degrees: float | Range
    translate: Range | None = None
    scale: Range | None = None
    shear: float | Range | tuple[float, float, float, float] | None = None
    p: float = 1.0
    interpolation: str = "bilinear"
    fill: Fill = 0.0

    kind = 13
    columns = ("degrees", "x", "y", "scale", "shear_x", "shear_y")

    @property
    def symmetric(self) -> bool:
        _, *ranges = self.arguments()[:11]
        return all(ranges[k] == -ranges[k + 1] for k in (0, 6, 8))

    def arguments(self) -> list[float]:
        shift: Any = self.translate or (0.0, 0.0)
        if not isinstance(shift, tuple) or len(shift) != 2 or not all(0 <= v <= 1 for v in shift):
            raise ValueError(f"translate: expected fractions of width and height in [0, 1], got {self.translate!r}")
        x, y = shift
        shear = self.shear or 0.0
        four = isinstance(shear, Sequence) and len(shear) == 4
        along_x, along_y = (shear[:2], shear[2:]) if four else (shear, 0.0)  # type: ignore[index]
        return [
            *(self.p, *around("degrees", self.degrees, -360.0, 360.0), float(x), float(y)),
            *_range("scale", self.scale or (1.0, 1.0), 1e-3, 1e3),
            *around("shear", along_x, -89.0, 89.0),
            *around("shear", along_y, -89.0, 89.0),
            *self.outside(),
        ]


@dataclass(frozen=True, repr=False)
class RandomPerspective(Warp):
    """Moves the corners of a view inwards by random amounts, by a projection.

    Args:
        distortion_scale: how far, from 0 to 1 of the way to the centre.
        p: probability of application.
        interpolation: "bilinear", "nearest" or "bicubic", whose edges are Pillow's.
        fill: colour of what lies outside of the view, (R, G, B) or one value in [0, 1]; None: the view is mirrored at
            its edges.
    """

    distortion_scale: float = 0.5
    p: float = 0.5
    interpolation: str = "bilinear"
    fill: Fill = 0.0

    kind = 14
    columns = tuple(
        f"{corner}_{axis}" for corner in ("top_left", "top_right", "bottom_right", "bottom_left") for axis in "xy"
    )

    def arguments(self) -> list[float]:
        if not 0 <= self.distortion_scale <= 1:
            raise ValueError(f"distortion_scale: expected a number in [0, 1], got {self.distortion_scale!r}")
        return [self.p, self.distortion_scale, *self.outside()]
