"""ALIGN: CLIP's objective with an EfficientNet for images and a BERT for texts, on noisy alt-texts.

Jia et al., Scaling Up Visual and Vision-Language Representation Learning With Noisy Text Supervision, 2021.
Deviations: small towers, byte-level texts, and the temperature is bounded as in CLIP.
"""

from __future__ import annotations

from fastssl.methods.clip import CLIP


class ALIGN(CLIP):
    """One view and the item's text + EfficientNet and BERT-like tower + symmetric InfoNCE with a learnt temperature.

    Args:
        encoder: the image tower, kept after pretraining; "efficientnet" is the paper's kind.
        options: further arguments of :class:`CLIP`; the text embedding is the first position of a bidirectional tower.
    """

    paper = "Jia et al. 2021"
    encoder_name = "efficientnet"
    causal = False
