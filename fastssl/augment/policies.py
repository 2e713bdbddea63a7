"""Augmentation policies of published methods, with the settings of their papers."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import torch

from fastssl.augment.ops import (
    IMAGENET,
    CenterCrop,
    ColorJitter,
    ColorProjection,
    GaussianBlur,
    Normalize,
    Operation,
    RandomCrop,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomSolarize,
    Tile,
    height_and_width,
    square,
)
from fastssl.augment.program import Augment, Views
from fastssl.augment.warps import RandomRotation

HALF = Normalize(0.5, 0.5)  # to [-1, 1]


def blur_taps(size: int | tuple[int, int]) -> int:
    """Kernel size of the blur, a tenth of the shorter side as in SimCLR: odd and at least 3 (23 for 224 pixels)."""
    return max(3, round(0.1 * min(height_and_width(size))) | 1)


def _program(operations: list[Operation | Normalize], options: dict[str, Any]) -> Augment:
    normalize = options.pop("normalize", IMAGENET)
    return Augment([*operations, *([normalize] if normalize is not None else [])], **options)


class SimCLRAugment(Views):
    """Random resized crop, flip, colour distortion, grayscale and blur (Chen et al. 2020, appendix A).

    Args:
        size: height and width of the views, in pixels: a number, or (height, width).
        crop: minimum and maximum area of a crop, as a fraction of the image.
        strength: s of the paper: brightness, contrast and saturation change by up to 0.8 s, hue by up to 0.2 s turns.
        flip: probability of a horizontal flip.
        jitter: probability of the colour distortion.
        gray: probability of grayscale.
        blur: probability of a Gaussian blur (sigma 0.1 to 2 pixels, a tenth of the size in taps).
        rotate: maximum rotation in degrees, either way (not in the paper; for digits).
        views: number of views.
        normalize: the last step, by default to [-1, 1]; None: [0, 1].
        dtype: dtype of the views.
        channels_last: views in channels_last memory format.

    A call with uint8 images [B, H, W, 3] or [B, 3, H, W] and a seed returns a list of ``views`` float tensors
    [B, 3, size, size]; the same seed gives the same views.

    Example:
        >>> import torch
        >>> from fastssl.augment import SimCLRAugment
        >>> images = torch.randint(0, 256, (8, 64, 64, 3), dtype=torch.uint8)
        >>> [tuple(v.shape) for v in SimCLRAugment(32)(images, seed=0)]
        [(8, 3, 32, 32), (8, 3, 32, 32)]
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        *,
        crop: tuple[float, float] = (0.08, 1.0),
        strength: float = 1.0,
        flip: float = 0.5,
        jitter: float = 0.8,
        gray: float = 0.2,
        blur: float = 0.5,
        rotate: float = 0.0,
        views: int = 2,
        normalize: Normalize | None = HALF,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
    ) -> None:
        if not isinstance(strength, numbers.Real) or not 0 <= strength <= 2.5:
            raise ValueError(f"strength: expected a number from 0 to 2.5, got {strength!r}")
        operations: list[Operation | Normalize] = [RandomResizedCrop(size, scale=crop), RandomHorizontalFlip(flip)]
        if rotate:
            operations.append(RandomRotation(rotate))
        s = float(strength)
        operations += [ColorJitter(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s, p=jitter), RandomGrayscale(gray)]
        if blur:
            operations.append(GaussianBlur(blur_taps(size), p=blur))
        options = {"normalize": normalize, "dtype": dtype, "channels_last": channels_last}
        super().__init__([(views, _program(operations, options))])


def _momentum(
    size: int | tuple[int, int],
    crop: tuple[float, float],
    jitter: ColorJitter,
    blur: float,
    solarize: float,
    interpolation: str = "bilinear",
    **options: Any,
) -> Augment:
    operations: list[Operation | Normalize] = [
        RandomResizedCrop(size, scale=crop, interpolation=interpolation),
        RandomHorizontalFlip(),
        jitter,
        RandomGrayscale(0.2),
        GaussianBlur(blur_taps(size), p=blur),
    ]
    if solarize:
        operations.append(RandomSolarize(solarize))
    return _program(operations, options)


class MoCoV2Augment(Views):
    """Two views with jitter 0.4, 0.4, 0.4, 0.1 at p = 0.8, grayscale and blur (Chen et al. 2020, Improved Baselines
    with Momentum Contrastive Learning). ``options``: ``normalize``, ``dtype``, ``channels_last``."""

    def __init__(self, size: int | tuple[int, int] = 224, **options: Any) -> None:
        jitter = ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8)
        super().__init__([(2, _momentum(size, (0.2, 1.0), jitter, 0.5, 0.0, **options))])


