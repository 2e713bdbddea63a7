"""The operations of augmentation programs, with their parameters and distributions.

Colours are in [0, 1], sizes in pixels. The semantics are those of torchvision's v2 transforms on float tensors.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from fastssl._options import integer, plain_fields

Range = tuple[float, float]
Row = tuple[int, list[float], tuple[str, ...]]
BICUBIC = 19  # the number of what decides how the crop before it is resized


def _probability(name: str, p: float) -> float:
    if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p <= 1:
        raise ValueError(f"{name}: expected a probability in [0, 1], got {p!r}")
    return float(p)


def pixels(name: str, value: Any, also: str = "") -> int:
    """A length in pixels."""
    return integer(name, value, 1, 65_535, also=also)


def square(size: Any) -> int:
    """The side of views that are square."""
    return pixels("size", size, " (of square views)")


def height_and_width(size: Any) -> tuple[int, int]:
    """Height and width of views whose size is given as a number or as both."""
    if isinstance(size, numbers.Integral):
        return pixels("size", size), pixels("size", size)
    if not isinstance(size, Sequence) or len(size) != 2:
        raise ValueError(f"size: expected a number of pixels or (height, width), got {size!r}")
    return pixels("size", size[0]), pixels("size", size[1])


def _range(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> Range:
    try:
        a, b = (float(v) for v in value)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected (smallest, largest), got {value!r}") from None
    if not (low <= a <= b <= high) or not (math.isfinite(a) and math.isfinite(b)):
        raise ValueError(f"{name}: expected {low} <= smallest <= largest <= {high}, got {value!r}")
    return a, b


def _hashable_fields(operation: Any) -> None:
    """Makes the fields numbers and tuples of Python, so that an operation is equal to the one of a checkpoint."""
    plain_fields(operation)
    for field in fields(operation):
        value = getattr(operation, field.name)
        if isinstance(value, list):
            object.__setattr__(operation, field.name, tuple(value))


@dataclass(frozen=True)
class Operation:
    """One step of a program. ``kind`` is its number in the kernels, ``columns`` the names of its random parameters."""

    kind: ClassVar[int]
    columns: ClassVar[tuple[str, ...]]
    geometric: ClassVar[bool] = False  # moves pixels: fused into the resize
    crops: ClassVar[bool] = False  # selects a part of the image: must come first

    def __post_init__(self) -> None:
        _hashable_fields(self)
        self.check()

    def check(self) -> None:
        """Raises ValueError for invalid parameters."""

    def arguments(self) -> list[float]:
        """The constants that are passed to the kernels."""
        raise NotImplementedError

    @property
    def shared(self) -> bool:
        """Whether all views of an image share one draw."""
        return False

    def rows(self) -> list[Row]:
        """What the kernels do, one after another: the numbers, constants and parameters' names."""
        return [(self.kind, self.arguments(), self.columns)]

    def color(self) -> list[float]:
        """What it fills three channels with."""
        return []

    def window(self, before: tuple[int, int] | None) -> tuple[int, int] | None:
        """Height and width of the output, if the operation determines it."""
        return before

    def least(self) -> tuple[int, int]:
        """Height and width of the smallest image that it takes."""
        return 1, 1

    def __repr__(self) -> str:
        given = []
        for k, f in enumerate(fields(self)):
            value = getattr(self, f.name)
            if k == 0 and f.name == "size":
                given.append(repr(value))
            elif value != f.default:
                given.append(f"{f.name}={value!r}")
        return f"{type(self).__name__}({', '.join(given)})"


@dataclass(frozen=True, repr=False)
class RandomResizedCrop(Operation):
    """Crops a box of random area and aspect ratio and resizes it.

    Args:
        size: output size in pixels, or (height, width).
        scale: minimum and maximum area, as a fraction of the image.
        ratio: minimum and maximum width / height, log-uniform.
        interpolation: "bilinear" or "bicubic", antialiased, or "random": one of both per image.
    """

    size: int | tuple[int, int]
    scale: Range = (0.08, 1.0)
    ratio: Range = (3 / 4, 4 / 3)
    interpolation: str = "bilinear"

    kind = 0
    columns = ("top", "left", "height", "width")
    geometric = crops = True

    def check(self) -> None:
        height_and_width(self.size)
        _range("scale", self.scale, 1e-6, 1.0)
        _range("ratio", self.ratio, 1e-3, 1e3)
        self.arguments()

    def arguments(self) -> list[float]:
        bicubic = 0 if self.interpolation == "random" else _interpolation(self.interpolation, " or 'random'")
        return [*self.scale, *self.ratio, *height_and_width(self.size), bicubic]

    def rows(self) -> list[Row]:
        drawn: Row = (BICUBIC, [0.5], ("bicubic",))
        return [*super().rows(), *([drawn] if self.interpolation == "random" else [])]

    def window(self, before: tuple[int, int] | None) -> tuple[int, int]:
        return height_and_width(self.size)


