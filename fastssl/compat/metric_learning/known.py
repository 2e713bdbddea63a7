"""The attributes of pytorch-metric-learning's objects that kernels know, and from how many rows on they run."""

from __future__ import annotations

from torch import nn

from fastssl.compat._peer import Check, Peer, default
from fastssl.compat._sizes import HISTOGRAMS, MASKED_MATRICES, PAIRS_OF_PAIRS, TRIPLETS

_RECORDS = ("collect_stats", "_record_these")
_LOSS = (*_RECORDS, "embedding_regularizer", "embedding_reg_weight", "distance", "reducer")
_PAIRS = (*_LOSS, "loss_method")
_WEIGHTED = (*_LOSS, "weight_regularizer", "weight_reg_weight", "weight_init_func", "num_classes")
_MINER = (*_RECORDS, "distance", "num_pos_pairs", "num_neg_pairs", "num_triplets")
_DISTANCE = (*_RECORDS, "normalize_embeddings", "p", "power", "is_inverted")


def _any(*names: str) -> dict[str, Check]:
    return dict.fromkeys(names)


_CROSS_ENTROPY: dict[str, Check] = {"cross_entropy": default(lambda: nn.CrossEntropyLoss(reduction="none"))}
KNOWN: dict[str, dict[str, Check]] = {
    "AngularLoss": _any(*_LOSS, "alpha"),
    "ArcFaceLoss": {**_any(*_WEIGHTED, "W", "margin", "scale"), **_CROSS_ENTROPY},
    "CircleLoss": {
        **_any(*_PAIRS, "m", "gamma", "op", "on", "delta_p", "delta_n"),
        "soft_plus": default(lambda: nn.Softplus(beta=1)),
    },
    "ContrastiveLoss": _any(*_PAIRS, "pos_margin", "neg_margin"),
    "CosFaceLoss": {**_any(*_WEIGHTED, "W", "margin", "scale"), **_CROSS_ENTROPY},
    "FastAPLoss": _any(*_LOSS, "num_bins", "num_edges"),
    "GeneralizedLiftedStructureLoss": _any(*_PAIRS, "pos_margin", "neg_margin"),
    "HistogramLoss": _any(*_LOSS, "delta"),
    "LiftedStructureLoss": _any(*_PAIRS, "pos_margin", "neg_margin"),
    "MarginLoss": _any(*_LOSS, "margin", "nu", "learn_beta", "beta", "triplets_per_anchor"),
    "MultiSimilarityLoss": _any(*_PAIRS, "alpha", "beta", "base"),
    "NCALoss": _any(*_LOSS, "softmax_scale"),
    "NTXentLoss": _any(*_PAIRS, "temperature"),
    "NormalizedSoftmaxLoss": {**_any(*_WEIGHTED, "W", "temperature", "embedding_size"), **_CROSS_ENTROPY},
    "PNPLoss": _any(*_LOSS, "b", "alpha", "anneal", "variant"),
    "ProxyAnchorLoss": _any(*_WEIGHTED, "proxies", "margin", "alpha"),
    "ProxyNCALoss": _any(*_WEIGHTED, "proxies", "softmax_scale", "proxy_labels"),
    "RankedListLoss": _any(*_LOSS, "margin", "imbalance", "alpha", "Tp", "Tn"),
    "SmoothAPLoss": _any(*_LOSS, "temperature"),
    "SupConLoss": _any(*_PAIRS, "temperature"),
    "ThresholdConsistentMarginLoss": _any(*_LOSS, "lambda_plus", "lambda_minus", "margin_plus", "margin_minus"),
    "TripletMarginLoss": _any(*_LOSS, "margin", "swap", "smooth_loss", "triplets_per_anchor"),
    "TupletMarginLoss": _any(*_PAIRS, "margin", "scale"),
    "VICRegLoss": _any(*_LOSS, "invariance_lambda", "variance_mu", "covariance_v", "eps"),
    "AngularMiner": _any(
        *(*_MINER, "angle", "average_angle", "average_angle_above_threshold", "average_angle_below_threshold"),
        *("min_angle", "max_angle", "std_of_angle"),
    ),
    **dict.fromkeys(
        ("BatchEasyHardMiner", "BatchHardMiner"),
        _any(
            *(*_MINER, "pos_strategy", "neg_strategy", "allowed_pos_range", "allowed_neg_range"),
            *(f"{how}_{what}" for how in ("easiest", "hardest") for what in ("triplet", "pos_pair", "neg_pair")),
        ),
    ),
    "PairMarginMiner": _any(*_MINER, "pos_margin", "neg_margin", "pos_pair_dist", "neg_pair_dist"),
    "TripletMarginMiner": _any(
        *(*_MINER, "margin", "type_of_triplets", "avg_triplet_margin", "pos_pair_dist", "neg_pair_dist")
    ),
    "CosineSimilarity": _any(*_DISTANCE),
    "DotProductSimilarity": _any(*_DISTANCE),
    "LpDistance": _any(*_DISTANCE),
    "AvgNonZeroReducer": _any(*_RECORDS, "low", "high"),
    "ClassWeightedReducer": _any(*_RECORDS, "weights"),
    "DivisorReducer": _any(*_RECORDS, "divisor"),
    "MeanReducer": _any(*_RECORDS),
    "MultipleReducers": _any(*_RECORDS, "reducers", "default_reducer"),
    "SumReducer": _any(*_RECORDS),
    "ThresholdReducer": _any(*_RECORDS, "low", "high"),
}
PEER = Peer("pytorch_metric_learning", "pytorch-metric-learning", "2.5", "3", KNOWN)
BY_MATRIX = ("CircleLoss", "GeneralizedLiftedStructureLoss", "MultiSimilarityLoss", "SupConLoss")
MIN_ROWS = {
    **dict.fromkeys(("LiftedStructureLoss", "NTXentLoss", "TupletMarginLoss"), PAIRS_OF_PAIRS),
    **dict.fromkeys(
        (
            *("AngularLoss", "HistogramLoss", "MarginLoss", "PNPLoss", "SmoothAPLoss"),
            *("ThresholdConsistentMarginLoss", "TripletMarginLoss"),
        ),
        TRIPLETS,
    ),
    **dict.fromkeys(("MultiSimilarityLoss", "SupConLoss"), MASKED_MATRICES),
    "FastAPLoss": HISTOGRAMS,
}
# Rows from which on kernels of a CPU take less processor time than the original (and the call that finds them too few).
ROWS_ON_CPU = {
    **dict.fromkeys(("AngularLoss", "NCALoss"), 128),
    "ContrastiveLoss": 96,
    **dict.fromkeys(
        ("CircleLoss", "GeneralizedLiftedStructureLoss", "PNPLoss", "SupConLoss", "ThresholdConsistentMarginLoss"), 48
    ),
    **dict.fromkeys(
        ("MarginLoss", "MultiSimilarityLoss", "RankedListLoss", "TripletMarginLoss", "TripletMarginMiner"), 32
    ),
    "AngularMiner": 24,
}
OF_CLASSES = ("ArcFaceLoss", "CosFaceLoss", "NormalizedSoftmaxLoss", "ProxyNCALoss")
