"""What a run of a language method begins with: a token file of the corpus, a network that fits its vocabulary."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl.data import Corpus, Source, TokenFile, Tokenizer, Windows, load_tokenizer, tokenize_corpus, train_tokenizer
from fastssl.data.tokenizer import KINDS, SPECIAL
from fastssl.data.tokens import FEW, check_held_out
from fastssl.methods import Method, TextMethod, Word2Vec, get, load_word_vectors
from fastssl.models import LanguageModel, WordVectors, as_language, build_language
from fastssl.models.folder import holds_run
from fastssl.train.options import detect_launcher, is_rank_zero
from fastssl.train.starting import read_language, start_language

VOCABULARY = 8000  # tokens of a tokenizer that is trained, unless another number is given
HELD_OUT = 0.05  # share of the corpus, its end, that a run by name does not train on
FILE = "corpus.tok"
_OF_ORDER = (".pooler", ".seq_relationship")  # parts of BERT's head on the order of texts
_OBJECTIVES = ("gpt", "bert", "electra", "xlnet", "bart", "t5")  # methods, of which the first takes a model as it is


def open_tokens(
    source: Source,
    out: Path,
    kind: type[Method],
    tokenizer: str | Tokenizer | None = None,
    vocabulary: int | None = None,
    *,
    held_out: float = HELD_OUT,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> TokenFile:
    """The tokens of a corpus, in ``out``: written unless they are there already, never over those of a run that is
    there. A token file is returned as it is.

    Args:
        source: a corpus or a token file.
        out: folder of the run.
        kind: the method, whose default kind of tokenizer is trained.
        tokenizer: a kind to train, a path or name of :func:`fastssl.data.load_tokenizer`, or a tokenizer.
        vocabulary: size of a tokenizer to train.
        held_out: share of the documents, at the end, that a tokenizer is not trained on.
        resume: use the tokenizer of the run in ``out``.
        progress: called with the number of documents done, and of all.

    Raises:
        TypeError: neither a corpus nor a token file.
        ValueError: ``held_out`` is no share, a tokenizer for a token file, which has its own, a corpus for several
            processes of a launcher, or another corpus or tokenizer than that of the run that is resumed.
    """
    assert issubclass(kind, TextMethod)
    check_held_out(held_out)  # before the corpus is read
    if isinstance(source, TokenFile):
        if resume:
            _check_tokenizer(out, source.tokenizer, tokenizer, vocabulary)
        elif tokenizer is not None:
            raise ValueError(f"tokenizer: {source.path} was written with its own; tokenize the corpus again")
        return source
    if not isinstance(source, Corpus):
        raise TypeError(
            f"data: expected a corpus or a token file, got {source!r}; texts in a file or folder: text:PATH, in a "
            "list: fastssl.data.Corpus(texts)"
        )
    path, taken = out / FILE, holds_run(out)
    if taken and path.exists() and TokenFile(path).corpus != source.fingerprint:  # that of a run which is replaced
        if resume:
            raise ValueError(f"data: {out} was trained on another corpus than {source.name}; resume with the same data")
        path = out / f"{path.stem}-{source.fingerprint[:8]}{path.suffix}"
    launch = detect_launcher()
    if launch is not None and launch.devices * launch.nodes > 1:
        raise ValueError(f"data: processes of {launch.by} share a token file: fastssl tokenize DATA FILE.tok")
    if not is_rank_zero() and path.exists():  # started by the first process, which has written it
        return TokenFile(path)
    chosen = kind.tokenizer_kind if tokenizer is None else tokenizer
    made: Tokenizer
    if resume and taken:
        made = load_tokenizer(out)
        _check_tokenizer(out, made, tokenizer, vocabulary)
    else:
        size = VOCABULARY if vocabulary is None else vocabulary
        made = _made(chosen, _training_texts(source, held_out), size)
    if path.exists():
        there = TokenFile(path)
        if there.corpus == source.fingerprint and there.tokenizer.fingerprint == made.fingerprint:
            return there
        if taken:
            path = out / f"{path.stem}-{made.fingerprint[:8]}{path.suffix}"
    return tokenize_corpus(source, made, path, progress)


def _check_tokenizer(out: Path, made: Tokenizer, tokenizer: str | Tokenizer | None, vocabulary: int | None) -> None:
    """Checks what is given of the tokenizer of a run that is resumed; None: nothing."""
    if tokenizer in KINDS:
        same = made.kind == tokenizer
    else:
        same = tokenizer is None or _loaded(tokenizer).fingerprint == made.fingerprint
    if not same:
        raise ValueError(f"tokenizer: {out} was trained with {made!r}, resume with it, got {tokenizer!r}")
    if vocabulary is not None and vocabulary < made.size:  # texts may have fewer tokens than were asked for
        raise ValueError(f"vocabulary: {out} was trained with {made!r}, resume with it, got {vocabulary}")


def training_span(tokens: TokenFile, held_out: float | None, state: Mapping[str, Any] | None = None) -> tuple[int, int]:
    """The tokens [start, stop) to train on.

    Args:
        tokens: the token file.
        held_out: share of the corpus, its end, that is left out; None: that of the run that is resumed, or a twentieth.
        state: state of the checkpoint of that run.
    """
    if held_out is None and state is not None:
        start, stop = state["source"]["span"]
        if stop <= tokens.total:  # else it is another file, which is an error before training
            return start, stop
    return tokens.divide(HELD_OUT if held_out is None else held_out)[0]


def _made(tokenizer: str | Tokenizer, texts: Iterable[str], size: int) -> Tokenizer:
    """A tokenizer of a kind, trained on texts, one of a path, or the one that is given."""
    if isinstance(tokenizer, str) and tokenizer in KINDS:
        return train_tokenizer(texts, tokenizer, size)
    return _loaded(tokenizer)


def _loaded(tokenizer: str | Tokenizer) -> Tokenizer:
    return tokenizer if isinstance(tokenizer, Tokenizer) else load_tokenizer(tokenizer)


def remove_other_tokens(kept: Path, out: Path) -> None:
    """Removes the token files of runs that the run in ``out``, whose file is ``kept``, has replaced."""
    if kept.parent.resolve() == out.resolve():
        for path in out.iterdir():
            if path.name != kept.name and re.fullmatch(r"corpus(-[0-9a-f]{8})?\.tok", path.name):
                path.unlink()


def _training_texts(corpus: Corpus, held_out: float) -> Iterator[str]:
    count = len(corpus) if len(corpus) <= FEW else max(1, round(len(corpus) * (1 - held_out)))
    for index in range(count):
        yield from corpus.document(index)


def network_options(kind: type[Method], options: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """The options of :func:`fastssl.models.build_language` for a method and its tokenizer."""
    assert issubclass(kind, TextMethod)
    name = options.get("name") or kind.networks[0]
    filled: dict[str, Any] = {
        **({"dropout": kind.dropout} if kind.dropout else {}),
        **options,
        "name": name,
        "vocabulary": max(kind.vocabulary(tokenizer), options.get("vocabulary", 0)),
        "pad": tokenizer.pad,
        "start": tokenizer.cls,
        "end": tokenizer.sep,
    }
    if name == "transformer":
        filled["causal"] = kind.whole == "stream"
    return filled


def check_text_method(
    name: str,
    options: dict[str, Any],
    source: Source,
    tokenizer: str | Tokenizer | None,
    method_options: dict[str, Any],
    start: LanguageModel | None = None,
) -> None:
    """Checks the options of :func:`build_text_method` before texts are tokenized: builds the method without weights,
    for a tokenizer of a few words where one is to be trained.

    Raises:
        ValueError: as :func:`build_text_method`.
    """
    kind: Any = get(name)
    if isinstance(source, TokenFile):
        known = source.tokenizer
    else:
        known = _made(kind.tokenizer_kind if tokenizer is None else tokenizer, ["A few words, as they come."], 300)
    if start is not None:
        options = _options_of(kind, options, start)
    with torch.device("meta"):
        method: TextMethod = kind(build_language(network_options(kind, options, known)), known, **method_options)
    if isinstance(source, Corpus):
        method.check_documents(len(source), source.name)


def trained_kind(kind: type[Method], tokenizer: str | Tokenizer | None = None) -> str | None:
    """The kind of the tokenizer that a run on a corpus trains; None: it takes one as it is."""
    assert issubclass(kind, TextMethod)
    chosen = kind.tokenizer_kind if tokenizer is None else tokenizer
    return chosen if isinstance(chosen, str) and chosen in KINDS and chosen != "bytes" else None


def asked_vocabulary(
    source: Source,
    kind: type[Method],
    tokenizer: str | Tokenizer | None,
    vocabulary: int | None,
    state: Mapping[str, Any] | None,
) -> int | None:
    """The vocabulary that a run asks of the tokenizer that is trained for it; of one that is resumed, as its ``state``
    has it; None: none is trained."""
    if state is not None:
        return state.get("vocabulary")
    trained = isinstance(source, Corpus) and trained_kind(kind, tokenizer) is not None
    return (VOCABULARY if vocabulary is None else vocabulary) if trained else None


def build_text_method(
    name: str,
    options: dict[str, Any],
    tokenizer: Tokenizer,
    method_options: dict[str, Any],
    seed: int,
    start: LanguageModel | None = None,
) -> tuple[TextMethod, dict[str, Any]]:
    """A language method with weights initialised from ``seed``, or those of a network to start from, whose sizes it
    then has; and the options of its network.

    Raises:
        ValueError: a network that is none of the method's, or sizes other than those of ``start``.
    """
    kind: Any = get(name)
    torch.manual_seed(seed)
    if start is not None:
        options = _options_of(kind, options, start)
    network = build_language(network_options(kind, options, tokenizer))
    if start is not None:
        start_language(network, start)
    method: TextMethod = kind(network, tokenizer, **method_options)
    return method, network.options


def method_of_model(name: str, length: int | None = None, head: bool = True) -> TextMethod:
    """The language method with the objective of a model of transformers, in evaluation mode.

    Args:
        name: "huggingface:PATH", as of :func:`fastssl.train.load_language`.
        length: as there; None: at most the window of sliding attention.
        head: whether what it predicts is of interest, not its states alone.

    Raises:
        ValueError: with ``head``, a model without its head, or a tokenizer without a token of the objective.
    """
    network, tokenizer = read_language(name, length)
    drawn, added = network.drawn, network.added
    if length is None and (network.window or network.length) < network.length:
        network = as_language(network.network, tokenizer, network.window)
    own = next(own for own in _OBJECTIVES if network.kind in get(own).networks)  # type: ignore[attr-defined]
    options = {"order": None} if own == "bert" else {}
    if head:
        _check_predictions(name, own, [part for part in drawn if not part.endswith(_OF_ORDER)], tokenizer)
    method = build_text_method(own, {}, tokenizer, options, 0, network)[0].eval()
    if method.network.vocabulary == network.vocabulary:  # else there are sentinels behind them, which are predicted
        method.network.added = added
    return method


def _check_predictions(name: str, method: str, drawn: list[str], tokenizer: Tokenizer) -> None:
    """Checks that a model predicts what it has been trained to.

    Raises:
        ValueError: its head was drawn at random, or an end of texts or a mask is new to it.
    """
    without = "embed and evaluate --protocol finetune take it as it is"
    if drawn:
        raise ValueError(
            f"checkpoint: {name} was saved without its head ({', '.join(drawn)}), from which tokens are predicted; "
            f"{without}, and pretrain {method} --init {name} trains one"
        )
    for token, what in (("sep", "an end of texts"), *([("mask", "a mask")] if method == "bert" else [])):
        if SPECIAL[token][0] in tokenizer.added:
            raise ValueError(
                f"checkpoint: expected {what} in the tokenizer of {name} ({', '.join(SPECIAL[token])}), which it is "
                f"scored with, got none; {without}"
            )


def _options_of(kind: type[TextMethod], options: dict[str, Any], start: LanguageModel) -> dict[str, Any]:
    """The options of a network to start from, with the method's dropout; those given must be the same."""
    if start.kind not in kind.networks:
        known = ", ".join(kind.networks)
        raise ValueError(f"init: {kind.__name__} expects a network of {known}, got one of {start.kind!r}")
    for key, value in options.items():
        if value is not None and value != start.options.get(key, value):
            raise ValueError(f"{key}: expected that of the network to start from, {start.options[key]}, got {value}")
    return {**start.options, **({"dropout": kind.dropout} if kind.dropout else {})}


