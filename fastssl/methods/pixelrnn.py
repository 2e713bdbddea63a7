"""PixelRNN: every pixel is predicted from those before it, by LSTMs over rows or diagonals.

van den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, 2016. Deviations: dropout, no bias of the
state-to-state convolutions beside that of the gates, and a learned value per position and channel behind the first
layer. Sampling keeps the states of the pixels before.
"""

from __future__ import annotations

from fastssl.methods.pixelcnn import PixelMethod
from fastssl.models.pixel_rnn import PixelRNNNetwork


class PixelRNN(PixelMethod):
    """Pixels + two-dimensional LSTMs + cross-entropy of each pixel's level.

    Args:
        encoder: "pixelrnn" of :func:`fastssl.models.build_encoder` (:class:`fastssl.models.PixelRNNNetwork`): images of
            2 to 256 levels; ``lstm="diagonal"`` in both directions, or ``"row"``; its features are the last states.
        augment: see :class:`DensityMethod`.

    Raises:
        TypeError: an encoder of another network.
    """

    paper = "van den Oord et al. 2016"
    predicts = "every pixel from those before it"
    encoder_name = "pixelrnn"
    networks = (PixelRNNNetwork,)
