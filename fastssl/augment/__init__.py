"""Augmentation: batches of uint8 images to the views that methods contrast."""

from fastssl.augment.simclr import SimCLRAugment, to_float

__all__ = ["SimCLRAugment", "to_float"]
