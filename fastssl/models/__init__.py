"""Encoders, language models, heads, momentum encoders, queues and memory banks."""

from fastssl.functional._cpu import faster_dropout
from fastssl.models.audio import build_audio
from fastssl.models.convolutional import MLP, PatchCNN, SmallEfficientNet
from fastssl.models.cpu_operations import FasterCpuOperations
from fastssl.models.dense import SEGMENTATION_HEADS, FCNHead, HypercolumnHead, LinearHead, feature_maps
from fastssl.models.density import DensityNetwork, LogLikelihood, row_keys
from fastssl.models.detector import FCOSHead, detect, fcos_loss
from fastssl.models.encoders import ENCODERS, Encoder, as_encoder, build_encoder
from fastssl.models.generation import generate, generate_target
from fastssl.models.heads import DINOHead, prediction_head, projection_head
from fastssl.models.igpt import ImageGPTNetwork
from fastssl.models.kmeans import kmeans, pca_whiten
from fastssl.models.lab import LabNetwork
from fastssl.models.language import LanguageModel, Transformer, as_language, build_language
from fastssl.models.libraries import LIBRARIES, Backbone
from fastssl.models.memory import EmbeddingQueue, MemoryBank, Prototypes, TargetNetwork
from fastssl.models.nade import NADENetwork
from fastssl.models.permutations import hamming, permutations
from fastssl.models.pixel_rnn import PixelRNNNetwork
from fastssl.models.pixels import PixelCNNNetwork, PixelNetwork
from fastssl.models.raster import RasterNetwork
from fastssl.models.rbm import RBMNetwork, RestrictedBoltzmannMachine
from fastssl.models.recurrent import RecurrentNetwork
from fastssl.models.resnet import ResNet, SmallResNet
from fastssl.models.samples import Samples
from fastssl.models.signal import SignalEncoder
from fastssl.models.text import TextTransformer, tokenize
from fastssl.models.text_towers import HuggingFaceText
from fastssl.models.vit import ViT
from fastssl.models.wave import WaveNetNetwork
from fastssl.models.wave_rnn import WaveRNNNetwork
from fastssl.models.word_vectors import UnknownWordError, WordVectors

__all__ = [
    "ENCODERS",
    "LIBRARIES",
    "MLP",
    "SEGMENTATION_HEADS",
    "Backbone",
    "DINOHead",
    "DensityNetwork",
    "EmbeddingQueue",
    "Encoder",
    "FCNHead",
    "FCOSHead",
    "FasterCpuOperations",
    "HuggingFaceText",
    "HypercolumnHead",
    "ImageGPTNetwork",
    "LabNetwork",
    "LanguageModel",
    "LinearHead",
    "LogLikelihood",
    "MemoryBank",
    "NADENetwork",
    "PatchCNN",
    "PixelCNNNetwork",
    "PixelNetwork",
    "PixelRNNNetwork",
    "Prototypes",
    "RBMNetwork",
    "RasterNetwork",
    "RecurrentNetwork",
    "ResNet",
    "RestrictedBoltzmannMachine",
    "Samples",
    "SignalEncoder",
    "SmallEfficientNet",
    "SmallResNet",
    "TargetNetwork",
    "TextTransformer",
    "Transformer",
    "UnknownWordError",
    "ViT",
    "WaveNetNetwork",
    "WaveRNNNetwork",
    "WordVectors",
    "as_encoder",
    "as_language",
    "build_audio",
    "build_encoder",
    "build_language",
    "detect",
    "faster_dropout",
    "fcos_loss",
    "feature_maps",
    "generate",
    "generate_target",
    "hamming",
    "kmeans",
    "pca_whiten",
    "permutations",
    "prediction_head",
    "projection_head",
    "row_keys",
    "tokenize",
]
