"""Language models on held-out text, beside a unigram model and a compressor."""

from __future__ import annotations

import itertools
import lzma
import math
from collections.abc import Iterator

import numpy as np
import torch

import fastssl.functional as F
from fastssl.data import TokenBatch
from fastssl.data.batch import map_tensors
from fastssl.data.windows import Windows
from fastssl.evaluate.features import progress_bar
from fastssl.methods import TextMethod
from fastssl.models.modes import evaluation_mode

EXAMPLES = 64  # batches of examples whose sentinels are counted

ROWS, STRIP = 32, 1024  # windows per batch, rows of scores at a time


def evaluate_language(
    method: TextMethod, held_out: Windows, training: Windows | None = None
) -> dict[str, dict[str, float]]:
    """Scores of a language method on windows that it was not trained on.

    Autoregressive methods: bits per byte (of the text as the tokenizer restores it: one that drops or changes
    characters codes less) and perplexity per token of the text, beside a unigram model of the training
    tokens, and bits per byte of xz, primed with the training text. Other methods: perplexity of the tokens that are
    predicted. All: accuracy of the predicted tokens, in percent, beside the most frequent token.

    Args:
        method: the pretrained method.
        held_out: the windows to score.
        training: the windows that it was trained on; None: of a model that others have trained, which stands alone.

    Raises:
        ValueError: a token for which a model that others have trained has no embedding.

    Example:
        >>> import tempfile
        >>> from fastssl.data import Corpus, Tokenizer, tokenize_corpus
        >>> from fastssl.evaluate import evaluate_language
        >>> from fastssl.methods import GPT
        >>> from fastssl.models import build_language
        >>> file = tokenize_corpus(Corpus(["A rose is a rose."] * 40), Tokenizer(), tempfile.mkdtemp() + "/a.tok")
        >>> network = {"name": "transformer", "vocabulary": 261, "width": 16, "depth": 1, "length": 32}
        >>> method = GPT(build_language(network), Tokenizer())
        >>> training, held_out = (method.prepare(file, span) for span in file.divide(0.1))
        >>> table = evaluate_language(method, held_out, training)
        >>> table["bits per byte"]["pretrained"] > table["bits per byte"]["unigram"]
        True
    """
    counts = None if training is None else _token_counts(method, training)
    known = None if counts is None else (-np.log(counts / counts.sum()), int(counts.argmax()))
    totals = {"nats": 0.0, "right": 0.0, "unigram": 0.0, "frequent": 0.0, "terms": 0.0}
    pairs = [0, 0]
    device = next(method.parameters()).device
    weight, bias = method.head()
    if method.network.added:  # embeddings that were never trained would share in every probability
        there = len(weight) - method.network.added
        weight, bias = weight[:there], None if bias is None else bias[:there]
    with evaluation_mode(method), torch.no_grad():
        for batch in _batches(method, held_out):
            batch = map_tensors(lambda part: part.to(device), batch)
            hidden = method.hidden(batch)
            rows, wanted = method.rows(hidden, batch.targets)
            targets = wanted.cpu().numpy()
            if targets.max(initial=0) >= len(weight):
                unknown = method.tokenizer.text_of(int(targets.max()))
                raise ValueError(f"held_out: expected tokens that the model knows, got {unknown}, which it lacks")
            totals["nats"] += float(F.linear_cross_entropy(rows, weight, wanted, bias, reduction="sum"))
            for some, right in zip(rows.split(STRIP), wanted.split(STRIP)):
                logits = some @ weight.T if bias is None else some @ weight.T + bias
                totals["right"] += float((logits.argmax(1) == right).sum())
            if known is not None:
                unigram, frequent = known
                totals["unigram"] += float(unigram[targets].sum())
                totals["frequent"] += float((targets == frequent).sum())
            totals["terms"] += len(targets)
            if batch.labels is not None:
                pairs[0] += int((method.network.order(hidden).argmax(1) == batch.labels).sum())
                pairs[1] += len(batch.labels)
    terms = max(totals["terms"], 1)
    table = {
        "perplexity": {"pretrained": math.exp(totals["nats"] / terms)},
        "accuracy": {"pretrained": 100 * totals["right"] / terms},
    }
    if known is not None:
        table["perplexity"]["unigram"] = math.exp(totals["unigram"] / terms)
        table["accuracy"]["unigram"] = 100 * totals["frequent"] / terms
    if pairs[1]:
        table["order"] = {"pretrained": 100 * pairs[0] / pairs[1], "chance": 50.0}
    if method.whole != "stream":
        return table
    size = len(_text(held_out)) + 1  # what the ids say, as xz gets it: a tokenizer may have dropped characters
    bits = {"pretrained": totals["nats"] / math.log(2) / size}
    if training is not None:
        bits |= {"unigram": totals["unigram"] / math.log(2) / size, "xz": xz_bits(training, held_out)}
    return {"bits per byte": bits, **table}


def _token_counts(method: TextMethod, training: Windows) -> np.ndarray:
    """How often each token occurs in training, and once more."""
    counts = np.ones(method.network.vocabulary)
    for start in range(training.start, training.stop, 1 << 20):
        counts += np.bincount(training.file.ids(start, min(start + (1 << 20), training.stop)), minlength=len(counts))
    if method.sentinels:  # targets that no text has, counted in examples
        for batch in itertools.islice(_batches(method, training), EXAMPLES):
            targets = batch.targets.numpy().ravel()
            counts += np.bincount(targets[np.isin(targets, method.tokenizer.sentinels)], minlength=len(counts))
    return counts


def _batches(method: TextMethod, windows: Windows) -> Iterator[TokenBatch]:
    with progress_bar(windows.name) as show:
        for first in range(0, len(windows), ROWS):
            ids = np.arange(first, min(first + ROWS, len(windows)))
            yield method.examples(windows.items(ids), 0, 0, ids)
            show(int(ids[-1]) + 1, len(windows))


def _text(windows: Windows) -> bytes:
    """The text of windows, as the tokenizer restores it."""
    return "\n".join(windows.file.texts(windows.start, windows.stop)).encode()


def xz_bits(training: Windows, held_out: Windows) -> float:
    """Bits per byte that xz needs for the held-out text after the training text."""
    before, after = _text(training), _text(held_out)
    filters = [
        {"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": max(1 << 20, min(len(before) + len(after), 1 << 28))}
    ]
    sizes = [len(lzma.compress(text, filters=filters)) for text in (before, before + b"\n" + after)]
    return 8 * (sizes[1] - sizes[0]) / len(after)


__all__ = ["evaluate_language", "xz_bits"]
