"""Tokenizers: bytes without an extra; WordPiece, byte-level BPE and unigram through ``tokenizers`` (extra: text)."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from fastssl._options import integer
from fastssl._words import amount
from fastssl.data.source import Source, check_strings, digest, several_texts

KINDS = ("wordpiece", "bpe", "unigram", "bytes")
FILE = "tokenizer.json"
# Names of the special tokens: ours, then those of other tokenizers. Gemma's, which know "<s>" as a tag of HTML, stand
# before it.
SPECIAL = {
    "pad": ("[PAD]", "<pad>", "<|padding|>", "<|pad|>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<bos>", "<s>", "<|begin_of_text|>", "<|endoftext|>"),
    "sep": ("[SEP]", "<eos>", "</s>", "<|end_of_text|>", "<|endoftext|>"),
    "mask": ("[MASK]", "<mask>"),
}

SENTINELS = 100  # of T5, "<extra_id_0>" and so on


class Tokenizer:
    """Maps texts to token ids and back. Base class: bytes, each preceded by the five special tokens of BERT.

    Attributes:
        kind: "bytes", "wordpiece", "bpe" or "unigram".
        size: size of the vocabulary, special tokens included.
        pad, unk, cls, sep, mask: ids of the special tokens; ``sep`` also ends a document.
        begin: id of the token that opens a document which is continued: the one that the tokenizer puts before a text
            by itself (<s> of Llama's, <bos> of Gemma's), or else ``sep``.
        ordinary: ids of the other tokens, ascending.
        added: names of the special tokens that the file of the tokenizer lacks.
        sentinels: ids of T5's <extra_id_0>, <extra_id_1>, ...: those of the vocabulary, or else 100 behind it, which a
            network has to know besides; the first is the last, as T5 has them.

    A text is encoded as if a space preceded it, so that the tokens of sentences may be concatenated.

    Raises:
        ValueError: from ``continues``: a vocabulary that does not say where words start.

    Example:
        >>> from fastssl.data import Tokenizer
        >>> tokenizer = Tokenizer()
        >>> ids = tokenizer.encode(["ab"])[0]
        >>> ids.tolist(), tokenizer.decode(ids)
        ([37, 102, 103], 'ab')
    """

    kind = "bytes"
    added: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.pad, self.unk, self.cls, self.sep, self.mask = range(5)
        self.begin, self.size = self.sep, 5 + 256
        self.ordinary = np.arange(5, self.size)
        self.sentinels = _behind(self.size)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, int64 [T], without special tokens.

        Raises:
            TypeError: ``texts`` is one string, or one of them is none.
            ValueError: a half of a pair of UTF-16, as JSON and arguments of commands may have.
        """
        return self._ids(_checked(texts))

    def _ids(self, texts: list[str]) -> list[np.ndarray]:
        return [np.frombuffer(f" {text}".encode(), np.uint8).astype(np.int64) + 5 for text in texts]

    def decode(self, ids: Any) -> str:
        """The text of ids; special tokens are left out, bytes that are no UTF-8 are replaced."""
        ids = np.asarray(ids, dtype=np.int64)
        return (ids[ids >= 5] - 5).astype(np.uint8).tobytes().decode(errors="replace").strip()

    def text_of(self, token: int) -> str:
        """The name of one token, as in reports."""
        return list(SPECIAL.values())[token][0] if token < 5 else bytes([token - 5]).decode("latin-1")

    def continues(self) -> np.ndarray:
        """bool [size], whether a token continues the word of the token before it.

        Raises:
            ValueError: the vocabulary does not say so ("bytes").
        """
        raise ValueError(f"whole_words: expected a tokenizer of words and their pieces, got {self.kind!r}")

    def to_json(self) -> str:
        """The content of ``tokenizer.json``."""
        return json.dumps({"fastssl": "bytes"})

    @property
    def fingerprint(self) -> str:
        """A hash that changes with the vocabulary."""
        return digest(self.to_json())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.kind!r}, {amount(self.size, 'token')})"