def _interpolation(name: str, also: str = "") -> int:
    if name not in ("bilinear", "bicubic"):
        raise ValueError(f"interpolation: expected 'bilinear' or 'bicubic'{also}, got {name!r}")
    return int(name == "bicubic")


@dataclass(frozen=True, repr=False)
class Resize(Operation):
    """Resizes the whole image, whatever its aspect ratio.

    Args:
        size: output size in pixels, or (height, width).
        interpolation: "bilinear" or "bicubic", antialiased.
    """

    size: int | tuple[int, int]
    interpolation: str = "bilinear"

    kind = RandomResizedCrop.kind
    columns = RandomResizedCrop.columns
    geometric = crops = True

    def check(self) -> None:
        height_and_width(self.size)
        _interpolation(self.interpolation)

    def arguments(self) -> list[float]:
        # No box of four times the area fits, whereupon a random crop takes the whole image if its ratio is allowed.
        return [4.0, 4.0, 1e-6, 1e6, *height_and_width(self.size), _interpolation(self.interpolation)]

    def window(self, before: tuple[int, int] | None) -> tuple[int, int]:
        return height_and_width(self.size)


@dataclass(frozen=True, repr=False)
class CenterCrop(Operation):
    """Crops the centre of the image.

    Args:
        size: output size in pixels, or (height, width).
        resize: resize the shorter side to this length first (antialiased); None: no resize.
        interpolation: "bilinear" or "bicubic".
    """

    size: int | tuple[int, int]
    resize: int | None = None
    interpolation: str = "bilinear"

    kind = 1
    columns = ("top", "left")
    geometric = crops = True
    _random: ClassVar[int] = 0

    def check(self) -> None:
        height, width = height_and_width(self.size)
        _interpolation(self.interpolation)
        if self.resize is not None and pixels("resize", self.resize) + 2 * self._padding < max(height, width):
            raise ValueError(f"resize: expected at least the size of the crop, {self.size}, got {self.resize}")

    @property
    def _padding(self) -> int:
        return 0

    def arguments(self) -> list[float]:
        size, interpolation = height_and_width(self.size), _interpolation(self.interpolation)
        return [self.resize or 0, self._random, *size, interpolation, self._padding]

    def least(self) -> tuple[int, int]:
        if self.resize is not None:
            return 1, 1
        height, width = (max(1, length - 2 * self._padding) for length in height_and_width(self.size))
        return height, width

    def window(self, before: tuple[int, int] | None) -> tuple[int, int]:
        return height_and_width(self.size)


@dataclass(frozen=True, repr=False)
class RandomCrop(CenterCrop):
    """Crops a box of fixed size at a random position.

    Args:
        size: output size in pixels, or (height, width).
        resize: resize the shorter side to this length first (antialiased); None: no resize.
        interpolation: "bilinear" or "bicubic".
        together: use the same box for all views of an image.
        padding: black pixels that are added on every side first (after ``resize``).
    """

    together: bool = False
    padding: int = 0

    _random: ClassVar[int] = 1

    def check(self) -> None:
        integer("padding", self.padding, 0, 65_535)
        super().check()

    @property
    def _padding(self) -> int:
        return self.padding

    @property
    def shared(self) -> bool:
        return self.together


@dataclass(frozen=True, repr=False)
class Tile(Operation):
    """Crops a tile from a cell of a grid over the image, with gaps between the tiles.

    Args:
        grid: cells per side.
        cell: side of a cell in pixels.
        size: side of the tile in pixels.
        index: row-major index of the cell; None: a random neighbour of the central cell.
        jitter: random position of the tile in its cell; False: centred.
    """

    grid: int
    cell: int
    size: int
    index: int | None = None
    jitter: bool = True

    kind = 2
    columns = ("index", "top", "left")
    geometric = True

    def check(self) -> None:
        for name in ("grid", "cell", "size"):
            pixels(name, getattr(self, name))
        if self.size > self.cell:
            raise ValueError(f"size: expected at most the {self.cell} pixels of a cell, got {self.size}")
        if self.index is not None and not 0 <= self.index < self.grid**2:
            raise ValueError(f"index: expected a cell from 0 to {self.grid**2 - 1}, got {self.index}")
        if self.index is None and (self.grid < 3 or self.grid % 2 == 0):
            raise ValueError(f"grid: expected an odd number of cells >= 3, got {self.grid}")

    def arguments(self) -> list[float]:
        return [self.grid, self.cell, self.size, -1 if self.index is None else self.index, int(self.jitter)]

    def window(self, before: tuple[int, int] | None) -> tuple[int, int]:
        if before is None or min(before) < self.grid * self.cell:
            raise ValueError(
                f"Tile: expected a crop of at least {self.grid * self.cell} pixels before it, got {before}"
            )
        return self.size, self.size