def start_embeddings(
    network: LanguageModel, tokenizer: Tokenizer, init: str, windows: Windows | None = None, seed: int = 0
) -> int:
    """Starts the embeddings of tokens from word vectors, scaled to the deviation they had, and returns their number.

    Args:
        network: the network; the width of its embeddings is the dimension of the vectors.
        tokenizer: the tokenizer of its tokens.
        init: "word2vec": skip-gram vectors of the tokens of ``windows`` (five epochs); "word2vec:PATH": those of a run
            of word2vec or of a file. A token that is no word takes the mean of the words that it is part of, by their
            counts.
        windows: tokens to train vectors on, for "word2vec".
        seed: seed of the vectors that are trained.

    Raises:
        ValueError: an unknown ``init``, vectors of other dimensions, or of none of the tokens.
    """
    kind, _, where = init.partition(":")
    if kind != "word2vec" or (not where and windows is None):
        raise ValueError(f"init: expected 'word2vec' or 'word2vec:RUN', got {init!r}")
    names, table = [tokenizer.text_of(token) for token in range(tokenizer.size)], network.embeddings().weight
    pieces: list[np.ndarray] = []  # tokens of each word
    if where:
        vectors = load_word_vectors(where)
        pieces, names = tokenizer.encode(vectors.words), [name.removeprefix("##").lstrip("Ġ▁") for name in names]
    else:
        assert windows is not None
        vectors = Word2Vec(table.shape[1], min_count=1, seed=seed).fit(_Pieces(windows, names))
    if vectors.vectors.shape[1] != table.shape[1]:
        raise ValueError(f"init: expected vectors of {table.shape[1]} dimensions, got {vectors.vectors.shape[1]}")
    start, known = _of_tokens(vectors, names, pieces)
    if not bool(known.any()):
        raise ValueError(f"init: none of the {tokenizer.size:,} tokens is a word of {where}")
    start = start[known]
    with torch.no_grad():
        table[known] = (start * (table.std() / start.std())).to(table)
    return int(known.sum())


