"""Photographs for encoders of grey images: ``AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)``.

No processor of transformers converts to one channel. ``fastssl export --to huggingface`` copies this file, which needs
no fastssl, into the folders of such encoders.
"""

from typing import Any

import numpy as np
from PIL import Image
from transformers import CLIPImageProcessor


class GreyImageProcessor(CLIPImageProcessor):
    """Converts images to grey as Pillow does, before all else."""

    def preprocess(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        return super().preprocess(_grey(images), *args, **kwargs)


def _grey(images: Any) -> Any:
    if isinstance(images, (list, tuple)):
        return [_grey(image) for image in images]
    if isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == 3 and images.shape[2] in (3, 4):
        images = Image.fromarray(images)
    return images.convert("L") if isinstance(images, Image.Image) else images
