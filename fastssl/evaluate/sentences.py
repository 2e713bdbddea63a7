"""Sentence encoders on held-out text: which of 100 sentences follows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl.data.windows import Windows
from fastssl.evaluate.features import progress_bar
from fastssl.methods.sentence import SentenceMethod
from fastssl.models.language import build_language
from fastssl.models.modes import evaluation_mode
from fastssl.ops.draws import drawing_apart

CANDIDATES = 100
_ROWS = 256


def next_sentence(method: SentenceMethod, held_out: Windows, most: int = 20_000) -> dict[str, dict[str, float]]:
    """How often the next sentence is the nearest of 100, in percent: by the method's two embeddings, by the mean state
    of a random network, and by TF-IDF.

    The candidates are the second sentences of 100 pairs drawn at random, the right one among them.

    Args:
        method: the pretrained method.
        held_out: windows of any kind that it was not trained on; the pairs of sentences in their span are scored.
        most: number of pairs at most.

    Raises:
        ValueError: fewer than 100 pairs.

    Returns:
        "next sentence of 100" -> row -> percent.

    Example:
        >>> import tempfile
        >>> from fastssl.data import Corpus, Tokenizer, tokenize_corpus
        >>> from fastssl.evaluate import next_sentence
        >>> from fastssl.methods import QuickThoughts
        >>> from fastssl.models import build_language
        >>> texts = [f"Here is {k}. There is {k}." for k in range(200)]
        >>> file = tokenize_corpus(Corpus(texts), Tokenizer(), tempfile.mkdtemp() + "/a.tok")
        >>> network = {"name": "transformer", "vocabulary": 261, "width": 16, "depth": 1, "length": 24, "causal": False}
        >>> method = QuickThoughts(build_language(network), Tokenizer())
        >>> next_sentence(method, method.prepare(file))["next sentence of 100"]["chance"]
        1.0
    """
    pairs = Windows(held_out.file, method.length, (held_out.start, held_out.stop), "pair")
    if len(pairs) < CANDIDATES:
        raise ValueError(
            f"data: expected at least {CANDIDATES} pairs of consecutive sentences, got {len(pairs)}; --data names more "
            "texts, which were not trained on"
        )
    order = np.random.default_rng(0).permutation(len(pairs))[:most]
    order = order[: len(order) // CANDIDATES * CANDIDATES]
    windows = [item.tokens for item in pairs.items(order)]
    texts = [np.split(window.ids, window.sentences[1:]) for window in windows]
    random = copy.deepcopy(method)
    with drawing_apart():
        torch.manual_seed(0)
        random.network = build_language(method.network.options).to(next(method.parameters()).device)
    heads: Any = random.projections
    for head in heads:
        head.load_state_dict({"weight": torch.eye(*head.weight.shape), "bias": torch.zeros_like(head.bias)})
    words = [[method.tokenizer.decode(ids) for ids in sides] for sides in texts]
    ways = {"pretrained": _embedded(method, texts), "random network": _embedded(random, texts)}
    table = {name: _right(score, len(texts)) for name, score in {**ways, "TF-IDF": _tf_idf(words)}.items()}
    return {f"next sentence of {CANDIDATES}": {**table, "chance": 100 / CANDIDATES}}


def _right(score: Callable[[slice], Tensor], count: int) -> float:
    """How often the own second sentence has the highest score among those of its group."""
    right = 0
    for at in range(0, count, CANDIDATES):
        right += int((score(slice(at, at + CANDIDATES)).argmax(1) == torch.arange(CANDIDATES)).sum())
    return 100 * right / count


@torch.no_grad()
def _embedded(method: SentenceMethod, texts: list[list[np.ndarray]]) -> Callable[[slice], Tensor]:
    device = next(method.parameters()).device
    parts = []
    with evaluation_mode(method), progress_bar("sentences") as show:
        for at in range(0, len(texts), _ROWS):
            some = texts[at : at + _ROWS]
            sides = (method.sentences([pair[k] for pair in some]).to(device) for k in range(2))
            parts.append(torch.stack(method.represent(*sides)).float().cpu())
            show(at + len(some), len(texts))
    first, second = torch.nn.functional.normalize(torch.cat(parts, 1), dim=2)
    return lambda rows: first[rows] @ second[rows].T


def _tf_idf(words: list[list[str]]) -> Callable[[slice], Tensor]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    known = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    known.fit([text for pair in words for text in pair])
    first, second = (known.transform([pair[k] for pair in words]) for k in range(2))
    return lambda rows: torch.from_numpy((first[rows] @ second[rows].T).toarray())
