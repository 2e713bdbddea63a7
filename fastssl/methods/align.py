"""ALIGN: CLIP's objective with an EfficientNet for images and a BERT for texts, on texts as they come.

Jia et al., Scaling Up Visual and Vision-Language Representation Learning With Noisy Text Supervision, 2021.
Deviations: small towers, texts are bytes, and the temperature stays in CLIP's bounds.
"""

from __future__ import annotations

from fastssl.methods.clip import CLIP


class ALIGN(CLIP):
    """One view and the item's text + EfficientNet and BERT-like tower + symmetric InfoNCE with a learnt temperature.

    Args:
        encoder: the image tower: what is kept; "efficientnet" is the paper's kind.
        options: of :class:`CLIP`; texts are read off at their start, which sees all of them.
    """

    paper = "Jia et al. 2021"
    encoder_name = "efficientnet"
    causal = False