_BYOL_JITTER = ColorJitter(0.4, 0.4, 0.2, 0.1, p=0.8)


class BYOLAugment(Views):
    """Two views of different distributions: blur with p = 1 and 0.1, solarize with p = 0 and 0.2 (Grill et al. 2020,
    Bootstrap Your Own Latent, appendix B)."""

    def __init__(
        self, size: int | tuple[int, int] = 224, crop: tuple[float, float] = (0.08, 1.0), **options: Any
    ) -> None:
        first = _momentum(size, crop, _BYOL_JITTER, 1.0, 0.0, **options)
        super().__init__([first, _momentum(size, crop, _BYOL_JITTER, 0.1, 0.2, **options)])


class MoCoV3Augment(BYOLAugment):
    """BYOL's two views (Chen, Xie, He 2021, An Empirical Study of Training Self-Supervised Vision Transformers)."""


class BarlowTwinsAugment(BYOLAugment):
    """BYOL's two views (Zbontar et al. 2021, Barlow Twins: Self-Supervised Learning via Redundancy Reduction)."""


class VICRegAugment(Views):
    """Two views of the same distribution: blur with p = 0.5, solarize with p = 0.1 (Bardes et al. 2022, VICReg,
    appendix C)."""

    def __init__(self, size: int | tuple[int, int] = 224, **options: Any) -> None:
        super().__init__([(2, _momentum(size, (0.08, 1.0), _BYOL_JITTER, 0.5, 0.1, **options))])


class DINOAugment(Views):
    """Multi-crop: two global and ``local`` local views (Caron et al. 2021, Emerging Properties in Self-Supervised
    Vision Transformers).

    Args:
        size: size of the global views, in pixels.
        local_size: size of the local views, in pixels.
        local: number of local views.
        global_scale: minimum and maximum area of the global crops.
        local_scale: minimum and maximum area of the local crops.
        options: ``normalize``, ``dtype``, ``channels_last``.
    """

    def __init__(
        self,
        size: int | tuple[int, int] = 224,
        local_size: int | tuple[int, int] = 96,
        local: int = 8,
        *,
        global_scale: tuple[float, float] = (0.4, 1.0),
        local_scale: tuple[float, float] = (0.05, 0.4),
        **options: Any,
    ) -> None:
        def program(size: Any, scale: tuple[float, float], blur: float, solarize: float) -> Augment:
            return _momentum(size, scale, _BYOL_JITTER, blur, solarize, "bicubic", **options)

        views: list[Augment | tuple[int, Augment]] = [
            program(size, global_scale, 1.0, 0.0),
            program(size, global_scale, 0.1, 0.2),
        ]
        if local:
            views.append((local, program(local_size, local_scale, 0.5, 0.0)))
        super().__init__(views)


class MAEAugment(Views):
    """One view: a bicubic crop of at least a fifth of the image, and a flip (He et al. 2022, Masked Autoencoders Are
    Scalable Vision Learners)."""

    def __init__(
        self, size: int | tuple[int, int] = 224, scale: tuple[float, float] = (0.2, 1.0), **options: Any
    ) -> None:
        crop = RandomResizedCrop(size, scale=scale, interpolation="bicubic")
        super().__init__([_program([crop, RandomHorizontalFlip()], options)])


