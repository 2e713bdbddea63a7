"""The losses as modules."""

from fastssl.losses.contrastive import InfoNCELoss, NTXentLoss, SupConLoss
from fastssl.losses.language import LinearCrossEntropyLoss
from fastssl.losses.multimodal import CLIPLoss, SigLIPLoss

__all__ = ["CLIPLoss", "InfoNCELoss", "LinearCrossEntropyLoss", "NTXentLoss", "SigLIPLoss", "SupConLoss"]