class TrainedTokenizer(Tokenizer):
    """A tokenizer of the library ``tokenizers``; special tokens that it lacks are added at the end."""

    def __init__(self, content: str) -> None:
        library = _library()
        try:
            self.model = library.Tokenizer.from_str(content)
        except Exception as error:  # the library raises Exception
            raise ValueError(f"tokenizer: cannot be read as a tokenizer.json ({error})") from error
        self.model.no_truncation()  # which many published files ask for: texts would lose their ends
        self.model.no_padding()
        _put_space_before(self.model)
        for name, known in SPECIAL.items():
            found = next((token for token in known if self.model.token_to_id(token) is not None), None)
            if found is None:
                found = known[0]
                self.added += (found,)
                self.model.add_special_tokens([library.AddedToken(found, special=True)])
            setattr(self, name, self.model.token_to_id(found))
        self.model.encode_special_tokens = True  # "[MASK]" in a text is text
        alone, opened = (self.model.encode("a", add_special_tokens=add).ids for add in (False, True))
        self.begin = self.sep if opened[:1] == alone[:1] else opened[0]
        self.size = self.model.get_vocab_size(with_added_tokens=True)
        added = self.model.get_added_tokens_decoder()
        special = [k for k, token in added.items() if token.special]
        own = (self.model.token_to_id(f"<extra_id_{k}>") for k in range(SENTINELS))
        sentinels = list(itertools.takewhile(lambda token: token is not None, own))
        self.sentinels = np.array(sentinels) if sentinels else _behind(self.size)
        self.ordinary = np.setdiff1d(np.arange(self.size), [*special, *sentinels])
        kind = type(self.model.model).__name__.lower()
        self.kind = kind

    def _ids(self, texts: list[str]) -> list[np.ndarray]:
        made = self.model.encode_batch_fast([str(text) for text in texts], add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in made]

    def decode(self, ids: Any) -> str:
        ids = [int(k) for k in np.asarray(ids, dtype=np.int64)]
        return str(self.model.decode(ids, skip_special_tokens=True)).strip()

    def text_of(self, token: int) -> str:
        return str(self.model.id_to_token(int(token)))

    def continues(self) -> np.ndarray:
        names = [self.model.id_to_token(k) or "" for k in range(self.size)]
        starts = {"wordpiece": lambda t: not t.startswith("##"), "bpe": lambda t: t[:1] == "Ġ"}
        begins = starts.get(self.kind, lambda t: t[:1] == "▁")
        result = np.array([not begins(name) for name in names])
        result[[self.pad, self.unk, self.cls, self.sep, self.mask]] = False
        return result

    def to_json(self) -> str:
        return str(self.model.to_str())

    def __getstate__(self) -> str:
        return self.to_json()

    def __setstate__(self, content: str) -> None:
        self.__init__(content)  # type: ignore[misc]


def _checked(texts: Sequence[str]) -> list[str]:
    given = list(several_texts(texts))
    check_strings(given)
    for k, text in enumerate(given):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            wrong = f"{text[error.start]!r} is half of a pair of UTF-16 or a byte that is no UTF-8"
            raise ValueError(f"texts: expected characters, in text {k} {wrong}") from error
    return given


def _behind(size: int) -> np.ndarray:
    return size + np.arange(SENTINELS)[::-1]


def _put_space_before(model: Any) -> None:
    """Lets a tokenizer that tells the first word of a text from others (GPT-2's, BART's, Qwen's) encode every text as
    if a space preceded it: sentences that are joined, and words that have tags, would have none between them."""

    def ids(text: str) -> list[int]:
        found: list[int] = model.encode(text, add_special_tokens=False).ids
        return found

    if ids("a a") == ids("a") * 2 or ids("a a") != ids("a") + ids(" a"):
        return
    split = model.pre_tokenizer
    if hasattr(split, "add_prefix_space"):  # of bytes
        split.add_prefix_space = True
        model.pre_tokenizer = split
        return
    from tokenizers import normalizers

    space = normalizers.Prepend(" ")
    model.normalizer = space if model.normalizer is None else normalizers.Sequence([model.normalizer, space])


def _texts_of(texts: Iterable[str] | Source) -> Iterator[str]:
    if isinstance(texts, Source):
        return (texts.read(i).text or "" for i in range(len(texts)))
    return iter(texts)


# Runs of characters without a space that are cut for the training of a tokenizer, whose time grows with their square.
_LONG = re.compile(r"\S{1000}")
_APART = 1e-4  # between the scores of characters that are no pieces of a unigram model


