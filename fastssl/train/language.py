"""What a run of a language method begins with: a token file of the corpus, a network that fits its vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from fastssl.data import Corpus, Source, TokenFile, Tokenizer, load_tokenizer, tokenize_corpus, train_tokenizer
from fastssl.data.tokenizer import KINDS
from fastssl.data.tokens import FEW
from fastssl.methods import Method, TextMethod, get
from fastssl.models import build_language

HELD_OUT = 0.05  # share of the corpus, its end, that a run by name does not train on
FILE = "corpus.tok"


def open_tokens(
    source: Source,
    out: Path,
    kind: type[Method],
    tokenizer: str | None = None,
    vocabulary: int | None = None,
    *,
    held_out: float = HELD_OUT,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> TokenFile:
    """The tokens of a corpus, in ``out``: written unless they are there already. A token file is returned as it is.

    Args:
        source: a corpus or a token file.
        out: folder of the run.
        kind: the method, whose default kind of tokenizer is trained.
        tokenizer: a kind to train, or a path or name of :func:`fastssl.data.load_tokenizer`.
        vocabulary: size of a tokenizer to train.
        held_out: share of the documents, at the end, that a tokenizer is not trained on.
        resume: use the tokenizer of the run in ``out``.
        progress: called with the number of documents done, and of all.

    Raises:
        TypeError: neither a corpus nor a token file.
        ValueError: a tokenizer for a token file, which has its own.
    """
    assert issubclass(kind, TextMethod)
    if isinstance(source, TokenFile):
        if tokenizer is not None:
            raise ValueError(f"tokenizer: {source.path} was written with its own; tokenize the corpus again")
        return source
    if not isinstance(source, Corpus):
        raise TypeError(f"data: expected a corpus or a token file, got {source!r}; texts in a folder: text:FOLDER")
    chosen = tokenizer or kind.tokenizer_kind
    made: Tokenizer
    if resume and (out / "checkpoint").exists():
        made = load_tokenizer(out)
    elif chosen in KINDS:
        made = train_tokenizer(_training_texts(source, held_out), chosen, 8000 if vocabulary is None else vocabulary)
    else:
        made = load_tokenizer(chosen)
    path = out / FILE
    if path.exists():
        there = TokenFile(path)
        if there.corpus == source.fingerprint and there.tokenizer.fingerprint == made.fingerprint:
            return there
    return tokenize_corpus(source, made, path, progress)


def _training_texts(corpus: Corpus, held_out: float) -> Iterator[str]:
    count = len(corpus) if len(corpus) <= FEW else max(1, round(len(corpus) * (1 - held_out)))
    for index in range(count):
        yield from corpus.document(index)


def network_options(kind: type[Method], options: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """The options of :func:`fastssl.models.build_language` for a method and its tokenizer."""
    assert issubclass(kind, TextMethod)
    name = options.get("name") or kind.networks[0]
    filled: dict[str, Any] = {
        **options,
        "name": name,
        "vocabulary": tokenizer.size + kind.extra,
        "pad": tokenizer.pad,
        "start": tokenizer.cls,
        "end": tokenizer.sep,
    }
    if name == "transformer":
        filled["causal"] = kind.whole == "stream"
    return filled


def build_text_method(
    name: str, options: dict[str, Any], tokenizer: Tokenizer, method_options: dict[str, Any], seed: int
) -> tuple[TextMethod, dict[str, Any]]:
    """A language method with weights initialised from ``seed``, and the options of its network."""
    kind: Any = get(name)
    torch.manual_seed(seed)
    network = build_language(network_options(kind, options, tokenizer))
    method: TextMethod = kind(network, tokenizer, **method_options)
    return method, network.options
