"""The losses as functions, a file a family.

Every real-valued hyperparameter of a loss (temperature, scale, margin, weight) is a number or a tensor of one element;
a tensor that requires a gradient receives it.
"""

from fastssl._docs import complete
from fastssl.functional import _docs
from fastssl.functional.boxes import box_iou, generalized_box_iou, nms
from fastssl.functional.contrastive import (
    alignment,
    dcl,
    debiased_nt_xent,
    hard_negative_nt_xent,
    info_nce,
    koleo,
    mil_nce,
    multi_nt_xent,
    nt_xent,
    rince,
    sincere,
    sup_con,
    uniformity,
)
from fastssl.functional.custom import PairMasks, pair_loss, pairwise_reduce
from fastssl.functional.density import gibbs, nade, nade_sample
from fastssl.functional.distance import farthest, nearest, pairwise_distance
from fastssl.functional.gaussian import lejepa, sigreg
from fastssl.functional.language import linear_cross_entropy
from fastssl.functional.metric import (
    angular,
    circle,
    contrastive,
    fast_ap,
    generalized_lifted_structure,
    lifted_structure,
    margin_loss,
    multi_similarity,
    n_pair,
    nca,
    ranked_list,
    soft_nearest_neighbor,
    triplet,
    tuplet_margin,
)
from fastssl.functional.multimodal import clip_loss, siglip_loss
from fastssl.functional.noise import nce, negative_sampling
from fastssl.functional.proxy import arc_face, cos_face, normalized_softmax, proxy_anchor, proxy_nca
from fastssl.functional.redundancy import (
    barlow_twins,
    centred_softmax,
    dino,
    gaussian_information,
    negative_cosine_similarity,
    sinkhorn,
    swapped_prediction,
    vicreg,
)

__all__ = [
    "PairMasks",
    "alignment",
    "angular",
    "arc_face",
    "barlow_twins",
    "box_iou",
    "centred_softmax",
    "circle",
    "clip_loss",
    "contrastive",
    "cos_face",
    "dcl",
    "debiased_nt_xent",
    "dino",
    "farthest",
    "fast_ap",
    "gaussian_information",
    "generalized_box_iou",
    "generalized_lifted_structure",
    "gibbs",
    "hard_negative_nt_xent",
    "info_nce",
    "koleo",
    "lejepa",
    "lifted_structure",
    "linear_cross_entropy",
    "margin_loss",
    "mil_nce",
    "multi_nt_xent",
    "multi_similarity",
    "n_pair",
    "nade",
    "nade_sample",
    "nca",
    "nce",
    "nearest",
    "negative_cosine_similarity",
    "negative_sampling",
    "nms",
    "normalized_softmax",
    "nt_xent",
    "pair_loss",
    "pairwise_distance",
    "pairwise_reduce",
    "proxy_anchor",
    "proxy_nca",
    "ranked_list",
    "rince",
    "siglip_loss",
    "sigreg",
    "sincere",
    "sinkhorn",
    "soft_nearest_neighbor",
    "sup_con",
    "swapped_prediction",
    "triplet",
    "tuplet_margin",
    "uniformity",
    "vicreg",
]

complete(
    (globals()[name] for name in __all__ if name != "PairMasks"), _docs.ARGUMENTS, _docs.ERRORS, returns=_docs.returns
)
