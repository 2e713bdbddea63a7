"""The losses as modules."""

from fastssl.losses.contrastive import (
    InfoNCELoss,
    NTXentLoss,
    SupConLoss,
)
from fastssl.losses.language import (
    LinearCrossEntropyLoss,
)
from fastssl.losses.metric import (
    AngularLoss,
    CircleLoss,
    ContrastiveLoss,
    CrossBatchMemory,
    FastAPLoss,
    GeneralizedLiftedStructureLoss,
    LiftedStructureLoss,
    MarginLoss,
    MILNCELoss,
    MultiSimilarityLoss,
    NCALoss,
    NPairsLoss,
    RankedListLoss,
    SoftNearestNeighborLoss,
    TripletMarginLoss,
    TupletMarginLoss,
)
from fastssl.losses.multimodal import (
    CLIPLoss,
    SigLIPLoss,
)
from fastssl.losses.noise import (
    NCELoss,
    NegativeSamplingLoss,
)
from fastssl.losses.proxy import (
    ArcFaceLoss,
    CosFaceLoss,
    NormalizedSoftmaxLoss,
    ProxyAnchorLoss,
    ProxyNCALoss,
)
from fastssl.losses.views import (
    AlignmentLoss,
    BarlowTwinsLoss,
    DCLLoss,
    DCLWLoss,
    DINOLoss,
    HardNegativeNTXentLoss,
    MultipleNegativesRankingLoss,
    NegativeCosineSimilarity,
    SwAVLoss,
    UniformityLoss,
    VICRegLoss,
)

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
