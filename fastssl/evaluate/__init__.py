"""Downstream evaluation of frozen encoders."""

from fastssl.evaluate.features import encode, pixels
from fastssl.evaluate.measures import (
    alignment,
    clustering_scores,
    feature_spread,
    knn_accuracy,
    linear_probe,
    low_shot,
    rank_me,
    recall_at_1,
    retrieval_scores,
    uniformity,
)
from fastssl.evaluate.report import evaluate, evaluate_digits, evaluate_emoji
from fastssl.models.kmeans import kmeans

__all__ = [
    "alignment",
    "clustering_scores",
    "encode",
    "evaluate",
    "evaluate_digits",
    "evaluate_emoji",
    "feature_spread",
    "kmeans",
    "knn_accuracy",
    "linear_probe",
    "low_shot",
    "pixels",
    "rank_me",
    "recall_at_1",
    "retrieval_scores",
    "uniformity",
]