@dataclass(frozen=True, repr=False)
class RandomHorizontalFlip(Operation):
    """Flips the image horizontally with probability ``p``; ``together``: in all views of an image or in none."""

    p: float = 0.5
    together: bool = False

    kind = 3
    columns = ("on",)
    geometric = True
    _vertical: ClassVar[int] = 0

    def check(self) -> None:
        _probability("p", self.p)

    def arguments(self) -> list[float]:
        return [self.p, self._vertical]

    @property
    def shared(self) -> bool:
        return self.together


@dataclass(frozen=True, repr=False)
class RandomVerticalFlip(RandomHorizontalFlip):
    """Flips the image vertically with probability ``p``."""

    _vertical: ClassVar[int] = 1


@dataclass(frozen=True, repr=False)
class ColorJitter(Operation):
    """Changes brightness, contrast, saturation and hue by random amounts in random order.

    Args:
        brightness: x -> f x, with f uniform in [max(0, 1 - brightness), 1 + brightness], or in a given range.
        contrast: the same, relative to the mean grey value of the image.
        saturation: the same, relative to the grey value of each pixel.
        hue: maximum shift of the hue in turns (up to 1/2), or a range.
        p: probability of application.
    """

    brightness: float | Range = 0.0
    contrast: float | Range = 0.0
    saturation: float | Range = 0.0
    hue: float | Range = 0.0
    p: float = 1.0

    kind = 4
    columns = ("on", "order", "brightness", "contrast", "saturation", "hue")

    def check(self) -> None:
        _probability("p", self.p)
        self.arguments()

    def arguments(self) -> list[float]:
        factors: list[float] = []
        for name in ("brightness", "contrast", "saturation"):
            value = getattr(self, name)
            if isinstance(value, (int, float)):
                if not 0 <= value < 1e6:
                    raise ValueError(f"{name}: expected a number >= 0 or a range, got {value!r}")
                value = (max(0.0, 1 - value), 1 + value)
            factors += _range(name, value, 0.0)
        turns = (-self.hue, self.hue) if isinstance(self.hue, (int, float)) else self.hue
        return [self.p, *factors, *_range("hue", turns, -0.5, 0.5)]


@dataclass(frozen=True, repr=False)
class _WithProbability(Operation):
    p: float = 0.5

    columns = ("on",)

    def check(self) -> None:
        _probability("p", self.p)

    def arguments(self) -> list[float]:
        return [self.p]


@dataclass(frozen=True, repr=False)
class RandomGrayscale(_WithProbability):
    """Converts to grey (0.2989 R + 0.587 G + 0.114 B) with probability ``p``."""

    p: float = 0.1

    kind = 5


@dataclass(frozen=True, repr=False)
class GaussianBlur(Operation):
    """Gaussian blur with ``kernel_size`` taps and reflected borders.

    Args:
        kernel_size: odd number of taps.
        sigma: minimum and maximum standard deviation in pixels.
        p: probability of application.
    """

    kernel_size: int
    sigma: Range = (0.1, 2.0)
    p: float = 1.0

    kind = 6
    columns = ("sigma",)

    def check(self) -> None:
        if pixels("kernel_size", self.kernel_size) % 2 == 0 or self.kernel_size > 4095:
            raise ValueError(f"kernel_size: expected an odd number of at most 4095, got {self.kernel_size}")
        _range("sigma", self.sigma, 1e-3)
        _probability("p", self.p)

    def arguments(self) -> list[float]:
        return [self.p, *self.sigma, self.kernel_size]


@dataclass(frozen=True, repr=False)
class RandomSolarize(_WithProbability):
    """Inverts values >= ``threshold`` with probability ``p``."""

    threshold: float = 0.5

    kind = 7

    def check(self) -> None:
        super().check()
        _range("threshold", (self.threshold, self.threshold), 0.0, 1.0)

    def arguments(self) -> list[float]:
        return [self.p, self.threshold]


