"""The augmentation of SimCLR (Chen et al. 2020, appendix A), vectorised over the batch with torch.

Brightness, contrast, saturation, hue and grayscale are linear in colour: each image's whole distortion is one
3 x 4 matrix. Differences from the paper's code: hue turns in the YIQ plane, and values are clipped once at the end.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as TF
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
_TO_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def to_float(images: Tensor, size: int | None = None) -> Tensor:
    """uint8 [B, H, W, 3] or [B, 3, H, W] to float [B, 3, size, size] in [-1, 1], without augmentation."""
    x = _channels_first(images).float()
    if size is not None and tuple(x.shape[-2:]) != (size, size):
        x = TF.interpolate(x, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return x / 127.5 - 1


def _channels_first(images: Tensor) -> Tensor:
    if not isinstance(images, Tensor):
        raise TypeError(f"images: expected a torch.Tensor, got {type(images).__name__}")
    if images.dtype != torch.uint8:
        raise TypeError(f"images: expected uint8, got {images.dtype}")
    if images.dim() == 4 and images.shape[-1] == 3:
        return images.permute(0, 3, 1, 2)
    if images.dim() == 4 and images.shape[1] == 3:
        return images
    raise ValueError(f"images: expected [B, H, W, 3] or [B, 3, H, W], got shape {tuple(images.shape)}")


class SimCLRAugment:
    """Random resized crop, flip, colour distortion, grayscale and blur.

    Args:
        size: height and width of the views, pixels.
        crop: smallest and largest area of a crop, as a share of the image.
        strength: s of the paper: brightness, contrast and saturation change by up to 0.8 s, hue by up to 0.2 s turns.
        flip: probability of a horizontal flip.
        jitter: probability of the colour distortion.
        gray: probability of grayscale.
        blur: probability of a Gaussian blur (sigma 0.1 to 2 pixels of a 224 pixel image, scaled to ``size``).
        rotate: rotation by up to this many degrees either way (not in the paper; for digits).
        views: how many views.

    Calling it with uint8 images [B, H, W, 3] or [B, 3, H, W] and a seed returns a list of ``views`` float tensors
    [B, 3, size, size] in [-1, 1]; the same seed gives the same views.

    Example:
        >>> import torch
        >>> from fastssl.augment import SimCLRAugment
        >>> images = torch.randint(0, 256, (8, 64, 64, 3), dtype=torch.uint8)
        >>> [tuple(v.shape) for v in SimCLRAugment(32)(images, seed=0)]
        [(8, 3, 32, 32), (8, 3, 32, 32)]
    """

    def __init__(
        self,
        size: int,
        *,
        crop: tuple[float, float] = (0.08, 1.0),
        strength: float = 1.0,
        flip: float = 0.5,
        jitter: float = 0.8,
        gray: float = 0.2,
        blur: float = 0.5,
        rotate: float = 0.0,
        views: int = 2,
    ) -> None:
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"size: expected a positive integer, got {size!r}")
        if not (0 < crop[0] <= crop[1] <= 1):
            raise ValueError(f"crop: expected 0 < smallest <= largest <= 1, got {crop}")
        for name, p in (("flip", flip), ("jitter", jitter), ("gray", gray), ("blur", blur)):
            if not 0 <= p <= 1:
                raise ValueError(f"{name}: expected a probability, got {p}")
        self.size, self.crop, self.strength = size, crop, strength
        self.flip, self.jitter, self.gray, self.blur = flip, jitter, gray, blur
        self.rotate, self.views = rotate, views

    def __repr__(self) -> str:
        return (
            f"SimCLRAugment({self.size}, crop={self.crop}, strength={self.strength}, flip={self.flip}, "
            f"jitter={self.jitter}, gray={self.gray}, blur={self.blur}, rotate={self.rotate}, views={self.views})"
        )

    def __call__(self, images: Tensor, seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        x = _channels_first(images)
        return [self.view(x, generator) for _ in range(self.views)]

    def view(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """One view of uint8 images [B, 3, H, W]."""
        n = images.shape[0]

        def uniform(low: float, high: float) -> Tensor:
            return torch.rand(n, generator=generator) * (high - low) + low

        def chance(p: float) -> Tensor:
            return torch.rand(n, generator=generator) < p

        x = self._resized_crop(images.float() / 255, uniform, chance)
        x = self._colour(x, uniform, chance)
        x = self._blur(x, uniform, chance)
        return (x.clamp(0, 1) * 2 - 1).contiguous(memory_format=torch.channels_last)

    def _resized_crop(self, x: Tensor, uniform, chance) -> Tensor:  # type: ignore[no-untyped-def]
        area = uniform(*self.crop)
        ratio = torch.exp(uniform(math.log(3 / 4), math.log(4 / 3)))
        width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        shift_x, shift_y = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
        sign = torch.where(chance(self.flip), -1.0, 1.0)
        zero = torch.zeros_like(area)
        theta = torch.stack([torch.stack([width * sign, zero, shift_x], 1), torch.stack([zero, height, shift_y], 1)], 1)
        if self.rotate:
            angle = uniform(-self.rotate, self.rotate) * math.pi / 180
            turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).reshape(-1, 2, 2)
            theta = torch.cat([turn @ theta[:, :, :2], theta[:, :, 2:]], 2)
        grid = TF.affine_grid(theta, [x.shape[0], 3, self.size, self.size], align_corners=False)
        return TF.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    def _colour(self, x: Tensor, uniform, chance) -> Tensor:  # type: ignore[no-untyped-def]
        n, s = x.shape[0], self.strength
        luma = torch.tensor(LUMA)
        eye = torch.eye(3)
        to_gray = luma.expand(3, 3)
        on = chance(self.jitter)
        low, high = max(0.0, 1 - 0.8 * s), 1 + 0.8 * s

        def factor() -> Tensor:
            return torch.where(on, uniform(low, high), 1.0)[:, None, None]

        brightness, contrast, saturation = factor(), factor(), factor()
        angle = torch.where(on, uniform(-0.2 * s, 0.2 * s), 0.0) * 2 * math.pi
        cos, sin, one, zero = angle.cos(), angle.sin(), torch.ones(n), torch.zeros(n)
        turn = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], 1).reshape(n, 3, 3)
        yiq = torch.tensor(_TO_YIQ)
        hue = torch.linalg.inv(yiq) @ turn @ yiq
        matrix = hue @ (saturation * eye + (1 - saturation) * to_gray) * brightness
        # Contrast blends with the mean grey of the image as it is by then.
        mean = (matrix @ x.mean((2, 3))[:, :, None]).squeeze(2) @ luma
        offset = (1 - contrast[:, :, 0]) * mean[:, None]
        matrix = matrix * contrast
        gray = chance(self.gray)[:, None, None]
        matrix = torch.where(gray, to_gray @ matrix, matrix)
        y = torch.baddbmm(offset[:, :, None].expand(n, 3, 1), matrix, x.flatten(2))
        return y.reshape(x.shape)

    def _blur(self, x: Tensor, uniform, chance) -> Tensor:  # type: ignore[no-untyped-def]
        if self.blur == 0:
            return x
        sigma = uniform(0.1, 2.0) * (self.size / 224) * 2
        radius = max(1, round(0.05 * self.size))
        steps = torch.arange(-radius, radius + 1).float()
        weights = torch.exp(-0.5 * (steps / sigma[:, None].clamp(min=0.05)) ** 2)
        weights = weights / weights.sum(1, keepdim=True)
        identity = (steps == 0).float().expand_as(weights)
        weights = torch.where(chance(self.blur)[:, None], weights, identity)
        for pad, dim in (((radius, radius, 0, 0), 3), ((0, 0, radius, radius), 2)):
            padded = TF.pad(x, pad, mode="reflect")
            parts = (padded.narrow(dim, k, self.size) * weights[:, k, None, None, None] for k in range(2 * radius + 1))
            x = sum(parts, start=torch.zeros(()))
        return x
