"""A small corpus, its tokens, and small networks of language methods."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fastssl.data import Corpus, TokenFile, Tokenizer, tokenize_corpus
from fastssl.methods import TextMethod, get, methods_of
from fastssl.models import LanguageModel, build_language
from fastssl.models.architectures import CAUSAL, MASKED
from fastssl.models.language import OWN
from fastssl.train.language import network_options

WORDS = (
    *("the", "state", "of", "union", "is", "strong", "and", "people", "have", "met", "here", "to", "speak", "about"),
    *("peace", "war", "trade", "law", "money", "land"),
)
# Each method on each of its networks; without the extra, on our own.
ALL_NETWORKS = [
    (name, network)
    for name, kind in methods_of("tokens").items()
    for network in kind.networks  # type: ignore[attr-defined]
    if network in OWN or (importlib.util.find_spec("transformers") and network != "mpnet")  # whose padding is token 1
]
ALIKE = (
    *MASKED[1:],
    *CAUSAL[2:],
)  # which differ from "roberta" or "llama" in what ``LanguageModel`` takes from them alone
SUBJECT_NETWORKS = [(name, network) for name, network in ALL_NETWORKS if network not in ALIKE]
SHAPE = {"width": 16, "depth": 1, "heads": 2, "length": 32}


def corpus(documents: int = 12, sentences: int = 6) -> Corpus:
    """Random sentences of a few words; the second half of each repeats the first: there is something to learn."""
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(documents):
        made = []
        for _ in range(sentences):
            half = [WORDS[k] for k in rng.integers(0, len(WORDS), 3)]
            made.append(" ".join([*half, *half]).capitalize() + ".")
        texts.append(" ".join(made))
    return Corpus(texts, "toy")


def tokens(documents: int = 12, tokenizer: Tokenizer | None = None) -> TokenFile:
    """The corpus in bytes, or in the tokens of ``tokenizer``."""
    return tokenize_corpus(corpus(documents), tokenizer or Tokenizer(), Path(tempfile.mkdtemp()) / "toy.tok")


def method_of(name: str, network: str | None = None, tokenizer: Tokenizer | None = None, **options: Any) -> TextMethod:
    """A method on a small network with random weights."""
    import torch

    kind: Any = get(name)
    torch.manual_seed(0)
    tokenizer = tokenizer or Tokenizer()
    shape = {**SHAPE, **({} if network is None else {"name": network})}
    if name == "bert" and network in MASKED:
        options = {"order": None, **options}
    made: TextMethod = kind(build_language(network_options(kind, shape, tokenizer)), tokenizer, **options)
    return made


def network_of(name: str, network: str, seed: int = 0) -> LanguageModel:
    """The network of a method for bytes, with random weights of a seed."""
    import torch

    torch.manual_seed(seed)
    return build_language(network_options(get(name), {**SHAPE, "name": network}, Tokenizer()))
