"""Downstream evaluation of frozen encoders."""

from fastssl.evaluate.features import encode, pixels
from fastssl.evaluate.measures import (
    alignment,
    knn_accuracy,
    linear_probe,
    low_shot,
    recall_at_1,
    uniformity,
)
from fastssl.evaluate.report import evaluate, evaluate_digits, evaluate_emoji

__all__ = [
    "alignment",
    "encode",
    "evaluate",
    "evaluate_digits",
    "evaluate_emoji",
    "knn_accuracy",
    "linear_probe",
    "low_shot",
    "pixels",
    "recall_at_1",
    "uniformity",
]