def _of_tokens(vectors: WordVectors, names: list[str], pieces: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """The vectors [V, D] of tokens with these names, and which are known: a word's own where the token is that word,
    else the mean of the words with the token among their ``pieces``, weighted by their counts."""
    counts = np.ones(len(vectors)) if vectors.counts is None else vectors.counts
    alone = {int(ids[0]): word for word, ids in reversed(list(enumerate(pieces))) if len(ids) == 1}
    alone |= {token: vectors.index[name] for token, name in enumerate(names) if name in vectors}
    pieces = pieces if alone else []  # of vectors of another language parts say nothing
    words = np.repeat(np.arange(len(pieces)), [len(ids) for ids in pieces])
    tokens = np.concatenate([np.zeros(0), *pieces]).astype(np.int64)
    part = ~np.isin(tokens, list(alone))
    at, weights = torch.from_numpy(tokens[part]), torch.from_numpy(counts[words[part]].astype(np.float64))
    total = torch.zeros(len(names), dtype=torch.float64).index_add_(0, at, weights)
    values = vectors.vectors[torch.from_numpy(words[part])].double() * weights[:, None]
    start = torch.zeros(len(names), values.shape[1], dtype=torch.float64).index_add_(0, at, values)
    start /= total.clamp(min=1e-30)[:, None]
    for token, word in alone.items():
        start[token], total[token] = vectors.vectors[word].double(), 1.0
    return start, total > 0


class _Pieces:
    """The names of the tokens of every window."""

    def __init__(self, windows: Windows, names: list[str]) -> None:
        self.windows, self.names = windows, np.array(names, dtype=object)

    def __iter__(self) -> Iterator[list[str]]:
        file = self.windows.file
        for start in range(self.windows.start, self.windows.stop, 1 << 10):
            yield self.names[file.ids(start, min(start + (1 << 10), self.windows.stop))].tolist()
