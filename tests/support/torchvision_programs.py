"""The programs whose views are compared with torchvision's, and their images."""

from __future__ import annotations

import zlib

import numpy as np

from fastssl.augment import (
    Augment,
    CenterCrop,
    ColorJitter,
    GaussianBlur,
    Normalize,
    RandomEqualize,
    RandomErasing,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomPosterize,
    RandomResizedCrop,
    RandomSolarize,
    RandomVerticalFlip,
)

CROP = RandomResizedCrop((13, 17), scale=(0.05, 1.0))
# Name: program, views. "chain": several operations, each of which may differ by a level.
PROGRAMS: dict[str, tuple[Augment, int]] = {
    "crop": (Augment([CROP]), 60),
    "crop bicubic": (Augment([RandomResizedCrop((17, 12), scale=(0.05, 1.0), interpolation="bicubic")]), 60),
    "center": (Augment([CenterCrop(12, resize=15)]), 30),
    "flips": (Augment([CROP, RandomHorizontalFlip(), RandomVerticalFlip()]), 30),
    "brightness": (Augment([CROP, ColorJitter(brightness=0.8)]), 30),
    "contrast": (Augment([CROP, ColorJitter(contrast=0.8)]), 30),
    "saturation": (Augment([CROP, ColorJitter(saturation=0.8)]), 30),
    "hue": (Augment([CROP, ColorJitter(hue=0.5)]), 60),
    "gray": (Augment([CROP, RandomGrayscale(1.0)]), 20),
    "blur 3": (Augment([CROP, GaussianBlur(3)]), 30),
    "blur 23": (Augment([RandomResizedCrop(25), GaussianBlur(23)]), 20),
    "solarize": (Augment([CROP, RandomSolarize(1.0)]), 20),
    "posterize": (Augment([CROP, RandomPosterize(1.0, bits=3)]), 20),
    "equalize": (Augment([CenterCrop(20), RandomEqualize(1.0)]), 20),
    "erase": (Augment([CROP, RandomErasing(1.0, value=(0.2, 0.4, 0.6))]), 20),
    "chain simclr": (
        Augment(
            [
                RandomResizedCrop(16),
                RandomHorizontalFlip(),
                ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
                RandomGrayscale(0.2),
                GaussianBlur(3, p=0.5),
            ]
        ),
        100,
    ),
    "chain byol": (
        Augment(
            [
                RandomResizedCrop(24),
                RandomHorizontalFlip(),
                ColorJitter(0.4, 0.4, 0.2, 0.1, p=0.8),
                RandomGrayscale(0.2),
                GaussianBlur(9, p=0.9),
                RandomSolarize(0.3),
                Normalize(),
            ]
        ),
        40,
    ),
}


def images_of(name: str, count: int) -> list[np.ndarray]:
    """Smooth and noisy images of 21 to 60 pixels, a tenth of them grey and a tenth with alpha."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    images = []
    for k in range(count):
        height, width = rng.integers(21, 61, 2)
        channels = 1 if k % 10 == 8 else 4 if k % 10 == 9 else 3
        coarse = rng.uniform(0, 255, (3, 4, channels))
        y, x = np.linspace(0, 1.999, height), np.linspace(0, 2.999, width)
        rows, columns = y.astype(int), x.astype(int)
        fy, fx = (y - rows)[:, None, None], (x - columns)[None, :, None]
        upper = coarse[rows][:, columns] * (1 - fx) + coarse[rows][:, columns + 1] * fx
        lower = coarse[rows + 1][:, columns] * (1 - fx) + coarse[rows + 1][:, columns + 1] * fx
        noise = rng.normal(0, rng.choice([0, 3, 40]), (height, width, channels))
        images.append(np.clip(upper * (1 - fy) + lower * fy + noise, 0, 255).round().astype(np.uint8))
    return images