def train_tokenizer(texts: Iterable[str] | Source, kind: str = "bpe", vocabulary: int = 8000) -> Tokenizer:
    """Trains a tokenizer.

    The same texts give the same tokenizer; the scores of "unigram" have four decimals.

    Args:
        texts: sentences or documents, consumed once; or a source of texts, such as a :class:`Corpus`.
        kind: "wordpiece" (BERT's: lower case, without accents), "bpe" (GPT-2's, of bytes: any text is restored
            exactly), "unigram" (T5's), or "bytes", which needs neither training nor the extra.
        vocabulary: tokens, special ones included; a small corpus may yield fewer.

    Raises:
        ImportError: without the extra ``text``.
        TypeError: ``texts`` is one string.
        ValueError: unknown kind, a vocabulary that is too small, or no text.

    Example:
        >>> from fastssl.data import train_tokenizer
        >>> train_tokenizer(["a rose is a rose"], "bytes").size
        261
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    several_texts(texts)
    if kind == "bytes":
        return Tokenizer()
    least = 5 + 256 if kind == "bpe" else 5 + 1
    vocabulary = integer("vocabulary", vocabulary, least, also=f" for {kind!r}")
    library = _library()
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    special = [names[0] for names in SPECIAL.values()]
    common: dict[str, Any] = {"vocab_size": vocabulary, "special_tokens": special, "show_progress": False}
    if kind == "wordpiece":
        model = library.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        model.normalizer = normalizers.BertNormalizer(lowercase=True)
        model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        model.decoder = decoders.WordPiece()
        texts = texts if isinstance(texts, Source) else list(texts)
        parts = _letters_within_words(texts, model)
        trainer: Any = trainers.WordPieceTrainer(**{**common, "special_tokens": [*special, *parts]})
    elif kind == "bpe":
        model = library.Tokenizer(models.BPE())
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        model.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(**common, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    else:
        model = library.Tokenizer(models.Unigram())
        model.pre_tokenizer = pre_tokenizers.Metaspace()
        model.decoder = decoders.Metaspace()
        # Its pieces may be any text: the other special tokens come after them, where no text reaches them.
        pieces = {**common, "special_tokens": ["[UNK]"], "vocab_size": vocabulary - 4}
        trainer = trainers.UnigramTrainer(**pieces, unk_token="[UNK]")
    seen = False

    def checked() -> Iterator[str]:
        nonlocal seen
        for text in _texts_of(texts):
            seen = seen or bool(text.strip())
            yield _LONG.sub(r"\g<0> ", text)

    try:
        model.train_from_iterator(checked(), trainer)
    except Exception as error:  # the library raises Exception
        if "vocabulary is not large enough" not in str(error).lower():
            raise
        raise ValueError(f"vocabulary: {vocabulary:,} tokens are too few for the characters of these texts") from error
    if not seen:
        raise ValueError("texts: expected at least one text, all are empty")
    content = json.loads(model.to_str())
    if kind == "unigram":
        content["model"]["vocab"] = _in_one_order(content["model"]["vocab"])
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in special]
    return TrainedTokenizer(json.dumps(content, ensure_ascii=False))


def _in_one_order(pieces: list[list[Any]]) -> list[list[Any]]:
    """The pieces of a unigram model with scores, the unknown one and then from the likeliest on, as they are in every
    training: the library sums scores in a random order, and ranks in one the characters that are no pieces, 0.0001
    apart from the least score on."""
    unknown, *others = pieces
    characters = [piece for piece, _ in others if len(piece) == 1]
    last = min(score for _, score in others) + _APART * len(characters)
    ranked = [(piece, score) for piece, score in others if len(piece) == 1 and score <= last]
    scores = dict(zip(sorted(piece for piece, _ in ranked), sorted((score for _, score in ranked), reverse=True)))
    found = [[piece, round(scores.get(piece, score), 4)] for piece, score in others]
    return [unknown, *sorted(found, key=lambda pair: (-pair[1], pair[0]))]


def _letters_within_words(texts: Iterable[str] | Source, model: Any) -> list[str]:
    """The tokens "##a" of letters within words, in order: the library would number them by chance, and its merges of
    equal counts with them."""
    from tokenizers import trainers

    words: set[str] = set()
    for text in _texts_of(texts):
        words.update(text.split())
    model.train_from_iterator(
        (_LONG.sub(r"\g<0> ", word) for word in words), trainers.WordPieceTrainer(vocab_size=0, show_progress=False)
    )
    return sorted(name for name in model.get_vocab() if name.startswith("##") and len(name) == 3)


def tokenizer_of(content: str) -> Tokenizer:
    """The tokenizer of the content of a ``tokenizer.json``."""
    try:
        if json.loads(content).get("fastssl") == "bytes":
            return Tokenizer()
    except (ValueError, AttributeError) as error:
        raise ValueError(f"tokenizer: cannot be read as a {FILE} ({error})") from error
    return TrainedTokenizer(content)


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError("tokenizer: needs the extra: pip install fastssl[text]; 'bytes' needs none") from error
    return tokenizers
