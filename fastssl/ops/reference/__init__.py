"""The losses as eager PyTorch, written to be read: the oracle of every backend, and the backend of last resort."""

from fastssl.ops.reference.contrastive import info_nce, nt_xent, sup_con
from fastssl.ops.reference.language import linear_cross_entropy
from fastssl.ops.reference.multimodal import clip_loss, siglip_loss

__all__ = ["clip_loss", "info_nce", "linear_cross_entropy", "nt_xent", "siglip_loss", "sup_con"]
