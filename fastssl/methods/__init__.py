"""Methods by name, one file per method: examples, networks and a loss."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from torch import nn

from fastssl.methods.align import ALIGN
from fastssl.methods.amdim import AMDIM
from fastssl.methods.audio import AudioMethod
from fastssl.methods.audio_distribution import AudioDistribution
from fastssl.methods.barlow_twins import BarlowTwins
from fastssl.methods.bart import BART
from fastssl.methods.base import Method
from fastssl.methods.bert import BERT
from fastssl.methods.bigan import BiGAN
from fastssl.methods.bilm import BiLM
from fastssl.methods.byol import BYOL
from fastssl.methods.clip import CLIP
from fastssl.methods.cmc import CMC
from fastssl.methods.color_proxy import ColorProxy
from fastssl.methods.colorization import Colorization
from fastssl.methods.context_encoder import ContextEncoder
from fastssl.methods.counting import Counting
from fastssl.methods.cpc import CPC
from fastssl.methods.cpc_signal import CPCSignal
from fastssl.methods.deep_cluster import DeepCluster
from fastssl.methods.denoising import Denoising
from fastssl.methods.density import DensityMethod
from fastssl.methods.dino import DINO
from fastssl.methods.egomotion import Egomotion
from fastssl.methods.electra import ELECTRA
from fastssl.methods.gpt import GPT
from fastssl.methods.i_jepa import IJEPA
from fastssl.methods.ibot import IBOT
from fastssl.methods.igpt import IGPT
from fastssl.methods.image import ImageMethod
from fastssl.methods.imax import IMAX
from fastssl.methods.inter_clr import InterCLR
from fastssl.methods.jigsaw import Jigsaw
from fastssl.methods.lejepa import LeJEPA
from fastssl.methods.mae import MAE
from fastssl.methods.masked import Masked
from fastssl.methods.moco import MoCo
from fastssl.methods.moco_v3 import MoCoV3
from fastssl.methods.nade import NADE
from fastssl.methods.nat import NAT
from fastssl.methods.nnclr import NNCLR
from fastssl.methods.pixelcnn import PixelCNN
from fastssl.methods.pixelrnn import PixelRNN
from fastssl.methods.quick_thoughts import QuickThoughts
from fastssl.methods.rbm import RBM
from fastssl.methods.relative_patch import RelativePatch
from fastssl.methods.rotnet import RotNet
from fastssl.methods.sentence import SentenceMethod
from fastssl.methods.siglip import SigLIP
from fastssl.methods.sim_cse import SimCSE
from fastssl.methods.simclr import SimCLR
from fastssl.methods.simsiam import SimSiam
from fastssl.methods.skip_thoughts import SkipThoughts
from fastssl.methods.split_brain import SplitBrain
from fastssl.methods.stacked_denoising import StackedDenoising
from fastssl.methods.sup_con import SupCon
from fastssl.methods.swav import SwAV
from fastssl.methods.t5 import T5
from fastssl.methods.text import TextMethod
from fastssl.methods.tracking import Tracking
from fastssl.methods.transformation import Transformation
from fastssl.methods.vicreg import VICReg
from fastssl.methods.wavenet import WaveNet
from fastssl.methods.wavernn import WaveRNN
from fastssl.methods.word2vec import Word2Vec, WordProgress, load_word_vectors
from fastssl.methods.xlnet import XLNet
from fastssl.models import Encoder

# Methods of the command line, besides Word2Vec, which trains by itself.
METHODS: dict[str, type[Method]] = {
    "simclr": SimCLR,
    "moco": MoCo,
    "moco-v3": MoCoV3,
    "nnclr": NNCLR,
    "byol": BYOL,
    "simsiam": SimSiam,
    "dino": DINO,
    "ibot": IBOT,
    "i-jepa": IJEPA,
    "barlow-twins": BarlowTwins,
    "vicreg": VICReg,
    "lejepa": LeJEPA,
    "sup-con": SupCon,
    "swav": SwAV,
    "deep-cluster": DeepCluster,
    "inter-clr": InterCLR,
    "nat": NAT,
    "cpc": CPC,
    "cpc-signal": CPCSignal,
    "amdim": AMDIM,
    "cmc": CMC,
    "clip": CLIP,
    "align": ALIGN,
    "siglip": SigLIP,
    "rotnet": RotNet,
    "relative-patch": RelativePatch,
    "jigsaw": Jigsaw,
    "counting": Counting,
    "colorization": Colorization,
    "color-proxy": ColorProxy,
    "split-brain": SplitBrain,
    "transformation": Transformation,
    "egomotion": Egomotion,
    "tracking": Tracking,
    "denoising": Denoising,
    "stacked-denoising": StackedDenoising,
    "masked": Masked,
    "context-encoder": ContextEncoder,
    "bigan": BiGAN,
    "mae": MAE,
    "imax": IMAX,
    "rbm": RBM,
    "nade": NADE,
    "pixelcnn": PixelCNN,
    "pixelrnn": PixelRNN,
    "igpt": IGPT,
    "bert": BERT,
    "electra": ELECTRA,
    "xlnet": XLNet,
    "gpt": GPT,
    "bilm": BiLM,
    "t5": T5,
    "bart": BART,
    "skip-thoughts": SkipThoughts,
    "quick-thoughts": QuickThoughts,
    "sim-cse": SimCSE,
    "wavenet": WaveNet,
    "wavernn": WaveRNN,
}


# Methods that are options of others.
VARIANTS = {
    "roberta": "bert with order=None (--order none)",
    "albert": "bert with order='swapped' (--order swapped)",
    "pegasus": "t5 with objective='sentences' (--objective sentences)",
}


def methods_of(field: str) -> dict[str, type[Method]]:
    """The methods that read a field of items: "images", "tokens", "text", "label".

    Example:
        >>> from fastssl.methods import methods_of
        >>> list(methods_of("tokens"))
        ['bert', 'electra', 'xlnet', 'gpt', 'bilm', 't5', 'bart', 'skip-thoughts', 'quick-thoughts', 'sim-cse']
    """
    return {name: kind for name, kind in METHODS.items() if field in kind.needs}


BASES: dict[str, type[Method]] = {"image": ImageMethod, "text": TextMethod, "audio": AudioMethod}


def base_of(method: Method) -> str | None:
    """The kind of a method, by the class that it derives from: "image" (or with an encoder of images), "text" or
    "audio"; None: another."""
    if isinstance(getattr(method, "encoder", None), Encoder):
        return "image"
    return next((name for name, base in BASES.items() if isinstance(method, base)), None)


def kind_of(state: Mapping[str, Any]) -> type[Method]:
    """The class of a run's method, from the state of its checkpoint; for one that is not FastSSL's own the base class
    that it derives from. Checkpoints of earlier versions do not record that: theirs counts as one of images."""
    if state["method"] in METHODS:
        return METHODS[state["method"]]
    return BASES.get(state.get("base", "image"), Method)


def get(name: str) -> type[Method]:
    """Returns the class of a method.

    Raises:
        ValueError: unknown name.

    Example:
        >>> from fastssl import methods
        >>> from fastssl.models import build_encoder
        >>> method = methods.get("byol")(build_encoder({"name": "resnet", "size": 32, "width": 8}))
    """
    if name == Word2Vec.name:
        raise ValueError("method: word2vec trains by itself: fastssl.methods.Word2Vec().fit(corpus, out=...)")
    if name not in METHODS:
        near = difflib.get_close_matches(name, [*METHODS, Word2Vec.name], 1)
        hint = f"; it is {VARIANTS[name]}" if name in VARIANTS else f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"method: expected one of {', '.join([*METHODS, Word2Vec.name])}, got {name!r}{hint}")
    return METHODS[name]


def image_method(name: str) -> type[ImageMethod]:
    """The class of a method of images.

    Raises:
        ValueError: unknown name, or a method of something else.
    """
    kind = get(name)
    if not issubclass(kind, ImageMethod):
        raise ValueError(f"method: expected one of images, {name} takes {', '.join(kind.needs)}")
    return kind


def name_of(method: nn.Module) -> str:
    """The registered name of a method's class; the class name for a custom method."""
    return next((name for name, kind in METHODS.items() if type(method) is kind), type(method).__name__)