class RotNetAugment(Views):
    """One view, of which :meth:`rotations` makes four (Gidaris et al. 2018, Unsupervised Representation Learning by
    Predicting Image Rotations)."""

    def __init__(self, size: int = 224, **options: Any) -> None:
        crop = RandomResizedCrop(square(size), scale=(0.2, 1.0))
        super().__init__([_program([crop, RandomHorizontalFlip()], options)])

    @staticmethod
    def rotations(view: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, 3, S, S] to (rotations by 0, 90, 180 and 270 degrees [4 B, 3, S, S], their labels [4 B])."""
        turns = torch.cat([torch.rot90(view, k, (2, 3)) for k in range(4)])
        return turns, torch.arange(4, device=view.device).repeat_interleave(len(view))


class JigsawAugment(Views):
    """Nine tiles of one crop, with gaps between them (Noroozi and Favaro 2016, Unsupervised Learning of Visual
    Representations by Solving Jigsaw Puzzles).

    The shorter side is resized to ``resize``; each view is a tile of ``size`` pixels at a random position in a cell of
    a random crop of 3 x 3 cells. ``normalized`` standardises every tile, as in the paper, so that brightness does not
    reveal its position.

    Args:
        size: side of a tile in pixels.
        cell: side of a cell in pixels.
        resize: length of the shorter side of the image.
        options: ``dtype``, ``channels_last``.
    """

    def __init__(self, size: int = 64, cell: int = 75, resize: int = 256, **options: Any) -> None:
        options.setdefault("normalize", None)
        crop = RandomCrop(3 * cell, resize=resize, together=True)
        super().__init__(
            [
                _program([crop, RandomHorizontalFlip(together=True), Tile(3, cell, size, index=k)], dict(options))
                for k in range(9)
            ]
        )

    @staticmethod
    def normalized(tile: torch.Tensor) -> torch.Tensor:
        """Standardises each tile [B, 3, S, S] per channel."""
        deviation, mean = torch.std_mean(tile, (2, 3), keepdim=True, correction=0)
        return (tile - mean) / deviation.clamp(min=1e-4)


class RelativePatchAugment(Views):
    """Two patches, the central one and a random neighbour (Doersch et al. 2015, Unsupervised Visual Representation
    Learning by Context Prediction).

    A grid of 3 x 3 cells with gaps and jitter; the green - magenta axis is projected out against chromatic aberration
    (not needed for drawings: ``projection=False``). With ``views, params = augment(images, return_params=True)``,
    ``augment.places(params)`` are the labels, 0 to 7.

    Args:
        size: side of a patch in pixels.
        cell: side of a cell in pixels; in the paper gaps of half a patch, with 7 pixels of jitter either way.
        resize: length of the shorter side of the image.
        projection: project out the green - magenta axis.
        options: ``normalize``, ``dtype``, ``channels_last``.
    """

    def __init__(
        self, size: int = 96, cell: int = 110, resize: int = 384, *, projection: bool = True, **options: Any
    ) -> None:
        crop = RandomCrop(3 * cell, resize=resize, together=True)

        def patch(index: int | None) -> Augment:
            color: list[Operation | Normalize] = [ColorProjection()] if projection else []
            return _program([crop, Tile(3, cell, size, index=index), *color], dict(options))

        super().__init__([patch(4), patch(None)])

    @staticmethod
    def places(params: Any) -> torch.Tensor:
        """Positions of the second patches: 0 to 7, row-major without the centre."""
        cells = torch.from_numpy(params[1]["Tile.index"]).long()
        return cells - (cells > 4).long()


class CPCAugment(Views):
    """One view, split into overlapping patches by :meth:`patches` (van den Oord et al. 2018, Representation Learning
    with Contrastive Predictive Coding: 300 pixels, a crop of 260 resized to 256, patches of 64 with stride 32; grey
    unless ``gray`` is less than 1)."""

    def __init__(self, size: int = 256, gray: float = 1.0, **options: Any) -> None:
        crop = RandomCrop(square(size), resize=round(size * 300 / 260))
        super().__init__([_program([crop, RandomHorizontalFlip(), RandomGrayscale(gray)], options)])

    @staticmethod
    def patches(view: torch.Tensor, size: int = 64, stride: int = 32) -> torch.Tensor:
        """[B, 3, S, S] to [B, rows, columns, 3, size, size], a view of the same memory: 7 x 7 patches of 256 pixels."""
        return view.unfold(2, size, stride).unfold(3, size, stride).permute(0, 2, 3, 1, 4, 5)


_XYZ = [  # of linear sRGB
    [0.4123908, 0.3575843, 0.1804808],
    [0.2126390, 0.7151687, 0.0721923],
    [0.0193308, 0.1191948, 0.9505322],
]


class ColorizationAugment(Views):
    """One view, which :meth:`lab` separates into lightness and colours (Zhang et al. 2016, Colorful Image
    Colorization)."""

    def __init__(self, size: int = 176, **options: Any) -> None:
        options.setdefault("normalize", None)
        crop = RandomCrop(square(size), resize=round(size * 256 / 176))
        super().__init__([_program([crop, RandomHorizontalFlip()], options)])

    @staticmethod
    def lab(view: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """RGB [B, 3, H, W] in [0, 1] (sRGB, D65) to L [B, 1, H, W] in [0, 100] and ab [B, 2, H, W] of CIE Lab."""
        x = view.float()
        linear = torch.where(x <= 0.04045, x / 12.92, ((x.clamp(min=0) + 0.055) / 1.055) ** 2.4)
        matrix = x.new_tensor(_XYZ)
        white = matrix.sum(1).view(3, 1, 1)
        with torch.autocast(x.device.type, enabled=False):  # bf16 has too few digits for colours
            xyz = torch.einsum("ij,bjhw->bihw", matrix, linear) / white
        delta = 6 / 29
        f = torch.where(xyz > delta**3, xyz.clamp(min=1e-12) ** (1 / 3), xyz / (3 * delta**2) + 4 / 29)
        lightness = 116 * f[:, 1:2] - 16
        return lightness, torch.cat([500 * (f[:, :1] - f[:, 1:2]), 200 * (f[:, 1:2] - f[:, 2:])], 1)

    @staticmethod
    def rgb(lightness: torch.Tensor, ab: torch.Tensor) -> torch.Tensor:
        """The inverse of :meth:`lab`: [B, 3, H, W] in [0, 1], clipped to sRGB."""
        lightness, ab = lightness.float(), ab.float()
        fy = (lightness + 16) / 116
        f = torch.cat([fy + ab[:, :1] / 500, fy, fy - ab[:, 1:] / 200], 1)
        delta = 6 / 29
        matrix = f.new_tensor(_XYZ)
        xyz = torch.where(f > delta, f**3, 3 * delta**2 * (f - 4 / 29)) * matrix.sum(1).view(3, 1, 1)
        with torch.autocast(xyz.device.type, enabled=False):
            linear = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(matrix), xyz).clamp(0, 1)
        return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=1e-9) ** (1 / 2.4) - 0.055)


class ContextEncoderAugment(Views):
    """One view, of which :meth:`mask` removes a region (Pathak et al. 2016, Context Encoders: Feature Learning by
    Inpainting)."""

    def __init__(self, size: int = 128, **options: Any) -> None:
        options.setdefault("normalize", HALF)
        crop = RandomCrop(square(size), resize=round(size * 350 / 227))
        super().__init__([_program([crop, RandomHorizontalFlip()], options)])

    @staticmethod
    def mask(batch: int, size: int, *, kind: str = "center", share: float = 0.25, seed: int = 0) -> torch.Tensor:
        """Masks of removed pixels: bool [B, 1, size, size].

        Args:
            batch: number of masks.
            size: image size in pixels.
            kind: "center", a central box of half the side, or "random", boxes until ``share`` of the image is covered.
            share: fraction of removed pixels, for "random".
            seed: seed of the random boxes.
        """
        if kind not in ("center", "random"):
            raise ValueError(f"kind: expected 'center' or 'random', got {kind!r}")
        if size < 2:
            raise ValueError(f"size: expected at least 2 pixels, got {size}")
        if not 0 < share < 1:
            raise ValueError(f"share: expected a fraction between 0 and 1, got {share}")
        gone = torch.zeros(batch, 1, size, size, dtype=torch.bool)
        if kind == "center":
            begin, side = (size + 2) // 4, size // 2
            gone[:, :, begin : begin + side, begin : begin + side] = True
            return gone
        generator = torch.Generator().manual_seed(seed)
        for k in range(batch):
            while gone[k].float().mean() < share:
                low, high = max(1, size // 8), max(2, size // 3)
                h, w = torch.randint(low, high + 1, (2,), generator=generator).tolist()
                y = int(torch.randint(0, size - h + 1, (), generator=generator))
                x = int(torch.randint(0, size - w + 1, (), generator=generator))
                gone[k, :, y : y + h, x : x + w] = True
        return gone


class LinearTrainAugment(Views):
    """Training view of linear probes: a random resized crop and a flip."""

    def __init__(self, size: int = 224, **options: Any) -> None:
        super().__init__([_program([RandomResizedCrop(size), RandomHorizontalFlip()], options)])


class LinearEvalAugment(Views):
    """Test view of linear probes: the shorter side resized to 8 / 7 of the size, and a centre crop."""

    def __init__(self, size: int = 224, **options: Any) -> None:
        super().__init__([_program([CenterCrop(size, resize=round(size * 8 / 7))], options)])


POLICIES: dict[str, Callable[..., Views]] = {
    "simclr": SimCLRAugment,
    "moco-v2": MoCoV2Augment,
    "moco-v3": MoCoV3Augment,
    "byol": BYOLAugment,
    "dino": DINOAugment,
    "barlow-twins": BarlowTwinsAugment,
    "vicreg": VICRegAugment,
    "mae": MAEAugment,
    "rotnet": RotNetAugment,
    "jigsaw": JigsawAugment,
    "relative-patch": RelativePatchAugment,
    "cpc": CPCAugment,
    "colorization": ColorizationAugment,
    "context-encoder": ContextEncoderAugment,
    "linear-train": LinearTrainAugment,
    "linear-eval": LinearEvalAugment,
}


def policy(name: str, size: int | None = None, **options: Any) -> Views:
    """The policy of a method by name.

    Args:
        name: one of ``POLICIES``.
        size: size of the views in pixels; None: the paper's.
        options: options of the policy.

    Raises:
        ValueError: no such policy.

    Example:
        >>> from fastssl.augment import policy
        >>> len(policy('byol', 32).programs)
        2
    """
    if name not in POLICIES:
        raise ValueError(f"name: expected one of {', '.join(POLICIES)}, got {name!r}")
    kind = POLICIES[name]
    if size is None and kind is SimCLRAugment:
        size = 224
    return kind(**options) if size is None else kind(size, **options)
