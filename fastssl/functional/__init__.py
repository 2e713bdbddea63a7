"""The losses as functions. ``import fastssl.functional as F``."""

from fastssl.functional.contrastive import info_nce, nt_xent, sup_con
from fastssl.functional.language import linear_cross_entropy
from fastssl.functional.multimodal import clip_loss, siglip_loss

__all__ = ["clip_loss", "info_nce", "linear_cross_entropy", "nt_xent", "siglip_loss", "sup_con"]