__all__ = [
    "ALIGN",
    "AMDIM",
    "BART",
    "BERT",
    "BYOL",
    "CLIP",
    "CMC",
    "CPC",
    "DINO",
    "ELECTRA",
    "GPT",
    "IBOT",
    "IGPT",
    "IJEPA",
    "IMAX",
    "MAE",
    "METHODS",
    "NADE",
    "NAT",
    "NNCLR",
    "RBM",
    "T5",
    "AudioDistribution",
    "AudioMethod",
    "BarlowTwins",
    "BiGAN",
    "BiLM",
    "CPCSignal",
    "ColorProxy",
    "Colorization",
    "ContextEncoder",
    "Counting",
    "DeepCluster",
    "Denoising",
    "DensityMethod",
    "Egomotion",
    "ImageMethod",
    "InterCLR",
    "Jigsaw",
    "LeJEPA",
    "Masked",
    "Method",
    "MoCo",
    "MoCoV3",
    "PixelCNN",
    "PixelRNN",
    "QuickThoughts",
    "RelativePatch",
    "RotNet",
    "SentenceMethod",
    "SigLIP",
    "SimCLR",
    "SimCSE",
    "SimSiam",
    "SplitBrain",
    "StackedDenoising",
    "SupCon",
    "SwAV",
    "TextMethod",
    "Tracking",
    "Transformation",
    "VICReg",
    "WaveNet",
    "WaveRNN",
    "Word2Vec",
    "WordProgress",
    "XLNet",
    "get",
    "image_method",
    "load_word_vectors",
    "methods_of",
    "name_of",
]
