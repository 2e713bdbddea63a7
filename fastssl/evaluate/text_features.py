"""``embed_texts``: writes the features of texts to a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastssl.data import Corpus
from fastssl.data import open as open_source
from fastssl.data.corruption import Ragged
from fastssl.data.embedded_text import FIRST_OF_PAIRS, ParallelCorpus
from fastssl.evaluate.feature_files import about_features, check_format, encoder_digest, write_features
from fastssl.evaluate.finetune_text import count_empty, encode_texts
from fastssl.methods import TextMethod
from fastssl.models.modes import evaluation_mode

ROWS = 64  # texts per batch


def embed_texts(
    method: TextMethod,
    data: Any,
    out: str | Path,
    *,
    part: str = "train",
    progress: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> int:
    """Writes the mean of a network's states over the tokens of each text, [N, C], with names and labels.

    Args:
        method: a language method, on its current device. ``sim-cse`` and ``quick-thoughts`` are trained for this mean.
        data: a corpus, or what :func:`fastssl.data.open` takes for one; a document is a text, of pairs the first one.
        out: file with suffix ``.npz``, ``.safetensors`` or ``.parquet`` (extra: datasets).
        part: split, "train" or "test", of data that has both.
        progress: called with the number of finished texts and the total.
        note: called with a sentence where texts are empty, were cut to the network's length, or are the first of pairs.

    Returns:
        The number of rows.

    Raises:
        TypeError: data that is no corpus.
        ValueError: unknown suffix, or no texts.

    Example:
        >>> import tempfile
        >>> from fastssl.data import Corpus, Tokenizer
        >>> from fastssl.evaluate import embed_texts, read_features
        >>> from fastssl.methods import QuickThoughts
        >>> from fastssl.models import build_language
        >>> network = {"name": "transformer", "vocabulary": 261, "width": 16, "causal": False, "dropout": 0.1}
        >>> out = tempfile.mkdtemp() + "/features.npz"
        >>> embed_texts(QuickThoughts(build_language(network), Tokenizer()), Corpus(["A rose.", "A tulip."]), out)
        2
        >>> read_features(out).features.shape
        torch.Size([2, 16])
    """
    out = Path(out)
    check_format(out)
    source = open_source(data, part=part)
    if not isinstance(source, Corpus):
        raise TypeError(f"data: expected a corpus, got {source!r}; texts in a file or folder: text:PATH")
    if not len(source):
        raise ValueError(f"data: expected at least one text, {source.name} has none")
    if isinstance(source, ParallelCorpus):
        note(f"{source.name}: {FIRST_OF_PAIRS}")
    network, cut, empty = method.network, 0, 0
    device = next(network.parameters()).device

    def blocks() -> Iterator[np.ndarray]:
        nonlocal cut, empty
        for first in range(0, len(source), ROWS):
            texts = [source.text(index) for index in range(first, min(first + ROWS, len(source)))]
            rows, longer = encode_texts(Corpus(texts), method.tokenizer, network)
            cut += longer
            empty += count_empty(Corpus(texts))
            ragged = Ragged.of([tokens for tokens, _ in rows])
            tokens = torch.from_numpy(ragged.padded(int(ragged.lengths.max()), method.tokenizer.pad)).to(device)
            keep = tokens != method.tokenizer.pad
            states = network.states(tokens, keep, torch.zeros_like(tokens)).float()
            weights = keep.float()[:, :, None]
            yield ((states * weights).sum(1) / weights.sum(1)).cpu().numpy()
            if progress is not None:
                progress(first + len(texts), len(source))

    names = (source.name_of(index) for index in range(len(source)))
    about = about_features(source, part, encoder_digest(network))
    labels = None if source.labels is None else np.asarray(source.labels)
    with evaluation_mode(method), torch.no_grad():
        write_features(out, blocks(), len(source), network.dim, list(names), labels, about)
    if empty:
        note(f"{source.name}: {empty:,} of {len(source):,} texts are empty; their rows say nothing")
    if cut:
        note(f"{source.name}: {cut:,} of {len(source):,} texts are longer than the network, and were cut")
    return len(source)
