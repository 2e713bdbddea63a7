"""Downstream evaluation: frozen and fine-tuned encoders, and baselines."""

from fastssl.evaluate.audio import evaluate_audio
from fastssl.evaluate.audio_features import embed_audio
from fastssl.evaluate.coco_results import CocoResults
from fastssl.evaluate.compare_texts import compare_answers, compare_tags, compare_translation
from fastssl.evaluate.dense import DenseTuning
from fastssl.evaluate.dense_protocol import Start, compare_dense, starts_of
from fastssl.evaluate.density import evaluate_density, mixture_nats
from fastssl.evaluate.detection import Detection
from fastssl.evaluate.detection_metrics import coco_ap, voc_ap
from fastssl.evaluate.embedding import embed
from fastssl.evaluate.feature_files import FeatureFile, read_features
from fastssl.evaluate.features import encode, pixels
from fastssl.evaluate.finetune import FineTuning, finetune, supervised_encoder
from fastssl.evaluate.finetune_answers import finetune_answers
from fastssl.evaluate.finetune_tags import finetune_tags
from fastssl.evaluate.finetune_text import TextFineTuning, finetune_text
from fastssl.evaluate.image_text import image_text_retrieval
from fastssl.evaluate.language import evaluate_language
from fastssl.evaluate.layers import layer_features
from fastssl.evaluate.linear import few_labels, linear_probe, low_shot
from fastssl.evaluate.measures import (
    alignment,
    clustering_scores,
    feature_spread,
    knn_accuracy,
    rank_me,
    uniformity,
)
from fastssl.evaluate.metrics import METRICS, eleven_point_map, f1, matthews, mean_per_class, pearson, spearman, top_1
from fastssl.evaluate.overlap import TextScores, rouge_l, text_scores
from fastssl.evaluate.protocols import PROTOCOLS, evaluate_with
from fastssl.evaluate.regression import knn_regression, regression_scores, ridge_probe
from fastssl.evaluate.report import evaluate, evaluate_digits, evaluate_emoji, evaluate_splits
from fastssl.evaluate.retrieval import recall_at, retrieval_scores
from fastssl.evaluate.segmentation import Segmentation
from fastssl.evaluate.segmentation_metrics import boundary_f, confusion_matrix, mean_iou, pixel_accuracy
from fastssl.evaluate.sentences import next_sentence
from fastssl.evaluate.stereograms import disparity_correlation
from fastssl.evaluate.text_features import embed_texts
from fastssl.evaluate.text_labels import few_text_labels
from fastssl.evaluate.translation import TranslationTuning, finetune_translation
from fastssl.evaluate.whitening import whitening
from fastssl.evaluate.words import gloss_classes, mean_vectors, word_analogies, word_similarity
from fastssl.evaluate.zero_shot import PROMPTS, class_embeddings, zero_shot
from fastssl.models.kmeans import kmeans

__all__ = [
    "METRICS",
    "PROMPTS",
    "PROTOCOLS",
    "CocoResults",
    "DenseTuning",
    "Detection",
    "FeatureFile",
    "FineTuning",
    "Segmentation",
    "Start",
    "TextFineTuning",
    "TextScores",
    "TranslationTuning",
    "alignment",
    "boundary_f",
    "class_embeddings",
    "clustering_scores",
    "coco_ap",
    "compare_answers",
    "compare_dense",
    "compare_tags",
    "compare_translation",
    "confusion_matrix",
    "disparity_correlation",
    "eleven_point_map",
    "embed",
    "embed_audio",
    "embed_texts",
    "encode",
    "evaluate",
    "evaluate_audio",
    "evaluate_density",
    "evaluate_digits",
    "evaluate_emoji",
    "evaluate_language",
    "evaluate_splits",
    "evaluate_with",
    "f1",
    "feature_spread",
    "few_labels",
    "few_text_labels",
    "finetune",
    "finetune_answers",
    "finetune_tags",
    "finetune_text",
    "finetune_translation",
    "gloss_classes",
    "image_text_retrieval",
    "kmeans",
    "knn_accuracy",
    "knn_regression",
    "layer_features",
    "linear_probe",
    "low_shot",
    "matthews",
    "mean_iou",
    "mean_per_class",
    "mean_vectors",
    "mixture_nats",
    "next_sentence",
    "pearson",
    "pixel_accuracy",
    "pixels",
    "rank_me",
    "read_features",
    "recall_at",
    "regression_scores",
    "retrieval_scores",
    "ridge_probe",
    "rouge_l",
    "spearman",
    "starts_of",
    "supervised_encoder",
    "text_scores",
    "top_1",
    "uniformity",
    "voc_ap",
    "whitening",
    "word_analogies",
    "word_similarity",
    "zero_shot",
]
