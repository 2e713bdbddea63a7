"""The losses as modules. docs/how-losses-work.md follows one from scores to gradients."""

from fastssl.losses.contrastive import (
    AlignmentLoss,
    DCLLoss,
    DCLWLoss,
    HardNegativeNTXentLoss,
    InfoNCELoss,
    MILNCELoss,
    MultipleNegativesRankingLoss,
    NTXentLoss,
    SupConLoss,
    UniformityLoss,
)
from fastssl.losses.language import LinearCrossEntropyLoss
from fastssl.losses.memory import CrossBatchMemory
from fastssl.losses.metric import (
    AngularLoss,
    CircleLoss,
    ContrastiveLoss,
    FastAPLoss,
    GeneralizedLiftedStructureLoss,
    LiftedStructureLoss,
    MarginLoss,
    MultiSimilarityLoss,
    NCALoss,
    NPairsLoss,
    RankedListLoss,
    SoftNearestNeighborLoss,
    TripletMarginLoss,
    TupletMarginLoss,
)
from fastssl.losses.multimodal import CLIPLoss, SigLIPLoss
from fastssl.losses.noise import NCELoss, NegativeSamplingLoss
from fastssl.losses.proxy import ArcFaceLoss, CosFaceLoss, NormalizedSoftmaxLoss, ProxyAnchorLoss, ProxyNCALoss
from fastssl.losses.redundancy import BarlowTwinsLoss, DINOLoss, NegativeCosineSimilarity, SwAVLoss, VICRegLoss

__all__ = [
    "AlignmentLoss",
    "AngularLoss",
    "ArcFaceLoss",
    "BarlowTwinsLoss",
    "CLIPLoss",
    "CircleLoss",
    "ContrastiveLoss",
    "CosFaceLoss",
    "CrossBatchMemory",
    "DCLLoss",
    "DCLWLoss",
    "DINOLoss",
    "FastAPLoss",
    "GeneralizedLiftedStructureLoss",
    "HardNegativeNTXentLoss",
    "InfoNCELoss",
    "LiftedStructureLoss",
    "LinearCrossEntropyLoss",
    "MILNCELoss",
    "MarginLoss",
    "MultiSimilarityLoss",
    "MultipleNegativesRankingLoss",
    "NCALoss",
    "NCELoss",
    "NPairsLoss",
    "NTXentLoss",
    "NegativeCosineSimilarity",
    "NegativeSamplingLoss",
    "NormalizedSoftmaxLoss",
    "ProxyAnchorLoss",
    "ProxyNCALoss",
    "RankedListLoss",
    "SigLIPLoss",
    "SoftNearestNeighborLoss",
    "SupConLoss",
    "SwAVLoss",
    "TripletMarginLoss",
    "TupletMarginLoss",
    "UniformityLoss",
    "VICRegLoss",
]