@dataclass(frozen=True, repr=False)
class RandomPosterize(_WithProbability):
    """Reduces values to 2^bits levels with probability ``p``."""

    bits: int = 4

    kind = 8

    def check(self) -> None:
        super().check()
        integer("bits", self.bits, 0, 8)

    def arguments(self) -> list[float]:
        return [self.p, self.bits]


@dataclass(frozen=True, repr=False)
class RandomEqualize(_WithProbability):
    """Equalizes the histogram of every channel with probability ``p``."""

    kind = 9


@dataclass(frozen=True, repr=False)
class RandomErasing(Operation):
    """Fills a random box with a constant colour.

    Args:
        p: probability of application.
        scale: minimum and maximum area, as a fraction of the view.
        ratio: minimum and maximum height / width, log-uniform.
        value: colour (R, G, B), or one value for all channels.
    """

    p: float = 0.5
    scale: Range = (0.02, 0.33)
    ratio: Range = (0.3, 3.3)
    value: float | tuple[float, float, float] = 0.0

    kind = 10
    columns = ("top", "left", "height", "width")

    def check(self) -> None:
        _probability("p", self.p)
        _range("scale", self.scale, 1e-6, 1.0)
        _range("ratio", self.ratio, 1e-3, 1e3)
        self.arguments()

    def arguments(self) -> list[float]:
        return [self.p, *self.scale, *self.ratio, *self.color()]

    def color(self) -> list[float]:
        """The value of each of three channels."""
        values = _per_channel("value", self.value, 3)
        if not all(math.isfinite(v) for v in values):
            raise ValueError(f"value: expected one number or three, got {self.value!r}")
        return values


@dataclass(frozen=True, repr=False)
class ColorProjection(_WithProbability):
    """Projects out the green - magenta axis, along which chromatic aberration reveals the position of a patch
    (Doersch et al. 2015)."""

    p: float = 1.0

    kind = 12


@dataclass(frozen=True, repr=False)
class RandomAdjustSharpness(Operation):
    """Moves every pixel away from the mean of its 3 x 3 neighbourhood, whose middle has five times the weight, with
    probability ``p``: mean + f (x - mean). Pixels at the edges stay as they are.

    Args:
        sharpness_factor: the factor f: 0 blurs, 1 changes nothing, 2 sharpens.
        p: probability of application.
    """

    sharpness_factor: float
    p: float = 0.5

    kind = 15
    columns = ("on",)

    def check(self) -> None:
        _probability("p", self.p)
        if not 0 <= self.sharpness_factor <= 1e6:
            raise ValueError(f"sharpness_factor: expected a number >= 0, got {self.sharpness_factor!r}")

    def arguments(self) -> list[float]:
        return [self.p, self.sharpness_factor]


@dataclass(frozen=True, repr=False)
class RandomAutocontrast(_WithProbability):
    """Stretches the values of every channel to [0, 1] with probability ``p``; a channel of one value stays as it is."""

    kind = 16


@dataclass(frozen=True, repr=False)
class RandomInvert(_WithProbability):
    """Inverts all values, x -> 1 - x, with probability ``p``."""

    kind = 17


@dataclass(frozen=True, repr=False)
class Normalize:
    """(x - mean) / std, the last step of a program.

    Args:
        mean: mean per channel, or one number.
        std: standard deviation per channel, or one number.
    """

    mean: float | tuple[float, ...] = (0.485, 0.456, 0.406)
    std: float | tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        _hashable_fields(self)
        means, stds = ([v] if isinstance(v, (int, float)) else [*v] for v in (self.mean, self.std))
        if not all(map(math.isfinite, means)) or not all(v > 0 and math.isfinite(v) for v in stds):
            raise ValueError(f"mean, std: expected finite numbers and std > 0, got {self.mean!r} and {self.std!r}")

    def means(self, channels: int = 3) -> list[float]:
        """The mean of each of ``channels`` channels."""
        return _per_channel("mean", self.mean, channels)

    def stds(self, channels: int = 3) -> list[float]:
        """The standard deviation of each of ``channels`` channels."""
        return _per_channel("std", self.std, channels)

    def __repr__(self) -> str:
        return f"Normalize({self.mean!r}, {self.std!r})"


def _per_channel(name: str, value: float | Sequence[float], channels: int) -> list[float]:
    values = [float(value)] * channels if isinstance(value, (int, float)) else [float(v) for v in value]
    if len(values) != channels:
        count = {2: "two", 3: "three"}.get(channels, str(channels))
        raise ValueError(f"{name}: expected one number or {count}, for {channels} channels, got {value!r}")
    return values


IMAGENET = Normalize()
