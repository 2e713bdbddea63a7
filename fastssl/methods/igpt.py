"""Image GPT: every pixel's colour is predicted from those of the pixels before it, by a causal transformer.

Chen et al., Generative Pretraining from Pixels, 2020. Colours are those of a palette fitted to the data by k-means; the
features are the hidden states of the middle block.
"""

from __future__ import annotations

import numpy as np

from fastssl.augment import Views
from fastssl.data.packed import Readable
from fastssl.data.source import Source
from fastssl.methods.pixelcnn import PixelMethod
from fastssl.models import Encoder, ImageGPTNetwork

FITTED_IMAGES = 1024


class IGPT(PixelMethod):
    """Pixels in raster order + palette + causal transformer + cross-entropy of each pixel's colour.

    The palette is fitted to the data before training.

    Args:
        encoder: "igpt" of :func:`fastssl.models.build_encoder` (:class:`fastssl.models.ImageGPTNetwork`), with "colors"
            of the palette.
        augment: see :class:`DensityMethod`.

    Raises:
        TypeError: an encoder of another network.
    """

    paper = "Chen et al. 2020"
    predicts = "every pixel's colour from those before it"
    encoder_name = "igpt"
    channels = 3
    networks = (ImageGPTNetwork,)

    def __init__(self, encoder: Encoder, augment: Views | None = None) -> None:
        super().__init__(encoder, augment)
        self.register_buffer("fitted", self.network.palette.new_zeros((), dtype=bool))

    def prepare(self, source: Source) -> Source:
        if not bool(self.fitted):
            ids = np.unique(np.linspace(0, len(source) - 1, min(FITTED_IMAGES, len(source))).astype(int))
            read = [(index, item) for index, item in zip(ids, Readable(source).items(ids)) if item.images]
            if read:  # else the run says what is wrong with them
                kept, items = zip(*read)
                self.network.fit_palette(self.examples(items, 0, 0, np.array(kept)).views[0])
                self.fitted.fill_(True)  # type: ignore[operator]
        return source
